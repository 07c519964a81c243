//! Tokens: one for all connections of an engine, renewed when it is refused, and never a reason for a callback to fail.

use crate::support::{Etcd, eventually};
use etcd_client::{Client, ConnectOptions};
use etcd_rules::{Engine, Error, Firing, Outcome, Rule, key};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

/// How often the server was asked for a token.
async fn authentications(etcd: &Etcd) -> u64 {
    etcd.metric("grpc_server_started_total{grpc_method=\"Authenticate\"").await as u64
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

/// A token takes etcd a tenth of a second of one core, and more on a busy machine. Engines that each asked for several,
/// and again for those that came too late, kept a server busy for minutes.
#[tokio::test(flavor = "multi_thread")]
async fn six_engines_that_start_at_once_take_a_token_each() {
    const ENGINES: usize = 6;
    let etcd = Etcd::start().await;
    etcd.enable_auth(&["/etcd-rules/", "/jobs/"]).await;
    let before = authentications(&etcd).await;
    let rules = |engine: usize| {
        (0..6).map(move |number| {
            let pattern = format!("/jobs/{engine}/{number}/:id");
            Rule::new(format!("rule{number}")).when(key(&pattern).exists()).run(move |firing: Firing| {
                let pattern = pattern.clone();
                async move { Ok::<Outcome, Error>(firing.commit().delete(&pattern).into()) }
            })
        })
    };
    let starts = (0..ENGINES).map(|number| {
        let options = ConnectOptions::new().with_user("engine", "secret");
        let engine = Engine::builder(format!("tokens{number}"), [etcd.endpoint()]).connect_options(options);
        let engine = engine.rules(rules(number)).build().unwrap();
        async move {
            let engine = engine.start().await.unwrap();
            let ready = tokio::time::timeout(20 * SECOND, engine.ready()).await;
            assert!(ready.is_ok(), "{}", engine.health());
            engine
        }
    });
    let engines = futures_util::future::join_all(starts).await;
    assert_eq!(authentications(&etcd).await - before, ENGINES as u64, "one token an engine");
    for engine in engines {
        engine.shutdown(5 * SECOND).await.unwrap();
    }
}
