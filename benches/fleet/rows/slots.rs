//! Throughput where slots are what is scarce: callbacks take 100 ms, and all slots are full.

use super::{each, new_job};
use crate::Bench;
use crate::fleet::Fleet;
use crate::member::Spec;
use crate::observer::Observer;
use crate::puts;
use crate::report::Row;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// So few that the cores suffice for eight engines.
pub const SLOTS: usize = 16;

/// Milliseconds.
pub const CALLBACK: u64 = 100;

/// Until all slots are full.
const START: Duration = Duration::from_secs(1);

const WINDOW: u64 = 6;

pub async fn rows(bench: &Bench) -> Vec<Row> {
    let spec = Spec { callback: CALLBACK, slots: SLOTS, ..Spec::default() };
    let without = Spec { owners: false, ..spec.clone() };
    let (mut one, mut rows) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds {
        one.push(rate(bench, 1, &spec).await);
    }
    for (engines, goal) in [(2, ">=1.8"), (4, ">=3.6"), (8, ">=7")] {
        for (spec, shown) in [(&spec, ""), (&without, " without owners")] {
            let mut many = Vec::new();
            for _ in 0..bench.rounds {
                many.push(rate(bench, engines, spec).await);
            }
            let name = format!("{CALLBACK} ms callbacks, full slots, {engines} engines{shown} and one");
            let row = bench.row(name, "firings/s", &each(&many, |rate| *rate)).floor(&one);
            rows.push(if spec.owners { row.goal(goal) } else { row });
        }
    }
    rows
}

/// Firings a second while there is more to do than all slots can.
async fn rate(bench: &Bench, engines: usize, spec: &Spec) -> f64 {
    let window = bench.seconds(WINDOW);
    let most = engines * SLOTS * 1000 / CALLBACK as usize;
    let jobs = most * (window + 2 * START).as_secs() as usize * 3 / 2;
    let server = bench.server.fresh().await;
    puts::fill(&server.client, jobs, new_job).await;
    let spec = Spec { go: true, keys: jobs, ..spec.clone() };
    let fleet = Fleet::start(server, engines, &spec).await;
    let observer = Observer::start(&fleet.server.client).await;
    fleet.server.client.kv_client().put("/go", "", None).await.expect("a put");
    sleep(START).await;
    let (begin, before) = (Instant::now(), observer.done());
    sleep(window).await;
    let rate = (observer.done() - before) as f64 / begin.elapsed().as_secs_f64();
    fleet.server.client.kv_client().delete("/go", None).await.expect("a deletion");
    fleet.end().await;
    rate
}
