//! Engines behind etcd's own proxies: no lease is lost, and every engine becomes ready.

use super::link::{all_end_undisturbed, busy};
use crate::support::{Etcd, EtcdProxy, Kind, eventually};
use etcd_rules::{Engine, Error, Firing, Health, Outcome, Rule, key};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

async fn works_through(kind: Kind) {
    let etcd = Etcd::start().await;
    let client = etcd.client().await;
    let proxy = EtcdProxy::start(kind, &[etcd.endpoint()]).await;
    let (engine, counts) = busy(vec![proxy.endpoint()], &client, 5 * SECOND, 30 * SECOND).await;
    // Its watches are joined with those of the first one.
    let rule = Rule::new("work").when(key("/todo/:id").exists()).run(|firing: Firing| async move {
        Ok::<Outcome, Error>(firing.commit().delete("/todo/:id").into())
    });
    let second = Engine::builder("link", [proxy.endpoint()]).name("second").rule(rule).build().unwrap();
    let second = second.start().await.unwrap();
    eventually(20 * SECOND, "the second one is ready", async || second.health() == Health::Ready).await;
    all_end_undisturbed(engine, &counts, &client).await;
    // The one that is left sees what comes.
    etcd.put("/todo/last", "").await;
    eventually(20 * SECOND, "it is done", async || etcd.get("/todo/last").await.is_none()).await;
    assert_eq!(second.health(), Health::Ready);
    second.shutdown(10 * SECOND).await.unwrap();
    assert!(etcd.leases().await.is_empty(), "nothing is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn engines_work_through_the_gateway() {
    works_through(Kind::Gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn engines_work_through_the_grpc_proxy() {
    works_through(Kind::GrpcProxy).await;
}
