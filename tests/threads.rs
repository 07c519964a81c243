//! Nothing remains: no thread, lock or lease after a shutdown; no thread a second after a drop.
//!
//! One test in a program of its own, since it counts the threads of its process.

mod support;

use etcd_rules::http::Endpoint;
use etcd_rules::{Engine, Error, Firing, Outcome, Rule, key};
use std::time::Duration;
use support::{Etcd, assert_nothing_left, assert_threads_gone, eventually, threads_named};

const SECOND: Duration = Duration::from_secs(1);

fn built(etcd: &Etcd) -> Engine {
    let rule = Rule::new("work").when(key("/work/:id").exists()).run(|firing: Firing| async move {
        if firing.attribute("id")? == "endless" {
            std::future::pending::<()>().await;
        }
        Ok::<Outcome, Error>(firing.commit().delete("/work/:id").into())
    });
    Engine::builder("app", [etcd.endpoint()])
        .rule(rule)
        .lock_ttl(5 * SECOND)
        .request_timeout(60 * SECOND)
        .build()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_remains_after_a_shutdown_or_a_drop() {
    let etcd = Etcd::start().await;
    assert_eq!(threads_named("etcd-rules"), 0);

    let running = built(&etcd).start().await.unwrap();
    running.ready().await;
    assert!(threads_named("etcd-rules") > 0);
    etcd.put("/work/a", "").await;
    eventually(20 * SECOND, "it fired", async || etcd.get("/work/a").await.is_none()).await;
    running.shutdown(5 * SECOND).await.unwrap();
    assert_eq!(threads_named("etcd-rules"), 0, "when shutdown returns, the threads have ended");
    assert_nothing_left(&etcd, "/etcd-rules/", Duration::from_millis(1)).await;

    // As many threads evaluate as were asked for, or none of their own.
    for evaluators in [0, 2] {
        let rule = Rule::new("work").when(key("/work/:id").exists()).run(|firing: Firing| async move {
            Ok::<Outcome, Error>(firing.commit().delete("/work/:id").into())
        });
        let builder = Engine::builder("app", [etcd.endpoint()]).rule(rule).evaluators(evaluators);
        let running = builder.build().unwrap().start().await.unwrap();
        running.ready().await;
        assert_eq!(threads_named("etcd-rules-ev"), evaluators);
        etcd.put("/work/a", "").await;
        eventually(20 * SECOND, "it fired", async || etcd.get("/work/a").await.is_none()).await;
        running.shutdown(5 * SECOND).await.unwrap();
    }

    // A drop in the middle of a callback.
    let running = built(&etcd).start().await.unwrap();
    running.ready().await;
    etcd.put("/work/endless", "").await;
    eventually(20 * SECOND, "it is running", async || !etcd.keys("/etcd-rules/app/lock/").await.is_empty())
        .await;
    drop(running);
    assert_threads_gone("etcd-rules", 20 * SECOND).await;
    assert_nothing_left(&etcd, "/etcd-rules/", 20 * SECOND).await;
    etcd.delete("/work/endless").await;

    // A drop while etcd does not answer.
    let running = built(&etcd).start().await.unwrap();
    running.ready().await;
    let mut etcd = etcd;
    etcd.pause();
    drop(running);
    assert_threads_gone("etcd-rules", 20 * SECOND).await;
    etcd.resume();
    assert_nothing_left(&etcd, "/etcd-rules/", 20 * SECOND).await;

    // An HTTP endpoint has a thread of its own.
    let endpoint = Endpoint::builder().address(([127, 0, 0, 1], 0).into()).listen().unwrap();
    eventually(20 * SECOND, "it has begun", async || threads_named("etcd-rules-http") > 0).await;
    drop(endpoint);
    assert_threads_gone("etcd-rules-http", 20 * SECOND).await;
}
