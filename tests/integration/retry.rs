//! What waits or was given up can be fired at once, on a live etcd.

use crate::support::{Etcd, eventually};
use etcd_rules::{Backoff, BoxError, Engine, EngineError, Firing, Outcome, Rule, RunningEngine, key};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

/// Fails or gives up, as the key says, until the cause is gone.
async fn start(etcd: &Etcd, name: &str, mended: &Arc<AtomicBool>) -> RunningEngine {
    let mended = mended.clone();
    let hour = Duration::from_secs(3600);
    let rule = Rule::new("order").when(key("/orders/:id").exists()).backoff(Backoff::new(hour, hour)).run(
        move |firing: Firing| {
            let mended = mended.load(Ordering::SeqCst);
            async move {
                match firing.value_opt("/orders/:id")?.and_then(|value| value.as_str()) {
                    _ if mended => Ok(firing.commit().delete("/orders/:id").into()),
                    Some("give up") => Ok(Outcome::give_up("no use")),
                    _ => Err(BoxError::from("it does not work")),
                }
            }
        },
    );
    let engine = Engine::builder("orders", [etcd.endpoint()]).name(name).rule(rule);
    let running = engine.build().unwrap().start().await.unwrap();
    running.ready().await;
    running
}

#[tokio::test(flavor = "multi_thread")]
async fn what_failed_or_was_given_up_is_tried_again_on_demand_by_any_engine() {
    let etcd = Etcd::start().await;
    let mended = Arc::new(AtomicBool::new(false));
    let first = start(&etcd, "a", &mended).await;
    for id in ["1", "2"] {
        etcd.put(&format!("/orders/{id}"), "fail").await;
    }
    for id in ["3", "4", "5"] {
        etcd.put(&format!("/orders/{id}"), "give up").await;
    }
    eventually(20 * SECOND, "all were tried", async || {
        let stats = first.stats().await.unwrap();
        (stats.waiting, stats.given_up) == (2, 3)
    })
    .await;
    let second = start(&etcd, "b", &mended).await;
    eventually(20 * SECOND, "the other engine is held back", async || {
        let stats = second.stats().await.unwrap();
        (stats.held, stats.given_up) == (2, 3)
    })
    .await;
    mended.store(true, Ordering::SeqCst);
    for (engine, id) in [(&first, "1"), (&second, "2"), (&first, "3")] {
        assert!(engine.fire_now("order", &[("id", id)].into()).await.unwrap(), "{id}");
        let order = format!("/orders/{id}");
        eventually(20 * SECOND, "it fired", async || etcd.get(&order).await.is_none()).await;
    }
    assert_eq!(etcd.keys("/orders/").await, ["/orders/4", "/orders/5"], "the others wait");
    assert!(!first.fire_now("order", &[("id", "1")].into()).await.unwrap(), "it is not true any more");
    eventually(20 * SECOND, "the other engine knows", async || second.stats().await.unwrap().given_up == 2)
        .await;
    assert_eq!(second.retry_given_up("order").await.unwrap(), 2);
    eventually(20 * SECOND, "the rest fired", async || etcd.keys("/orders/").await.is_empty()).await;
    assert!(matches!(first.retry_given_up("other").await, Err(EngineError::UnknownRule(_))));
    first.shutdown(SECOND).await.unwrap();
    second.shutdown(SECOND).await.unwrap();
}
