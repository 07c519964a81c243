//! What a running engine tells of its rules and instances, on a live etcd.

use crate::support::{Etcd, eventually};
use etcd_client::{Txn, TxnOp};
use etcd_rules::inspect::{Instance, InstanceQuery, InstanceState, Phase, QueuedFor, StateKind, WaitReason};
use etcd_rules::{
    Attributes, Backoff, Engine, EngineError, EngineHandle, Error, Firing, Outcome, Rule, RunningEngine, key,
};
use std::collections::HashSet;
use std::time::Duration;
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);

/// Does what the key of the instance says; the condition stays true.
async fn obey(firing: Firing) -> Result<Outcome, etcd_rules::BoxError> {
    let order = firing.value_opt("/orders/:geo/:id")?.map(ToString::to_string).unwrap_or_default();
    match order.as_str() {
        "fail" => Err("it does not work".into()),
        "give up" => Ok(Outcome::give_up("there is no use")),
        "later" => Ok(Outcome::retry_after(Duration::from_secs(1000))),
        "run" => std::future::pending().await,
        _ => Ok(Outcome::done()),
    }
}

fn obeying() -> Rule {
    Rule::new("obey")
        .when(key("/orders/:geo/:id").exists() & key("/orders/:geo/:id").not_equals("nothing"))
        .backoff(Backoff::new(Duration::from_secs(100), Duration::from_secs(100)))
        .run(obey)
}

async fn start(etcd: &Etcd, name: &str, rules: impl IntoIterator<Item = Rule>) -> RunningEngine {
    let engine = Engine::builder("orders", [etcd.endpoint()]).name(name).rules(rules);
    let running = engine.build().unwrap().start().await.unwrap();
    running.ready().await;
    running
}

async fn one(engine: &EngineHandle, id: &str) -> Option<Instance> {
    let explained = engine.explain("obey", &[("geo", "eu"), ("id", id)].into()).await.unwrap();
    explained.instance
}

async fn all(engine: &EngineHandle, mut query: InstanceQuery) -> Vec<Instance> {
    let mut found = Vec::new();
    loop {
        let page = engine.instances(query.clone()).await.unwrap();
        found.extend(page.instances);
        match page.next {
            // As an address of a next page would.
            Some(cursor) => query = query.after(cursor.to_string().parse().unwrap()),
            None => return found,
        }
    }
}

fn ids(instances: &[Instance]) -> Vec<&str> {
    let mut ids: Vec<&str> = instances.iter().filter_map(|one| one.attributes.get("id")).collect();
    ids.sort_unstable();
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn every_state_is_told_with_what_one_needs_to_know() {
    let etcd = Etcd::start().await;
    let engine = start(&etcd, "a", [obeying().concurrency(1)]).await;
    for (id, order) in [("1", "fail"), ("2", "give up"), ("3", "later"), ("4", "do"), ("5", "nothing")] {
        etcd.put(&format!("/orders/eu/{id}"), order).await;
    }
    eventually(20 * SECOND, "all have been dealt with", async || {
        let counts = engine.rules().await.unwrap()[0].counts;
        counts.get(StateKind::Waiting) == 2 && counts.get(StateKind::Idle) == 1
    })
    .await;
    etcd.put("/orders/eu/6", "run").await;
    etcd.put("/orders/na/7", "do").await;
    let running = eventually(20 * SECOND, "one runs", async || {
        one(&engine, "6").await.filter(|one| one.state == InstanceState::Running(Phase::Callback))
    })
    .await;
    assert_eq!(running.to_string(), "obey geo=eu id=6: its callback runs");

    let failed = one(&engine, "1").await.unwrap();
    let InstanceState::Waiting { reason: WaitReason::Backoff, remaining } = failed.state else {
        panic!("{failed}")
    };
    assert!((60 * SECOND..=120 * SECOND).contains(&remaining), "{remaining:?}");
    assert_eq!((failed.failures, failed.last_error.as_deref()), (1, Some("it does not work")));
    let gave_up = InstanceState::GivenUp { engine: None, reason: "there is no use".into() };
    assert_eq!(one(&engine, "2").await.unwrap().state, gave_up);
    let later = one(&engine, "3").await.unwrap();
    let InstanceState::Waiting { reason: WaitReason::RetryAfter, remaining } = later.state else {
        panic!("{later}")
    };
    assert!(remaining > 900 * SECOND, "{remaining:?}");
    assert_eq!(one(&engine, "4").await.unwrap().state, InstanceState::Idle);
    assert_eq!(one(&engine, "5").await.unwrap().state, InstanceState::Untrue);
    assert_eq!(one(&engine, "9").await, None, "there is no such instance");

    let queued = all(&engine, InstanceQuery::new().state(StateKind::Queued)).await;
    assert_eq!(ids(&queued), ["7"], "the only slot of the rule is taken");
    assert_eq!(queued[0].state, InstanceState::Queued(QueuedFor::Slot));

    for (what, query, expected) in [
        ("all", InstanceQuery::new(), &["1", "2", "3", "4", "5", "6", "7"][..]),
        ("a page each", InstanceQuery::new().limit(1), &["1", "2", "3", "4", "5", "6", "7"]),
        ("true ones", InstanceQuery::new().only_true().limit(2), &["1", "2", "3", "4", "6", "7"]),
        ("of one value", InstanceQuery::new().attribute("geo", "na"), &["7"]),
        (
            "of one value and state",
            InstanceQuery::new().rule("obey").attribute("geo", "eu").state(StateKind::Waiting),
            &["1", "3"],
        ),
        ("of an attribute that no rule has", InstanceQuery::new().attribute("zone", "1"), &[]),
    ] {
        assert_eq!(ids(&all(&engine, query).await), expected, "{what}");
    }
    let unknown = engine.instances(InstanceQuery::new().rule("other")).await;
    assert!(matches!(unknown, Err(EngineError::UnknownRule(id)) if id == "other"));
    let unknown = engine.instances(InstanceQuery::new().rule("obey").attribute("zone", "1")).await;
    assert!(matches!(unknown, Err(EngineError::UnknownAttribute(name)) if name == "zone"));

    let rule = engine.rules().await.unwrap().remove(0);
    assert_eq!((&*rule.id, rule.concurrency, rule.optimistic), ("obey", 1, false));
    assert_eq!(rule.condition, obeying().to_string().trim_start_matches("obey: "));
    let counts: Vec<usize> = rule.counts.iter().map(|(_, count)| count).collect();
    assert_eq!(counts, [1, 1, 1, 2, 0, 1, 0, 0, 1]);
    engine.shutdown(Duration::ZERO).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_knows_which_other_one_has_an_instance_or_holds_it_back() {
    let etcd = Etcd::start().await;
    let other = start(&etcd, "b", [obeying()]).await;
    for (id, order) in [("1", "run"), ("2", "fail"), ("3", "give up")] {
        etcd.put(&format!("/orders/eu/{id}"), order).await;
    }
    eventually(20 * SECOND, "the other engine has dealt with all", async || {
        let stats = other.stats().await.unwrap();
        (stats.running, stats.waiting, stats.given_up) == (1, 1, 1)
    })
    .await;
    let engine = start(&etcd, "a", [obeying()]).await;
    eventually(20 * SECOND, "it has tried all", async || {
        let stats = engine.stats().await.unwrap();
        (stats.held, stats.given_up) == (2, 1)
    })
    .await;
    let locked = one(&engine, "1").await.unwrap();
    let InstanceState::Locked { engine: Some(by), since: Some(_) } = &locked.state else {
        panic!("{locked}")
    };
    assert_eq!(by, "b");
    let held = one(&engine, "2").await.unwrap();
    let InstanceState::HeldBack { engine: Some(by), until: Some(_), error } = &held.state else {
        panic!("{held}")
    };
    assert_eq!((by.as_str(), error.as_str(), held.failures), ("b", "it does not work", 1));
    assert_eq!(
        one(&engine, "3").await.unwrap().to_string(),
        "obey geo=eu id=3: given up by b: there is no use"
    );
    let explained = engine.explain("obey", &Attributes::from([("geo", "eu"), ("id", "1")])).await.unwrap();
    assert!(explained.to_string().ends_with("obey geo=eu id=1: locked by b"), "{explained}");
    engine.shutdown(SECOND).await.unwrap();
    other.shutdown(Duration::ZERO).await.unwrap();
}

/// A listing of very many instances holds up no change.
#[tokio::test(flavor = "multi_thread")]
async fn an_engine_with_100_000_instances_goes_on_while_they_are_listed() {
    const MANY: usize = 100_000;
    let etcd = Etcd::start().await;
    let mut client = etcd.client().await;
    for chunk in 0..MANY / 100 {
        let put = |n| TxnOp::put(format!("/many/{}", chunk * 100 + n), "", None);
        client.txn(Txn::new().and_then((0..100).map(put).collect::<Vec<_>>())).await.unwrap();
    }
    let idle = Rule::new("idle")
        .when(key("/many/:id").equals(""))
        .optimistic()
        .run(async |_: Firing| Ok::<(), Error>(()));
    let echo = Rule::new("echo")
        .when(key("/ping/:id").exists() & key("/pong/:id").absent())
        .run(async |firing: Firing| Ok::<Outcome, Error>(firing.commit().put("/pong/:id", "").into()));
    let engine = start(&etcd, "a", [idle, echo]).await;
    eventually(120 * SECOND, "all are idle", async || engine.stats().await.unwrap().idle == MANY).await;

    let mut slowest = Duration::ZERO;
    let mut listing = Box::pin(all(&engine, InstanceQuery::new().only_true().limit(1000)));
    let mut found = None;
    let began = Instant::now();
    let mut pings = 0;
    while found.is_none() || pings < 10 {
        pings += 1;
        let sent = Instant::now();
        etcd.put(&format!("/ping/{pings}"), "").await;
        let pong = eventually(20 * SECOND, "the answer", async || {
            etcd.get(&format!("/pong/{pings}")).await.is_some()
        });
        let mut pong = std::pin::pin!(pong);
        loop {
            tokio::select! {
                () = &mut pong => break,
                instances = &mut listing, if found.is_none() => found = Some((instances, began.elapsed())),
            }
        }
        slowest = slowest.max(sent.elapsed());
    }
    drop(listing);
    let (instances, took) = found.unwrap();
    let many: HashSet<&str> = instances
        .iter()
        .filter(|one| &*one.rule == "idle")
        .filter_map(|one| one.attributes.get("id"))
        .collect();
    assert_eq!(many.len(), MANY, "each once");
    assert!(instances.len() <= MANY + pings, "none twice");
    println!("{MANY} instances listed in {took:?}, meanwhile {pings} changes, the slowest in {slowest:?}");
    assert!(slowest < 10 * SECOND, "a change took {slowest:?}");
    engine.shutdown(5 * SECOND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_long_attributes_ends_early_and_none_is_left_out() {
    let etcd = Etcd::start().await;
    for number in 10..40 {
        etcd.put(&format!("/orders/eu/{number}{}", "x".repeat(100 << 10)), "nothing").await;
    }
    let engine = start(&etcd, "a", [obeying()]).await;
    let first = engine.instances(InstanceQuery::new().limit(1000)).await.unwrap();
    assert_eq!(first.instances.len(), 11, "a mebibyte");
    let found = all(&engine, InstanceQuery::new().limit(1000)).await;
    let different: HashSet<&str> = found.iter().filter_map(|one| one.attributes.get("id")).collect();
    assert_eq!((found.len(), different.len()), (30, 30));
    engine.shutdown(SECOND).await.unwrap();
}
