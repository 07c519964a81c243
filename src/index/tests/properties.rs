//! Random rules and random events in random order: the index is compared with the oracle.

use super::oracle::{KEYS, Store};
use super::rules_showing;
use super::world::{Step, World};
use crate::condition::{Condition, all_equal, key};
use crate::properties::{check, made_of};
use proptest::prelude::*;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

/// Rules over no, one and two attributes: patterns that bind all of them, and others.
const POOLS: [(&[&str], &[&str]); 4] = [
    (&["/config/enabled", "/config/mode", "/s/1/state"], &[]),
    (&["/s/:id/state", "/s/:id/owner", "/s/:id/:id"], &["/config/enabled", "/s/1/state", "/config/mode"]),
    (&["/s/*path", "/g/*path"], &["/config/enabled", "/s/1/state"]),
    (
        &["/g/:geo/:id/state", "/g/:id/:geo"],
        &[
            "/config/:geo/limit",
            "/s/:id/state",
            "/config/enabled",
            "/g/:geo/limit",
            "/config/mode",
            "/s/:id/:id",
        ],
    ),
];

fn leaf(names: Vec<&'static str>) -> impl Strategy<Value = Condition> {
    let name = || prop::sample::select(names.clone());
    prop_oneof![
        2 => name().prop_map(|name| key(name).absent()),
        2 => name().prop_map(|name| key(name).exists()),
        3 => name().prop_map(|name| key(name).equals("a")),
        1 => name().prop_map(|name| key(name).not_equals("b")),
        2 => prop::sample::subsequence(names.clone(), 2..=names.len().min(3)).prop_map(all_equal),
    ]
}

/// A condition, and patterns that are shown besides.
fn condition() -> impl Strategy<Value = (Condition, Vec<&'static str>)> {
    prop::sample::select(&POOLS[..]).prop_flat_map(|(binders, partial)| {
        let all: Vec<&str> = binders.iter().chain(partial).copied().collect();
        let shown = prop::sample::subsequence(all.clone(), 0..3);
        let tree = leaf(all).prop_recursive(3, 6, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 1..3).prop_map(Condition::all),
                prop::collection::vec(inner.clone(), 1..3).prop_map(Condition::any),
                inner.prop_map(|condition| !condition),
            ]
        });
        // At least one pattern must bind all attributes.
        let binder = prop::sample::select(binders);
        (binder, any::<bool>(), tree, shown).prop_map(|(binder, both, tree, shown)| {
            let binder = key(binder).equals("a");
            (if both { binder & tree } else { binder | tree }, shown)
        })
    })
}

/// Some keys are used more than others, so that much happens to them.
fn key_number() -> impl Strategy<Value = usize> {
    prop_oneof![1 => 0..KEYS.len(), 2 => prop::sample::select(&[0, 2, 5, 6, 14, 17][..])]
}

fn writes() -> impl Strategy<Value = BTreeMap<usize, Option<&'static str>>> {
    let value = prop_oneof![3 => Just(Some("a")), 2 => Just(Some("b")), 1 => Just(Some("")), 3 => Just(None)];
    prop::collection::btree_map(key_number(), value, 1..4)
}

fn step() -> impl Strategy<Value = Step> {
    let watcher = || 0..3usize;
    let which = || 0..64usize;
    let bounds = || prop::collection::btree_set(key_number(), 2..6);
    let back = || prop_oneof![2 => Just(0), 1 => 0..8i64];
    prop_oneof![
        12 => (writes(), prop::bool::weighted(0.4)).prop_map(|(writes, own)| Step::Write { writes, own }),
        12 => (watcher(), 1..4usize, any::<bool>())
            .prop_map(|(watcher, count, drain)| Step::Deliver { watcher, count, drain }),
        1 => watcher().prop_map(|watcher| Step::Progress { watcher }),
        3 => prop::collection::btree_set(key_number(), 1..5).prop_map(|keys| Step::Read { keys }),
        8 => which().prop_map(|which| Step::Tell { which }),
        6 => prop_oneof![1..4usize, Just(1024)].prop_map(|budget| Step::Work { budget }),
        2 => (watcher(), back()).prop_map(|(watcher, back)| Step::OpenSnapshot { watcher, back }),
        2 => (watcher(), back()).prop_map(|(watcher, back)| Step::OpenMoving { watcher, back }),
        3 => (watcher(), back(), prop_oneof![Just(BTreeSet::new()), bounds()])
            .prop_map(|(watcher, back, bounds)| Step::OpenCrawl { watcher, back, bounds }),
        5 => (watcher(), 1..6usize).prop_map(|(watcher, count)| Step::Page { watcher, count }),
        4 => watcher().prop_map(|watcher| Step::Close { watcher }),
        1 => watcher().prop_map(|watcher| Step::Cancel { watcher }),
        3 => which().prop_map(|which| Step::Release { which }),
        1 => which().prop_map(|which| Step::Ask { which }),
        1 => Just(Step::DecideAll),
    ]
}

const PREFIXES: [&[&str]; 3] = [&[""], &["/config/", "/g/", "/s/"], &["/"]];

#[derive(Default)]
struct Seen {
    stale: Cell<u64>,
    released: Cell<u64>,
    drift: Cell<u64>,
    decided: Cell<u64>,
    coherent: Cell<u64>,
    others: Cell<u64>,
}

/// A history, and what it is about.
#[derive(Debug)]
struct History {
    conditions: Vec<(Condition, Vec<&'static str>)>,
    prefixes: &'static [&'static str],
    before: Vec<BTreeMap<usize, Option<&'static str>>>,
    starts_at_once: bool,
    steps: Vec<Step>,
    end: (bool, usize),
}

/// Histories that consist of these steps.
fn histories(steps: impl Strategy<Value = Step>, starts_at_once: f64) -> impl Strategy<Value = History> {
    let inputs = (
        prop::collection::vec(condition(), 1..5),
        prop::sample::select(&PREFIXES[..]),
        prop::collection::vec(writes(), 0..6),
        prop::bool::weighted(starts_at_once),
        prop::collection::vec(steps, 0..60),
        (any::<bool>(), prop_oneof![1..4usize, Just(1024)]),
    );
    inputs.prop_map(|(conditions, prefixes, before, starts_at_once, steps, end)| History {
        conditions,
        prefixes,
        before,
        starts_at_once,
        steps,
        end,
    })
}

/// Compares the index with the oracle after every step.
fn play(history: History) -> World {
    let History { conditions, prefixes, before, starts_at_once, steps, end } = history;
    let mut store = Store::new();
    before.iter().for_each(|writes| store.write(writes));
    let mut world = World::new(rules_showing(conditions), prefixes, store);
    if starts_at_once {
        (0..prefixes.len()).for_each(|watcher| world.step(Step::Close { watcher }));
        (0..prefixes.len() + 1).for_each(|_| world.step(Step::Work { budget: 1024 }));
        assert!(world.index.is_ready());
    }
    steps.into_iter().for_each(|step| world.step(step));
    world.end(end.0, end.1);
    world
}

/// Runs random histories.
fn run(cases: u32, steps: impl Strategy<Value = Step>, starts_at_once: f64) -> Seen {
    let seen = Seen::default();
    check(cases, &histories(steps, starts_at_once), |history| {
        let world = play(history);
        seen.stale.set(seen.stale.get() + world.stale);
        seen.released.set(seen.released.get() + world.released);
        seen.drift.set(seen.drift.get() + world.drift);
        let (coherent, others) = world.coherent.get();
        seen.coherent.set(seen.coherent.get() + coherent);
        seen.others.set(seen.others.get() + others);
        seen.decided.set(seen.decided.get() + world.index.counters().decided);
        Ok(())
    });
    seen
}

/// A target of [`fuzz`](crate::fuzz): the bytes choose rules and a history.
pub(crate) fn attack(bytes: &[u8]) {
    if let Some(history) = made_of(bytes, &histories(step(), 0.8)) {
        play(history);
    }
}

#[test]
fn whatever_happens_in_whatever_order_the_index_agrees_with_the_oracle() {
    let seen = run(1200, step(), 0.8);
    assert!(seen.stale.get() > 300 && seen.released.get() > 30, "{:?} {:?}", seen.stale, seen.released);
    assert!(seen.decided.get() > 8_000, "{:?}", seen.decided);
    assert!(seen.coherent.get() > 3_000 && seen.others.get() > 300, "{:?} {:?}", seen.coherent, seen.others);
}

#[test]
fn events_that_the_watch_loses_are_repaired_by_a_crawl() {
    let lose = (0..3usize).prop_map(|watcher| Step::Lose { watcher });
    let seen = run(800, prop_oneof![9 => step(), 1 => lose], 1.0);
    assert!(seen.drift.get() > 80, "{:?}", seen.drift);
}

#[test]
fn the_universe_has_no_key_twice() {
    assert_eq!(KEYS.iter().collect::<BTreeSet<_>>().len(), KEYS.len());
}
