//! Tests that need access to the inside: parts that panic, and a whole engine in one thread.

#[cfg(feature = "embedded")]
mod delays;
#[cfg(feature = "embedded")]
mod limits;
#[path = "../../tests/support/mod.rs"]
mod support;

use super::{Engine, EngineBuilder};
use crate::health::Health;
use crate::runtime::env::Env;
use crate::{EngineError, Error, Firing, Outcome, Reveal, Rule, key};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};
use support::{Etcd, assert_nothing_left, eventually};

const SECOND: Duration = Duration::from_secs(1);

fn engine(etcd: &Etcd) -> EngineBuilder {
    let rule = Rule::new("acknowledge").when(key("/jobs/:id").exists() & key("/done/:id").absent()).run(
        |firing: Firing| async move { Ok::<Outcome, Error>(firing.commit().put("/done/:id", "").into()) },
    );
    Engine::builder("test", [etcd.endpoint()]).rule(rule).lock_ttl(3 * SECOND)
}

/// Makes one part panic at a message, `left` times in all, each time after a few other messages.
fn poison(builder: &mut EngineBuilder, part: &'static str, left: usize) -> Arc<AtomicUsize> {
    let left = Arc::new(AtomicUsize::new(left));
    let (handled, counter) = (AtomicUsize::new(0), left.clone());
    builder.env.probe = Some(Arc::new(move |name| {
        if name == part
            && handled.fetch_add(1, Ordering::SeqCst) % 4 == 3
            && counter.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
        {
            panic!("poison in the {name}");
        }
    }));
    left
}

/// Makes a part panic twice. The process survives, and the engine continues where it was.
async fn survives(part: &'static str) {
    let etcd = Etcd::start().await;
    let mut builder = engine(&etcd);
    let left = poison(&mut builder, part, 2);
    let running = builder.build().unwrap().start().await.unwrap();
    let mut job = 0;
    eventually(30 * SECOND, "it panicked twice", async || {
        etcd.put(&format!("/jobs/{job}"), "").await;
        job += 1;
        left.load(Ordering::SeqCst) == 0
    })
    .await;
    etcd.put("/jobs/last", "").await;
    eventually(20 * SECOND, "every job is done all the same", async || {
        etcd.keys("/done/").await.len() == job + 1
    })
    .await;
    eventually(20 * SECOND, "it is well", async || running.health() == Health::Ready).await;
    running.shutdown(5 * SECOND).await.unwrap();
    assert_nothing_left(&etcd, "/etcd-rules/", 10 * SECOND).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_the_index_is_survived() {
    survives("index").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_an_evaluator_is_survived() {
    survives("evaluator").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_the_dispatcher_is_survived() {
    survives("dispatcher").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_outlasts_a_restart_of_the_parts() {
    let etcd = Etcd::start().await;
    let mut builder = engine(&etcd);
    let left = poison(&mut builder, "index", 0);
    let running = builder.build().unwrap().start().await.unwrap();
    running.ready().await;
    running.pause("acknowledge").await.unwrap();
    left.store(1, Ordering::SeqCst);
    let mut job = 0;
    eventually(30 * SECOND, "it panicked", async || {
        etcd.put(&format!("/jobs/{job}"), "").await;
        job += 1;
        left.load(Ordering::SeqCst) == 0
    })
    .await;
    eventually(20 * SECOND, "it knows all jobs again", async || {
        running.stats().await.is_ok_and(|stats| stats.queued == job)
    })
    .await;
    assert!(running.rules().await.unwrap()[0].paused && etcd.keys("/done/").await.is_empty());
    running.resume("acknowledge").await.unwrap();
    eventually(20 * SECOND, "all are done", async || etcd.keys("/done/").await.len() == job).await;
    running.shutdown(5 * SECOND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_the_requests_actor_is_survived() {
    survives("requests").await;
}

/// If a part panics again and again, the engine fails visibly.
#[tokio::test(flavor = "multi_thread")]
async fn panics_without_end_end_the_engine_loudly() {
    let etcd = Etcd::start().await;
    let mut builder = engine(&etcd);
    poison(&mut builder, "index", usize::MAX);
    let built = builder.reveal(Reveal::Values).build().unwrap();
    let result = tokio::time::timeout(60 * SECOND, built.run_until(std::future::pending::<()>())).await;
    match result.expect("it gives up") {
        Err(Error::Engine(EngineError::Stopped(reason))) => {
            assert!(
                reason.contains("the index panicked") && reason.contains("poison in the index"),
                "{reason}"
            )
        }
        other => panic!("{other:?}"),
    }
}

/// An engine that has failed stays visible on its endpoint, so that a probe can restart the process.
#[cfg(feature = "http")]
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_engine_is_not_live_until_its_handle_is_gone() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let endpoint = crate::http::Endpoint::builder().address(([127, 0, 0, 1], 0).into()).listen().unwrap();
    let livez = async || {
        let mut stream = tokio::net::TcpStream::connect(endpoint.address()).await.unwrap();
        stream.write_all(b"GET /livez HTTP/1.0\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let etcd = Etcd::start().await;
    let mut builder = engine(&etcd).endpoint(&endpoint);
    poison(&mut builder, "index", usize::MAX);
    let running = builder.build().unwrap().start().await.unwrap();
    assert!(livez().await.starts_with("HTTP/1.0 200"), "it starts again and again");
    let reason = tokio::time::timeout(60 * SECOND, running.failed()).await.expect("it gives up");
    let answer = livez().await;
    assert!(
        answer.starts_with("HTTP/1.0 503") && answer.contains("it has failed: the index panicked"),
        "{answer}"
    );
    assert!(!answer.contains("poison"), "what a panic says may be anything");
    assert!(!format!("{reason:?} {:?}", running.health()).contains("poison"), "{reason:?}");
    drop(running);
    assert!(livez().await.starts_with("HTTP/1.0 200"), "nothing is left that has failed");
}

/// A whole engine in one thread behaves the same, and starts no threads.
#[tokio::test(flavor = "current_thread")]
async fn an_engine_runs_in_one_thread() {
    let local = tokio::task::LocalSet::new();
    local
        .run_until(Box::pin(async {
            let etcd = Etcd::start().await;
            let mut builder = engine(&etcd);
            builder.env = Env::local(7, || SystemTime::UNIX_EPOCH);
            let running = builder.build().unwrap().start().await.unwrap();
            etcd.put("/jobs/1", "").await;
            eventually(20 * SECOND, "it fired", async || etcd.get("/done/1").await.is_some()).await;
            running.shutdown(5 * SECOND).await.unwrap();
            assert_nothing_left(&etcd, "/etcd-rules/", SECOND).await;
        }))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_explanation_shows_what_was_seen() {
    let etcd = Etcd::start().await;
    let revision = etcd.put("/jobs/1", "x").await;
    let rule = Rule::new("never")
        .when(key("/jobs/:id").equals("y") & key("/done/:id").absent())
        .run(|_: Firing| async { Ok::<Outcome, Error>(Outcome::done()) });
    let running =
        Engine::builder("test", [etcd.endpoint()]).rule(rule).build().unwrap().start().await.unwrap();
    running.ready().await;
    let explained = running.explain("never", &[("id", "1")].into()).await.unwrap();
    assert!(!explained.condition.truth);
    let seen = &explained.condition.children[0].seen[0];
    assert_eq!((seen.key.as_str(), seen.mod_revision), ("/jobs/1", Some(revision)));
    assert!(matches!(running.explain("other", &Default::default()).await, Err(EngineError::UnknownRule(_))));
    assert!(matches!(
        running.explain("never", &Default::default()).await,
        Err(EngineError::UnknownAttribute(_))
    ));
    running.shutdown(SECOND).await.unwrap();
}

/// If a user's comparison panics, in a decision or an explanation, its instance is left alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_comparison_that_panics_hurts_nobody_else() {
    let etcd = Etcd::start().await;
    let bad = key("/jobs/:id").compare("panics", |value| value.is_some_and(|value| panic!("on {value:?}")));
    let rule = Rule::new("bad").when(bad).run(|_: Firing| async { Ok::<Outcome, Error>(Outcome::done()) });
    let running = engine(&etcd).rule(rule).build().unwrap().start().await.unwrap();
    running.ready().await;
    etcd.put("/jobs/1", "x").await;
    eventually(20 * SECOND, "the other rule fired", async || etcd.get("/done/1").await.is_some()).await;
    let explained = running.explain("bad", &[("id", "1")].into()).await;
    assert!(
        matches!(&explained, Err(EngineError::Comparison { rule, .. }) if rule == "bad"),
        "{explained:?}"
    );
    assert_eq!(running.health(), Health::Ready);
    assert_eq!(running.stats().await.unwrap().running, 0);
    running.shutdown(SECOND).await.unwrap();
    assert_nothing_left(&etcd, "/etcd-rules/", SECOND).await;
}
