//! Firings a second, until their effects are visible in etcd, and what each costs.

use super::{child, each};
use crate::Bench;
use crate::child::cpu;
use crate::load::{self, Observer};
use crate::report::Row;
use crate::server::Counters;
use crate::spec::{Lock, Side, Work};
use std::time::Duration;
use tokio::time::{Instant, sleep};

struct Round {
    jobs: f64,
    rate: f64,
    etcd: Counters,
    cpu: Duration,
}

pub async fn rows(bench: &Bench) -> Vec<Row> {
    let mut rows = Vec::new();
    for (lock, shown, rate_goal, writes_goal) in
        [(Lock::Own, "locked", ">=0.7", "<=2"), (Lock::None, "optimistic", ">=0.8", "<=1")]
    {
        let (mut floor, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..bench.rounds {
            floor.push(burst(bench, Side::Floor, lock, 20_000).await);
            ours.push(burst(bench, Side::Engine, lock, 20_000).await);
        }
        let row = |what: &str, unit: &str, figure: fn(&Round) -> f64| {
            let name = format!("throughput: {shown}, {what}");
            Row::new(name, unit, bench.server.label(), &each(&ours, figure))
        };
        let both = |what: &str, unit: &str, figure: fn(&Round) -> f64| {
            row(what, unit, figure).floor(&each(&floor, figure))
        };
        rows.push(both("20,000 at once", "firings/s", |r| r.rate).goal(rate_goal));
        // The effect itself is no cost of the locked engine; the optimistic one has nothing else.
        let writes: fn(&Round) -> f64 = match lock {
            Lock::None => |r| (r.etcd.puts + r.etcd.deletes) / r.jobs,
            _ => |r| (r.etcd.puts + r.etcd.deletes) / r.jobs - 1.0,
        };
        let what = match lock {
            Lock::None => "keys written a firing, its effect included",
            _ => "keys written a firing, beside its effect",
        };
        rows.push(row(what, "writes", writes).goal(writes_goal));
        rows.push(row("reads a firing", "requests", |r| r.etcd.ranges / r.jobs).goal("<=0.01"));
        rows.push(both("requests a firing", "requests", |r| r.etcd.requests / r.jobs));
        rows.push(both("raft entries a firing", "entries", |r| r.etcd.entries / r.jobs));
        rows.push(row("CPU a firing, engine", "µs", |r| r.cpu.as_secs_f64() * 1e6 / r.jobs).goal("<=40"));
        rows.push(both("CPU a firing, bare client", "µs", |r| r.cpu.as_secs_f64() * 1e6 / r.jobs));
        rows.push(both("CPU a firing, etcd", "µs", |r| r.etcd.cpu.as_secs_f64() * 1e6 / r.jobs));
    }
    rows
}

async fn burst(bench: &Bench, side: Side, lock: Lock, jobs: usize) -> Round {
    let server = bench.server.fresh().await;
    load::fill(&server.client, jobs, |n| (format!("/jobs/job-{n:07}"), "new".into())).await;
    let (child, _) = child(&server, side, Work::Burst { lock, jobs }).await;
    let mut observer = Observer::start(&server.client).await;
    sleep(Duration::from_millis(200)).await;
    let (etcd, used) = (server.counters().await, cpu(child.pid()));
    let begin = Instant::now();
    server.client.kv_client().put("/go", "", None).await.expect("a put");
    observer.until(jobs).await;
    let took = begin.elapsed();
    let (mut etcd, used) = (server.counters().await.since(&etcd), cpu(child.pid()) - used);
    // The switch is ours.
    etcd.puts -= 1.0;
    assert_eq!(observer.done(), jobs, "every firing has its effect once");
    child.end().await;
    Round { jobs: jobs as f64, rate: jobs as f64 / took.as_secs_f64(), etcd, cpu: used }
}
