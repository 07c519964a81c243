//! Measures fleets: one, two, four and eight engines, each a process of its own, on private etcd servers. Rows compare
//! a fleet with one engine, or with the same fleet without owners.
//!
//! `cargo bench -p benches --bench fleet -- --help`. All processes share the machine. What is *counted* (transactions,
//! requests, attempts, callbacks, events) doesn't depend on its cores. Rates of firings whose callbacks take no time
//! do.

#![allow(unreachable_pub, reason = "a program of several files, no library")]

#[path = "../shared/clock.rs"]
mod clock;
#[path = "../shared/process.rs"]
mod process;
#[path = "../shared/puts.rs"]
mod puts;
#[path = "../shared/report.rs"]
mod report;
#[path = "../shared/server.rs"]
mod server;
#[path = "../../tests/support/etcd.rs"]
mod support;
#[path = "../shared/tries.rs"]
mod tries;

mod engine;
mod fleet;
mod member;
mod observer;
mod recorder;
mod rows;

use clap::Parser;
use report::Row;
use server::Server;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::Instant;

#[derive(Parser)]
struct Options {
    /// Only rows whose group begins with one of these: costs, instant, slots, slow, death, join, model. The default is
    /// all.
    groups: Vec<String>,
    /// The server program: a name on the PATH, or a path.
    #[arg(long, default_value = "etcd")]
    server: String,
    /// One more flag of the server. May be repeated.
    #[arg(long, allow_hyphen_values = true)]
    flag: Vec<String>,
    /// Rounds of each row. Rates of instant callbacks, and what must be done in time, have three times as many.
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// Few jobs, few keys, short times. This only checks that everything runs; the figures mean nothing.
    #[arg(long)]
    quick: bool,
    /// Adds the rows to this file, relative to the project's folder. The group `model` reads rows of it.
    #[arg(long, default_value = "target/bench.json")]
    json: PathBuf,
    /// Added by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
    /// Added by `cargo test`, which only checks that it runs.
    #[arg(long, hide = true)]
    test: bool,
}

/// What all rows need.
#[derive(Clone)]
struct Bench {
    server: Server,
    rounds: usize,
    quick: bool,
    json: PathBuf,
}

impl Bench {
    /// This many, or fewer in a quick run.
    fn many(&self, count: usize) -> usize {
        if self.quick { count / 20 } else { count }
    }

    /// This long, or shorter in a quick run.
    fn seconds(&self, seconds: u64) -> Duration {
        Duration::from_secs(if self.quick { seconds.min(2) } else { seconds })
    }

    fn row(&self, name: impl Into<String>, unit: &str, ours: &[f64]) -> Row {
        Row::new(format!("fleet: {}", name.into()), unit, self.server.label(), ours)
    }

    /// The rows that were measured so far on this server.
    fn known(&self) -> Vec<Row> {
        let mut rows = report::read(Path::new(&self.json));
        rows.retain(|row| row.server == self.server.label());
        rows
    }
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    if let Some(spec) = engine::spec() {
        return runtime.block_on(member::run(spec));
    }
    let options = Options::parse();
    if options.test {
        return;
    }
    report::enter_project_folder();
    runtime.block_on(run(options));
}

async fn run(options: Options) {
    let Options { groups, server, flag, rounds, quick, json, .. } = options;
    let server = Server::new(server, flag);
    report::print_head(server.label());
    let bench = Bench { server, rounds, quick, json };
    let mut failed = Vec::new();
    for group in rows::groups(&groups) {
        let begin = Instant::now();
        // If one group fails, the others are still measured.
        let measuring = tokio::spawn(rows::measure(bench.clone(), group));
        let rows = match measuring.await {
            Ok(rows) => rows,
            Err(error) => {
                let why = error
                    .try_into_panic()
                    .map_or_else(|error| error.to_string(), |panic| tries::reason(&*panic));
                failed.push(format!("{group}: {why}"));
                continue;
            }
        };
        rows.iter().for_each(Row::print);
        println!("    {group} took {:.0} s", begin.elapsed().as_secs_f64());
        // A quick run keeps no rows, of which the model would be made.
        let missing = rows.iter().filter(|row| row.not_measured.is_some() && !(quick && group == "model"));
        failed.extend(missing.map(|row| row.name.clone()));
        if !quick {
            report::add(&bench.json, &rows);
        }
    }
    assert!(failed.is_empty(), "not measured: {}", failed.join("; "));
}
