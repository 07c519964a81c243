//! How a running crawl affects live work, and how bare reads of the same keys affect the bare client.

use super::{child, each, filled};
use crate::Bench;
use crate::clock::Summary;
use crate::load;
use crate::report::Row;
use crate::server::Running;
use crate::spec::{Options, Side, Work};
use std::time::Duration;
use tokio::time::sleep;

const RATE: u64 = 500;

/// Seconds without a crawl.
const ALONE: u64 = 8;

/// More seconds than a crawl of a million keys takes, with everything that follows it. That was 31 to 44
/// seconds when this was written.
const BESIDE: u64 = 60;

/// The interval from the end of a crawl to the next, so short that one runs nearly all the time.
const INTERVAL: u64 = 100;

#[derive(Default)]
struct Rounds {
    without: Vec<Summary>,
    during: Vec<Summary>,
}

pub async fn rows(bench: &Bench) -> Vec<Row> {
    let mut rows = Vec::new();
    for (keys, shown) in bench.many_keys() {
        let (mut bare, mut engine, mut crawls) = (Rounds::default(), Rounds::default(), Vec::new());
        for _ in 0..bench.rounds {
            let (alone, beside) = (bench.seconds(ALONE), bench.seconds(BESIDE));
            let server = filled(bench, keys).await;
            bare.without.push(once(bench, &server, Side::Floor, None, alone).await.0);
            bare.during.push(once(bench, &server, Side::Floor, Some(INTERVAL), alone).await.0);
            engine.without.push(once(bench, &server, Side::Engine, None, alone).await.0);
            let (latency, took) = once(bench, &server, Side::Engine, Some(INTERVAL), beside).await;
            engine.during.push(latency);
            crawls.extend(took);
        }
        let label = bench.server.label();
        type Figure = fn(&Summary) -> f64;
        let figures: [(&str, Figure); 2] = [("p50", |s| s.p50), ("p99", |s| s.p99)];
        for (percentile, figure) in figures {
            let row = |name: String, rounds: &Rounds| {
                Row::new(name, "µs", label, &each(&rounds.during, figure))
                    .floor(&each(&rounds.without, figure))
            };
            let ours =
                row(format!("crawl: live {percentile} during a crawl of {shown} keys and without"), &engine);
            rows.push(if keys == 1_000_000 && percentile == "p99" { ours.goal("<=1.5") } else { ours });
            let name =
                format!("crawl: bare client's {percentile} during bare reads of {shown} keys and without");
            rows.push(row(name, &bare));
        }
        rows.push(Row::new(format!("crawl: time, {shown} keys, with {RATE} changes/s"), "s", label, &crawls));
    }
    rows
}

/// Live latency, and how long crawls took meanwhile.
async fn once(
    bench: &Bench,
    server: &Running,
    side: Side,
    crawl: Option<u64>,
    length: Duration,
) -> (Summary, Vec<f64>) {
    let options = Options { crawl, items: true, ..Options::default() };
    let (child, _) = child(bench, server, side, Work::Latency(options)).await;
    sleep(Duration::from_millis(500)).await;
    let sent = load::jobs(&server.client, RATE, length).await;
    sleep(Duration::from_millis(500)).await;
    let outcome = child.end().await;
    assert_eq!(outcome.latency.count, sent, "every change is one callback");
    assert_eq!(crawl.is_some(), !outcome.crawls.is_empty(), "crawls that ended within {length:?}");
    (outcome.latency, outcome.crawls)
}
