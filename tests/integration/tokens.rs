//! Tokens: one for all connections of an engine, renewed when it is refused, and never a reason for a callback to fail.

use crate::support::{Etcd, eventually};
use etcd_client::{Client, ConnectOptions};
use etcd_rules::{Engine, Error, Firing, Outcome, Rule, key};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const SECOND: Duration = Duration::from_secs(1);

/// How often the server was asked for a token.
async fn authentications(etcd: &Etcd) -> u64 {
    let mut stream = tokio::net::TcpStream::connect(etcd.endpoint()).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: etcd\r\n\r\n").await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let counts = text.lines().filter(|line| {
        line.starts_with("grpc_server_started_total") && line.contains("grpc_method=\"Authenticate\"")
    });
    counts.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64).sum()
}

async fn count(client: &Client, prefix: &str) -> i64 {
    let options = etcd_client::GetOptions::new().with_prefix().with_count_only();
    client.kv_client().get(prefix, Some(options)).await.unwrap().count()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_asks_for_one_token_and_no_callback_fails_for_it() {
    const CALLBACKS: usize = 128;
    let etcd = Etcd::builder().flag("--auth-token-ttl=3").start().await;
    etcd.enable_auth(&["/etcd-rules/", "/jobs/", "/other/"]).await;
    let before = authentications(&etcd).await;
    let tries = Arc::new(AtomicUsize::new(0));
    let counted = tries.clone();
    let rules = (0..6).map(|number| {
        let tries = counted.clone();
        let pattern = format!("/jobs/{number}/:id");
        Rule::new(format!("rule{number}")).when(key(pattern.clone()).exists()).run(move |firing: Firing| {
            let (tries, pattern) = (tries.clone(), pattern.clone());
            async move {
                tries.fetch_add(1, Ordering::SeqCst);
                firing.get_opt("/other/key").await?;
                Ok::<Outcome, Error>(firing.commit().delete(&pattern).into())
            }
        })
    });
    let engine = Engine::builder("tokens", [etcd.endpoint()])
        .connect_options(ConnectOptions::new().with_user("engine", "secret"))
        .rules(rules)
        .build()
        .unwrap()
        .start()
        .await
        .unwrap();
    let ready = tokio::time::timeout(20 * SECOND, engine.ready()).await;
    assert!(ready.is_ok(), "{}", engine.health());
    assert_eq!(authentications(&etcd).await - before, 1, "six watches, three links, one token");

    // Every token is of an older revision now, and then it is over.
    for user in ["one", "two", "three"] {
        let root = || etcd.client_with(ConnectOptions::new().with_user("root", "secret"));
        root().await.auth_client().user_add(user, "secret", None).await.unwrap();
        let root = root().await;
        let asked = authentications(&etcd).await;
        let earlier = tries.load(Ordering::SeqCst);
        for id in 0..CALLBACKS {
            root.kv_client().put(format!("/jobs/{}/{user}{id}", id % 6), "", None).await.unwrap();
        }
        eventually(30 * SECOND, "everything is done", async || count(&root, "/jobs/").await == 0).await;
        assert_eq!(tries.load(Ordering::SeqCst) - earlier, CALLBACKS, "none failed and was tried again");
        let asked = authentications(&etcd).await - asked;
        assert!(asked <= 3, "{asked} authentications");
        tokio::time::sleep(5 * SECOND).await;
    }
    engine.shutdown(5 * SECOND).await.unwrap();
}
