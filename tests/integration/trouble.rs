//! Trouble of one rule does not become trouble of the others: permissions, fan-out under load.

use crate::support::{Etcd, eventually};
use etcd_client::{ConnectOptions, Permission, PutOptions, RoleRevokePermissionOptions, Txn, TxnOp};
use etcd_rules::{Engine, Error, Firing, Outcome, Rule, key};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_without_permission_fails_alone_and_recovers() {
    let etcd = Etcd::start().await;
    let root = etcd.enable_auth(&["/etcd-rules/", "/jobs/", "/allowed/"]).await;
    let rule = |name: &'static str| {
        Rule::new(name).when(key(format!("/jobs/{name}/:id")).exists()).run(
            move |firing: Firing| async move {
                let done =
                    firing.commit().put(&format!("/{name}/:id"), "").delete(&format!("/jobs/{name}/:id"));
                Ok::<Outcome, Error>(done.into())
            },
        )
    };
    let running = Engine::builder("app", [etcd.endpoint()])
        .connect_options(ConnectOptions::new().with_user("engine", "secret"))
        .rules([rule("allowed"), rule("forbidden")])
        .build()
        .unwrap()
        .start()
        .await
        .unwrap();
    running.ready().await;
    let mut kv = root.kv_client();
    for n in 0..20 {
        kv.put(format!("/jobs/allowed/{n}"), "", None).await.unwrap();
    }
    let left = async |name: &str| {
        let options = etcd_client::GetOptions::new().with_prefix().with_count_only();
        root.kv_client().get(format!("/jobs/{name}/"), Some(options)).await.unwrap().count()
    };
    eventually(20 * SECOND, "the allowed ones are done", async || left("allowed").await == 0).await;
    // One alone: before 3.4.42 etcd does not check what travels within another transaction.
    kv.put("/jobs/forbidden/1", "", None).await.unwrap();
    eventually(20 * SECOND, "it is refused", async || running.stats().await.unwrap().waiting == 1).await;
    assert_eq!(left("forbidden").await, 1);
    // The permission comes while the engine runs; its token is of the older revision then.
    let mut auth = root.auth_client();
    auth.role_grant_permission("engine", Permission::read_write("/forbidden/").with_prefix()).await.unwrap();
    eventually(90 * SECOND, "the others too", async || left("forbidden").await == 0).await;
    // And goes again, with a place in the watched range: the engine says so, and heals.
    let whole = RoleRevokePermissionOptions::new().with_prefix();
    auth.role_revoke_permission("engine", "/jobs/", Some(whole)).await.unwrap();
    kv.put("/jobs/allowed/late", "", None).await.unwrap();
    eventually(90 * SECOND, "it says so", async || {
        running.health().to_string().contains("permission denied")
    })
    .await;
    auth.role_grant_permission("engine", Permission::read_write("/jobs/").with_prefix()).await.unwrap();
    eventually(90 * SECOND, "it goes on", async || left("allowed").await == 0).await;
    running.shutdown(SECOND).await.unwrap();
}

/// A switch that 100,000 instances read: it flips, all are decided, and meanwhile another rule fires
/// without delay.
#[tokio::test(flavor = "multi_thread")]
async fn a_switch_read_by_a_hundred_thousand_instances_does_not_stall_the_others() {
    const SERVERS: usize = 100_000;
    let etcd = Etcd::start().await;
    let mut client = etcd.client().await;
    for chunk in 0..SERVERS / 100 {
        let puts: Vec<TxnOp> = (0..100)
            .map(|n| TxnOp::put(format!("/servers/{:06}/state", chunk * 100 + n), "idle", None::<PutOptions>))
            .collect();
        client.txn(Txn::new().and_then(puts)).await.unwrap();
    }
    // A few are active, so that the flip has something to fire.
    for n in [5, 50_000, 99_999] {
        etcd.put(&format!("/servers/{n:06}/state"), "active").await;
    }
    let fired = Arc::new(AtomicUsize::new(0));
    let counted = fired.clone();
    let all = Rule::new("all")
        .when(key("/config/enabled").equals("yes") & key("/servers/:id/state").equals("active"))
        .run(move |firing: Firing| {
            counted.fetch_add(1, Ordering::SeqCst);
            async move { Ok::<Outcome, Error>(firing.commit().put("/servers/:id/state", "idle").into()) }
        });
    let latencies = Arc::new(Mutex::new(Vec::new()));
    let noted = latencies.clone();
    let epoch = Instant::now();
    let other = Rule::new("other").when(key("/other/:id").exists()).run(move |firing: Firing| {
        let sent =
            firing.value_opt("/other/:id").unwrap().and_then(|value| value.parse::<u128>()).unwrap_or(0);
        noted.lock().unwrap().push(epoch.elapsed().as_micros() - sent);
        async move { Ok::<Outcome, Error>(firing.commit().delete("/other/:id").into()) }
    });
    let running =
        Engine::builder("app", [etcd.endpoint()]).rules([all, other]).build().unwrap().start().await.unwrap();
    tokio::time::timeout(120 * SECOND, running.ready()).await.expect("ready");
    // Whoever is ready has still to decide the instances it found.
    eventually(90 * SECOND, "all were decided", async || {
        running.stats().await.unwrap().decisions >= SERVERS as u64
    })
    .await;
    let before = running.stats().await.unwrap().decisions;
    let mut probe = async |from: usize, count: usize| {
        for n in from..from + count {
            client.put(format!("/other/{n}"), epoch.elapsed().as_micros().to_string(), None).await.unwrap();
        }
        eventually(20 * SECOND, "the others fired", async || latencies.lock().unwrap().len() == from + count)
            .await;
        let mut latencies = latencies.lock().unwrap()[from..].to_vec();
        latencies.sort_unstable();
        latencies[latencies.len() * 9 / 10]
    };
    let quiet = probe(0, 100).await;
    etcd.put("/config/enabled", "yes").await;
    let busy = probe(100, 100).await;
    eventually(90 * SECOND, "those that are active fired", async || fired.load(Ordering::SeqCst) == 3).await;
    eventually(90 * SECOND, "all were decided", async || {
        running.stats().await.unwrap().decisions >= before + SERVERS as u64
    })
    .await;
    println!("p90 of the other rule: {quiet} µs quiet, {busy} µs while the switch flips");
    assert!(busy < 250_000 + 20 * quiet, "the other rule waited {busy} µs, {quiet} µs without the flip");
    running.shutdown(5 * SECOND).await.unwrap();
}
