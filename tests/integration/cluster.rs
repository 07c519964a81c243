//! Whose store it is: an endpoint of another cluster is left before anything is written there.

use crate::support::{Cluster, Etcd, eventually};
use etcd_rules::health::Reason;
use etcd_rules::{Engine, EngineBuilder, Error, Firing, Health, Outcome, Rule, RunningEngine, key};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

async fn start(builder: EngineBuilder) -> RunningEngine {
    let rule = Rule::new("work").when(key("/todo/:id").exists()).run(|firing: Firing| async move {
        Ok::<Outcome, Error>(firing.commit().put("/done/:id", "").delete("/todo/:id").into())
    });
    builder.rule(rule).build().unwrap().start().await.unwrap()
}

async fn work(client: &etcd_client::Client, name: &str) {
    for id in 0..10 {
        client.kv_client().put(format!("/todo/{name}{id}"), "", None).await.unwrap();
    }
    eventually(30 * SECOND, "everything is done", async || {
        let options = etcd_client::GetOptions::new().with_prefix().with_count_only();
        client.kv_client().get("/todo/", Some(options)).await.unwrap().count() == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_of_another_cluster_is_not_used() {
    let (ours, foreign) = (Etcd::start().await, Etcd::start().await);
    // An engine that used this store would find this to do.
    foreign.put("/todo/foreign", "").await;
    let before = foreign.revision().await;
    let endpoints = [foreign.endpoint(), ours.endpoint()];
    let client = ours.client().await;

    // One against one: there is no majority, and the engine says so.
    let undecided = start(Engine::builder("app", endpoints.clone())).await;
    eventually(20 * SECOND, "it names both", async || {
        let text = undecided.health().to_string();
        let has = |id: u64| text.contains(&format!("{id:x}"));
        undecided.health().has(Reason::WrongStore)
            && has(ours.cluster_id().await)
            && has(foreign.cluster_id().await)
    })
    .await;
    assert!(matches!(undecided.health(), Health::Starting { .. }));
    undecided.shutdown(SECOND).await.unwrap();

    // Several, so that some of their links would begin with the other one.
    let id = ours.cluster_id().await;
    let mut engines = Vec::new();
    for _ in 0..4 {
        engines.push(start(Engine::builder("app", endpoints.clone()).cluster_id(id)).await);
    }
    work(&client, "a").await;
    for engine in &engines {
        eventually(20 * SECOND, "ready", async || engine.health() == Health::Ready).await;
    }
    assert_eq!(foreign.revision().await, before, "nothing was written there");
    for engine in engines {
        engine.shutdown(5 * SECOND).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cluster_of_most_endpoints_is_used() {
    let cluster = Cluster::start().await;
    let foreign = Etcd::start().await;
    foreign.put("/todo/foreign", "").await;
    let before = foreign.revision().await;
    let mut endpoints = vec![foreign.endpoint()];
    endpoints.extend(cluster.endpoints());
    let client = cluster.client(0).await;
    let mut engines = Vec::new();
    for _ in 0..4 {
        engines.push(start(Engine::builder("app", endpoints.clone())).await);
    }
    work(&client, "a").await;
    // The engines on it move, but not to the foreign one.
    let leader = cluster.leader().await;
    cluster.pause(leader);
    let client = cluster.client((leader + 1) % 3).await;
    tokio::time::sleep(4 * SECOND).await;
    work(&client, "b").await;
    cluster.resume(leader);
    assert_eq!(foreign.revision().await, before, "nothing was written there");
    for engine in engines {
        engine.shutdown(5 * SECOND).await.unwrap();
    }
}
