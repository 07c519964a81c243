//! The engine beside etcd's floor, on a private etcd, in one run: trigger latency and firings per second.
//!
//! `cargo bench --bench live`. The floor is the bare client doing the same operations: a watch and, for
//! each event, one transaction that takes a lock and verifies; and, for throughput, that transaction and
//! the one that commits and unlocks, 64 of each in one request, 4 requests in flight.

#[path = "../tests/support/etcd.rs"]
mod etcd;

use etcd::EtcdProcess;
use etcd_client::{Client, Compare, CompareOp, EventType, PutOptions, Txn, TxnOp, WatchOptions};
use etcd_rules::{Engine, Error, Firing, Outcome, Rule, key};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};

const ROUNDS: usize = 5;
const RATES: [u64; 3] = [100, 500, 2000];
const SECONDS: u64 = 4;
const BURST: usize = 20_000;

fn main() {
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(run());
}

async fn run() {
    println!(
        "medians of {ROUNDS} rounds, each on a fresh etcd; µs from before the put to the start of the work"
    );
    println!("{:>22} {:>9} {:>9} {:>9} {:>9}", "", "p50", "min-max", "p99", "min-max");
    for rate in RATES {
        let (mut ours, mut floor) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            floor.push(percentiles(floor_latency(rate).await));
            ours.push(percentiles(engine_latency(rate).await));
        }
        let floor = row(&format!("floor  {rate}/s"), &floor);
        let ours = row(&format!("engine {rate}/s"), &ours);
        println!("{:>22} {:>9.2} {:>19.2}", "ratio", ours.0 / floor.0, ours.1 / floor.1);
    }
    let (mut ours, mut floor) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        floor.push(floor_throughput().await);
        ours.push(engine_throughput().await);
    }
    let (floor, ours) = (median(&mut floor), median(&mut ours));
    println!("{BURST} instances that become true at once, locked, with a fenced commit:");
    println!("{:>22} {floor:>9.0} firings/s", "floor");
    println!("{:>22} {ours:>9.0} firings/s   ratio {:.2}", "engine", ours / floor);
}

fn row(name: &str, rounds: &[(f64, f64)]) -> (f64, f64) {
    let spread = |values: Vec<f64>| {
        let (min, max) = values.iter().fold((f64::MAX, 0.0f64), |(low, high), v| (low.min(*v), high.max(*v)));
        format!("{min:.0}-{max:.0}")
    };
    let (mut p50, mut p99): (Vec<f64>, Vec<f64>) = rounds.iter().copied().unzip();
    let spreads = (spread(p50.clone()), spread(p99.clone()));
    let medians = (median(&mut p50), median(&mut p99));
    println!("{name:>22} {:>9.0} {:>9} {:>9.0} {:>9}", medians.0, spreads.0, medians.1, spreads.1);
    medians
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn percentiles(mut latencies: Vec<Duration>) -> (f64, f64) {
    latencies.sort_unstable();
    let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e6;
    (at(0.5), at(0.99))
}

async fn fresh() -> (EtcdProcess, Client) {
    let etcd = EtcdProcess::options().launch().await.expect("etcd; apt-get install -y etcd-server");
    let client = Client::connect([etcd.endpoint()], None).await.expect("a connection");
    (etcd, client)
}

/// Puts `/jobs/<n>` at a rate; the value is the number, by which the start of each is found again.
async fn load(client: Client, rate: u64, starts: Arc<Mutex<Vec<Instant>>>) {
    let begin = Instant::now();
    for n in 0..rate * SECONDS {
        sleep_until(begin + Duration::from_nanos(1_000_000_000 / rate * n)).await;
        let mut kv = client.kv_client();
        starts.lock().unwrap().push(Instant::now());
        tokio::spawn(async move { kv.put(format!("/jobs/{n}"), n.to_string(), None).await.expect("put") });
    }
}

async fn engine_latency(rate: u64) -> Vec<Duration> {
    let (etcd, client) = fresh().await;
    let ends = Arc::new(Mutex::new(Vec::new()));
    let noted = ends.clone();
    let rule = Rule::new("job").when(key("/jobs/:id").exists()).run(move |firing: Firing| {
        let now = Instant::now();
        let n: usize = firing.value("/jobs/:id").and_then(|value| value.parse()).unwrap_or(0);
        noted.lock().unwrap().push((n, now));
        async move { Ok::<Outcome, Error>(firing.commit().delete("/jobs/:id").into()) }
    });
    let running =
        Engine::builder("bench", [etcd.endpoint()]).rule(rule).build().unwrap().start().await.unwrap();
    running.ready().await;
    sleep(Duration::from_millis(300)).await;
    let starts = Arc::new(Mutex::new(Vec::new()));
    load(client, rate, starts.clone()).await;
    let all = (rate * SECONDS) as usize;
    while ends.lock().unwrap().len() < all {
        sleep(Duration::from_millis(10)).await;
    }
    running.shutdown(Duration::from_secs(5)).await.unwrap();
    let starts = starts.lock().unwrap();
    ends.lock().unwrap().iter().map(|(n, end)| end.duration_since(starts[*n])).collect()
}

async fn floor_latency(rate: u64) -> Vec<Duration> {
    let (_etcd, mut client) = fresh().await;
    let lease = client.lease_grant(60, None).await.unwrap().id();
    let options = WatchOptions::new().with_prefix();
    let mut stream = client.watch("/jobs/", Some(options)).await.unwrap();
    let ends = Arc::new(Mutex::new(Vec::new()));
    let (noted, kv) = (ends.clone(), client.kv_client());
    let watching = tokio::spawn(async move {
        while let Ok(Some(response)) = stream.message().await {
            for event in response.events().iter().filter(|event| event.event_type() == EventType::Put) {
                let event = event.kv().unwrap();
                let (key, n) =
                    (event.key_str().unwrap().to_owned(), event.value_str().unwrap().parse().unwrap());
                let (mut kv, noted) = (kv.clone(), noted.clone());
                tokio::spawn(async move {
                    kv.txn(lock(&key, lease)).await.expect("lock");
                    noted.lock().unwrap().push((n, Instant::now()));
                    // The server may have been stopped meanwhile: what is measured ends with the lock.
                    let _ = kv.txn(commit(&key)).await;
                });
            }
        }
    });
    let starts = Arc::new(Mutex::new(Vec::new()));
    load(client, rate, starts.clone()).await;
    while ends.lock().unwrap().len() < (rate * SECONDS) as usize {
        sleep(Duration::from_millis(10)).await;
    }
    watching.abort();
    let starts = starts.lock().unwrap();
    let ends: Vec<(usize, Instant)> = ends.lock().unwrap().clone();
    ends.iter().map(|(n, end)| end.duration_since(starts[*n])).collect()
}

fn lock(key: &str, lease: i64) -> Txn {
    let (lock, mark) = (format!("/locks{key}"), format!("/marks{key}"));
    let absent = |key: &str| Compare::create_revision(key, CompareOp::Equal, 0);
    let exists = Compare::create_revision(key, CompareOp::Greater, 0);
    Txn::new()
        .when([absent(&lock), absent(&mark), exists])
        .and_then([TxnOp::put(lock.as_str(), "held", Some(PutOptions::new().with_lease(lease)))])
        .or_else([TxnOp::get(lock, None), TxnOp::get(mark, None), TxnOp::get(key, None)])
}

fn commit(key: &str) -> Txn {
    let lock = format!("/locks{key}");
    Txn::new()
        .when([Compare::create_revision(lock.as_str(), CompareOp::Greater, 0)])
        .and_then([TxnOp::delete(key, None), TxnOp::delete(lock.as_str(), None)])
        .or_else([TxnOp::get(lock, None)])
}

async fn fill(client: &mut Client) {
    for chunk in 0..BURST / 100 {
        let puts: Vec<TxnOp> =
            (0..100).map(|n| TxnOp::put(format!("/jobs/{}", chunk * 100 + n), "", None)).collect();
        client.txn(Txn::new().and_then(puts)).await.unwrap();
    }
}

async fn engine_throughput() -> f64 {
    let (etcd, mut client) = fresh().await;
    let done = Arc::new(AtomicUsize::new(0));
    let counted = done.clone();
    let rule = Rule::new("job").when(key("/jobs/:id").exists() & key("/go").exists()).concurrency(1024).run(
        move |firing: Firing| {
            counted.fetch_add(1, Ordering::SeqCst);
            async move { Ok::<Outcome, Error>(firing.commit().delete("/jobs/:id").into()) }
        },
    );
    let builder = Engine::builder("bench", [etcd.endpoint()]).concurrency(1024).rule(rule);
    let running = builder.build().unwrap().start().await.unwrap();
    running.ready().await;
    fill(&mut client).await;
    while running.stats().await.unwrap().keys < BURST {
        sleep(Duration::from_millis(10)).await;
    }
    let begin = Instant::now();
    client.put("/go", "", None).await.unwrap();
    // Until the effects are visible in etcd, and not only the callbacks begun.
    let options = || Some(etcd_client::GetOptions::new().with_prefix().with_count_only());
    loop {
        let left = BURST - done.load(Ordering::SeqCst);
        if left == 0 && client.get("/jobs/", options()).await.unwrap().count() == 0 {
            break;
        }
        sleep(Duration::from_millis(5)).await;
    }
    let rate = BURST as f64 / begin.elapsed().as_secs_f64();
    running.shutdown(Duration::from_secs(5)).await.unwrap();
    rate
}

async fn floor_throughput() -> f64 {
    let (_etcd, mut client) = fresh().await;
    fill(&mut client).await;
    let lease = client.lease_grant(60, None).await.unwrap().id();
    let begin = Instant::now();
    let next = Arc::new(AtomicUsize::new(0));
    let flights = (0..4).map(|_| {
        let (next, mut kv) = (next.clone(), client.kv_client());
        tokio::spawn(async move {
            loop {
                let first = next.fetch_add(64, Ordering::SeqCst);
                if first >= BURST {
                    return;
                }
                let keys: Vec<String> =
                    (first..BURST.min(first + 64)).map(|n| format!("/jobs/{n}")).collect();
                let locks: Vec<TxnOp> = keys.iter().map(|key| TxnOp::txn(lock(key, lease))).collect();
                kv.txn(Txn::new().and_then(locks)).await.expect("locks");
                let commits: Vec<TxnOp> = keys.iter().map(|key| TxnOp::txn(commit(key))).collect();
                kv.txn(Txn::new().and_then(commits)).await.expect("commits");
            }
        })
    });
    for flight in flights.collect::<Vec<_>>() {
        flight.await.unwrap();
    }
    BURST as f64 / begin.elapsed().as_secs_f64()
}
