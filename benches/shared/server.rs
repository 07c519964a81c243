//! The etcd servers, which have the same flags in every round, and their counters.

use crate::process::cpu;
use crate::support::EtcdProcess;
use etcd_client::Client;
use std::collections::HashMap;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[derive(Clone)]
pub struct Server {
    program: String,
    flags: Vec<String>,
    label: String,
}

impl Server {
    pub fn new(program: String, flags: Vec<String>) -> Self {
        let output = std::process::Command::new(&program).arg("--version").output();
        let output = output.unwrap_or_else(|error| panic!("{program} --version: {error}"));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let version = text.lines().find_map(|line| line.strip_prefix("etcd Version: ")).unwrap_or("?");
        // The private servers of the tests run without fsync if the program allows it.
        let label = format!("etcd {version} --unsafe-no-fsync {}", flags.join(" "));
        Self { label: label.trim().to_owned(), program, flags }
    }

    /// Version and flags.
    pub fn label(&self) -> &str {
        &self.label
    }

    pub async fn fresh(&self) -> Running {
        let mut options = EtcdProcess::options().program(&self.program);
        for flag in &self.flags {
            options = options.flag(flag);
        }
        let process = options.launch().await.expect("a server");
        let client = connect(&process.endpoint()).await;
        Running { process, client }
    }
}

pub async fn connect(endpoint: &str) -> Client {
    Client::connect([endpoint], None).await.expect("a connection")
}

pub struct Running {
    process: EtcdProcess,
    pub client: Client,
}

impl Running {
    pub fn endpoint(&self) -> String {
        self.process.endpoint()
    }

    pub fn pid(&self) -> u32 {
        self.process.pid().expect("it runs")
    }

    /// The counters of what it has done so far.
    pub async fn counters(&self) -> Counters {
        let text = scrape(&self.endpoint()).await;
        let mut sums: HashMap<&str, f64> = HashMap::new();
        let mut ranges = 0.0;
        let mut requests = 0.0;
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let value: f64 = value.parse().unwrap_or(0.0);
            let name = series.split('{').next().unwrap_or(series);
            *sums.entry(name).or_default() += value;
            if name == "grpc_server_handled_total" && series.contains("grpc_type=\"unary\"") {
                requests += value;
                if series.contains("grpc_method=\"Range\"") {
                    ranges += value;
                }
            }
        }
        let sum = |names: [&str; 2]| names.iter().find_map(|name| sums.get(name)).copied().unwrap_or(0.0);
        Counters {
            requests,
            ranges,
            puts: sum(["etcd_debugging_mvcc_put_total", "etcd_mvcc_put_total"]),
            deletes: sum(["etcd_debugging_mvcc_delete_total", "etcd_mvcc_delete_total"]),
            entries: sum(["etcd_server_proposals_applied_total", ""]),
            events: sum(["etcd_debugging_mvcc_events_total", "etcd_mvcc_events_total"]),
            cpu: cpu(self.pid()),
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Counters {
    /// Requests answered, streams not counted.
    pub requests: f64,
    /// Requests that read.
    pub ranges: f64,
    pub puts: f64,
    pub deletes: f64,
    /// Raft entries applied.
    pub entries: f64,
    /// Events sent to watches, those that a filter left out not counted.
    pub events: f64,
    pub cpu: Duration,
}

impl Counters {
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            requests: self.requests - earlier.requests,
            ranges: self.ranges - earlier.ranges,
            puts: self.puts - earlier.puts,
            deletes: self.deletes - earlier.deletes,
            entries: self.entries - earlier.entries,
            events: self.events - earlier.events,
            cpu: self.cpu - earlier.cpu,
        }
    }
}

async fn scrape(endpoint: &str) -> String {
    let mut stream = TcpStream::connect(endpoint).await.expect("a connection");
    let request = format!("GET /metrics HTTP/1.0\r\nHost: {endpoint}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("a request");
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("an answer");
    text
}
