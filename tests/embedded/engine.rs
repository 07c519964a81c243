//! Engines on the embedded server, over TCP and through memory.

use crate::support::eventually;
use etcd_client::{Client, GetOptions};
use etcd_rules::embedded::{EmbeddedEtcd, Fault, On};
use etcd_rules::{Engine, EngineBuilder, Error, Firing, Outcome, Rule, key};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn acknowledge() -> Rule {
    Rule::new("acknowledge").when(key("/jobs/:id").exists() & key("/done/:id").absent()).run(
        |firing: Firing| async move {
            let job = firing.value("/jobs/:id").cloned().unwrap_or_default();
            Ok::<Outcome, Error>(firing.commit().put("/done/:id", job).into())
        },
    )
}

async fn count(client: &Client, prefix: &str) -> i64 {
    let options = GetOptions::new().with_prefix().with_count_only();
    client.kv_client().get(prefix, Some(options)).await.expect("get").count()
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
    eventually(10 * SECOND, "all jobs are done", async || count(&client, "/done/").await == 50).await;
    engine.shutdown(5 * SECOND).await.expect("shutdown");
    assert_eq!(count(&client, "/etcd-rules/").await, 0, "locks are left");
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
    eventually(10 * SECOND, "the job is done", async || done(&client).await).await;
    etcd.faults().restore(&saved);
    eventually(30 * SECOND, "the job is done again", async || {
        let answer = client.kv_client().get("/done/1", None).await;
        answer.is_ok_and(|answer| answer.count() == 1)
    })
    .await;
    engine.shutdown(5 * SECOND).await.expect("shutdown");
}

/// The answer to the sign of life that a silent stream is asked for must not be taken for the watch itself.
#[tokio::test(flavor = "multi_thread")]
async fn an_engine_notices_that_its_watch_was_never_registered() {
    let etcd = EmbeddedEtcd::in_process();
    let mut client = etcd.client().await.expect("a client");
    // Of the jobs, of what is done, and of released locks.
    etcd.faults().inject(Fault::on(On::WatchRequest).times(3).lose());
    let builder = Engine::builder_with_channel("app", etcd.channel()).rule(acknowledge());
    let engine = builder.watch_silence(SECOND / 5).build().expect("a sound configuration").start().await;
    let engine = engine.expect("the engine starts");
    eventually(10 * SECOND, "all were lost", async || etcd.faults().waiting() == 0).await;
    client.put("/jobs/1", "", None).await.expect("put");
    eventually(10 * SECOND, "the job is done", async || count(&client, "/done/").await == 1).await;
    engine.shutdown(5 * SECOND).await.expect("shutdown");
}
