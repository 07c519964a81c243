//! Polling by one call, with a second rule beside it. Counters go up to five, one step every two seconds or
//! so, and then a switch is set.
//!
//! `cargo run -p examples --example polling` runs on the embedded etcd, `-- --endpoints 127.0.0.1:2379` on yours. The
//! rules are in `polling/scenario.rs`.

#[path = "polling/scenario.rs"]
mod scenario;

use clap::Parser;
use etcd_rules::embedded::EmbeddedEtcd;
use etcd_rules::etcd_client::Client;
use etcd_rules::{BoxError, Engine};
use scenario::{COUNTERS, INTERVAL, ROOT, TARGET, Tally, play};
use std::process::ExitCode;
use std::sync::Arc;
use tokio::time::Instant;

/// Polls four counters up to five and then turns a switch on, and checks that each callback ran exactly as often as
/// it had to. Takes about half a minute.
#[derive(Debug, Parser)]
struct Options {
    /// Run on your etcd, such as 127.0.0.1:2379 (several: a,b,c). Everything below
    /// /etcd-rules-polling-example/ is deleted there, before and after. Default: the embedded etcd.
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    endpoints: Vec<String>,
}

async fn run(mut endpoints: Vec<String>) -> Result<bool, BoxError> {
    let embedded = if endpoints.is_empty() { Some(EmbeddedEtcd::start().await?) } else { None };
    match &embedded {
        Some(etcd) => {
            endpoints.push(etcd.endpoint());
            println!("etcd embedded, in the memory of this program, at {}", endpoints[0]);
        }
        None => println!("etcd at {}, yours (--endpoints)", endpoints.join(",")),
    }
    println!("{} counters below {ROOT}, polled up to {TARGET}, every {INTERVAL:?} at most", COUNTERS.len());
    let client = Client::connect(&endpoints, None).await?;
    let start = Instant::now();
    let tell = Arc::new(move |line| println!("{:8.3}  {line}", start.elapsed().as_secs_f64()));
    let tally = play(vec![Engine::builder("polling-example", endpoints)], &client, tell).await?;
    let exact = tally == Tally::expected();
    if !exact {
        println!("not as it must be: {tally:?}");
    }
    println!("fired {}, expected {}", firings(&tally), firings(&Tally::expected()));
    Ok(exact)
}

fn firings(tally: &Tally) -> usize {
    tally.polled.values().map(Vec::len).sum::<usize>() + tally.switched as usize
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Options::parse().endpoints).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("polling: {error}");
            ExitCode::FAILURE
        }
    }
}
