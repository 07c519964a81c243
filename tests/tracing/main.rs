//! What an engine records through the crate `tracing`: spans with their fields and lines of the log. Neither
//! shows the application's data unless the engine reveals it.
//!
//! A program of its own, because one subscriber keeps everything that its process records.

mod capture;
#[path = "../support/mod.rs"]
mod support;

use capture::{Capture, Told};
use etcd_rules::http::Endpoint;
use etcd_rules::inspect::{InstanceQuery, InstanceState, StateKind, WaitReason};
use etcd_rules::{
    Backoff, Engine, EngineBuilder, Error, Firing, Health, Outcome, RateLimit, Reveal, Rule, key,
};
use std::collections::HashSet;
use std::time::Duration;
use support::{Etcd, Proxy, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tracing::Level;

const SECOND: Duration = Duration::from_secs(1);

fn builder(etcd: &Etcd, name: &str) -> EngineBuilder {
    Engine::builder("app", [etcd.endpoint()]).name(name)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_firing_is_a_span_with_lock_callback_and_commit_inside() {
    let told = Capture::installed();
    let etcd = Etcd::start().await;
    let rule = Rule::new("job")
        .when(key("/jobs/:id").exists())
        .backoff(Backoff::new(SECOND / 50, SECOND))
        .run(|firing: Firing| async move {
            tracing::info!(target: "application", "working");
            tokio::task::yield_now().await;
            if firing.attempt() == 1 {
                return Err("no luck".into());
            }
            tracing::info!(target: "application", token = firing.fencing_token(), "done");
            Ok::<Outcome, etcd_rules::BoxError>(firing.commit().delete("/jobs/:id").into())
        });
    let running = builder(&etcd, "spans").rule(rule).build().unwrap().start().await.unwrap();
    running.ready().await;
    let revision = etcd.put("/jobs/7", "").await;
    eventually(20 * SECOND, "both are over", async || told.spans("spans", "firing").len() == 2).await;
    let firings = told.spans("spans", "firing");
    for (firing, attempt, outcome, status) in
        [(&firings[0], "1", "error", "ERROR"), (&firings[1], "2", "done", "")]
    {
        assert_eq!((firing.level, firing.target.as_str()), (Level::INFO, "etcd_rules"));
        assert_eq!(firing.path(), "firing", "it has no parent");
        for (field, value) in [
            ("engine", "spans"),
            ("rule", "job"),
            ("attempt", attempt),
            ("revision", revision.to_string().as_str()),
            ("outcome", outcome),
            ("otel.status_code", status),
            ("instance", ""),
        ] {
            assert_eq!(firing.get(field), value, "{field} of {firing:?}");
        }
        assert!(firing.get("queued_us").parse::<u64>().unwrap() < 20_000_000);
    }
    for (name, field, values) in [
        ("lock", "result", ["won", "won"]),
        ("callback", "outcome", ["error", "done"]),
        ("commit", "result", ["committed", "committed"]),
    ] {
        let spans = told.spans("spans", name);
        assert_eq!(spans.iter().map(|span| span.get(field)).collect::<Vec<_>>(), values, "{name}");
        assert!(spans.iter().all(|span| span.path() == format!("firing/{name}")), "{spans:?}");
        assert!(spans.iter().all(|span| span.target == "etcd_rules"), "{spans:?}");
    }
    let committed = told.spans("spans", "commit")[1].get("revision").parse::<i64>().unwrap();
    assert_eq!(committed, etcd.revision().await, "of the deletion");
    let application: Vec<Told> =
        told.of("spans").into_iter().filter(|told| told.target == "application").collect();
    assert_eq!(
        application.iter().map(Told::path).collect::<Vec<_>>(),
        ["firing/callback/working", "firing/callback/working", "firing/callback/done"]
    );
    assert_eq!(application[2].get("token"), firings[1].get("fencing_token"));
    let failed = told.lines("spans", "callback failed; it will be tried again");
    let fields = ["attempt", "outcome", "error", "suppressed", "rule"].map(|field| failed[0].get(field));
    assert_eq!((failed.len(), fields), (1, ["1", "error", "no luck", "0", "job"]));
    running.shutdown(SECOND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_another_engine_has_is_the_outcome_of_the_firing() {
    let told = Capture::installed();
    let etcd = Etcd::start().await;
    let outcomes = || -> HashSet<String> {
        let spans = ["lock-one", "lock-two"].into_iter().flat_map(|name| told.spans(name, "firing"));
        spans.map(|span| span.get("outcome").to_owned()).collect()
    };
    let rule = Rule::new("slow").when(key("/slow/:id").exists()).run(move |firing: Firing| async move {
        // Until the other one has tried.
        while !outcomes().contains("held") {
            tokio::time::sleep(SECOND / 100).await;
        }
        Ok::<Outcome, Error>(firing.commit().delete("/slow/:id").into())
    });
    let mut engines = Vec::new();
    for name in ["lock-one", "lock-two"] {
        engines.push(builder(&etcd, name).rule(rule.clone()).build().unwrap().start().await.unwrap());
    }
    for engine in &engines {
        engine.ready().await;
    }
    etcd.put("/slow/1", "").await;
    eventually(20 * SECOND, "it is done", async || etcd.get("/slow/1").await.is_none()).await;
    let expected = HashSet::from(["done".to_owned(), "held".to_owned()]);
    eventually(20 * SECOND, "one had the lock and the other not", async || outcomes() == expected).await;
    for engine in engines {
        engine.shutdown(SECOND).await.unwrap();
    }
}

/// Callbacks and comparisons that put keys and values into their errors; a lock that is left over.
#[tokio::test(flavor = "multi_thread")]
async fn no_key_and_no_value_is_told_unless_it_may_be() {
    let told = Capture::installed();
    for (name, reveal, tells_key, tells_value) in [
        ("reveal-nothing", Reveal::Nothing, false, false),
        ("reveal-keys", Reveal::Keys, true, false),
        ("reveal-values", Reveal::Values, true, true),
    ] {
        let etcd = Etcd::start().await;
        let fails = Rule::new("fails").when(key("/jobs/:id").exists()).run(|firing: Firing| async move {
            let value = firing.value_opt("/jobs/:id")?.cloned().unwrap_or_default();
            match value.as_str() {
                Some(text) if text.ends_with('A') => Err(format!("bad value: {text}").into()),
                Some(text) if text.ends_with('B') => {
                    panic!("{} is {text}", firing.format("/jobs/:id").unwrap())
                }
                _ => {
                    firing.get("/missing/:id").await?;
                    Ok::<Outcome, etcd_rules::BoxError>(Outcome::done())
                }
            }
        });
        let panics =
            key("/odd/:id").compare("panics", |value| value.is_some_and(|value| panic!("on {value:?}")));
        let panics =
            Rule::new("panics").when(panics).run(|_: Firing| async { Ok::<_, Error>(Outcome::done()) });
        let running = builder(&etcd, name)
            .reveal(reveal)
            .rules([fails, panics])
            .build()
            .unwrap()
            .start()
            .await
            .unwrap();
        running.ready().await;
        for ending in ["A", "B", "C"] {
            etcd.put(&format!("/jobs/ident{ending}"), format!("secret{ending}")).await;
        }
        etcd.put("/odd/identD", "secretD").await;
        eventually(20 * SECOND, "all have failed", async || {
            told.lines(name, "callback failed; it will be tried again").len() >= 3
                && !told.lines(name, "comparison panicked; its instance is left alone").is_empty()
        })
        .await;
        running.shutdown(SECOND).await.unwrap();
        let text = format!("{:?}", told.of(name));
        for (secret, tells) in [("ident", tells_key), ("secret", tells_value)] {
            assert_eq!(text.contains(secret), tells, "{name}: {secret} in {text}");
        }
        assert!(text.contains("bad value: ") && text.contains("the key `/missing/"), "{text}");
        assert_eq!(told.spans(name, "firing")[0].get("instance").starts_with("id=ident"), tells_key);
    }
}

async fn get(endpoint: &Endpoint, path: &str) -> String {
    let mut stream = TcpStream::connect(endpoint.address()).await.unwrap();
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.0 200 "), "{path}: {text}");
    text
}

/// What a callback says of keys and of values, some of which it read, is the same in the log, over HTTP, in events, in
/// the mark that it leaves in etcd, and in another engine that reads it.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_callback_says_is_the_same_wherever_it_is_told_and_tells_no_more_than_it_may() {
    let told = Capture::installed();
    let rule = || {
        let speaks = Rule::new("speaks").when(key("/jobs/:id").exists());
        speaks.backoff(Backoff::new(3600 * SECOND, 3600 * SECOND)).run(|firing: Firing| async move {
            let (id, value) = (firing.attribute("id")?, firing.value("/jobs/:id")?);
            let read = firing.get("/users/alice").await?;
            let pin = read.to_string_lossy()[9..13].to_owned();
            match id {
                "ident-gives-up" => Ok(Outcome::give_up(format!("{id} is {value:?}, pin {pin}"))),
                "ident-panics" => panic!("{id} is {value:?}, pin {pin}"),
                _ => Err::<Outcome, etcd_rules::BoxError>(format!("{id} is {value:?}, pin {pin}").into()),
            }
        })
    };
    for (name, reveal, tells_key, tells_value) in [
        ("says-nothing", Reveal::Nothing, false, false),
        ("says-keys", Reveal::Keys, true, false),
        ("says-values", Reveal::Values, true, true),
    ] {
        let etcd = Etcd::start().await;
        etcd.put("/users/alice", r#"{"pin": "4711"}"#).await;
        let endpoint = Endpoint::builder().address(([127, 0, 0, 1], 0).into()).listen().unwrap();
        let build = |name: &str, reveal| {
            let builder = builder(&etcd, name).rule(rule()).reveal(reveal).endpoint(&endpoint);
            async { builder.build().unwrap().start().await.unwrap() }
        };
        let running = build(name, reveal).await;
        running.ready().await;
        let mut events = running.events();
        for id in ["ident-fails", "ident-gives-up", "ident-panics"] {
            etcd.put(&format!("/jobs/{id}"), "secret\n").await;
        }
        eventually(20 * SECOND, "all have failed", async || {
            let stats = running.stats().await.unwrap();
            (stats.waiting, stats.given_up) == (2, 1)
        })
        .await;
        // The one that does not tell more is the reader.
        let reader = format!("{name}-reader");
        let other = build(&reader, Reveal::Keys).await;
        other.ready().await;
        eventually(20 * SECOND, "the other one has seen the marks", async || {
            let stats = other.stats().await.unwrap();
            (stats.held, stats.given_up) == (2, 1)
        })
        .await;

        let mut said = Vec::new();
        for line in told.lines(name, "callback failed; it will be tried again") {
            said.push(("log", line.get("error").to_owned()));
        }
        while let Some(event) = events.try_recv().transpose().unwrap() {
            let text = format!("{:?}", event.kind);
            if text.contains("pin") {
                said.push(("event", text));
            }
        }
        for instance in running.instances(InstanceQuery::new()).await.unwrap().instances {
            said.push(("API", instance.last_error.unwrap().to_string()));
        }
        for key in etcd.keys("/etcd-rules/app/").await {
            let mark = etcd.get(&key).await.filter(|value| value.contains("gave_up"));
            said.extend(mark.map(|mark| ("mark", mark)));
        }
        for path in ["/instances", "/api/instances"] {
            said.push((path, get(&endpoint, &format!("{path}?engine={name}")).await));
            let elsewhere = get(&endpoint, &format!("{path}?engine={reader}")).await;
            assert!(!elsewhere.contains("secret") && !elsewhere.contains("4711"), "{elsewhere}");
            assert_eq!(
                elsewhere.contains("pin"),
                reveal <= Reveal::Keys,
                "of a mark that tells more: {elsewhere}"
            );
        }
        for (place, least) in [("log", 2), ("event", 6), ("API", 3), ("mark", 3)] {
            let count = said.iter().filter(|(at, _)| *at == place).count();
            assert!(count >= least, "{place} {count}: {said:?}");
        }
        for (place, text) in said {
            assert!(text.contains(", pin "), "{name}, {place}: {text}");
            assert_eq!(text.contains("ident"), tells_key, "{name}, {place}: {text}");
            assert_eq!(text.contains("secret"), tells_value, "{name}, {place}: {text}");
            assert_eq!(text.contains("4711"), tells_value, "{name}, {place}: {text}");
        }
        other.shutdown(SECOND).await.unwrap();
        running.shutdown(SECOND).await.unwrap();
    }
}

/// What a callback reads with a client of its own nobody sees, so nothing of its error is told.
#[tokio::test(flavor = "multi_thread")]
async fn an_error_after_reads_that_nobody_sees_is_told_only_if_values_are() {
    let told = Capture::installed();
    for (name, reveal, tells) in [
        ("client-nothing", Reveal::Nothing, false),
        ("client-keys", Reveal::Keys, false),
        ("client-values", Reveal::Values, true),
    ] {
        let etcd = Etcd::start().await;
        etcd.put("/users/alice", "4711").await;
        let rule = Rule::new("reads").when(key("/jobs/:id").exists()).run(|firing: Firing| async move {
            let found = firing.client().await?.get("/users/alice", None).await?;
            let pin = String::from_utf8_lossy(found.kvs()[0].value()).into_owned();
            Err::<Outcome, etcd_rules::BoxError>(format!("pin {pin}").into())
        });
        let running = builder(&etcd, name).reveal(reveal).rule(rule).build().unwrap().start().await.unwrap();
        etcd.put("/jobs/1", "").await;
        let lines = || told.lines(name, "callback failed; it will be tried again");
        eventually(20 * SECOND, "it has failed", async || !lines().is_empty()).await;
        running.shutdown(SECOND).await.unwrap();
        let error = lines()[0].get("error").to_owned();
        assert_eq!(error.contains("pin 4711"), tells, "{name}: {error}");
        assert_eq!(format!("{:?}", told.of(name)).contains("4711"), tells, "{name}");
    }
}

/// Each makes the other one true, so that they would go on for ever.
#[tokio::test(flavor = "multi_thread")]
async fn rules_that_undo_each_other_are_slowed_down_and_the_log_names_both() {
    let told = Capture::installed();
    let rule = |id: &str, from: &'static str, to: &'static str| {
        let rule = Rule::new(id).when(key("/flags/:id").equals(from));
        rule.run(move |firing: Firing| async move {
            Ok::<Outcome, Error>(firing.commit().put("/flags/:id", to).into())
        })
    };
    let low = || RateLimit::new(5, 10 * SECOND);
    let pair = |name: &str, endpoint: String| {
        let builder = Engine::builder("app", [endpoint]).name(name);
        let (on, off) = (rule("switches-on", "off", "on"), rule("switches-off", "on", "off"));
        match name {
            "undo-engine" => builder.rules([on, off]).instance_rate(low()),
            "undo-rule" => builder.rules([on.instance_rate(low()), off.instance_rate(low())]),
            _ => builder.rules([on, off]).instance_rate(RateLimit::new(u32::MAX, SECOND)),
        }
    };
    let line = "instance fires too often, and is slowed down; rules may undo each other's work";
    for (name, free) in [("undo-engine", 10..100), ("undo-rule", 10..100), ("undo-free", 0..0)] {
        let etcd = Etcd::start().await;
        let mut client = etcd.client().await;
        let running = pair(name, etcd.endpoint()).build().unwrap().start().await.unwrap();
        running.ready().await;
        client.put("/flags/1", "off", None).await.unwrap();
        let fired = async || running.rules().await.unwrap().iter().map(|rule| rule.fired).sum::<u64>();
        if name == "undo-free" {
            eventually(60 * SECOND, "it goes on for ever", async || fired().await > 100).await;
            assert_eq!(told.lines(name, line).len(), 0);
            running.shutdown(SECOND).await.unwrap();
            continue;
        }
        let names = || -> HashSet<(String, String)> {
            let lines = told.lines(name, line);
            lines.iter().map(|line| (line.get("rule").into(), line.get("made_true_by").into())).collect()
        };
        let both = || {
            let (on, off) = ("switches-on".to_owned(), "switches-off".to_owned());
            names().contains(&(on.clone(), off.clone())) || names().contains(&(off, on))
        };
        let started = tokio::time::Instant::now();
        while !both() && started.elapsed() < 60 * SECOND {
            tokio::time::sleep(SECOND / 10).await;
        }
        assert!(both(), "{name}: no line names both after {} firings: {:?}", fired().await, names());
        assert!(free.contains(&fired().await), "{name}: {}", fired().await);
        let waits = async || {
            let query = InstanceQuery::new().state(StateKind::Waiting);
            let waiting = running.instances(query).await.unwrap().instances;
            waiting.into_iter().any(|one| {
                matches!(one.state, InstanceState::Waiting { reason: WaitReason::TooOften, remaining }
                    if remaining > 3 * SECOND)
            })
        };
        eventually(60 * SECOND, "it is as slow as it gets", waits).await;
        let mut revision = async || client.get("/flags/1", None).await.unwrap().header().unwrap().revision();
        let before = revision().await;
        tokio::time::sleep(6 * SECOND).await;
        let changes = revision().await - before;
        // Two firings in five seconds, each with a lock and a commit.
        assert!((1..=12).contains(&changes), "{name}: {changes} revisions in 6 s");
        running.shutdown(SECOND).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_failures_are_few_lines_and_none_is_forgotten() {
    let told = Capture::installed();
    let etcd = Etcd::start().await;
    let hour = 3600 * SECOND;
    let rule = Rule::new("fails")
        .when(key("/jobs/:id").exists())
        .backoff(Backoff::new(hour, hour))
        .run(|_: Firing| async move { Err::<Outcome, _>("always the same") });
    let running = builder(&etcd, "many").rule(rule).build().unwrap().start().await.unwrap();
    running.ready().await;
    for n in 0..1000 {
        etcd.put(&format!("/jobs/{n}"), "").await;
    }
    eventually(20 * SECOND, "all have failed", async || running.stats().await.unwrap().waiting == 1000).await;
    tokio::time::sleep(SECOND + SECOND / 10).await;
    etcd.put("/jobs/last", "").await;
    let lines = || told.lines("many", "callback failed; it will be tried again");
    let count =
        || -> u64 { lines().iter().map(|line| 1 + line.get("suppressed").parse::<u64>().unwrap()).sum() };
    eventually(20 * SECOND, "the last line accounts for all", async || count() == 1001).await;
    assert!(lines().len() < 100, "{} lines", lines().len());
    running.shutdown(SECOND).await.unwrap();
}

/// A connection that is lost and found again a few times a second.
#[tokio::test(flavor = "multi_thread")]
async fn health_is_told_when_it_changes_and_at_most_once_a_second() {
    let told = Capture::installed();
    let etcd = Etcd::start().await;
    let proxy = Proxy::start(etcd.endpoint());
    let rule = Rule::new("job")
        .when(key("/jobs/:id").exists())
        .run(|_: Firing| async { Ok::<_, Error>(Outcome::done()) });
    let built = Engine::builder("app", [proxy.endpoint()]).name("flapping").rule(rule).build().unwrap();
    let running = built.start().await.unwrap();
    running.ready().await;
    let started = tokio::time::Instant::now();
    for _ in 0..10 {
        proxy.cut();
        tokio::time::sleep(SECOND / 10).await;
        proxy.heal();
        tokio::time::sleep(SECOND / 5).await;
    }
    proxy.cut();
    let degraded = |line: &Told| (line.get("state"), line.get("reasons")) == ("degraded", "disconnected");
    eventually(20 * SECOND, "it says so", async || told.of("flapping").iter().any(degraded)).await;
    proxy.heal();
    eventually(20 * SECOND, "it is well", async || running.health() == Health::Ready).await;
    running.shutdown(SECOND).await.unwrap();
    let lines: Vec<Told> = told.of("flapping").into_iter().filter(|told| !told.is_span).collect();
    let states: Vec<(&str, &str)> = lines
        .iter()
        .filter(|line| line.level <= Level::INFO)
        .map(|l| (l.get("state"), l.get("reasons")))
        .collect();
    assert_eq!(states.last(), Some(&("stopped", "")), "the latest state is always told");
    let limit = started.elapsed().as_secs() as usize + 4;
    assert!(states.len() <= limit, "{} lines in {limit} s: {states:?}", states.len());
    assert!(states.windows(2).all(|two| two[0] != two[1]), "only changes: {states:?}");
}
