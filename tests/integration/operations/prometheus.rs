//! On the real thing: a Prometheus scrapes engines on a real etcd under work and faults, and every expression of
//! every panel, variable and rule is asked of it.
//!
//! Alerts wait for minutes and look back for hours. Here they have shorter times ([`SHORTER`]), and each of them fires.
//!
//! With `OBSERVE_SECONDS` in the environment Prometheus stays for so long after that, for `dashboards/render.py`.

use super::dashboards::{all, model::RESTARTS};
use super::{alerts::RULES, read};
use crate::support::{Etcd, Proxy, eventually, free_port};
use etcd_client::PutOptions;
use etcd_rules::embedded::{EmbeddedEtcd, Fault, RequestKind};
use etcd_rules::metrics::{Kind, METRICS};
use etcd_rules::{Backoff, Engine, Error, Firing, Outcome, RateLimit, Rule, key};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const SECOND: Duration = Duration::from_secs(1);
/// Of a lock; it is lost when etcd is away for longer.
const TTL: Duration = Duration::from_secs(3);

/// The part of an engine in a process of its own, played by this program when the environment tells it to.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn worker() {
    let Ok(mut endpoint) = std::env::var("OPERATIONS_ENDPOINT") else { return };
    let address = std::env::var("OPERATIONS_ADDRESS").unwrap();
    etcd_rules::install_prometheus(address.parse().unwrap()).unwrap();
    let forgetful = if endpoint.is_empty() { Some(EmbeddedEtcd::start().await.unwrap()) } else { None };
    if let Some(etcd) = &forgetful {
        endpoint = etcd.endpoint();
    }
    let jobs = Rule::new("job")
        .when(key("/jobs/:id").exists())
        .backoff(Backoff::new(Duration::from_millis(200), SECOND))
        .time_limit(Duration::from_millis(500))
        .concurrency(4)
        .run(job);
    let long = Rule::new("long").when(key("/long/:id").exists()).run(|firing: Firing| async move {
        tokio::time::sleep(Duration::from_secs(8)).await;
        Ok::<Outcome, Error>(firing.commit().delete("/long/:id").into())
    });
    let paced =
        Rule::new("paced").when(key("/paced/:id").exists()).rate_limit(RateLimit::new(1, 5 * SECOND)).run(
            |firing: Firing| async move { Ok::<Outcome, Error>(firing.commit().delete("/paced/:id").into()) },
        );
    let fragile = key("/jobs/:id").compare("is fragile", |value| {
        assert_ne!(value, Some(&b"break"[..]), "broken on purpose");
        false
    });
    let noise = Rule::new("noise")
        .when(key("/noise/:id").equals("never"))
        .run(|firing: Firing| async move { Ok::<Outcome, Error>(firing.commit().into()) });
    // Each undoes what the other does.
    let switch = |id: &str, from: &'static str, to: &'static str| {
        let rule =
            Rule::new(id).when(key("/switch/:id").equals(from)).instance_rate(RateLimit::new(1, 5 * SECOND));
        rule.run(move |firing: Firing| async move {
            Ok::<Outcome, Error>(firing.commit().put("/switch/:id", to).into())
        })
    };
    let engine = Engine::builder("shop", [endpoint])
        .owners(true)
        .concurrency(8)
        .lock_ttl(TTL)
        .crawl_interval(3 * SECOND)
        .request_timeout(SECOND)
        .rule(jobs)
        .rule(long)
        .rule(paced)
        .rules([switch("on", "off", "on"), switch("off", "on", "off")])
        .rule(Rule::new("rehearsed").when(key("/jobs/:id").exists()).dry_run().run(job))
        .rule(noise)
        .rule(
            Rule::new("fragile")
                .when(fragile)
                .run(|firing: Firing| async move { Ok::<Outcome, Error>(firing.commit().into()) }),
        );
    let running = engine.build().unwrap().start().await.unwrap();
    running.ready().await;
    running.pause("fragile").await.unwrap();
    if let Some(etcd) = &forgetful {
        forget(etcd).await;
    }
    std::future::pending::<()>().await;
}

/// Drift, which takes a defect of etcd: an event that is never sent. Not at first: until then all is well.
async fn forget(etcd: &EmbeddedEtcd) {
    tokio::time::sleep(20 * SECOND).await;
    let mut client = etcd.client().await.unwrap();
    for n in 0..10 {
        etcd.faults().inject(Fault::on(RequestKind::WatchResponse).lose());
        client.put(format!("/noise/{n}"), "", None).await.unwrap();
        tokio::time::sleep(5 * SECOND).await;
    }
}

/// Does what the id says.
async fn job(firing: Firing) -> Result<Outcome, Box<dyn std::error::Error + Send + Sync>> {
    let id = firing.attribute("id")?.to_owned();
    let first = firing.attempt() <= 1;
    tokio::time::sleep(Duration::from_millis(5)).await;
    match id.split('-').next().unwrap_or_default() {
        "error" if first => return Err("an error on purpose".into()),
        "panic" if first => panic!("a panic on purpose"),
        "slow" if first => tokio::time::sleep(SECOND).await,
        "stuck" if first => std::thread::sleep(6 * SECOND),
        "fails" => return Err("it never works".into()),
        "up" => return Ok(Outcome::give_up("on purpose")),
        "later" => return Ok(Outcome::retry_after(Duration::from_millis(700))),
        "stays" => return Ok(firing.commit().into()),
        "refused" if first => return Ok(firing.commit().put("/huge/:id", vec![b'x'; 2 << 20]).into()),
        _ => {}
    }
    Ok(firing.commit().put_ttl("/done/:id", "", 5 * SECOND).delete("/jobs/:id").into())
}

/// A process that ends with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn engine(endpoint: &str, address: &str) -> Process {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["operations::prometheus::worker", "--exact", "--nocapture"])
        .env("OPERATIONS_ENDPOINT", endpoint)
        .env("OPERATIONS_ADDRESS", address)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    Process(child.unwrap())
}

struct Prometheus {
    address: String,
    began: u64,
    _process: Process,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    fn start(targets: &[String]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = free_address();
        let config = format!(
            "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\nrule_files: [rules.yml]\nscrape_configs:\n  - job_name: shop\n    static_configs: [{{ targets: {targets:?} }}]\n"
        );
        std::fs::write(folder.path().join("rules.yml"), shorter(&read(RULES))).unwrap();
        std::fs::write(folder.path().join("prometheus.yml"), config).unwrap();
        let child = Command::new("prometheus")
            .arg("--config.file=prometheus.yml")
            .arg("--storage.tsdb.path=data")
            .arg(format!("--web.listen-address={address}"))
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.path().join("log")).unwrap())
            .spawn()
            .expect("prometheus is on the PATH (Debian: prometheus)");
        Self { address, began: seconds(), _process: Process(child), _folder: folder }
    }

    /// The data of an answer.
    async fn get(&self, path: &str, parameters: &[(&str, &str)]) -> Result<Value, String> {
        let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let query: Vec<String> =
            parameters.iter().map(|(k, v)| format!("{}={}", encode(k), encode(v))).collect();
        let failed = |error: std::io::Error| error.to_string();
        let mut stream = tokio::net::TcpStream::connect(&self.address).await.map_err(failed)?;
        let request = format!("GET /api/v1/{path}?{} HTTP/1.0\r\n\r\n", query.join("&"));
        stream.write_all(request.as_bytes()).await.map_err(failed)?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.map_err(failed)?;
        let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        let answer: Value = serde_json::from_str(body).map_err(|error| format!("{error}: {text}"))?;
        if answer["status"] == "success" { Ok(answer["data"].clone()) } else { Err(answer.to_string()) }
    }

    /// The series that an expression had since the start, as far as they are numbers.
    async fn series(&self, expression: &str) -> Vec<Value> {
        let (start, end) = (self.began.to_string(), seconds().to_string());
        let range = [("query", expression), ("start", &start), ("end", &end), ("step", "1")];
        let data =
            self.get("query_range", &range).await.unwrap_or_else(|error| panic!("{expression}: {error}"));
        assert_eq!(data["resultType"], "matrix", "{expression}");
        let number =
            |value: &Value| value[1].as_str().is_some_and(|text| text.parse().is_ok_and(f64::is_finite));
        let series = data["result"].as_array().unwrap().iter();
        series.filter(|one| one["values"].as_array().unwrap().iter().any(number)).cloned().collect()
    }
}

#[expect(clippy::disallowed_methods, reason = "Prometheus has the wall clock")]
fn seconds() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

fn free_address() -> String {
    format!("127.0.0.1:{}", free_port().expect("a free port"))
}

/// As Grafana would with everything chosen.
fn filled(expression: &str) -> String {
    let mut text = expression.replace("$__rate_interval", "5s");
    for variable in ["$job", "$instance", "$engine", "$rule"] {
        text = text.replace(variable, ".*");
    }
    text
}

/// What is shorter or smaller here than in the file of rules. Names keep their times.
const SHORTER: [(&str, &str); 15] = [
    ("[5m]", "[5s]"),
    ("[10m]", "[10s]"),
    ("[30m]", "[10s]"),
    ("[1h]", "[10s]"),
    ("[6h]", "[20s]"),
    ("for: 1m\n", "for: 1s\n"),
    ("for: 2m\n", "for: 2s\n"),
    ("for: 5m\n", "for: 2s\n"),
    ("for: 10m\n", "for: 3s\n"),
    ("for: 15m\n", "for: 3s\n"),
    ("for: 30m\n", "for: 3s\n"),
    ("[1h:1m]", "[20s:1s]"),
    // A lag of 10 s, failures for 15 minutes, more than two renewals that failed under one lock TTL after the other.
    ("watch_lag_seconds) > 10\n", "watch_lag_seconds) > 2\n"),
    ("longest_failing_seconds) > 900\n", "longest_failing_seconds) > 9\n"),
    ("result=\"failed\"}[5s])) > 2\n", "result=\"failed\"}[10s])) > 1\n"),
];

/// The rules with [`SHORTER`] times.
fn shorter(rules: &str) -> String {
    SHORTER.iter().fold(rules.to_owned(), |rules, (long, short)| {
        assert!(rules.contains(long), "{long} is not in the rules");
        rules.replace(long, short)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn every_expression_has_data_from_real_engines_with_work_and_faults() {
    let mut etcd = Etcd::start().await;
    let proxy = Proxy::start(etcd.endpoint());
    let targets: Vec<String> = (0..4).map(|_| free_address()).collect();
    // The last one has an etcd of its own, which forgets events.
    let endpoints = [etcd.endpoint(), proxy.endpoint(), proxy.endpoint(), String::new()];
    let engines: Vec<Process> = endpoints.iter().zip(&targets).map(|(e, t)| engine(e, t)).collect();
    let prometheus = Prometheus::start(&targets);
    eventually(30 * SECOND, "all engines are ready", async || {
        let query = [("query", r#"sum(etcd_rules_health{state="ready"})"#)];
        let ready = prometheus.get("query", &query).await;
        ready.is_ok_and(|data| data["result"][0]["value"][1] == "4")
    })
    .await;
    // What fired while they started is over.
    tokio::time::sleep(4 * SECOND).await;
    let quiet = prometheus.get("query", &[("query", r#"ALERTS{alertstate="firing"}"#)]).await.unwrap();
    assert_eq!(quiet["result"], serde_json::json!([]), "nothing is wrong yet");
    work_and_faults(&mut etcd, &proxy).await;

    let mut wrong = Vec::new();
    for (file, dashboard) in all() {
        for panel in dashboard.panels() {
            for target in &panel.targets {
                let found = prometheus.series(&filled(&target.expression)).await;
                for label in target.legend.split("{{").skip(1).filter_map(|rest| rest.split("}}").next()) {
                    if found.iter().any(|one| one["metric"][label].is_null()) {
                        wrong.push(format!("{file}: {}: a series has no {label}", panel.title));
                    }
                }
                if found.is_empty() {
                    wrong.push(format!("{file}: {}: no data: {}", panel.title, target.expression));
                }
            }
        }
        for (name, query) in dashboard.variables() {
            let inner = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')')).unwrap();
            let (selector, label) = inner.rsplit_once(", ").unwrap();
            let selector = filled(selector);
            let values =
                prometheus.get(&format!("label/{label}/values"), &[("match[]", &selector)]).await.unwrap();
            if values.as_array().is_none_or(Vec::is_empty) {
                wrong.push(format!("{file}: the variable {name} has no values"));
            }
        }
    }
    for metric in METRICS {
        let suffix = if metric.kind == Kind::Histogram { "_count" } else { "" };
        if prometheus.series(&format!("{}{suffix} > 0", metric.name)).await.is_empty() {
            wrong.push(format!("{} never moved", metric.name));
        }
    }
    if prometheus.series(&filled(RESTARTS)).await.is_empty() {
        wrong.push("the annotation of restarts has no data".into());
    }
    wrong.extend(wrong_rules(&prometheus).await);
    if let Ok(seconds) = std::env::var("OBSERVE_SECONDS") {
        println!("http://{}", prometheus.address);
        tokio::time::sleep(Duration::from_secs(seconds.parse().unwrap())).await;
    }
    drop(engines);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Every rule evaluates, the recording rules have data, and the alerts have fired.
async fn wrong_rules(prometheus: &Prometheus) -> Vec<String> {
    let mut wrong = Vec::new();
    let groups = prometheus.get("rules", &[]).await.unwrap();
    let rules =
        groups["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap());
    let rules: Vec<&Value> = rules.collect();
    assert!(rules.len() > 15, "{rules:?}");
    for rule in rules {
        let name = rule["name"].as_str().unwrap();
        if rule["health"] != "ok" {
            wrong.push(format!("{name}: {rule}"));
        }
        if prometheus.series(rule["query"].as_str().unwrap()).await.is_empty() {
            wrong.push(format!("{name} has no data"));
        }
        let fired = format!(r#"ALERTS{{alertname="{name}",alertstate="firing"}}"#);
        if rule["type"] == "alerting" && prometheus.series(&fired).await.is_empty() {
            wrong.push(format!("{name} has not fired"));
        }
    }
    wrong
}

async fn work_and_faults(etcd: &mut Etcd, proxy: &Proxy) {
    for id in ["up", "fails", "later", "stays"] {
        etcd.put(&format!("/jobs/{id}-0"), "").await;
    }
    for turn in 0..70 {
        for n in 0..4 {
            etcd.put(&format!("/jobs/ok-{turn}-{n}"), "").await;
        }
        let id = ["error", "panic", "slow", "ok"][turn % 4];
        etcd.put(&format!("/jobs/{id}-{turn}"), "").await;
        match turn {
            5 => {
                etcd.put("/jobs/stuck-0", "").await;
                etcd.put("/jobs/stuck-1", "").await;
                etcd.put("/jobs/refused-0", "").await;
                etcd.put("/jobs/broken-0", "break").await;
                for n in 0..6 {
                    etcd.put(&format!("/paced/{n}"), "").await;
                }
            }
            8 => {
                for n in 0..30 {
                    etcd.put(&format!("/switch/{n}"), "off").await;
                }
            }
            // A member whose rules are others, one that only seems to be there and does nothing, and one that is
            // behind.
            12 => {
                let members = "/etcd-rules/shop/members/1/";
                let able = etcd.keys(members).await.into_iter().find(|key| key.ends_with("/able"));
                let able = etcd.get(&able.expect("there are members")).await.expect("it says what it can do");
                etcd.put(&format!("{members}0000000000000001/able"), able.clone()).await;
                etcd.put(&format!("{members}0000000000000003/able"), able).await;
                let load = r#"{"class":"behind","view":"","backlog":{"job":1}}"#;
                etcd.put(&format!("{members}0000000000000003/load"), load).await;
                let other = r#"{"engine":"other","version":"0","rules":{}}"#;
                etcd.put(&format!("{members}0000000000000002/able"), other).await;
            }
            15 => {
                // A lock that nobody works under, under each engine's lease.
                for lease in etcd.leases().await {
                    let key = format!("/etcd-rules/shop/lock/nobody-{lease}");
                    let options = PutOptions::new().with_lease(lease);
                    // The lease of a key may just have ended.
                    let _ = etcd.client().await.put(key, "{}", Some(options)).await;
                }
            }
            // Work that outlasts its lock, and a burst that waits for slots.
            25 => {
                for n in 0..60 {
                    etcd.put(&format!("/long/{n}"), "").await;
                    etcd.put(&format!("/jobs/slow-burst-{n}"), "").await;
                }
            }
            // Crawls get no answer; then the streams break, too.
            26 => proxy.freeze(),
            46 => proxy.cut(),
            // What the cut engines need is compacted when they come back.
            54 => {
                let revision = etcd.revision().await;
                etcd.compact(revision).await;
                proxy.heal();
            }
            _ => {}
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    // History that takes etcd seconds to send.
    proxy.cut();
    etcd.flood("/noise/1", 40_000).await;
    proxy.heal();
    tokio::time::sleep(6 * SECOND).await;
    // One that seemed to be there is so no more.
    etcd.delete("/etcd-rules/shop/members/1/0000000000000002/able").await;
    tokio::time::sleep(9 * SECOND).await;
    // An older state of the store: the engines start anew.
    let saved = etcd.save();
    for n in 0..200 {
        etcd.put(&format!("/jobs/ok-late-{n}"), "").await;
    }
    tokio::time::sleep(SECOND).await;
    etcd.restore(&saved).await;
    tokio::time::sleep(8 * SECOND).await;
}
