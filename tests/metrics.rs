//! What a scrape shows, and that the dashboard asks for nothing that does not exist.

mod support;

use etcd_rules::metrics::METRICS;
use etcd_rules::{Engine, Error, Firing, Outcome, Rule, key};
use std::collections::BTreeSet;
use std::time::Duration;
use support::{Etcd, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn scrape(address: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrape_shows_what_happened() {
    let address = format!("127.0.0.1:{}", portpicker::pick_unused_port().unwrap());
    etcd_rules::install_prometheus(address.parse().unwrap()).unwrap();
    let etcd = Etcd::start().await;
    let rule = Rule::new("job").when(key("/jobs/:id").exists()).run(|firing: Firing| async move {
        if firing.attempt() == 1 && firing.attribute("id")? == "bad" {
            return Err(Error::Absent { key: "luck".into() });
        }
        Ok::<Outcome, Error>(firing.commit().delete("/jobs/:id").into())
    });
    let built = Engine::builder("app", [etcd.endpoint()]).name("scraped").rule(rule).build().unwrap();
    let running = built.start().await.unwrap();
    running.ready().await;
    for id in ["a", "b", "bad"] {
        etcd.put(&format!("/jobs/{id}"), "").await;
    }
    eventually(Duration::from_secs(5), "all are done", async || etcd.keys("/jobs/").await.is_empty()).await;
    eventually(Duration::from_secs(5), "the figures are there", async || {
        let text = scrape(&address).await;
        [
            r#"etcd_rules_callbacks_total{engine="scraped",rule="job",outcome="done"} 3"#,
            r#"etcd_rules_callbacks_total{engine="scraped",rule="job",outcome="error"} 1"#,
            r#"etcd_rules_commits_total{engine="scraped",rule="job",result="committed"} 4"#,
            r#"etcd_rules_lock_attempts_total{engine="scraped",rule="job",result="won"} 4"#,
            r#"etcd_rules_trigger_latency_seconds_count{engine="scraped",rule="job"} 4"#,
            r#"etcd_rules_health{engine="scraped",state="ready"} 1"#,
            r#"etcd_rules_mirror_keys{engine="scraped"} 0"#,
            "# HELP etcd_rules_callbacks_total",
        ]
        .iter()
        .all(|line| text.contains(line))
    })
    .await;
    let known: BTreeSet<&str> = METRICS.iter().map(|metric| metric.name).collect();
    for line in scrape(&address).await.lines().filter(|line| line.starts_with("# TYPE etcd_rules_")) {
        let name = line.split(' ').nth(2).unwrap();
        assert!(known.contains(name), "{name} is not in the table");
    }
    running.shutdown(Duration::from_secs(5)).await.unwrap();
}

#[test]
fn the_dashboard_asks_for_metrics_and_labels_that_exist() {
    let text = include_str!("../dashboards/overview.json");
    let dashboard: serde_json::Value = serde_json::from_str(text).unwrap();
    let mut asked = 0;
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(panel["description"].as_str().is_some_and(|text| !text.is_empty()), "{}", panel["title"]);
        for target in panel["targets"].as_array().unwrap() {
            let expression = target["expr"].as_str().unwrap();
            for (at, _) in expression.match_indices("etcd_rules_") {
                let name: String =
                    expression[at..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
                let base = name.strip_suffix("_bucket").unwrap_or(&name);
                let metric = METRICS.iter().find(|metric| metric.name == base);
                let metric = metric.unwrap_or_else(|| panic!("{name} does not exist"));
                let selector = &expression[at + name.len()..];
                let selector = &selector[..selector.find('}').unwrap_or(0)];
                for label in ["engine", "rule", "state", "outcome", "result"] {
                    let used = selector.contains(&format!("{label}="));
                    assert!(!used || metric.labels.contains(&label), "{name} has no label {label}");
                }
                asked += 1;
            }
        }
    }
    assert!(asked >= 15, "{asked}");
}
