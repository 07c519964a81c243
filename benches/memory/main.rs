//! Measures the bytes of a key with its instance by a counting allocator, beside a plain hash map of the same
//! keys and values (`benches/shared/hash_map.rs`).
//!
//! `cargo bench -p benches --bench memory [-- --json FILE]`

#[path = "../shared/hash_map.rs"]
mod hash_map;
#[path = "../shared/report.rs"]
mod report;
#[path = "../shared/rules.rs"]
mod rules;

use etcd_rules::Value;
use etcd_rules::bench::Decider;
use hash_map::Baseline;
use report::Row;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use std::alloc::System;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Bytes that are allocated now.
fn live() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}

/// Makes something, and returns it with the bytes that it takes.
fn weigh<T>(make: impl FnOnce() -> T) -> (T, f64) {
    let before = live();
    let made = make();
    (made, (live() - before) as f64)
}

fn main() {
    let Some((_, json)) = report::arguments() else { return };
    let mut rows = Vec::new();
    for (keys, shown) in [(1_000, "1k"), (100_000, "100k"), (1_000_000, "1M")] {
        let items = || (0..keys).map(|n| (rules::item(n, 1_000.min(keys)), rules::value(n)));
        let (map, plain) = weigh(|| Baseline::new(items()));
        drop(map);
        let engine = rules::engine(1_000, 2);
        let (mut decider, rules_alone) = weigh(|| Decider::new(&engine));
        let ((), ours) = weigh(|| {
            decider.snapshot(items());
            // Put every key again, as happens over time.
            let again: Vec<(String, Value)> = items().collect();
            for chunk in again.chunks(1_000) {
                let changes = decider
                    .puts(chunk.iter().map(|(key, value)| (key.clone(), Value::from(value.as_bytes()))));
                decider.decide(changes);
            }
        });
        assert_eq!((decider.keys(), decider.instances()), (keys, keys));
        println!("{shown} keys; the rules alone: {rules_alone} bytes");
        let row = Row::new(
            format!("memory: a key with its instance, {shown} keys"),
            "bytes",
            "none",
            &[ours / keys as f64],
        );
        let row = row.floor(&[plain / keys as f64]);
        rows.push(if keys == 1_000_000 { row.goal("<=1.4") } else { row });
    }
    report::print_head("memory");
    report::print_source("hash map", "benches/shared/hash_map.rs", include_str!("../shared/hash_map.rs"));
    rows.iter().for_each(Row::print);
    if let Some(json) = json {
        report::add(&json, &rows);
    }
}
