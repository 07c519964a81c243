//! Layers around callbacks, and what an engine has for all of its rules.

use crate::support::{Etcd, eventually};
use etcd_rules::firing::FiringOutcome;
use etcd_rules::firing::Next;
use etcd_rules::testing::Trial;
use etcd_rules::{
    Backoff, BoxError, Engine, EngineBuilder, Error, Firing, Jitter, Outcome, RateLimit, Rule, key,
};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);

type Log = Arc<Mutex<Vec<String>>>;

/// A layer that notes when it is entered and left.
fn noting(log: &Log, name: &'static str) -> impl Fn(Firing, Next) -> BoxFuture + Send + Sync + 'static {
    let log = log.clone();
    move |firing, next| {
        let log = log.clone();
        Box::pin(async move {
            log.lock().unwrap().push(format!("{name} {}", firing.attributes()));
            let result = next.run(firing).await;
            let outcome = result.as_ref().map_or_else(ToString::to_string, |outcome| outcome.name().into());
            log.lock().unwrap().push(format!("{name}: {outcome}"));
            result
        })
    }
}

type BoxFuture = std::pin::Pin<Box<dyn Future<Output = Result<Outcome, BoxError>> + Send>>;

fn jobs(log: &Log, id: &str) -> Rule {
    let log = log.clone();
    Rule::new(id).when(key("/jobs/:id").exists()).run(move |firing: Firing| {
        let log = log.clone();
        async move {
            log.lock().unwrap().push("callback".into());
            match firing.value("/jobs/:id")?.to_string().as_str() {
                "fail" => Err("on purpose".into()),
                "panic" => panic!("on purpose"),
                "give up" => Ok(Outcome::give_up("on purpose")),
                _ => Ok::<Outcome, BoxError>(firing.commit().delete("/jobs/:id").into()),
            }
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_are_around_every_callback_and_the_first_is_the_outermost() {
    let etcd = Etcd::start().await;
    let log = Log::default();
    let engine = Engine::builder("test", [etcd.endpoint()])
        .rule(jobs(&log, "jobs").layer(noting(&log, "rule")))
        .layer(noting(&log, "outer"))
        .layer(noting(&log, "inner"))
        .build()
        .unwrap();
    let entered = ["outer id=7", "inner id=7", "rule id=7", "callback"].map(str::to_owned).to_vec();
    for (value, outcome) in [("", "done"), ("give up", "gave_up"), ("fail", "on purpose")] {
        log.lock().unwrap().clear();
        Trial::on(&engine, "jobs").attribute("id", "7").key("/jobs/7", value).run().await.unwrap();
        let left = ["rule", "inner", "outer"].map(|name| format!("{name}: {outcome}"));
        assert_eq!(*log.lock().unwrap(), [&entered[..], &left].concat());
    }
    let tried = Trial::on(&engine, "jobs").attribute("id", "7").key("/jobs/7", "panic").run().await.unwrap();
    assert_eq!(tried.outcome, FiringOutcome::Panicked("on purpose".into()), "through all layers");
    log.lock().unwrap().clear();
    let running = engine.start().await.unwrap();
    running.ready().await;
    etcd.put("/jobs/7", "").await;
    eventually(10 * SECOND, "the effects take place", async || etcd.get("/jobs/7").await.is_none()).await;
    assert_eq!(log.lock().unwrap()[..4], entered);
    running.shutdown(5 * SECOND).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_layer_may_end_a_callback_replace_what_it_returned_and_keep_it_from_running() {
    let log = Log::default();
    let rule = || {
        Rule::new("slow").when(key("/jobs/:id").exists()).run(async |_: Firing| -> Result<Outcome, Error> {
            tokio::time::sleep(20 * SECOND).await;
            Ok(Outcome::done())
        })
    };
    let tried = async |rule: Rule| {
        Trial::of(rule).unwrap().attribute("id", "7").key("/jobs/7", "").run().await.unwrap()
    };
    let late = tried(rule().layer(async |firing: Firing, next: Next| -> Result<Outcome, BoxError> {
        tokio::time::timeout(SECOND, next.run(firing)).await?
    }));
    let late = late.await;
    assert_eq!((late.took, late.outcome), (SECOND, FiringOutcome::Failed("deadline has elapsed".into())));
    let other = tried(rule().layer(async |firing: Firing, next: Next| -> Result<Outcome, BoxError> {
        let _ = next.run(firing.clone()).await?;
        Ok(firing.commit().put("/seen/:id", "").into())
    }));
    assert!(other.await.keys.contains_key("/seen/7"));
    let refused = tried(jobs(&log, "jobs").layer(async |_: Firing, _: Next| Ok::<_, Error>(Outcome::done())));
    assert_eq!((refused.await.outcome, log.lock().unwrap().len()), (FiringOutcome::Done, 0));
}

fn engine(rules: impl IntoIterator<Item = Rule>) -> EngineBuilder {
    Engine::builder("test", ["127.0.0.1:2379"]).rules(rules)
}

#[tokio::test(start_paused = true)]
async fn an_engine_has_a_time_limit_for_all_rules_and_a_rule_its_own() {
    let rule = |id: &str| {
        Rule::new(id)
            .when(key("/jobs/:id").exists())
            .run(async |_: Firing| -> Result<Outcome, Error> { std::future::pending().await })
    };
    let engine =
        engine([rule("plain"), rule("own").time_limit(9 * SECOND)]).time_limit(4 * SECOND).build().unwrap();
    for (id, limit) in [("plain", 4 * SECOND), ("own", 9 * SECOND)] {
        let tried = Trial::on(&engine, id).attribute("id", "7").key("/jobs/7", "").run().await.unwrap();
        assert_eq!((tried.outcome, tried.took), (FiringOutcome::TimedOut, limit), "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_has_a_backoff_for_all_rules_and_a_rule_its_own() {
    let etcd = Etcd::start().await;
    let runs: Arc<Mutex<Vec<(&'static str, Instant)>>> = Arc::default();
    let rule = |id: &'static str| {
        let runs = runs.clone();
        Rule::new(id).when(key("/jobs/:id").exists()).run(move |_: Firing| {
            runs.lock().unwrap().push((id, Instant::now()));
            std::future::ready(Err::<Outcome, BoxError>("on purpose".into()))
        })
    };
    let backoff = |millis| {
        Backoff::new(Duration::from_millis(millis), Duration::from_millis(millis)).jitter(Jitter::NONE)
    };
    let engine = Engine::builder("test", [etcd.endpoint()])
        .rules([rule("plain"), rule("own").backoff(backoff(300))])
        .backoff(backoff(1500));
    etcd.put("/jobs/7", "").await;
    let running = engine.build().unwrap().start().await.unwrap();
    let of = |id| {
        runs.lock().unwrap().iter().filter(|(rule, _)| *rule == id).map(|(_, at)| *at).collect::<Vec<_>>()
    };
    eventually(20 * SECOND, "both have run three times", async || {
        of("plain").len() >= 3 && of("own").len() >= 3
    })
    .await;
    running.shutdown(5 * SECOND).await.unwrap();
    for (id, least) in [("plain", 1500), ("own", 300)] {
        let times = of(id);
        let waited = times[2] - times[1];
        let least = Duration::from_millis(least);
        assert!(waited >= least && waited < least + SECOND, "{id}: {waited:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_has_limits_for_all_rules_and_a_rule_its_own() {
    let etcd = Etcd::start().await;
    let rule =
        |id: &str| Rule::new(id).when(key("/jobs/:id").exists()).run(async |_: Firing| Ok::<(), Error>(()));
    let own = rule("own").concurrency(3).rate_limit(RateLimit::new(7, SECOND)).min_interval(2 * SECOND);
    let engine = Engine::builder("test", [etcd.endpoint()])
        .rules([rule("plain"), own])
        .rule_concurrency(1)
        .rule_rate_limit(RateLimit::new(2, 600 * SECOND))
        .min_interval(60 * SECOND);
    let built = engine.build().unwrap();
    let mut events = built.events();
    let running = built.start().await.unwrap();
    running.ready().await;
    let rules = running.rules().await.unwrap();
    let told: Vec<_> = rules.iter().map(|r| (&*r.id, r.concurrency, r.rate_limit, r.min_interval)).collect();
    assert_eq!(
        told,
        [
            ("plain", 1, Some(RateLimit::new(2, 600 * SECOND)), Some(60 * SECOND)),
            ("own", 3, Some(RateLimit::new(7, SECOND)), Some(2 * SECOND)),
        ]
    );
    for id in 0..6 {
        etcd.put(&format!("/jobs/{id}"), "").await;
    }
    let started = |events: &mut etcd_rules::events::EventStream| {
        let mut rules = Vec::new();
        while let Some(event) = events.try_recv() {
            let event = event.unwrap();
            if matches!(event.kind, etcd_rules::events::EventKind::Started { .. }) {
                rules.push(event.rule.to_string());
            }
        }
        rules
    };
    tokio::time::sleep(2 * SECOND).await;
    let first = started(&mut events);
    assert_eq!(first.iter().filter(|rule| *rule == "plain").count(), 2, "no more than two in ten minutes");
    assert_eq!(first.iter().filter(|rule| *rule == "own").count(), 6);
    running.set_rate_limit("plain", None).await.unwrap();
    etcd.put("/jobs/0", "again").await;
    tokio::time::sleep(2 * SECOND).await;
    let second = started(&mut events);
    assert!(second.iter().filter(|rule| *rule == "plain").count() >= 4, "the limit is lifted: {second:?}");
    assert_eq!(second.iter().filter(|rule| *rule == "own").count(), 1, "its own least interval is over");
    running.shutdown(5 * SECOND).await.unwrap();
}
