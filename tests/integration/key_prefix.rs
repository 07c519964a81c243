//! An engine under a prefix that its patterns do not spell out.

use crate::support::{Etcd, Proxy, eventually};
use etcd_client::{AuthClient, Permission, PermissionType};
use etcd_rules::firing::Expect;
use etcd_rules::testing::Firings;
use etcd_rules::{
    Attributes, ConnectOptions, Engine, EngineBuilder, Error, Firing, Health, Outcome, Rule, key,
};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn engine(etcd: &Etcd, prefix: &str) -> EngineBuilder {
    Engine::builder("test", [etcd.endpoint()]).key_prefix(prefix).lock_ttl(5 * SECOND)
}

/// Does everything that a callback can do with keys.
async fn everything(firing: Firing) -> Result<Outcome, Error> {
    assert_eq!(firing.value("/jobs/:id")?, "new");
    assert_eq!(firing.get("/jobs/:id").await?, "new");
    assert_eq!(firing.format("/jobs/:id")?, "/jobs/7");
    let listed = firing.list("/parts/:id/:part").await?;
    let keys: Vec<_> = listed.iter().map(|part| (part.key.as_str(), part.attributes.to_string())).collect();
    assert_eq!(keys, [("/parts/7/a", "part=a".to_owned()), ("/parts/7/b", "part=b".to_owned())]);
    assert_eq!((firing.count("/parts/:id/:part").await?, firing.count("/parts/*all").await?), (2, 2));
    let part = firing.get_entry("/parts/:id/a").await?;
    // A client of one's own has the keys as they are.
    let mut client = firing.client().await?;
    let found = client.get(format!("{}/jobs/7", firing.key_prefix()), None).await?;
    assert_eq!(found.kvs()[0].value(), b"new");
    Ok(firing
        .commit()
        .expect_unchanged("/jobs/:id")
        .expect("/parts/:id/a", part.as_ref())
        .expect("/nothing", Expect::Absent)
        .expect_empty("/guests/:id")
        .expect_unchanged_list(&listed)
        .delete("/jobs/:id")
        .delete_prefix("/parts/:id")
        .put("/done/:id", "yes")
        .put_ttl("/rests/:id", "", 60 * SECOND)
        .into())
}

async fn fill(etcd: &Etcd, prefix: &str) {
    for (key, value) in [("/parts/7/a", "1"), ("/parts/7/b", "2"), ("/parts/70/c", "")] {
        etcd.put(&format!("{prefix}{key}"), value).await;
    }
    etcd.delete(&format!("{prefix}/parts/70/c")).await;
    etcd.put(&format!("{prefix}/jobs/7"), "new").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn engines_under_two_prefixes_share_nothing() {
    let etcd = Etcd::start().await;
    let rule = || Rule::new("everything").when(key("/jobs/:id").equals("new")).run(everything);
    let mut running = Vec::new();
    for prefix in ["", "/prod", "/staging"] {
        let built = engine(&etcd, prefix).rule(rule()).build().unwrap();
        assert!(built.watched_prefixes().eq(["/jobs/"]), "as patterns spell them");
        let (firings, events) = (Firings::new(built.events()), built.events());
        running.push((prefix, firings, events, built.start().await.unwrap()));
    }
    for (.., engine) in &running {
        engine.ready().await;
    }
    for at in 0..running.len() {
        let prefix = running[at].0;
        fill(&etcd, prefix).await;
        running[at].1.done("everything", [("id", "7")]).await.unwrap();
        let mut all = etcd.keys(&format!("{prefix}/")).await;
        let own = |key: &String| at > 0 || !key.starts_with("/prod") && !key.starts_with("/staging");
        all.retain(own);
        // Each lease of locks has a key.
        let lease = format!("{prefix}/etcd-rules/test/format/1/");
        assert_eq!(all.iter().filter(|key| key.starts_with(&lease)).count(), 1, "{all:?}");
        all.retain(|key| !key.starts_with(&lease));
        let expected =
            ["/done/7", "/etcd-rules/test/identity", "/rests/7"].map(|key| format!("{prefix}{key}"));
        assert_eq!(all, expected);
        for (other, _, events, engine) in &mut running {
            // It tells what became of its instance, and then has none.
            eventually(10 * SECOND, "none is left", async || engine.stats().await.unwrap().instances == 0)
                .await;
            while let Some(event) = events.try_recv() {
                assert_eq!(*other, prefix, "{event:?}");
            }
        }
        etcd.delete_prefix(&format!("{prefix}/done/")).await;
        etcd.delete_prefix(&format!("{prefix}/rests/")).await;
    }
    // What is asked and told has no prefix, but for the one place that tells it.
    let (prefix, _, _, prod) = &running[1];
    assert_eq!((prod.key_prefix(), *prefix), ("/prod", "/prod"));
    etcd.put("/prod/jobs/8", "old").await;
    eventually(10 * SECOND, "it is known", async || prod.stats().await.unwrap().instances == 1).await;
    let told = prod.explain("everything", &Attributes::from([("id", "8")])).await.unwrap();
    assert!(told.condition.to_string().contains(" /jobs/8"), "{}", told.condition);
    for (.., engine) in running {
        engine.shutdown(5 * SECOND).await.unwrap();
    }
    let left = etcd.keys("/").await;
    let left: Vec<_> =
        left.iter().filter(|key| !key.ends_with("/identity") && !key.contains("/jobs/")).collect();
    assert_eq!(left, [""; 0], "no lock and no mark is left under any prefix");
    assert_eq!(etcd.keys("/").await.iter().filter(|key| key.ends_with("identity")).count(), 3);
}

/// Locks, backoff marks, the crawl mutex and the identity are under it: a user who may do nothing else can run it.
#[tokio::test(flavor = "multi_thread")]
async fn an_engine_needs_permission_for_nothing_else_than_its_prefix() {
    let etcd = Etcd::start().await;
    let mut auth: AuthClient = etcd.client().await.auth_client();
    for user in ["root", "app"] {
        auth.user_add(user, "secret", None).await.unwrap();
        auth.role_add(user).await.unwrap();
        auth.user_grant_role(user, user).await.unwrap();
    }
    let all = Permission::new(PermissionType::Readwrite, "/prod/").with_prefix();
    auth.role_grant_permission("app", all).await.unwrap();
    for id in 0..20 {
        etcd.put(&format!("/prod/jobs/{id}"), "new").await;
    }
    auth.auth_enable().await.unwrap();
    let attempts = Arc::new(Mutex::new(Vec::new()));
    let seen = attempts.clone();
    let rule = Rule::new("work").when(key("/jobs/:id").exists()).run(move |firing: Firing| {
        let seen = seen.clone();
        async move {
            seen.lock().unwrap().push(firing.attempt());
            match firing.attempt() {
                1 => Err("once".into()),
                _ => Ok::<Outcome, etcd_rules::BoxError>(firing.commit().delete("/jobs/:id").into()),
            }
        }
    });
    let app = ConnectOptions::new().with_user("app", "secret");
    let running = engine(&etcd, "/prod")
        .connect_options(app)
        .crawl_interval(SECOND)
        .crawl_mutex(true)
        .rule(rule)
        .build()
        .unwrap()
        .start()
        .await
        .unwrap();
    running.ready().await;
    eventually(20 * SECOND, "all are done", async || {
        attempts.lock().unwrap().iter().filter(|a| **a == 2).count() == 20
    })
    .await;
    eventually(20 * SECOND, "it crawls", async || running.stats().await.unwrap().instances == 0).await;
    tokio::time::sleep(3 * SECOND).await;
    assert_eq!(running.health(), Health::Ready);
    running.shutdown(5 * SECOND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn under_a_prefix_a_watch_resumes_and_a_compaction_is_survived() {
    let etcd = Etcd::start().await;
    let proxy = Proxy::start(etcd.endpoint());
    let rule = Rule::new("job")
        .when(key("/jobs/:id").exists())
        .run(async |firing: Firing| Ok::<Outcome, Error>(firing.commit().delete("/jobs/:id").into()));
    let running = Engine::builder("test", [proxy.endpoint()])
        .key_prefix("pre:fix/*x")
        .lock_ttl(5 * SECOND)
        .rule(rule)
        .build()
        .unwrap()
        .start()
        .await
        .unwrap();
    running.ready().await;
    for round in 0..3 {
        proxy.freeze();
        proxy.cut();
        for id in 0..10 {
            etcd.put(&format!("pre:fix/*x/jobs/{round}-{id}"), "").await;
        }
        let revision = etcd.put("/other", "").await;
        if round > 0 {
            etcd.compact(revision).await;
        }
        proxy.heal();
        eventually(30 * SECOND, "all are done", async || etcd.keys("pre:fix/*x/jobs/").await.is_empty())
            .await;
    }
    running.shutdown(5 * SECOND).await.unwrap();
}
