//! Locks and leases that somebody removes by hand while their callbacks run.

use crate::support::{Etcd, assert_nothing_left, eventually};
use etcd_client::Client;
use etcd_rules::embedded::{EmbeddedEtcd, Fault, RequestKind};
use etcd_rules::events::{CommitResult, EventKind, EventStream};
use etcd_rules::{Engine, EngineBuilder, Error, Firing, Outcome, Rule, RunningEngine, key};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

const SECOND: Duration = Duration::from_secs(1);

/// Nothing else tells it for so long: it is renewed after 20 s.
const LOCK_TTL: Duration = Duration::from_secs(60);

/// What is gone is told so soon.
const TOLD: Duration = Duration::from_millis(2500);

async fn start(builder: EngineBuilder) -> RunningEngine {
    let running = builder.build().unwrap().start().await.unwrap();
    running.ready().await;
    running
}

/// Works until it is told to end. Says when it began (true) and was told (false).
fn long(says: mpsc::Sender<(String, bool)>) -> Rule {
    Rule::new("long").when(key("/jobs/:id").exists()).run(move |firing: Firing| {
        let says = says.clone();
        async move {
            let id = firing.attribute("id")?.to_owned();
            let _ = says.try_send((id.clone(), true));
            firing.cancelled().await;
            let _ = says.try_send((id, false));
            Ok::<Outcome, Error>(Outcome::done())
        }
    })
}

struct Bench {
    etcd: Etcd,
    client: Client,
    running: RunningEngine,
    said: mpsc::Receiver<(String, bool)>,
}

impl Bench {
    /// An engine with callbacks that run, for these ids.
    async fn at_work(ids: &[&str]) -> Self {
        let etcd = Etcd::start().await;
        let (says, said) = mpsc::channel(64);
        let running =
            start(Engine::builder("app", [etcd.endpoint()]).lock_ttl(LOCK_TTL).rule(long(says))).await;
        let client = etcd.client().await;
        let mut bench = Self { etcd, client, running, said };
        for id in ids {
            bench.etcd.put(&format!("/jobs/{id}"), "").await;
            assert_eq!(bench.next().await, ((*id).to_owned(), true));
        }
        bench
    }

    async fn next(&mut self) -> (String, bool) {
        timeout(20 * SECOND, self.said.recv()).await.expect("in time").expect("the engine runs")
    }

    async fn delete_lock(&mut self, id: &str) -> Instant {
        let lock = format!("/etcd-rules/app/lock/long/{id}");
        assert_eq!(self.client.delete(lock, None).await.unwrap().deleted(), 1);
        Instant::now()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callback_whose_lock_is_deleted_is_told_in_time_and_no_other() {
    let mut bench = Bench::at_work(&["1", "2", "3"]).await;
    for pause in [0, 1500, 2700] {
        sleep(Duration::from_millis(pause)).await;
        let gone = bench.delete_lock("2").await;
        assert_eq!(bench.next().await, ("2".to_owned(), false));
        assert!(gone.elapsed() < TOLD, "{:?}", gone.elapsed());
        assert_eq!(bench.next().await, ("2".to_owned(), true), "it is tried again");
    }
    // Somebody else has it meanwhile.
    let lock = "/etcd-rules/app/lock/long/3";
    let gone = Instant::now();
    bench.client.delete(lock, None).await.unwrap();
    bench.client.put(lock, "{}", None).await.unwrap();
    assert_eq!(bench.next().await, ("3".to_owned(), false));
    assert!(gone.elapsed() < TOLD, "{:?}", gone.elapsed());
    bench.client.delete(lock, None).await.unwrap();
    assert_eq!(bench.next().await, ("3".to_owned(), true));
    assert!(timeout(3 * SECOND, bench.said.recv()).await.is_err(), "the others go on");
    bench.running.shutdown(SECOND).await.unwrap();
    assert_nothing_left(&bench.etcd, "/etcd-rules/", SECOND).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn callbacks_whose_lease_is_revoked_are_told_at_once_and_go_on_under_another() {
    let mut bench = Bench::at_work(&["1", "2"]).await;
    for pause in [0, 1200] {
        sleep(Duration::from_millis(pause)).await;
        let [lease] = bench.etcd.leases().await[..] else { panic!("one lease") };
        let gone = Instant::now();
        bench.client.lease_revoke(lease).await.unwrap();
        let mut said = vec![bench.next().await, bench.next().await];
        assert!(gone.elapsed() < SECOND, "{:?}", gone.elapsed());
        said.sort();
        assert_eq!(said, [("1".to_owned(), false), ("2".to_owned(), false)]);
        let mut said = vec![bench.next().await, bench.next().await];
        said.sort();
        assert_eq!(said, [("1".to_owned(), true), ("2".to_owned(), true)]);
    }
    // The key under the lease is as good as the lease, and watched anew with each.
    let keys = bench.etcd.keys("/etcd-rules/app/format/").await;
    let gone = Instant::now();
    bench.client.delete(keys[0].as_str(), None).await.unwrap();
    for _ in 0..2 {
        assert!(!bench.next().await.1);
    }
    assert!(gone.elapsed() < SECOND, "{:?}", gone.elapsed());
    bench.running.shutdown(SECOND).await.unwrap();
    assert_nothing_left(&bench.etcd, "/etcd-rules/", SECOND).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_watched_on_whatever_connection_and_after_a_compaction() {
    let mut bench = Bench::at_work(&["1"]).await;
    for number in 0..20 {
        bench.etcd.put("/other", number.to_string()).await;
    }
    let revision = bench.etcd.put("/other", "last").await;
    bench.client.compact(revision, None).await.unwrap();
    let [lease] = bench.etcd.leases().await[..] else { panic!("one lease") };
    let gone = Instant::now();
    bench.client.lease_revoke(lease).await.unwrap();
    assert_eq!(bench.next().await, ("1".to_owned(), false));
    assert!(gone.elapsed() < SECOND, "{:?}", gone.elapsed());
    bench.running.shutdown(SECOND).await.unwrap();
}

/// An engine on an embedded etcd, whose callbacks work for so long.
async fn embedded(work: Duration) -> (EmbeddedEtcd, Client, RunningEngine, Arc<AtomicUsize>, EventStream) {
    let etcd = EmbeddedEtcd::start().await.unwrap();
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = runs.clone();
    let rule = Rule::new("job").when(key("/jobs/:id").exists()).run(move |firing: Firing| {
        counted.fetch_add(1, Ordering::SeqCst);
        async move {
            sleep(work).await;
            Ok::<Outcome, Error>(firing.commit().delete("/jobs/:id").put("/done/:id", "").into())
        }
    });
    let builder = Engine::builder("app", [etcd.endpoint()]).lock_ttl(LOCK_TTL).request_timeout(SECOND);
    let engine = builder.rule(rule).build().unwrap();
    let events = engine.events();
    let running = engine.start().await.unwrap();
    running.ready().await;
    let client = Client::connect([etcd.endpoint()], None).await.unwrap();
    (etcd, client, running, runs, events)
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_are_read_together_once_a_second_and_only_those_held_for_long() {
    let (etcd, mut client, running, _, _events) = embedded(5 * SECOND).await;
    let seen = || etcd.faults().seen(RequestKind::Txn);
    let idle = seen();
    sleep(3 * SECOND).await;
    assert_eq!(seen(), idle, "nothing is read while there is no lock");
    for id in 0..50 {
        client.put(format!("/jobs/{id}"), "", None).await.unwrap();
    }
    let began = async || running.stats().await.unwrap().running == 50;
    eventually(10 * SECOND, "all run", began).await;
    let before = seen();
    sleep(3 * SECOND).await;
    let read = seen() - before;
    assert!((2..=4).contains(&read), "{read} requests in 3 s for 50 locks");
    running.shutdown(10 * SECOND).await.unwrap();
}

/// How the firings of an instance were closed until one took effect.
async fn closed(events: &mut EventStream) -> Vec<CommitResult> {
    let mut all = Vec::new();
    loop {
        let event =
            timeout(20 * SECOND, events.recv()).await.expect("in time").expect("runs").expect("none missed");
        if let EventKind::Closed { result, .. } = &event.kind {
            all.push(result.clone());
            if result.is_committed() {
                return all;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_never_arrived_and_whose_lock_was_deleted_is_decided_again() {
    let (etcd, mut client, running, runs, mut events) = embedded(Duration::from_millis(300)).await;
    client.put("/jobs/1", "", None).await.unwrap();
    eventually(10 * SECOND, "it runs", async || runs.load(Ordering::SeqCst) == 1).await;
    etcd.faults().inject(Fault::on(RequestKind::Txn).lose());
    // The commit has been sent, and its answer is waited for.
    sleep(Duration::from_millis(700)).await;
    assert_eq!(client.delete("/etcd-rules/app/lock/job/1", None).await.unwrap().deleted(), 1);
    let closed = closed(&mut events).await;
    let [CommitResult::Unknown, CommitResult::Committed { .. }] = closed[..] else { panic!("{closed:?}") };
    assert_eq!(runs.load(Ordering::SeqCst), 2);
    assert_eq!(client.get("/done/1", None).await.unwrap().count(), 1);
    running.shutdown(SECOND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_took_effect_without_an_answer_is_found_with_its_revision() {
    let (etcd, mut client, running, runs, mut events) = embedded(Duration::from_millis(300)).await;
    client.put("/jobs/1", "", None).await.unwrap();
    eventually(10 * SECOND, "it runs", async || runs.load(Ordering::SeqCst) == 1).await;
    etcd.faults().inject(Fault::on(RequestKind::Txn).lose_answer());
    sleep(Duration::from_millis(500)).await;
    // Others change the keys since: what they are now tells nothing.
    let done = client.get("/done/1", None).await.unwrap().kvs()[0].mod_revision();
    client.put("/done/1", "changed", None).await.unwrap();
    let closed = closed(&mut events).await;
    let [CommitResult::Committed { revision }] = closed[..] else { panic!("{closed:?}") };
    assert_eq!((revision, runs.load(Ordering::SeqCst)), (done, 1));
    running.shutdown(SECOND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_is_granted_while_the_engine_ends_goes_with_it() {
    let (etcd, _client, running, _, _events) = embedded(SECOND).await;
    let faults = etcd.faults();
    let [lease] = faults.leases()[..] else { panic!("one lease") };
    let granted = faults.seen(RequestKind::LeaseGrant);
    faults.inject(Fault::on(RequestKind::LeaseGrant).delay_regardless(SECOND / 2));
    faults.expire_lease(lease);
    let asked = async || faults.seen(RequestKind::LeaseGrant) > granted;
    eventually(10 * SECOND, "it asks for another", asked).await;
    running.shutdown(SECOND).await.unwrap();
    sleep(SECOND).await;
    assert!(faults.leases().is_empty(), "{:?}", faults.leases());
}
