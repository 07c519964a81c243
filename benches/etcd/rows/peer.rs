//! The engine beside the peer, go-etcd-rules. Here the peer takes the place of the floor, with its defaults
//! and with its best settings.
//!
//! A round may take the peer longer than anybody waits, on a slow machine. Then only the rows of that work are
//! missing, and say why.

use super::latency::until_done;
use super::throughput::{AT_ONCE, Figure, Round, Rounds, burst, stream};
use super::{child, each, filled};
use crate::Bench;
use crate::clock::Summary;
use crate::load;
use crate::process::{cpu, peak_memory};
use crate::report::Row;
use crate::server::Running;
use crate::spec::{Lock, Options, Settings, Side, Work};
use crate::tries::Tries;
use std::time::Duration;
use tokio::time::sleep;

const BEST: Side = Side::Peer(Settings::Best);

const SIDES: [(Side, &str); 2] = [(Side::Peer(Settings::Defaults), "defaults"), (BEST, "best settings")];

/// Changes a second, up to more than the peer can keep up with.
const LADDER: [u64; 9] = [100, 250, 500, 750, 1000, 1500, 2000, 3000, 4000];

type LatencyFigure = fn(&Summary) -> f64;

const PERCENTILES: [(&str, LatencyFigure); 2] = [("p50", |s| s.p50), ("p99", |s| s.p99)];

/// From a change to the start of its callback.
pub async fn latency(bench: &Bench) -> Vec<Row> {
    let mut rows = Vec::new();
    for rate in [100, 500, 2000] {
        let mut ours = Tries::default();
        let mut peer = [Tries::default(), Tries::default()];
        for _ in 0..bench.rounds {
            ours.round(async { until_done(bench, Side::Engine, rate).await.0 }).await;
            for ((side, _), rounds) in SIDES.iter().zip(&mut peer) {
                rounds.round(async { until_done(bench, *side, rate).await.0 }).await;
            }
        }
        for ((_, shown), peer) in SIDES.iter().zip(&peer) {
            let row = |(percentile, figure): (&str, LatencyFigure)| {
                let name = format!("peer: change to callback, {rate}/s, {percentile}, {shown}");
                let row = Row::new(name, "µs", bench.server.label(), &each(&ours.rounds, figure));
                row.floor(&each(&peer.rounds, figure))
            };
            rows.extend(both(&ours, peer, PERCENTILES.into_iter().map(row).collect()));
        }
    }
    rows.extend(where_stable(bench).await);
    rows
}

/// Rows of both sides, or why there are none.
fn both<A, B>(ours: &Tries<A>, peer: &Tries<B>, rows: Vec<Row>) -> Vec<Row> {
    peer.checked("the peer", ours.checked("the engine", rows))
}

/// The latency at the highest load at which the peer is stable. It is stable if each of several runs ends
/// with no longer backlog than it began with, and if its p99 is at most ten times that at the lowest load.
async fn where_stable(bench: &Bench) -> Vec<Row> {
    const AT_THE_END: Duration = Duration::from_millis(250);
    /// One run is not enough: at one load the peer kept up once and fell behind three times.
    const LOOKS: usize = 3;
    let mut least = Tries::default();
    least.round(async { until_done(bench, BEST, LADDER[0]).await.0.p99 }).await;
    let bound = 10.0 * least.rounds.first().copied().unwrap_or(0.0);
    let mut stable = LADDER[0];
    'ladder: for rate in &LADDER[1..] {
        for _ in 0..LOOKS {
            let mut look = Tries::default();
            look.round(until_done(bench, BEST, *rate)).await;
            // What fails is not stable.
            let Some((summary, rest)) = look.rounds.pop() else { break 'ladder };
            println!(
                "    peer at {rate}/s: p99 {:.0} µs, the last done {rest:?} after the load",
                summary.p99
            );
            if rest > AT_THE_END || summary.p99 > bound {
                break 'ladder;
            }
        }
        stable = *rate;
    }
    let (mut ours, mut peer) = (Tries::default(), Tries::default());
    for _ in 0..bench.rounds {
        peer.round(async { until_done(bench, BEST, stable).await.0 }).await;
        ours.round(async { until_done(bench, Side::Engine, stable).await.0 }).await;
    }
    let label = bench.server.label();
    let row = |(percentile, figure): (&str, LatencyFigure)| {
        let name =
            format!("peer: change to callback, highest load where it is stable, {percentile}, best settings");
        let row = Row::new(name, "µs", label, &each(&ours.rounds, figure)).floor(&each(&peer.rounds, figure));
        if percentile == "p99" { row.goal("<=0.2") } else { row }
    };
    let mut rows: Vec<Row> = PERCENTILES.into_iter().map(row).collect();
    rows = both(&ours, &peer, rows);
    rows.push(Row::new(
        "peer: highest load where it is stable, best settings",
        "changes/s",
        label,
        &[stable as f64],
    ));
    least.checked("the peer", rows)
}

/// As many locked firings as possible, for jobs that arrive and for jobs that a switch makes due.
pub async fn throughput(bench: &Bench) -> Vec<Row> {
    let mut ours = Tries::default();
    let mut arriving = [Tries::default(), Tries::default()];
    let (mut switched, mut peer_switched) = (Tries::default(), Tries::default());
    for _ in 0..bench.rounds {
        ours.round(stream(bench, Side::Engine, Lock::Own, None)).await;
        for ((side, _), rounds) in SIDES.iter().zip(&mut arriving) {
            rounds.round(stream(bench, *side, Lock::Own, None)).await;
        }
        switched.round(burst(bench, Side::Engine, Lock::Own, AT_ONCE)).await;
        peer_switched.round(burst(bench, BEST, Lock::Own, AT_ONCE)).await;
    }
    let rate: Figure = |r| r.rate;
    let mut rows = Vec::new();
    for ((side, shown), peer) in SIDES.iter().zip(&arriving) {
        let rounds = rounds(&ours, peer);
        let name = |what: &str| format!("peer: locked, 20,000 arriving at once, {what}, {shown}");
        let with_goal = |row: Row, goal: &str| if *side == BEST { row.goal(goal) } else { row };
        let mut of_side =
            vec![with_goal(rounds.beside_floor(bench, name("done"), "firings/s", rate), ">=10")];
        let costs = rounds.costs(bench, name);
        let goal = |row: Row| if row.unit == "requests" { with_goal(row, "<=0.2") } else { row };
        of_side.extend(costs.into_iter().map(goal));
        rows.extend(both(&ours, peer, of_side));
    }
    let name = "peer: locked, 20,000 true at once by a switch, done, best settings";
    let row = rounds(&switched, &peer_switched).beside_floor(bench, name.into(), "firings/s", rate);
    rows.extend(both(&switched, &peer_switched, vec![row]));
    rows
}

fn rounds(ours: &Tries<Round>, peer: &Tries<Round>) -> Rounds {
    Rounds { ours: ours.rounds.clone(), floor: peer.rounds.clone() }
}

/// At loads below what the engine can do.
pub async fn loads(bench: &Bench) -> Vec<Row> {
    let mut rows = Vec::new();
    for load in [250, 500, 1000, 2000, 4000] {
        let (mut ours, mut peer) = (Tries::default(), Tries::default());
        for _ in 0..bench.rounds {
            peer.round(stream(bench, BEST, Lock::Own, Some(load))).await;
            ours.round(stream(bench, Side::Engine, Lock::Own, Some(load))).await;
        }
        let rounds = rounds(&ours, &peer);
        let name = |what: &str| format!("peer: locked, {load}/s offered, {what}, best settings");
        let mut of_load = vec![rounds.beside_floor(bench, name("done"), "firings/s", |r| r.rate)];
        of_load.extend(rounds.costs(bench, name));
        rows.extend(both(&ours, &peer, of_load));
    }
    rows
}

/// From the start until every existing key was looked at. A million keys only in a full run, because the peer
/// pauses for a millisecond after each.
pub async fn start(bench: &Bench) -> Vec<Row> {
    struct Round {
        seconds: f64,
        peak: f64,
        used: f64,
    }
    async fn once(bench: &Bench, server: &Running, side: Side, keys: usize) -> Round {
        let (child, ready) = child(bench, server, side, Work::Ready).await;
        assert_eq!(ready.keys, bench.many(keys));
        let peak = peak_memory(child.pid()) as f64 / 1e6;
        let used = cpu(child.pid()).as_secs_f64();
        child.end().await;
        Round { seconds: ready.seconds, peak, used }
    }
    let mut all = vec![(10_000, "10k"), (100_000, "100k")];
    if bench.full {
        all.push((1_000_000, "1M"));
    }
    let mut rows = Vec::new();
    for (keys, shown) in all {
        let (mut ours, mut peer) = (Tries::default(), Tries::default());
        for _ in 0..bench.rounds {
            let server = filled(bench, keys).await;
            ours.round(once(bench, &server, Side::Engine, keys)).await;
            peer.round(once(bench, &server, BEST, keys)).await;
        }
        type Figure = fn(&Round) -> f64;
        let figures: [(&str, &str, Figure); 3] = [
            ("ready", "s", |round| round.seconds),
            ("peak memory", "MB", |round| round.peak),
            ("CPU until ready, the side itself", "s", |round| round.used),
        ];
        let row = |(what, unit, figure): (&str, &str, Figure)| {
            let name = format!("peer: {what}, {shown} keys, best settings");
            let row = Row::new(name, unit, bench.server.label(), &each(&ours.rounds, figure));
            row.floor(&each(&peer.rounds, figure))
        };
        rows.extend(both(&ours, &peer, figures.into_iter().map(row).collect()));
    }
    rows
}

/// Live work while a million keys of another rule are crawled. For the peer that is its start, when it reads
/// them all at once. The engine does one crawl after another.
pub async fn crawl(bench: &Bench) -> Vec<Row> {
    const KEYS: usize = 1_000_000;
    let sides = [(Side::Engine, 36), (BEST, 8)];
    let mut during = [Tries::default(), Tries::default()];
    for _ in 0..bench.rounds {
        let server = filled(bench, KEYS).await;
        for ((side, seconds), rounds) in sides.into_iter().zip(&mut during) {
            rounds.round(beside_crawl(bench, &server, side, seconds)).await;
        }
    }
    let [ours, peer] = &during;
    let row = |(percentile, figure): (&str, LatencyFigure)| {
        let name =
            format!("peer: live {percentile} at {CRAWL_RATE}/s during a crawl of 1M keys, best settings");
        Row::new(name, "µs", bench.server.label(), &each(&ours.rounds, figure))
            .floor(&each(&peer.rounds, figure))
    };
    both(ours, peer, PERCENTILES.into_iter().map(row).collect())
}

const CRAWL_RATE: u64 = 250;

async fn beside_crawl(bench: &Bench, server: &Running, side: Side, seconds: u64) -> Summary {
    let options = Options { crawl: Some(100), items: true, ..Options::default() };
    let (child, _) = child(bench, server, side, Work::Latency(options)).await;
    let sent = load::jobs(&server.client, CRAWL_RATE, bench.seconds(seconds)).await;
    load::until_none(&server.client, "/jobs/", side).await;
    sleep(Duration::from_millis(500)).await;
    let outcome = child.end().await;
    assert_eq!(outcome.latency.count, sent, "every change is one callback");
    outcome.latency
}
