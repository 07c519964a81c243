//! Engines on the embedded server, over TCP and through memory.

use crate::support::{eventually, is_identity};
use etcd_client::{Client, ConnectOptions, GetOptions};
use etcd_rules::embedded::{EmbeddedEtcd, Fault, RequestKind, RpcError};
use etcd_rules::{Engine, EngineBuilder, Error, Firing, Outcome, Rule, key};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn acknowledge() -> Rule {
    Rule::new("acknowledge").when(key("/jobs/:id").exists() & key("/done/:id").absent()).run(
        |firing: Firing| async move {
            let job = firing.value_opt("/jobs/:id")?.cloned().unwrap_or_default();
            Ok::<Outcome, Error>(firing.commit().put("/done/:id", job).into())
        },
    )
}

async fn count(client: &Client, prefix: &str) -> i64 {
    let options = GetOptions::new().with_prefix().with_count_only();
    client.kv_client().get(prefix, Some(options)).await.expect("get").count()
}

/// Keys of engines, but for identities.
async fn engine_keys(client: &Client) -> Vec<String> {
    let options = GetOptions::new().with_prefix().with_keys_only();
    let found = client.kv_client().get("/etcd-rules/", Some(options)).await.expect("get");
    let keys = found.kvs().iter().map(|kv| String::from_utf8_lossy(kv.key()).into_owned());
    keys.filter(|key| !is_identity(key)).collect()
}

async fn jobs_get_done(builder: EngineBuilder, etcd: &EmbeddedEtcd) {
    let mut client = etcd.client().await.expect("a client");
    client.put("/jobs/0", "early", None).await.expect("put");
    let engine = builder.rule(acknowledge()).build().expect("a sound configuration").start().await;
    let engine = engine.expect("the engine starts");
    engine.ready().await;
    for job in 1..50 {
        client.put(format!("/jobs/{job}"), "late", None).await.expect("put");
    }
    eventually(20 * SECOND, "all jobs are done", async || count(&client, "/done/").await == 50).await;
    engine.shutdown(5 * SECOND).await.expect("shutdown");
    assert_eq!(engine_keys(&client).await, Vec::<String>::new(), "locks are left");
    assert_eq!(etcd.faults().leases(), Vec::<i64>::new(), "leases are left");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_runs_on_it_over_tcp() {
    let etcd = EmbeddedEtcd::start().await.expect("a free port");
    jobs_get_done(Engine::builder("app", [etcd.endpoint()]), &etcd).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_runs_on_it_through_memory() {
    let etcd = EmbeddedEtcd::in_process();
    jobs_get_done(Engine::builder_with_channel("app", etcd.channel()), &etcd).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_survives_a_restart_on_older_data() {
    let etcd = EmbeddedEtcd::in_process();
    let mut client = etcd.client().await.expect("a client");
    client.put("/jobs/1", "", None).await.expect("put");
    let saved = etcd.faults().save();
    let builder = Engine::builder_with_channel("app", etcd.channel()).rule(acknowledge());
    let engine = builder.build().expect("a sound configuration").start().await.expect("the engine starts");
    let done = async |client: &Client| count(client, "/done/").await == 1;
    eventually(20 * SECOND, "the job is done", async || done(&client).await).await;
    etcd.faults().restore(&saved);
    eventually(30 * SECOND, "the job is done again", async || {
        let answer = client.kv_client().get("/done/1", None).await;
        answer.is_ok_and(|answer| answer.count() == 1)
    })
    .await;
    engine.shutdown(5 * SECOND).await.expect("shutdown");
}

/// A commit was sent without an answer, and its lock is gone: whether it took effect is found out.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_in_doubt_is_settled_by_what_etcd_has() {
    let refused = || Fault::on(RequestKind::Txn).fail(RpcError::PERMISSION_DENIED);
    let unanswered = || Fault::on(RequestKind::Txn).fail_after(RpcError::TIMED_OUT);
    // Of commits that have no effect on their condition: what is taken for undone is done again.
    for (name, faults, expires, runs) in [
        ("it took effect", vec![unanswered()], false, 1),
        ("it took effect, and then is refused", vec![unanswered(), refused()], false, 1),
        (
            "it had none, and then is refused",
            vec![Fault::on(RequestKind::Txn).fail(RpcError::TIMED_OUT), refused()],
            false,
            2,
        ),
        (
            "it had none, and its lease ends",
            vec![Fault::on(RequestKind::Txn).fail(RpcError::TIMED_OUT)],
            true,
            2,
        ),
    ] {
        let etcd = EmbeddedEtcd::in_process();
        let count = Arc::new(AtomicUsize::new(0));
        let (counting, injecting) = (count.clone(), etcd.faults());
        let faults = Arc::new(Mutex::new(Some(faults)));
        let stay = Rule::new("stay").when(key("/stay/:id").exists()).run(move |firing: Firing| {
            counting.fetch_add(1, Ordering::SeqCst);
            if let Some(faults) = faults.lock().unwrap().take() {
                faults.into_iter().for_each(|fault| injecting.inject(fault));
                if expires {
                    // With the lease, the lock goes; the engine is not told before it looks.
                    assert!(injecting.leases().into_iter().all(|lease| injecting.expire_lease(lease)));
                }
            }
            async move { Ok::<Outcome, Error>(firing.commit().put("/out/:id", "").into()) }
        });
        let engine = Engine::builder_with_channel("app", etcd.channel()).rule(stay).lock_ttl(60 * SECOND);
        let engine = engine.build().expect("a sound configuration").start().await.expect("the engine starts");
        let mut client = etcd.client().await.expect("a client");
        client.put("/stay/1", "", None).await.expect("put");
        eventually(20 * SECOND, name, async || {
            let idle = engine.stats().await.expect("figures").idle == 1;
            idle && count.load(Ordering::SeqCst) == runs && etcd.faults().waiting() == 0
        })
        .await;
        assert_eq!(self::count(&client, "/out/").await, 1, "{name}");
        engine.shutdown(5 * SECOND).await.expect("shutdown");
        assert_eq!(count.load(Ordering::SeqCst), runs, "{name}");
    }
}

/// Deletions need no space: a commit that does is given up, and nothing is left behind.
#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_is_shut_down_without_space_leaves_nothing_behind() {
    let etcd = EmbeddedEtcd::in_process();
    let faults = etcd.faults();
    let filling = faults.clone();
    let rule = Rule::new("full").when(key("/jobs/:id").exists()).run(move |firing: Firing| {
        filling.set_no_space(true);
        async move { Ok::<Outcome, Error>(firing.commit().put("/done/:id", "").delete("/jobs/:id").into()) }
    });
    let engine = Engine::builder_with_channel("app", etcd.channel()).rule(rule).lock_ttl(2 * SECOND);
    let engine = engine.build().expect("a sound configuration").start().await.expect("the engine starts");
    let mut client = etcd.client().await.expect("a client");
    client.put("/jobs/1", "", None).await.expect("put");
    eventually(20 * SECOND, "there is no space", async || {
        engine.health().to_string().contains("database space exceeded")
    })
    .await;
    engine.shutdown(SECOND / 10).await.expect("a clean end");
    assert_eq!(engine_keys(&client).await, Vec::<String>::new(), "locks are left");
    assert_eq!(faults.leases(), Vec::<i64>::new(), "leases are left");
    assert_eq!(count(&client, "/jobs/").await, 1, "nothing of it took effect");
}

/// A proxy sends a commit twice, and the second answer says that the lock is gone. The mark that the first
/// left is the engine's own all the same, and does not hold it back when the job has changed meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn an_engine_knows_what_it_gave_up_when_its_commit_is_sent_twice() {
    let etcd = EmbeddedEtcd::in_process();
    let (faults, client) = (etcd.faults(), etcd.client().await.expect("a client"));
    let mut outside = client.clone();
    let rule = Rule::new("twice").when(key("/jobs/:id").exists()).run(move |firing: Firing| {
        let (faults, mut outside) = (faults.clone(), client.clone());
        async move {
            if firing.value_opt("/jobs/:id")?.is_some_and(|value| value.as_bytes() == b"again") {
                return Ok::<Outcome, Error>(firing.commit().delete("/jobs/:id").into());
            }
            outside.put("/jobs/1", "again", None).await.expect("put");
            faults.inject(Fault::on(RequestKind::Txn).duplicate());
            Ok(Outcome::give_up("not this one"))
        }
    });
    let engine = Engine::builder_with_channel("app", etcd.channel()).rule(rule);
    let engine = engine.build().expect("a sound configuration").start().await.expect("the engine starts");
    outside.put("/jobs/1", "", None).await.expect("put");
    eventually(20 * SECOND, "the job is done", async || count(&outside, "/jobs/").await == 0).await;
    assert_eq!(etcd.faults().waiting(), 0, "the commit was sent twice");
    engine.shutdown(5 * SECOND).await.expect("shutdown");
}

/// A backup of the same cluster is restored, and written to until it is further than the engine was, before
/// that connects again. The revision tells nothing, but what was seen is not in its history.
#[tokio::test(flavor = "multi_thread")]
async fn an_engine_notices_a_restored_backup_that_has_outgrown_it() {
    let etcd = EmbeddedEtcd::in_process();
    let path = etcd.path();
    let mut client = etcd.client().await.expect("a client");
    client.put("/jobs/1", "", None).await.expect("put");
    let saved = etcd.faults().save();
    let builder = Engine::builder_with_channel("app", path.channel()).rule(acknowledge());
    let engine = builder.build().expect("a sound configuration").start().await.expect("the engine starts");
    client.put("/jobs/2", "", None).await.expect("put");
    eventually(20 * SECOND, "both are done", async || count(&client, "/done/").await == 2).await;
    let reached = etcd.faults().revision();
    path.set_reachable(false);
    etcd.faults().restore(&saved);
    // The restore ends all connections, at any moment from now on.
    let put = async |key| client.clone().put(key, "", None).await.is_ok();
    eventually(20 * SECOND, "a job is put", async || put("/jobs/3").await).await;
    eventually(20 * SECOND, "it has outgrown the engine", async || {
        put("/elsewhere").await && etcd.faults().revision() >= reached + 10
    })
    .await;
    path.set_reachable(true);
    eventually(20 * SECOND, "what is there now is done", async || count(&client, "/done/").await == 2).await;
    assert_eq!(client.get("/done/2", None).await.expect("get").count(), 0, "its job is not in the backup");
    engine.shutdown(5 * SECOND).await.expect("shutdown");
}

/// The answer to the sign of life that a silent stream is asked for must not be taken for the watch itself.
#[tokio::test(flavor = "multi_thread")]
async fn an_engine_notices_that_its_watch_was_never_registered() {
    let etcd = EmbeddedEtcd::in_process();
    let mut client = etcd.client().await.expect("a client");
    // Of the jobs, and of what is done.
    etcd.faults().inject(Fault::on(RequestKind::WatchRequest).times(2).lose());
    let builder = Engine::builder_with_channel("app", etcd.channel()).rule(acknowledge());
    let engine = builder.watch_silence(SECOND / 5).build().expect("a sound configuration").start().await;
    let engine = engine.expect("the engine starts");
    eventually(20 * SECOND, "all were lost", async || etcd.faults().waiting() == 0).await;
    client.put("/jobs/1", "", None).await.expect("put");
    eventually(20 * SECOND, "the job is done", async || count(&client, "/done/").await == 1).await;
    engine.shutdown(5 * SECOND).await.expect("shutdown");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_whose_token_has_just_ended_leaves_nothing_behind() {
    let etcd = EmbeddedEtcd::start().await.expect("a free port");
    let mut root = etcd.client().await.expect("a client");
    root.user_add("root", "secret", None).await.expect("a user");
    root.user_grant_role("root", "root").await.expect("a role");
    root.auth_enable().await.expect("authentication");
    let engine = Engine::builder("app", [etcd.endpoint()])
        .connect_options(ConnectOptions::new().with_user("root", "secret"))
        // A token is asked for once a second at most, which is longer.
        .request_timeout(SECOND * 3 / 10)
        .rule(acknowledge());
    let engine = engine.build().expect("a sound configuration").start().await.expect("the engine starts");
    engine.ready().await;
    assert_eq!(etcd.faults().leases().len(), 1, "one lease for locks");
    etcd.faults().forget_tokens();
    engine.shutdown(5 * SECOND).await.expect("shutdown");
    assert_eq!(etcd.faults().leases(), Vec::<i64>::new(), "leases are left");
}
