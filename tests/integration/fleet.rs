//! Several engines share the work by advice: each leaves to the others what they own, and takes over what they
//! can't do.

use crate::support::{Etcd, Proxy, assert_nothing_left, eventually};
use etcd_client::{ConnectOptions, Permission};
use etcd_rules::events::{EventKind, EventStream, NotLocked};
use etcd_rules::health::Reason;
use etcd_rules::http::Endpoint;
use etcd_rules::{Engine, EngineBuilder, Error, Firing, Outcome, Rule, RunningEngine, key};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

const SECOND: Duration = Duration::from_secs(1);
const MEMBERS: &str = "/etcd-rules/app/members/1/";

/// For so long after the members have changed, engines try also what they owned before.
const GRACE: Duration = Duration::from_millis(2500);

/// What engines have done: how often each began which instance, and when.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<(String, String, Instant)>>>);

impl Log {
    fn note(&self, firing: &Firing) -> Result<(), Error> {
        let id = firing.attribute("id")?.to_owned();
        self.0.lock().unwrap().push((firing.engine().to_owned(), id, Instant::now()));
        Ok(())
    }

    fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    fn by_engine(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        self.0
            .lock()
            .unwrap()
            .iter()
            .for_each(|(engine, ..)| *counts.entry(engine.clone()).or_default() += 1);
        counts
    }

    fn clear(&self) {
        self.0.lock().unwrap().clear();
    }
}

/// A rule that is never true, and counts how often it is decided: at the start, and by each crawl.
fn counts_crawls(crawls: &Arc<AtomicUsize>) -> Rule {
    let crawls = crawls.clone();
    let never = key("/never").compare("never", move |_| {
        crawls.fetch_add(1, Ordering::SeqCst);
        false
    });
    Rule::new("never").when(never).run(|_: Firing| async { Ok::<(), Error>(()) })
}

/// Each compares all keys with its memory in time, and reads a share of them an interval.
#[tokio::test(flavor = "multi_thread")]
async fn what_all_engines_read_at_crawls_is_about_what_one_would() {
    const KEYS: usize = 20_000;
    const ENGINES: usize = 4;
    let etcd = Etcd::start().await;
    etcd.put_all((0..KEYS).map(|id| format!("/kept/{id:05}"))).await;
    let mut engines = Vec::new();
    let mut bytes = Vec::new();
    for wanted in [1, ENGINES] {
        while engines.len() < wanted {
            let crawls = Arc::new(AtomicUsize::new(0));
            let kept = Rule::new("kept").when(key("/kept/:id").equals("never"));
            let kept = kept.run(|_: Firing| async { Ok::<(), Error>(()) });
            let builder = Engine::builder("app", [etcd.endpoint()]).name(format!("e{}", engines.len()));
            let builder = builder
                .owners(true)
                .rules([kept, counts_crawls(&crawls)])
                .crawl_interval(SECOND)
                .crawl_rate(20_000);
            let engine = builder.build().unwrap().start().await.unwrap();
            engine.ready().await;
            engines.push((engine, crawls));
        }
        let crawls = || engines.iter().map(|(_, crawls)| crawls.load(Ordering::SeqCst)).collect::<Vec<_>>();
        let after = async |count: usize| {
            let before = crawls();
            let enough = || crawls().iter().zip(&before).all(|(now, before)| *now >= before + count);
            eventually(120 * SECOND, "crawls", async || enough()).await;
            before
        };
        for (engine, _) in &engines {
            let all = async || engine.stats().await.is_ok_and(|stats| stats.members == wanted);
            eventually(20 * SECOND, "all are members", all).await;
        }
        // Those that began before they were.
        after(2).await;
        let sent = async || etcd.metric("etcd_network_client_grpc_sent_bytes_total").await;
        let before = sent().await;
        let begun = after(4).await;
        let made = crawls().iter().zip(begun).map(|(now, begun)| now - begun).sum::<usize>();
        bytes.push((sent().await - before) / (made as f64 / wanted as f64));
    }
    println!("bytes an interval with 1 and {ENGINES} engines: {bytes:?}");
    assert!(bytes[1] <= 1.5 * bytes[0], "bytes an interval with 1 and {ENGINES} engines: {bytes:?}");
    for (engine, _) in engines {
        assert_eq!(engine.stats().await.unwrap().drift, 0);
        engine.shutdown(5 * SECOND).await.unwrap();
    }
}

/// Takes `/jobs/:id` away after this time.
fn jobs(log: &Log, takes: Duration) -> Rule {
    let log = log.clone();
    Rule::new("jobs").when(key("/jobs/:id").exists()).run(move |firing: Firing| {
        let log = log.clone();
        async move {
            log.note(&firing)?;
            sleep(takes).await;
            Ok::<Outcome, Error>(firing.commit().delete("/jobs/:id").into())
        }
    })
}

/// Leaves its instances true.
fn stays(log: &Log) -> Rule {
    let log = log.clone();
    Rule::new("stays").when(key("/stays/:id").exists()).run(move |firing: Firing| {
        let log = log.clone();
        async move { log.note(&firing) }
    })
}

fn builder(etcd: &Etcd, name: &str) -> EngineBuilder {
    Engine::builder("app", [etcd.endpoint()]).name(name).lock_ttl(3 * SECOND).owners(true)
}

async fn start(builder: EngineBuilder) -> RunningEngine {
    let running = builder.build().unwrap().start().await.unwrap();
    running.ready().await;
    running
}

/// Waits until all engines are members, and have been so for a moment.
async fn are_members(etcd: &Etcd, engines: usize) {
    eventually(20 * SECOND, "all are members", async || etcd.keys(MEMBERS).await.len() == 2 * engines).await;
    sleep(GRACE).await;
}

/// Attempts for a lock that another engine had, so far.
async fn losing(events: &mut EventStream) -> usize {
    let held = |kind: &EventKind| {
        matches!(kind, EventKind::NotLocked { reason: NotLocked::Held(_) | NotLocked::BackedOff(_), .. })
    };
    let mut count = 0;
    // `try_recv` would end early: tokio lets a task do only so much at once.
    while let Ok(Some(event)) = timeout(Duration::from_millis(200), events.recv()).await {
        count += usize::from(held(&event.expect("none is missed").kind));
    }
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn engines_leave_instances_to_their_owners() {
    const JOBS: usize = 400;
    let etcd = Etcd::start().await;
    let log = Log::default();
    let mut engines = Vec::new();
    for name in ["a", "b", "c"] {
        engines.push(start(builder(&etcd, name).event_buffer(10_000).rule(jobs(&log, Duration::ZERO))).await);
    }
    are_members(&etcd, 3).await;
    for engine in &engines {
        let stats = engine.stats().await.unwrap();
        assert_eq!((stats.members, stats.members_differing), (3, 0));
    }
    let mut events: Vec<EventStream> = engines.iter().map(|engine| engine.events()).collect();
    for job in 0..JOBS {
        etcd.put(&format!("/jobs/{job}"), "").await;
    }
    eventually(30 * SECOND, "all are done", async || etcd.keys("/jobs/").await.is_empty()).await;
    assert_eq!(log.len(), JOBS);
    let shares = log.by_engine();
    assert!(shares.len() == 3 && shares.values().all(|share| *share > JOBS / 5), "{shares:?}");
    let mut lost = 0;
    for events in &mut events {
        lost += losing(events).await;
    }
    assert_eq!(lost, 0, "of {JOBS} firings, while the members are steady");
    for engine in engines {
        engine.shutdown(SECOND).await.unwrap();
    }
    assert_nothing_left(&etcd, "/etcd-rules/", SECOND).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stays_true_fires_once_in_the_fleet_and_once_an_interval() {
    let etcd = Etcd::start().await;
    let log = Log::default();
    let crawled = |name| builder(&etcd, name).rule(stays(&log)).crawl_interval(8 * SECOND);
    let (one, other) = (start(crawled("a")).await, start(crawled("b")).await);
    are_members(&etcd, 2).await;
    let began = Instant::now();
    for id in 0..20 {
        etcd.put(&format!("/stays/{id}"), "").await;
    }
    eventually(5 * SECOND, "all have fired", async || log.len() >= 20).await;
    assert_eq!(log.len(), 20, "in both engines together");
    sleep((began + 20 * SECOND).saturating_duration_since(Instant::now())).await;
    // Two crawls, of which each engine makes its own.
    let fired = log.len();
    assert!((40..=60).contains(&fired), "{fired} firings of 20 instances after two intervals");
    one.shutdown(SECOND).await.unwrap();
    other.shutdown(SECOND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_callback_of_an_optimistic_rule_runs_in_one_engine() {
    let etcd = Etcd::start().await;
    let log = Log::default();
    let rule = || {
        let log = log.clone();
        let run = move |firing: Firing| {
            let log = log.clone();
            async move {
                log.note(&firing)?;
                Ok::<Outcome, Error>(firing.commit().delete("/jobs/:id").into())
            }
        };
        Rule::new("jobs").when(key("/jobs/:id").exists()).optimistic().run(run)
    };
    let one = start(builder(&etcd, "a").rule(rule())).await;
    let other = start(builder(&etcd, "b").rule(rule())).await;
    are_members(&etcd, 2).await;
    for job in 0..100 {
        etcd.put(&format!("/jobs/{job}"), "").await;
    }
    eventually(20 * SECOND, "all are done", async || etcd.keys("/jobs/").await.is_empty()).await;
    assert_eq!(log.len(), 100, "{:?}", log.by_engine());
    one.shutdown(SECOND).await.unwrap();
    other.shutdown(SECOND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_in_an_engine_that_drains_is_taken_over_at_once() {
    let etcd = Etcd::start().await;
    let log = Log::default();
    let slow = |name| builder(&etcd, name).concurrency(1).rule(jobs(&log, 4 * SECOND));
    let (one, other) = (start(slow("a")).await, start(slow("b")).await);
    are_members(&etcd, 2).await;
    for job in 0..12 {
        etcd.put(&format!("/jobs/{job}"), "").await;
    }
    eventually(5 * SECOND, "both work", async || log.by_engine().len() == 2).await;
    log.clear();
    // One that has much room sees at once that the work is its own.
    let third = start(builder(&etcd, "c").rule(jobs(&log, Duration::ZERO))).await;
    are_members(&etcd, 3).await;
    let began = Instant::now();
    let draining = tokio::spawn(async move { one.shutdown(20 * SECOND).await });
    let drained = tokio::spawn(async move { other.shutdown(20 * SECOND).await });
    eventually(20 * SECOND, "all are done", async || etcd.keys("/jobs/").await.is_empty()).await;
    let late = {
        let log = log.0.lock().unwrap();
        let theirs = log.iter().filter(|(engine, ..)| engine == "c");
        theirs.map(|(.., at)| at.saturating_duration_since(began)).min()
    };
    assert!(late.is_some_and(|late| late < 2 * SECOND), "the third began after {late:?}");
    draining.await.unwrap().unwrap();
    drained.await.unwrap().unwrap();
    third.shutdown(SECOND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_is_behind_is_helped() {
    const JOBS: usize = 60;
    let etcd = Etcd::start().await;
    let log = Log::default();
    let slow = builder(&etcd, "a").concurrency(1).event_buffer(10_000).rule(jobs(&log, SECOND));
    let fast = |name| builder(&etcd, name).event_buffer(10_000).rule(jobs(&log, Duration::from_millis(20)));
    let engines = [start(slow).await, start(fast("b")).await, start(fast("c")).await];
    are_members(&etcd, 3).await;
    let mut events: Vec<EventStream> = engines.iter().map(|engine| engine.events()).collect();
    for job in 0..JOBS {
        etcd.put(&format!("/jobs/{job}"), "").await;
    }
    let began = Instant::now();
    eventually(60 * SECOND, "all are done", async || etcd.keys("/jobs/").await.is_empty()).await;
    let took = began.elapsed();
    let shares = log.by_engine();
    // Its share alone would take it some twenty seconds.
    assert!(took < 8 * SECOND, "{took:?}, {shares:?}");
    assert_eq!(log.len(), JOBS, "{shares:?}");
    let mut lost = 0;
    for events in &mut events {
        lost += losing(events).await;
    }
    assert!(lost <= JOBS / 10, "{lost} attempts were lost");
    for engine in engines {
        engine.shutdown(SECOND).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_rule_is_left_to_the_others() {
    let etcd = Etcd::start().await;
    let log = Log::default();
    let (one, other) = (
        start(builder(&etcd, "a").rule(jobs(&log, Duration::ZERO))).await,
        start(builder(&etcd, "b").rule(jobs(&log, Duration::ZERO))).await,
    );
    are_members(&etcd, 2).await;
    one.pause("jobs").await.unwrap();
    for job in 0..50 {
        etcd.put(&format!("/jobs/{job}"), "").await;
    }
    eventually(10 * SECOND, "all are done", async || etcd.keys("/jobs/").await.is_empty()).await;
    assert_eq!(log.by_engine().keys().collect::<Vec<_>>(), ["b"]);
    other.pause("jobs").await.unwrap();
    etcd.put("/jobs/later", "").await;
    sleep(SECOND).await;
    assert_eq!(log.len(), 50, "nobody is able");
    one.resume("jobs").await.unwrap();
    eventually(10 * SECOND, "it is done", async || etcd.keys("/jobs/").await.is_empty()).await;
    one.shutdown(SECOND).await.unwrap();
    other.shutdown(SECOND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_a_member_that_somebody_deletes_are_put_again() {
    let etcd = Etcd::start().await;
    let log = Log::default();
    let running = start(builder(&etcd, "a").rule(jobs(&log, Duration::ZERO))).await;
    are_members(&etcd, 1).await;
    let before = etcd.keys(MEMBERS).await;
    etcd.delete_prefix(MEMBERS).await;
    eventually(10 * SECOND, "they are there again", async || etcd.keys(MEMBERS).await == before).await;
    running.shutdown(SECOND).await.unwrap();
    assert_nothing_left(&etcd, "/etcd-rules/", SECOND).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_is_no_member_tries_everything_and_writes_no_key() {
    let etcd = Etcd::start().await;
    let log = Log::default();
    let member = start(builder(&etcd, "a").rule(jobs(&log, Duration::from_millis(50)))).await;
    are_members(&etcd, 1).await;
    let outsider = builder(&etcd, "b").owners(false).event_buffer(10_000);
    let outsider = start(outsider.rule(jobs(&log, Duration::from_millis(50)))).await;
    let (mut theirs, mut ours) = (member.events(), outsider.events());
    for job in 0..50 {
        etcd.put(&format!("/jobs/{job}"), "").await;
    }
    eventually(20 * SECOND, "all are done", async || etcd.keys("/jobs/").await.is_empty()).await;
    assert_eq!(etcd.keys(MEMBERS).await.len(), 2);
    let lost = losing(&mut theirs).await + losing(&mut ours).await;
    assert!(lost >= 25, "they compete: {lost}");
    member.shutdown(SECOND).await.unwrap();
    outsider.shutdown(SECOND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_may_not_be_a_member_works_and_says_so() {
    let etcd = Etcd::start().await;
    let log = Log::default();
    // Everything but the members.
    let prefixes = ["/jobs/", "/etcd-rules/app/identity", "/etcd-rules/app/format"];
    let root = etcd.enable_auth(&prefixes).await;
    for kind in ["lock/", "backoff/", "mark/"] {
        let permission = Permission::read_write(format!("/etcd-rules/app/{kind}")).with_prefix();
        root.auth_client().role_grant_permission("engine", permission).await.unwrap();
    }
    let options = || ConnectOptions::new().with_user("engine", "secret");
    let running = builder(&etcd, "a").connect_options(options()).rule(jobs(&log, Duration::ZERO));
    let running = running.build().unwrap().start().await.unwrap();
    eventually(10 * SECOND, "health says so", async || running.health().has(Reason::Permission)).await;
    root.kv_client().put("/jobs/1", "", None).await.unwrap();
    eventually(5 * SECOND, "it fires", async || log.len() == 1).await;
    assert!(running.health().can_fire(), "{}", running.health());
    running.shutdown(SECOND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_how_many_engines_are_alive() {
    let etcd = Etcd::start().await;
    let endpoint = Endpoint::builder().address(([127, 0, 0, 1], 0).into()).listen().unwrap();
    let log = Log::default();
    let engine = start(builder(&etcd, "a").rule(jobs(&log, Duration::ZERO)).endpoint(&endpoint)).await;
    let shows = async |text: &str| {
        let mut stream = TcpStream::connect(endpoint.address()).await.unwrap();
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).await.unwrap();
        page.contains(text)
    };
    eventually(20 * SECOND, "itself", async || shows("as this one sees them: 1.").await).await;
    let other = r#"{"engine":"other","version":"0","rules":{}}"#;
    etcd.put(&format!("{MEMBERS}00000000000000ff/able"), other).await;
    let both = "as this one sees them: 2 (1 with other rules than this one).";
    eventually(20 * SECOND, "and another one", async || shows(both).await).await;
    engine.shutdown(SECOND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delay_of_an_engine_that_is_gone_is_taken_up_within_a_lock_ttl() {
    const TTL: Duration = Duration::from_secs(3);
    const DELAY: Duration = Duration::from_secs(12);
    let etcd = Etcd::start().await;
    let proxy = Proxy::start(etcd.endpoint());
    let log = Log::default();
    let job = || {
        let log = log.clone();
        Rule::new("job").when(key("/jobs/:id").exists()).run(move |firing: Firing| {
            let log = log.clone();
            async move {
                log.note(&firing)?;
                Ok::<Outcome, Error>(Outcome::retry_after(DELAY))
            }
        })
    };
    let first = Engine::builder("app", [proxy.endpoint()]).name("a").lock_ttl(TTL).owners(true).rule(job());
    let first = start(first).await;
    etcd.put("/jobs/1", "").await;
    eventually(10 * SECOND, "it is marked", async || !etcd.keys("/etcd-rules/app/backoff/").await.is_empty())
        .await;
    // For etcd and the other engine it is as if it had been killed.
    proxy.cut();
    let second = start(builder(&etcd, "b").rule(job())).await;
    eventually(30 * SECOND, "the other one has it", async || log.by_engine().contains_key("b")).await;
    let [began, again] = [0, 1].map(|at| log.0.lock().unwrap()[at].2);
    let late = again.duration_since(began + DELAY);
    // The engine that is gone is first, and what etcd takes to notice is not little here.
    assert!(late <= TTL + SECOND / 2, "{late:?}");
    proxy.heal();
    for engine in [first, second] {
        engine.shutdown(SECOND).await.unwrap();
    }
}
