//! An engine is killed. What ran there is taken over when its locks end, what waited there when its key as a member
//! does.

use super::new_job;
use crate::Bench;
use crate::fleet::{Fleet, MEMBERS};
use crate::member::Spec;
use crate::observer::{Observer, deletion};
use crate::puts;
use crate::report::Row;
use etcd_client::GetOptions;
use std::collections::HashSet;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// Seconds.
const TTL: u64 = 4;

const JOBS: usize = 300;

/// So many run in the engine that is killed.
const SLOTS: usize = 20;

/// Below it are the locks of the jobs.
const LOCKS: &str = "/etcd-rules/bench/lock/job/";

/// How long the takeover may last before something is broken.
const PATIENCE: Duration = Duration::from_secs(60);

struct Round {
    /// From the kill to the last of what ran, in seconds.
    running: f64,
    /// From the end of the member's key to the last of what waited.
    waiting: f64,
    /// From the kill to the end of the member's key.
    key: f64,
}

pub async fn rows(bench: &Bench) -> Vec<Row> {
    let mut rounds = Vec::new();
    for _ in 0..3 * bench.rounds {
        rounds.push(round(bench).await);
    }
    let worst = |figure: fn(&Round) -> f64| rounds.iter().map(figure).fold(f64::NEG_INFINITY, f64::max);
    let row = |what: &str, figure: fn(&Round) -> f64| {
        let name =
            format!("a killed engine, lock TTL {TTL} s, {what}, the slowest of {} rounds", rounds.len());
        bench.row(name, "s", &[worst(figure)])
    };
    vec![
        row("what ran is done after the kill", |r| r.running).goal(format!("<={}", TTL + 1)),
        row("what waited is done after its key's end", |r| r.waiting).goal("<=1"),
        row("its key ends after the kill", |r| r.key),
    ]
}

async fn round(bench: &Bench) -> Round {
    let others = Spec { lock_ttl: TTL, ..Spec::default() };
    // It never gets done with what it has begun.
    let victim = Spec { name: "victim".into(), callback: 600_000, slots: SLOTS, ..others.clone() };
    let mut fleet = Fleet::fresh(bench, 2, &others).await;
    fleet.join(&victim).await;
    fleet.settle(true).await;
    let victim = fleet.engines.pop().expect("it has joined");
    let mut observer = Observer::start(&fleet.server.client).await;
    let gone = deletion(&fleet.server.client, MEMBERS).await;
    puts::fill(&fleet.server.client, JOBS, new_job).await;
    // The others are done with theirs by then, and have not begun to help.
    sleep(Duration::from_millis(700)).await;
    let options = Some(GetOptions::new().with_prefix());
    let locks = fleet.server.client.kv_client().get(LOCKS, options).await.expect("the locks");
    let name = |kv: &etcd_client::KeyValue| {
        let id = kv.key().strip_prefix(LOCKS.as_bytes()).expect("the prefix");
        format!("/jobs/{}", String::from_utf8_lossy(id))
    };
    let ran: HashSet<String> = locks.kvs().iter().map(name).collect();
    let done_before: HashSet<String> = observer.times().into_keys().collect();
    victim.kill().await;
    let killed = Instant::now();
    assert_eq!(ran.len(), SLOTS, "all slots of the killed engine were taken, and nobody else works");
    let gone = timeout(PATIENCE, gone).await.expect("its key ends").expect("no panic");
    observer.until(JOBS).await;
    fleet.end().await;
    let (mut last_of_ran, mut last_of_waiting) = (killed, None);
    for (job, at) in observer.times() {
        if ran.contains(&job) {
            last_of_ran = last_of_ran.max(at);
        } else if !done_before.contains(&job) {
            last_of_waiting = last_of_waiting.max(Some(at));
        }
    }
    let last_of_waiting = last_of_waiting.expect("something waited in the engine that was killed");
    assert!(last_of_waiting > gone, "the others helped before they took over: nothing of that was measured");
    Round {
        running: (last_of_ran - killed).as_secs_f64(),
        waiting: last_of_waiting.saturating_duration_since(gone).as_secs_f64(),
        key: (gone - killed).as_secs_f64(),
    }
}
