//! Tests how soon another engine takes over. They use the embedded etcd and a paused clock, so that the speed
//! of the machine doesn't matter.

use crate::embedded::{EmbeddedEtcd, NetworkPath};
use crate::engine::{Engine, RunningEngine};
use crate::mutants::{self, Mutant};
use crate::runtime::env::Env;
use crate::{Error, Firing, Outcome, Rule, key};
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};
use tokio::time::{Instant, sleep, timeout};

const SECOND: Duration = Duration::from_secs(1);
const MILLI: Duration = Duration::from_millis(1);
const TTL: Duration = Duration::from_secs(8);
const HOUR: Duration = Duration::from_secs(3600);

/// Which engine started a callback, and when.
type Begun = Arc<Mutex<Vec<(&'static str, Instant)>>>;

fn under_a_still_clock<T>(run: impl AsyncFnOnce() -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    tokio::task::LocalSet::new().block_on(&runtime.expect("a runtime"), run())
}

/// An engine that nothing but changes and released locks makes do anything.
async fn start(
    name: &'static str,
    path: &NetworkPath,
    rule: Rule,
    begun: &Begun,
    work: Duration,
) -> RunningEngine {
    let begun = begun.clone();
    let rule = rule.run(move |firing: Firing| {
        begun.lock().expect("no panic").push((name, Instant::now()));
        async move {
            sleep(work).await;
            Ok::<Outcome, Error>(firing.commit().delete("/jobs/:id").into())
        }
    });
    let builder = Engine::builder_with_channel("app", path.channel()).name(name).rule(rule).lock_ttl(TTL);
    let mut builder = builder.crawl_interval(HOUR);
    let start = Instant::now();
    builder.env = Env::local(name.len() as u64, move || UNIX_EPOCH + start.elapsed());
    let handle = builder.build().expect("sound").start().await.expect("it starts");
    handle.ready().await;
    sleep(SECOND).await;
    handle
}

fn job() -> Rule {
    Rule::new("job").when(key("/jobs/:id").exists())
}

/// How long after the holder was cut off another engine started its work. `None` if it didn't within ten
/// minutes.
fn takeover() -> Option<Duration> {
    under_a_still_clock(async || {
        let etcd = EmbeddedEtcd::in_process();
        let (path, begun) = (etcd.path(), Begun::default());
        let _holder = start("holder", &path, job(), &begun, HOUR).await;
        etcd.client().await.expect("a client").put("/jobs/1", "", None).await.expect("a put");
        sleep(SECOND).await;
        let _other = start("other", &etcd.path(), job(), &begun, HOUR).await;
        assert_eq!(begun.lock().expect("no panic").len(), 1, "the other one waits");
        path.set_reachable(false);
        let cut = Instant::now();
        sleep(600 * SECOND).await;
        let begun = begun.lock().expect("no panic");
        begun.iter().find(|(name, _)| *name == "other").map(|(_, at)| *at - cut)
    })
}

#[test]
fn another_engine_takes_over_within_the_ttl_and_a_second() {
    let took = takeover().expect("it is taken over");
    assert!(took <= TTL + SECOND, "{took:?}");
    let unwoken = mutants::with(Some(Mutant::WakeUps), takeover);
    assert!(unwoken.is_none_or(|took| took > TTL + SECOND), "it was woken: {unwoken:?}");
}

/// How long 20 instances of 50 ms each take in two engines, if they share a lock.
fn in_turns() -> Option<Duration> {
    under_a_still_clock(async || {
        let etcd = EmbeddedEtcd::in_process();
        let begun = Begun::default();
        let shared = || job().lock("/all");
        let _one = start("one", &etcd.path(), shared(), &begun, 50 * MILLI).await;
        let _other = start("other", &etcd.path(), shared(), &begun, 50 * MILLI).await;
        let mut client = etcd.client().await.expect("a client");
        let since = Instant::now();
        for n in 0..20 {
            client.put(format!("/jobs/{n}"), "", None).await.expect("a put");
        }
        let done = async {
            while begun.lock().expect("no panic").len() < 20 {
                sleep(MILLI).await;
            }
        };
        timeout(600 * SECOND, done).await.ok().map(|()| since.elapsed())
    })
}

#[test]
fn who_waits_for_a_lock_begins_when_it_is_free() {
    let took = in_turns().expect("all have their turn");
    // There are 19 turns of 50 ms before the last one.
    assert!((950 * MILLI..1200 * MILLI).contains(&took), "{took:?}");
}
