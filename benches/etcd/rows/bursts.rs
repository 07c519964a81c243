//! Bursts and mixtures: how one kind of work affects another.

use super::throughput::burst;
use super::{child, each, filled};
use crate::Bench;
use crate::clock::Summary;
use crate::load::{self, Observer, Zipf};
use crate::report::Row;
use crate::server::Running;
use crate::spec::{Lock, Options, Side, Work};
use std::time::Duration;
use tokio::time::{Instant, sleep};

const RATE: u64 = 500;
const SECONDS: u64 = 6;

pub async fn rows(bench: &Bench) -> Vec<Row> {
    let mut rows = Vec::new();
    rows.extend(at_once(bench).await);
    rows.extend(slow_among_quick(bench).await);
    rows.extend(skewed(bench).await);
    rows.extend(switch(bench).await);
    rows.extend(contended(bench).await);
    rows
}

/// The p50 and p99 of the engine beside the floor.
fn beside(bench: &Bench, name: &str, ours: &[Summary], floor: &[Summary]) -> Vec<Row> {
    type Figure = fn(&Summary) -> f64;
    let figures: [(&str, Figure); 2] = [("p50", |s| s.p50), ("p99", |s| s.p99)];
    let row = |(percentile, figure): (&str, Figure)| {
        let name = format!("bursts: {percentile} {name}");
        Row::new(name, "µs", bench.server.label(), &each(ours, figure)).floor(&each(floor, figure))
    };
    figures.into_iter().map(row).collect()
}

/// 50,000 instances become true at once.
async fn at_once(bench: &Bench) -> Vec<Row> {
    let mut rows = Vec::new();
    for (lock, shown) in [(Lock::Own, "locked"), (Lock::None, "optimistic")] {
        let (mut ours, mut floor) = (Vec::new(), Vec::new());
        for _ in 0..bench.rounds {
            floor.push(burst(bench, Side::Floor, lock, 50_000).await.rate);
            ours.push(burst(bench, Side::Engine, lock, 50_000).await.rate);
        }
        let name = format!("bursts: {shown}, 50,000 at once");
        rows.push(Row::new(name, "firings/s", bench.server.label(), &ours).floor(&floor));
    }
    rows
}

/// One callback in a hundred takes a second.
async fn slow_among_quick(bench: &Bench) -> Vec<Row> {
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds {
        for (slow, rounds) in [(None, &mut without), (Some(1000), &mut with)] {
            let server = bench.server.fresh().await;
            let options = Options { slow, ..Options::default() };
            let (child, _) = child(bench, &server, Side::Engine, Work::Latency(options)).await;
            sleep(Duration::from_millis(300)).await;
            let sent = load::jobs(&server.client, RATE, bench.seconds(SECONDS)).await;
            sleep(Duration::from_millis(1500)).await;
            let outcome = child.end().await;
            assert_eq!(outcome.latency.count + outcome.slowed, sent, "every change is one callback");
            assert_eq!(slow.is_some(), outcome.slowed > 0);
            rounds.push(outcome.latency);
        }
    }
    beside(bench, "of 99 % quick callbacks, 1 % take 1 s, 500/s, and without these", &with, &without)
}

/// Some keys change much more often than others, also while their callback runs.
async fn skewed(bench: &Bench) -> Vec<Row> {
    const KEYS: usize = 10_000;
    let (mut zipf, mut even) = (Vec::new(), Vec::new());
    let mut callbacks = Vec::new();
    for _ in 0..bench.rounds {
        for (exponent, rounds) in [(0.0, &mut even), (1.0, &mut zipf)] {
            let server = bench.server.fresh().await;
            let options = Options { again: true, ..Options::default() };
            let (child, _) = child(bench, &server, Side::Engine, Work::Latency(options)).await;
            sleep(Duration::from_millis(300)).await;
            let mut keys = Zipf::new(KEYS, exponent);
            let sent = load::jobs_of(&server.client, 1000, bench.seconds(SECONDS), |_| keys.next()).await;
            // In the end every job is done with its last value.
            load::until_none(&server.client, "/jobs/", Side::Engine).await;
            let latency = child.end().await.latency;
            if exponent > 0.0 {
                callbacks.push(latency.count as f64 / sent as f64);
            }
            rounds.push(latency);
        }
    }
    let mut rows = beside(bench, "of changes seen, 1,000/s, Zipf keys and even ones", &zipf, &even);
    let name = "bursts: callbacks a change, 1,000/s, Zipf keys";
    rows.push(Row::new(name, "callbacks", bench.server.label(), &callbacks));
    rows
}

/// A switch that a million instances of another rule read is turned every second.
async fn switch(bench: &Bench) -> Vec<Row> {
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds {
        let server = filled(bench, 1_000_000).await;
        without.push(with_switch(bench, &server, false).await);
        with.push(with_switch(bench, &server, true).await);
    }
    beside(
        bench,
        "of a rule while the switch of 1M other instances flips, 500/s, and without",
        &with,
        &without,
    )
}

async fn with_switch(bench: &Bench, server: &Running, flips: bool) -> Summary {
    let options = Options { items: true, ..Options::default() };
    let (child, _) = child(bench, server, Side::Engine, Work::Latency(options)).await;
    sleep(Duration::from_millis(500)).await;
    let flipping = async {
        let mut kv = server.client.kv_client();
        for second in 0..bench.seconds(SECONDS).as_secs() {
            if flips && second % 2 == 0 {
                kv.put("/enabled", "", None).await.expect("a put");
            } else if flips {
                kv.delete("/enabled", None).await.expect("a deletion");
            }
            sleep(Duration::from_secs(1)).await;
        }
    };
    let (sent, ()) = tokio::join!(load::jobs(&server.client, RATE, bench.seconds(SECONDS)), flipping);
    sleep(Duration::from_secs(2)).await;
    let outcome = child.end().await;
    assert_eq!(outcome.latency.count, sent, "every change is one callback");
    outcome.latency
}

/// A rule whose instances share ten locks, beside one whose instances have locks of their own.
async fn contended(bench: &Bench) -> Vec<Row> {
    let (jobs, more) = (bench.many(20_000), bench.many(5_000));
    let (mut with, mut without, mut shared) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bench.rounds {
        for contended in [false, true] {
            let server = bench.server.fresh().await;
            load::fill(&server.client, jobs, |n| (format!("/jobs/job-{n:07}"), "new".into())).await;
            let extra = if contended { more } else { 0 };
            let key = |n| (format!("/contended/group-{}/job-{n:07}", n % 10), "new".into());
            load::fill(&server.client, extra, key).await;
            let work = Work::Burst { lock: Lock::Own, jobs: jobs + extra, contended };
            let (child, _) = child(bench, &server, Side::Engine, work).await;
            let mut observer = Observer::start(&server.client).await;
            let mut others = Observer::of(&server.client, "/contended/").await;
            sleep(Duration::from_millis(200)).await;
            let begin = Instant::now();
            server.client.kv_client().put("/go", "", None).await.expect("a put");
            observer.until(jobs, Side::Engine).await;
            let rate = jobs as f64 / begin.elapsed().as_secs_f64();
            others.until(extra, Side::Engine).await;
            if contended {
                with.push(rate);
                shared.push(extra as f64 / begin.elapsed().as_secs_f64());
            } else {
                without.push(rate);
            }
            child.end().await;
        }
    }
    let label = bench.server.label();
    let name = "bursts: locked, 20,000 at once, beside 5,000 that share ten locks, and without";
    let own = Row::new(name, "firings/s", label, &with).floor(&without);
    vec![
        own,
        Row::new("bursts: locked, 5,000 that share ten locks, beside 20,000", "firings/s", label, &shared),
    ]
}
