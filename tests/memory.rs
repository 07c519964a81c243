//! How much memory an engine takes while it can't keep up with large changes. The memory of a process is counted, so
//! this is a program of its own. What may be taken is what `docs/limits.md` says.

mod support;

use etcd_rules::{Engine, Error, Firing, Outcome, Rule, key};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use support::{Etcd, eventually};

const SECOND: Duration = Duration::from_secs(1);
const MIB: usize = 1 << 20;

const CHANGES: usize = 400;
const KEYS: usize = 8;
/// The keys that exist, in the mirror.
const MIRROR: usize = KEYS * MIB;
/// What was read ahead by a watch, and the message that is being read.
const READ_AHEAD: usize = 16 * MIB + 2 * MIB;
/// What waits for an evaluator: 16 messages, one that it works on, one that has no room yet.
const EVALUATOR: usize = 18 * MIB;
/// The values that callbacks were given.
const FIRINGS: usize = KEYS * MIB;
/// A message has its bytes and what was decoded of them, the allocator keeps some of what is free.
const REST: usize = 48 * MIB;

const BOUND: usize = MIRROR + READ_AHEAD + EVALUATOR + FIRINGS + REST;

fn memory() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}

/// Puts values of a mebibyte, each to one of a few keys in turn.
async fn put_large(etcd: &Etcd) {
    let mut client = etcd.client().await;
    let value = vec![b'x'; MIB];
    for change in 0..CHANGES {
        client.put(format!("/large/{}", change % KEYS), value.clone(), None).await.unwrap();
    }
}

/// The most memory that is taken beyond what there is now, until this is over.
async fn growth(work: impl Future<Output = ()>) -> usize {
    let before = memory();
    let mut most = before;
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            () = &mut work => return most.max(memory()) - before,
            () = tokio::time::sleep(Duration::from_millis(5)) => most = most.max(memory()),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cant_be_worked_off_is_left_in_etcd() {
    // A slow comparison holds up the evaluator, and with it the index and the watch. A slow callback holds up nothing.
    // Comparisons wait until all is in etcd: then there is always more to read at once, and every queue is filled.
    for (what, compares, runs) in [
        ("a slow comparison", Duration::from_millis(50), Duration::ZERO),
        ("a slow callback", Duration::ZERO, SECOND / 2),
    ] {
        let etcd = Etcd::builder().flag("--quota-backend-bytes=4294967296").start().await;
        let compared = Arc::new(AtomicUsize::new(0));
        let counted = compared.clone();
        let all_put = Arc::new(AtomicBool::new(true));
        let held = all_put.clone();
        let slow = key("/large/:id").compare("is there, slowly", move |value| {
            counted.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(compares);
            while !held.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(1));
            }
            value.is_some()
        });
        let fired = Arc::new(AtomicUsize::new(0));
        let count = fired.clone();
        let seen_all = Arc::new(AtomicUsize::new(0));
        let ended = seen_all.clone();
        let rule = Rule::new("slow").when(slow).run(move |firing: Firing| {
            count.fetch_add(1, Ordering::SeqCst);
            if firing.attribute("id").is_ok_and(|id| id == "last") {
                ended.fetch_add(1, Ordering::SeqCst);
            }
            async move {
                tokio::time::sleep(runs).await;
                Ok::<Outcome, Error>(Outcome::done())
            }
        });
        let engine = Engine::builder("memory", [etcd.endpoint()]).evaluators(1).rule(rule).build().unwrap();
        let running = engine.start().await.unwrap();
        running.ready().await;
        // The buffers that the first of them takes are not what is counted.
        etcd.put("/large/0", "x".repeat(MIB)).await;
        eventually(60 * SECOND, "it fires", async || fired.load(Ordering::SeqCst) > 0).await;
        all_put.store(compares.is_zero(), Ordering::SeqCst);
        let grown = growth(async {
            put_large(&etcd).await;
            all_put.store(true, Ordering::SeqCst);
            etcd.put("/large/last", "").await;
            let seen = async || seen_all.load(Ordering::SeqCst) > 0;
            eventually(120 * SECOND, "the engine has seen all of it", seen).await;
        })
        .await;
        println!(
            "{what}: {} MiB at most for {CHANGES} MiB of changes, {} comparisons, {} firings",
            grown / MIB,
            compared.load(Ordering::SeqCst),
            fired.load(Ordering::SeqCst)
        );
        assert!(grown <= BOUND, "{what}: {} MiB", grown / MIB);
        running.shutdown(10 * SECOND).await.unwrap();
    }
}
