//! The HTTP endpoint as probes, scrapers and people meet it, on engines on a real etcd.

use crate::support::{Etcd, Proxy, eventually};
use etcd_client::{PutOptions, Txn, TxnOp};
use etcd_rules::http::Endpoint;
use etcd_rules::{
    Backoff, Engine, EngineBuilder, EngineError, Error, Firing, Outcome, RateLimit, Reveal, Rule,
    RunningEngine, key,
};
use serde_json::Value as Json;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

const SECOND: Duration = Duration::from_secs(1);

/// Names that somebody with bad intentions may choose.
const HOSTILE: &str = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&amp;";

fn listen() -> Endpoint {
    Endpoint::builder().address(SocketAddr::from(([127, 0, 0, 1], 0))).listen().unwrap()
}

/// Sends a request head; returns the status, the head of the answer and its body.
async fn request(address: SocketAddr, head: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("{head}\r\n\r\n").as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_ascii_lowercase(), body.to_owned())
}

async fn get(endpoint: &Endpoint, path: &str) -> (u16, String) {
    let address = endpoint.address();
    let (status, _, body) = request(address, &format!("GET {path} HTTP/1.1\r\nHost: {address}")).await;
    (status, body)
}

async fn json(endpoint: &Endpoint, path: &str) -> Json {
    let (status, body) = get(endpoint, path).await;
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap()
}

/// Percent-encodes everything, as a form may.
fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

async fn start(builder: EngineBuilder) -> RunningEngine {
    let running = builder.build().unwrap().start().await.unwrap();
    running.ready().await;
    running
}

/// Fails for jobs with this value, and is held for others.
fn job() -> Rule {
    Rule::new("job").when(key("/jobs/:id").exists()).run(|firing: Firing| async move {
        let value = firing
            .value_opt("/jobs/:id")?
            .map(|value| value.to_string_lossy().into_owned())
            .unwrap_or_default();
        match value.as_str() {
            "done" => Ok::<Outcome, etcd_rules::BoxError>(firing.commit().delete("/jobs/:id").into()),
            "later" => Ok(Outcome::retry_after(3600 * SECOND)),
            other => Err(format!("{} can't be {other}", firing.attribute("id")?).into()),
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_follow_the_health_of_all_engines() {
    let endpoint = listen();
    assert_eq!(get(&endpoint, "/livez").await, (200, "ok".into()), "nothing has failed");
    let (status, text) = get(&endpoint, "/readyz").await;
    assert!(status == 503 && text.contains("no engine is running yet"), "{text}");

    let etcd = Etcd::start().await;
    let proxy = Proxy::start(etcd.endpoint());
    let builder =
        |name: &str, at: String| Engine::builder("app", [at]).name(name).rule(job()).endpoint(&endpoint);
    let one = start(builder("one", etcd.endpoint())).await;
    let two = start(builder("two", proxy.endpoint()).lock_ttl(60 * SECOND)).await;
    assert_eq!(get(&endpoint, "/readyz").await, (200, "ok".into()));
    proxy.cut();
    eventually(20 * SECOND, "not ready", async || get(&endpoint, "/readyz").await.0 == 503).await;
    let (_, text) = get(&endpoint, "/readyz").await;
    assert!(
        text.contains("[-]two/disconnected failed: ") && text.contains("[+]one/disconnected ok"),
        "{text}"
    );
    assert_eq!(get(&endpoint, "/livez").await.0, 200, "a restart would not help");
    assert_eq!(get(&endpoint, "/readyz?exclude=two/disconnected").await.0, 200);
    assert_eq!(get(&endpoint, "/readyz?exclude=one/disconnected").await.0, 503);
    proxy.heal();
    eventually(20 * SECOND, "ready again", async || get(&endpoint, "/readyz").await.0 == 200).await;
    let (status, text) = get(&endpoint, "/livez?verbose").await;
    assert_eq!((status, text.as_str()), (200, "[+]one/live ok\n[+]two/live ok\nlivez check passed\n"));
    two.shutdown(SECOND).await.unwrap();
    assert!(!get(&endpoint, "/readyz?verbose").await.1.contains("two/"), "it is shown no more");
    one.shutdown(SECOND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_was_shut_down_is_shown_no_more() {
    let endpoint = listen();
    let etcd = Etcd::start().await;
    let running = start(Engine::builder("app", [etcd.endpoint()]).rule(job()).endpoint(&endpoint)).await;
    assert!(get(&endpoint, "/readyz?verbose").await.1.contains("app/started"));
    running.shutdown(SECOND).await.unwrap();
    assert_eq!(get(&endpoint, "/livez").await, (200, "ok".into()));
    assert_eq!(get(&endpoint, "/readyz").await.0, 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_with_the_last_engine_and_the_last_clone() {
    let etcd = Etcd::start().await;
    let endpoint = listen();
    let address = endpoint.address();
    let running = start(Engine::builder("app", [etcd.endpoint()]).rule(job()).endpoint(&endpoint)).await;
    drop(endpoint);
    assert_eq!(request(address, "GET /livez HTTP/1.0").await.0, 200, "the engine holds it");
    running.shutdown(SECOND).await.unwrap();
    eventually(20 * SECOND, "nobody listens", async || TcpStream::connect(address).await.is_err()).await;
    let other = listen();
    let clone = other.clone();
    drop(other);
    assert_eq!(get(&clone, "/livez").await.0, 200, "a clone holds it");
    let address = clone.address();
    drop(clone);
    eventually(20 * SECOND, "nobody listens", async || TcpStream::connect(address).await.is_err()).await;
}

/// The application's only thread is blocked, and probes are answered.
#[test]
fn it_answers_while_the_applications_runtime_is_blocked() {
    let etcd_runtime = tokio::runtime::Runtime::new().unwrap();
    let etcd = etcd_runtime.block_on(Etcd::start());
    let blocked = Arc::new(AtomicBool::new(false));
    let blocks = blocked.clone();
    let rule = Rule::new("block").when(key("/block/:id").exists()).run(move |firing: Firing| {
        blocks.store(true, Ordering::SeqCst);
        std::thread::sleep(6 * SECOND);
        async move { Ok::<Outcome, Error>(firing.commit().delete("/block/:id").into()) }
    });
    let endpoint = listen();
    let single = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let running =
        single.block_on(start(Engine::builder("app", [etcd.endpoint()]).rule(rule).endpoint(&endpoint)));
    etcd_runtime.block_on(etcd.put("/block/1", ""));
    let etcd = Arc::new(etcd);
    let etcd_is_held = etcd.clone();
    let other = std::thread::spawn(move || {
        single.block_on(async {
            eventually(20 * SECOND, "it is done", async || etcd.get("/block/1").await.is_none()).await;
            running.shutdown(SECOND).await.unwrap();
        });
    });
    etcd_runtime.block_on(async {
        eventually(20 * SECOND, "it blocks", async || blocked.load(Ordering::SeqCst)).await;
        assert_eq!(get(&endpoint, "/livez").await.0, 200);
        let rules = json(&endpoint, "/api/engines").await;
        assert_eq!(rules[0]["rules"][0]["counts"]["running"], 1);
        assert!(etcd_is_held.get("/block/1").await.is_some(), "it answered only after the block");
    });
    other.join().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn it_tells_rules_and_instances_as_far_as_they_are_revealed() {
    let etcd = Etcd::start().await;
    for (reveal, tells_keys, tells_values) in
        [(Reveal::Nothing, false, false), (Reveal::Keys, true, false), (Reveal::Values, true, true)]
    {
        let endpoint = listen();
        etcd.put("/jobs/ident-a", "secret-a").await;
        etcd.put("/jobs/ident-b", "later").await;
        let builder =
            Engine::builder("app", [etcd.endpoint()]).rule(job()).reveal(reveal).endpoint(&endpoint);
        let running = start(builder).await;
        let counts = async || json(&endpoint, "/api/engines").await[0]["rules"][0]["counts"].clone();
        eventually(20 * SECOND, "both wait", async || counts().await["waiting"] == 2).await;
        let engines = json(&endpoint, "/api/engines").await;
        assert_eq!((&engines[0]["name"], &engines[0]["health"]["state"]), (&"app".into(), &"ready".into()));
        assert_eq!(engines[0]["rules"][0]["condition"], "/jobs/:id exists");

        let page = json(&endpoint, "/api/instances?state=waiting&rule=job").await;
        let instances = page["instances"].as_array().unwrap();
        assert_eq!((instances.len(), &page["next"]), (2, &Json::Null));
        let failed = instances.iter().find(|one| one["failures"].as_u64().unwrap() > 0).unwrap();
        let later = instances.iter().find(|one| one["failures"] == 0).unwrap();
        assert_eq!((&failed["state"]["kind"], &failed["rule"]), (&"waiting".into(), &"job".into()));
        assert_eq!(failed["state"]["detail"]["reason"], "backoff");
        assert_eq!(later["state"]["detail"]["reason"], "retry_after");
        assert!(later["state"]["detail"]["remaining_seconds"].as_f64().unwrap() > 3500.0, "{later}");
        let expected = match reveal {
            Reveal::Nothing => "… can't be …",
            Reveal::Keys => "ident-a can't be …",
            _ => "ident-a can't be secret-a",
        };
        assert_eq!(failed["last_error"], expected);
        assert_eq!(page["reveal"] == "nothing", !tells_keys);

        let explain = get(&endpoint, "/api/explain?rule=job&attr.id=ident-a").await;
        assert_eq!(explain.0, if tells_keys { 200 } else { 403 }, "{}", explain.1);
        let by_attribute = get(&endpoint, "/api/instances?attr.id=ident-a").await;
        assert_eq!(by_attribute.0, if tells_keys { 200 } else { 403 }, "{}", by_attribute.1);
        if tells_keys {
            let found: Json = serde_json::from_str(&by_attribute.1).unwrap();
            assert_eq!(found["instances"].as_array().unwrap().len(), 1);
            let found: Json = serde_json::from_str(&explain.1).unwrap();
            let seen = &found["condition"]["seen"][0];
            assert_eq!(&seen["key"], "/jobs/ident-a");
            assert_eq!(seen["value"] == "… (8 bytes)", !tells_values);
        }
        let mut all = String::new();
        for path in [
            "/",
            "/instances",
            "/instances?state=waiting",
            "/api/engines",
            "/api/instances",
            "/readyz?verbose",
        ] {
            all += &get(&endpoint, path).await.1;
        }
        assert_eq!(all.contains("ident-"), tells_keys, "{reveal:?}: {all}");
        let explained = get(&endpoint, "/explain?rule=job&attr.id=ident-a").await.1;
        assert_eq!(explained.contains("<code class=\"value\">secret-a</code>"), tells_values, "{explained}");
        assert_eq!(all.contains("secret-"), tells_values, "{reveal:?}: {all}");
        running.shutdown(SECOND).await.unwrap();
    }
}

/// The tags of a rule on the page, with the JSON of the same rule.
async fn tags(endpoint: &Endpoint) -> (Vec<String>, Json) {
    let (status, page) = get(endpoint, "/").await;
    assert_eq!(status, 200, "{page}");
    let tags = page.split("class=\"note\"").skip(1).filter_map(|rest| {
        let text = rest.split_once('>')?.1.split('<').next()?;
        Some(text.to_owned())
    });
    let engines = json(endpoint, "/api/engines").await;
    (tags.collect(), engines[0]["rules"][0].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_holds_a_rule_back_is_shown() {
    let etcd = Etcd::start().await;
    let endpoint = listen();
    let builder = Engine::builder("test", [etcd.endpoint()]).rule(job()).endpoint(&endpoint);
    let running = start(builder).await;
    let (free, rule) = tags(&endpoint).await;
    assert_eq!(free, Vec::<String>::new());
    assert_eq!((&rule["paused"], &rule["dry_run"]), (&Json::Bool(false), &Json::Bool(false)), "{rule}");
    assert!(rule["rate_limit"].is_null() && rule["min_interval_seconds"].is_null(), "{rule}");

    running.begin_dry_run("job").await.unwrap();
    etcd.put("/jobs/1", "").await;
    eventually(20 * SECOND, "it would fire", async || running.stats().await.unwrap().would_fire == 1).await;
    let rows = json(&endpoint, "/api/instances?state=would_fire").await;
    assert_eq!(rows["instances"][0]["state"]["kind"], "would_fire", "{rows}");
    running.pause("job").await.unwrap();
    running.set_rate_limit("job", Some(RateLimit::new(10, 60 * SECOND))).await.unwrap();
    running.set_min_interval("job", Some(90 * SECOND)).await.unwrap();
    let (held, rule) = tags(&endpoint).await;
    assert_eq!(held, ["paused", "dry run", "interval 1 min 30 s", "limit 10 in 60s"]);
    assert_eq!((&rule["paused"], &rule["dry_run"]), (&Json::Bool(true), &Json::Bool(true)), "{rule}");
    assert_eq!((rule["would_have_fired"].as_u64(), rule["fired"].as_u64()), (Some(1), Some(0)), "{rule}");
    assert_eq!(rule["counts"]["would_fire"], 1, "{rule}");
    let limit = &rule["rate_limit"];
    assert_eq!((limit["count"].as_u64(), limit["per_seconds"].as_f64()), (Some(10), Some(60.0)), "{rule}");
    assert_eq!(rule["min_interval_seconds"].as_f64(), Some(90.0), "{rule}");
    running.shutdown(SECOND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn it_shows_what_another_engine_holds() {
    let etcd = Etcd::start().await;
    let slow = || {
        Rule::new("slow").when(key("/slow/:id").exists()).run(|firing: Firing| async move {
            firing.cancelled().await;
            Ok::<Outcome, Error>(Outcome::done())
        })
    };
    let endpoint = listen();
    let builder = |name: &str| {
        Engine::builder("app", [etcd.endpoint()])
            .name(name)
            .rule(slow())
            .reveal(Reveal::Keys)
            .endpoint(&endpoint)
    };
    let (one, two) = (start(builder("one")).await, start(builder("two")).await);
    etcd.put("/slow/1", "").await;
    let held = async |engine: &str| {
        let page = json(&endpoint, &format!("/api/instances?state=held&engine={engine}")).await;
        page["instances"].as_array().unwrap().first().cloned()
    };
    eventually(20 * SECOND, "one of them holds it", async || {
        held("one").await.is_some() || held("two").await.is_some()
    })
    .await;
    let (holder, instance) = match held("one").await {
        Some(instance) => ("two", instance),
        None => ("one", held("two").await.unwrap()),
    };
    assert_eq!(
        (&instance["state"]["detail"]["engine"], &instance["state"]["kind"]),
        (&holder.into(), &"locked".into())
    );
    let other = if holder == "one" { "two" } else { "one" };
    let page = get(&endpoint, &format!("/instances?state=held&engine={other}")).await.1;
    assert!(page.contains(&format!("locked by another engine: <b>{holder}</b>")), "{page}");
    one.shutdown(Duration::ZERO).await.unwrap();
    two.shutdown(Duration::ZERO).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn only_reading_is_possible_and_only_as_it_should() {
    let metrics = || "a_metric 1\n".to_owned();
    let endpoint =
        Endpoint::builder().address(SocketAddr::from(([127, 0, 0, 1], 0))).metrics(metrics).listen().unwrap();
    let address = endpoint.address();
    for (head, status) in [
        (format!("POST /livez HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0"), 405),
        (format!("DELETE /instances HTTP/1.1\r\nHost: {address}"), 405),
        (format!("HEAD /livez HTTP/1.1\r\nHost: {address}"), 200),
        (format!("GET /nothing HTTP/1.1\r\nHost: {address}"), 404),
        (format!("GET /../../etc/passwd HTTP/1.1\r\nHost: {address}"), 404),
        ("GET /livez HTTP/1.1\r\nHost: localhost".to_owned(), 200),
        ("GET /livez HTTP/1.0".to_owned(), 200),
        // A page of this name could be made to mean this machine.
        ("GET / HTTP/1.1\r\nHost: evil.example".to_owned(), 421),
        (format!("GET /instances HTTP/1.1\r\nHost: {address}"), 404),
        (format!("GET /{} HTTP/1.1\r\nHost: {address}", "a".repeat(32 << 10)), 431),
        ("nonsense".to_owned(), 400),
    ] {
        let (found, _, _) = request(address, &head).await;
        assert_eq!(found, status, "{}", &head[..head.len().min(80)]);
    }
    let (_, head, body) = request(address, &format!("GET /metrics HTTP/1.1\r\nHost: {address}")).await;
    assert!(head.contains("content-type: text/plain; version=0.0.4") && body == "a_metric 1\n", "{head}");
    let (_, head, _) = request(address, &format!("GET / HTTP/1.1\r\nHost: {address}")).await;
    for expected in
        ["content-security-policy: default-src 'none'", "x-content-type-options: nosniff", "no-store"]
    {
        assert!(head.contains(expected), "{head}");
    }
    assert_eq!(get(&listen(), "/metrics").await.0, 404, "it was given none");
}

#[tokio::test(flavor = "multi_thread")]
async fn on_an_address_that_others_reach_pages_are_served_only_if_told() {
    let open = SocketAddr::from(([0, 0, 0, 0], 0));
    for (builder, status) in [
        (Endpoint::builder().address(open), 404),
        (Endpoint::builder().address(open).page(true), 200),
        (Endpoint::builder().address(SocketAddr::from(([127, 0, 0, 1], 0))).page(false), 404),
    ] {
        let endpoint = builder.listen().unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], endpoint.address().port()));
        for path in ["/", "/api/engines", "/style.css"] {
            assert_eq!(request(address, &format!("GET {path} HTTP/1.0")).await.0, status, "{path}");
        }
        assert_eq!(request(address, "GET /livez HTTP/1.0").await.0, 200);
    }
    let taken = listen();
    let again = Endpoint::builder().address(taken.address()).listen();
    let Err(EngineError::Setup { what, source }) = again else { panic!("{again:?}") };
    assert_eq!(what, format!("the HTTP endpoint on {}", taken.address()));
    let source = source.downcast_ref::<std::io::Error>().unwrap();
    assert_eq!(source.kind(), std::io::ErrorKind::AddrInUse);
}

/// Clients that connect and say nothing, or half a request, keep nobody else from an answer.
#[tokio::test(flavor = "multi_thread")]
async fn silent_clients_do_not_keep_others_out() {
    let endpoint = listen();
    let mut silent = Vec::new();
    for _ in 0..80 {
        let mut stream = TcpStream::connect(endpoint.address()).await.unwrap();
        stream.write_all(b"GET /livez HT").await.unwrap();
        silent.push(stream);
    }
    let answered = timeout(60 * SECOND, get(&endpoint, "/livez")).await.expect("an answer");
    assert_eq!(answered.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_shown_is_escaped() {
    let etcd = Etcd::start().await;
    let endpoint = listen();
    let hostile = Rule::new(HOSTILE).when(key("/jobs/:id").exists()).run(|firing: Firing| async move {
        Err::<Outcome, etcd_rules::BoxError>(firing.value("/jobs/:id")?.to_string_lossy().into())
    });
    etcd.put(&format!("/jobs/{}", HOSTILE.replace('/', "|")), HOSTILE).await;
    let builder = Engine::builder("app", [etcd.endpoint()]).name(HOSTILE).rule(hostile);
    let running = start(builder.reveal(Reveal::Values).endpoint(&endpoint)).await;
    let waiting = async || json(&endpoint, "/api/instances?state=waiting").await["instances"][0].clone();
    eventually(20 * SECOND, "it has failed", async || waiting().await["last_error"] == HOSTILE).await;
    let rule = encoded(HOSTILE);
    let id = encoded(&HOSTILE.replace('/', "|"));
    for (path, status) in [
        ("/".to_owned(), 200),
        (format!("/?rule={rule}"), 200),
        ("/instances".to_owned(), 200),
        (format!("/instances?rule={rule}&attr.id={id}"), 200),
        (format!("/explain?rule={rule}&attr.id={id}"), 200),
        (format!("/instances?rule={rule}{rule}"), 404),
        (format!("/instances?engine={rule}{rule}"), 404),
        (format!("/explain?rule={rule}&attr.{rule}={rule}"), 400),
    ] {
        let (found, body) = get(&endpoint, &path).await;
        assert_eq!(found, status, "{path}: {body}");
        assert!(body.contains("&lt;script&gt;") || path.contains("attr.%"), "{path}: {body}");
        for raw in ["<script", "<img", "\"'>", "onerror=alert(2)>"] {
            assert!(!body.contains(raw), "{path}: {raw} in {body}");
        }
    }
    running.shutdown(SECOND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_instances_are_paged_and_filtered_quickly() {
    const JOBS: usize = 100_000;
    let etcd = Etcd::start().await;
    let mut client = etcd.client().await;
    for chunk in 0..JOBS / 100 {
        let puts: Vec<TxnOp> = (0..100)
            .map(|n| TxnOp::put(format!("/jobs/{:06}", chunk * 100 + n), "idle", None::<PutOptions>))
            .collect();
        client.txn(Txn::new().and_then(puts)).await.unwrap();
    }
    let endpoint = listen();
    let rule = Rule::new("job")
        .when(key("/jobs/:id").equals("failing"))
        .backoff(Backoff::new(3600 * SECOND, 3600 * SECOND))
        .run(|_: Firing| async { Err::<Outcome, _>("always") });
    let builder =
        Engine::builder("app", [etcd.endpoint()]).rule(rule).reveal(Reveal::Keys).endpoint(&endpoint);
    let running = start(builder).await;
    // The last ones to be found.
    for n in [500, 77_777, 99_999] {
        etcd.put(&format!("/jobs/{n:06}"), "failing").await;
    }
    let counts = async || json(&endpoint, "/api/engines").await[0]["rules"][0]["counts"].clone();
    eventually(120 * SECOND, "three wait", async || {
        let counts = counts().await;
        counts["waiting"] == 3 && counts["untrue"] == JOBS - 3
    })
    .await;
    let started = Instant::now();
    let mut slowest = Duration::ZERO;
    let mut timed = async |path: &str| {
        let asked = Instant::now();
        let found = get(&endpoint, path).await;
        slowest = slowest.max(asked.elapsed());
        assert_eq!(found.0, 200, "{path}");
        found.1
    };
    assert!(timed("/").await.contains("99\u{202f}997"));
    let first = timed("/instances").await;
    assert_eq!(first.matches("<tr>").count(), 101, "a head and a hundred instances");
    assert!(first.len() < 100_000, "{} bytes", first.len());
    assert_eq!(timed("/instances?state=waiting").await.matches("/explain?").count(), 3);
    assert_eq!(timed("/instances?rule=job&attr.id=099999").await.matches("/explain?").count(), 1);
    println!("4 pages of {JOBS} instances: {:?}, the slowest {slowest:?}", started.elapsed());
    assert!(slowest < 20 * SECOND, "{slowest:?}");
    // Every instance is on exactly one page.
    let (mut seen, mut after) = (std::collections::HashSet::new(), String::new());
    loop {
        let page = json(&endpoint, &format!("/api/instances?limit=1000{after}")).await;
        for instance in page["instances"].as_array().unwrap() {
            assert!(seen.insert(instance["attributes"]["id"].as_str().unwrap().to_owned()), "{instance}");
        }
        let Some(next) = page["next"].as_u64() else { break };
        after = format!("&after={next}");
    }
    assert_eq!(seen.len(), JOBS);
    running.shutdown(SECOND).await.unwrap();
}
