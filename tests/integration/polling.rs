//! Polling: nothing is polled twice or forgotten, and what it costs.

use crate::support::{Etcd, assert_nothing_left, eventually};
use etcd_client::{Txn, TxnOp};
use etcd_rules::{Backoff, BoxError, Engine, EngineBuilder, Error, Firing, Outcome, Rule, key};
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);

fn engine(etcd: &Etcd) -> EngineBuilder {
    Engine::builder("test", [etcd.endpoint()])
}

/// Polls servers that are active, each at most once in two seconds.
fn poll() -> Rule {
    Rule::new("poll").when(key("/servers/:id/state").equals("active")).poll("/polls/:id", 2 * SECOND)
}

#[tokio::test(flavor = "multi_thread")]
async fn it_polls_again_and_again_and_never_before_the_interval() {
    let etcd = Etcd::start().await;
    let times = Arc::new(Mutex::new(Vec::new()));
    let log = times.clone();
    let rule = poll().run(move |firing: Firing| {
        log.lock().unwrap().push(Instant::now());
        async move { Ok::<Outcome, Error>(firing.commit().put("/servers/:id/status", "ok").into()) }
    });
    etcd.put("/servers/a/state", "active").await;
    let running = engine(&etcd).rule(rule).build().unwrap().start().await.unwrap();
    eventually(20 * SECOND, "it polled four times", async || times.lock().unwrap().len() >= 4).await;
    etcd.put("/servers/a/state", "retired").await;
    let polled = times.lock().unwrap().clone();
    // A delay begins with the commit of a poll, which comes after its callback.
    for pair in polled.windows(2) {
        assert!(pair[1] - pair[0] >= 2 * SECOND, "{:?}", pair[1] - pair[0]);
    }
    // The last callback may still be running, and its commit then begins another delay.
    let idle = async || running.stats().await.unwrap().running == 0;
    eventually(20 * SECOND, "nothing runs", idle).await;
    let ended = async || etcd.keys("/polls/").await.is_empty();
    eventually(20 * SECOND, "its delay has ended", ended).await;
    let retired = times.lock().unwrap().len();
    tokio::time::sleep(3 * SECOND).await;
    assert_eq!(times.lock().unwrap().len(), retired, "it is retired");
    assert_eq!(etcd.keys("/polls/").await, Vec::<String>::new());
    running.shutdown(5 * SECOND).await.unwrap();
    assert_nothing_left(&etcd, "/etcd-rules/", SECOND).await;
}

/// The delay and the release of the lock are one revision: between them nothing can happen.
#[tokio::test(flavor = "multi_thread")]
async fn the_delay_is_in_the_transaction_that_ends_the_firing() {
    let etcd = Etcd::start().await;
    // Nothing to commit at all.
    let rule = poll().run(|_: Firing| async { Ok::<(), Error>(()) });
    let mut client = etcd.client().await;
    let options = etcd_client::WatchOptions::new().with_prefix();
    let mut events = client.watch("/", Some(options)).await.unwrap();
    assert!(events.message().await.unwrap().unwrap().created());
    let running = engine(&etcd).rule(rule).build().unwrap().start().await.unwrap();
    etcd.put("/servers/a/state", "active").await;
    let (mut put, mut unlocked) = (None, None);
    while put.is_none() || unlocked.is_none() {
        let response = tokio::time::timeout(20 * SECOND, events.message()).await.expect("both happen");
        for event in response.unwrap().unwrap().events() {
            let kv = event.kv().unwrap();
            match (kv.key_str().unwrap(), event.event_type()) {
                ("/polls/a/ttl", etcd_client::EventType::Put) => put = Some(kv.mod_revision()),
                ("/etcd-rules/test/lock/poll/a", etcd_client::EventType::Delete) => {
                    unlocked = Some(kv.mod_revision());
                }
                _ => {}
            }
        }
    }
    assert_eq!(put, unlocked);
    running.shutdown(5 * SECOND).await.unwrap();
}

/// Several engines, one of which is dropped in the middle of its work again and again.
#[tokio::test(flavor = "multi_thread")]
async fn engines_that_come_and_go_neither_lose_nor_double_a_poll() {
    let etcd = Etcd::start().await;
    let polled: Arc<Mutex<HashMap<String, Vec<Instant>>>> = Arc::default();
    let rule = || {
        let log = polled.clone();
        poll().run(move |firing: Firing| {
            let log = log.clone();
            async move {
                tokio::time::sleep(Duration::from_millis(20)).await;
                let id = firing.attribute("id")?.to_owned();
                let outcome = firing.commit().put("/servers/:id/last", "").into();
                log.lock().unwrap().entry(id).or_default().push(Instant::now());
                Ok::<Outcome, Error>(outcome)
            }
        })
    };
    for id in 0..20 {
        etcd.put(&format!("/servers/{id}/state"), "active").await;
    }
    let start = async |name: &str| {
        let builder = engine(&etcd).name(name).rule(rule()).lock_ttl(2 * SECOND);
        builder.build().unwrap().start().await.unwrap()
    };
    let steady = start("steady").await;
    for round in 0..5 {
        let restless = start(&format!("restless-{round}")).await;
        restless.ready().await;
        tokio::time::sleep(SECOND).await;
        drop(restless);
    }
    tokio::time::sleep(6 * SECOND).await;
    steady.shutdown(5 * SECOND).await.unwrap();
    let polled = polled.lock().unwrap();
    assert_eq!(polled.len(), 20);
    for (id, times) in &*polled {
        assert!(times.len() >= 3, "{id} was polled {} times in 11 s", times.len());
        // A firing that was cut off before its commit did not poll. Another one may follow at once.
        let early =
            times.windows(2).filter(|pair| pair[1] - pair[0] < 2 * SECOND - Duration::from_millis(50));
        assert!(early.count() <= 2, "{id}: {times:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_firing_that_is_done_leaves_a_delay() {
    let etcd = Etcd::start().await;
    let log = Arc::new(Mutex::new(HashMap::<String, Vec<u32>>::new()));
    let seen = log.clone();
    let rule = poll().backoff(Backoff::new(Duration::from_millis(50), SECOND)).run(move |firing: Firing| {
        let seen = seen.clone();
        async move {
            let id = firing.attribute("id")?.to_owned();
            let run = {
                let mut seen = seen.lock().unwrap();
                let runs = seen.entry(id.clone()).or_default();
                runs.push(firing.attempt());
                runs.len()
            };
            Ok::<Outcome, BoxError>(match (id.as_str(), run) {
                ("fails", 1 | 2) => return Err("not yet".into()),
                ("later", 1 | 2) => firing.commit().put("/later", "").retry_after(Duration::from_millis(50)),
                ("gives-up", _) => Outcome::give_up("no use"),
                ("own", _) => firing.commit().put_ttl("/polls/:id/ttl", "mine", 60 * SECOND).into(),
                _ => Outcome::done(),
            })
        }
    });
    let running = engine(&etcd).rule(rule).crawl_interval(SECOND).build().unwrap().start().await.unwrap();
    for id in ["fails", "later", "gives-up", "own", "done"] {
        etcd.put(&format!("/servers/{id}/state"), "active").await;
    }
    let runs = |id: &str| log.lock().unwrap().get(id).cloned().unwrap_or_default();
    eventually(20 * SECOND, "the third one of each is done, long before the interval", async || {
        runs("fails").len() >= 3 && runs("later").len() >= 3
    })
    .await;
    eventually(20 * SECOND, "the delays are there", async || etcd.keys("/polls/").await.len() == 4).await;
    assert_eq!(etcd.get("/polls/own/ttl").await, Some("mine".into()), "the callback's own counts");
    assert_eq!((&runs("fails")[..3], &runs("later")[..3]), (&[1, 2, 3][..], &[1, 1, 1][..]));
    eventually(20 * SECOND, "they are polled again", async || {
        runs("fails").len() > 3 && runs("later").len() > 3 && runs("done").len() > 1
    })
    .await;
    assert_eq!((runs("gives-up").len(), runs("own").len()), (1, 1));
    etcd.delete("/polls/own/ttl").await;
    eventually(20 * SECOND, "without its delay it is polled at once", async || runs("own").len() == 2).await;
    etcd.put("/servers/gives-up/state", "active").await;
    eventually(20 * SECOND, "a change ends a give-up", async || runs("gives-up").len() == 2).await;
    running.shutdown(5 * SECOND).await.unwrap();
}

/// Without a lock the delay itself decides which of several engines polls.
#[tokio::test(flavor = "multi_thread")]
async fn an_optimistic_rule_polls_too() {
    let etcd = Etcd::start().await;
    let commits = Arc::new(AtomicUsize::new(0));
    let rule = || {
        let commits = commits.clone();
        poll().optimistic().run(move |_: Firing| {
            commits.fetch_add(1, Ordering::SeqCst);
            async { Ok::<(), Error>(()) }
        })
    };
    let mut client = etcd.client().await;
    let mut events = client.watch("/polls/a/ttl", None).await.unwrap();
    etcd.put("/servers/a/state", "active").await;
    let one = engine(&etcd).name("one").rule(rule()).build().unwrap().start().await.unwrap();
    let two = engine(&etcd).name("two").rule(rule()).build().unwrap().start().await.unwrap();
    let mut puts = 0;
    let deadline = Instant::now() + 9 * SECOND;
    while let Ok(response) = tokio::time::timeout_at(deadline, events.message()).await {
        let response = response.unwrap().unwrap();
        puts += response.events().iter().filter(|e| e.event_type() == etcd_client::EventType::Put).count();
    }
    one.shutdown(5 * SECOND).await.unwrap();
    two.shutdown(5 * SECOND).await.unwrap();
    let runs = commits.load(Ordering::SeqCst);
    assert!((3..=5).contains(&puts), "{puts} polls in 9 s, by {runs} runs of two engines");
    assert!(runs <= 2 * puts, "{runs} runs for {puts} polls");
}

#[test]
fn a_namespace_without_the_conditions_attributes_is_a_mistake() {
    let built = |namespace: &str, interval| {
        let condition = key("/servers/:geo/:id").exists();
        let rule = Rule::new("r").when(condition).poll(namespace, interval);
        let rule = rule.run(|_: Firing| async { Ok::<(), Error>(()) });
        let built = Engine::builder("app", ["127.0.0.1:2379"]).rule(rule).build();
        built.err().map(|error| error.to_string()).unwrap_or_default()
    };
    assert_eq!(built("/polls/:id/:geo/", SECOND), "");
    for (namespace, interval, part) in [
        ("/polls/:id", SECOND, "`/polls/:id` has the attributes :id, and the condition :geo, :id"),
        ("/polls", SECOND, "has the attributes none"),
        ("/polls/:id/:geo/:x", SECOND, "has the attributes :id, :geo, :x"),
        ("/polls//:id", SECOND, "\"/polls//:id/ttl\", byte 7"),
        ("/polls/:id/:geo", Duration::ZERO, "poll is 0ns"),
        ("/polls/:id/:geo", Duration::MAX, "at most 365 days"),
        ("/etcd-rules/:id/:geo", SECOND, "are below `/etcd-rules/`"),
    ] {
        let found = built(namespace, interval);
        assert!(found.contains(part), "{part}: not in {found}");
    }
}

/// How many leases etcd has granted.
async fn granted(etcd: &Etcd) -> f64 {
    etcd.metric("etcd_debugging_lease_granted_total ").await
}

/// Puts servers that are active, evenly in two seconds.
async fn put_servers(etcd: &Etcd, count: usize) {
    const AT_ONCE: usize = 20;
    let mut client = etcd.client().await;
    let start = Instant::now();
    for chunk in 0..count / AT_ONCE {
        let ids = chunk * AT_ONCE..(chunk + 1) * AT_ONCE;
        let puts: Vec<_> = ids.map(|id| TxnOp::put(format!("/servers/{id}/state"), "active", None)).collect();
        client.txn(Txn::new().and_then(puts)).await.unwrap();
        tokio::time::sleep_until(start + 2 * SECOND * (chunk * AT_ONCE) as u32 / count as u32).await;
    }
}

/// The largest quarter of a second of a time, in times of the mean.
fn largest_quarter(polled: &[Instant], from: Instant, quarters: usize) -> f64 {
    let mut counts = vec![0; quarters];
    for at in polled.iter().filter(|at| **at >= from) {
        if let Some(count) = counts.get_mut(((*at - from).as_millis() / 250) as usize) {
            *count += 1;
        }
    }
    println!("in quarters of a second: {counts:?}");
    let all: usize = counts.iter().sum();
    *counts.iter().max().unwrap() as f64 * quarters as f64 / all as f64
}

/// What the documentation states. Counted by etcd itself.
#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_polls_take_few_leases_and_stay_spread() {
    let etcd = Etcd::start().await;
    let polled = Arc::new(Mutex::new(Vec::new()));
    let log = polled.clone();
    let rule = poll().run(move |_: Firing| {
        log.lock().unwrap().push(Instant::now());
        async { Ok::<(), Error>(()) }
    });
    let before = granted(&etcd).await;
    let running = engine(&etcd).rule(rule).build().unwrap().start().await.unwrap();
    put_servers(&etcd, 2000).await;
    let count = async || polled.lock().unwrap().len();
    eventually(180 * SECOND, "twenty rounds", async || count().await >= 20 * 2000).await;
    let from = Instant::now();
    // A poll waits for two to three seconds, and at most half a second for etcd.
    tokio::time::sleep(4 * SECOND).await;
    running.shutdown(5 * SECOND).await.unwrap();
    let granted = granted(&etcd).await - before;
    let polled = polled.lock().unwrap().clone();
    let largest = largest_quarter(&polled, from, 14);
    println!(
        "{granted} leases for {} polls; the largest quarter is {largest:.2} times the mean",
        polled.len()
    );
    assert!(granted * 20.0 <= polled.len() as f64, "{granted} leases for {} polls", polled.len());
    assert!(largest <= 3.0, "{largest}");
}

/// TTLs of 2 to 3 s, each another.
fn some_ttl(number: usize) -> Duration {
    Duration::from_millis(2000 + number as u64 * 7919 % 1000)
}

/// Fires 5,000 times by this rule, which is given a count of its firings; each puts one key with a TTL.
async fn few_leases(servers: usize, rule: impl Fn(Arc<AtomicUsize>) -> Rule) {
    let etcd = Etcd::start().await;
    let count = Arc::new(AtomicUsize::new(0));
    let rule = rule(count.clone());
    let before = granted(&etcd).await;
    let running = engine(&etcd).rule(rule).build().unwrap().start().await.unwrap();
    put_servers(&etcd, servers).await;
    eventually(90 * SECOND, "5,000 firings", async || count.load(Ordering::SeqCst) >= 5000).await;
    running.shutdown(5 * SECOND).await.unwrap();
    let (granted, firings) = (granted(&etcd).await - before, count.load(Ordering::SeqCst) as f64);
    println!("{granted} leases for {firings} firings");
    assert!(granted * 20.0 <= firings, "{granted} leases for {firings} firings");
}

#[tokio::test(flavor = "multi_thread")]
async fn polls_with_random_ttls_share_leases() {
    few_leases(2000, |count| {
        poll().run(move |firing: Firing| {
            let ttl = some_ttl(count.fetch_add(1, Ordering::SeqCst));
            async move { Ok::<Outcome, Error>(firing.commit().put_ttl("/polls/:id/ttl", "", ttl).into()) }
        })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_no_rule_reads_share_leases_whatever_their_ttls_are() {
    few_leases(5000, |count| {
        let active = key("/servers/:id/state").equals("active");
        Rule::new("note").when(active).run(move |firing: Firing| {
            let ttl = some_ttl(count.fetch_add(1, Ordering::SeqCst));
            async move { Ok::<Outcome, Error>(firing.commit().put_ttl("/servers/:id/note", "", ttl).into()) }
        })
    })
    .await;
}

/// A lease has at most 64 polls, so that not all that began together stays together for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_polls_of_two_hundred_instances_take_a_few_leases() {
    let etcd = Etcd::start().await;
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let rule = poll().run(move |_: Firing| {
        counted.fetch_add(1, Ordering::SeqCst);
        async { Ok::<(), Error>(()) }
    });
    for id in 0..200 {
        etcd.put(&format!("/servers/{id}/state"), "active").await;
    }
    let before = granted(&etcd).await;
    let running = engine(&etcd).rule(rule).build().unwrap().start().await.unwrap();
    eventually(40 * SECOND, "a thousand polls", async || count.load(Ordering::SeqCst) >= 1000).await;
    let client = &mut etcd.client().await;
    for lease in client.leases().await.unwrap().leases() {
        let options = etcd_client::LeaseTimeToLiveOptions::new().with_keys();
        let keys = client.lease_time_to_live(lease.id(), Some(options)).await.unwrap().keys().len();
        assert!(keys <= 64, "{keys} keys on a lease");
    }
    running.shutdown(5 * SECOND).await.unwrap();
    let granted = granted(&etcd).await - before;
    let polls = count.load(Ordering::SeqCst);
    println!("{granted} leases granted for {polls} polls, one of them for the locks");
    assert!(granted * 20.0 <= polls as f64, "{granted} leases for {polls} polls");
}
