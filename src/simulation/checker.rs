//! Checks that a schedule kept the promises. It works from the server's own history and from what the
//! callbacks recorded. It knows nothing of the engine's internals.

mod starts;

use super::history::{Began, EngineRun, Event, How, Store};
use super::kinds::Kind;
use super::plan::{Plan, PlanStep};
use super::schedule::NAMESPACE;
use super::torn::{Changes, were_together};
use super::worlds;
use crate::condition::Explanation;
use crate::embedded::record::{Done, Written};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

/// A promise that was not kept.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Violation {
    /// Since the start of the schedule.
    pub(super) at: Duration,
    pub(super) text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {:?}: {}", self.at, self.text)
    }
}

/// The instances that keys imply.
pub(super) fn instances(plan: &Plan, now: &Store) -> BTreeSet<(Kind, Vec<String>)> {
    let implied = |kind: Kind| now.keys.keys().filter_map(move |key| Some((kind, kind.implied_by(key)?)));
    plan.kinds.iter().flat_map(|&kind| implied(kind)).collect()
}

fn values<'s>(kind: Kind, id: &[String], store: &'s Store) -> Vec<Option<&'s str>> {
    kind.keys(id).iter().map(|key| store.value(key)).collect()
}

/// Whether what a callback was shown is what the store has, as far as that matters.
fn same(kind: Kind, shown: &[Option<String>], values: &[Option<&str>]) -> bool {
    shown.iter().zip(values).enumerate().all(|(slot, (shown, value))| {
        let shown = shown.as_deref();
        if kind.is_shared(slot) { kind.leaf(shown) == kind.leaf(*value) } else { shown == *value }
    })
}

/// Instances that are true but have not been dealt with. There must be none, because no change is lost.
pub(super) fn missing(plan: &Plan, now: &Store, events: &[(Duration, Event)]) -> Vec<String> {
    let mut runs: BTreeMap<u64, &Began> = BTreeMap::new();
    let mut dealt_with: BTreeMap<(Kind, &[String]), Vec<_>> = BTreeMap::new();
    for (_, event) in events {
        match event {
            Event::Began(began) => drop(runs.insert(began.run, began)),
            Event::Ended { run, how } => {
                let began = runs[run];
                dealt_with.entry((began.kind, &began.id)).or_default().push((*how, began));
            }
            _ => {}
        }
    }
    let mut missing = Vec::new();
    for (kind, id) in instances(plan, now) {
        let values = values(kind, &id, now);
        // A rule of absences knows its instances only from deletions. It is checked with the history.
        if kind == Kind::Gone || !kind.truth(&values) {
            continue;
        }
        let runs = dealt_with.get(&(kind, id.as_slice())).map_or(&[][..], Vec::as_slice);
        let done = runs.iter().any(|(how, began)| {
            let enough = match how {
                How::GaveUp | How::Done => true,
                How::Committed => !kind.consumes(),
                _ => false,
            };
            enough && same(kind, &began.shown, &values)
        });
        if !done {
            missing.push(format!("{} {id:?} is true ({values:?}) and has not been dealt with", kind.name()));
        }
    }
    missing
}

/// Compares the keys of an instance in an engine's memory with the store.
pub(super) fn compare(engine: usize, explained: &Explanation, now: &Store) -> Vec<String> {
    let mut wrong: Vec<String> =
        explained.children.iter().flat_map(|part| compare(engine, part, now)).collect();
    for seen in &explained.seen {
        let stored = now.keys.get(&seen.key);
        let known = seen.value.as_ref().map(|value| value.to_string_lossy().into_owned());
        if known.as_deref() != stored.and_then(|kv| kv.value.as_deref())
            || known.is_some() && seen.mod_revision != stored.map(|kv| kv.mod_revision)
        {
            wrong.push(format!("engine {engine} has {known:?} for {}, etcd {stored:?}", seen.key));
        }
    }
    wrong
}

/// Replays the history and returns the promises that were not kept.
pub(super) fn check(plan: &Plan, events: &[(Duration, Event)]) -> Vec<Violation> {
    let mut checker = Checker::new(plan);
    for (at, event) in events {
        checker.at = *at;
        checker.see(event);
    }
    checker.finish();
    checker.violations.extend(worlds::check(plan, events));
    checker.violations
}

/// How late an engine may learn of a change.
const UNHEARD: Duration = Duration::from_secs(15);

/// Starts of one instance within a second, by one engine, that count as spinning.
const SPINNING: usize = 40;

struct Run {
    began: Began,
    at: Duration,
    ended: Option<(How, Duration)>,
}

/// What a restored backup reverts.
#[derive(Clone, Default)]
struct Line {
    store: Rc<Store>,
    /// How often the effects of a run took place.
    applied: BTreeMap<u64, usize>,
}

struct Checker<'p> {
    plan: &'p Plan,
    at: Duration,
    line: Line,
    saved: Option<Line>,
    /// By create revision of a lock: the store before it was taken, and when its holder looked at the keys.
    taken: BTreeMap<i64, (Rc<Store>, Duration)>,
    runs: BTreeMap<u64, Run>,
    running: BTreeSet<u64>,
    /// The revision of the last effects for an instance, by the run of the engine that caused them.
    own: BTreeMap<(EngineRun, Kind, Vec<String>), i64>,
    /// For every key: when it changed, and its value then.
    changed: Changes,
    /// When marks were written.
    marked: BTreeMap<String, Duration>,
    /// When the test last deleted a key, for rules of absences.
    deletions: BTreeMap<(Kind, Vec<String>), Duration>,
    lives: BTreeMap<EngineRun, (Duration, Option<Duration>)>,
    starts: BTreeMap<(EngineRun, Kind, Vec<String>), Vec<Duration>>,
    /// Since when rules are paused.
    paused: BTreeMap<(EngineRun, Kind), Duration>,
    /// Whether locks can be lost before their lease ends by the holder's clock.
    locks_taken: bool,
    leases_ended: bool,
    replaced: bool,
    /// When the store was last replaced by another one. Earlier revisions may since mean something else.
    rewound: Duration,
    quiesced: Option<Duration>,
    violations: Vec<Violation>,
}

impl<'p> Checker<'p> {
    fn new(plan: &'p Plan) -> Self {
        Self {
            plan,
            at: Duration::ZERO,
            line: Line::default(),
            saved: None,
            taken: BTreeMap::new(),
            runs: BTreeMap::new(),
            running: BTreeSet::new(),
            own: BTreeMap::new(),
            changed: Changes::new(),
            marked: BTreeMap::new(),
            deletions: BTreeMap::new(),
            lives: BTreeMap::new(),
            starts: BTreeMap::new(),
            paused: BTreeMap::new(),
            locks_taken: plan.does(PlanStep::takes_locks),
            leases_ended: plan.does(|act| matches!(act, PlanStep::ExpireLease(_) | PlanStep::Remove(_))),
            replaced: false,
            rewound: Duration::ZERO,
            quiesced: None,
            violations: Vec::new(),
        }
    }

    fn violate(&mut self, text: String) {
        self.violations.push(Violation { at: self.at, text });
    }

    fn see(&mut self, event: &Event) {
        match event {
            Event::Server(done @ Done::Committed { revision, changes, by_test }) => {
                let before = self.line.store.clone();
                Rc::make_mut(&mut self.line.store).apply(done);
                self.committed(&before, *revision, changes, *by_test);
            }
            Event::Server(done @ Done::Replaced { .. }) => {
                // A restarted server continues with the same store.
                let before = self.line.store.clone();
                Rc::make_mut(&mut self.line.store).apply(done);
                if self.line.store.keys != before.keys || self.line.store.revision != before.revision {
                    self.replaced = true;
                    self.rewound = self.at;
                    self.own.clear();
                    self.changed.clear();
                }
            }
            Event::Server(Done::Arrived(..)) => {}
            Event::Did(PlanStep::Save) => self.saved = Some(self.line.clone()),
            Event::Did(PlanStep::Restore) => {
                if let Some(saved) = &self.saved {
                    self.line.applied = saved.applied.clone();
                }
            }
            Event::Did(PlanStep::RestartEmpty) => {
                self.saved = None;
                self.line.applied.clear();
            }
            Event::Did(_) | Event::Health(..) | Event::Read { .. } => {}
            Event::Started(life) => drop(self.lives.insert(*life, (self.at, None))),
            Event::Paused(life, kind) => drop(self.paused.insert((*life, *kind), self.at)),
            Event::Resumed(life, kind) => drop(self.paused.remove(&(*life, *kind))),
            Event::Over(life, how) => {
                // Every callback either ends when it is cancelled or is dropped.
                if how.contains("Unfinished") && !self.plan.does(|act| matches!(act, PlanStep::Poison(..))) {
                    self.violate(format!("engine {} was {how}", life.engine));
                }
                if let Some((_, end)) = self.lives.get_mut(life) {
                    end.get_or_insert(self.at);
                }
            }
            Event::Began(began) => self.began(began),
            Event::Ended { run, how } => {
                self.running.remove(run);
                if let Some(run) = self.runs.get_mut(run) {
                    run.ended = Some((*how, self.at));
                }
            }
            Event::Quiesced => self.quiesced = Some(self.at),
        }
    }

    fn committed(&mut self, before: &Rc<Store>, revision: i64, changes: &[Written], by_test: bool) {
        for change in changes {
            let key = &change.key;
            if let Some(own) = key.strip_prefix(NAMESPACE) {
                let new = !before.keys.contains_key(key);
                if let Some(holder) = change.value.as_deref().filter(|_| own.starts_with("lock/") && new) {
                    let holder: serde_json::Value = serde_json::from_str(holder).unwrap_or_default();
                    let looked = Duration::from_millis(holder["since"].as_u64().unwrap_or_default());
                    self.taken.insert(revision, (before.clone(), looked));
                }
                if own.starts_with("backoff/") && change.value.is_some() {
                    self.marked.insert(key.clone(), self.at);
                }
                continue;
            }
            self.changed.entry(key.clone()).or_default().push((self.at, revision, change.value.clone()));
            match &change.value {
                Some(run) if key.starts_with("/out/") => self.took_effect(before, revision, run, changes),
                Some(_) => {}
                None if by_test && key.starts_with("/gone") => {
                    if let Some(id) = Kind::Gone.implied_by(key) {
                        self.deletions.insert((Kind::Gone, id), self.at);
                    }
                }
                None if !by_test && key.starts_with("/rest/") => {
                    // The time counts from the end of the callback, because the lease doesn't depend on how
                    // long the commit was in flight.
                    let run = before.value(key).and_then(|run| run.parse().ok());
                    let run = run.and_then(|run: u64| self.runs.get(&run)?.ended);
                    let lived = run.map_or(Duration::MAX, |(_, ended)| self.at.saturating_sub(ended));
                    if !self.leases_ended && !self.replaced && lived < super::kinds::REST {
                        self.violate(format!(
                            "{key} was to live for {:?} and lived {lived:?}",
                            super::kinds::REST
                        ));
                    }
                }
                None => {}
            }
        }
    }

    /// The effects of a run took place.
    fn took_effect(&mut self, before: &Rc<Store>, revision: i64, run: &str, changes: &[Written]) {
        let number: u64 = run.parse().unwrap_or_default();
        let Some(Run { began, ended, at }) = self.runs.get(&number) else {
            return self.violate(format!("effects of an unknown run {run}"));
        };
        let (began, ended) = (began.clone(), ended.map(|(how, _)| how));
        // An engine that has not noticed the restore yet compares revisions of two different histories.
        let comparable = self.rewound == Duration::ZERO || *at > self.rewound + UNHEARD;
        let Began { kind, ref id, token, ref shown, life, .. } = began;
        let name = format!("run {run} ({} {id:?})", kind.name());
        let count = self.line.applied.entry(number).or_default();
        *count += 1;
        if *count > 1 {
            self.violate(format!("{name} took effect again"));
        }
        if !matches!(ended, Some(How::Committed | How::GaveUp)) {
            self.violate(format!("{name} took effect, though its callback ended as {ended:?}"));
        }
        if kind == Kind::Optimistic {
            if comparable && !same(kind, shown, &values(kind, id, before)) {
                self.violate(format!("{name} took effect on other values than it was shown"));
            }
        } else {
            let lock = before.keys.values().find(|kv| {
                kv.key.starts_with(NAMESPACE)
                    && kv.create_revision == token
                    && kv.key[NAMESPACE.len()..].starts_with("lock/")
                    && changes.iter().any(|change| change.key == kv.key && change.value.is_none())
            });
            if lock.is_none() {
                self.violate(format!("{name} took effect without its lock, of revision {token}"));
            }
        }
        for &slot in kind.expects() {
            let key = kind.key(kind.slots()[slot], id);
            if comparable && before.value(&key) != shown[slot].as_deref() {
                self.violate(format!("{name} took effect although {key} had changed"));
            }
        }
        if let Some((slot, value)) = kind.effect(number, shown) {
            let key = kind.key(kind.slots()[slot], id);
            // Deleting an absent key changes nothing.
            let there = changes.iter().any(|change| change.key == key && change.value == value)
                || value.is_none() && !before.keys.contains_key(&key);
            if !there {
                self.violate(format!("{name} took effect in part: {key} is not {value:?}"));
            }
        }
        self.own.insert((life, kind, id.clone()), revision);
    }

    fn finish(&mut self) {
        // For rules of absences: an engine that saw the deletion fires.
        if self.plan.does(PlanStep::forgets) {
            return;
        }
        let deletions = std::mem::take(&mut self.deletions);
        for ((kind, id), at) in deletions {
            let store = self.line.store.clone();
            if !kind.truth(&values(kind, &id, &store)) {
                continue;
            }
            // The engine must have known the key, so the key must have existed long enough.
            let long = Duration::from_secs(15);
            let quiesced = self.quiesced.unwrap_or_default();
            let knew = |(start, end): &(Duration, Option<Duration>)| {
                *start + long < at && end.is_none_or(|end| end > quiesced)
            };
            let fired =
                self.runs.values().any(|run| run.began.kind == kind && run.began.id == id && run.at >= at);
            if self.lives.values().any(knew) && !fired {
                self.violate(format!("{} {id:?} was deleted at {at:?}, and nobody fired", kind.name()));
            }
        }
    }
}
