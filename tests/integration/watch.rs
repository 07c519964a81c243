//! No change is lost: cut and frozen connections, compaction, restarts, older data, large and odd data.

use crate::support::{Etcd, Proxy, assert_nothing_left, eventually};
use etcd_client::{PutOptions, Txn, TxnOp};
use etcd_rules::{Engine, EngineBuilder, Error, Firing, Health, Outcome, Rule, key};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn engine(endpoint: String) -> EngineBuilder {
    Engine::builder("test", [endpoint]).request_timeout(SECOND).watch_silence(SECOND).lock_ttl(5 * SECOND)
}

/// `/copy/:id` follows `/from/:id`: put when it appears, deleted when it is gone.
fn follow() -> [Rule; 2] {
    [
        Rule::new("appear").when(key("/from/:id").exists() & key("/copy/:id").absent()).run(
            |firing: Firing| async move {
                Ok::<Outcome, Error>(firing.commit().put("/copy/:id", "copy").into())
            },
        ),
        Rule::new("vanish").when(key("/from/:id").absent() & key("/copy/:id").exists()).run(
            |firing: Firing| async move { Ok::<Outcome, Error>(firing.commit().delete("/copy/:id").into()) },
        ),
    ]
}

async fn copies(etcd: &Etcd) -> BTreeSet<String> {
    etcd.keys("/copy/").await.iter().map(|key| key.trim_start_matches("/copy/").to_owned()).collect()
}

fn ids<const N: usize>(ids: [&str; N]) -> BTreeSet<String> {
    ids.map(str::to_owned).into()
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_during_a_cut_are_seen_after_it() {
    let etcd = Etcd::start().await;
    let proxy = Proxy::start(etcd.endpoint());
    etcd.put("/from/gone", "").await;
    let running = engine(proxy.endpoint()).rules(follow()).build().unwrap().start().await.unwrap();
    eventually(20 * SECOND, "the first copy", async || copies(&etcd).await == ids(["gone"])).await;
    proxy.cut();
    etcd.delete("/from/gone").await;
    etcd.put("/from/a", "").await;
    etcd.put("/from/b", "").await;
    etcd.delete("/from/b").await;
    eventually(20 * SECOND, "it says so", async || matches!(running.health(), Health::Degraded { .. })).await;
    proxy.heal();
    eventually(20 * SECOND, "it caught up", async || copies(&etcd).await == ids(["a"])).await;
    eventually(20 * SECOND, "it is well", async || running.health() == Health::Ready).await;
    assert_eq!(running.stats().await.unwrap().drift, 0);
    running.shutdown(5 * SECOND).await.unwrap();
    assert_nothing_left(&etcd, "/etcd-rules/", 10 * SECOND).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compaction_during_a_cut_is_repaired_by_a_resync_deletions_included() {
    let etcd = Etcd::start().await;
    let proxy = Proxy::start(etcd.endpoint());
    etcd.put("/from/gone", "").await;
    etcd.put("/from/stays", "").await;
    let running = engine(proxy.endpoint()).rules(follow()).build().unwrap().start().await.unwrap();
    eventually(20 * SECOND, "first copies", async || copies(&etcd).await == ids(["gone", "stays"])).await;
    proxy.cut();
    etcd.delete("/from/gone").await;
    let revision = etcd.put("/from/a", "").await;
    etcd.compact(revision).await;
    proxy.heal();
    eventually(20 * SECOND, "it caught up", async || copies(&etcd).await == ids(["a", "stays"])).await;
    running.shutdown(5 * SECOND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_connection_is_found_and_replaced() {
    let etcd = Etcd::start().await;
    let proxy = Proxy::start(etcd.endpoint());
    let running = engine(proxy.endpoint()).rules(follow()).build().unwrap().start().await.unwrap();
    running.ready().await;
    proxy.freeze();
    etcd.put("/from/a", "").await;
    eventually(20 * SECOND, "it notices", async || running.health() != Health::Ready).await;
    proxy.cut();
    proxy.heal();
    eventually(20 * SECOND, "it caught up", async || copies(&etcd).await == ids(["a"])).await;
    running.shutdown(5 * SECOND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_survives_a_killed_and_a_paused_etcd() {
    let mut etcd = Etcd::start().await;
    let running = engine(etcd.endpoint()).rules(follow()).build().unwrap().start().await.unwrap();
    etcd.put("/from/a", "").await;
    eventually(20 * SECOND, "first copy", async || copies(&etcd).await == ids(["a"])).await;
    etcd.kill();
    eventually(20 * SECOND, "it says so", async || matches!(running.health(), Health::Degraded { .. })).await;
    etcd.restart().await;
    etcd.put("/from/b", "").await;
    eventually(20 * SECOND, "it goes on", async || copies(&etcd).await == ids(["a", "b"])).await;
    // Longer than the lock TTL.
    etcd.pause();
    tokio::time::sleep(7 * SECOND).await;
    etcd.resume();
    etcd.put("/from/c", "").await;
    eventually(20 * SECOND, "it goes on", async || copies(&etcd).await == ids(["a", "b", "c"])).await;
    running.shutdown(5 * SECOND).await.unwrap();
    assert_nothing_left(&etcd, "/etcd-rules/", 10 * SECOND).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn older_data_is_a_new_start() {
    let mut etcd = Etcd::start().await;
    etcd.put("/from/a", "").await;
    assert_eq!(copies(&etcd).await, ids([]), "the backup is older than the copies");
    let saved = etcd.save();
    let running = engine(etcd.endpoint()).rules(follow()).build().unwrap().start().await.unwrap();
    eventually(20 * SECOND, "first copy", async || copies(&etcd).await == ids(["a"])).await;
    for n in 0..50 {
        etcd.put("/from/b", n.to_string()).await;
    }
    eventually(20 * SECOND, "second copy", async || copies(&etcd).await == ids(["a", "b"])).await;
    // The engine may be quicker than anybody who looks at what the backup holds. That it has no `b` shows in the end.
    etcd.restore(&saved).await;
    eventually(30 * SECOND, "built anew", async || copies(&etcd).await == ids(["a"])).await;
    eventually(20 * SECOND, "it is well", async || running.health() == Health::Ready).await;
    running.shutdown(5 * SECOND).await.unwrap();
}

/// Before the engine connects again, the store is further than it was: the revision tells nothing.
#[tokio::test(flavor = "multi_thread")]
async fn older_data_that_has_outgrown_what_was_known_is_a_new_start() {
    let mut etcd = Etcd::start().await;
    let proxy = Proxy::start(etcd.endpoint());
    etcd.put("/from/a", "").await;
    let saved = etcd.save();
    let running = engine(proxy.endpoint()).rules(follow()).build().unwrap().start().await.unwrap();
    let reached = etcd.put("/from/b", "").await;
    eventually(20 * SECOND, "first copies", async || copies(&etcd).await == ids(["a", "b"])).await;
    proxy.cut();
    etcd.restore(&saved).await;
    etcd.put("/from/c", "").await;
    while etcd.put("/other", "").await < reached + 50 {}
    proxy.heal();
    eventually(30 * SECOND, "built anew", async || copies(&etcd).await == ids(["a", "c"])).await;
    eventually(20 * SECOND, "it is well", async || running.health() == Health::Ready).await;
    // The copies are in etcd before the engine hears of them.
    eventually(20 * SECOND, "it knows all", async || running.stats().await.unwrap().keys == 4).await;
    assert_eq!(running.stats().await.unwrap().drift, 0, "no crawl was needed");
    running.shutdown(5 * SECOND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_cluster_at_the_same_address_is_a_new_start() {
    let mut etcd = Etcd::start().await;
    let running = engine(etcd.endpoint()).rules(follow()).build().unwrap().start().await.unwrap();
    etcd.put("/from/a", "").await;
    eventually(20 * SECOND, "first copy", async || copies(&etcd).await == ids(["a"])).await;
    etcd.restart_empty().await;
    for n in 0..20 {
        etcd.put("/other", n.to_string()).await;
    }
    etcd.put("/from/z", "").await;
    eventually(30 * SECOND, "built anew", async || copies(&etcd).await == ids(["z"])).await;
    running.shutdown(5 * SECOND).await.unwrap();
}

/// One hundred thousand keys at start, values of one mebibyte, and keys and values that are not text.
#[tokio::test(flavor = "multi_thread")]
async fn large_and_odd_data_is_read_whole() {
    let etcd = Etcd::builder().flag("--quota-backend-bytes=4294967296").start().await;
    let mut client = etcd.client().await;
    for chunk in 0..1000 {
        let puts: Vec<TxnOp> = (0..100)
            .map(|n| TxnOp::put(format!("/many/{:06}/state", chunk * 100 + n), "idle", None::<PutOptions>))
            .collect();
        client.txn(Txn::new().and_then(puts)).await.unwrap();
    }
    for n in 0..8 {
        client.put(format!("/from/large{n}"), vec![b'x'; 1 << 20], None).await.unwrap();
    }
    client.put(b"/from/\xff\xfe".to_vec(), "", None).await.unwrap();
    client.put("/from/binary", vec![0xff, 0x00, 0xfe], None).await.unwrap();
    let fired = Arc::new(Mutex::new(Vec::new()));
    let log = fired.clone();
    let many = Rule::new("many").when(key("/many/:id/state").equals("active")).run(move |firing: Firing| {
        log.lock().unwrap().push(firing.attribute("id").unwrap_or_default().to_owned());
        async move { Ok::<Outcome, Error>(firing.commit().put("/many/:id/state", "done").into()) }
    });
    let copy = Rule::new("copy").when(key("/from/:id").exists() & key("/copy/:id").absent()).run(
        |firing: Firing| async move {
            let value = firing.value_opt("/from/:id")?.cloned().unwrap_or_default();
            Ok::<Outcome, Error>(firing.commit().put("/copy/:id", value).into())
        },
    );
    let running = engine(etcd.endpoint())
        .request_timeout(5 * SECOND)
        .rules([many, copy])
        .build()
        .unwrap()
        .start()
        .await
        .unwrap();
    tokio::time::timeout(60 * SECOND, running.ready()).await.expect("ready with 100,000 keys");
    let stats = running.stats().await.unwrap();
    assert!(stats.keys >= 100_009, "{stats:?}");
    etcd.put("/many/077777/state", "active").await;
    eventually(20 * SECOND, "the one fires", async || {
        etcd.get("/many/077777/state").await == Some("done".into())
    })
    .await;
    assert_eq!(*fired.lock().unwrap(), ["077777"]);
    eventually(30 * SECOND, "all were copied", async || copies(&etcd).await.len() == 9).await;
    let copied = client.get("/copy/large3", None).await.unwrap();
    assert_eq!(copied.kvs()[0].value().len(), 1 << 20);
    let binary = client.get("/copy/binary", None).await.unwrap();
    assert_eq!(binary.kvs()[0].value(), [0xff, 0x00, 0xfe]);
    assert_eq!(running.health(), Health::Ready);
    running.shutdown(5 * SECOND).await.unwrap();
}

/// Patterns without a literal start watch everything but the engines' own keys; pages of large values
/// are asked for in smaller parts.
#[tokio::test(flavor = "multi_thread")]
async fn a_pattern_may_match_everything_and_values_may_fill_a_page() {
    let etcd = Etcd::builder().flag("--quota-backend-bytes=4294967296").start().await;
    let mut client = etcd.client().await;
    for n in 0..80 {
        client.put(format!("large/{n}"), vec![b'x'; 1 << 20], None).await.unwrap();
    }
    let fired = Arc::new(Mutex::new(BTreeSet::new()));
    let log = fired.clone();
    let rule = Rule::new("any").when(key("*key").exists()).run(move |firing: Firing| {
        log.lock().unwrap().insert(firing.attribute("key").unwrap_or_default().to_owned());
        async move { Ok::<Outcome, Error>(Outcome::done()) }
    });
    let running = engine(etcd.endpoint())
        .request_timeout(5 * SECOND)
        .rule(rule)
        .build()
        .unwrap()
        .start()
        .await
        .unwrap();
    tokio::time::timeout(60 * SECOND, running.ready()).await.expect("ready");
    etcd.put("/late/one", "").await;
    eventually(20 * SECOND, "all fired", async || fired.lock().unwrap().len() == 81).await;
    assert!(fired.lock().unwrap().contains("/late/one"));
    assert_eq!(running.stats().await.unwrap().keys, 81, "the engine's own keys are not among them");
    running.shutdown(5 * SECOND).await.unwrap();
}

/// What was read from a stream before it broke is not lost when the engine is busy: the next stream
/// goes on after it.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_ahead_of_a_busy_engine_outlives_the_stream() {
    let etcd = Etcd::start().await;
    let proxy = Proxy::start(etcd.endpoint());
    let slow = key("/from/:id").compare("takes its time", |value| {
        std::thread::sleep(Duration::from_millis(20));
        value.is_some()
    });
    let rule = Rule::new("copy").when(slow & key("/copy/:id").absent()).run(|firing: Firing| async move {
        Ok::<Outcome, Error>(firing.commit().put("/copy/:id", "").into())
    });
    let running = engine(proxy.endpoint()).rule(rule).build().unwrap().start().await.unwrap();
    running.ready().await;
    let mut client = etcd.client().await;
    for n in 0..150 {
        client.put(format!("/from/{n}"), "", None).await.unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    proxy.cut();
    tokio::time::sleep(SECOND).await;
    proxy.heal();
    eventually(30 * SECOND, "all were copied", async || copies(&etcd).await.len() == 150).await;
    running.shutdown(5 * SECOND).await.unwrap();
}
