//! The testing kit: callbacks tried without an etcd, and firings of running engines awaited.

use crate::support::{Etcd, eventually};
use etcd_rules::events::{Event, EventKind};
use etcd_rules::firing::Effect;
use etcd_rules::firing::FiringOutcome;
use etcd_rules::testing::{Firings, NotFired, NotTried, Trial, Tried, WhyNotFired};
use etcd_rules::{
    Backoff, BoxError, Engine, EngineBuilder, EngineError, Error, ErrorKind, Firing, FiringError, Outcome,
    Rule, Value, key,
};
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, SharedString, Unit};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

/// Tries a callback of a rule over `/jobs/:id` = "new" on one job.
async fn tried<F, Fut>(callback: F) -> Tried
where
    F: Fn(Firing) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Outcome, BoxError>> + Send + 'static,
{
    job(callback).run().await.expect("the rule is true")
}

fn job<F, Fut>(callback: F) -> Trial
where
    F: Fn(Firing) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Outcome, BoxError>> + Send + 'static,
{
    let rule = Rule::new("job").when(key("/jobs/:id").equals("new")).run(callback);
    Trial::of(rule)
        .expect("no mistake")
        .attribute("id", "7")
        .keys([("/jobs/7", "new"), ("/notes/7", "hello")])
}

fn put(key: &str, value: &str, ttl: Option<Duration>) -> Effect {
    Effect::Put { key: key.into(), value: value.into(), ttl }
}

#[tokio::test]
async fn a_callback_reads_the_keys_given_and_nothing_else() {
    let tried = tried(async |firing: Firing| {
        assert_eq!((firing.rule(), firing.engine(), firing.attempt()), ("job", "trial", 1));
        assert_eq!(firing.attribute("id")?, "7");
        assert_eq!(firing.value("/jobs/:id")?, "new");
        assert_eq!(firing.value_opt("/jobs/:id")?, Some(&Value::from("new")));
        // None of the condition's, although such a key exists: not absent, but a mistake.
        for pattern in ["/notes/:id", "/jobs/7", "/jobs/:name"] {
            let mistake = firing.value_opt(pattern).unwrap_err();
            assert!(matches!(&mistake, FiringError::NotShown(named) if named == pattern), "{mistake}");
            assert_eq!(mistake.kind(), ErrorKind::InvalidInput);
            assert!(matches!(firing.value(pattern), Err(FiringError::NotShown(_))));
        }
        assert_eq!(firing.get("/notes/:id").await?, "hello");
        assert_eq!(firing.get_opt("/nowhere/:id").await?, None);
        assert!(
            matches!(firing.get("/nowhere/:id").await, Err(FiringError::Absent { key }) if key == "/nowhere/7")
        );
        assert!(firing.fencing_token() > 0);
        let no_client = firing.client().await.map(|_| ()).unwrap_err().to_string();
        assert!(no_client.contains("a trial has no etcd"), "{no_client}");
        Ok(Outcome::done())
    })
    .await;
    assert_eq!(tried.outcome, FiringOutcome::Done, "a failed assertion would be a panic");
    assert!(tried.explanation.truth, "it changed nothing, so that it is still true");
}

#[tokio::test]
async fn the_effects_of_a_commit_are_shown_and_applied() {
    let tried = tried(async |firing: Firing| {
        Ok(firing
            .commit()
            .expect_unchanged("/jobs/:id")
            .put("/jobs/:id", "done")
            .put_ttl("/rest/:id", "", 5 * SECOND)
            .delete("/notes/:id")
            .into())
    })
    .await;
    assert_eq!(tried.outcome, FiringOutcome::Done);
    let deletion = Effect::Delete { key: "/notes/7".into() };
    assert_eq!(tried.effects, [put("/jobs/7", "done", None), put("/rest/7", "", Some(5 * SECOND)), deletion]);
    assert_eq!(tried.effect("/rest/7"), Some(&put("/rest/7", "", Some(5 * SECOND))));
    assert_eq!((tried.expectations, tried.unexpected), (vec!["/jobs/7".to_owned()], None));
    let keys: Vec<_> = tried.keys.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    assert_eq!(keys, [("/jobs/7", Some("done")), ("/rest/7", Some(""))]);
    assert!(!tried.explanation.truth);
}

#[tokio::test]
async fn what_changes_meanwhile_is_read_but_not_shown_and_fails_expectations() {
    let overwrite = async |firing: Firing| {
        assert_eq!(firing.value_opt("/jobs/:id")?.map(Value::to_string).as_deref(), Some("new"));
        let newest = firing.get_opt("/jobs/:id").await?.map(|value| value.to_string());
        let commit = firing.commit().put("/seen", newest.unwrap_or("absent".into()));
        Ok(commit.expect_unchanged("/jobs/:id").into())
    };
    for (trial, left) in [
        (job(overwrite).put_meanwhile("/jobs/7", "new"), Some("new")),
        (job(overwrite).put_meanwhile("/jobs/7", "old"), Some("old")),
        (job(overwrite).delete_meanwhile("/jobs/7"), None),
    ] {
        let tried = trial.run().await.unwrap();
        assert_eq!(tried.effects, [put("/seen", left.unwrap_or("absent"), None)]);
        assert_eq!(tried.unexpected.as_deref(), Some("/jobs/7"));
        assert_eq!(tried.keys.get("/jobs/7").and_then(Value::as_str), left);
        assert!(!tried.keys.contains_key("/seen"), "nothing takes effect");
    }
    let tried = job(overwrite).put_meanwhile("/notes/7", "bye").run().await.unwrap();
    assert_eq!((tried.unexpected, tried.keys["/seen"].as_str()), (None, Some("new")));
}

#[tokio::test(start_paused = true)]
async fn every_way_to_end_is_told() {
    assert_eq!(
        tried(async |_| Ok(Outcome::retry_after(SECOND))).await.outcome,
        FiringOutcome::RetryAfter(SECOND)
    );
    let gave_up = tried(async |firing: Firing| Ok(firing.commit().put("/why", "x").give_up("no use"))).await;
    assert_eq!(gave_up.outcome, FiringOutcome::GaveUp("no use".into()));
    assert_eq!(gave_up.keys["/why"], "x", "a commit with another end takes effect too");
    let failed = tried(async |_| Err("no luck".into())).await;
    assert_eq!(failed.outcome, FiringOutcome::Failed("no luck".into()));
    let panicked = tried(async |_| panic!("on fire")).await;
    assert_eq!(panicked.outcome, FiringOutcome::Panicked("on fire".into()));
}

#[tokio::test]
async fn a_callback_may_be_told_that_it_is_not_the_first_attempt() {
    let say = async |firing: Firing| Ok(firing.commit().put("/attempt", firing.attempt().to_string()).into());
    assert_eq!(job(say).run().await.unwrap().keys["/attempt"], "1");
    assert_eq!(job(say).attempt(3).run().await.unwrap().keys["/attempt"], "3");
}

#[tokio::test(start_paused = true)]
async fn the_time_limit_and_the_grace_after_a_cancellation_hold() {
    let hanging = || Rule::new("job").when(key("/jobs/:id").equals("new")).time_limit(60 * SECOND);
    let on = |rule: Rule| Trial::of(rule).unwrap().attribute("id", "7").key("/jobs/7", "new");
    let hang = async |_: Firing| std::future::pending::<Result<Outcome, BoxError>>().await;
    let late = on(hanging().run(hang)).run().await.unwrap();
    assert_eq!((late.outcome, late.took), (FiringOutcome::TimedOut, 60 * SECOND));

    let cut = on(hanging().lock_ttl(16 * SECOND).run(hang)).cancel_after(SECOND).run().await.unwrap();
    assert_eq!((cut.outcome, cut.took), (FiringOutcome::Cancelled, 3 * SECOND));
    let cut = on(hanging().optimistic().run(hang)).cancel_after(SECOND).run().await.unwrap();
    assert_eq!((cut.outcome, cut.took), (FiringOutcome::Cancelled, 2 * SECOND));

    let obey = async |firing: Firing| {
        assert!(!firing.is_cancelled());
        firing.cancelled().await;
        Ok::<Outcome, BoxError>(firing.commit().put("/jobs/:id", "stopped").into())
    };
    let obeyed = on(hanging().run(obey)).cancel_after(SECOND).run().await.unwrap();
    assert_eq!((obeyed.outcome, obeyed.took), (FiringOutcome::Done, SECOND));
    assert_eq!(obeyed.keys["/jobs/7"], "stopped");
}

#[tokio::test(start_paused = true)]
async fn a_trial_that_is_dropped_cancels_its_callback() {
    let dropped = Arc::new(AtomicBool::new(false));
    struct Flag(Arc<AtomicBool>);
    impl Drop for Flag {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let flag = dropped.clone();
    let trial = job(move |_| {
        let flag = Flag(flag.clone());
        async move {
            let _flag = flag;
            std::future::pending().await
        }
    });
    assert!(tokio::time::timeout(SECOND, trial.run()).await.is_err());
    tokio::time::sleep(2 * SECOND).await;
    assert!(dropped.load(Ordering::SeqCst));
}

#[tokio::test]
async fn mistakes_of_a_commit_fail_the_firing_as_in_an_engine() {
    let reserved = tried(async |firing: Firing| Ok(firing.commit().put("/etcd-rules/x", "").into())).await;
    assert_eq!(
        reserved.outcome,
        FiringOutcome::Failed(FiringError::ReservedKey("/etcd-rules/x".into()).to_string())
    );
    let many = tried(async |firing: Firing| {
        let commit = (0..127).fold(firing.commit(), |commit, n| commit.put(&format!("/many/{n}"), ""));
        Ok(commit.into())
    })
    .await;
    let too_many = FiringError::TooManyEffects { effects: 127, allowed: 126 };
    assert_eq!(many.outcome, FiringOutcome::Failed(too_many.to_string()));
    assert!(many.effects.is_empty() && many.keys.len() == 2, "nothing takes effect");
    let twice = tried(async |firing: Firing| Ok(firing.commit().put("/a", "").delete("/a").into())).await;
    assert_eq!(twice.outcome, FiringOutcome::Failed(FiringError::DuplicateEffect("/a".into()).to_string()));

    let optimistic = |callback: fn(&Firing) -> Outcome| {
        let rule = Rule::new("job").when(key("/jobs/:id").equals("new") & key("/off").absent()).optimistic();
        let rule = rule.run(move |firing: Firing| async move {
            assert_eq!(firing.fencing_token(), 0);
            Ok::<Outcome, Error>(callback(&firing))
        });
        Trial::of(rule).unwrap().attribute("id", "7").key("/jobs/7", "new")
    };
    let beside = optimistic(|firing| firing.commit().put("/beside", "").into()).run().await.unwrap();
    assert_eq!(beside.outcome, FiringOutcome::Failed(FiringError::NothingShownChanges.to_string()));
    let within = optimistic(|firing| firing.commit().put("/jobs/:id", "done").into());
    let done = within.clone().run().await.unwrap();
    assert_eq!(
        (done.outcome, done.expectations),
        (FiringOutcome::Done, vec!["/jobs/7".into(), "/off".into()])
    );
    let lost = within.put_meanwhile("/off", "").run().await.unwrap();
    assert_eq!(lost.unexpected.as_deref(), Some("/off"));
}

#[tokio::test]
async fn a_poll_adds_its_delay_unless_it_is_not_done() {
    let poll = |callback: fn(&Firing) -> Outcome| {
        let rule = Rule::new("poll").when(key("/jobs/:id").exists()).poll("/polls/:id", 5 * SECOND);
        let rule = rule.run(move |firing: Firing| async move { Ok::<Outcome, Error>(callback(&firing)) });
        Trial::of(rule).unwrap().attribute("id", "7").key("/jobs/7", "")
    };
    let done = poll(|firing| firing.commit().put("/count", "1").into()).run().await.unwrap();
    assert_eq!(done.effects, [put("/count", "1", None), put("/polls/7/ttl", "", Some(5 * SECOND))]);
    assert!(!done.explanation.truth);
    let own = poll(|firing| firing.commit().put_ttl("/polls/:id/ttl", "", 60 * SECOND).into());
    assert_eq!(own.run().await.unwrap().effects, [put("/polls/7/ttl", "", Some(60 * SECOND))]);
    let later = poll(|_| Outcome::retry_after(SECOND)).run().await.unwrap();
    assert!(later.effects.is_empty() && later.explanation.truth);
}

#[tokio::test]
async fn a_trial_has_the_expansions_the_constraints_and_the_options_of_its_engine() {
    let rule = Rule::new("geo").when(key("/:geo/servers/:id").equals("new")).run(async |firing: Firing| {
        Ok::<Outcome, Error>(
            firing.commit().put("/:geo/done/:id", firing.engine()).put("/mine/x", "").delete("/x").into(),
        )
    });
    let builder = || Engine::builder("app", ["127.0.0.1:1"]).name("berta").expand("geo", ["na", "eu"]);
    let engine = builder().constrain("id", "w", ["0123456789"]).rule(rule.clone()).build().unwrap();
    let on = |engine: &Engine, geo: &str, id: &str| {
        let trial = Trial::on(engine, "geo").attribute("geo", geo).attribute("id", id);
        trial.key(format!("/{geo}/servers/{id}"), "new").run()
    };
    let tried = on(&engine, "eu", "w1").await.unwrap();
    assert_eq!(tried.keys["/eu/done/w1"], "berta");
    for (geo, id, reason) in [("us", "w1", "expands it to"), ("eu", "x1", "constrains it")] {
        let Err(NotTried::Untrue { explanation, .. }) = on(&engine, geo, id).await else {
            panic!("{geo} {id}")
        };
        assert!(explanation.to_string().contains(reason), "{explanation}");
    }
    let engine = builder().rule(rule.clone()).namespace("/mine").build().unwrap();
    let reserved = on(&engine, "eu", "w1").await.unwrap().outcome;
    assert_eq!(reserved, FiringOutcome::Failed(FiringError::ReservedKey("/mine/x".into()).to_string()));
    let engine = builder().rule(rule).max_txn_ops(4).build().unwrap();
    let too_many = FiringError::TooManyEffects { effects: 3, allowed: 2 };
    assert_eq!(on(&engine, "eu", "w1").await.unwrap().outcome, FiringOutcome::Failed(too_many.to_string()));
}

/// Fails whoever makes a metric.
struct NoMetrics;

impl metrics::Recorder for NoMetrics {
    fn describe_counter(&self, key: KeyName, _: Option<Unit>, _: SharedString) {
        panic!("{key:?}");
    }

    fn describe_gauge(&self, key: KeyName, _: Option<Unit>, _: SharedString) {
        panic!("{key:?}");
    }

    fn describe_histogram(&self, key: KeyName, _: Option<Unit>, _: SharedString) {
        panic!("{key:?}");
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        panic!("{key:?}");
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        panic!("{key:?}");
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        panic!("{key:?}");
    }
}

#[test]
fn a_trial_makes_no_metrics() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let done = async |_| Ok(Outcome::done());
    let tried = metrics::with_local_recorder(&NoMetrics, || runtime.block_on(tried(done)));
    assert_eq!(tried.outcome, FiringOutcome::Done);
}

#[tokio::test]
async fn what_no_engine_would_run_is_not_run() {
    let never = || job(async |_| panic!("it runs"));
    let error = never().key("/jobs/7", "old").run().await.unwrap_err();
    assert!(matches!(&error, NotTried::Untrue { rule, .. } if rule == "job"), "{error}");
    assert!(error.to_string().contains("✗ /jobs/7 = \"new\""), "{error}");
    let error = never().attribute("id", "8").run().await.unwrap_err();
    assert!(error.to_string().contains("it is absent"), "{error}");
    let engine = Engine::builder("app", ["127.0.0.1:1"]);
    let rule = Rule::new("r").when(key("/jobs/:id").exists()).run(async |_| Ok::<(), Error>(()));
    let engine = engine.rule(rule).build().unwrap();
    let error = Trial::on(&engine, "q").run().await.unwrap_err();
    assert!(matches!(error, NotTried::Instance(EngineError::UnknownRule(_))), "{error}");
    let error = Trial::on(&engine, "r").run().await.unwrap_err();
    assert!(matches!(error, NotTried::Instance(EngineError::UnknownAttribute(_))), "{error}");
    assert!(Trial::of(Rule::new("x")).is_err());
}

/// Does what the key of the instance says.
async fn obey(firing: Firing) -> Result<Outcome, BoxError> {
    match firing.value_opt("/orders/:id")?.map(ToString::to_string).as_deref() {
        Some("fail once") if firing.attempt() == 1 => Err("not yet".into()),
        Some("hang") => std::future::pending().await,
        _ => Ok(firing.commit().delete("/orders/:id").into()),
    }
}

fn engine(etcd: &Etcd) -> EngineBuilder {
    let rule = Rule::new("obey").when(key("/orders/:id").exists()).run(obey);
    let backoff = Backoff::new(Duration::from_millis(50), Duration::from_millis(50));
    Engine::builder("orders", [etcd.endpoint()]).rule(rule.backoff(backoff))
}

fn kinds(seen: &[Arc<Event>]) -> Vec<&EventKind> {
    seen.iter().map(|event| &event.kind).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn firings_are_awaited_in_any_order_and_none_is_missed() {
    let etcd = Etcd::start().await;
    etcd.put("/orders/before", "do").await;
    let built = engine(&etcd).build().unwrap();
    let mut firings = Firings::new(built.events()).within(30 * SECOND);
    let running = built.start().await.unwrap();
    firings.done("obey", [("id", "before")]).await.unwrap();
    etcd.put("/orders/1", "fail once").await;
    etcd.put("/orders/2", "do").await;
    // The later one first; the earlier one has fired by then, and is kept.
    firings.done("obey", [("id", "2")]).await.unwrap();
    let failed = firings.next("obey", [("id", "1")]).await.unwrap();
    assert_eq!(failed.outcome, FiringOutcome::Failed("not yet".into()));
    let done = firings.next("obey", [("id", "1")]).await.unwrap();
    assert!(done.is_done() && done.at > failed.at, "{done:?}");
    assert_eq!(etcd.get("/orders/1").await, None, "a firing that is closed has taken effect");

    etcd.put("/orders/3", "fail once").await;
    firings.done("obey", [("id", "3")]).await.unwrap();
    firings = firings.within(SECOND / 5);
    let gone = firings.next("obey", [("id", "3")]).await.unwrap_err();
    assert_eq!(gone.reason, WhyNotFired::TimedOut(SECOND / 5), "the failure before it is gone with it");
    etcd.put("/orders/3", "do").await;
    let wanted = |outcome: &FiringOutcome| matches!(outcome, FiringOutcome::Panicked(_));
    let other = firings.matching("obey", [("id", "3")], |fired| wanted(&fired.outcome)).await.unwrap_err();
    assert!(kinds(&other.seen).iter().any(|kind| matches!(kind, EventKind::Closed { .. })), "{other}");
    firings.done("obey", [("id", "3")]).await.expect("what was not matched is still there");
    running.shutdown(SECOND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_fired_tells_what_happened_instead() {
    let etcd = Etcd::start().await;
    let running = engine(&etcd).build().unwrap().start().await.unwrap();
    running.ready().await;
    let mut firings = Firings::new(running.events());
    etcd.put("/orders/1", "hang").await;
    for _ in 0..2 {
        etcd.put("/orders/2", "do").await;
        firings.done("obey", [("id", "2")]).await.unwrap();
    }
    etcd.put("/orders/3", "do").await;
    let mut firings = firings.within(SECOND / 2);
    let hanging = firings.next("obey", [("id", "1")]).await.unwrap_err();
    assert!(matches!(
        kinds(&hanging.seen)[..],
        [_, EventKind::Locked { .. }, EventKind::Started { attempt: 1 }]
    ));
    let text = hanging.to_string();
    assert!(text.starts_with("rule `obey` did not fire as awaited for id=1: 500ms are over\n"), "{text}");
    assert!(text.contains("Started { attempt: 1 }") && text.contains("`obey` for id=3 1 times"), "{text}");
    assert!(!text.contains("id=2"), "what was awaited is not told again: {text}");
    let misspelt = firings.next("obay", [("id", "3")]).await.unwrap_err().to_string();
    assert!(
        misspelt.contains("nothing happened to this instance") && misspelt.contains("id=3"),
        "{misspelt}"
    );

    firings.clear().unwrap();
    let forgotten: NotFired = firings.next("obey", [("id", "3")]).await.unwrap_err();
    assert!(forgotten.seen.is_empty() && forgotten.others.is_empty(), "{forgotten}");
    running.shutdown(Duration::ZERO).await.unwrap();
    let cut = firings.next("obey", [("id", "1")]).await.unwrap();
    assert_eq!(cut.outcome, FiringOutcome::Cancelled);
    assert_eq!(firings.next("obey", [("id", "1")]).await.unwrap_err().reason, WhyNotFired::Ended);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_awaits_too_late_is_told_that_events_were_missed() {
    let etcd = Etcd::start().await;
    let running = engine(&etcd).event_buffer(4).build().unwrap().start().await.unwrap();
    running.ready().await;
    let mut firings = Firings::new(running.events());
    etcd.put("/orders/1", "do").await;
    eventually(20 * SECOND, "it is done", async || etcd.keys("/orders/").await.is_empty()).await;
    etcd.put("/orders/2", "do").await;
    eventually(20 * SECOND, "it is done", async || etcd.keys("/orders/").await.is_empty()).await;
    let error = firings.next("obey", [("id", "1")]).await.unwrap_err();
    assert!(matches!(error.reason, WhyNotFired::Lagged(missed) if missed.0 > 0), "{error}");
    assert!(error.to_string().contains("event_buffer"), "{error}");
    running.shutdown(SECOND).await.unwrap();
}
