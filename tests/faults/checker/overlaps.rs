//! Who ran at the same time.

use super::effects::effective;
use super::{Found, Promise};
use crate::history::{Fate, History, Process, Run};
use crate::moment::{Micros, SECOND, micros, seconds};
use std::collections::BTreeMap;

/// Clocks are read before and after what they time.
const SLACK: Micros = SECOND / 20;
/// Within this time a firing is told that its lock or its lease was removed by hand, and a little later it tells us.
const BY_HAND: Micros = 3 * SECOND;

pub(super) fn check(history: &History, found: &mut Found) {
    effects(history, found);
    callbacks(history, found);
    attempts(history, found);
}

/// No two effective callbacks of a lock at once, and tokens that rise.
fn effects(history: &History, found: &mut Found) {
    let mut last = BTreeMap::new();
    for effective in effective(history) {
        let run = effective.run;
        let Some(lock) = &run.lock else { continue };
        if run.token <= 0 || run.token >= effective.revision {
            let Run { name, token, .. } = run;
            let revision = effective.revision;
            found.add(Promise::Lock, format!("run {name} has token {token} and took effect at {revision}"));
        }
        let Some(before) = last.insert((effective.epoch, lock), run) else { continue };
        let before: &Run = before;
        if before.token >= run.token {
            let names = (&before.name, &run.name);
            found.add(
                Promise::Lock,
                format!("{lock}: tokens {} and {} of {names:?}", before.token, run.token),
            );
        }
        let end = before.end.map_or(run.start, |(end, _)| end);
        if end > run.start + SLACK {
            let by = seconds(end - run.start);
            let names = (&before.name, &run.name);
            found.add(Promise::Lock, format!("{lock}: effective runs {names:?} overlap by {by:.2} s"));
        }
    }
}

/// No two callbacks of a lock at once, as far as their processes could know.
fn callbacks(history: &History, found: &mut Found) {
    let mut by_lock: BTreeMap<&str, Vec<&Run>> = BTreeMap::new();
    for run in &history.runs {
        if let Some(lock) = &run.lock {
            by_lock.entry(lock).or_default().push(run);
        }
    }
    let mut overlaps: Vec<(Micros, String)> = Vec::new();
    for (lock, mut runs) in by_lock {
        runs.sort_by_key(|run| run.start);
        let mut until: Option<(Micros, &Run)> = None;
        for run in runs {
            if let Some((end, before)) = until
                && end > run.start + SLACK
            {
                overlaps.push((end - run.start, format!("{lock}: {} and {}", before.name, run.name)));
            }
            let end = excusable_until(history, run);
            if until.is_none_or(|(longest, _)| end > longest) {
                until = Some((end, run));
            }
        }
    }
    if let Some((longest, which)) = overlaps.iter().max() {
        let (many, longest) = (overlaps.len(), seconds(*longest));
        found.add(
            Promise::Alone,
            format!("{many} pairs of callbacks overlap, by up to {longest:.2} s: {which}"),
        );
    }
}

/// The process in which a run was.
fn process_of<'h>(history: &'h History, run: &Run) -> Option<&'h Process> {
    history
        .processes
        .iter()
        .filter(|process| process.engine == run.engine && process.began <= run.start)
        .max_by_key(|process| process.began)
}

/// Until when a run counts as one that excludes others: until its end, or until something happened that it could not
/// know of.
fn excusable_until(history: &History, run: &Run) -> Micros {
    let process = process_of(history, run);
    let died = process.and_then(|process| process.killed.or(process.ended)).unwrap_or(Micros::MAX);
    let mut until = run.end.map_or(died, |(end, _)| end.min(died));
    for (from, to) in process.into_iter().flat_map(|process| &process.frozen) {
        // A short stop is no excuse: the lease outlives it, and it is renewed afterwards.
        if (run.start..until).contains(from) && to - from > micros(history.lock_ttl) / 8 {
            until = until.min(*from);
        }
    }
    for hand in history.by_hand.iter().filter(|hand| hand.token == run.token) {
        // It was told, or had ended.
        let noticed = run.told.unwrap_or(Micros::MAX).min(until);
        if run.start <= hand.at && noticed <= hand.at + BY_HAND {
            until = until.min(hand.at);
        }
    }
    for ended in history.epochs.iter().filter_map(|epoch| epoch.ended) {
        if (run.start..until).contains(&ended) {
            until = ended;
        }
    }
    until
}

/// After an error of the link the next attempt has the same number, or a smaller one.
fn attempts(history: &History, found: &mut Found) {
    let mut by_instance: BTreeMap<(&str, &str), Vec<&Run>> = BTreeMap::new();
    for run in &history.runs {
        by_instance.entry((&run.rule, &run.id)).or_default().push(run);
    }
    let mut counted = Vec::new();
    for runs in by_instance.values_mut() {
        runs.sort_by_key(|run| run.start);
        for pair in runs.windows(2) {
            let [before, after] = pair else { continue };
            let was_link = matches!(before.end, Some((_, Fate::Link)));
            if was_link && before.engine == after.engine && after.attempt > before.attempt {
                counted.push((&before.name, &after.name, before.attempt, after.attempt));
            }
        }
    }
    if let Some((before, after, from, to)) = counted.first() {
        let many = counted.len();
        let text =
            format!("{many} errors of the link counted as attempts: {before} was {from}, and {after} {to}");
        found.add(Promise::Attempt, text);
    }
}
