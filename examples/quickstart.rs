//! Polls servers: a rule of two keys, run against listeners that this program opens and closes.
//!
//! `cargo run -p examples --example quickstart`, or with `-- --help`: it needs no etcd, because it brings one, and
//! runs on yours with `-- --endpoints 127.0.0.1:2379`. The rule and its callback are on this page; what happens to
//! the servers is in `quickstart/servers.rs`, the printing in `quickstart/report.rs`.

#[path = "quickstart/options.rs"]
mod options;
#[path = "quickstart/probe.rs"]
mod probe;
#[path = "quickstart/report.rs"]
mod report;
#[path = "quickstart/servers.rs"]
mod servers;

use clap::Parser;
use etcd_rules::{Engine, Error, Firing, Outcome, Rule, key};
use options::{BoxError, Options, Server, Stop};
use probe::probe;
use report::{Line, Report};
use servers::Servers;
use std::process::ExitCode;
use std::time::Duration;

/// The least time between two polls of a server. etcd's own least TTL is 2 s.
const POLL_DELAY: Duration = Duration::from_secs(2);

/// The callback: one poll of one server. `:id` is the server for which the rule fired.
async fn poll(firing: Firing, line: Line) -> Result<Outcome, Error> {
    let address = firing.get("/servers/:id/address").await?;
    let found = probe(&address.to_string_lossy()).await;
    let status = if found.is_ok() { "ok" } else { "down" };
    line.found(found);
    Ok(firing
        .commit() // with the unlock, in one transaction, which takes effect only under this lock
        .expect_unchanged("/servers/:id/state") // a server removed meanwhile gets no status
        .put("/servers/:id/status", status)
        .put_ttl("/servers/internal/:id/poll_delay", "", POLL_DELAY)
        .into())
}

/// A server is polled when it is active and the delay after its last poll is over.
fn rule(report: Report) -> Rule {
    let active = key("/servers/:id/state").equals("active");
    let rested = key("/servers/internal/:id/poll_delay").absent();
    Rule::new("poll")
        .when(active & rested)
        .lock("/:id/poll")
        .run(move |firing| report.clone().record(firing, poll))
}

async fn run(options: Options, stop: &mut Stop, report: &Report) -> Result<(), BoxError> {
    let server = tokio::select! {
        found = Server::find(&options) => found?,
        () = stop.wanted() => {
            report.summary();
            return Ok(());
        }
    };
    let rule = rule(report.clone());
    report.header(&server, &rule, POLL_DELAY);
    let engine = Engine::builder("quickstart", server.endpoints.clone())
        .shutdown_deadline(Duration::from_secs(5))
        .rule(rule)
        .build()?;

    let mut servers = Servers::open(&server, report.clone()).await?;
    let time_is_up = options.end();
    let ran = engine
        .run_until(async {
            report.engine_starts();
            tokio::select! {
                () = servers.live() => {}
                () = time_is_up => {}
                () = stop.wanted() => {}
            }
        })
        .await;
    servers.close().await;
    drop(server);
    report.summary();
    Ok(ran?)
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    options::log_warnings();
    let mut stop = match Stop::listen() {
        Ok(stop) => stop,
        Err(error) => return options::fail(&error.into()),
    };
    match run(options, &mut stop, &Report::new()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => options::fail(&error),
    }
}
