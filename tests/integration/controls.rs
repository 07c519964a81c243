//! Rules that are held back, on a live etcd: each in one engine, for as long as its operator wants.

use crate::support::{Etcd, eventually};
use etcd_rules::events::EventKind;
use etcd_rules::inspect::{InstanceQuery, InstanceState, QueuedFor, StateKind, WaitReason};
use etcd_rules::{
    Engine, EngineBuilder, EngineError, Error, Firing, Outcome, RateLimit, Rule, RunningEngine, key,
};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

const SECOND: Duration = Duration::from_secs(1);

/// Does a job when it may, by taking it away.
fn work(id: &str, may: &Arc<Semaphore>) -> Rule {
    let may = may.clone();
    Rule::new(id).when(key("/jobs/:id").exists()).run(move |firing: Firing| {
        let may = may.clone();
        async move {
            let permit = may.acquire().await;
            drop(permit);
            Ok::<Outcome, Error>(firing.commit().delete("/jobs/:id").into())
        }
    })
}

fn open() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(1))
}

fn builder(etcd: &Etcd, name: &str) -> EngineBuilder {
    Engine::builder("test", [etcd.endpoint()]).name(name)
}

async fn start(builder: EngineBuilder) -> RunningEngine {
    let running = builder.build().unwrap().start().await.unwrap();
    running.ready().await;
    running
}

async fn done(etcd: &Etcd) {
    eventually(20 * SECOND, "all jobs are done", async || etcd.keys("/jobs/").await.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_rule_lets_its_callbacks_end_and_starts_nothing_until_it_is_resumed() {
    let etcd = Etcd::start().await;
    let may = Arc::new(Semaphore::new(0));
    let other = Rule::new("other").when(key("/others/:id").exists()).run(|firing: Firing| async move {
        Ok::<Outcome, Error>(firing.commit().delete("/others/:id").into())
    });
    let engine = start(builder(&etcd, "a").rule(work("work", &may)).rule(other)).await;
    etcd.put("/jobs/1", "").await;
    let fired = async || engine.rules().await.unwrap()[0].fired;
    eventually(20 * SECOND, "it runs", async || fired().await == 1).await;
    engine.pause("work").await.unwrap();
    may.add_permits(1);
    done(&etcd).await;

    etcd.put("/jobs/2", "").await;
    etcd.put("/others/1", "").await;
    eventually(20 * SECOND, "the other rule goes on", async || etcd.keys("/others/").await.is_empty()).await;
    let two = [("id", "2")].into();
    let waits = async || engine.explain("work", &two).await.unwrap().instance.map(|one| one.state);
    let paused = InstanceState::Queued(QueuedFor::Resume);
    eventually(20 * SECOND, "it waits", async || waits().await == Some(paused.clone())).await;
    assert!(!engine.fire_now("work", &two).await.unwrap(), "it is queued already");
    sleep(SECOND / 2).await;
    let rules = engine.rules().await.unwrap();
    assert_eq!((rules[0].paused, rules[1].paused, rules[0].fired), (true, false, 1));
    assert_eq!(etcd.keys("/jobs/").await, ["/jobs/2"]);

    engine.resume("work").await.unwrap();
    done(&etcd).await;
    assert!(!engine.rules().await.unwrap()[0].paused);
    assert!(matches!(engine.pause("nothing").await, Err(EngineError::UnknownRule(_))));
    assert!(matches!(engine.resume("nothing").await, Err(EngineError::UnknownRule(_))));
    engine.shutdown(SECOND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_may_begin_paused_and_is_so_in_its_own_engine_only() {
    let etcd = Etcd::start().await;
    let first = start(builder(&etcd, "a").rule(work("work", &open()).paused())).await;
    etcd.put("/jobs/1", "").await;
    eventually(20 * SECOND, "it is found", async || first.stats().await.unwrap().queued == 1).await;
    sleep(SECOND / 2).await;
    assert_eq!(first.rules().await.unwrap()[0].fired, 0);
    let second = start(builder(&etcd, "b").rule(work("work", &open()))).await;
    done(&etcd).await;
    assert_eq!(first.rules().await.unwrap()[0].fired, 0, "the other engine did it");
    second.shutdown(SECOND).await.unwrap();
    etcd.put("/jobs/2", "").await;
    first.resume("work").await.unwrap();
    done(&etcd).await;
    first.shutdown(SECOND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_while_locks_are_taken_leaves_none() {
    let etcd = Etcd::start().await;
    let engine = start(builder(&etcd, "a").rule(work("work", &open()).lock("/all/:id"))).await;
    for round in 0..20 {
        for id in 0..10 {
            etcd.put(&format!("/jobs/{round}-{id}"), "").await;
        }
        engine.pause("work").await.unwrap();
        eventually(20 * SECOND, "what had started ends", async || {
            engine.stats().await.unwrap().running == 0 && etcd.keys("/etcd-rules/test/lock/").await.is_empty()
        })
        .await;
        engine.resume("work").await.unwrap();
    }
    done(&etcd).await;
    engine.shutdown(SECOND).await.unwrap();
}

/// Does jobs and notes when it started.
fn noting(id: &str, starts: &Arc<Mutex<Vec<Instant>>>) -> Rule {
    let starts = starts.clone();
    Rule::new(id).when(key("/jobs/:id").exists()).run(move |firing: Firing| {
        starts.lock().unwrap().push(Instant::now());
        async move { Ok::<Outcome, Error>(firing.commit().delete("/jobs/:id").into()) }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_rule_with_a_rate_limit_so_many_start_at_once_and_the_rest_one_by_one() {
    let etcd = Etcd::start().await;
    let starts = Arc::default();
    let rule = noting("work", &starts).rate_limit(RateLimit::new(4, SECOND));
    let engine = start(builder(&etcd, "a").rule(rule)).await;
    let before = Instant::now();
    for id in 0..12 {
        etcd.put(&format!("/jobs/{id}"), "").await;
    }
    done(&etcd).await;
    {
        let spent = starts.lock().unwrap();
        assert_eq!(spent.len(), 12);
        // Four permits that were saved, and one more each quarter of a second.
        for (number, at) in spent.iter().enumerate().skip(4) {
            assert!(*at - before >= SECOND * (number as u32 - 3) / 4, "{number}: {:?}", *at - before);
        }
    }

    assert_eq!(engine.rules().await.unwrap()[0].rate_limit, Some(RateLimit::new(4, SECOND)));
    engine.set_rate_limit("work", Some(RateLimit::new(4, 3600 * SECOND))).await.unwrap();
    for id in 0..12 {
        etcd.put(&format!("/jobs/{id}"), "").await;
    }
    let waiting = async || {
        let page = engine.instances(InstanceQuery::new().only_true()).await.unwrap();
        let waits = page.instances.iter().filter(|one| one.state == InstanceState::Queued(QueuedFor::Rate));
        (waits.count(), etcd.keys("/jobs/").await.len())
    };
    eventually(20 * SECOND, "those that were saved are done, the others wait", async || {
        waiting().await == (8, 8)
    })
    .await;
    sleep(SECOND).await;
    assert_eq!(waiting().await, (8, 8));
    engine.set_rate_limit("work", None).await.unwrap();
    done(&etcd).await;
    assert_eq!(engine.rules().await.unwrap()[0].rate_limit, None);
    let never = engine.set_rate_limit("work", Some(RateLimit::new(0, SECOND))).await;
    assert!(matches!(&never, Err(EngineError::Rule { rule, .. }) if rule == "work"), "{never:?}");
    assert!(matches!(engine.set_rate_limit("no", None).await, Err(EngineError::UnknownRule(_))));
    engine.shutdown(SECOND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_of_a_rule_with_a_least_interval_rests_between_two_firings() {
    let etcd = Etcd::start().await;
    let starts: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let count = || starts.lock().unwrap().len();
    let engine = start(builder(&etcd, "a").rule(noting("work", &starts).min_interval(2 * SECOND))).await;
    let before = Instant::now();
    for round in 1..=2 {
        etcd.put("/jobs/1", "").await;
        done(&etcd).await;
        assert_eq!(count(), round);
    }
    let rests = starts.lock().unwrap()[1] - before;
    assert!(rests >= 2 * SECOND, "{rests:?}");
    // Others need not wait for that.
    engine.set_min_interval("work", Some(600 * SECOND)).await.unwrap();
    etcd.put("/jobs/1", "").await;
    etcd.put("/jobs/2", "").await;
    eventually(20 * SECOND, "the other fires", async || count() == 3).await;
    let one = [("id", "1")].into();
    // For a moment it may still wait for the event of its own commit.
    let waits = eventually(20 * SECOND, "it waits for its interval", async || {
        let explained = engine.explain("work", &one).await.unwrap();
        explained
            .instance
            .filter(|one| matches!(one.state, InstanceState::Waiting { reason: WaitReason::Interval, .. }))
    })
    .await;
    let InstanceState::Waiting { reason: WaitReason::Interval, remaining } = waits.state else {
        panic!("{waits}")
    };
    assert!(remaining > 300 * SECOND, "{waits}");
    assert!(engine.fire_now("work", &one).await.unwrap());
    eventually(20 * SECOND, "it fires, because somebody wants it", async || count() == 4).await;
    done(&etcd).await;

    assert_eq!(engine.rules().await.unwrap()[0].min_interval, Some(600 * SECOND));
    etcd.put("/jobs/1", "").await;
    sleep(3 * SECOND).await;
    assert_eq!(count(), 4);
    engine.set_min_interval("work", None).await.unwrap();
    eventually(20 * SECOND, "nothing holds it back", async || count() == 5).await;
    let never = engine.set_min_interval("work", Some(Duration::ZERO)).await;
    assert!(matches!(&never, Err(EngineError::Rule { rule, .. }) if rule == "work"), "{never:?}");
    engine.shutdown(SECOND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_dry_run_nothing_happens_but_that_it_is_counted_listed_and_told() {
    let etcd = Etcd::start().await;
    let rules = [work("work", &open()).dry_run(), work("quick", &open()).optimistic().dry_run()];
    let engine = start(builder(&etcd, "a").rules(rules)).await;
    let mut events = engine.events();
    let before = etcd.revision().await;
    for id in 0..3 {
        etcd.put(&format!("/jobs/{id}"), "").await;
    }
    let would = async || {
        let would = InstanceQuery::new().rule("work").state(StateKind::WouldFire);
        engine.instances(would).await.unwrap().instances.len()
    };
    let both = async || engine.stats().await.unwrap().would_fire == 6;
    eventually(20 * SECOND, "both would fire", both).await;
    assert_eq!(would().await, 3);
    etcd.put("/jobs/0", "again").await;
    let counted = async || {
        let rules = engine.rules().await.unwrap();
        [rules[0].would_have_fired, rules[1].would_have_fired]
    };
    eventually(20 * SECOND, "a change counts", async || counted().await == [4, 4]).await;
    assert_eq!(engine.stats().await.unwrap().would_fire, 6);
    sleep(SECOND / 2).await;
    assert_eq!((counted().await, etcd.revision().await), ([4, 4], before + 4), "it writes nothing");
    let mut told = 0;
    while let Some(event) = events.try_recv() {
        match &event.unwrap().kind {
            EventKind::State(InstanceState::WouldFire) => told += 1,
            EventKind::State(_) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(told, 8);
    let rules = engine.rules().await.unwrap();
    assert!(rules[0].dry_run && rules[0].fired == 0);
    let one = [("id", "1")].into();
    let explained = engine.explain("work", &one).await.unwrap();
    assert!(explained.to_string().contains("work id=1: would fire: its rule is in a dry run"), "{explained}");
    assert!(!engine.fire_now("work", &one).await.unwrap());

    engine.end_dry_run("work").await.unwrap();
    done(&etcd).await;
    eventually(20 * SECOND, "nothing would fire", async || engine.stats().await.unwrap().would_fire == 0)
        .await;
    let rules = engine.rules().await.unwrap();
    assert_eq!((rules[0].fired, rules[0].dry_run, rules[1].fired), (3, false, 0));

    engine.begin_dry_run("work").await.unwrap();
    etcd.put("/jobs/9", "").await;
    eventually(20 * SECOND, "it would fire", async || would().await == 1).await;
    assert!(matches!(engine.begin_dry_run("no").await, Err(EngineError::UnknownRule(_))));
    assert!(matches!(engine.end_dry_run("no").await, Err(EngineError::UnknownRule(_))));
    // Another engine is not in a dry run.
    let second = start(builder(&etcd, "b").rule(work("work", &open()))).await;
    done(&etcd).await;
    eventually(20 * SECOND, "it is false", async || would().await == 0).await;
    second.shutdown(SECOND).await.unwrap();
    engine.shutdown(SECOND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_that_begins_while_locks_are_taken_leaves_none() {
    let etcd = Etcd::start().await;
    let engine = start(builder(&etcd, "a").rule(work("work", &open()))).await;
    for round in 0..20 {
        for id in 0..10 {
            etcd.put(&format!("/jobs/{round}-{id}"), "").await;
        }
        engine.begin_dry_run("work").await.unwrap();
        eventually(20 * SECOND, "what had started ends", async || {
            engine.stats().await.unwrap().running == 0 && etcd.keys("/etcd-rules/test/lock/").await.is_empty()
        })
        .await;
        engine.end_dry_run("work").await.unwrap();
    }
    done(&etcd).await;
    engine.shutdown(SECOND).await.unwrap();
}
