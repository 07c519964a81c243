//! What a running crawl does to live work.

use super::{child, each};
use crate::Bench;
use crate::clock::Summary;
use crate::load;
use crate::report::Row;
use crate::server::Running;
use crate::spec::{Options, Side, Work};
use std::time::Duration;
use tokio::time::sleep;

const RATE: u64 = 500;
const LENGTH: Duration = Duration::from_secs(8);

pub async fn rows(bench: &Bench) -> Vec<Row> {
    let sizes: &[(usize, &str)] =
        if bench.full { &[(100_000, "100k"), (1_000_000, "1M")] } else { &[(1_000_000, "1M")] };
    let mut rows = Vec::new();
    for &(keys, shown) in sizes {
        let server = bench.server.fresh().await;
        load::fill(&server.client, keys, load::item).await;
        let (mut without, mut during, mut crawls) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..bench.rounds {
            without.push(once(&server, None).await.0);
            // So often that a crawl runs nearly all the time.
            let (latency, took) = once(&server, Some(100)).await;
            during.push(latency);
            crawls.extend(took);
        }
        let label = bench.server.label();
        type Figure = fn(&Summary) -> f64;
        let figures: [(&str, Figure); 2] = [("p50", |s| s.p50), ("p99", |s| s.p99)];
        for (percentile, figure) in figures {
            let name = format!("crawl: live {percentile} during a crawl of {shown} keys and without");
            let row = Row::new(name, "µs", label, &each(&during, figure)).floor(&each(&without, figure));
            rows.push(if keys == 1_000_000 && percentile == "p99" { row.goal("<=1.5") } else { row });
        }
        rows.push(Row::new(format!("crawl: time, {shown} keys, with {RATE} changes/s"), "s", label, &crawls));
    }
    rows
}

/// Live latency, and how long crawls took meanwhile.
async fn once(server: &Running, crawl: Option<u64>) -> (Summary, Vec<f64>) {
    let options = Options { crawl, items: true, ..Options::default() };
    let (child, _) = child(server, Side::Engine, Work::Latency(options)).await;
    sleep(Duration::from_millis(500)).await;
    let sent = load::jobs(&server.client, RATE, LENGTH).await;
    sleep(Duration::from_millis(500)).await;
    let outcome = child.end().await;
    assert_eq!(outcome.latency.count, sent, "every change is one callback");
    assert_eq!(crawl.is_some(), !outcome.crawls.is_empty(), "crawls: {:?}", outcome.crawls);
    (outcome.latency, outcome.crawls)
}
