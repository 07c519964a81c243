//! From the start of an engine until it is ready, with many keys.

use super::child;
use crate::Bench;
use crate::child::peak_memory;
use crate::report::Row;
use crate::spec::{Side, Work};

pub async fn rows(bench: &Bench) -> Vec<Row> {
    let mut rows = Vec::new();
    for (keys, shown) in bench.many_keys() {
        let server = super::filled(bench, keys).await;
        let (mut floor, mut ours) = (Vec::new(), Vec::new());
        let (mut floor_memory, mut our_memory) = (Vec::new(), Vec::new());
        for _ in 0..bench.rounds {
            for (side, times, memory) in
                [(Side::Floor, &mut floor, &mut floor_memory), (Side::Engine, &mut ours, &mut our_memory)]
            {
                let (child, ready) = child(&server, side, Work::Ready).await;
                assert_eq!(ready.keys, keys);
                times.push(ready.seconds);
                memory.push(peak_memory(child.pid()) as f64 / 1e6);
                child.end().await;
            }
        }
        let label = bench.server.label();
        let row = Row::new(format!("start: ready, {shown} keys"), "s", label, &ours).floor(&floor);
        rows.push(if keys == 1_000_000 { row.goal("<=1.3") } else { row });
        rows.push(
            Row::new(format!("start: peak memory, {shown} keys"), "MB", label, &our_memory)
                .floor(&floor_memory),
        );
    }
    rows
}
