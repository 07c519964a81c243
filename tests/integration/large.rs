//! What is too large for etcd: keys so long that the transaction which takes a lock does not fit into a request, and
//! commits. It is given up once, with the reason, and nothing else waits for it.

use crate::support::{Etcd, assert_nothing_left, eventually};
use etcd_rules::events::{CommitResult, Event, EventKind, EventStream, NotLocked};
use etcd_rules::firing::FiringOutcome;
use etcd_rules::inspect::InstanceState;
use etcd_rules::{Engine, EngineBuilder, Error, Firing, Outcome, Rule, RunningEngine, key};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

const SECOND: Duration = Duration::from_secs(1);

fn engine(etcd: &Etcd) -> EngineBuilder {
    Engine::builder("app", [etcd.endpoint()]).lock_ttl(8 * SECOND)
}

async fn start(builder: EngineBuilder) -> RunningEngine {
    let running = builder.build().unwrap().start().await.unwrap();
    running.ready().await;
    running
}

/// All events that come until there are none for so long.
async fn settled(events: &mut EventStream, quiet: Duration) -> Vec<Arc<Event>> {
    let mut seen = Vec::new();
    while let Ok(event) = timeout(quiet, events.recv()).await {
        seen.push(event.expect("the engine runs").expect("none is missed"));
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_with_huge_keys_are_given_up_once_beside_normal_work() {
    let etcd = Etcd::start().await;
    // The ids stand twice in what takes a lock, for each of two keys.
    let job =
        Rule::new("job").when(key("/jobs/:id/state").exists() & key("/jobs/:id/done").absent()).run(
            |firing: Firing| async move {
                Ok::<Outcome, Error>(firing.commit().put("/jobs/:id/done", "yes").into())
            },
        );
    let engine = engine(&etcd).concurrency(8).event_buffer(1 << 14).rule(job).build().unwrap();
    let mut events = engine.events();
    let running = engine.start().await.unwrap();
    running.ready().await;
    for number in 10..20 {
        etcd.put(&format!("/jobs/{number}{}/state", "%".repeat(700_000)), "").await;
        etcd.put(&format!("/jobs/{number}{}/state", "x".repeat(1_000_000)), "").await;
        for other in 0..20 {
            etcd.put(&format!("/jobs/{number}-{other}/state"), "").await;
        }
    }
    let done = async || {
        let done = async |number: usize| etcd.get(&format!("/jobs/19-{number}/done")).await.is_some();
        done(0).await && done(19).await
    };
    eventually(20 * SECOND, "normal work goes on", done).await;
    let given_up = async || running.stats().await.is_ok_and(|stats| stats.given_up == 20);
    eventually(20 * SECOND, "all that is too large is given up", given_up).await;
    // Longer than whatever is tried again waits.
    let seen = settled(&mut events, 3 * SECOND).await;
    let mut attempts: BTreeMap<String, u32> = BTreeMap::new();
    for event in &seen {
        let id = event.attributes.get("id").expect("it has one");
        match &event.kind {
            EventKind::NotLocked { reason: NotLocked::TooLarge(why), .. } => {
                assert!(why.contains("max_request_bytes"), "{why}");
                *attempts.entry(id.to_owned()).or_default() += 1;
            }
            EventKind::NotLocked { reason, .. } => panic!("{}…: {reason:?}", &id[..2]),
            _ => {}
        }
    }
    assert_eq!(attempts.len(), 20);
    assert!(
        attempts.iter().all(|(id, attempts)| id.len() > 100_000 && *attempts == 1),
        "{:?}",
        attempts.values()
    );
    let stats = running.stats().await.unwrap();
    assert_eq!((stats.running, stats.queued, stats.waiting, stats.idle), (0, 0, 0, 0));
    assert!(running.health().is_ready(), "{}", running.health());
    running.shutdown(5 * SECOND).await.unwrap();
    assert_nothing_left(&etcd, "/etcd-rules/", SECOND).await;
}

/// A long id that fits: its lock and its mark are named by its digest.
#[tokio::test(flavor = "multi_thread")]
async fn a_lock_with_a_long_name_is_short_and_tells_the_beginning() {
    let etcd = Etcd::start().await;
    let job = Rule::new("job").when(key("/jobs/:id").exists()).run(|firing: Firing| async move {
        let mut client = firing.client().await?;
        let all = etcd_client::GetOptions::new().with_prefix();
        let locks = client.get("/etcd-rules/app/lock/", Some(all)).await?;
        let [lock] = locks.kvs() else { panic!("one lock") };
        let seen =
            format!("{} {}", String::from_utf8_lossy(lock.key()), String::from_utf8_lossy(lock.value()));
        client.put("/seen", seen, None).await?;
        Ok::<Outcome, Error>(Outcome::give_up("no use"))
    });
    let running = start(engine(&etcd).rule(job)).await;
    etcd.put(&format!("/jobs/{}", "x".repeat(300_000)), "").await;
    let given_up = async || running.stats().await.is_ok_and(|stats| stats.given_up == 1);
    eventually(20 * SECOND, "it fired", given_up).await;
    let seen = etcd.get("/seen").await.expect("it was seen");
    let (lock, value) = seen.split_once(' ').expect("two parts");
    assert!(lock.starts_with("/etcd-rules/app/lock/%sha256/") && lock.len() < 100, "{lock}");
    assert!(value.contains(r#""name":"job/xxx"#) && value.len() < 400, "{value}");
    let marks = etcd.keys("/etcd-rules/app/backoff/").await;
    assert!(marks.len() == 1 && marks[0].starts_with("/etcd-rules/app/backoff/%sha256/"), "{marks:?}");
    let mark = etcd.get(&marks[0]).await.expect("it is there");
    assert!(mark.contains(r#""name":"job/xxx"#) && mark.len() < 500, "{mark}");
    running.shutdown(5 * SECOND).await.unwrap();
    assert_nothing_left(&etcd, "/etcd-rules/", SECOND).await;
}

/// Writes as many bytes as its key says.
fn writer(optimistic: bool) -> Rule {
    let rule = Rule::new("writer").when(key("/write/:id").exists());
    let rule = if optimistic { rule.optimistic() } else { rule };
    rule.run(|firing: Firing| async move {
        let bytes: usize = firing.value("/write/:id")?.to_string().parse().expect("a number");
        Ok::<Outcome, Error>(
            firing.commit().put("/written/:id", vec![b'x'; bytes]).delete("/write/:id").into(),
        )
    })
}

/// A commit with so many bytes is given up, until its key changes.
async fn is_given_up(etcd: &Etcd, builder: EngineBuilder, bytes: usize, says: &str) {
    let engine = builder.event_buffer(1 << 12).build().unwrap();
    let mut events = engine.events();
    let running = engine.start().await.unwrap();
    running.ready().await;
    etcd.put("/write/1", bytes.to_string()).await;
    let given_up = async || running.stats().await.is_ok_and(|stats| stats.given_up == 1);
    eventually(20 * SECOND, "it is given up", given_up).await;
    etcd.put("/write/2", "10").await;
    eventually(20 * SECOND, "others go on", async || etcd.get("/written/2").await.is_some()).await;
    let seen = settled(&mut events, 2 * SECOND).await;
    let closed: Vec<&EventKind> = seen
        .iter()
        .filter(|event| event.attributes.get("id") == Some("1"))
        .map(|event| &event.kind)
        .filter(|kind| matches!(kind, EventKind::Closed { .. }))
        .collect();
    assert!(!closed.is_empty(), "{says}");
    for kind in &closed {
        let EventKind::Closed { outcome, result, .. } = kind else { continue };
        assert!(matches!(outcome, FiringOutcome::GaveUp(why) if why.contains(says)), "{says}: {outcome:?}");
        let is_expected = match result {
            CommitResult::TooLarge(why) => why.contains(says),
            // Then the mark was put, with the unlock.
            other => other.is_committed(),
        };
        assert!(is_expected, "{says}: {result:?}");
    }
    let too_large =
        |kind: &&&EventKind| matches!(kind, EventKind::Closed { result: CommitResult::TooLarge(_), .. });
    assert_eq!(closed.iter().filter(too_large).count(), 1, "{says}: it is tried once");
    let given_up = |event: &Arc<Event>| matches!(&event.kind, EventKind::State(InstanceState::GivenUp { reason, .. }) if reason.contains(says));
    assert!(seen.iter().any(given_up), "{says}");
    assert!(etcd.get("/written/1").await.is_none());
    assert!(running.health().is_ready(), "{}", running.health());
    etcd.put("/write/1", "10").await;
    eventually(20 * SECOND, "a change makes it fire", async || etcd.get("/written/1").await.is_some()).await;
    running.shutdown(5 * SECOND).await.unwrap();
    assert_nothing_left(etcd, "/etcd-rules/", SECOND).await;
    for key in ["/written/1", "/written/2"] {
        etcd.delete(key).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_larger_than_the_option_allows_is_given_up() {
    let etcd = Etcd::start().await;
    let builder = |optimistic| engine(&etcd).max_request_bytes(20_000).rule(writer(optimistic));
    is_given_up(&etcd, builder(false), 19_900, "the most is 20000 (max_request_bytes)").await;
    is_given_up(&etcd, builder(true), 30_000, "the most is 20000 (max_request_bytes)").await;
    // As much as it allows fits.
    let running = start(builder(false)).await;
    etcd.put("/write/1", "18000").await;
    eventually(20 * SECOND, "it is written", async || etcd.get("/written/1").await.is_some()).await;
    running.shutdown(5 * SECOND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_finds_too_large_is_given_up() {
    let etcd = Etcd::start().await;
    let builder = |optimistic| engine(&etcd).max_request_bytes(100 << 20).rule(writer(optimistic));
    is_given_up(&etcd, builder(false), 1_700_000, "request is too large").await;
    is_given_up(&etcd, builder(true), 1_700_000, "request is too large").await;
    // More than its gRPC takes.
    is_given_up(&etcd, builder(false), 5_000_000, "larger than max").await;
}
