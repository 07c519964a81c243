//! Measures how many events a second pass through pattern matching, index and evaluation. It is done in
//! memory, on one thread, by that thread's CPU time. The floor is a hash map that takes the same keys and values
//! (`benches/shared/hash_map.rs`).
//!
//! `cargo bench -p benches --bench decide [-- FILTER] [--json FILE]`

mod cpu_time;
#[path = "../shared/hash_map.rs"]
mod hash_map;
#[path = "../shared/report.rs"]
mod report;
#[path = "../shared/rules.rs"]
mod rules;

use cpu_time::CpuTime;
use criterion::{BatchSize, Criterion, Throughput};
use etcd_rules::Value;
use etcd_rules::bench::Decider;
use hash_map::Baseline;
use report::Row;
use std::time::Duration;

/// Events in a batch, as a busy watch delivers them.
const BATCH: usize = 256;

const KEYS: [(usize, &str); 3] = [(1_000, "1k"), (100_000, "100k"), (1_000_000, "1M")];
const RULES: [usize; 3] = [10, 1_000, 10_000];
const LEAVES: [usize; 3] = [2, 5, 20];

/// Visits the keys in an order that no prefetcher can predict.
struct Walk {
    at: usize,
    keys: usize,
}

impl Walk {
    fn next(&mut self) -> usize {
        // The step is a prime, so that every key is visited, and large, so that the next key is far from the
        // last.
        self.at = (self.at + 7_368_787) % self.keys;
        self.at
    }
}

fn main() {
    let Some((filter, json)) = report::arguments() else { return };
    let mut criterion = Criterion::default()
        .with_measurement(CpuTime)
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .without_plots();
    let wanted = |name: &str| filter.is_empty() || filter.iter().any(|part| name.contains(part.as_str()));
    let mut names = Vec::new();
    for (keys, shown) in KEYS {
        for rules in RULES {
            for leaves in LEAVES {
                // The number of leaves affects decisions, and not how keys are found. So it isn't varied with
                // every number of rules.
                if leaves != 2 && rules != 1_000 {
                    continue;
                }
                let name = format!("known, {shown} keys, {rules} rules, {leaves} leaves");
                if wanted(&name) {
                    known(&mut criterion, &name, keys, rules, leaves);
                    names.push(name);
                }
            }
        }
        let name = format!("new, {shown} keys, 1000 rules, 2 leaves");
        if wanted(&name) {
            new(&mut criterion, &name, keys, 1_000);
            names.push(name);
        }
        let name = format!("hash map, {shown} keys");
        if wanted(&name) {
            plain(&mut criterion, &name, keys);
            names.push(name);
        }
    }
    criterion.final_summary();
    let rows = rows(&names);
    report::print_head("decide, one thread");
    report::print_source("hash map", "benches/shared/hash_map.rs", include_str!("../shared/hash_map.rs"));
    rows.iter().for_each(Row::print);
    if let Some(json) = json {
        report::add(&json, &rows);
    }
}

/// Puts keys that exist again, with other values.
fn known(criterion: &mut Criterion<CpuTime>, name: &str, keys: usize, rules: usize, leaves: usize) {
    let mut decider = Decider::new(&rules::engine(rules, leaves));
    decider.snapshot((0..keys).map(|n| (rules::item(n, rules), rules::value(n))));
    assert_eq!(decider.instances(), keys);
    let mut walk = Walk { at: 0, keys };
    let decider = std::cell::RefCell::new(decider);
    let mut group = criterion.benchmark_group("decide");
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function(name, |bencher| {
        let setup = || {
            let items = (0..BATCH).map(|_| walk.next()).map(|n| (rules::item(n, rules), rules::value(n)));
            decider.borrow_mut().puts(items.collect::<Vec<_>>())
        };
        bencher.iter_batched(setup, |changes| decider.borrow_mut().decide(changes), BatchSize::LargeInput);
    });
    group.finish();
}

/// Puts new keys. Each is matched against the patterns and makes a new instance.
fn new(criterion: &mut Criterion<CpuTime>, name: &str, keys: usize, rules: usize) {
    let mut decider = Decider::new(&rules::engine(rules, 2));
    decider.snapshot((0..keys).map(|n| (rules::item(n, rules), rules::value(n))));
    let mut next = keys;
    let decider = std::cell::RefCell::new(decider);
    let mut group = criterion.benchmark_group("decide");
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function(name, |bencher| {
        let setup = || {
            let items = (next..next + BATCH).map(|n| (rules::item(n, rules), rules::value(n)));
            next += BATCH;
            decider.borrow_mut().puts(items.collect::<Vec<_>>())
        };
        bencher.iter_batched(setup, |changes| decider.borrow_mut().decide(changes), BatchSize::LargeInput);
    });
    group.finish();
}

/// The same puts into the hash map.
fn plain(criterion: &mut Criterion<CpuTime>, name: &str, keys: usize) {
    let mut map = Baseline::new((0..keys).map(|n| (rules::item(n, 1_000), rules::value(n))));
    let mut walk = Walk { at: 0, keys };
    let mut group = criterion.benchmark_group("decide");
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function(name, |bencher| {
        let setup = || -> Vec<(String, Value)> {
            let numbers = (0..BATCH).map(|_| walk.next());
            numbers.map(|n| (rules::item(n, 1_000), rules::value(n))).collect()
        };
        bencher.iter_batched(setup, |items| map.put(items), BatchSize::LargeInput);
    });
    group.finish();
}

/// Reads the results that Criterion saved.
fn rows(names: &[String]) -> Vec<Row> {
    let saved = |name: &str| {
        let text = std::fs::read(format!("target/criterion/decide/{name}/new/estimates.json")).ok()?;
        let estimates: serde_json::Value = serde_json::from_slice(&text).ok()?;
        Some(estimates["median"]["point_estimate"].as_f64()? / BATCH as f64)
    };
    // Only what was measured in this run.
    let nanos = |name: &str| {
        let saved = || saved(name).unwrap_or_else(|| panic!("Criterion wrote nothing about `{name}`"));
        names.iter().any(|measured| measured == name).then(saved)
    };
    let mut rows = Vec::new();
    for (name, taken) in names.iter().filter_map(|name| Some((name, nanos(name)?))) {
        let mut row = Row::new(format!("decide: {name}"), "events/s", "none", &[1e9 / taken]);
        let keys = name.split(", ").find(|part| part.ends_with(" keys")).expect("each has keys");
        if !name.starts_with("hash map")
            && let Some(taken) = nanos(&format!("hash map, {keys}"))
        {
            row = row.floor(&[1e9 / taken]);
        }
        rows.push(row);
    }
    let (many, few) = ("known, 1M keys, 10000 rules, 2 leaves", "known, 1M keys, 10 rules, 2 leaves");
    if let (Some(many), Some(few)) = (nanos(many), nanos(few)) {
        let row = Row::new("decide: an event with 10000 rules and with 10, 1M keys", "ns", "none", &[many]);
        rows.push(row.floor(&[few]).goal("<=1.2"));
    }
    rows
}
