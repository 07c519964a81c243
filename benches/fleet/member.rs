//! What the process of one engine does: it runs jobs until its standard input ends, and answers every line there with
//! what it has counted.

use crate::clock;
use crate::recorder::FleetRecorder;
use etcd_rules::{Condition, Engine, Error, Firing, Outcome, Rule, key};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::time::{Instant, sleep};

/// The work of an engine: jobs `/jobs/<n>` that are `new …` become `done`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Spec {
    pub endpoint: String,
    pub name: String,
    pub owners: bool,
    pub optimistic: bool,
    /// Jobs are due only once `/go` exists.
    pub go: bool,
    /// Milliseconds that a callback takes.
    pub callback: u64,
    pub slots: usize,
    /// Transactions that share a request, at most.
    pub batch: Option<usize>,
    /// Seconds.
    pub lock_ttl: u64,
    /// Adds a second rule over many other keys, `/items/:id`, none of which makes it true.
    pub items: bool,
    /// It is ready when it knows so many keys.
    pub keys: usize,
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            endpoint: String::new(),
            name: String::new(),
            owners: true,
            optimistic: false,
            go: false,
            callback: 0,
            slots: 512,
            batch: None,
            lock_ttl: 10,
            items: false,
            keys: 0,
        }
    }
}

/// What it reports when it is ready.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Ready {
    /// From the start of the engine.
    pub seconds: f64,
}

/// What it has counted so far.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Counts {
    pub callbacks: u64,
    /// Transactions, each by itself.
    pub nested: u64,
    /// Attempts to take a lock that failed.
    pub lost: u64,
    /// The longest time in milliseconds from the put of a job to its callback since the last answer. Only of jobs whose
    /// value tells the time of the put.
    pub slowest: f64,
}

impl Counts {
    pub fn since(self, earlier: Self) -> Self {
        Self {
            callbacks: self.callbacks - earlier.callbacks,
            nested: self.nested - earlier.nested,
            lost: self.lost - earlier.lost,
            slowest: self.slowest,
        }
    }
}

#[derive(Default)]
struct Seen {
    callbacks: AtomicU64,
    /// Nanoseconds.
    slowest: AtomicU64,
}

pub async fn run(spec: Spec) {
    let (seen, recorder) = (Arc::new(Seen::default()), FleetRecorder::default());
    recorder.install();
    let mut builder = Engine::builder("bench", [spec.endpoint.clone()])
        .name(spec.name.clone())
        .owners(spec.owners)
        .concurrency(spec.slots)
        .lock_ttl(Duration::from_secs(spec.lock_ttl))
        .rule(jobs(&spec, &seen));
    if spec.items {
        builder = builder.rule(items());
    }
    if let Some(transactions) = spec.batch {
        builder = builder.batch_size(transactions);
    }
    let engine = builder.build().expect("a correct engine");
    let begin = Instant::now();
    let engine = engine.start().await.expect("a start");
    engine.ready().await;
    let ready = Ready { seconds: begin.elapsed().as_secs_f64() };
    while engine.stats().await.expect("figures").keys < spec.keys {
        sleep(Duration::from_millis(5)).await;
    }
    println!("{}", serde_json::to_string(&ready).expect("JSON"));
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Ok(Some(_)) = lines.next_line().await {
        let counts = Counts {
            callbacks: seen.callbacks.load(Ordering::Relaxed),
            nested: recorder.nested(),
            lost: recorder.lost(),
            slowest: seen.slowest.swap(0, Ordering::Relaxed) as f64 / 1e6,
        };
        println!("{}", serde_json::to_string(&counts).expect("JSON"));
    }
    engine.shutdown(Duration::from_secs(5)).await.expect("an end in order");
}

fn jobs(spec: &Spec, seen: &Arc<Seen>) -> Rule {
    let new = key("/jobs/:id").starts_with("new");
    let condition: Condition = if spec.go { key("/go").exists() & new } else { new };
    let rule = Rule::new("job").concurrency(spec.slots).when(condition);
    let rule = if spec.optimistic { rule.optimistic() } else { rule };
    let (takes, seen) = (Duration::from_millis(spec.callback), seen.clone());
    rule.run(move |firing: Firing| {
        let now = clock::now();
        seen.callbacks.fetch_add(1, Ordering::Relaxed);
        let value =
            firing.value("/jobs/:id").ok().and_then(|value| std::str::from_utf8(value.as_bytes()).ok());
        if let Some(put) = value.and_then(|value| value.strip_prefix("new ")?.parse::<u64>().ok()) {
            seen.slowest.fetch_max(now.saturating_sub(put), Ordering::Relaxed);
        }
        async move {
            if !takes.is_zero() {
                sleep(takes).await;
            }
            Ok::<Outcome, Error>(firing.commit().put("/jobs/:id", "done").into())
        }
    })
}

fn items() -> Rule {
    Rule::new("item")
        .when(key("/items/:id").equals("active"))
        .run(|_: Firing| async { Ok::<Outcome, Error>(Outcome::done()) })
}
