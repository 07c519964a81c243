//! The events of a running engine, on a live etcd.

use crate::support::{Etcd, eventually};
use etcd_rules::events::{CommitResult, Event, EventKind, EventStream, NotLocked};
use etcd_rules::firing::FiringOutcome;
use etcd_rules::inspect::{InstanceState, WaitReason};
use etcd_rules::{Backoff, BoxError, ConfigError, Engine, EngineBuilder, Firing, Outcome, Rule, key};
use std::sync::Arc;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

/// Does what the key of the instance says.
async fn obey(firing: Firing) -> Result<Outcome, BoxError> {
    let order = firing.value_opt("/orders/:id")?.map(ToString::to_string).unwrap_or_default();
    match order.as_str() {
        "fail" => Err("it does not work".into()),
        "panic" => panic!("it is on fire"),
        "give up" => Ok(Outcome::give_up("there is no use")),
        "later" => Ok(Outcome::retry_after(Duration::from_secs(1000))),
        "hang" => std::future::pending().await,
        "expect" => {
            firing.client().await?.put(firing.format("/orders/:id")?, "do", None).await?;
            Ok(firing.commit().expect_unchanged("/orders/:id").delete("/orders/:id").into())
        }
        _ => Ok(firing.commit().delete("/orders/:id").into()),
    }
}

fn obeying() -> Rule {
    Rule::new("obey")
        .when(key("/orders/:id").exists())
        .backoff(Backoff::new(Duration::from_secs(100), Duration::from_secs(100)))
        .run(obey)
}

fn engine(etcd: &Etcd, name: &str) -> EngineBuilder {
    Engine::builder("orders", [etcd.endpoint()]).name(name)
}

async fn next(events: &mut EventStream) -> Arc<Event> {
    let event = tokio::time::timeout(30 * SECOND, events.recv()).await.expect("an event comes");
    event.expect("the engine runs").expect("none is missed")
}

/// The events of one instance up to the one that is asked for.
async fn until(events: &mut EventStream, id: &str, last: impl Fn(&EventKind) -> bool) -> Vec<EventKind> {
    let mut seen = Vec::new();
    loop {
        let event = next(events).await;
        if event.attributes.get("id") == Some(id) {
            assert_eq!(&*event.rule, "obey");
            seen.push(event.kind.clone());
            if last(&event.kind) {
                return seen;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_firing_is_told_step_by_step_from_the_first_one_on() {
    let etcd = Etcd::start().await;
    etcd.put("/orders/1", "do").await;
    let engine = engine(&etcd, "a").rule(obeying()).build().unwrap();
    let mut events = engine.events();
    let running = engine.start().await.unwrap();
    let untrue = EventKind::State(InstanceState::Untrue);
    let seen = until(&mut events, "1", |kind| *kind == untrue).await;
    let [
        EventKind::State(InstanceState::Queued(_)),
        EventKind::Locked { fencing_token, .. },
        EventKind::Started { attempt: 1 },
        EventKind::Ended { outcome: FiringOutcome::Done, .. },
        EventKind::Closed {
            outcome: FiringOutcome::Done, result: CommitResult::Committed { revision }, ..
        },
        EventKind::State(InstanceState::Untrue),
    ] = &seen[..]
    else {
        panic!("{seen:#?}")
    };
    assert!(fencing_token < revision);
    assert_eq!(etcd.revision().await, *revision, "nothing came after the commit");
    running.shutdown(SECOND).await.unwrap();
    while let Some(event) = events.recv().await {
        assert!(event.is_ok(), "{event:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_outcome_is_told_with_what_follows_from_it() {
    let etcd = Etcd::start().await;
    let rule = obeying().time_limit(4 * SECOND);
    let running = engine(&etcd, "a").rule(rule).build().unwrap().start().await.unwrap();
    running.ready().await;
    let backoff = |state: &InstanceState| matches!(state, InstanceState::Waiting { reason: WaitReason::Backoff, remaining } if *remaining > 60 * SECOND);
    let later = |state: &InstanceState| matches!(state, InstanceState::Waiting { reason: WaitReason::RetryAfter, remaining } if *remaining > 900 * SECOND);
    let given_up = |state: &InstanceState| matches!(state, InstanceState::GivenUp { engine: None, reason } if reason == "there is no use");
    type Follows<'a> = &'a dyn Fn(&InstanceState) -> bool;
    for (order, expected, follows) in [
        ("fail", FiringOutcome::Failed("it does not work".into()), &backoff as Follows<'_>),
        ("panic", FiringOutcome::Panicked("it is on fire".into()), &backoff),
        ("hang", FiringOutcome::TimedOut, &backoff),
        ("later", FiringOutcome::RetryAfter(1000 * SECOND), &later),
        ("give up", FiringOutcome::GaveUp("there is no use".into()), &given_up),
    ] {
        let mut events = running.events();
        let id = order.replace(' ', "-");
        etcd.put(&format!("/orders/{id}"), order).await;
        let closed = |kind: &EventKind| matches!(kind, EventKind::Closed { .. });
        let seen = until(&mut events, &id, closed).await;
        let [.., EventKind::Ended { outcome: ended, .. }, EventKind::Closed { outcome, result, .. }] =
            &seen[..]
        else {
            panic!("{order}: {seen:#?}")
        };
        assert_eq!((ended, outcome), (&expected, &expected));
        assert!(result.is_committed(), "{order}: {result:?}");
        let state = |kind: &EventKind| matches!(kind, EventKind::State(_));
        let seen = until(&mut events, &id, state).await;
        let Some(EventKind::State(state)) = seen.last() else { panic!("{order}: {seen:#?}") };
        assert!(follows(state), "{order}: {state:?}");
    }
    let mut events = running.events();
    etcd.put("/orders/expect", "expect").await;
    let closed = |kind: &EventKind| matches!(kind, EventKind::Closed { .. });
    let seen = until(&mut events, "expect", closed).await;
    let Some(EventKind::Closed { outcome, result, .. }) = seen.last() else { panic!("{seen:#?}") };
    assert_eq!((outcome, result), (&FiringOutcome::Done, &CommitResult::Unexpected));
    etcd.put("/orders/cut", "hang").await;
    until(&mut events, "cut", |kind| matches!(kind, EventKind::Started { .. })).await;
    let shutdown = tokio::spawn(running.shutdown(Duration::ZERO));
    let seen = until(&mut events, "cut", closed).await;
    let cancelled =
        |kind: &EventKind| matches!(kind, EventKind::Ended { outcome: FiringOutcome::Cancelled, .. });
    assert!(seen.iter().any(cancelled), "{seen:#?}");
    shutdown.await.unwrap().unwrap();
    while events.recv().await.is_some() {}
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_a_lock_elsewhere_is_told() {
    let etcd = Etcd::start().await;
    etcd.put("/orders/1", "hang").await;
    let first = engine(&etcd, "a").rule(obeying()).build().unwrap();
    let mut events = first.events();
    let first = first.start().await.unwrap();
    until(&mut events, "1", |kind| matches!(kind, EventKind::Started { .. })).await;
    let second = engine(&etcd, "b").rule(obeying()).build().unwrap();
    let mut events = second.events();
    let second = second.start().await.unwrap();
    let seen = until(&mut events, "1", |kind| {
        matches!(kind, EventKind::State(InstanceState::Locked { engine: Some(engine), .. }) if engine == "a")
    })
    .await;
    let held = NotLocked::Held(Some("a".into()));
    assert!(seen.iter().any(|kind| matches!(kind, EventKind::NotLocked { reason, .. } if *reason == held)));
    second.shutdown(SECOND).await.unwrap();
    first.shutdown(Duration::ZERO).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_does_not_receive_holds_up_nothing_and_is_told_what_it_missed() {
    let etcd = Etcd::start().await;
    let running = engine(&etcd, "a").rule(obeying()).event_buffer(16).build().unwrap().start().await.unwrap();
    running.ready().await;
    let mut slow = running.events();
    for order in 0..100 {
        etcd.put(&format!("/orders/{order}"), "do").await;
    }
    eventually(20 * SECOND, "all are done", async || etcd.keys("/orders/").await.is_empty()).await;
    // Nothing more happens after that.
    running.shutdown(SECOND).await.unwrap();
    let missed = slow.recv().await.unwrap().unwrap_err();
    assert!(missed.0 > 400, "{missed}");
    let mut left = 0;
    while let Some(event) = slow.recv().await {
        assert!(event.is_ok(), "{event:?}");
        left += 1;
    }
    assert!((1..=16).contains(&left), "{left}");

    let built = engine(&etcd, "a").rule(obeying()).event_buffer(0).build();
    let Err(mistakes) = built else { panic!("{built:?}") };
    assert!(matches!(mistakes.errors(), [ConfigError::Option { option: "event_buffer", .. }]), "{mistakes}");
}
