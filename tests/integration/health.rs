//! Health: states and troubles, brought about on a real etcd, and left (the loss of a leader on the embedded one).
//! All of them, with those that a real etcd does not get into on demand, are in `src/simulation/metrics`.

use crate::support::{Etcd, Proxy, eventually};
use etcd_client::{ConnectOptions, Permission};
use etcd_rules::health::Reason;
use etcd_rules::{
    Engine, EngineBuilder, EngineHandle, Error, Firing, Health, Outcome, Rule, RunningEngine, key,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn acknowledge() -> Rule {
    Rule::new("acknowledge").when(key("/jobs/:id").exists() & key("/done/:id").absent()).run(
        |firing: Firing| async move { Ok::<Outcome, Error>(firing.commit().put("/done/:id", "").into()) },
    )
}

async fn start(builder: EngineBuilder) -> RunningEngine {
    builder.rule(acknowledge()).build().unwrap().start().await.unwrap()
}

/// Waits until the engine says this is wrong, and nothing is said to be well at the same time.
async fn says(running: &EngineHandle, reason: Reason) {
    eventually(20 * SECOND, reason.name(), async || running.health().has(reason)).await;
    let health = running.health();
    assert!(health.is_live(), "{health}: a restart of the process would not help");
    assert!(!health.is_ready() || !health.has(reason), "{health}");
}

async fn is_well(running: &EngineHandle) {
    eventually(20 * SECOND, "it is well", async || running.health() == Health::Ready).await;
    assert!(running.health().is_live() && running.health().is_ready());
}

#[tokio::test(flavor = "multi_thread")]
async fn starting_ready_stopping_and_stopped_follow_each_other() {
    let etcd = Etcd::start().await;
    let proxy = Proxy::start(etcd.endpoint());
    proxy.freeze();
    let held = Arc::new(AtomicBool::new(false));
    let holds = held.clone();
    let hold = Rule::new("hold").when(key("/hold/:id").exists()).run(move |firing: Firing| {
        holds.store(true, Ordering::SeqCst);
        async move {
            firing.cancelled().await;
            Ok::<Outcome, Error>(Outcome::done())
        }
    });
    let running = start(Engine::builder("app", [proxy.endpoint()]).rule(hold)).await;
    let mut changes = running.health_changes();
    assert_eq!(running.health(), Health::Starting { problems: vec![] });
    assert!(running.health().is_live() && !running.health().is_ready());
    proxy.heal();
    is_well(&running).await;
    etcd.put("/hold/1", "").await;
    eventually(20 * SECOND, "the callback began", async || held.load(Ordering::SeqCst)).await;
    let ending = tokio::spawn(running.shutdown(SECOND));
    while changes.recv().await.expect("it is yet to stop") != Health::Stopping {}
    assert!(Health::Stopping.is_live() && !Health::Stopping.is_ready());
    assert_eq!(changes.recv().await, Some(Health::Stopped));
    assert!(!Health::Stopped.is_live() && !Health::Stopped.is_ready());
    assert_eq!(changes.recv().await, None, "nothing comes after the end");
    ending.await.unwrap().unwrap();
}

/// The connection is cut, for so long that the lease behind the locks is lost too.
#[tokio::test(flavor = "multi_thread")]
async fn disconnected_and_then_without_a_lease() {
    let etcd = Etcd::start().await;
    let proxy = Proxy::start(etcd.endpoint());
    let running = start(Engine::builder("app", [proxy.endpoint()]).lock_ttl(3 * SECOND)).await;
    is_well(&running).await;
    proxy.cut();
    says(&running, Reason::Disconnected).await;
    says(&running, Reason::LeaseLost).await;
    assert!(running.health().has(Reason::Disconnected), "that is why there is no new one");
    assert!(!running.health().has(Reason::Lagging), "a watch that is cut is not lagging");
    proxy.heal();
    is_well(&running).await;
    running.shutdown(SECOND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_space_until_there_is_some_though_deletions_are_answered() {
    let etcd = Etcd::builder().flag("--quota-backend-bytes=16777216").start().await;
    let running = start(Engine::builder("app", [etcd.endpoint()])).await;
    is_well(&running).await;
    etcd.put("/jobs/1", "").await;
    eventually(20 * SECOND, "it fired", async || etcd.get("/done/1").await.is_some()).await;
    etcd.fill().await;
    // Makes the rule true: its lock needs a put.
    etcd.delete("/done/1").await;
    says(&running, Reason::NoSpace).await;
    assert!(etcd.get("/done/1").await.is_none(), "it waits");
    etcd.make_space().await;
    is_well(&running).await;
    eventually(20 * SECOND, "it fired again", async || etcd.get("/done/1").await.is_some()).await;
    running.shutdown(SECOND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_wrong_password_and_without_permission() {
    let etcd = Etcd::start().await;
    let root = etcd.enable_auth(&["/etcd-rules/"]).await;
    let user = |password| ConnectOptions::new().with_user("engine", password);
    let running = start(Engine::builder("app", [etcd.endpoint()]).connect_options(user("guess"))).await;
    says(&running, Reason::Auth).await;
    root.auth_client().user_change_password("engine", "guess").await.unwrap();
    // Now the credentials are right, and there is no permission for what is to be watched.
    says(&running, Reason::Permission).await;
    eventually(20 * SECOND, "the password is right", async || !running.health().has(Reason::Auth)).await;
    says(&running, Reason::Permission).await;
    for prefix in ["/jobs/", "/done/"] {
        let permission = Permission::read_write(prefix).with_prefix();
        root.auth_client().role_grant_permission("engine", permission).await.unwrap();
    }
    is_well(&running).await;
    running.shutdown(SECOND).await.unwrap();
}

/// A comparison that blocks holds the evaluator up, and with it the index; received changes wait.
#[tokio::test(flavor = "multi_thread")]
async fn lagging_while_the_index_is_held_up() {
    let etcd = Etcd::start().await;
    let blocks = Arc::new(AtomicBool::new(false));
    let blocked = blocks.clone();
    let slow = key("/slow/:id").compare("is blocked", move |_| {
        while blocked.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    });
    let rule = Rule::new("slow").when(slow).run(|_: Firing| async { Ok::<Outcome, Error>(Outcome::done()) });
    let limit = Duration::from_millis(500);
    let builder = |name, limit| Engine::builder(name, [etcd.endpoint()]).lag_limit(limit);
    let running = start(builder("app", limit).rule(rule.clone())).await;
    let patient = start(builder("patient", 3600 * SECOND).rule(rule)).await;
    is_well(&running).await;
    is_well(&patient).await;
    blocks.store(true, Ordering::SeqCst);
    let mut client = etcd.client().await;
    eventually(20 * SECOND, "it lags", async || {
        // What has been received waits only when all mailboxes on the way are full.
        for n in 0..20 {
            client.put(format!("/slow/{n}"), "", None).await.unwrap();
        }
        running.health().has(Reason::Lagging)
    })
    .await;
    says(&running, Reason::Lagging).await;
    assert_eq!(patient.health(), Health::Ready, "its limit is longer");
    blocks.store(false, Ordering::SeqCst);
    is_well(&running).await;
    running.shutdown(SECOND).await.unwrap();
    patient.shutdown(SECOND).await.unwrap();
}

/// The watch was cut while much happened: etcd sends it step by step.
#[tokio::test(flavor = "multi_thread")]
async fn lagging_while_etcd_sends_history() {
    let etcd = Etcd::start().await;
    let proxy = Proxy::start(etcd.endpoint());
    let builder = Engine::builder("app", [proxy.endpoint()]).lag_limit(Duration::from_millis(500));
    let running = start(builder).await;
    is_well(&running).await;
    proxy.cut();
    says(&running, Reason::Disconnected).await;
    etcd.flood("/done/1", 30_000).await;
    proxy.heal();
    says(&running, Reason::Lagging).await;
    is_well(&running).await;
    running.shutdown(SECOND).await.unwrap();
}

/// A second member that never comes: the first one has no majority any more.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_there_is_no_leader() {
    let etcd = Etcd::start().await;
    let running = start(Engine::builder("app", [etcd.endpoint()])).await;
    is_well(&running).await;
    // Discard is never listened on.
    etcd.client().await.member_add(["http://127.0.0.1:9"], None).await.unwrap();
    says(&running, Reason::NoLeader).await;
    running.shutdown(Duration::ZERO).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_leader_until_there_is_one() {
    let etcd = etcd_rules::embedded::EmbeddedEtcd::start().await.unwrap();
    let running = start(Engine::builder("app", [etcd.endpoint()])).await;
    is_well(&running).await;
    etcd.faults().lose_leader();
    says(&running, Reason::NoLeader).await;
    etcd.faults().elect_leader();
    is_well(&running).await;
    running.shutdown(SECOND).await.unwrap();
}
