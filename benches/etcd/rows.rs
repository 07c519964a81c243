//! The rows of the table, by group.

mod bursts;
mod crawl;
mod instructions;
mod lag;
mod latency;
mod peer;
mod start;
mod throughput;

use crate::Bench;
use crate::child::Child;
use crate::load;
use crate::report::Row;
use crate::server::Running;
use crate::spec::{Ready, Side, Spec, Work};
use std::time::Duration;
use tokio::time::sleep;

/// The groups with a goal.
const GOALS: [&str; 5] = ["latency", "throughput", "lag", "start", "crawl"];

/// The other groups.
const MORE: [&str; 2] = ["loads", "bursts"];

/// The groups that need Valgrind. They run only if they are named.
const COUNTED: [&str; 1] = ["instructions"];

/// The groups that need the peer's program. They run only if they are named.
const PEER: [&str; 5] = ["peer-latency", "peer-throughput", "peer-loads", "peer-start", "peer-crawl"];

/// The groups to run, in order: those that were named, or those with a goal, or all but the peer's and those that need
/// Valgrind.
pub fn groups(named: &[String], full: bool) -> Vec<&'static str> {
    let all = GOALS.into_iter().chain(MORE).chain(COUNTED).chain(PEER);
    let wanted = |group: &&str| match named {
        [] => GOALS.contains(group) || full && MORE.contains(group),
        named => named.iter().any(|named| group.starts_with(named.as_str())),
    };
    let groups: Vec<&str> = all.filter(wanted).collect();
    assert!(!groups.is_empty(), "no such group: {named:?}");
    groups
}

pub async fn measure(bench: Bench, group: &'static str) -> Vec<Row> {
    let bench = &bench;
    match group {
        "latency" => latency::rows(bench).await,
        "throughput" => throughput::rows(bench).await,
        "loads" => throughput::loads(bench).await,
        "bursts" => bursts::rows(bench).await,
        "lag" => lag::rows(bench).await,
        "start" => start::rows(bench).await,
        "crawl" => crawl::rows(bench).await,
        "instructions" => instructions::rows(bench).await,
        "peer-latency" => peer::latency(bench).await,
        "peer-throughput" => peer::throughput(bench).await,
        "peer-loads" => peer::loads(bench).await,
        "peer-start" => peer::start(bench).await,
        "peer-crawl" => peer::crawl(bench).await,
        other => unreachable!("no group `{other}`"),
    }
}

async fn child(bench: &Bench, server: &Running, side: Side, work: Work) -> (Child, Ready) {
    Child::start(&Spec { side, endpoint: server.endpoint(), work }, bench.peer.as_deref()).await
}

/// A server with many items.
async fn filled(bench: &Bench, keys: usize) -> Running {
    /// Time for what etcd does with the keys afterwards.
    const SETTLE: Duration = Duration::from_secs(3);
    let server = bench.server.fresh().await;
    load::fill(&server.client, bench.many(keys), load::item).await;
    sleep(SETTLE).await;
    server
}

/// A figure of every round.
fn each<T>(rounds: &[T], figure: impl Fn(&T) -> f64) -> Vec<f64> {
    rounds.iter().map(figure).collect()
}
