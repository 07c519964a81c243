//! Firings a second, counted when their effects are visible in etcd, and the cost of each. As many as
//! possible, and at lower loads.

use super::{child, each};
use crate::Bench;
use crate::cores::CorePinning;
use crate::load::{self, Observer};
use crate::process::cpu;
use crate::report::Row;
use crate::server::Counters;
use crate::spec::{Lock, Side, Work};
use std::time::Duration;
use tokio::time::{Instant, sleep};

const LOCKS: [(Lock, &str); 2] = [(Lock::Own, "locked"), (Lock::None, "optimistic")];

/// Jobs that become due at once.
pub const AT_ONCE: usize = 20_000;

#[derive(Clone)]
pub struct Round {
    jobs: f64,
    pub rate: f64,
    etcd: Counters,
    cpu: Duration,
    lost: f64,
}

/// User and system time of its process.
const CPU: &str = "CPU a firing, the side itself";

pub type Figure = fn(&Round) -> f64;

/// Of both sides.
#[derive(Default)]
pub struct Rounds {
    pub ours: Vec<Round>,
    pub floor: Vec<Round>,
}

impl Rounds {
    fn row(&self, bench: &Bench, name: String, unit: &str, figure: Figure) -> Row {
        Row::new(name, unit, bench.server.label(), &each(&self.ours, figure))
    }

    pub fn beside_floor(&self, bench: &Bench, name: String, unit: &str, figure: Figure) -> Row {
        self.row(bench, name, unit, figure).floor(&each(&self.floor, figure))
    }

    /// What a firing costs.
    pub fn costs(&self, bench: &Bench, name: impl Fn(&str) -> String) -> Vec<Row> {
        let both: [(&str, &str, Figure); 4] = [
            ("requests a firing", "requests", |r| r.etcd.requests / r.jobs),
            ("raft entries a firing", "entries", |r| r.etcd.entries / r.jobs),
            (CPU, "µs", |r| r.cpu.as_secs_f64() * 1e6 / r.jobs),
            ("CPU a firing, etcd", "µs", |r| r.etcd.cpu.as_secs_f64() * 1e6 / r.jobs),
        ];
        let row = |(shown, unit, figure)| self.beside_floor(bench, name(shown), unit, figure);
        both.into_iter().map(row).collect()
    }
}

pub async fn rows(bench: &Bench) -> Vec<Row> {
    let mut rows = Vec::new();
    for (lock, shown) in LOCKS {
        let mut rounds = Rounds::default();
        let mut apart = Rounds::default();
        for _ in 0..bench.rounds {
            rounds.floor.push(burst(bench, Side::Floor, lock, AT_ONCE).await);
            rounds.ours.push(burst(bench, Side::Engine, lock, AT_ONCE).await);
            apart.floor.push(burst_as(bench, Side::Floor, lock, AT_ONCE, 1, true).await);
            apart.ours.push(burst_as(bench, Side::Engine, lock, AT_ONCE, 1, true).await);
        }
        let name = |what: &str| format!("throughput: {shown}, {what}");
        let current = bench.server.label().starts_with("etcd 3.6");
        let (rate_goal, writes_goal, cpu_goal) = match lock {
            Lock::None => (if current { ">=0.85" } else { ">=0.9" }, "<=1", "<=2.5"),
            Lock::Own => (">=0.9", "<=2", "<=2"),
        };
        let rate: Figure = |r| r.rate;
        rows.push(rounds.beside_floor(bench, name("20,000 at once"), "firings/s", rate).goal(rate_goal));
        let apart_name = name("20,000 at once, etcd on a core of its own");
        rows.push(apart.beside_floor(bench, apart_name, "firings/s", rate));
        // The effect itself is not counted as a cost of locked firings. Optimistic firings have nothing else.
        let (what, writes): (_, Figure) = match lock {
            Lock::None => {
                ("keys written a firing, its effect included", |r| (r.etcd.puts + r.etcd.deletes) / r.jobs)
            }
            Lock::Own => ("keys written a firing, beside its effect", |r| {
                (r.etcd.puts + r.etcd.deletes) / r.jobs - 1.0
            }),
        };
        rows.push(rounds.row(bench, name(what), "writes", writes).goal(writes_goal));
        let reads = rounds.row(bench, name("reads a firing"), "requests", |r| r.etcd.ranges / r.jobs);
        rows.push(reads.goal("<=0.01"));
        let costs = rounds.costs(bench, |shown| name(&format!("20,000 at once, {shown}")));
        let goal = |row: Row| if row.name.ends_with(CPU) { row.goal(cpu_goal) } else { row };
        rows.extend(costs.into_iter().map(goal));
        if lock == Lock::Own {
            rows.push(rounds.row(bench, name("losing attempts a firing"), "attempts", |r| r.lost / r.jobs));
        }
    }
    rows.extend(two_engines(bench).await);
    rows
}

/// Two engines, which both want every lock.
async fn two_engines(bench: &Bench) -> Vec<Row> {
    let mut rounds = Rounds::default();
    for _ in 0..bench.rounds {
        rounds.ours.push(burst_as(bench, Side::Engine, Lock::Own, AT_ONCE, 2, false).await);
    }
    let figures: [(&str, &str, Figure); 4] = [
        ("20,000 at once", "firings/s", |r| r.rate),
        ("losing attempts a firing", "attempts", |r| r.lost / r.jobs),
        ("raft entries a firing", "entries", |r| r.etcd.entries / r.jobs),
        ("keys written a firing, beside its effect", "writes", |r| {
            (r.etcd.puts + r.etcd.deletes) / r.jobs - 1.0
        }),
    ];
    let row =
        |(what, unit, figure)| rounds.row(bench, format!("throughput: two engines, {what}"), unit, figure);
    figures.into_iter().map(row).collect()
}

pub async fn burst(bench: &Bench, side: Side, lock: Lock, jobs: usize) -> Round {
    burst_as(bench, side, lock, jobs, 1, false).await
}

/// A burst for this many engines. With `apart`, etcd has a core of its own.
pub async fn burst_as(
    bench: &Bench,
    side: Side,
    lock: Lock,
    jobs: usize,
    engines: usize,
    apart: bool,
) -> Round {
    let jobs = bench.many(jobs);
    let server = bench.server.fresh().await;
    let _apart = apart.then(|| CorePinning::from(server.pid()));
    load::fill(&server.client, jobs, new_job).await;
    let mut children = Vec::new();
    for _ in 0..engines {
        children.push(child(bench, &server, side, Work::Burst { lock, jobs, contended: false }).await.0);
    }
    let mut observer = Observer::start(&server.client).await;
    sleep(Duration::from_millis(200)).await;
    let used = || children.iter().map(|child| cpu(child.pid())).sum::<Duration>();
    let (etcd, used_before) = (server.counters().await, used());
    let begin = Instant::now();
    server.client.kv_client().put("/go", "", None).await.expect("a put");
    observer.until(jobs, side).await;
    let took = begin.elapsed();
    let (mut etcd, cpu) = (server.counters().await.since(&etcd), used() - used_before);
    // The benchmark itself put the switch.
    etcd.puts -= 1.0;
    let mut lost = 0;
    for child in children {
        lost += child.end().await.lost;
    }
    assert_eq!(observer.done(), jobs, "every firing has its effect once");
    Round { jobs: jobs as f64, rate: jobs as f64 / took.as_secs_f64(), etcd, cpu, lost: lost as f64 }
}

/// At loads below saturation.
pub async fn loads(bench: &Bench) -> Vec<Row> {
    let mut rows = Vec::new();
    for (lock, shown) in LOCKS {
        for load in [1000, 2000, 4000, 8000] {
            let mut rounds = Rounds::default();
            for _ in 0..bench.rounds {
                rounds.floor.push(stream(bench, Side::Floor, lock, Some(load)).await);
                rounds.ours.push(stream(bench, Side::Engine, lock, Some(load)).await);
            }
            let name = format!("loads: {shown}, {load}/s offered");
            rows.push(rounds.beside_floor(bench, format!("{name}, done"), "firings/s", |r| r.rate));
            rows.extend(rounds.costs(bench, |shown| format!("{name}, {shown}")));
        }
    }
    rows
}

/// Job number `n`, which is to be done.
pub fn new_job(n: usize) -> (String, String) {
    (format!("/jobs/job-{n:07}"), "new".into())
}

/// Jobs that come at a given load, or else as quickly as etcd takes them.
pub async fn stream(bench: &Bench, side: Side, lock: Lock, load: Option<u64>) -> Round {
    let server = bench.server.fresh().await;
    let (child, _) = child(bench, &server, side, Work::Stream { lock }).await;
    let mut observer = Observer::start(&server.client).await;
    sleep(Duration::from_millis(200)).await;
    let (etcd, used) = (server.counters().await, cpu(child.pid()));
    let begin = Instant::now();
    let (jobs, requests) = match load {
        Some(load) => {
            let put = |n| {
                let (mut kv, (key, value)) = (server.client.kv_client(), new_job(n as usize));
                async move { kv.put(key, value, None).await.map(|_| ()) }
            };
            let jobs = load::paced(load, bench.seconds(3), put).await;
            (jobs, jobs)
        }
        None => {
            let jobs = bench.many(AT_ONCE);
            (jobs, load::fill(&server.client, jobs, new_job).await)
        }
    };
    observer.until(jobs, side).await;
    let took = begin.elapsed();
    let (mut etcd, cpu) = (server.counters().await.since(&etcd), cpu(child.pid()) - used);
    // These are the puts of the load.
    etcd.puts -= jobs as f64;
    etcd.requests -= requests as f64;
    etcd.entries -= requests as f64;
    let lost = child.end().await.lost as f64;
    assert_eq!(observer.done(), jobs, "every firing has its effect once");
    Round { jobs: jobs as f64, rate: jobs as f64 / took.as_secs_f64(), etcd, cpu, lost }
}
