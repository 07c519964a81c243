//! What took effect, by the history of keys.

use super::{Found, Promise};
use crate::history::{Change, Epoch, Fate, History, Run, Seen};
use crate::jobs;
use crate::moment::Micros;
use std::collections::{BTreeMap, HashMap};

/// One job in one epoch.
#[derive(Default)]
struct Story<'h> {
    /// What was asked, if it is there now.
    open: Option<&'h Seen>,
    /// The revision at which it was taken away last, and what it had been.
    taken: Option<(i64, &'h Seen)>,
    /// It was done before the epoch began.
    done_before: bool,
    /// The receipts, with their revisions.
    done: Vec<(i64, &'h Seen)>,
}

/// A run that took effect.
pub(super) struct Effective<'h> {
    pub(super) run: &'h Run,
    pub(super) epoch: usize,
    pub(super) revision: i64,
}

pub(super) fn check(history: &History, found: &mut Found) {
    let runs: HashMap<&str, &Run> = history.runs.iter().map(|run| (run.name.as_str(), run)).collect();
    if history.epochs.is_empty() {
        found.add(Promise::Felt, "the observer saw no store");
    }
    for (number, epoch) in history.epochs.iter().enumerate() {
        let is_last = number + 1 == history.epochs.len();
        continuity(epoch, number, found);
        for ((kind, id), story) in stories(epoch) {
            let name = format!("{kind}/{id} in epoch {number}");
            once(&name, &story, is_last, found);
            for (revision, receipt) in &story.done {
                commit(&name, (kind, id), *revision, receipt, &runs, found);
            }
            if is_last && story.open.is_some() && history.calm.is_some() {
                found.add(Promise::Once, format!("{name}: undone at the end"));
            }
        }
    }
    let mut effects: BTreeMap<&str, u32> = BTreeMap::new();
    for effective in effective(history) {
        *effects.entry(effective.run.name.as_str()).or_default() += 1;
    }
    for (run, times) in effects.into_iter().filter(|(_, times)| *times > 1) {
        found.add(Promise::Commit, format!("run {run} took effect {times} times"));
    }
    // Keys go by themselves when their leases end.
    let put = history.foreign.iter().filter(|change| change.seen.is_some());
    let put: Vec<&Change> = put.filter(|change| !change.key.starts_with(b"/observer/")).collect();
    if let Some(first) = put.first() {
        let (many, key) = (put.len(), String::from_utf8_lossy(&first.key));
        found.add(Promise::Foreign, format!("{many} keys were put in a foreign store, such as {key}"));
    }
}

/// Every revision has some change; else the observer missed it.
fn continuity(epoch: &Epoch, number: usize, found: &mut Found) {
    let mut last = epoch.revision;
    for change in &epoch.changes {
        if change.revision > last + 1 || change.revision < last {
            let revision = change.revision;
            found.add(
                Promise::Felt,
                format!("epoch {number}: the observer saw revision {revision} after {last}"),
            );
        }
        last = change.revision;
    }
}

fn stories(epoch: &Epoch) -> BTreeMap<(&str, &str), Story<'_>> {
    let mut stories: BTreeMap<(&str, &str), Story<'_>> = BTreeMap::new();
    for (key, seen) in &epoch.snapshot {
        match jobs::parse(key) {
            Some(("todo", kind, id)) => stories.entry((kind, id)).or_default().open = Some(seen),
            Some((_, kind, id)) => stories.entry((kind, id)).or_default().done_before = true,
            None => {}
        }
    }
    for change in &epoch.changes {
        let Some((what, kind, id)) = jobs::parse(&change.key) else { continue };
        let story = stories.entry((kind, id)).or_default();
        match (what, &change.seen) {
            ("todo", Some(seen)) => story.open = Some(seen),
            ("todo", None) => story.taken = story.open.take().map(|seen| (change.revision, seen)),
            (_, Some(seen)) => story.done.push((change.revision, seen)),
            (_, None) => {}
        }
    }
    stories
}

fn once(name: &str, story: &Story<'_>, is_last: bool, found: &mut Found) {
    let times = story.done.len() + usize::from(story.done_before);
    if times > 1 {
        let revisions: Vec<i64> = story.done.iter().map(|(revision, _)| *revision).collect();
        found.add(Promise::Once, format!("{name}: done {times} times, at {revisions:?}"));
    }
    if let [(revision, receipt)] = story.done[..] {
        match story.taken {
            Some((taken, asked)) if taken == revision => {
                let shown = jobs::read_receipt(&receipt.value).map(|(_, sum)| sum);
                if shown != Some(asked.sum) {
                    found.add(Promise::Once, format!("{name}: the callback was not shown what was asked"));
                }
            }
            taken => {
                let taken = taken.map(|(revision, _)| revision);
                found.add(Promise::Once, format!("{name}: done at {revision}, and taken away at {taken:?}"));
            }
        }
    }
    if let (Some((taken, _)), 0, true) = (story.taken, times, is_last) {
        found.add(Promise::Once, format!("{name}: taken away at {taken} and never done"));
    }
}

fn commit(
    name: &str,
    (kind, id): (&str, &str),
    revision: i64,
    receipt: &Seen,
    runs: &HashMap<&str, &Run>,
    found: &mut Found,
) {
    let run = jobs::read_receipt(&receipt.value).map(|(run, _)| run);
    let Some(run) = run.and_then(|run| runs.get(run)) else {
        let value = String::from_utf8_lossy(&receipt.value);
        return found.add(Promise::Commit, format!("{name}: done at {revision} by nobody who told: {value}"));
    };
    if (run.rule.as_str(), run.id.as_str()) != (kind, id) {
        found.add(Promise::Commit, format!("{name}: done by a run of {}/{}", run.rule, run.id));
    }
    if !matches!(run.end, Some((_, Fate::Done))) {
        found.add(
            Promise::Commit,
            format!("{name}: done by run {}, which ended with {:?}", run.name, run.end),
        );
    }
}

/// The runs that took effect, in the order of their effects.
pub(super) fn effective(history: &History) -> Vec<Effective<'_>> {
    let runs: HashMap<&str, &Run> = history.runs.iter().map(|run| (run.name.as_str(), run)).collect();
    let mut effective = Vec::new();
    for (epoch, seen) in history.epochs.iter().enumerate() {
        for change in &seen.changes {
            if let (Some(("done", ..)), Some(seen)) = (jobs::parse(&change.key), &change.seen)
                && let Some((name, _)) = jobs::read_receipt(&seen.value)
                && let Some(run) = runs.get(name)
            {
                effective.push(Effective { run, epoch, revision: change.revision });
            }
        }
    }
    effective
}

/// How long after the last fault jobs were still done that had been asked before its end; 0 if none was open then.
pub fn recovery(history: &History) -> Micros {
    let Some(epoch) = history.epochs.last() else { return 0 };
    let mut asked_at: HashMap<(&str, &str), Micros> = HashMap::new();
    let mut last = history.healed;
    for change in &epoch.changes {
        match (jobs::parse(&change.key), &change.seen) {
            (Some(("todo", kind, id)), Some(_)) => {
                asked_at.insert((kind, id), change.at);
            }
            (Some(("todo", kind, id)), None) => {
                let asked = asked_at.get(&(kind, id)).copied().unwrap_or(epoch.began);
                if asked < history.healed {
                    last = last.max(change.at);
                }
            }
            _ => {}
        }
    }
    last - history.healed
}
