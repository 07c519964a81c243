//! Instructions and allocations of a firing, and of a change that concerns no rule, by station. They repeat where
//! times don't, so that they are kept in a file and the next ones are compared with them.

use crate::Bench;
use crate::callgrind::{Callgrind, Counts};
use crate::child::Child;
use crate::load::{self, Observer};
use crate::process::{cpu, this_program};
use crate::report::{self, Row};
use crate::rows::throughput::new_job;
use crate::server::Running;
use crate::spec::{Lock, Side, Spec, Work};
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::Duration;
use tokio::time::sleep;

/// What was counted last, in the project's folder.
const KEPT: &str = "benches/instructions.json";

/// What counts may differ by without a reason.
const NOISE: f64 = 0.02;

/// Jobs, or changes, whose instructions are counted.
const COUNTED: usize = 8_000;

/// Stations, and what the names of their functions contain. The first that fits has it; what is generic often has the
/// name of the library, and of what it is used for only sometimes.
const STATIONS: [(&str, &[&str]); 16] = [
    ("allocation", &["malloc", "_int_free", "calloc", "realloc", "free", "__rdl_", "__rust_alloc"]),
    ("copying and comparing bytes", &["memcpy", "memmove", "memset", "memcmp", "bcmp"]),
    ("metrics", &["etcd_rules::metrics", "recorder::"]),
    ("tracing", &["tracing", "etcd_rules::trace"]),
    ("watch", &["etcd_rules::watch", "etcd_rules::etcd::watch", "etcd_rules::read"]),
    ("index", &["etcd_rules::index", "etcd_rules::change", "etcd_rules::compiled"]),
    ("evaluation", &["etcd_rules::evaluate", "etcd_rules::condition"]),
    ("callback", &["etcd_rules::dispatch::run", "etcd_rules::firing", "engine::jobs_rule"]),
    ("transactions and their batches", &["etcd_rules::lock"]),
    ("dispatch", &["etcd_rules::dispatch"]),
    ("requests and answers", &["etcd_rules::etcd"]),
    ("the rest of the engine", &["etcd_rules::", "floor::"]),
    ("decoding of answers and events", &["prost", "etcd_client"]),
    ("gRPC and HTTP/2", &["tonic", "h2::", "hyper", "http::", "http_body", "tower", "bytes::"]),
    ("mailboxes and tasks", &["actix", "tokio", "futures", "parking_lot", "mio::", "pthread"]),
    ("anything else", &[""]),
];

pub async fn rows(bench: &Bench) -> Vec<Row> {
    assert!(crate::callgrind::is_there(), "this needs Valgrind");
    let kept = report::read(Path::new(KEPT));
    let mut rows = Vec::new();
    for (shown, what) in [
        ("locked", What::Firings(Lock::Own)),
        ("optimistic", What::Firings(Lock::None)),
        ("a change of no rule", What::Unrelated),
    ] {
        let mut ours = Vec::new();
        let mut floor = Vec::new();
        for _ in 0..bench.rounds {
            floor.push(counted(bench, Side::Floor, what).await);
            ours.push(counted(bench, Side::Engine, what).await);
        }
        rows.extend(of(bench, shown, &ours, &floor));
    }
    let more = compare(&kept, &rows);
    if bench.keep {
        report::add(Path::new(KEPT), &rows);
    } else {
        assert!(more.is_empty(), "more than {KEPT} has: {}", more.join("; "));
    }
    rows
}

fn of(bench: &Bench, shown: &str, ours: &[Counts], floor: &[Counts]) -> Vec<Row> {
    type Figure<'f> = &'f dyn Fn(&Counts) -> f64;
    let each = |counts: &[Counts], figure: Figure<'_>| -> Vec<f64> {
        counts.iter().map(|counts| figure(counts) / bench.many(COUNTED) as f64).collect()
    };
    let row = |what: &str, unit: &str, figure: Figure<'_>| {
        let name = format!("instructions: {shown}, {what}");
        let row = Row::new(name, unit, bench.server.label(), &each(ours, figure));
        row.floor(&each(floor, figure))
    };
    let all = |counts: &Counts| counts.functions.values().sum::<u64>() as f64;
    let mut rows = vec![
        row(TOTAL, "instr.", &all),
        row("allocations", "calls", &|counts| counts.allocations.values().sum::<u64>() as f64),
    ];
    for (station, _) in STATIONS {
        let figure = |counts: &Counts| by_station(counts).get(station).copied().unwrap_or(0) as f64;
        rows.push(row(station, "instr.", &figure));
    }
    rows
}

const TOTAL: &str = "all";

fn by_station(counts: &Counts) -> BTreeMap<&'static str, u64> {
    let mut stations = BTreeMap::new();
    for (function, cost) in &counts.functions {
        *stations.entry(station(function)).or_default() += cost;
    }
    stations
}

fn station(function: &str) -> &'static str {
    let fits = |parts: &&[&str]| parts.iter().any(|part| function.contains(part));
    let found = STATIONS.iter().find(|(_, parts)| fits(parts));
    found.map_or("anything else", |(station, _)| station)
}

/// Tells what has changed since the counts that were kept. Returns what takes more on the whole.
fn compare(kept: &[Row], rows: &[Row]) -> Vec<String> {
    let mut more = Vec::new();
    println!("\nsince {KEPT}:");
    for row in rows {
        let before = kept.iter().find(|kept| kept.name == row.name && kept.server == row.server);
        let Some(before) = before.map(|row| row.ours) else {
            // Or the comparison would pass on every server of which nothing is kept.
            if row.name.ends_with(TOTAL) {
                more.push(format!("{} (nothing is kept of {})", row.name, row.server));
            }
            continue;
        };
        let change = row.ours / before - 1.0;
        if row.name.ends_with(TOTAL) && change > NOISE {
            more.push(row.name.clone());
        }
        if row.ours > 0.0 || before > 0.0 {
            println!("{:<60} {before:>9.1} {:>9.1} {:>+7.1} %", row.name, row.ours, change * 100.0);
        }
    }
    println!();
    more
}

#[derive(Clone, Copy)]
enum What {
    Firings(Lock),
    Unrelated,
}

async fn counted(bench: &Bench, side: Side, what: What) -> Counts {
    let server = bench.server.fresh().await;
    let count = bench.many(COUNTED);
    let counts = match what {
        What::Firings(lock) => firings(bench, &server, side, lock, count).await,
        What::Unrelated => unrelated(bench, &server, side, count).await,
    };
    if let Some(folder) = &bench.functions {
        write_functions(folder, side, what, &counts, count);
    }
    counts
}

/// Writes what a firing costs function by function, and who allocates and copies, in files of the folder.
fn write_functions(folder: &Path, side: Side, what: What, counts: &Counts, count: usize) {
    let side = if side == Side::Engine { "" } else { "floor-" };
    let what = match what {
        What::Firings(Lock::Own) => "locked",
        What::Firings(Lock::None) => "optimistic",
        What::Unrelated => "unrelated",
    };
    let sorted = |counted: &HashMap<String, u64>, shown: &dyn Fn(&str) -> &'static str| {
        let mut counted: Vec<_> = counted.iter().collect();
        counted.sort_by_key(|(name, cost)| (Reverse(**cost), *name));
        let each = |cost: u64| cost as f64 / count as f64;
        let lines =
            counted.iter().map(|(name, cost)| format!("{:>9.2} {:<32} {name}\n", each(**cost), shown(name)));
        lines.collect::<String>()
    };
    let mut text = format!("instructions:\n{}", sorted(&counts.functions, &station));
    text += &format!("\nallocations, by caller:\n{}", sorted(&counts.allocations, &|_| ""));
    text += &format!("\ncopies, by caller:\n{}", sorted(&counts.copies, &|_| ""));
    std::fs::create_dir_all(folder).expect("a folder");
    std::fs::write(folder.join(format!("{side}{what}.txt")), text).expect("a file in it");
}

async fn start(bench: &Bench, server: &Running, side: Side, work: Work) -> (Callgrind, Child) {
    let callgrind = Callgrind::new();
    let program = bench.build.clone().unwrap_or_else(this_program);
    let spec = Spec { side, endpoint: server.endpoint(), work };
    let (child, _) = Child::start_by(callgrind.command(&program), &spec).await;
    // What a start leaves behind has ended.
    sleep(Duration::from_secs(1)).await;
    (callgrind, child)
}

/// All jobs become due at once.
async fn firings(bench: &Bench, server: &Running, side: Side, lock: Lock, jobs: usize) -> Counts {
    load::fill(&server.client, jobs, new_job).await;
    let work = Work::Burst { lock, jobs, contended: false };
    let (callgrind, child) = start(bench, server, side, work).await;
    let mut observer = Observer::start(&server.client).await;
    callgrind.begin(child.pid()).await;
    server.client.kv_client().put("/go", "", None).await.expect("a put");
    observer.until(jobs, side).await;
    idle(child.pid()).await;
    let counts = callgrind.end(child.pid()).await;
    child.end().await;
    counts
}

/// Changes of keys that are watched, and that no rule reads.
async fn unrelated(bench: &Bench, server: &Running, side: Side, changes: usize) -> Counts {
    let (callgrind, child) = start(bench, server, side, Work::Lag).await;
    callgrind.begin(child.pid()).await;
    load::fill(&server.client, changes, load::cold).await;
    idle(child.pid()).await;
    let counts = callgrind.end(child.pid()).await;
    child.end().await;
    counts
}

/// Waits until it has done what there was to do.
async fn idle(pid: u32) {
    const LOOK: Duration = Duration::from_millis(500);
    const IDLE: Duration = Duration::from_millis(100);
    let mut before = cpu(pid);
    loop {
        sleep(LOOK).await;
        let now = cpu(pid);
        if now - before <= IDLE {
            return;
        }
        before = now;
    }
}
