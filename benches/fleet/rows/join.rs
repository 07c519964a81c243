//! An engine joins two others while 100,000 keys are there, and jobs come.

use crate::Bench;
use crate::clock;
use crate::fleet::Fleet;
use crate::member::Spec;
use crate::process::peak_memory;
use crate::puts;
use crate::report::Row;
use std::time::Duration;
use tokio::time::sleep;

const KEYS: usize = 100_000;

/// Jobs a second.
const RATE: u64 = 200;

/// Time for what etcd does with the keys afterwards.
const SETTLE: Duration = Duration::from_secs(3);

struct Round {
    alone: f64,
    joined: f64,
    /// Milliseconds of the slowest firing.
    before: f64,
    during: f64,
    /// Megabytes.
    memory: f64,
}

pub async fn rows(bench: &Bench) -> Vec<Row> {
    let mut rounds = Vec::new();
    for _ in 0..3 * bench.rounds {
        rounds.push(round(bench).await);
    }
    let worst = |figure: fn(&Round) -> f64| rounds.iter().map(figure).fold(f64::NEG_INFINITY, f64::max);
    let count = rounds.len();
    let row = |what: &str, unit, figure: fn(&Round) -> f64| {
        let name = format!("a join with {KEYS} keys, {what}, the worst of {count} rounds");
        bench.row(name, unit, &[worst(figure)])
    };
    vec![
        row("slowest firing beyond the slowest before", "ms", |r| r.during - r.before).goal("<=250"),
        row("slowest firing before", "ms", |r| r.before),
        row("ready beyond twice its time alone", "s", |r| r.joined - 2.0 * r.alone).goal("<=5"),
        row("ready", "s", |r| r.joined),
        row("ready alone", "s", |r| r.alone),
        row("peak memory of an engine", "MB", |r| r.memory),
    ]
}

async fn round(bench: &Bench) -> Round {
    let keys = bench.many(KEYS);
    let server = bench.server.fresh().await;
    let item = |n| (format!("/items/item-{n:08}"), format!("idle-{n:010}"));
    puts::fill(&server.client, keys, item).await;
    sleep(SETTLE).await;
    let spec = Spec { items: true, keys, slots: 64, ..Spec::default() };
    let mut fleet = Fleet { server, engines: Vec::new() };
    let alone = fleet.join(&Spec { name: "alone".into(), ..spec.clone() }).await;
    let memory = peak_memory(fleet.engines[0].pid()) as f64 / 1e6;
    fleet.join(&Spec { name: "second".into(), ..spec.clone() }).await;
    fleet.settle(true).await;
    let client = fleet.server.client.clone();
    let length = bench.seconds(10);
    let load = |from: u64| {
        let client = client.clone();
        async move {
            let put = |n| {
                let mut kv = client.kv_client();
                let (key, value) = (format!("/jobs/{from}-{n}"), format!("new {}", clock::now()));
                async move { kv.put(key, value, None).await.map(|_| ()) }
            };
            puts::paced(RATE, length, put).await;
            sleep(Duration::from_millis(500)).await;
        }
    };
    slowest(&mut fleet).await;
    load(0).await;
    let before = slowest(&mut fleet).await;
    let third = Spec { name: "third".into(), ..spec };
    let (joined, ()) = tokio::join!(fleet.join(&third), async {
        load(1).await;
    });
    let during = slowest(&mut fleet).await;
    fleet.end().await;
    Round { alone, joined, before, during, memory }
}

/// The slowest firing in any engine since the last call.
async fn slowest(fleet: &mut Fleet) -> f64 {
    fleet.counts().await.0.iter().map(|engine| engine.slowest).fold(0.0, f64::max)
}
