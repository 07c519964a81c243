//! From a change to the start of its callback, at steady rates.

use super::{child, each};
use crate::Bench;
use crate::clock::Summary;
use crate::load;
use crate::report::Row;
use crate::spec::{Options, Side, Work};
use std::time::Duration;
use tokio::time::{Instant, sleep};

const SECONDS: u64 = 4;

pub async fn rows(bench: &Bench) -> Vec<Row> {
    let rates: &[u64] = if bench.full { &[100, 500, 2000] } else { &[500] };
    let mut rows = Vec::new();
    for &rate in rates {
        let (mut floor, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..bench.rounds {
            floor.push(once(bench, Side::Floor, rate).await);
            ours.push(once(bench, Side::Engine, rate).await);
        }
        type Figure = fn(&Summary) -> f64;
        let figures: [(&str, Figure, &str); 3] =
            [("p50", |s| s.p50, "<=1.1"), ("p99", |s| s.p99, "<=1.1"), ("p99.9", |s| s.p999, "")];
        for (shown, figure, goal) in figures {
            let name = format!("latency: change to callback, {rate}/s, {shown}");
            let row = Row::new(name, "µs", bench.server.label(), &each(&ours, figure));
            let row = row.floor(&each(&floor, figure));
            rows.push(if rate == 500 && !goal.is_empty() { row.goal(goal) } else { row });
        }
    }
    rows
}

async fn once(bench: &Bench, side: Side, rate: u64) -> Summary {
    until_done(bench, side, rate).await.0
}

/// Also returns how long after the last change its job was done.
pub async fn until_done(bench: &Bench, side: Side, rate: u64) -> (Summary, Duration) {
    let server = bench.server.fresh().await;
    let (child, _) = child(bench, &server, side, Work::Latency(Options::default())).await;
    // Warm up. This isn't timed, because the values are not times.
    load::paced(200, Duration::from_secs(1), |n| {
        let mut kv = server.client.kv_client();
        async move { kv.put(format!("/jobs/warm-{n}"), "0", None).await.map(|_| ()) }
    })
    .await;
    let sent = load::jobs(&server.client, rate, bench.seconds(SECONDS)).await;
    let begin = Instant::now();
    load::until_none(&server.client, "/jobs/", side).await;
    let rest = begin.elapsed();
    sleep(Duration::from_millis(500)).await;
    let outcome = child.end().await;
    assert_eq!(outcome.latency.count, sent, "every change is one callback");
    (outcome.latency, rest)
}
