//! The form of the engine's own keys: an engine does not work beside one whose keys have another.

use crate::support::{Etcd, assert_nothing_left, eventually};
use etcd_client::Permission;
use etcd_rules::health::Reason;
use etcd_rules::{
    Backoff, ConnectOptions, Engine, EngineBuilder, EngineError, Error, Firing, FiringError, Health, Outcome,
    Rule, key,
};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn engine(etcd: &Etcd) -> EngineBuilder {
    let copy = Rule::new("copy").when(key("/in/:id").exists() & key("/out/:id").absent()).run(
        |firing: Firing| async move { Ok::<Outcome, Error>(firing.commit().put("/out/:id", "").into()) },
    );
    Engine::builder("app", [etcd.endpoint()]).lock_ttl(5 * SECOND).rule(copy)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_does_not_start_beside_another_form_of_keys_and_says_so() {
    let etcd = Etcd::start().await;
    etcd.put("/in/1", "").await;
    for other in
        ["/etcd-rules/app/format/2/0123", "/etcd-rules/app/format/0/1", "/etcd-rules/app/format/10/1"]
    {
        etcd.put(other, "other").await;
        let failed = engine(&etcd).start_timeout(2 * SECOND).build().unwrap().start().await.map(drop);
        let Err(EngineError::NotReady { health, .. }) = failed else { panic!("{other}: {failed:?}") };
        assert!(health.contains(other), "{health}");
        let running = engine(&etcd).build().unwrap().start().await.unwrap();
        let says = |health: &Health| {
            matches!(health, Health::Degraded { can_fire: false, .. }) && health.has(Reason::OtherFormat)
        };
        eventually(10 * SECOND, "it says so", async || says(&running.health())).await;
        tokio::time::sleep(SECOND).await;
        assert!(etcd.get("/out/1").await.is_none(), "nothing fires");
        assert!(etcd.leases().await.len() <= 1, "leases do not pile up");
        etcd.delete(other).await;
        eventually(20 * SECOND, "it goes on", async || etcd.get("/out/1").await.is_some()).await;
        eventually(10 * SECOND, "it is well", async || running.health().is_ready()).await;
        running.shutdown(SECOND).await.unwrap();
        assert_nothing_left(&etcd, "/etcd-rules/", SECOND).await;
        etcd.delete("/out/1").await;
    }
}

/// As while an application is upgraded, engine by engine.
#[tokio::test(flavor = "multi_thread")]
async fn conditions_written_in_another_order_have_the_same_locks_and_marks() {
    let etcd = Etcd::start().await;
    let running = Arc::new(Mutex::new(BTreeMap::<String, usize>::new()));
    let together = Arc::new(AtomicUsize::new(0));
    let attempts = Arc::new(AtomicUsize::new(0));
    let rule = |reversed: bool, lock: Option<&str>| {
        let (running, together, attempts) = (running.clone(), together.clone(), attempts.clone());
        let (a, b) = (key("/a/:x/:y").exists(), key("/b/:y/:x").exists());
        let (a, b) = if reversed { (b, a) } else { (a, b) };
        let rule = Rule::new("job").backoff(Backoff::new(600 * SECOND, 600 * SECOND)).when(a & b);
        let rule = if let Some(lock) = lock { rule.lock(lock) } else { rule };
        rule.run(move |firing: Firing| {
            let (running, together, attempts) = (running.clone(), together.clone(), attempts.clone());
            async move {
                let id = firing.attribute("x")?.to_owned();
                let count = |by: isize| {
                    let mut running = running.lock().unwrap();
                    let count = running.entry(id.clone()).or_default();
                    *count = count.checked_add_signed(by).unwrap();
                    *count
                };
                together.fetch_max(count(1), Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(300)).await;
                count(-1);
                if id == "fails" {
                    attempts.fetch_add(1, Ordering::SeqCst);
                    return Err(FiringError::Absent { key: "nothing".into() }.into());
                }
                Ok::<Outcome, Error>(firing.commit().delete("/a/:x/:y").into())
            }
        })
    };
    for lock in [None, Some("/:y/:x")] {
        let mut engines = Vec::new();
        for reversed in [false, true] {
            let builder = Engine::builder("app", [etcd.endpoint()]).lock_ttl(5 * SECOND);
            let engine = builder.rule(rule(reversed, lock)).build().unwrap().start().await.unwrap();
            engine.ready().await;
            engines.push(engine);
        }
        for id in ["1", "2", "3", "fails"] {
            etcd.put(&format!("/b/other/{id}"), "").await;
            etcd.put(&format!("/a/{id}/other"), "").await;
        }
        let done = async || etcd.keys("/a/").await == ["/a/fails/other"];
        eventually(20 * SECOND, "all but one are done", done).await;
        tokio::time::sleep(SECOND).await;
        assert_eq!(attempts.swap(0, Ordering::SeqCst), 1, "the mark holds the other back");
        etcd.delete("/a/fails/other").await;
        for engine in engines {
            engine.shutdown(SECOND).await.unwrap();
        }
    }
    assert_eq!(together.load(Ordering::SeqCst), 1, "one at a time");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_lease_of_locks_has_a_key_that_tells_the_form() {
    let etcd = Etcd::start().await;
    let slow = |id: &str| {
        Rule::new(id)
            .lock_ttl(20 * SECOND)
            .when(key("/slow").exists())
            .run(|_: Firing| async move { Ok::<Outcome, Error>(Outcome::done()) })
    };
    let one = engine(&etcd).rule(slow("slow")).build().unwrap().start().await.unwrap();
    let other = engine(&etcd).build().unwrap().start().await.unwrap();
    one.ready().await;
    other.ready().await;
    let keys = etcd.keys("/etcd-rules/app/format/").await;
    assert!(
        keys.len() == 3 && keys.iter().all(|key| key.starts_with("/etcd-rules/app/format/1/")),
        "{keys:?}"
    );
    other.shutdown(SECOND).await.unwrap();
    assert_eq!(etcd.keys("/etcd-rules/app/format/").await.len(), 2, "it goes with the lease");
    one.shutdown(SECOND).await.unwrap();
    assert_nothing_left(&etcd, "/etcd-rules/", SECOND).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_permission_for_its_own_keys_an_engine_is_not_ready_and_says_so() {
    let etcd = Etcd::start().await;
    let root = etcd.enable_auth(&["/in/", "/out/", "/etcd-rules/app/identity"]).await;
    root.kv_client().put("/in/1", "", None).await.unwrap();
    let options = ConnectOptions::new().with_user("engine", "secret");
    let running = engine(&etcd).connect_options(options).build().unwrap().start().await.unwrap();
    let says = |health: &Health| {
        matches!(health, Health::Degraded { can_fire: false, .. }) && health.has(Reason::Permission)
    };
    eventually(10 * SECOND, "it says so", async || says(&running.health())).await;
    assert!(running.health().to_string().contains("the engine's own keys"), "{}", running.health());
    let permission = Permission::read_write("/etcd-rules/app/").with_prefix();
    root.auth_client().role_grant_permission("engine", permission).await.unwrap();
    let done = async || !root.kv_client().get("/out/1", None).await.unwrap().kvs().is_empty();
    eventually(20 * SECOND, "it goes on", done).await;
    eventually(10 * SECOND, "it is well", async || running.health().is_ready()).await;
    running.shutdown(SECOND).await.unwrap();
}
