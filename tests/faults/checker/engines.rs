//! What engines did: cancelled callbacks, health, what they left, memory.

use super::{Found, Promise};
use crate::history::{Expect, Fate, History, Process, Run, Told};
use crate::moment::{Micros, SECOND, micros, seconds};
use std::collections::BTreeMap;

/// An engine that no endpoint answers says so within this time.
const NOTICED: Micros = 20 * SECOND;

pub(super) fn check(history: &History, expect: &Expect, found: &mut Found) {
    if !expect.cancels {
        cancellations(history, expect, found);
    }
    health(history, found);
    for process in &history.processes {
        let engine = process.engine;
        if process.drift.is_some_and(|drift| drift > 0) {
            let drift = process.drift.unwrap_or_default();
            found.add(Promise::Drift, format!("engine {engine}: crawls had to repair {drift} differences"));
        }
        let memory = process.memory >> 20;
        if memory > expect.memory {
            let most = expect.memory;
            found.add(Promise::Memory, format!("engine {engine}: {memory} MiB, more than {most}"));
        }
    }
    for left in &history.left {
        found.add(Promise::Left, left.clone());
    }
    for broken in &history.broken {
        found.add(Promise::Felt, broken.clone());
    }
    if history.felt.is_empty() && history.broken.is_empty() {
        found.add(Promise::Felt, "the scenario shows no proof that its fault was felt");
    }
    for (proof, _) in history.felt.iter().filter(|(_, much)| *much == 0) {
        found.add(Promise::Felt, format!("the fault was not felt: {proof}"));
    }
    if history.calm.is_none() && history.broken.is_empty() {
        let within = expect.recovery;
        let unrest = history.unrest.join("; ");
        found.add(Promise::Recovery, format!("not calm {within:?} after the last fault: {unrest}"));
    }
}

/// The rounds in which some endpoint of an engine answered, by when they began.
pub fn answered(history: &History, engine: usize) -> Vec<Micros> {
    let limit = micros(history.lock_ttl) / 5;
    let mut rounds: BTreeMap<u64, Micros> = BTreeMap::new();
    for probe in history.probes.iter().filter(|probe| probe.engine == engine) {
        if probe.took.is_some_and(|took| took <= limit) {
            let at = rounds.entry(probe.round).or_insert(probe.at);
            *at = probe.at.min(*at);
        }
    }
    rounds.into_values().collect()
}

/// The longest time without an answer within `from..to`.
fn longest_silence(answered: &[Micros], from: Micros, to: Micros) -> Micros {
    let mut last = from;
    let mut longest = 0;
    for at in answered.iter().copied().filter(|at| (from..to).contains(at)).chain([to]) {
        longest = longest.max(at - last);
        last = at;
    }
    longest
}

fn cancellations(history: &History, expect: &Expect, found: &mut Found) {
    let ttl = micros(history.lock_ttl);
    let tolerated = expect.tolerated_outage.map_or(ttl / 5 + SECOND, micros);
    let mut answers: BTreeMap<usize, Vec<Micros>> = BTreeMap::new();
    let mut by_engine: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    for run in &history.runs {
        let Some(at) = cancelled_at(run) else { continue };
        let window = at.saturating_sub(ttl)..at;
        let process = history
            .processes
            .iter()
            .filter(|process| process.engine == run.engine && process.began <= run.start)
            .max_by_key(|process| process.began);
        let by_hand = history.by_hand.iter().any(|hand| hand.token == run.token && hand.at <= at);
        if by_hand || process.is_some_and(|process| is_its_own_affair(process, &window)) {
            continue;
        }
        let answered = answers.entry(run.engine).or_insert_with(|| answered(history, run.engine));
        let silence = longest_silence(answered, window.start, window.end);
        if silence <= tolerated {
            let (after, silence) = (seconds(at - run.start), seconds(silence));
            let text = format!("{} after {after:.1} s (longest outage {silence:.1} s)", run.name);
            by_engine.entry(run.engine).or_default().push(text);
        }
    }
    for (engine, runs) in by_engine {
        let (many, first) = (runs.len(), &runs[0]);
        found.add(
            Promise::Cancelled,
            format!("engine {engine}: {many} callbacks cancelled while etcd answered: {first} …"),
        );
    }
}

fn cancelled_at(run: &Run) -> Option<Micros> {
    match run.end {
        _ if run.told.is_some() => run.told,
        Some((at, Fate::Cancelled | Fate::Dropped)) => Some(at),
        _ => None,
    }
}

/// It stood still, was ended, or is ending.
fn is_its_own_affair(process: &Process, window: &std::ops::Range<Micros>) -> bool {
    let ended = [process.asked_to_stop, process.killed].into_iter().flatten().any(|at| at <= window.end);
    // What a process that was woken up finds out takes it a while.
    let stood = process.frozen.iter().any(|(from, to)| *from < window.end && to + 2 * SECOND > window.start);
    ended || stood
}

/// Who is without an answer for long must not say that all is well.
fn health(history: &History, found: &mut Found) {
    let mut told: BTreeMap<usize, Vec<&Told>> = BTreeMap::new();
    for health in &history.health {
        told.entry(health.engine).or_default().push(health);
    }
    for process in &history.processes {
        let end =
            [process.asked_to_stop, process.killed, process.ended, history.calm].into_iter().flatten().min();
        let (Some(told), Some(end)) = (told.get(&process.engine), end) else { continue };
        let answered = answered(history, process.engine);
        let alive: Vec<Micros> =
            answered.into_iter().filter(|at| (process.began..end).contains(at)).collect();
        for silence in alive.windows(2) {
            let [from, to] = *silence else { continue };
            let stood = process.frozen.iter().any(|(begin, until)| *begin < to && *until > from);
            if to - from > NOTICED && !stood && !says_trouble(told, from, from + NOTICED) {
                let (engine, long) = (process.engine, seconds(to - from));
                found.add(
                    Promise::Health,
                    format!("engine {engine}: no endpoint answered for {long:.0} s, and it said ready"),
                );
            }
        }
    }
}

/// Whether an engine was anything but ready at some time of the span.
fn says_trouble(told: &[&Told], from: Micros, to: Micros) -> bool {
    let before = told.iter().rfind(|told| told.at <= from);
    let within = told.iter().filter(|told| (from..to).contains(&told.at));
    before.into_iter().chain(within).any(|told| told.state != "ready")
}
