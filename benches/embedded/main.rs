//! Measures the embedded etcd beside the etcd in the PATH, each in a process of its own, in the same run: puts,
//! transactions, and one change that 1,000 watches are told.
//!
//! `cargo bench -p benches --bench embedded [-- FILTER] [--json FILE]`. `floor` is etcd.

#[path = "../shared/report.rs"]
mod report;
#[path = "../../tests/support/etcd.rs"]
mod support;

use etcd_client::{Client, Compare, CompareOp, Txn, TxnOp, WatchOptions};
use etcd_rules::embedded::EmbeddedEtcd;
use futures_util::future::join_all;
use report::Row;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use support::EtcdProcess;
use tokio::time::Instant;

/// The argument with which this program is the server.
const SERVE: &str = "--serve";
const ROUNDS: usize = 3;
const ROUND: Duration = Duration::from_secs(3);
const CONNECTIONS: usize = 4;
/// Requests that each connection has under way.
const DEPTH: usize = 16;
const WATCHES: usize = 1_000;
/// Changes that all watches are told in a round.
const CHANGES: usize = 50;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    if std::env::args().any(|argument| argument == SERVE) {
        return runtime.block_on(async {
            let etcd = EmbeddedEtcd::start().await.expect("a free port");
            println!("{}", etcd.endpoint());
            std::future::pending::<()>().await;
        });
    }
    let Some((filter, json)) = report::arguments() else { return };
    let wanted = |name: &str| filter.is_empty() || filter.iter().any(|part| name.contains(part.as_str()));
    let rows = runtime.block_on(async {
        let mut rows = Vec::new();
        for (name, goal) in [
            ("embedded: puts", ">=1"),
            ("embedded: transactions", ">=1"),
            ("embedded: fan-out to 1000", ">=1"),
        ] {
            if !wanted(name) {
                continue;
            }
            let (mut ours, mut floor) = (Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                let served = Served::start();
                ours.push(measure(name, &served.endpoint).await);
                drop(served);
                let etcd =
                    EtcdProcess::options().program("etcd").launch().await.expect("an etcd in the PATH");
                floor.push(measure(name, &etcd.endpoint()).await);
            }
            rows.push(Row::new(name, "1/s", "etcd in the PATH", &ours).floor(&floor).goal(goal));
        }
        rows
    });
    report::print_head("the embedded etcd, beside etcd");
    rows.iter().for_each(Row::print);
    if let Some(json) = json {
        report::add(&json, &rows);
    }
}

/// The embedded etcd in a process of its own.
struct Served {
    child: Child,
    endpoint: String,
}

impl Served {
    fn start() -> Self {
        let program = std::env::current_exe().expect("a path");
        let mut child = Command::new(program).arg(SERVE).stdout(Stdio::piped()).spawn().expect("it starts");
        let mut line = String::new();
        let output = child.stdout.take().expect("it is piped");
        BufReader::new(output).read_line(&mut line).expect("its address");
        Self { child, endpoint: line.trim().to_owned() }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn connect(endpoint: &str) -> Client {
    Client::connect([endpoint], None).await.expect("a connection")
}

async fn measure(name: &str, endpoint: &str) -> f64 {
    match name {
        "embedded: puts" => {
            requests(endpoint, async |client, key| {
                client.put(key, vec![b'x'; 100], None).await.expect("an answer");
            })
            .await
        }
        "embedded: transactions" => {
            requests(endpoint, async |client, key| {
                let other = Compare::version(format!("{key}/other"), CompareOp::Equal, 0);
                let puts = [TxnOp::put(key.as_str(), vec![b'x'; 100], None), TxnOp::get(key.as_str(), None)];
                client.txn(Txn::new().when([other]).and_then(puts)).await.expect("an answer");
            })
            .await
        }
        _ => fan_out(endpoint).await,
    }
}

/// Requests a second, from several connections.
async fn requests(endpoint: &str, request: impl AsyncFn(&mut Client, String)) -> f64 {
    let clients = join_all((0..CONNECTIONS).map(|_| connect(endpoint))).await;
    let start = Instant::now();
    let request = &request;
    let workers = clients.iter().enumerate().flat_map(|(number, client)| {
        (0..DEPTH).map(move |worker| {
            let mut client = client.clone();
            async move {
                let mut done = 0_u64;
                while start.elapsed() < ROUND {
                    request(&mut client, format!("/bench/{number}/{worker}/{}", done % 100)).await;
                    done += 1;
                }
                done
            }
        })
    });
    let done: u64 = join_all(workers).await.into_iter().sum();
    done as f64 / start.elapsed().as_secs_f64()
}

/// Events a second that 1,000 watches of one key receive, each on a stream of its own.
async fn fan_out(endpoint: &str) -> f64 {
    let clients = join_all((0..CONNECTIONS).map(|_| connect(endpoint))).await;
    let mut streams = Vec::new();
    for number in 0..WATCHES {
        let mut client = clients[number % CONNECTIONS].clone();
        streams.push(client.watch("/watched", Some(WatchOptions::new())).await.expect("a watch"));
    }
    let start = Instant::now();
    let receiving = streams.into_iter().map(|mut stream| {
        tokio::spawn(async move {
            let mut events = 0;
            while events < CHANGES {
                let message = stream.message().await.expect("a stream").expect("it goes on");
                events += message.events().len();
            }
        })
    });
    let receiving: Vec<_> = receiving.collect();
    let mut writer = connect(endpoint).await;
    for _ in 0..CHANGES {
        writer.put("/watched", vec![b'x'; 1000], None).await.expect("an answer");
    }
    for received in join_all(receiving).await {
        received.expect("no panic");
    }
    (WATCHES * CHANGES) as f64 / start.elapsed().as_secs_f64()
}
