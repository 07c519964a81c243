//! How far behind a watch is while etcd is flooded with changes.

use super::{child, each};
use crate::Bench;
use crate::clock::Summary;
use crate::load::{self, Flood};
use crate::process::cpu;
use crate::report::{Row, median};
use crate::spec::{Side, Work};
use std::time::Duration;
use tokio::time::sleep;

const SECONDS: u64 = 4;

pub async fn rows(bench: &Bench) -> Vec<Row> {
    let mut rows = Vec::new();
    let floods = [
        (Flood::Puts(64), "64 puts in flight"),
        (Flood::Puts(256), "256 puts in flight"),
        (Flood::Txns(120), "120-key transactions"),
    ];
    for (flood, shown) in floods {
        for every in [100, 1] {
            let (mut floor, mut ours) = (Vec::new(), Vec::new());
            for _ in 0..bench.rounds {
                floor.push(once(bench, Side::Floor, flood, every).await);
                ours.push(once(bench, Side::Engine, flood, every).await);
            }
            let millis = |rounds: &[Summary]| each(rounds, |summary| summary.p99 / 1e3);
            let (floor, ours) = (millis(&floor), millis(&ours));
            // The goal is 1.1 times the bare watcher's lag plus 5 ms, as a ratio.
            let goal = format!("<={:.3}", 1.1 + 5.0 / median(&floor));
            let name = format!("lag: {shown}, {} % relevant, p99", 100 / every);
            rows.push(Row::new(name, "ms", bench.server.label(), &ours).floor(&floor).goal(goal));
        }
    }
    rows.push(unrelated(bench).await);
    rows
}

/// The CPU time of changes that concern no rule, although they are watched.
async fn unrelated(bench: &Bench) -> Row {
    const CHANGES: usize = 200_000;
    let (mut floor, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds {
        floor.push(used(bench, Side::Floor, bench.many(CHANGES)).await);
        ours.push(used(bench, Side::Engine, bench.many(CHANGES)).await);
    }
    let name = "lag: CPU a change that concerns no rule, the side itself";
    Row::new(name, "µs", bench.server.label(), &ours).floor(&floor).goal("<=1.3")
}

async fn used(bench: &Bench, side: Side, changes: usize) -> f64 {
    let server = bench.server.fresh().await;
    let (child, _) = child(bench, &server, side, Work::Lag).await;
    sleep(Duration::from_millis(200)).await;
    let before = cpu(child.pid());
    load::fill(&server.client, changes, load::cold).await;
    sleep(Duration::from_secs(1)).await;
    let used = cpu(child.pid()) - before;
    child.end().await;
    used.as_secs_f64() * 1e6 / changes as f64
}

async fn once(bench: &Bench, side: Side, flood: Flood, every: usize) -> Summary {
    let server = bench.server.fresh().await;
    let (child, _) = child(bench, &server, side, Work::Lag).await;
    sleep(Duration::from_millis(200)).await;
    load::flood(&server.client, flood, every, bench.seconds(SECONDS)).await;
    // Wait for changes that are further behind. They still count.
    sleep(Duration::from_secs(1)).await;
    let outcome = child.end().await;
    assert!(outcome.latency.count > 0, "something was seen");
    outcome.latency
}
