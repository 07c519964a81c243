//! The link to etcd while members or connections are silent: nothing is cancelled or lost.

use crate::support::{Cluster, Etcd, Proxy, eventually};
use etcd_rules::{Engine, Error, Firing, Outcome, Rule, RunningEngine, key};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::sleep;

const SECOND: Duration = Duration::from_secs(1);
const CALLBACKS: usize = 20;

/// Counts the callbacks that began, and those that ended.
#[derive(Default)]
struct Counts {
    begun: AtomicUsize,
    ended: AtomicUsize,
}

impl Counts {
    fn get(&self) -> (usize, usize) {
        (self.begun.load(Ordering::SeqCst), self.ended.load(Ordering::SeqCst))
    }
}

/// An engine with callbacks that take so long, all of them running.
async fn busy(
    endpoints: Vec<String>,
    client: &etcd_client::Client,
    ttl: Duration,
    work: Duration,
) -> (RunningEngine, Arc<Counts>) {
    let counts = Arc::new(Counts::default());
    let counted = counts.clone();
    let rule = Rule::new("work").when(key("/todo/:id").exists()).run(move |firing: Firing| {
        let counts = counted.clone();
        async move {
            counts.begun.fetch_add(1, Ordering::SeqCst);
            sleep(work).await;
            counts.ended.fetch_add(1, Ordering::SeqCst);
            Ok::<Outcome, Error>(firing.commit().delete("/todo/:id").into())
        }
    });
    let engine = Engine::builder("link", endpoints).lock_ttl(ttl).rule(rule).build().unwrap();
    let engine = engine.start().await.unwrap();
    tokio::time::timeout(60 * SECOND, engine.ready()).await.expect("ready");
    for id in 0..CALLBACKS {
        client.kv_client().put(format!("/todo/{id}"), "", None).await.unwrap();
    }
    eventually(60 * SECOND, "all of them run", async || counts.get().0 == CALLBACKS).await;
    (engine, counts)
}

async fn all_end_undisturbed(engine: RunningEngine, counts: &Counts, client: &etcd_client::Client) {
    eventually(60 * SECOND, "everything is done", async || {
        let options = etcd_client::GetOptions::new().with_prefix().with_count_only();
        client.kv_client().get("/todo/", Some(options)).await.unwrap().count() == 0
    })
    .await;
    assert_eq!(counts.get(), (CALLBACKS, CALLBACKS), "none was cancelled and run again");
    engine.shutdown(10 * SECOND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_callback_is_cancelled_while_a_follower_stands_still_at_a_ttl_of_5_s() {
    let cluster = Cluster::start().await;
    let leader = cluster.leader().await;
    let client = cluster.client(leader).await;
    let (engine, counts) = busy(cluster.endpoints(), &client, 5 * SECOND, 16 * SECOND).await;
    for follower in (0..3).filter(|member| *member != leader) {
        cluster.pause(follower);
        sleep(6 * SECOND).await;
        cluster.resume(follower);
        sleep(SECOND).await;
    }
    all_end_undisturbed(engine, &counts, &client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_callback_is_cancelled_while_the_leader_stands_still_at_the_default_ttl() {
    let cluster = Cluster::start().await;
    let leader = cluster.leader().await;
    let client = cluster.client((leader + 1) % 3).await;
    let (engine, counts) = busy(cluster.endpoints(), &client, 10 * SECOND, 16 * SECOND).await;
    cluster.pause(leader);
    sleep(12 * SECOND).await;
    cluster.resume(leader);
    all_end_undisturbed(engine, &counts, &client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_callback_is_cancelled_while_open_connections_are_silent_and_new_ones_work() {
    let etcd = Etcd::start().await;
    let client = etcd.client().await;
    let proxy = Proxy::start(etcd.endpoint());
    let (engine, counts) = busy(vec![proxy.endpoint()], &client, 5 * SECOND, 14 * SECOND).await;
    proxy.silence();
    sleep(7 * SECOND).await;
    proxy.silence();
    all_end_undisturbed(engine, &counts, &client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_server_is_not_left_and_loses_no_lease() {
    let etcd = Etcd::start().await;
    let client = etcd.client().await;
    let proxy = Proxy::start(etcd.endpoint());
    // Everything is answered after 3 s.
    proxy.delay(3 * SECOND);
    let (engine, counts) = busy(vec![proxy.endpoint()], &client, 10 * SECOND, 14 * SECOND).await;
    let before = proxy.accepted();
    sleep(10 * SECOND).await;
    let made = proxy.accepted() - before;
    assert!(made <= 3, "{made} connections in 10 s, of three links");
    all_end_undisturbed(engine, &counts, &client).await;
}

/// etcd 3.4 before .36 and 3.5 before .18 drop such a deletion without an error to who asks for what comes
/// after the position.
#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_at_the_compacted_revision_is_seen() {
    let etcd = Etcd::start().await;
    let proxy = Proxy::start(etcd.endpoint());
    let rule = Rule::new("never").when(key("/kept/:id").equals("never")).run(|firing: Firing| async move {
        Ok::<Outcome, Error>(firing.commit().delete("/kept/:id").into())
    });
    let engine = Engine::builder("link", [proxy.endpoint()]).rule(rule).build().unwrap();
    let engine = engine.start().await.unwrap();
    engine.ready().await;
    etcd.put("/kept/a", "").await;
    let position = etcd.put("/kept/b", "").await;
    let keys = async || engine.stats().await.unwrap().keys;
    eventually(10 * SECOND, "it knows both", async || keys().await == 2).await;
    proxy.cut();
    let deleted = etcd.delete("/kept/a").await;
    assert_eq!(deleted, position + 1);
    etcd.compact(deleted).await;
    proxy.heal();
    eventually(20 * SECOND, "it knows that one is gone", async || keys().await == 1).await;
    engine.shutdown(SECOND).await.unwrap();
}
