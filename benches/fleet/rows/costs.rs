//! What a firing costs etcd, by the number of engines. These are counts, except for etcd's CPU.

use super::{each, new_job};
use crate::Bench;
use crate::fleet::Fleet;
use crate::member::{Counts, Spec};
use crate::observer::Observer;
use crate::puts;
use crate::report::Row;
use crate::server::Counters;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// What the rows compare with one engine.
const FLEETS: [usize; 3] = [2, 4, 8];

/// Jobs that become due at once. Enough lock keys that shares are even.
const AT_ONCE: usize = 16_000;

/// Without owners, or without batches, a job is many requests.
const FEWER: usize = 4_000;

/// Jobs a second, where they come one by one.
const RATE: u64 = 1000;

/// The names of rows that the model reads.
pub const BURST_CPU: &str = "full burst, etcd's CPU a firing";
pub const STREAM_CPU: &str = "1,000/s, etcd's CPU a firing";

pub struct Round {
    pub jobs: f64,
    pub rate: f64,
    pub etcd: Counters,
    pub engines: Vec<Counts>,
}

impl Round {
    fn sum(&self, figure: impl Fn(&Counts) -> u64) -> f64 {
        self.engines.iter().map(figure).sum::<u64>() as f64
    }

    /// The greatest difference of a share from an even one, in percent.
    fn unevenness(&self) -> f64 {
        let even = self.sum(|engine| engine.callbacks) / self.engines.len() as f64;
        let off = |engine: &Counts| (engine.callbacks as f64 - even).abs() / even * 100.0;
        self.engines.iter().map(off).fold(0.0, f64::max)
    }

    /// Events that etcd sent beside those of the jobs, which each engine and the observer get. If anybody watched all
    /// locks, that would be one or two more.
    fn more_events(&self) -> f64 {
        self.etcd.events / self.jobs - self.engines.len() as f64 - 1.0
    }
}

type Figure = fn(&Round) -> f64;

const NESTED: (&str, &str, Figure) =
    ("nested transactions a firing", "transactions", |r| r.sum(|engine| engine.nested) / r.jobs);
const REQUESTS: (&str, &str, Figure) = ("requests a firing", "requests", |r| r.etcd.requests / r.jobs);
const LOST: (&str, &str, Figure) =
    ("losing attempts a firing", "attempts", |r| r.sum(|engine| engine.lost) / r.jobs);
const CALLBACKS: (&str, &str, Figure) =
    ("callbacks a firing", "callbacks", |r| r.sum(|engine| engine.callbacks) / r.jobs);
const CPU: (&str, &str, Figure) = ("etcd's CPU a firing", "µs", |r| r.etcd.cpu.as_secs_f64() * 1e6 / r.jobs);

pub async fn rows(bench: &Bench) -> Vec<Row> {
    let mut rows = Vec::new();
    rows.extend(locked(bench).await);
    rows.extend(optimistic(bench).await);
    rows.extend(longer(bench).await);
    rows.extend(unbatched(bench).await);
    rows.extend(streams(bench).await);
    rows
}

async fn repeated<F: Future<Output = Round>>(bench: &Bench, measure: impl Fn() -> F) -> Vec<Round> {
    let mut rounds = Vec::new();
    for _ in 0..bench.rounds {
        rounds.push(measure().await);
    }
    rounds
}

/// A figure of several engines beside that of one. Only eight have a goal.
fn beside_one(
    bench: &Bench,
    what: &str,
    engines: usize,
    (shown, unit, figure): (&str, &str, Figure),
    (ours, one): (&[Round], &[Round]),
    goal: Option<&str>,
) -> Row {
    let name = format!("{what}, {shown}, {engines} engines and one");
    let row = bench.row(name, unit, &each(ours, figure)).floor(&each(one, figure));
    match goal.filter(|_| engines == 8) {
        Some(goal) => row.goal(goal),
        None => row,
    }
}

async fn locked(bench: &Bench) -> Vec<Row> {
    let spec = Spec::default();
    let without = Spec { owners: false, ..spec.clone() };
    let one = repeated(bench, || burst(bench, 1, &spec, AT_ONCE)).await;
    let mut rows = Vec::new();
    for engines in FLEETS {
        let rounds = repeated(bench, || burst(bench, engines, &spec, AT_ONCE)).await;
        for (figure, goal) in [(NESTED, "<=1.1"), (REQUESTS, "<=1.1"), (CPU, "<=1.5")] {
            rows.push(beside_one(bench, "full burst", engines, figure, (&rounds, &one), Some(goal)));
        }
        let figures: [(&str, &str, Figure, &str); 3] = [
            ("losing attempts a firing", "attempts", LOST.2, "<=0.1"),
            ("events sent a firing beside those of its job", "events", Round::more_events, "<=0.1"),
            ("greatest difference of a share from an even one", "%", Round::unevenness, "<=15"),
        ];
        for (shown, unit, figure, goal) in figures {
            let name = format!("full burst, {shown}, {engines} engines");
            rows.push(bench.row(name, unit, &each(&rounds, figure)).goal(goal));
        }
    }
    for engines in FLEETS {
        let rounds = repeated(bench, || burst(bench, engines, &without, FEWER)).await;
        for figure in [NESTED, LOST, CPU] {
            let what = "full burst without owners";
            rows.push(beside_one(bench, what, engines, figure, (&rounds, &one), None));
        }
    }
    rows
}

async fn optimistic(bench: &Bench) -> Vec<Row> {
    let spec = Spec { optimistic: true, ..Spec::default() };
    let mut rows = Vec::new();
    for (owners, shown) in [(true, ""), (false, " without owners")] {
        for engines in FLEETS {
            let spec = Spec { owners, ..spec.clone() };
            let rounds = repeated(bench, || burst(bench, engines, &spec, FEWER)).await;
            let name = format!("optimistic{shown}, {}, {engines} engines", CALLBACKS.0);
            let row = bench.row(name, CALLBACKS.1, &each(&rounds, CALLBACKS.2));
            rows.push(if owners { row.goal("<=1.05") } else { row });
        }
    }
    rows
}

/// Four times as many at once: what is not in proportion to the firings has a smaller part of the requests.
async fn longer(bench: &Bench) -> Vec<Row> {
    let spec = Spec::default();
    let one = repeated(bench, || burst(bench, 1, &spec, 4 * AT_ONCE)).await;
    let eight = repeated(bench, || burst(bench, 8, &spec, 4 * AT_ONCE)).await;
    vec![beside_one(bench, "four times as long a burst", 8, REQUESTS, (&eight, &one), None)]
}

/// Every transaction is a request of its own.
async fn unbatched(bench: &Bench) -> Vec<Row> {
    let spec = Spec { batch: Some(1), ..Spec::default() };
    let one = repeated(bench, || burst(bench, 1, &spec, FEWER)).await;
    let eight = repeated(bench, || burst(bench, 8, &spec, FEWER)).await;
    let figures = [(NESTED, Some("<=1.1")), (REQUESTS, Some("<=1.1")), (CPU, None)];
    figures
        .into_iter()
        .map(|(figure, goal)| beside_one(bench, "batch_size(1)", 8, figure, (&eight, &one), goal))
        .collect()
}

/// Jobs come one by one, at a load that one engine takes easily.
async fn streams(bench: &Bench) -> Vec<Row> {
    let spec = Spec::default();
    let one = repeated(bench, || stream(bench, 1, &spec)).await;
    let mut rows = Vec::new();
    for engines in FLEETS {
        let rounds = repeated(bench, || stream(bench, engines, &spec)).await;
        for (figure, goal) in [(NESTED, Some("<=1.1")), (REQUESTS, None), (CPU, Some("<=1.5"))] {
            rows.push(beside_one(bench, "1,000/s", engines, figure, (&rounds, &one), goal));
        }
    }
    rows
}

/// Jobs that all become due at once.
pub async fn burst(bench: &Bench, engines: usize, spec: &Spec, jobs: usize) -> Round {
    let jobs = bench.many(jobs);
    let server = bench.server.fresh().await;
    puts::fill(&server.client, jobs, new_job).await;
    let spec = Spec { go: true, keys: jobs, ..spec.clone() };
    let mut fleet = Fleet::start(server, engines, &spec).await;
    let mut observer = Observer::start(&fleet.server.client).await;
    let before = fleet.counts().await;
    let begin = Instant::now();
    fleet.server.client.kv_client().put("/go", "", None).await.expect("a put");
    observer.until(jobs).await;
    let took = begin.elapsed();
    // Whoever comes too late, with an attempt for what is done, counts too.
    sleep(Duration::from_millis(200)).await;
    let round = counted(&mut fleet, before, jobs, 1.0, took).await;
    assert_eq!(observer.done(), jobs, "every firing has its effect once");
    fleet.end().await;
    round
}

/// Jobs that come at a rate.
async fn stream(bench: &Bench, engines: usize, spec: &Spec) -> Round {
    let mut fleet = Fleet::fresh(bench, engines, spec).await;
    let mut observer = Observer::start(&fleet.server.client).await;
    let before = fleet.counts().await;
    let begin = Instant::now();
    let put = |n| {
        let (mut kv, (key, value)) = (fleet.server.client.kv_client(), new_job(n as usize));
        async move { kv.put(key, value, None).await.map(|_| ()) }
    };
    let jobs = puts::paced(RATE, bench.seconds(6), put).await;
    observer.until(jobs).await;
    let took = begin.elapsed();
    let round = counted(&mut fleet, before, jobs, jobs as f64, took).await;
    fleet.end().await;
    round
}

/// What has been counted since then. `puts` requests were the benchmark's own.
async fn counted(
    fleet: &mut Fleet,
    (engines_before, etcd_before): (Vec<Counts>, Counters),
    jobs: usize,
    puts: f64,
    took: Duration,
) -> Round {
    let (engines, etcd) = fleet.counts().await;
    let mut etcd = etcd.since(&etcd_before);
    etcd.requests -= puts;
    let engines = engines.into_iter().zip(engines_before).map(|(now, before)| now.since(before)).collect();
    Round { jobs: jobs as f64, rate: jobs as f64 / took.as_secs_f64(), etcd, engines }
}
