//! Measures the engine beside its floor, on private etcd servers. The floor is the bare client doing the same
//! operations.
//!
//! `cargo bench -p benches --bench etcd -- --help`. Server, load and observer, and the side that is measured are
//! processes of their own; every round has a fresh server, and the rounds of both sides take turns.

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

mod callgrind;
mod child;
mod cores;
mod engine;
mod floor;
mod load;
mod recorder;
mod rows;
mod spec;

use clap::Parser;
use report::Row;
use server::Server;
use std::path::PathBuf;
use std::time::Duration;
use tries::reason;

#[derive(Parser)]
struct Options {
    /// Only rows whose group begins with one of these: latency, throughput, lag, start, crawl, loads, bursts,
    /// instructions, peer. The default is the groups with a goal, without the peer's.
    groups: Vec<String>,
    /// Also the rows without a goal.
    #[arg(long)]
    full: bool,
    /// The server program: a name on the PATH, or a path.
    #[arg(long, default_value = "etcd")]
    server: String,
    /// One more flag of the server, such as `--backend-batch-limit=1000`. May be repeated.
    #[arg(long, allow_hyphen_values = true)]
    flag: Vec<String>,
    /// The peer's program, built from `benches/peers`: for the groups of the peer.
    #[arg(long)]
    peer: Option<PathBuf>,
    /// Counts the instructions of another build of this program, instead of its own.
    #[arg(long)]
    build: Option<PathBuf>,
    /// Keeps the counts of instructions in `benches/instructions.json`, with which later ones are compared.
    #[arg(long)]
    keep: bool,
    /// Writes the counts of every function to files in this folder.
    #[arg(long)]
    functions: Option<PathBuf>,
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Few keys, few jobs, short times. This only checks that everything runs; the figures mean nothing.
    #[arg(long)]
    quick: bool,
    /// Adds the rows to this file, relative to the project's folder.
    #[arg(long)]
    json: Option<PathBuf>,
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
    peer: Option<PathBuf>,
    build: Option<PathBuf>,
    keep: bool,
    functions: Option<PathBuf>,
    rounds: usize,
    full: bool,
    quick: bool,
}

impl Bench {
    /// The numbers of keys where there are many, with their names.
    fn many_keys(&self) -> Vec<(usize, &'static str)> {
        let all = [(100_000, "100k"), (1_000_000, "1M")];
        all.into_iter().filter(|(keys, _)| self.full || *keys == 1_000_000).collect()
    }

    /// This many, or fewer in a quick run.
    fn many(&self, count: usize) -> usize {
        if self.quick { count / 50 } else { count }
    }

    /// This long, or shorter in a quick run.
    fn seconds(&self, seconds: u64) -> Duration {
        Duration::from_secs(if self.quick { seconds.min(2) } else { seconds })
    }
}

fn main() {
    if let Some(spec) = child::spec() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        return runtime.expect("a runtime").block_on(child::run(spec));
    }
    let options = Options::parse();
    if options.test {
        return;
    }
    report::enter_project_folder();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(run(options));
}

async fn run(options: Options) {
    let server = Server::new(options.server, options.flag);
    report::print_head(server.label());
    report::print_source("floor", "benches/etcd/floor.rs", include_str!("floor.rs"));
    let Options { peer, build, keep, functions, rounds, full, quick, .. } = options;
    let bench = Bench { server, peer, build, keep, functions, rounds, full, quick };
    let mut failed = Vec::new();
    for group in rows::groups(&options.groups, full) {
        // If one group fails, the others are still measured.
        let measuring = tokio::spawn(rows::measure(bench.clone(), group));
        let rows = match measuring.await {
            Ok(rows) => rows,
            Err(error) => {
                let why =
                    error.try_into_panic().map_or_else(|error| error.to_string(), |panic| reason(&*panic));
                failed.push(format!("{group}: {why}"));
                continue;
            }
        };
        rows.iter().for_each(Row::print);
        let missing = rows.iter().filter(|row| row.not_measured.is_some());
        failed.extend(missing.map(|row| row.name.clone()));
        if let Some(json) = &options.json {
            report::add(json, &rows);
        }
    }
    assert!(failed.is_empty(), "not measured: {}", failed.join("; "));
}
