//! One at a time, across engines: locks, fences, leases, shared retries.

use crate::support::{Etcd, assert_nothing_left, eventually};
use etcd_client::{PutOptions, Txn};
use etcd_rules::events::{EventKind, NotLocked};
use etcd_rules::{
    Backoff, Engine, EngineBuilder, Error, Firing, FiringError, Outcome, Rule, RunningEngine, key,
};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{Instant, sleep};

const SECOND: Duration = Duration::from_secs(1);

fn engine(etcd: &Etcd) -> EngineBuilder {
    Engine::builder("app", [etcd.endpoint()]).lock_ttl(8 * SECOND)
}

async fn start(builder: EngineBuilder) -> RunningEngine {
    let running = builder.build().unwrap().start().await.unwrap();
    running.ready().await;
    running
}

/// A callback that records whether another one runs at the same time.
#[derive(Clone, Default)]
struct Alone {
    running: Arc<AtomicUsize>,
    runs: Arc<AtomicUsize>,
    together: Arc<AtomicBool>,
}

impl Alone {
    async fn work(&self) {
        if self.running.fetch_add(1, Ordering::SeqCst) > 0 {
            self.together.store(true, Ordering::SeqCst);
        }
        sleep(Duration::from_millis(50)).await;
        self.running.fetch_sub(1, Ordering::SeqCst);
        self.runs.fetch_add(1, Ordering::SeqCst);
    }

    fn rule(&self, id: &str) -> Rule {
        let (alone, prefix) = (self.clone(), format!("/{id}/:id"));
        Rule::new(id).when(key(prefix.as_str()).exists()).lock("/the/only/one").run(move |firing: Firing| {
            let (alone, prefix) = (alone.clone(), prefix.clone());
            async move {
                alone.work().await;
                Ok::<Outcome, Error>(firing.commit().delete(&prefix).into())
            }
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_that_share_a_lock_exclude_each_other_within_and_across_engines() {
    let etcd = Etcd::start().await;
    let alone = Alone::default();
    let two = || engine(&etcd).rules([alone.rule("left"), alone.rule("right")]);
    let (one, other) = (start(two()).await, start(two()).await);
    for n in 0..10 {
        etcd.put(&format!("/left/{n}"), "").await;
        etcd.put(&format!("/right/{n}"), "").await;
    }
    eventually(30 * SECOND, "all are done", async || {
        etcd.keys("/left/").await.is_empty() && etcd.keys("/right/").await.is_empty()
    })
    .await;
    assert!(!alone.together.load(Ordering::SeqCst), "two callbacks ran under one lock");
    assert_eq!(alone.runs.load(Ordering::SeqCst), 20);
    one.shutdown(SECOND).await.unwrap();
    other.shutdown(SECOND).await.unwrap();
    assert_nothing_left(&etcd, "/etcd-rules/", SECOND).await;
}

/// Of many instances that want one lock, an engine tries one a release, however many wait: a hundred waiters are no
/// hundred attempts.
#[tokio::test(flavor = "multi_thread")]
async fn a_shared_lock_is_tried_once_a_release_by_each_engine() {
    const INSTANCES: usize = 60;
    let etcd = Etcd::start().await;
    let held = Arc::new(AtomicUsize::new(0));
    let rule = || {
        Rule::new("job").when(key("/jobs/:id").exists()).lock("/the/only/one").run(
            |firing: Firing| async move {
                sleep(Duration::from_millis(5)).await;
                Ok::<Outcome, Error>(firing.commit().delete("/jobs/:id").into())
            },
        )
    };
    let mut engines = Vec::new();
    for _ in 0..2 {
        let engine = engine(&etcd).rule(rule()).event_buffer(1 << 16).build().unwrap();
        let (mut events, held) = (engine.events(), held.clone());
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                let event = event.expect("the buffer takes all of them");
                if matches!(event.kind, EventKind::NotLocked { reason: NotLocked::Held(_), .. }) {
                    held.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
        let running = engine.start().await.unwrap();
        running.ready().await;
        engines.push(running);
    }
    for n in 0..INSTANCES {
        etcd.put(&format!("/jobs/{n}"), "").await;
    }
    eventually(60 * SECOND, "all are done", async || etcd.keys("/jobs/").await.is_empty()).await;
    let held = held.load(Ordering::SeqCst);
    assert!(held <= INSTANCES + INSTANCES / 4, "{held} losing attempts for {INSTANCES} firings");
    for engine in engines {
        engine.shutdown(SECOND).await.unwrap();
    }
}

fn delete_jobs() -> Rule {
    Rule::new("job")
        .when(key("/jobs/:id").exists())
        .run(|firing: Firing| async move { Ok::<Outcome, Error>(firing.commit().delete("/jobs/:id").into()) })
}

/// A lock under the engine's own lease, left by an attempt whose answer never came.
async fn orphan(etcd: &Etcd, id: &str) {
    let leases = etcd.leases().await;
    assert_eq!(leases.len(), 1, "the lease of the engine's locks");
    let holder = r#"{"engine":"app","nonce":1,"since":0}"#;
    let options = PutOptions::new().with_lease(leases[0]);
    let key = format!("/etcd-rules/app/lock/job/{id}");
    etcd.client().await.put(key, holder, Some(options)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orphaned_lock_is_freed_by_the_next_attempt() {
    let etcd = Etcd::start().await;
    let running = start(engine(&etcd).rule(delete_jobs())).await;
    eventually(20 * SECOND, "it has a lease", async || etcd.leases().await.len() == 1).await;
    orphan(&etcd, "1").await;
    etcd.put("/jobs/1", "").await;
    eventually(20 * SECOND, "it fired all the same", async || etcd.get("/jobs/1").await.is_none()).await;
    running.shutdown(SECOND).await.unwrap();
    assert_nothing_left(&etcd, "/etcd-rules/", SECOND).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orphaned_lock_is_freed_by_a_crawl() {
    let etcd = Etcd::start().await;
    let running = start(engine(&etcd).rule(delete_jobs()).crawl_interval(SECOND)).await;
    eventually(20 * SECOND, "it has a lease", async || etcd.leases().await.len() == 1).await;
    orphan(&etcd, "1").await;
    eventually(20 * SECOND, "it was found", async || etcd.keys("/etcd-rules/app/lock/").await.is_empty())
        .await;
    running.shutdown(SECOND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_is_lost_cancels_the_callback_and_its_commit_has_no_effect() {
    let etcd = Etcd::start().await;
    let (runs, told) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let (counted, noted) = (runs.clone(), told.clone());
    let rule = Rule::new("job").when(key("/jobs/:id").exists()).run(move |firing: Firing| {
        let (run, noted) = (counted.fetch_add(1, Ordering::SeqCst), noted.clone());
        async move {
            if run == 0 {
                firing.cancelled().await;
                noted.store(true, Ordering::SeqCst);
                return Ok::<Outcome, Error>(firing.commit().put("/wrong", "").delete("/jobs/:id").into());
            }
            Ok(firing.commit().delete("/jobs/:id").into())
        }
    });
    let running = start(engine(&etcd).rule(rule)).await;
    etcd.put("/jobs/1", "").await;
    eventually(20 * SECOND, "it runs", async || runs.load(Ordering::SeqCst) == 1).await;
    let lease = etcd.leases().await[0];
    etcd.client().await.lease_revoke(lease).await.unwrap();
    eventually(20 * SECOND, "it was told", async || told.load(Ordering::SeqCst)).await;
    eventually(20 * SECOND, "the next run succeeded", async || etcd.get("/jobs/1").await.is_none()).await;
    assert_eq!(etcd.get("/wrong").await, None, "a commit without the lock");
    running.shutdown(SECOND).await.unwrap();
    assert_nothing_left(&etcd, "/etcd-rules/", 5 * SECOND).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_takes_effect_only_while_the_lock_is_the_firings_own() {
    let etcd = Etcd::start().await;
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = runs.clone();
    let rule = Rule::new("job").when(key("/jobs/:id").exists()).run(move |firing: Firing| {
        let run = counted.fetch_add(1, Ordering::SeqCst);
        async move {
            if run == 0 {
                // Somebody takes the lock away and gives it back: the same key, another fence.
                let lock = "/etcd-rules/app/lock/job/1";
                let mut client = firing.client().await?;
                let held = client.get(lock, None).await.unwrap().take_kvs().remove(0);
                assert_eq!(held.create_revision(), firing.fencing_token());
                client.delete(lock, None).await.unwrap();
                let options = PutOptions::new().with_lease(held.lease());
                client.put(lock, held.value(), Some(options)).await.unwrap();
                sleep(Duration::from_millis(200)).await;
                client.txn(Txn::new()).await.unwrap();
            }
            Ok::<Outcome, Error>(firing.commit().put("/run", run.to_string()).delete("/jobs/:id").into())
        }
    });
    let running = start(engine(&etcd).rule(rule)).await;
    etcd.put("/jobs/1", "").await;
    eventually(20 * SECOND, "it ended", async || etcd.get("/jobs/1").await.is_none()).await;
    assert_eq!(etcd.get("/run").await, Some("1".into()), "the first commit had lost its fence");
    running.shutdown(SECOND).await.unwrap();
    assert_nothing_left(&etcd, "/etcd-rules/", 5 * SECOND).await;
}

fn failing(attempts: Arc<Mutex<Vec<Instant>>>, outcome: fn() -> Result<Outcome, Error>) -> Rule {
    Rule::new("job")
        .when(key("/jobs/:id").exists())
        .backoff(Backoff::new(Duration::from_millis(500), Duration::from_millis(500)))
        .run(move |_: Firing| {
            attempts.lock().unwrap().push(Instant::now());
            async move { outcome() }
        })
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_hold_all_engines_back() {
    let etcd = Etcd::start().await;
    let attempts = Arc::new(Mutex::new(Vec::new()));
    let nothing = || Err(FiringError::Absent { key: "nothing".into() }.into());
    let rule = || failing(attempts.clone(), nothing);
    let hour = Duration::from_secs(3600);
    let patient = Rule::new("patient").when(key("/hours/:id").exists()).backoff(Backoff::new(hour, hour));
    let patient = patient.run(move |_: Firing| async move { nothing() });
    let mut engines = Vec::new();
    for _ in 0..3 {
        engines.push(start(engine(&etcd).rules([rule(), patient.clone()])).await);
    }
    let before = Instant::now();
    etcd.put("/jobs/1", "").await;
    eventually(60 * SECOND, "eight attempts", async || attempts.lock().unwrap().len() >= 8).await;
    // So many delays of half a second, which may be shorter by a fifth, lie before the eighth.
    let eighth = attempts.lock().unwrap()[7] - before;
    assert!(eighth >= Duration::from_millis(7 * 380), "{eighth:?}");
    etcd.delete("/jobs/1").await;
    etcd.put("/hours/1", "").await;
    let marks = async || etcd.keys("/etcd-rules/app/backoff/patient/").await.len();
    eventually(20 * SECOND, "it is marked, for an hour", async || marks().await == 1).await;
    etcd.delete("/hours/1").await;
    let clear = async || etcd.keys("/etcd-rules/app/backoff/").await.is_empty();
    eventually(20 * SECOND, "falsity clears the mark", clear).await;
    for engine in engines {
        engine.shutdown(SECOND).await.unwrap();
    }
    assert_nothing_left(&etcd, "/etcd-rules/", SECOND).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_change_cuts_the_wait_to_the_base_delay() {
    let etcd = Etcd::start().await;
    let attempts = Arc::new(Mutex::new(Vec::new()));
    let rule = failing(attempts.clone(), || Err(FiringError::Absent { key: "nothing".into() }.into()))
        .backoff(Backoff::new(Duration::from_millis(200), 600 * SECOND));
    let running = start(engine(&etcd).rule(rule)).await;
    etcd.put("/jobs/1", "").await;
    // 0.2 + 0.4 + 0.8 + 1.6 + 3.2 s: then it waits for about 6 s.
    let count = || attempts.lock().unwrap().len();
    eventually(60 * SECOND, "six attempts", async || count() == 6).await;
    let sixth = attempts.lock().unwrap()[5];
    etcd.put("/jobs/1", "again").await;
    eventually(20 * SECOND, "the seventh", async || count() == 7).await;
    let waited = attempts.lock().unwrap()[6] - sixth;
    assert!(waited < 4 * SECOND, "{waited:?}");
    running.shutdown(SECOND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_engine_gave_up_the_others_leave_alone_until_it_ends() {
    let etcd = Etcd::start().await;
    let attempts = Arc::new(Mutex::new(Vec::new()));
    let rule = || failing(attempts.clone(), || Ok(Outcome::give_up("no use")));
    let one = start(engine(&etcd).rule(rule())).await;
    etcd.put("/jobs/1", "").await;
    let count = || attempts.lock().unwrap().len();
    eventually(20 * SECOND, "it fired", async || count() == 1).await;
    let other = start(engine(&etcd).rule(rule())).await;
    sleep(2 * SECOND).await;
    assert_eq!(count(), 1, "the other engine left it alone");
    etcd.put("/jobs/1", "changed").await;
    eventually(20 * SECOND, "a change is a reason", async || count() == 2).await;
    sleep(SECOND).await;
    assert_eq!(count(), 2, "for one of them");
    one.shutdown(SECOND).await.unwrap();
    other.shutdown(SECOND).await.unwrap();
    assert_nothing_left(&etcd, "/etcd-rules/", SECOND).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crawl_fires_again_what_is_still_true() {
    let etcd = Etcd::start().await;
    let attempts = Arc::new(Mutex::new(Vec::new()));
    let rule = failing(attempts.clone(), || Ok(Outcome::done()));
    let running = start(engine(&etcd).rule(rule).crawl_interval(SECOND)).await;
    etcd.put("/jobs/1", "").await;
    let count = || attempts.lock().unwrap().len();
    eventually(20 * SECOND, "it fired three times", async || count() >= 3).await;
    assert_eq!(running.stats().await.unwrap().drift, 0);
    running.shutdown(SECOND).await.unwrap();
}

/// The watches of the rules' keys stand before what was restored, the one of the locks stands after it.
#[tokio::test(flavor = "multi_thread")]
async fn losers_are_woken_also_after_older_data_that_only_the_locks_tell() {
    let mut etcd = Etcd::start().await;
    etcd.put("/jobs/1", "").await;
    let running = start(engine(&etcd).rule(delete_jobs())).await;
    eventually(20 * SECOND, "it fired", async || etcd.get("/jobs/1").await.is_none()).await;
    let saved = etcd.save();
    for _ in 0..20 {
        etcd.put("/etcd-rules/app/lock/job/other", "").await;
        etcd.delete("/etcd-rules/app/lock/job/other").await;
    }
    sleep(SECOND).await;
    etcd.restore(&saved).await;
    etcd.put("/etcd-rules/app/lock/job/2", "{}").await;
    etcd.put("/jobs/2", "").await;
    eventually(20 * SECOND, "it waits", async || running.stats().await.unwrap().held == 1).await;
    // Until the engine has found all of the new state.
    sleep(2 * SECOND).await;
    etcd.delete("/etcd-rules/app/lock/job/2").await;
    eventually(20 * SECOND, "it was woken", async || etcd.get("/jobs/2").await.is_none()).await;
    running.shutdown(SECOND).await.unwrap();
    assert_nothing_left(&etcd, "/etcd-rules/", 20 * SECOND).await;
}

/// What is queued when an engine is dropped does not start under a lock that is being revoked.
#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_engine_starts_nothing_more() {
    let etcd = Etcd::start().await;
    let begun = Arc::new(AtomicUsize::new(0));
    let counter = begun.clone();
    let rule = Rule::new("job").when(key("/jobs/:id").exists()).concurrency(4).run(move |firing: Firing| {
        counter.fetch_add(1, Ordering::SeqCst);
        async move {
            firing.cancelled().await;
            Ok::<Outcome, Error>(Outcome::done())
        }
    });
    for n in 0..200 {
        etcd.put(&format!("/jobs/{n}"), "").await;
    }
    let running = start(engine(&etcd).lock_ttl(60 * SECOND).rule(rule)).await;
    eventually(20 * SECOND, "all slots are taken", async || begun.load(Ordering::SeqCst) == 4).await;
    drop(running);
    // Sooner than by the TTL.
    assert_nothing_left(&etcd, "/etcd-rules/", 20 * SECOND).await;
    assert_eq!(begun.load(Ordering::SeqCst), 4);
}

/// A time that no lease can have is a failure of its callback, and of nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn a_time_to_live_beyond_all_bounds_hurts_only_its_firing() {
    let etcd = Etcd::start().await;
    let rule = Rule::new("long").when(key("/long/:id").exists()).run(|firing: Firing| async move {
        Ok::<Outcome, Error>(firing.commit().put_ttl("/until/:id", "", Duration::MAX).into())
    });
    let never = engine(&etcd).crawl_interval(Duration::MAX).crawl_ageing(Duration::MAX);
    let running = start(never.rules([rule, delete_jobs()])).await;
    etcd.put("/long/1", "").await;
    eventually(20 * SECOND, "it failed", async || {
        !etcd.keys("/etcd-rules/app/backoff/long/").await.is_empty()
    })
    .await;
    etcd.put("/jobs/1", "").await;
    eventually(20 * SECOND, "others fire", async || etcd.get("/jobs/1").await.is_none()).await;
    running.shutdown(Duration::MAX).await.unwrap();
    assert_nothing_left(&etcd, "/etcd-rules/", 10 * SECOND).await;
}
