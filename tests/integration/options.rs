//! Options of an engine have the effect that they promise. `tests/tidy` says which test is which
//! option's.

use crate::support::{Etcd, Held, Proxy, assert_nothing_left, eventually};
use etcd_client::{AuthClient, Permission};
use etcd_rules::{
    ConnectOptions, Engine, EngineBuilder, Error, Firing, FiringError, Health, Jitter, Outcome, Rule, Settle,
    key,
};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

fn engine(etcd: &Etcd) -> EngineBuilder {
    Engine::builder("test", [etcd.endpoint()])
}

fn delete_jobs() -> Rule {
    Rule::new("delete")
        .when(key("/jobs/:id").exists())
        .run(|firing: Firing| async move { Ok::<Outcome, Error>(firing.commit().delete("/jobs/:id").into()) })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_flickers_does_not_fire_where_it_must_settle() {
    let etcd = Etcd::start().await;
    let log = Arc::new(Mutex::new(Vec::new()));
    let rule = |id: &'static str| {
        let log = log.clone();
        Rule::new(id).when(key("/lamps/:id").equals("on")).run(move |firing: Firing| {
            let lamp = firing.attribute("id").unwrap_or_default().to_owned();
            log.lock().unwrap().push((id, lamp, Instant::now()));
            async { Ok::<(), Error>(()) }
        })
    };
    let engine = engine(&etcd).rules([rule("engine"), rule("quick").settle(Settle::NONE)]);
    let running = engine
        .settle(Settle::new(3 * SECOND).jitter(Jitter::up_to(0.03)))
        .build()
        .unwrap()
        .start()
        .await
        .unwrap();
    running.ready().await;
    etcd.put("/lamps/flickers", "on").await;
    let on = Instant::now();
    etcd.put("/lamps/steady", "on").await;
    eventually(20 * SECOND, "the rule without delay fired for both", async || log.lock().unwrap().len() == 2)
        .await;
    etcd.put("/lamps/flickers", "off").await;
    assert!(on.elapsed() < 3 * SECOND, "this machine is too slow to flicker");
    eventually(20 * SECOND, "the other fired", async || log.lock().unwrap().len() == 3).await;
    sleep(SECOND).await;
    let log = log.lock().unwrap().clone();
    let settled: Vec<_> = log.iter().filter(|(rule, ..)| *rule == "engine").collect();
    assert_eq!(settled.len(), 1, "{log:?}");
    assert_eq!(settled[0].1, "steady");
    assert!(settled[0].2 - on >= 3 * SECOND, "{:?}", settled[0].2 - on);
    running.shutdown(SECOND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_size_of_one_sends_every_transaction_alone() {
    let requests = async |size: usize| {
        let etcd = Etcd::start().await;
        for job in 0..200 {
            etcd.put(&format!("/jobs/{job}"), "").await;
        }
        let sent = r#"grpc_server_handled_total{grpc_code="OK",grpc_method="Txn""#;
        let before = etcd.metric(sent).await;
        let builder = engine(&etcd).rule(delete_jobs()).batch_size(size);
        let running = builder.build().unwrap().start().await.unwrap();
        eventually(20 * SECOND, "all are done", async || etcd.keys("/jobs/").await.is_empty()).await;
        running.shutdown(5 * SECOND).await.unwrap();
        etcd.metric(sent).await - before
    };
    let (alone, together) = tokio::join!(requests(1), requests(64));
    assert!(alone >= 400.0, "a lock and a commit each: {alone}");
    assert!(together <= 200.0, "{together}");
}

/// What CVE-2026-33343 is about: servers that don't check permissions within nested transactions.
#[tokio::test(flavor = "multi_thread")]
async fn with_a_batch_size_of_one_no_commit_escapes_the_permission_check() {
    let etcd = Etcd::start().await;
    let mut auth: AuthClient = etcd.client().await.auth_client();
    for user in ["root", "app"] {
        auth.user_add(user, "secret", None).await.unwrap();
        auth.role_add(user).await.unwrap();
        auth.user_grant_role(user, user).await.unwrap();
    }
    for prefix in ["/etcd-rules/", "/jobs/"] {
        auth.role_grant_permission("app", Permission::read_write(prefix).with_prefix()).await.unwrap();
    }
    for job in 0..20 {
        etcd.put(&format!("/jobs/{job}"), "").await;
    }
    auth.auth_enable().await.unwrap();
    let attempts = Arc::new(AtomicUsize::new(0));
    let counted = attempts.clone();
    let rule =
        Rule::new("thief").when(key("/jobs/:id").exists()).run(move |firing: Firing| {
            counted.fetch_add(1, Ordering::SeqCst);
            async move {
                Ok::<Outcome, Error>(firing.commit().put("/secret/:id", "taken").delete("/jobs/:id").into())
            }
        });
    let app = ConnectOptions::new().with_user("app", "secret");
    let builder = engine(&etcd).connect_options(app).rule(rule).batch_size(1);
    let running = builder.build().unwrap().start().await.unwrap();
    eventually(20 * SECOND, "each was tried twice", async || attempts.load(Ordering::SeqCst) >= 40).await;
    let root = etcd.client_with(ConnectOptions::new().with_user("root", "secret")).await;
    let prefix = etcd_client::GetOptions::new().with_prefix();
    let secrets = root.kv_client().get("/secret/", Some(prefix)).await.unwrap();
    assert_eq!(secrets.count(), 0, "commits without permission took effect");
    running.shutdown(5 * SECOND).await.unwrap();
}

/// An address that takes no connection: its queue of connections is full.
async fn silent() -> (String, Vec<tokio::net::TcpStream>, tokio::net::TcpListener) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let mut taken = Vec::new();
    while let Ok(stream) = timeout(200 * MS, tokio::net::TcpStream::connect(address)).await {
        taken.push(stream.unwrap());
        assert!(taken.len() < 10, "a queue of no length takes connections without end");
    }
    (address.to_string(), taken, listener)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_does_not_come_about_is_given_up_after_the_connect_timeout() {
    let (address, _taken, _socket) = silent().await;
    let noticed = async |timeout: Duration| {
        let builder =
            Engine::builder("test", [address.clone()]).name(format!("{timeout:?}")).rule(delete_jobs());
        let builder = builder.connect_timeout(timeout).request_timeout(60 * SECOND);
        let started = Instant::now();
        let running = builder.build().unwrap().start().await.unwrap();
        eventually(
            20 * SECOND,
            "it says what is wrong",
            async || matches!(running.health(), Health::Starting { problems } if !problems.is_empty()),
        )
        .await;
        drop(running);
        started.elapsed()
    };
    let (soon, late) = tokio::join!(noticed(300 * MS), noticed(8 * SECOND));
    assert!(soon < late && late >= 8 * SECOND, "{soon:?} and {late:?}");
}

/// Rules with the same lock TTL share a lease, others have their own; a lock shows which.
#[tokio::test(flavor = "multi_thread")]
async fn every_lock_has_the_time_to_live_of_its_rule_or_else_of_the_engine() {
    let etcd = Etcd::start().await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let rule = |id: &'static str, ttl: Option<u32>| {
        let seen = seen.clone();
        let rule = Rule::new(id).when(key("/go").exists() & key(format!("/done/{id}")).absent());
        let rule = if let Some(ttl) = ttl { rule.lock_ttl(ttl * SECOND) } else { rule };
        rule.run(move |firing: Firing| {
            let seen = seen.clone();
            async move {
                let client = firing.client().await?;
                let etcd = |error: etcd_client::Error| FiringError::from(error);
                let lock = format!("/etcd-rules/test/lock/{id}");
                let lock = client.kv_client().get(lock, None).await.map_err(etcd)?;
                let lease = lock.kvs().first().map_or(0, |kv| kv.lease());
                let life = client.lease_client().time_to_live(lease, None).await.map_err(etcd)?;
                seen.lock().unwrap().push((id, lease, life.granted_ttl()));
                Ok::<Outcome, Error>(firing.commit().put(&format!("/done/{id}"), "").into())
            }
        })
    };
    let rules = [rule("a", None), rule("b", Some(14)), rule("c", Some(14)), rule("d", Some(30))];
    let running = engine(&etcd).rules(rules).lock_ttl(17 * SECOND).build().unwrap().start().await.unwrap();
    etcd.put("/go", "").await;
    eventually(20 * SECOND, "all fired", async || etcd.keys("/done/").await.len() == 4).await;
    assert_eq!(etcd.leases().await.len(), 3);
    running.shutdown(SECOND).await.unwrap();
    let mut seen = seen.lock().unwrap().clone();
    seen.sort_unstable();
    let ttls: Vec<_> = seen.iter().map(|(id, _, ttl)| (*id, *ttl)).collect();
    assert_eq!(ttls, [("a", 17), ("b", 14), ("c", 14), ("d", 30)]);
    assert_eq!(seen[1].1, seen[2].1, "the same TTL, the same lease");
    assert_nothing_left(&etcd, "/etcd-rules/", SECOND).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_lie_below_the_namespace() {
    let etcd = Etcd::start().await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let rule = Rule::new("look").when(key("/jobs/:id").exists()).run(move |firing: Firing| {
        let log = log.clone();
        async move {
            let prefix = etcd_client::GetOptions::new().with_prefix().with_keys_only();
            let locks = firing.client().await?.kv_client().get("/own/place/lock/", Some(prefix)).await;
            let locks = locks?;
            log.lock().unwrap().extend(locks.kvs().iter().map(|kv| kv.key_str().unwrap().to_owned()));
            Ok::<Outcome, Error>(firing.commit().delete("/jobs/:id").into())
        }
    });
    let running = engine(&etcd).namespace("/own/place").rule(rule).build().unwrap().start().await.unwrap();
    etcd.put("/jobs/1", "").await;
    eventually(20 * SECOND, "it fired", async || etcd.get("/jobs/1").await.is_none()).await;
    assert_eq!(*seen.lock().unwrap(), ["/own/place/lock/look/1"]);
    running.shutdown(SECOND).await.unwrap();
    assert_nothing_left(&etcd, "/own/place/lock/", SECOND).await;
    assert_eq!(etcd.keys("/own/").await, ["/own/place/identity"], "the identity of the store stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_callbacks_run_than_the_engine_and_each_rule_allow() {
    let etcd = Etcd::start().await;
    let (plain, greedy) = (Held::new(), Held::new());
    let rules = [
        plain.run(Rule::new("plain").when(key("/plain/:n").exists()), "/plain/:n"),
        greedy.run(Rule::new("greedy").when(key("/greedy/:n").exists()).concurrency(5), "/greedy/:n"),
    ];
    let builder = engine(&etcd).rules(rules).concurrency(6).lock_ttl(60 * SECOND);
    let running = builder.build().unwrap().start().await.unwrap();
    // All that is due is known, and slots are given away as soon as they can be: no more will run.
    let settled = async |slots: usize, queued: usize| {
        let what = format!("{slots} have a slot and {queued} wait");
        eventually(20 * SECOND, &what, async || {
            let stats = running.stats().await.unwrap();
            (stats.running, stats.queued, plain.running() + greedy.running()) == (slots, queued, slots)
        })
        .await;
        (plain.running(), greedy.running())
    };

    for n in 0..20 {
        etcd.put(&format!("/plain/{n}"), "").await;
        etcd.put(&format!("/greedy/{n}"), "").await;
    }
    settled(6, 34).await;
    plain.may_end(true);
    assert_eq!(settled(5, 15).await, (0, 5), "alone, the one has its own limit");
    greedy.may_end(true);
    settled(0, 0).await;
    plain.may_end(false);
    for n in 0..20 {
        etcd.put(&format!("/plain/{n}"), "").await;
    }
    assert_eq!(settled(3, 17).await, (3, 0), "and the other half of the engine's");
    plain.may_end(true);
    settled(0, 0).await;
    running.shutdown(SECOND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_alone_may_use_all_slots() {
    let etcd = Etcd::start().await;
    let held = Held::new();
    let rule = held.run(Rule::new("alone").when(key("/alone/:n").exists()), "/alone/:n");
    let running = engine(&etcd).rule(rule).concurrency(5).build().unwrap().start().await.unwrap();
    for n in 0..9 {
        etcd.put(&format!("/alone/{n}"), "").await;
    }
    eventually(20 * SECOND, "five run and four wait", async || {
        let stats = running.stats().await.unwrap();
        (stats.running, stats.queued, held.running()) == (5, 4, 5)
    })
    .await;
    held.may_end(true);
    running.shutdown(SECOND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn run_until_lets_callbacks_finish_until_its_deadline() {
    let finished = async |length: Duration, deadline: Duration| {
        let etcd = Etcd::start().await;
        let rule = Rule::new("slow").when(key("/jobs/:id").exists()).run(move |firing: Firing| async move {
            let mut client = firing.client().await?;
            client.put("/started", "", None).await?;
            sleep(length).await;
            Ok::<Outcome, Error>(firing.commit().delete("/jobs/:id").into())
        });
        etcd.put("/jobs/1", "").await;
        let built =
            engine(&etcd).rule(rule).lock_ttl(60 * SECOND).shutdown_deadline(deadline).build().unwrap();
        let started = async {
            eventually(20 * SECOND, "it runs", async || etcd.get("/started").await.is_some()).await;
        };
        timeout(60 * SECOND, built.run_until(started)).await.expect("it ends").unwrap();
        assert_nothing_left(&etcd, "/etcd-rules/", SECOND).await;
        etcd.get("/jobs/1").await.is_none()
    };
    let both = tokio::join!(finished(3600 * SECOND, 200 * MS), finished(2 * SECOND, 30 * SECOND));
    assert_eq!(both, (false, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_an_answer_is_given_up_after_the_request_timeout() {
    let given_up = async |timeout: Duration| {
        let mut etcd = Etcd::start().await;
        let (started, told) = (Arc::new(tokio::sync::Notify::new()), Arc::new(tokio::sync::Notify::new()));
        let took = Arc::new(Mutex::new(None));
        let (start, tell, note) = (started.clone(), told.clone(), took.clone());
        let rule = Rule::new("read").when(key("/jobs/:id").exists()).run(move |firing: Firing| {
            let (start, tell, note) = (start.clone(), tell.clone(), note.clone());
            async move {
                start.notify_one();
                tell.notified().await;
                let began = Instant::now();
                let read = firing.get("/jobs/:id").await;
                note.lock().unwrap().get_or_insert((began.elapsed(), read.is_err()));
                Ok::<(), Error>(())
            }
        });
        let builder = engine(&etcd).rule(rule).lock_ttl(60 * SECOND).request_timeout(timeout);
        let running = builder.build().unwrap().start().await.unwrap();
        etcd.put("/jobs/1", "").await;
        started.notified().await;
        etcd.pause();
        told.notify_one();
        let (took, failed) = eventually(20 * SECOND, "the read ended", async || *took.lock().unwrap()).await;
        assert!(failed);
        etcd.resume();
        running.shutdown(5 * SECOND).await.unwrap();
        took
    };
    let (soon, late) = tokio::join!(given_up(SECOND), given_up(6 * SECOND));
    assert!(soon < late && late > 5 * SECOND, "{soon:?} and {late:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_is_silent_is_left_after_twice_the_silence() {
    let noticed = async |silence: Duration| {
        let etcd = Etcd::start().await;
        let proxy = Proxy::start(etcd.endpoint());
        // Nothing else finds the connection dead for a while.
        let builder = Engine::builder("test", [proxy.endpoint()]).rule(delete_jobs()).watch_silence(silence);
        let builder = builder.request_timeout(60 * SECOND).lock_ttl(120 * SECOND);
        let running = builder.build().unwrap().start().await.unwrap();
        // The stream is open: until then it is a request, with another limit.
        etcd.put("/jobs/1", "").await;
        eventually(20 * SECOND, "a change came", async || etcd.keys("/jobs/").await.is_empty()).await;
        proxy.freeze();
        let frozen = Instant::now();
        eventually(30 * SECOND, "it says so", async || running.health() != Health::Ready).await;
        frozen.elapsed()
    };
    let (soon, late) = tokio::join!(noticed(300 * MS), noticed(4 * SECOND));
    assert!(soon < late && late >= 6 * SECOND, "{soon:?} and {late:?}");
}

#[test]
fn callbacks_run_on_the_runtime_that_was_given() {
    let named = |name: &str| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name(name)
            .enable_all()
            .build()
            .unwrap()
    };
    let (main, callbacks) = (named("main"), named("callbacks"));
    let seen = Arc::new(Mutex::new(None));
    main.block_on(async {
        let etcd = Etcd::start().await;
        let log = seen.clone();
        let rule = Rule::new("where").when(key("/jobs/:id").exists()).run(move |firing: Firing| {
            *log.lock().unwrap() = std::thread::current().name().map(str::to_owned);
            async move { Ok::<Outcome, Error>(firing.commit().delete("/jobs/:id").into()) }
        });
        let builder = engine(&etcd).rule(rule).runtime(callbacks.handle().clone());
        let running = builder.build().unwrap().start().await.unwrap();
        etcd.put("/jobs/1", "").await;
        eventually(20 * SECOND, "it fired", async || etcd.get("/jobs/1").await.is_none()).await;
        running.shutdown(SECOND).await.unwrap();
    });
    assert_eq!(seen.lock().unwrap().as_deref(), Some("callbacks"));
}
