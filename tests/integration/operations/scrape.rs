//! What a scrape shows. It installs the recorder of this process, which can be done once.

use crate::support::{Etcd, eventually, free_port};
use etcd_rules::metrics::METRICS;
use etcd_rules::{Engine, Error, Firing, FiringError, Outcome, Rule, key};
use std::collections::BTreeSet;
use std::time::Duration;
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
    let address = format!("127.0.0.1:{}", free_port().unwrap());
    etcd_rules::install_prometheus(address.parse().unwrap()).unwrap();
    let etcd = Etcd::start().await;
    let rule = Rule::new("job").when(key("/jobs/:id").exists()).run(|firing: Firing| async move {
        if firing.attempt() == 1 && firing.attribute("id")? == "bad" {
            return Err(FiringError::Absent { key: "luck".into() }.into());
        }
        Ok::<Outcome, Error>(firing.commit().delete("/jobs/:id").into())
    });
    let built = Engine::builder("app", [etcd.endpoint()]).name("scraped").rule(rule).build().unwrap();
    let running = built.start().await.unwrap();
    running.ready().await;
    for id in ["a", "b", "bad"] {
        etcd.put(&format!("/jobs/{id}"), "").await;
    }
    eventually(Duration::from_secs(20), "all are done", async || etcd.keys("/jobs/").await.is_empty()).await;
    eventually(Duration::from_secs(20), "the figures are there", async || {
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
