//! What etcd refuses to let be read keeps only those rules from firing that need it.

use crate::support::{Etcd, eventually};
use etcd_client::{Client, ConnectOptions, Permission, RoleRevokePermissionOptions};
use etcd_rules::health::Reason;
use etcd_rules::http::Endpoint;
use etcd_rules::{Backoff, Engine, EngineBuilder, Error, Firing, Health, Outcome, Rule, RunningEngine, key};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

/// `/NAME/in/:id` is answered by `/out/NAME/:id`.
fn copy(name: &'static str) -> Rule {
    let (from, to) = (format!("/{name}/in/:id"), format!("/out/{name}/:id"));
    Rule::new(name).when(key(&from).exists() & key(&to).absent()).run(move |firing: Firing| {
        let to = to.clone();
        async move { Ok::<Outcome, Error>(firing.commit().put(&to, "done").into()) }
    })
}

fn builder(etcd: &Etcd) -> EngineBuilder {
    Engine::builder("app", [etcd.endpoint()])
        .connect_options(ConnectOptions::new().with_user("engine", "secret"))
        .lock_ttl(5 * SECOND)
}

async fn grant(root: &Client, prefix: &str) {
    let permission = Permission::read_write(prefix).with_prefix();
    root.auth_client().role_grant_permission("engine", permission).await.expect("granted");
}

async fn revoke(root: &Client, prefix: &str) {
    let whole = RoleRevokePermissionOptions::new().with_prefix();
    root.auth_client().role_revoke_permission("engine", prefix, Some(whole)).await.expect("revoked");
}

/// For one key alone.
async fn grant_key(root: &Client, key: &str) {
    root.auth_client().role_grant_permission("engine", Permission::read(key)).await.expect("granted");
}

async fn exists(root: &Client, key: &str) -> bool {
    root.kv_client().get(key, None).await.is_ok_and(|found| !found.kvs().is_empty())
}

async fn is(root: &Client, key: &str, value: &str) -> bool {
    let found = root.kv_client().get(key, None).await.expect("read");
    found.kvs().iter().any(|kv| kv.value() == value.as_bytes())
}

async fn put(root: &Client, key: &str) {
    root.kv_client().put(key, "", None).await.expect("written");
}

async fn probe(endpoint: &Endpoint, path: &str) -> u16 {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let address = endpoint.address();
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("a connection");
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("asked");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answered");
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status")
}

async fn is_well(running: &RunningEngine) {
    eventually(30 * SECOND, "it is ready", async || running.health() == Health::Ready).await;
}

async fn one_forbidden_prefix_stops_only_its_rule(etcd: Etcd) {
    let root = etcd.enable_auth(&["/etcd-rules/", "/one/", "/out/"]).await;
    for key in ["/one/in/1", "/two/in/1"] {
        put(&root, key).await;
    }
    let endpoint = Endpoint::builder().address(([127, 0, 0, 1], 0).into()).listen().unwrap();
    let rules = [copy("one"), copy("two")];
    let running = builder(&etcd)
        .rules(rules)
        // Crawls go on, and leave out what is refused.
        .crawl_interval(SECOND)
        .endpoint(&endpoint)
        .build()
        .unwrap()
        .start()
        .await
        .unwrap();
    eventually(20 * SECOND, "the one fires", async || exists(&root, "/out/one/1").await).await;
    let degraded = |health: &Health| {
        matches!(health, Health::Degraded { can_fire: true, .. }) && health.has(Reason::Permission)
    };
    eventually(10 * SECOND, "it says so", async || degraded(&running.health())).await;
    assert!(running.health().to_string().contains("watch of `/two/in/`"), "{}", running.health());
    assert_eq!((probe(&endpoint, "/readyz").await, probe(&endpoint, "/readyz?strict").await), (200, 503));
    tokio::time::sleep(3 * SECOND).await;
    assert!(!exists(&root, "/out/two/1").await);
    assert!(degraded(&running.health()), "crawls change nothing: {}", running.health());
    grant(&root, "/two/").await;
    eventually(20 * SECOND, "the other fires too", async || exists(&root, "/out/two/1").await).await;
    is_well(&running).await;
    assert_eq!((probe(&endpoint, "/readyz").await, probe(&endpoint, "/readyz?strict").await), (200, 200));
    put(&root, "/two/in/2").await;
    eventually(10 * SECOND, "and goes on", async || exists(&root, "/out/two/2").await).await;
    assert_eq!(running.stats().await.unwrap().drift, 0);
    running.shutdown(5 * SECOND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forbidden_prefix_at_the_start_stops_only_the_rules_that_need_it() {
    one_forbidden_prefix_stops_only_its_rule(Etcd::start().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_covering_prefix_that_is_refused_is_split_into_what_the_patterns_need() {
    let etcd = Etcd::start().await;
    let root = etcd.enable_auth(&["/etcd-rules/", "/servers/internal/", "/out/"]).await;
    put(&root, "/servers/internal/7/x").await;
    put(&root, "/servers/7/state").await;
    let rule = |id: &'static str, from: &str| {
        let to = format!("/out/{id}/:id");
        Rule::new(id).when(key(from).exists() & key(&to).absent()).run(move |firing: Firing| {
            let to = to.clone();
            async move { Ok::<Outcome, Error>(firing.commit().put(&to, "done").into()) }
        })
    };
    // One watch of `/servers/` would do for both.
    let rules = [rule("outer", "/servers/:id/state"), rule("inner", "/servers/internal/:id/x")];
    let built = builder(&etcd).rules(rules).build().unwrap();
    assert!(built.watched_prefixes().eq(["/out/inner/", "/out/outer/", "/servers/"]));
    let running = built.start().await.unwrap();
    eventually(20 * SECOND, "the inner fires", async || exists(&root, "/out/inner/7").await).await;
    assert!(!exists(&root, "/out/outer/7").await);
    eventually(10 * SECOND, "it can fire", async || running.health().can_fire()).await;
    assert!(running.health().to_string().contains("watch of `/servers/`"), "{}", running.health());
    grant(&root, "/servers/").await;
    eventually(20 * SECOND, "the outer fires too", async || exists(&root, "/out/outer/7").await).await;
    is_well(&running).await;
    // Keys of the inner prefix come by two watches now, and are kept apart.
    for id in ["8", "9"] {
        put(&root, &format!("/servers/internal/{id}/x")).await;
        put(&root, &format!("/servers/{id}/state")).await;
        for rule in ["inner", "outer"] {
            let key = format!("/out/{rule}/{id}");
            eventually(10 * SECOND, &key, async || exists(&root, &key).await).await;
        }
    }
    running.shutdown(5 * SECOND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn permission_that_is_lost_while_it_is_up_shows_in_its_health() {
    let etcd = Etcd::start().await;
    let root = etcd.enable_auth(&["/etcd-rules/", "/one/", "/two/", "/out/"]).await;
    let rules = [copy("one"), copy("two")];
    let running =
        builder(&etcd).rules(rules).crawl_interval(2 * SECOND).build().unwrap().start().await.unwrap();
    is_well(&running).await;
    // The watch stays open, and nobody is told. A crawl finds it out, and has it opened anew.
    revoke(&root, "/two/").await;
    let says = async |what: &str| {
        let (health, all) = (running.health(), what.to_owned());
        matches!(health, Health::Degraded { .. }) && health.to_string().contains(&all)
    };
    let told = async || says("watch of `/two/in/`").await;
    let told = tokio::time::timeout(20 * SECOND, eventually(30 * SECOND, "it says so", told)).await;
    assert!(told.is_ok(), "{}", running.health());
    assert!(running.health().can_fire());
    put(&root, "/one/in/1").await;
    eventually(10 * SECOND, "the other fires", async || exists(&root, "/out/one/1").await).await;
    put(&root, "/two/in/1").await;
    grant(&root, "/two/").await;
    eventually(20 * SECOND, "it fires", async || exists(&root, "/out/two/1").await).await;
    is_well(&running).await;
    // Without the namespace nothing can be done, and nobody says that it could.
    revoke(&root, "/etcd-rules/").await;
    for key in ["/one/in/2", "/two/in/2"] {
        put(&root, key).await;
    }
    eventually(20 * SECOND, "nothing can fire", async || !running.health().can_fire()).await;
    // A lock that is refused tells too.
    eventually(20 * SECOND, "it says so", async || says("locks of rule `two`").await).await;
    grant(&root, "/etcd-rules/").await;
    eventually(30 * SECOND, "all fire", async || {
        exists(&root, "/out/one/2").await && exists(&root, "/out/two/2").await
    })
    .await;
    is_well(&running).await;
    running.shutdown(5 * SECOND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn with_nothing_to_read_it_is_not_ready() {
    let etcd = Etcd::start().await;
    let root = etcd.enable_auth(&["/etcd-rules/"]).await;
    let running = builder(&etcd).rule(copy("one")).build().unwrap().start().await.unwrap();
    let refused = |health: &Health| {
        matches!(health, Health::Degraded { can_fire: false, .. }) && health.has(Reason::Permission)
    };
    eventually(20 * SECOND, "it says so", async || refused(&running.health())).await;
    grant(&root, "/one/").await;
    grant(&root, "/out/").await;
    is_well(&running).await;
    running.shutdown(5 * SECOND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pattern_without_attributes_needs_permission_for_that_key_alone() {
    let etcd = Etcd::start().await;
    let root = etcd.enable_auth(&["/etcd-rules/", "/out/"]).await;
    for key in ["/flags/on", "/flags/go"] {
        grant_key(&root, key).await;
    }
    put(&root, "/flags/on").await;
    // What the role may not read, and no pattern matches.
    put(&root, "/flags/on/top").await;
    let both = key("/flags/on").exists() & key("/flags/go").exists();
    let rule =
        Rule::new("flags").when(both & key("/out/:id").equals("open")).run(|firing: Firing| async move {
            Ok::<Outcome, Error>(firing.commit().put("/out/:id", "done").into())
        });
    let built = builder(&etcd).rule(rule).crawl_interval(SECOND).build().unwrap();
    assert!(built.watched_prefixes().eq(["/flags/go", "/flags/on", "/out/"]));
    let running = built.start().await.unwrap();
    is_well(&running).await;
    let mut client = root.kv_client();
    client.put("/out/1", "open", None).await.unwrap();
    put(&root, "/flags/go").await;
    eventually(10 * SECOND, "it fires", async || is(&root, "/out/1", "done").await).await;
    // By the watch of that key.
    client.delete("/flags/on", None).await.unwrap();
    client.put("/out/2", "open", None).await.unwrap();
    tokio::time::sleep(3 * SECOND).await;
    assert!(is(&root, "/out/2", "open").await, "a flag is gone");
    put(&root, "/flags/on").await;
    eventually(10 * SECOND, "it fires again", async || is(&root, "/out/2", "done").await).await;
    let stats = running.stats().await.unwrap();
    assert_eq!((stats.drift, running.health()), (0, Health::Ready), "crawls have read the keys too");
    running.shutdown(5 * SECOND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_covering_prefix_that_is_refused_later_is_split_and_callbacks_end_as_they_would() {
    let etcd = Etcd::start().await;
    let root = etcd.enable_auth(&["/etcd-rules/", "/servers/", "/out/"]).await;
    let rule = |id: &'static str, from: &str| {
        let to = format!("/out/{id}/:id");
        Rule::new(id).when(key(from).exists() & key(&to).absent()).run(move |firing: Firing| {
            let to = to.clone();
            async move {
                if firing.attribute("id")? == "slow" {
                    tokio::time::sleep(8 * SECOND).await;
                }
                Ok::<Outcome, Error>(firing.commit().put(&to, "done").into())
            }
        })
    };
    let rules = [rule("outer", "/servers/:id/state"), rule("inner", "/servers/internal/:id/x")];
    let built = builder(&etcd).rules(rules).crawl_interval(SECOND).build().unwrap();
    assert!(built.watched_prefixes().eq(["/out/inner/", "/out/outer/", "/servers/"]));
    let running = built.start().await.unwrap();
    is_well(&running).await;
    let mut events = running.events();
    put(&root, "/servers/internal/slow/x").await;
    eventually(10 * SECOND, "its callback runs", async || running.stats().await.unwrap().running == 1).await;
    grant(&root, "/servers/internal/").await;
    revoke(&root, "/servers/").await;
    // A watch that is open may stay so. A crawl finds it out at the latest, and the engine starts again.
    eventually(20 * SECOND, "it says so", async || !matches!(running.health(), Health::Ready)).await;
    eventually(30 * SECOND, "the callback ends", async || exists(&root, "/out/inner/slow").await).await;
    while let Some(event) = events.try_recv().transpose().unwrap() {
        assert!(!format!("{:?}", event.kind).contains("ancelled"), "{event:?}");
    }
    put(&root, "/servers/internal/7/x").await;
    put(&root, "/servers/7/state").await;
    eventually(20 * SECOND, "the inner fires", async || exists(&root, "/out/inner/7").await).await;
    eventually(10 * SECOND, "it can fire", async || running.health().can_fire()).await;
    eventually(20 * SECOND, "it says what it can't read", async || {
        running.health().to_string().contains("watch of `/servers/`")
    })
    .await;
    tokio::time::sleep(3 * SECOND).await;
    assert!(!exists(&root, "/out/outer/7").await, "nothing can be read for it");
    grant(&root, "/servers/").await;
    eventually(20 * SECOND, "the outer fires too", async || exists(&root, "/out/outer/7").await).await;
    is_well(&running).await;
    assert_eq!(running.stats().await.unwrap().drift, 0);
    running.shutdown(5 * SECOND).await.unwrap();
}

/// Each crawl would read what is refused, and try again what was true in it: a transaction of its own is refused, and
/// one that travels with others is not, as etcd doesn't look into those.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_is_left_out_of_crawls_and_of_firing_again() {
    const CRAWLS: u32 = 8;
    let etcd = Etcd::start().await;
    let root = etcd.enable_auth(&["/etcd-rules/", "/one/", "/two/", "/out/"]).await;
    let fired = Arc::new(Mutex::new(Vec::new()));
    // They stay true, so that each crawl fires them again.
    let stays = |id: &'static str| {
        let fired = fired.clone();
        let rule = Rule::new(id).when(key(format!("/{id}/in/:id")).exists());
        rule.backoff(Backoff::new(SECOND / 10, SECOND / 10)).run(move |_: Firing| {
            fired.lock().unwrap().push(id);
            async { Ok::<Outcome, Error>(Outcome::done()) }
        })
    };
    let firings = |id: &str| fired.lock().unwrap().iter().filter(|rule| **rule == id).count();
    let engine = builder(&etcd).rules([stays("one"), stays("two")]).crawl_interval(SECOND);
    let running = engine.build().unwrap().start().await.unwrap();
    is_well(&running).await;
    for key in ["/one/in/1", "/two/in/1"] {
        put(&root, key).await;
    }
    eventually(20 * SECOND, "both fire at crawls", async || firings("one") > 2 && firings("two") > 2).await;
    revoke(&root, "/two/").await;
    let knows = async || running.health().to_string().contains("watch of `/two/in/`");
    eventually(20 * SECOND, "it knows that it may not read them", knows).await;
    let refused = async |method: &str| {
        let line =
            format!("grpc_server_handled_total{{grpc_code=\"PermissionDenied\",grpc_method=\"{method}\"");
        etcd.metric(&line).await
    };
    let (two, writes) = (firings("two"), refused("Txn").await);
    // The watch goes on trying, soon at first.
    tokio::time::sleep(3 * SECOND).await;
    let (one, reads) = (firings("one"), refused("Range").await);
    eventually(60 * SECOND, "crawls go on", async || firings("one") >= one + CRAWLS as usize).await;
    let (reads, writes) = (refused("Range").await - reads, refused("Txn").await - writes);
    assert_eq!((firings("two"), writes), (two, 0.0), "of what can't be read");
    assert!(reads <= f64::from(CRAWLS / 2), "{reads} reads were refused");
    running.shutdown(5 * SECOND).await.unwrap();
}
