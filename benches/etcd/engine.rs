//! The engine's side of each kind of work.

use crate::clock::{self, Summary};
use crate::recorder::BenchRecorder;
use crate::spec::{Lock, Options, Outcome as Ended, Ready, Spec, Work};
use etcd_rules::{Condition, Engine, EngineBuilder, Error, Firing, Outcome, Rule, key};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Firings at once where throughput is measured. They fill four requests of 64 transactions with locks, and
/// four with commits.
const SLOTS: usize = 512;

/// Times in nanoseconds, recorded by callbacks and comparisons.
type Times = Arc<Mutex<Vec<u64>>>;

pub async fn run<E: Future<Output = ()>>(spec: Spec, ready: fn(Ready), end: fn() -> E) -> Ended {
    let times = Times::default();
    let slowed = Arc::new(AtomicUsize::new(0));
    let noted = BenchRecorder::default();
    noted.install();
    let builder = Engine::builder("bench", [spec.endpoint]);
    let mut await_jobs = 0;
    let builder = match spec.work {
        Work::Latency(options) => latency(builder, options, &times, &slowed),
        Work::Burst { lock, jobs, contended } => {
            await_jobs = jobs;
            let go = key("/go").exists();
            let builder = if contended { builder.rule(contend(&go)) } else { builder };
            builder.concurrency(SLOTS).rule(jobs_rule(lock, Some(go)))
        }
        Work::Stream { lock } => builder.concurrency(SLOTS).rule(jobs_rule(lock, None)),
        Work::Lag => builder.rule(lag(&times)),
        Work::Ready => builder.rule(items()),
    };
    let engine = builder.build().expect("a correct engine");
    let begin = Instant::now();
    let engine = engine.start().await.expect("a start");
    engine.ready().await;
    let seconds = begin.elapsed().as_secs_f64();
    let mut keys = engine.stats().await.expect("figures").keys;
    while keys < await_jobs {
        sleep(Duration::from_millis(5)).await;
        keys = engine.stats().await.expect("figures").keys;
    }
    ready(Ready { seconds, keys });
    end().await;
    engine.shutdown(Duration::from_secs(5)).await.expect("an end in order");
    let times = std::mem::take(&mut *times.lock().expect("no panic"));
    let slowed = slowed.load(Ordering::Relaxed);
    Ended { latency: Summary::of(times), crawls: noted.crawls(), slowed, lost: noted.lost() }
}

fn latency(
    mut builder: EngineBuilder,
    options: Options,
    times: &Times,
    slowed: &Arc<AtomicUsize>,
) -> EngineBuilder {
    let (times, slowed) = (times.clone(), slowed.clone());
    let slow = options.slow.map(Duration::from_millis);
    let job = Rule::new("job").when(key("/jobs/:id").exists()).run(move |firing: Firing| {
        let now = clock::now();
        let start: Option<u64> =
            firing.value("/jobs/:id").ok().and_then(|value| value.parse()).filter(|s| *s > 0);
        let slow = slow.filter(|_| start.is_some_and(|start| start / 1000 % 100 == 0));
        if slow.is_some() {
            slowed.fetch_add(1, Ordering::Relaxed);
        } else if let Some(start) = start {
            times.lock().expect("no panic").push(now.saturating_sub(start));
        }
        async move {
            if let Some(slow) = slow {
                sleep(slow).await;
            }
            let commit = firing.commit().delete("/jobs/:id");
            let commit = if options.again { commit.expect_unchanged("/jobs/:id") } else { commit };
            Ok::<Outcome, Error>(commit.into())
        }
    });
    builder = builder.rule(job);
    if options.items {
        builder = builder.rule(items());
    }
    if let Some(interval) = options.crawl {
        builder = builder.crawl_interval(Duration::from_millis(interval));
    }
    builder
}

/// A rule over many items, none of which is `active`.
fn items() -> Rule {
    Rule::new("item")
        .when(key("/items/:id").equals("active") & key("/enabled").exists())
        .run(|_: Firing| async { Ok::<Outcome, Error>(Outcome::done()) })
}

/// Turns jobs that are `new` into `done`, if a condition holds.
fn jobs_rule(lock: Lock, go: Option<Condition>) -> Rule {
    let new = key("/jobs/:id").equals("new");
    let rule = Rule::new("job").concurrency(SLOTS).when(go.map_or(new.clone(), |go| go & new));
    let rule = if lock == Lock::None { rule.optimistic() } else { rule };
    rule.run(
        |firing: Firing| async move { Ok::<Outcome, Error>(firing.commit().put("/jobs/:id", "done").into()) },
    )
}

/// The same for other jobs, many of which share a lock.
fn contend(go: &Condition) -> Rule {
    let new = key("/contended/:group/:id").equals("new");
    Rule::new("contended").when(go.clone() & new).lock("/:group").run(|firing: Firing| async move {
        Ok::<Outcome, Error>(firing.commit().put("/contended/:group/:id", "done").into())
    })
}

/// A comparison that records the age of the change that it sees, and is never true.
fn lag(times: &Times) -> Rule {
    let times = times.clone();
    let condition = key("/load/:id/hot").compare("notes the lag", move |value| {
        let text = value.and_then(|value| std::str::from_utf8(value).ok());
        if let Some(start) = text.and_then(|text| text.parse::<u64>().ok()) {
            times.lock().expect("no panic").push(clock::now().saturating_sub(start));
        }
        false
    });
    Rule::new("lag").when(condition).run(|_: Firing| async { Ok::<Outcome, Error>(Outcome::done()) })
}
