//! What a callback is shown without being part of its rule's condition.

use crate::support::{Etcd, assert_nothing_left, eventually};
use etcd_client::{Txn, TxnOp};
use etcd_rules::events::{CommitResult, EventKind};
use etcd_rules::testing::Trial;
use etcd_rules::{Engine, EngineBuilder, Error, ErrorKind, Firing, FiringError, Outcome, Rule, key};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Semaphore;

const SECOND: Duration = Duration::from_secs(1);

fn engine(etcd: &Etcd) -> EngineBuilder {
    Engine::builder("test", [etcd.endpoint()])
}

/// Two keys that are always written together, below prefixes of their own. Only one is of the condition.
#[tokio::test(flavor = "multi_thread")]
async fn a_shown_key_is_from_the_same_view_as_the_condition() {
    const IDS: u64 = 100;
    const ROUNDS: u64 = 20;
    let etcd = Etcd::start().await;
    let (torn, fired) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicU64::new(0)));
    let (seen, counted) = (torn.clone(), fired.clone());
    let rule = Rule::new("pair").when(key("/a/:id").exists()).show("/b/:id").run(move |firing: Firing| {
        let (seen, counted) = (seen.clone(), counted.clone());
        async move {
            let pair = (firing.value("/a/:id")?.clone(), firing.value_opt("/b/:id")?.cloned());
            if Some(&pair.0) != pair.1.as_ref() {
                seen.lock().unwrap().push(pair);
            }
            counted.fetch_add(1, Ordering::Relaxed);
            Ok::<Outcome, Error>(firing.commit().delete("/a/:id").into())
        }
    });
    let built = engine(&etcd).rule(rule).build().unwrap();
    assert_eq!(built.watched_prefixes().count(), 2);
    let running = built.start().await.unwrap();
    running.ready().await;
    let client = etcd.client().await;
    for round in 1..=ROUNDS {
        let writing = (0..IDS).map(|id| {
            let mut kv = client.kv_client();
            async move {
                let put = |prefix| TxnOp::put(format!("/{prefix}/{id}"), round.to_string(), None);
                kv.txn(Txn::new().and_then([put("a"), put("b")])).await.expect("written");
            }
        });
        futures_util::future::join_all(writing).await;
        eventually(60 * SECOND, "all have fired", async || etcd.keys("/a/").await.is_empty()).await;
    }
    assert!(fired.load(Ordering::Relaxed) >= IDS * ROUNDS);
    assert_eq!(*torn.lock().unwrap(), [], "values that were never there together");
    running.shutdown(5 * SECOND).await.unwrap();
    assert_nothing_left(&etcd, "/etcd-rules/", 10 * SECOND).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shown_key_makes_no_instance_and_fires_nothing() {
    let etcd = Etcd::start().await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = seen.clone();
    let rule = Rule::new("stay").when(key("/s/:id").exists()).show("/s/:id/note").show("/mode").run(
        move |firing: Firing| {
            let noted = noted.clone();
            async move {
                let of = |pattern| Ok::<_, Error>(firing.value_opt(pattern)?.map(ToString::to_string));
                noted.lock().unwrap().push((of("/s/:id/note")?, of("/mode")?));
                Ok::<(), Error>(())
            }
        },
    );
    // Without an attribute too, where the instance is always there.
    let ran = Arc::new(AtomicUsize::new(0));
    let counted = ran.clone();
    let single = Rule::new("single").when(key("/single").exists()).show("/mode").run(move |_: Firing| {
        counted.fetch_add(1, Ordering::Relaxed);
        std::future::ready(Ok::<(), Error>(()))
    });
    etcd.put("/s/2/note", "an orphan").await;
    let running = engine(&etcd).rules([rule, single]).build().unwrap().start().await.unwrap();
    running.ready().await;
    assert_eq!(running.stats().await.unwrap().instances, 1, "the one without attributes");
    etcd.put("/s/1", "").await;
    etcd.put("/single", "").await;
    eventually(10 * SECOND, "both have fired", async || {
        seen.lock().unwrap().len() == 1 && ran.load(Ordering::Relaxed) == 1
    })
    .await;
    for value in ["a", "b"] {
        etcd.put("/s/1/note", value).await;
        etcd.put("/mode", value).await;
    }
    tokio::time::sleep(SECOND).await;
    assert_eq!((seen.lock().unwrap().len(), ran.load(Ordering::Relaxed)), (1, 1));
    etcd.put("/s/1", "again").await;
    eventually(10 * SECOND, "it has fired again", async || seen.lock().unwrap().len() == 2).await;
    let shown = seen.lock().unwrap().clone();
    assert_eq!(shown, [(None, None), (Some("b".into()), Some("b".into()))]);
    running.shutdown(5 * SECOND).await.unwrap();
}

/// The first run of a callback waits, until something was written meanwhile.
async fn optimistic_run(unchecked: bool) -> (usize, Vec<CommitResult>) {
    let etcd = Etcd::start().await;
    let (runs, may) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    let (counted, waited) = (runs.clone(), may.clone());
    let rule = Rule::new("job").when(key("/job/:id").equals("new")).optimistic();
    let rule = if unchecked { rule.show_unchecked("/count") } else { rule.show("/count") };
    let rule = rule.run(move |firing: Firing| {
        let (counted, waited) = (counted.clone(), waited.clone());
        async move {
            let count = firing.value("/count")?.clone();
            if counted.fetch_add(1, Ordering::Relaxed) == 0 {
                waited.acquire().await?.forget();
            }
            Ok::<Outcome, etcd_rules::BoxError>(
                firing.commit().put("/job/:id", "done").put("/out/:id", count).into(),
            )
        }
    });
    etcd.put("/count", "1").await;
    etcd.put("/job/7", "new").await;
    let built = engine(&etcd).rule(rule).build().unwrap();
    let mut events = built.events();
    let running = built.start().await.unwrap();
    eventually(10 * SECOND, "it runs", async || runs.load(Ordering::Relaxed) == 1).await;
    etcd.put("/count", "2").await;
    may.add_permits(1);
    eventually(10 * SECOND, "it is done", async || etcd.get("/job/7").await.as_deref() == Some("done")).await;
    let out = etcd.get("/out/7").await;
    assert_eq!(out.as_deref(), Some(if unchecked { "1" } else { "2" }));
    running.shutdown(5 * SECOND).await.unwrap();
    let mut results = Vec::new();
    while let Some(event) = events.recv().await {
        if let EventKind::Closed { result, .. } = &event.unwrap().kind {
            results.push(result.clone());
        }
    }
    (runs.load(Ordering::Relaxed), results)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_optimistic_commit_expects_a_shown_key_unchanged_unless_it_is_unchecked() {
    let (runs, results) = optimistic_run(false).await;
    assert_eq!(runs, 2);
    assert!(
        matches!(&results[..], [CommitResult::Unexpected, CommitResult::Committed { .. }]),
        "{results:?}"
    );
    let (runs, results) = optimistic_run(true).await;
    assert_eq!(runs, 1);
    assert!(matches!(&results[..], [CommitResult::Committed { .. }]), "{results:?}");
}

#[tokio::test]
async fn a_trial_shows_what_a_rule_shows() {
    let rule = Rule::new("r").when(key("/a/:id").exists()).show("/b/:id").show("/c").run(
        async |firing: Firing| -> Result<Outcome, Error> {
            assert_eq!(firing.value("/b/:id")?, "1");
            assert!(matches!(firing.value("/c"), Err(FiringError::WasAbsent { key }) if key == "/c"));
            let error = firing.value("/d").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
            Ok(firing.commit().expect_unchanged("/b/:id").delete("/a/:id").into())
        },
    );
    let trial = Trial::of(rule).unwrap().attribute("id", "7").keys([("/a/7", ""), ("/b/7", "1")]);
    let tried = trial.clone().run().await.unwrap();
    assert_eq!((tried.unexpected, tried.keys.contains_key("/a/7")), (None, false));
    let tried = trial.put_meanwhile("/b/7", "2").run().await.unwrap();
    assert_eq!(tried.unexpected.as_deref(), Some("/b/7"));
}
