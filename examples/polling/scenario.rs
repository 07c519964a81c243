//! The scenario: counters that are polled up to five and then blocked, and a switch that is turned on.
//!
//! It is the end-to-end test of go-etcd-rules, written for this crate. Every callback must run exactly as
//! often as in that test.

use etcd_rules::etcd_client::{Client, DeleteOptions, GetOptions};
use etcd_rules::{BoxError, EngineBuilder, Outcome, Rule, key};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Takes a line about what happened.
pub(crate) type Tell = Arc<dyn Fn(String) + Send + Sync>;

/// The prefix of everything that the scenario puts.
pub(crate) const ROOT: &str = "/etcd-rules-polling-example/";
/// The ids of the counters.
pub(crate) const COUNTERS: [&str; 4] = ["0", "1", "2", "3"];
/// The last value of a counter.
pub(crate) const TARGET: u32 = 5;
/// The least time between two polls of a counter.
pub(crate) const INTERVAL: Duration = Duration::from_secs(2);
/// The id of the switch.
const SWITCH: &str = "4567";
/// How long one step of a counter, or the switch, may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// What the callbacks saw.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Tally {
    /// The values that each counter had when it was polled, in order.
    pub(crate) polled: BTreeMap<String, Vec<u32>>,
    /// How often the switch was turned on.
    pub(crate) switched: u32,
}

impl Tally {
    /// What must have happened at the end.
    pub(crate) fn expected() -> Self {
        let polled = COUNTERS.map(|id| (id.to_owned(), (0..=TARGET).collect()));
        Self { polled: polled.into(), switched: 1 }
    }
}

type Shared = Arc<Mutex<Tally>>;

fn lock(tally: &Shared) -> std::sync::MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Polls a counter that exists and isn't blocked. The rule takes care of the delay key by itself.
fn count(tally: Shared, tell: Tell) -> Rule {
    Rule::new("count")
        .when(key(format!("{ROOT}counters/:id")).exists() & key(format!("{ROOT}blocked/:id")).absent())
        .poll(format!("{ROOT}polls/:id"), INTERVAL)
        .run_with((tally, tell), async |(tally, tell): (Shared, Tell), firing| -> Result<Outcome, BoxError> {
            let id = firing.attribute("id")?.to_owned();
            let counter = format!("{ROOT}counters/:id");
            let value: u32 = firing.get(&counter).await?.parse().ok_or("the counter holds no number")?;
            lock(&tally).polled.entry(id.clone()).or_default().push(value);
            let commit = firing.commit().expect_unchanged(&counter);
            Ok(if value < TARGET {
                tell(format!("counter {id}: {value} -> {}", value + 1));
                commit.put(&counter, (value + 1).to_string()).into()
            } else {
                tell(format!("counter {id}: {value}, blocked"));
                commit.put(&format!("{ROOT}blocked/:id"), "done").into()
            })
        })
}

/// Turns a switch on that is `false`.
fn switch(tally: Shared, tell: Tell) -> Rule {
    let switch = format!("{ROOT}switches/:id");
    Rule::new("switch").when(key(switch.as_str()).equals("false")).lock("/switches/:id").run_with(
        (tally, tell),
        async |(tally, tell): (Shared, Tell), firing| -> Result<Outcome, BoxError> {
            lock(&tally).switched += 1;
            tell(format!("switch {}: false -> true", firing.attribute("id")?));
            Ok(firing.commit().put(&format!("{ROOT}switches/:id"), "true").into())
        },
    )
}

async fn values(client: &Client, below: &str) -> Result<Vec<String>, BoxError> {
    let options = GetOptions::new().with_prefix();
    let found = client.kv_client().get(format!("{ROOT}{below}"), Some(options)).await?;
    Ok(found.kvs().iter().map(|kv| String::from_utf8_lossy(kv.value()).into_owned()).collect())
}

/// Waits until the values below a prefix fulfil a condition.
async fn until(
    client: &Client,
    below: &str,
    within: Duration,
    holds: impl Fn(&[String]) -> bool,
) -> Result<(), BoxError> {
    let deadline = Instant::now() + within;
    loop {
        let values = values(client, below).await?;
        if holds(&values) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(format!("{below} did not become what it should within {within:?}: {values:?}").into());
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Plays the scenario with one or several engines on the etcd to which `client` is connected, and removes
/// what it put.
pub(crate) async fn play(
    builders: Vec<EngineBuilder>,
    client: &Client,
    tell: Tell,
) -> Result<Tally, BoxError> {
    let everything = || Some(DeleteOptions::new().with_prefix());
    let mut kv = client.kv_client();
    kv.delete(ROOT, everything()).await?;
    let tally = Shared::default();
    let mut engines = Vec::new();
    for builder in builders {
        let rules = [count(tally.clone(), tell.clone()), switch(tally.clone(), tell.clone())];
        engines.push(builder.crawl_interval(Duration::from_secs(5)).rules(rules).build()?.start().await?);
    }

    for id in COUNTERS {
        kv.put(format!("{ROOT}counters/{id}"), "0", None).await?;
    }
    until(client, "blocked/", PATIENCE * TARGET, |blocked| blocked.len() == COUNTERS.len()).await?;
    // The last delays end, and nothing is polled any more. Crawls that come meanwhile must not poll either.
    until(client, "polls/", PATIENCE, |polls| polls.is_empty()).await?;
    sleep(Duration::from_secs(6)).await;

    kv.put(format!("{ROOT}switches/{SWITCH}"), "false", None).await?;
    until(client, "switches/", PATIENCE, |switches| switches == ["true"]).await?;
    for engine in engines {
        engine.shutdown(Duration::from_secs(5)).await?;
    }
    kv.delete(ROOT, everything()).await?;
    Ok(std::mem::take(&mut *lock(&tally)))
}
