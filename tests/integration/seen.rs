//! What a callback is shown is a state that etcd had, and whatever compactions do, an engine gets to see what there is.

use crate::support::{Etcd, Proxy, assert_nothing_left, eventually};
use etcd_client::{CompactionOptions, Txn, TxnOp};
use etcd_rules::events::{EventKind, NotLocked};
use etcd_rules::{Engine, EngineBuilder, Error, Firing, Health, Outcome, Rule, key};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);

fn engine(endpoint: String) -> EngineBuilder {
    Engine::builder("test", [endpoint]).lock_ttl(5 * SECOND)
}

fn number(firing: &Firing, pattern: &str) -> Result<u64, Error> {
    Ok(firing.value_opt(pattern)?.and_then(|value| value.parse()).unwrap_or(0))
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_firings_are_never_shown_half_a_transaction() {
    const IDS: u64 = 200;
    const ROUNDS: u64 = 50;
    let etcd = Etcd::start().await;
    let torn = Arc::new(Mutex::new(Vec::new()));
    let fired = Arc::new(AtomicU64::new(0));
    let (seen, counted) = (torn.clone(), fired.clone());
    // Two prefixes, so two watches, which are not equally far.
    let rule =
        Rule::new("pair").when(key("/a/:id").exists() & key("/b/:id").exists()).run(move |firing: Firing| {
            let (seen, counted) = (seen.clone(), counted.clone());
            async move {
                let pair = (number(&firing, "/a/:id")?, number(&firing, "/b/:id")?);
                if pair.0 != pair.1 {
                    seen.lock().unwrap().push(pair);
                }
                counted.fetch_add(1, Ordering::Relaxed);
                Ok::<Outcome, Error>(firing.commit().delete("/a/:id").into())
            }
        });
    let built = engine(etcd.endpoint()).rule(rule).build().unwrap();
    assert_eq!(built.watched_prefixes().count(), 2);
    let running = built.start().await.unwrap();
    running.ready().await;
    let client = etcd.client().await;
    for round in 1..=ROUNDS {
        // As one client after the other would: each pair in one transaction.
        let writing = (0..IDS).map(|id| {
            let mut kv = client.kv_client();
            async move {
                let put = |prefix| TxnOp::put(format!("/{prefix}/{id}"), round.to_string(), None);
                kv.txn(Txn::new().and_then([put("a"), put("b")])).await.expect("written");
            }
        });
        futures_util::future::join_all(writing).await;
        eventually(60 * SECOND, "all have fired", async || etcd.keys("/a/").await.is_empty()).await;
    }
    assert!(fired.load(Ordering::Relaxed) >= IDS * ROUNDS);
    assert_eq!(*torn.lock().unwrap(), [], "pairs of values that were never there together");
    running.shutdown(5 * SECOND).await.unwrap();
    assert_nothing_left(&etcd, "/etcd-rules/", 10 * SECOND).await;
}

/// Writes a key about a thousand times a second until it is told to stop.
fn hammer(etcd: &Etcd, key: &'static str) -> (Arc<AtomicBool>, JoinHandle<u64>) {
    let stop = Arc::new(AtomicBool::new(false));
    let (stopped, endpoint) = (stop.clone(), etcd.endpoint());
    let task = tokio::spawn(async move {
        let mut client = etcd_client::Client::connect([endpoint], None).await.expect("a connection");
        let mut ticks = tokio::time::interval(Duration::from_millis(1));
        let mut written = 0;
        while !stopped.load(Ordering::Relaxed) {
            ticks.tick().await;
            written += 1;
            client.put(key, written.to_string(), None).await.expect("written");
        }
        written
    });
    (stop, task)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shown_key_that_is_written_all_the_time_holds_nobody_up() {
    const JOBS: usize = 100;
    let etcd = Etcd::start().await;
    etcd.put("/hot", "0").await;
    let started: Arc<Mutex<BTreeMap<String, Instant>>> = Arc::default();
    let seen = started.clone();
    let rule = Rule::new("job").when(key("/job/:id").equals("new") & key("/hot").exists()).run(
        move |firing: Firing| {
            let seen = seen.clone();
            async move {
                number(&firing, "/hot")?;
                seen.lock().unwrap().entry(firing.attribute("id")?.to_owned()).or_insert_with(Instant::now);
                Ok::<Outcome, Error>(firing.commit().put("/job/:id", "done").into())
            }
        },
    );
    let running = engine(etcd.endpoint()).rule(rule).build().unwrap().start().await.unwrap();
    running.ready().await;
    let mut events = running.events();
    let (stop, hammering) = hammer(&etcd, "/hot");
    let mut put = BTreeMap::new();
    for id in 0..JOBS {
        put.insert(id.to_string(), Instant::now());
        etcd.put(&format!("/job/{id}"), "new").await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    eventually(20 * SECOND, "all have fired", async || started.lock().unwrap().len() == JOBS).await;
    stop.store(true, Ordering::Relaxed);
    let written = hammering.await.unwrap();
    let started = started.lock().unwrap().clone();
    let slowest = put.iter().map(|(id, put)| started[id].duration_since(*put)).max().unwrap();
    assert!(slowest < SECOND, "{slowest:?}, with {written} writes");
    running.shutdown(5 * SECOND).await.unwrap();
    let mut refused = 0;
    while let Some(Ok(event)) = events.recv().await {
        refused += usize::from(matches!(event.kind, EventKind::NotLocked { reason: NotLocked::Untrue, .. }));
    }
    assert_eq!(refused, 0, "the condition held all the time");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_optimistic_commit_does_not_mind_a_key_that_its_callback_did_not_look_at() {
    const JOBS: usize = 50;
    let etcd = Etcd::start().await;
    etcd.put("/hot", "0").await;
    let fired = Arc::new(AtomicU64::new(0));
    let rule = |id: &str, looks: bool| {
        let (fired, job) = (fired.clone(), format!("/{id}/:id"));
        let condition = key(job.as_str()).equals("new") & key("/hot").exists();
        Rule::new(id).when(condition).optimistic().run(move |firing: Firing| {
            let (fired, job) = (fired.clone(), job.clone());
            async move {
                if looks {
                    number(&firing, "/hot")?;
                    // So that it is certain to be written meanwhile.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                } else {
                    fired.fetch_add(1, Ordering::Relaxed);
                }
                Ok::<Outcome, Error>(firing.commit().put(&job, "done").into())
            }
        })
    };
    let rules = [rule("blind", false), rule("looks", true)];
    let running = engine(etcd.endpoint()).rules(rules).build().unwrap().start().await.unwrap();
    running.ready().await;
    let (stop, hammering) = hammer(&etcd, "/hot");
    for id in 0..JOBS {
        etcd.put(&format!("/blind/{id}"), "new").await;
    }
    etcd.put("/looks/1", "new").await;
    let done = async |prefix: &str, count: usize| {
        let mut all = 0;
        for key in etcd.keys(prefix).await {
            all += usize::from(etcd.get(&key).await.as_deref() == Some("done"));
        }
        all == count
    };
    eventually(20 * SECOND, "those that did not look are done", async || done("/blind/", JOBS).await).await;
    assert_eq!(fired.load(Ordering::Relaxed), JOBS as u64, "none was refused");
    eventually(20 * SECOND, "the other took its lock", async || done("/looks/", 1).await).await;
    stop.store(true, Ordering::Relaxed);
    hammering.await.unwrap();
    running.shutdown(5 * SECOND).await.unwrap();
    assert_nothing_left(&etcd, "/etcd-rules/", 10 * SECOND).await;
}

/// Puts `keys` keys of one kilobyte.
async fn fill(etcd: &Etcd, prefix: &str, keys: usize) {
    let client = etcd.client().await;
    let value = "x".repeat(1024);
    for start in (0..keys).step_by(100) {
        let put = |id| TxnOp::put(format!("{prefix}{id:05}"), value.as_str(), None);
        let puts: Vec<TxnOp> = (start..keys.min(start + 100)).map(put).collect();
        client.kv_client().txn(Txn::new().and_then(puts)).await.expect("written");
    }
}

async fn ready_while_history_is_compacted_all_the_time(etcd: Etcd) {
    const KEYS: usize = 6_000;
    fill(&etcd, "/from/", KEYS).await;
    // About two megabytes a second: a snapshot takes three seconds.
    let proxy = Proxy::start(etcd.endpoint());
    proxy.limit(2 << 20);
    let stop = Arc::new(AtomicBool::new(false));
    let (stopped, endpoint) = (stop.clone(), etcd.endpoint());
    let compacting = tokio::spawn(async move {
        let mut client = etcd_client::Client::connect([endpoint], None).await.expect("a connection");
        let mut count = 0;
        while !stopped.load(Ordering::Relaxed) {
            // Keys come and go meanwhile.
            let put = client.put(format!("/from/{:05}", count % KEYS), "new", None).await.expect("written");
            client.delete(format!("/from/{:05}", (count * 7 + 3) % KEYS), None).await.expect("deleted");
            let head = put.header().map_or(0, |header| header.revision());
            client.compact(head, Some(CompactionOptions::new())).await.expect("compacted");
            count += 1;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        count
    });
    let seen: Arc<Mutex<BTreeMap<String, u64>>> = Arc::default();
    let fired = seen.clone();
    let rule = Rule::new("each").when(key("/from/:id").exists()).run(move |firing: Firing| {
        let fired = fired.clone();
        async move {
            *fired.lock().unwrap().entry(firing.attribute("id")?.to_owned()).or_default() += 1;
            Ok::<(), Error>(())
        }
    });
    let begun = Instant::now();
    let running = engine(proxy.endpoint()).rule(rule).build().unwrap().start().await.unwrap();
    eventually(60 * SECOND, "it is ready", async || running.health() == Health::Ready).await;
    let took = begun.elapsed();
    // Without a limit the rest is quick.
    proxy.heal();
    eventually(60 * SECOND, "all that is there has fired", async || {
        let keys = etcd.keys("/from/").await;
        let fired = seen.lock().unwrap();
        keys.iter().all(|key| fired.contains_key(key.trim_start_matches("/from/")))
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    let compactions = compacting.await.unwrap();
    assert!(compactions > 20, "{compactions} in {took:?}");
    assert!(took < 15 * SECOND, "{took:?}");
    let keys = etcd.keys("/from/").await.len();
    eventually(20 * SECOND, "what is gone is gone", async || {
        running.stats().await.is_ok_and(|stats| stats.keys == keys)
    })
    .await;
    running.shutdown(5 * SECOND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_is_ready_though_history_is_compacted_faster_than_a_snapshot_is_read() {
    ready_while_history_is_compacted_all_the_time(Etcd::start().await).await;
}
