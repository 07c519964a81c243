//! From the start of an engine until it is ready, with many keys.

use super::{child, each, filled};
use crate::Bench;
use crate::process::{cpu, peak_memory};
use crate::report::Row;
use crate::spec::{Side, Work};

struct Round {
    seconds: f64,
    /// Megabytes.
    peak: f64,
    /// Seconds of CPU time, of the side itself and of etcd.
    used: f64,
    etcd: f64,
}

pub async fn rows(bench: &Bench) -> Vec<Row> {
    let mut rows = Vec::new();
    for (keys, shown) in bench.many_keys() {
        let (mut floor, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..bench.rounds {
            let server = filled(bench, keys).await;
            for (side, rounds) in [(Side::Floor, &mut floor), (Side::Engine, &mut ours)] {
                let before = cpu(server.pid());
                let (child, ready) = child(bench, &server, side, Work::Ready).await;
                assert_eq!(ready.keys, bench.many(keys));
                rounds.push(Round {
                    seconds: ready.seconds,
                    peak: peak_memory(child.pid()) as f64 / 1e6,
                    used: cpu(child.pid()).as_secs_f64(),
                    etcd: (cpu(server.pid()) - before).as_secs_f64(),
                });
                child.end().await;
            }
        }
        type Figure = fn(&Round) -> f64;
        let figures: [(&str, &str, Figure); 4] = [
            ("ready", "s", |round| round.seconds),
            ("peak memory", "MB", |round| round.peak),
            ("CPU until ready, the side itself", "s", |round| round.used),
            ("CPU until ready, etcd", "s", |round| round.etcd),
        ];
        for (what, unit, figure) in figures {
            let name = format!("start: {what}, {shown} keys");
            let row = Row::new(name, unit, bench.server.label(), &each(&ours, figure));
            let row = row.floor(&each(&floor, figure));
            rows.push(if (keys, what) == (1_000_000, "ready") { row.goal("<=1.3") } else { row });
        }
    }
    rows
}
