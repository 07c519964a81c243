//! One engine whose callbacks are 20 times slower must not hold up what it owns: a fleet with it beside the same fleet
//! without it, until all is done.

use super::new_job;
use super::slots::{CALLBACK, SLOTS};
use crate::Bench;
use crate::fleet::Fleet;
use crate::member::Spec;
use crate::observer::Observer;
use crate::puts;
use crate::report::Row;
use std::time::Duration;
use tokio::time::Instant;

/// Engines that are not slow.
const EVEN: usize = 3;

/// Jobs that keep them busy for ten seconds.
const JOBS: usize = EVEN * SLOTS * 10 * 1000 / CALLBACK as usize;

/// After this the rate is that of what was done.
const PATIENCE: Duration = Duration::from_secs(60);

pub async fn rows(bench: &Bench) -> Vec<Row> {
    let (mut even, mut with, mut left) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bench.rounds {
        even.push(drain(bench, false).await.0);
        let (rate, undone) = drain(bench, true).await;
        with.push(rate);
        left.push(undone as f64);
    }
    let name = format!("{EVEN} engines and one 20 times slower, and without it, {CALLBACK} ms callbacks");
    let undone =
        format!("{EVEN} engines and one 20 times slower, of {} jobs not done after 60 s", bench.many(JOBS));
    vec![bench.row(name, "firings/s", &with).floor(&even).goal(">=0.9"), bench.row(undone, "jobs", &left)]
}

/// Firings a second until all are done, and how many are not.
async fn drain(bench: &Bench, slow: bool) -> (f64, usize) {
    let jobs = bench.many(JOBS);
    let server = bench.server.fresh().await;
    puts::fill(&server.client, jobs, new_job).await;
    let spec = Spec { go: true, callback: CALLBACK, slots: SLOTS, keys: jobs, ..Spec::default() };
    let mut fleet = Fleet::start(server, EVEN, &spec).await;
    if slow {
        fleet.join(&Spec { name: "slow".into(), callback: 20 * CALLBACK, ..spec }).await;
        fleet.settle(true).await;
    }
    let mut observer = Observer::start(&fleet.server.client).await;
    let begin = Instant::now();
    fleet.server.client.kv_client().put("/go", "", None).await.expect("a put");
    let done = observer.wait(jobs, PATIENCE).await;
    let rate = done as f64 / begin.elapsed().as_secs_f64();
    fleet.server.client.kv_client().delete("/go", None).await.expect("a deletion");
    fleet.end().await;
    (rate, jobs - done)
}
