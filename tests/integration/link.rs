//! The link to etcd while members or connections are silent: nothing is cancelled or lost.

use crate::support::{Cluster, Etcd, Proxy, eventually};
use etcd_rules::{Backoff, Engine, EngineBuilder, Error, Firing, Outcome, Rule, RunningEngine, key};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

const SECOND: Duration = Duration::from_secs(1);
pub(super) const CALLBACKS: usize = 20;

/// Counts the callbacks that began, and those that ended.
#[derive(Default)]
pub(super) struct Counts {
    begun: AtomicUsize,
    ended: AtomicUsize,
}

impl Counts {
    pub(super) fn get(&self) -> (usize, usize) {
        (self.begun.load(Ordering::SeqCst), self.ended.load(Ordering::SeqCst))
    }
}

/// An engine with callbacks that take so long, all of them running.
pub(super) async fn busy(
    endpoints: Vec<String>,
    client: &etcd_client::Client,
    ttl: Duration,
    work: Duration,
) -> (RunningEngine, Arc<Counts>) {
    busy_with(endpoints, client, ttl, work, |builder| builder).await
}

/// The same, with other options.
pub(super) async fn busy_with(
    endpoints: Vec<String>,
    client: &etcd_client::Client,
    ttl: Duration,
    work: Duration,
    set: impl FnOnce(EngineBuilder) -> EngineBuilder,
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
    let engine = set(Engine::builder("link", endpoints)).lock_ttl(ttl).rule(rule).build().unwrap();
    let engine = engine.start().await.unwrap();
    tokio::time::timeout(60 * SECOND, engine.ready()).await.expect("ready");
    for id in 0..CALLBACKS {
        client.kv_client().put(format!("/todo/{id}"), "", None).await.unwrap();
    }
    eventually(60 * SECOND, "all of them run", async || counts.get().0 == CALLBACKS).await;
    (engine, counts)
}

pub(super) async fn all_end_undisturbed(
    engine: RunningEngine,
    counts: &Counts,
    client: &etcd_client::Client,
) {
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
/// after the position. `behind`: history is compacted so many revisions before it.
async fn a_deletion_is_seen_that_was_compacted(behind: i64) {
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
    etcd.compact(deleted - behind).await;
    proxy.heal();
    eventually(20 * SECOND, "it knows that one is gone", async || keys().await == 1).await;
    engine.shutdown(SECOND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_at_the_compacted_revision_is_seen() {
    a_deletion_is_seen_that_was_compacted(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_after_the_compacted_revision_is_seen() {
    a_deletion_is_seen_that_was_compacted(1).await;
}

/// Each new watch is told again of what was known, and some are given a new snapshot.
#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_reconnects_makes_no_key_absent() {
    const KEYS: usize = 50;
    const QUIET: usize = 8;
    const CUTS: usize = 30;
    let etcd = Etcd::start().await;
    let proxy = Proxy::start(etcd.endpoint());
    let fired = Arc::new(Mutex::new(Vec::new()));
    let told = fired.clone();
    let rule = Rule::new("gone").when(key("/there/:id").absent()).run(move |firing: Firing| {
        let told = told.clone();
        async move {
            told.lock().unwrap().push(firing.attribute("id")?.to_owned());
            Ok::<(), Error>(())
        }
    });
    let engine = Engine::builder("link", [proxy.endpoint()]).rule(rule).build().unwrap();
    let engine = engine.start().await.unwrap();
    engine.ready().await;
    for id in 0..KEYS {
        etcd.put(&format!("/there/{id}"), "").await;
    }
    // The position is a deletion at first, which each new watch tells again.
    etcd.put("/there/deleted", "").await;
    etcd.delete("/there/deleted").await;
    eventually(20 * SECOND, "it fires for it", async || fired.lock().unwrap().len() == 1).await;
    let accepted = proxy.accepted();
    for round in 0..CUTS {
        proxy.cut();
        if round >= QUIET {
            let changed = etcd.put(&format!("/there/{}", round % KEYS), "again").await;
            if round % 5 == 4 {
                etcd.compact(changed).await;
            }
        }
        sleep(SECOND / 10).await;
        proxy.heal();
        // Some are cut off while they open, and some are not.
        sleep(SECOND / 10 * (round % 8) as u32).await;
    }
    let knows = async || engine.stats().await.is_ok_and(|stats| stats.keys == KEYS);
    eventually(20 * SECOND, "it knows all of them", async || engine.health().is_ready() && knows().await)
        .await;
    let made = proxy.accepted() - accepted;
    assert!(made >= CUTS / 2, "{made} connections");
    etcd.delete("/there/7").await;
    eventually(20 * SECOND, "it fires for it", async || fired.lock().unwrap().len() > 1).await;
    sleep(SECOND).await;
    assert_eq!(*fired.lock().unwrap(), ["deleted", "7"]);
    engine.shutdown(SECOND).await.unwrap();
}

/// What an application may make of an error.
#[derive(Debug, thiserror::Error)]
#[error("the address is not known")]
struct NoAddress;

#[tokio::test(flavor = "multi_thread")]
async fn a_callback_that_failed_for_the_link_makes_no_attempt_of_it() {
    let etcd = Etcd::start().await;
    let proxy = Arc::new(Proxy::start(etcd.endpoint()));
    let attempts = Arc::new(Mutex::new(Vec::new()));
    let (cut, told) = (proxy.clone(), attempts.clone());
    let hour = Duration::from_secs(3600);
    let rule = Rule::new("work").when(key("/todo/:id").exists()).backoff(Backoff::new(hour, hour)).run(
        move |firing: Firing| {
            let (proxy, told) = (cut.clone(), told.clone());
            async move {
                let so_far = {
                    let mut told = told.lock().unwrap();
                    told.push(firing.attempt());
                    told.len()
                };
                if so_far <= 3 {
                    proxy.freeze();
                }
                let address = match so_far {
                    // The third one has less patience than the engine.
                    3 => {
                        timeout(2 * SECOND, firing.get_opt("/addresses/:id")).await.ok().and_then(Result::ok)
                    }
                    _ => firing.get_opt("/addresses/:id").await.ok(),
                };
                proxy.heal();
                match address {
                    None if so_far == 2 => panic!("there should have been an answer"),
                    None => Err(NoAddress),
                    Some(_) => Ok(firing.commit().delete("/todo/:id")),
                }
            }
        },
    );
    let engine = Engine::builder("link", [proxy.endpoint()]).request_timeout(3 * SECOND).rule(rule);
    let engine = engine.build().unwrap().start().await.unwrap();
    engine.ready().await;
    etcd.put("/todo/a", "").await;
    eventually(60 * SECOND, "it is done", async || etcd.get("/todo/a").await.is_none()).await;
    assert_eq!(*attempts.lock().unwrap(), [1, 1, 1, 1]);
    engine.shutdown(10 * SECOND).await.unwrap();
}

/// A runtime that only runs while nothing blocks its one thread.
fn lone_runtime() -> (tokio::runtime::Handle, Arc<AtomicBool>, std::thread::JoinHandle<()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let handle = runtime.handle().clone();
    let end = Arc::new(AtomicBool::new(false));
    let ends = end.clone();
    let run = move || {
        runtime.block_on(async {
            while !ends.load(Ordering::SeqCst) {
                sleep(SECOND / 20).await;
            }
        });
    };
    (handle, end, std::thread::spawn(run))
}

/// What a callback does that is the first to need a connection.
#[derive(Clone, Copy, Debug)]
enum First {
    Get,
    Client,
}

/// The callback blocks the only thread of the application's runtime as soon as it has its answer. The commit of a
/// callback that had ended must still be sent, and locks must be taken.
async fn nobody_waits_for_the_one_who_blocks(first: First) {
    const BLOCKS: Duration = Duration::from_secs(15);
    let etcd = Etcd::start().await;
    let proxy = Proxy::start(etcd.endpoint());
    let (handle, end, thread) = lone_runtime();
    let (go, blocked) = (Arc::new(Notify::new()), Arc::new(Mutex::new(None)));
    let (release, ended) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
    let (told, tells) = (go.clone(), blocked.clone());
    let (releases, has_ended) = (release.clone(), ended.clone());
    let blocker = Rule::new("blocker").when(key("/block/:id").exists()).run(move |firing: Firing| {
        let (go, blocked) = (told.clone(), tells.clone());
        let (release, ended) = (releases.clone(), has_ended.clone());
        async move {
            go.notified().await;
            match first {
                First::Get => drop(firing.get_opt("/elsewhere").await?),
                First::Client => drop(firing.client().await?.get("/elsewhere", None).await?),
            }
            // The other callback ends, and then nothing runs here any more.
            release.notify_one();
            while !ended.load(Ordering::SeqCst) {
                tokio::task::yield_now().await;
            }
            *blocked.lock().unwrap() = Some(Instant::now());
            std::thread::sleep(BLOCKS);
            Ok::<Outcome, Error>(firing.commit().delete("/block/:id").into())
        }
    });
    let other = Rule::new("other").when(key("/other/:id").exists()).run(move |firing: Firing| {
        let (release, ended) = (release.clone(), ended.clone());
        async move {
            if firing.attribute("id")? == "early" {
                release.notified().await;
                ended.store(true, Ordering::SeqCst);
            }
            Ok::<Outcome, Error>(firing.commit().delete("/other/:id").into())
        }
    });
    let engine = Engine::builder("link", [proxy.endpoint()]).runtime(handle).lock_ttl(10 * SECOND);
    let engine = engine.rules([blocker, other]).build().unwrap().start().await.unwrap();
    engine.ready().await;
    etcd.put("/block/a", "").await;
    etcd.put("/other/early", "").await;
    let locks = async |rule: &str| {
        let locks = etcd.keys("/etcd-rules/link/").await;
        locks.iter().filter(|lock| lock.contains(rule)).count()
    };
    let run = async || (locks("blocker").await, locks("other").await) == (1, 1);
    eventually(20 * SECOND, "both run", run).await;
    // No connection is left, and nobody else asks for one over the link for requests.
    proxy.cut();
    sleep(SECOND).await;
    proxy.heal();
    go.notify_one();
    eventually(10 * SECOND, "it blocks", async || blocked.lock().unwrap().is_some()).await;
    let since = blocked.lock().unwrap().expect("it blocks");
    let committed = async || etcd.get("/other/early").await.is_none();
    eventually(10 * SECOND, "the other one is committed", committed).await;
    for id in 0..10 {
        etcd.put(&format!("/other/{id}"), "").await;
    }
    eventually(10 * SECOND, "locks are taken", async || locks("other").await == 10).await;
    assert!(since.elapsed() < 8 * SECOND, "{first:?}: they waited: {:?}", since.elapsed());
    eventually(60 * SECOND, "everything is done", async || {
        etcd.keys("/other/").await.is_empty() && etcd.keys("/block/").await.is_empty()
    })
    .await;
    engine.shutdown(10 * SECOND).await.unwrap();
    end.store(true, Ordering::SeqCst);
    thread.join().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_a_get_needed_first_is_not_held_up_by_a_blocked_callback() {
    nobody_waits_for_the_one_who_blocks(First::Get).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_a_client_needed_first_is_not_held_up_by_a_blocked_callback() {
    nobody_waits_for_the_one_who_blocks(First::Client).await;
}
