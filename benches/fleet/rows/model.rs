//! What bounds a fleet, as `docs/scaling.md` says it: unit costs, and what follows from them. The costs of firings are
//! those of the group `costs`, as the file with the rows has them.

use super::costs::{BURST_CPU, STREAM_CPU};
use crate::Bench;
use crate::fleet::Fleet;
use crate::member::Spec;
use crate::process::cpu;
use crate::puts;
use crate::report::Row;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// The most engines of a measured fleet.
const MANY: usize = 8;

/// The fleets that the model is about.
const FLEETS: [usize; 4] = [1, 8, 32, 100];

/// Changes a second that fire nothing.
const RATE: u64 = 1000;

/// Changes that are put 120 in a transaction.
const BULK: usize = 60_000;

pub async fn rows(bench: &Bench) -> Vec<Row> {
    let mut rows = idle(bench).await;
    let [single, bulk] = delivery(bench).await;
    let known = bench.known();
    // In a burst the jobs are there already, and one change makes each done.
    rows.extend(firings(bench, (BURST_CPU, 1.0), &bulk, &known));
    rows.extend(firings(bench, (STREAM_CPU, 2.0), &single, &known));
    rows.extend([single, bulk]);
    rows
}

/// What engines cost that have nothing to do, and one more that joins them.
async fn idle(bench: &Bench) -> Vec<Row> {
    let (mut requests, mut busy, mut writes) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bench.rounds {
        let spec = Spec::default();
        let mut fleet = Fleet::fresh(bench, MANY - 1, &spec).await;
        let before = fleet.server.counters().await;
        fleet.join(&Spec { name: "last".into(), ..spec }).await;
        fleet.settle(true).await;
        let joined = fleet.server.counters().await;
        writes.push(joined.since(&before).puts);
        let begin = Instant::now();
        sleep(bench.seconds(20)).await;
        let (cost, seconds) = (fleet.server.counters().await.since(&joined), begin.elapsed().as_secs_f64());
        requests.push(cost.requests / seconds / MANY as f64);
        busy.push(cost.cpu.as_secs_f64() * 1e3 / seconds / MANY as f64);
        fleet.end().await;
    }
    vec![
        bench.row("model, an idle engine of eight, requests", "requests/s", &requests),
        bench.row("model, an idle engine of eight, etcd's CPU", "ms/s", &busy),
        bench.row("model, an eighth engine joins, keys written", "writes", &writes),
    ]
}

/// etcd's CPU for a change that fires nothing, for each engine that it is sent to: of changes that come one by one, and
/// many together.
async fn delivery(bench: &Bench) -> [Row; 2] {
    let mut costs = [Vec::new(), Vec::new()];
    for (costs, bulk) in costs.iter_mut().zip([false, true]) {
        for _ in 0..bench.rounds {
            let (one, many) = (changes(bench, 1, bulk).await, changes(bench, MANY, bulk).await);
            costs.push((many - one) / (MANY - 1) as f64);
        }
    }
    let [single, bulk] = costs;
    let row = |shown, costs: &[f64]| {
        bench.row(format!("model, etcd's CPU for each engine and change, {shown}"), "µs", costs)
    };
    [row("one by one, 1,000/s", &single), row("120 in a transaction", &bulk)]
}

/// Microseconds of etcd's CPU for a change that is sent to so many engines.
async fn changes(bench: &Bench, engines: usize, bulk: bool) -> f64 {
    let fleet = Fleet::fresh(bench, engines, &Spec::default()).await;
    let client = &fleet.server.client;
    let before = cpu(fleet.server.pid());
    let count = if bulk {
        let count = bench.many(BULK);
        puts::fill(client, count, |n| (format!("/jobs/{n}"), "idle".into())).await;
        count
    } else {
        let put = |n| {
            let mut kv = client.kv_client();
            async move { kv.put(format!("/jobs/{n}"), "idle", None).await.map(|_| ()) }
        };
        puts::paced(RATE, bench.seconds(6), put).await
    };
    // Until all is sent.
    sleep(Duration::from_millis(500)).await;
    let used = cpu(fleet.server.pid()) - before;
    fleet.end().await;
    used.as_secs_f64() * 1e6 / count as f64
}

/// etcd's CPU for a firing is that with one engine, and for each more engine that of sending it the job's changes. Says
/// whether that holds for eight, and what follows for other fleets.
fn firings(bench: &Bench, (what, changes): (&str, f64), delivered: &Row, known: &[Row]) -> Vec<Row> {
    let named = |more: &str| format!("model, {what}{more}");
    let name = format!("fleet: {what}, {MANY} engines and one");
    let measured = known.iter().find(|row| row.name == name);
    let Some((one, many)) = measured.and_then(|row| Some((row.floor?, row.ours))) else {
        let row = bench.row(named(""), "µs", &[]);
        return vec![row.not_measured("it needs the rows of the group `costs` in the file of `--json`")];
    };
    // It may be too little to be told from noise, which may be negative.
    let sending = changes * delivered.ours.max(0.0);
    let cost = |engines: usize| one + (engines - 1) as f64 * sending;
    let said = named(&format!(", {MANY} engines as the model says, and as measured"));
    let mut rows = vec![bench.row(said, "µs", &[cost(MANY)]).floor(&[many])];
    rows.extend(FLEETS.map(|engines| {
        let name = named(&format!(", a core of etcd is full, {engines} engines"));
        bench.row(name, "firings/s", &[1e6 / cost(engines)])
    }));
    rows
}
