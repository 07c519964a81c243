//! Embedding: every kind of runtime, several engines in a process, callbacks that block.

use crate::support::{Etcd, assert_nothing_left, eventually, free_port};
use etcd_rules::{
    Engine, EngineBuilder, EngineError, EngineHandle, Error, ErrorKind, Firing, Health, Outcome, Rule, key,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn engine(etcd: &Etcd, name: &str) -> EngineBuilder {
    Engine::builder(name, [etcd.endpoint()])
}

fn acknowledge() -> Rule {
    Rule::new("acknowledge").when(key("/jobs/:id").exists() & key("/done/:id").absent()).run(
        |firing: Firing| async move { Ok::<Outcome, Error>(firing.commit().put("/done/:id", "").into()) },
    )
}

/// The scenario: whatever the runtime, a change fires the rule, and the end is clean.
async fn scenario() {
    let etcd = Etcd::start().await;
    let running = engine(&etcd, "embedded").rule(acknowledge()).build().unwrap().start().await.unwrap();
    running.ready().await;
    etcd.put("/jobs/1", "").await;
    eventually(20 * SECOND, "it fired", async || etcd.get("/done/1").await.is_some()).await;
    running.shutdown(5 * SECOND).await.unwrap();
    assert_nothing_left(&etcd, "/etcd-rules/", SECOND).await;
}

/// A handle can be the state of a web server: it is cloned, shared, and asked by others.
#[tokio::test(flavor = "multi_thread")]
async fn a_handle_is_shared_and_keeps_no_engine_alive() {
    fn state<T: Clone + Send + Sync + 'static>(of: T) -> T {
        of
    }
    let etcd = Etcd::start().await;
    let running = engine(&etcd, "shared").rule(acknowledge()).build().unwrap().start().await.unwrap();
    let (handle, other) = (state(running.handle()), running.handle());
    assert_eq!(handle.name(), "shared");
    let asked = tokio::spawn(async move {
        other.ready().await;
        other.pause("acknowledge").await.unwrap();
        other.rules().await.unwrap()
    });
    let rules = serde_json::to_value(asked.await.unwrap()).unwrap();
    assert_eq!((&rules[0]["id"], &rules[0]["paused"]), (&"acknowledge".into(), &true.into()));
    assert_eq!(serde_json::to_value(handle.health()).unwrap()["state"], "ready");
    let mut events = handle.events();
    drop(running);
    let mut health = handle.health_changes();
    while let Some(health) = health.recv().await {
        assert!(health != Health::Stopped || handle.health() == Health::Stopped);
    }
    assert_eq!(handle.health(), Health::Stopped, "although there is a handle");
    assert!(events.recv().await.is_none(), "nothing happened, and nothing will");
    let error = handle.stats().await.unwrap_err();
    assert!(matches!(error, EngineError::Stopped(_)) && error.kind() == ErrorKind::Stopped, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn run_until_hands_out_a_handle() {
    let etcd = Etcd::start().await;
    let built = engine(&etcd, "until").rule(acknowledge()).build().unwrap();
    let mut given = None;
    let ready = |handle: EngineHandle| {
        given = Some(handle.clone());
        async move { handle.ready().await }
    };
    tokio::time::timeout(60 * SECOND, built.run_until_with(ready)).await.expect("it ends").unwrap();
    assert_eq!(given.expect("it was called").health(), Health::Stopped);
    assert_nothing_left(&etcd, "/etcd-rules/", SECOND).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_runs_from_a_multi_thread_runtime() {
    scenario().await;
}

#[tokio::test(flavor = "current_thread")]
async fn it_runs_from_a_current_thread_runtime() {
    scenario().await;
}

#[test]
fn it_runs_from_an_actix_system() {
    actix::System::new().block_on(scenario());
}

#[test]
fn outside_of_a_runtime_it_says_what_to_do() {
    let built = Engine::builder("x", ["127.0.0.1:1"]).rule(acknowledge()).build().unwrap();
    let mut start = std::pin::pin!(built.start());
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match start.as_mut().poll(&mut context) {
        std::task::Poll::Ready(Err(error @ EngineError::NoRuntime)) => {
            assert!(error.to_string().contains("tokio runtime"), "{error}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_engines_live_in_one_process() {
    let etcd = Etcd::start().await;
    let mut engines = Vec::new();
    for name in ["one", "two", "three"] {
        let rule = Rule::new("mark")
            .when(key("/jobs/:id").exists() & key(format!("/{name}/:id")).absent())
            .run(move |firing: Firing| async move {
                Ok::<Outcome, Error>(firing.commit().put(&format!("/{name}/:id"), "").into())
            });
        engines.push(engine(&etcd, name).rule(rule).build().unwrap().start().await.unwrap());
    }
    etcd.put("/jobs/1", "").await;
    for name in ["one", "two", "three"] {
        eventually(20 * SECOND, name, async || etcd.get(&format!("/{name}/1")).await.is_some()).await;
    }
    for engine in engines {
        engine.shutdown(5 * SECOND).await.unwrap();
    }
    assert_nothing_left(&etcd, "/etcd-rules/", SECOND).await;
}

/// The only thread of the application's runtime is blocked for longer than the lock TTL: the engine
/// renews its lease all the same, the commit takes effect, and no other engine fires.
#[test]
fn a_callback_that_blocks_its_thread_does_not_cost_the_lease() {
    let firings = Arc::new(AtomicUsize::new(0));
    let observer = tokio::runtime::Runtime::new().unwrap();
    let etcd = observer.block_on(Etcd::start());
    let rule = |blocks: bool| {
        let firings = firings.clone();
        Rule::new("block").when(key("/block/:id").exists()).run(move |firing: Firing| {
            firings.fetch_add(1, Ordering::SeqCst);
            async move {
                if blocks {
                    std::thread::sleep(10 * SECOND);
                }
                assert!(!firing.is_cancelled());
                Ok::<Outcome, Error>(
                    firing
                        .commit()
                        .delete("/block/:id")
                        .put("/by", if blocks { "blocked" } else { "other" })
                        .into(),
                )
            }
        })
    };
    let single = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    single.block_on(async {
        let running = engine(&etcd, "app")
            .lock_ttl(8 * SECOND)
            .rule(rule(true))
            .build()
            .unwrap()
            .start()
            .await
            .unwrap();
        running.ready().await;
        etcd.put("/block/x", "").await;
        eventually(20 * SECOND, "it began", async || firings.load(Ordering::SeqCst) == 1).await;
        let other = observer
            .spawn({
                let built = engine(&etcd, "app").lock_ttl(8 * SECOND).rule(rule(false)).build().unwrap();
                async move { built.start().await.unwrap() }
            })
            .await
            .unwrap();
        eventually(20 * SECOND, "it ended", async || etcd.get("/block/x").await.is_none()).await;
        assert_eq!(etcd.get("/by").await, Some("blocked".into()));
        assert_eq!(firings.load(Ordering::SeqCst), 1, "the other engine never had the lock");
        running.shutdown(5 * SECOND).await.unwrap();
        other.shutdown(5 * SECOND).await.unwrap();
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_lets_callbacks_finish_and_cancels_those_that_do_not() {
    let etcd = Etcd::start().await;
    let begun = Arc::new(AtomicUsize::new(0));
    let ends = tokio::sync::watch::Sender::new(false);
    let (seen, end) = (begun.clone(), ends.subscribe());
    let rule = Rule::new("work").when(key("/work/:id").exists()).run(move |firing: Firing| {
        seen.fetch_add(1, Ordering::SeqCst);
        let mut end = end.clone();
        async move {
            if firing.attribute("id")? == "long" {
                std::future::pending::<()>().await;
            }
            end.wait_for(|end| *end).await.unwrap();
            Ok::<Outcome, Error>(firing.commit().delete("/work/:id").into())
        }
    });
    let running = engine(&etcd, "app").rule(rule).build().unwrap().start().await.unwrap();
    running.ready().await;
    etcd.put("/work/short", "").await;
    etcd.put("/work/long", "").await;
    eventually(20 * SECOND, "both began", async || begun.load(Ordering::SeqCst) == 2).await;
    let mut health = running.health_changes();
    let started = tokio::time::Instant::now();
    let shutdown = tokio::spawn(running.shutdown(3 * SECOND));
    while health.recv().await.expect("it is yet to stop") != Health::Stopping {}
    ends.send_replace(true);
    tokio::time::timeout(60 * SECOND, shutdown).await.expect("the long one ends too").unwrap().unwrap();
    assert!(started.elapsed() >= 3 * SECOND, "{:?}", started.elapsed());
    assert_eq!(health.recv().await, Some(Health::Stopped));
    assert_eq!(etcd.keys("/work/").await, ["/work/long"], "the short one had finished");
    assert_nothing_left(&etcd, "/etcd-rules/", SECOND).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_etcd_it_keeps_trying_or_fails_in_time_as_configured() {
    let port = free_port().unwrap();
    let endpoint = format!("127.0.0.1:{port}");
    let within = 2 * SECOND;
    let built =
        Engine::builder("x", [endpoint.clone()]).rule(acknowledge()).start_timeout(within).build().unwrap();
    match built.start().await {
        Err(error @ EngineError::NotReady { .. }) => {
            let text = error.to_string();
            assert!(text.contains("Connection refused") && text.contains(&endpoint), "{text}");
        }
        other => panic!("{other:?}"),
    }
    let running =
        Engine::builder("x", [endpoint]).rule(acknowledge()).build().unwrap().start().await.unwrap();
    eventually(
        20 * SECOND,
        "it says what is wrong",
        async || matches!(running.health(), Health::Starting { problems } if !problems.is_empty()),
    )
    .await;
    running.shutdown(SECOND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_is_down_costs_nothing_but_a_move_to_the_next() {
    let etcd = Etcd::start().await;
    let dead = format!("127.0.0.1:{}", free_port().unwrap());
    let failed = Arc::new(AtomicUsize::new(0));
    let counted = failed.clone();
    let rule = Rule::new("job").when(key("/jobs/:id").exists()).run(move |firing: Firing| {
        let counted = counted.clone();
        async move {
            let read = firing.get("/jobs/:id").await;
            counted.fetch_add(usize::from(read.is_err()), Ordering::SeqCst);
            Ok::<Outcome, Error>(firing.commit().delete("/jobs/:id").into())
        }
    });
    // Whichever is tried first, at least one of these engines begins with the one that is down.
    for name in ["one", "two", "three"] {
        let endpoints = [dead.clone(), etcd.endpoint(), dead.clone()];
        let built = Engine::builder(name, endpoints).rule(rule.clone()).build().unwrap();
        let running = built.start().await.unwrap();
        tokio::time::timeout(30 * SECOND, running.ready()).await.expect("ready");
        for n in 0..20 {
            etcd.put(&format!("/jobs/{n}"), "").await;
        }
        eventually(20 * SECOND, "all are done", async || etcd.keys("/jobs/").await.is_empty()).await;
        running.shutdown(5 * SECOND).await.unwrap();
    }
    assert_eq!(failed.load(Ordering::SeqCst), 0, "no callback saw it");
}
