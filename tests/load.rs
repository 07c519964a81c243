//! More than an engine is usually given, counted and not timed: idle HTTP connections, large values, a million keys
//! that come and go, and a storm of one rule beside a trickle of another. Nothing may be lost, the trickle may hardly
//! notice the storm, and memory stays within what `docs/reliability.md` says.
//!
//! `make load`. It is ignored otherwise, because it takes minutes and gigabytes of disk. `LOAD_KEYS=10000` is a smaller
//! one.

mod support;

use etcd_client::{PutOptions, Txn, TxnOp};
use etcd_rules::http::Endpoint;
use etcd_rules::inspect::Stats;
use etcd_rules::{Engine, EngineHandle, Error, Firing, Outcome, Rule, key};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::{Etcd, eventually};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

const CONNECTIONS: usize = 1000;
const LARGE: usize = 100;
const LARGE_BYTES: usize = 1_400_000;
const STORM: usize = 50_000;
const TRICKLE: usize = 200;

/// What memory may grow by, in bytes: a key with its instance; all of a large value, and as much again for what is on
/// its way; anything else.
const A_KEY: usize = 600;
const A_LARGE_VALUE: usize = 3 * LARGE_BYTES;
const THE_REST: usize = 256 << 20;

/// What may be kept when all keys have gone: the allocator's own, since small pieces are between what is in use.
const KEPT: usize = 128 << 20;

fn memory() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}

/// Puts keys or deletes them, a hundred in a transaction.
async fn change(etcd: &Etcd, prefix: &str, count: usize, value: Option<&str>) {
    let mut client = etcd.client().await;
    for chunk in 0..count.div_ceil(100) {
        let ids = chunk * 100..count.min(chunk * 100 + 100);
        let changes: Vec<TxnOp> = ids
            .map(|id| match value {
                Some(value) => TxnOp::put(format!("{prefix}{id:07}"), value, None::<PutOptions>),
                None => TxnOp::delete(format!("{prefix}{id:07}"), None),
            })
            .collect();
        client.txn(Txn::new().and_then(changes)).await.unwrap();
    }
}

/// Seconds from the putting of each key of the trickle to its callback.
#[derive(Clone, Default)]
struct Latencies(Arc<Mutex<Vec<(usize, Instant)>>>);

impl Latencies {
    /// Puts keys one by one, twenty a second; the median and the 99th percentile.
    async fn measure(&self, etcd: &Etcd) -> (Duration, Duration) {
        self.0.lock().unwrap().clear();
        let mut put = Vec::new();
        for id in 0..TRICKLE {
            put.push(Instant::now());
            etcd.put(&format!("/trickle/{id}"), "").await;
            sleep(SECOND / 20).await;
        }
        eventually(MINUTE, "all of the trickle", async || self.0.lock().unwrap().len() >= TRICKLE).await;
        let fired = self.0.lock().unwrap().clone();
        assert_eq!(fired.len(), TRICKLE, "each once");
        let mut all: Vec<Duration> = fired.into_iter().map(|(id, at)| at - put[id]).collect();
        all.sort_unstable();
        (all[all.len() / 2], all[all.len() * 99 / 100])
    }
}

/// Counts the callbacks of a rule that takes its key away.
fn counting(id: &str, pattern: &'static str, count: &Arc<AtomicU64>) -> Rule {
    let count = count.clone();
    Rule::new(id).when(key(pattern).exists()).run(move |firing: Firing| {
        count.fetch_add(1, Ordering::SeqCst);
        async move { Ok::<Outcome, Error>(firing.commit().delete(pattern).into()) }
    })
}

async fn stats(engine: &EngineHandle) -> Stats {
    engine.stats().await.unwrap()
}

/// Deletes all the keys, and waits until nothing is known of them.
async fn gone(etcd: &Etcd, engine: &EngineHandle, keys: usize) {
    change(etcd, "/many/", keys, None).await;
    eventually(5 * MINUTE, "all keys have gone", async || {
        let stats = stats(engine).await;
        (stats.keys, stats.instances) == (0, 0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes and gigabytes: make load"]
async fn under_load_nothing_is_lost_or_late_or_kept() {
    let keys = std::env::var("LOAD_KEYS").map_or(1_000_000, |text| text.parse().unwrap());
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, soft.max((3 * CONNECTIONS as u64).min(hard)), hard).unwrap();
    let etcd = Etcd::builder()
        .flag("--quota-backend-bytes=8589934592")
        .flag("--snapshot-count=10000000")
        .start()
        .await;
    let endpoint = Endpoint::builder().address(([127, 0, 0, 1], 0).into()).listen().unwrap();
    let (latencies, stormed, large) = (Latencies::default(), Arc::default(), Arc::default());
    let told = latencies.clone();
    let trickle = Rule::new("trickle").when(key("/trickle/:id").exists()).run(move |firing: Firing| {
        let id = firing.attribute("id").unwrap().parse().unwrap();
        told.0.lock().unwrap().push((id, Instant::now()));
        async move { Ok::<Outcome, Error>(firing.commit().delete("/trickle/:id").into()) }
    });
    let many = Rule::new("many")
        .when(key("/many/:id").equals("never"))
        .run(|_| async { Ok::<Outcome, Error>(Outcome::done()) });
    let engine = Engine::builder("load", [etcd.endpoint()])
        .rules([trickle, many])
        .rule(counting("storm", "/storm/:id", &stormed))
        .rule(counting("large", "/large/:id", &large))
        .endpoint(&endpoint)
        .build()
        .unwrap();
    let running = engine.start().await.unwrap();
    running.ready().await;
    let (p50, p99) = latencies.measure(&etcd).await;
    println!("trickle by itself: p50 {p50:.1?}, p99 {p99:.1?}");
    let before = memory();

    // Idle connections stay for all of it.
    let mut idle = Vec::new();
    for _ in 0..CONNECTIONS {
        idle.push(TcpStream::connect(endpoint.address()).await.unwrap());
    }

    change(&etcd, "/many/", keys, Some("idle")).await;
    eventually(5 * MINUTE, "all keys have come", async || stats(&running).await.keys == keys).await;
    let grown = memory().saturating_sub(before);
    println!("{keys} keys: {} MiB, {} bytes a key", grown >> 20, grown / keys);
    assert!(grown <= keys * A_KEY + THE_REST, "{grown} bytes for {keys} keys");

    let storm = change(&etcd, "/storm/", STORM, Some(""));
    let ((), (storm_p50, storm_p99)) = tokio::join!(storm, latencies.measure(&etcd));
    println!("trickle beside a storm of {STORM}: p50 {storm_p50:.1?}, p99 {storm_p99:.1?}");
    // The engine may not have heard of the last ones yet.
    let over = async |fired: &AtomicU64, count: usize| {
        fired.load(Ordering::SeqCst) >= count as u64 && stats(&running).await.keys == keys
    };
    eventually(5 * MINUTE, "the storm is over", async || over(&stormed, STORM).await).await;
    assert_eq!(stormed.load(Ordering::SeqCst), STORM as u64, "each once");
    assert!(storm_p50 < p50 + SECOND / 10, "{storm_p50:?} beside {p50:?}");

    let peak = Arc::new(AtomicU64::new(0));
    let watched = peak.clone();
    let watching = tokio::spawn(async move {
        loop {
            watched.fetch_max(memory() as u64, Ordering::SeqCst);
            sleep(SECOND / 100).await;
        }
    });
    let value = "x".repeat(LARGE_BYTES);
    for id in 0..LARGE {
        etcd.put(&format!("/large/{id}"), value.clone()).await;
    }
    eventually(5 * MINUTE, "all large values", async || over(&large, LARGE).await).await;
    watching.abort();
    assert_eq!(large.load(Ordering::SeqCst), LARGE as u64, "each once");
    let grown = (peak.load(Ordering::SeqCst) as usize).saturating_sub(before);
    println!("{LARGE} values of {LARGE_BYTES} bytes: {} MiB at most, with the keys", grown >> 20);
    assert!(grown <= keys * A_KEY + LARGE * A_LARGE_VALUE + THE_REST, "{grown} bytes");

    gone(&etcd, &running, keys).await;
    let kept = memory().saturating_sub(before);
    println!("afterwards: {} MiB more than before", kept >> 20);
    assert!(kept <= KEPT, "{kept} bytes are kept for nothing");
    // What is kept after the first is used again.
    for wave in 2..=3 {
        change(&etcd, "/many/", keys, Some("idle")).await;
        eventually(5 * MINUTE, "all keys have come", async || stats(&running).await.keys == keys).await;
        let most = memory().saturating_sub(before);
        gone(&etcd, &running, keys).await;
        let now = memory().saturating_sub(before);
        println!("wave {wave}: {} MiB more with {keys} keys, {} MiB afterwards", most >> 20, now >> 20);
        assert!(most <= keys * A_KEY + THE_REST, "{most} bytes for {keys} keys");
        assert!(
            now <= kept.max(KEPT / 2) + KEPT / 4,
            "{now} bytes after wave {wave}, {kept} after the first"
        );
    }
    let (p50_after, p99_after) = latencies.measure(&etcd).await;
    println!("trickle afterwards: p50 {p50_after:.1?}, p99 {p99_after:.1?}");
    assert_eq!(stats(&running).await.drift, 0);
    drop(idle);
    running.shutdown(10 * SECOND).await.unwrap();
}
