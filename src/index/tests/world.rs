//! An index that gets news from a store by watches, own commits and reads, early and late. After every step,
//! everything it says is compared with the oracle.

mod checks;
mod views;

use super::super::mirror::Content;
use super::super::places::ViewId;
use super::super::*;
use super::oracle::{GroupName, KEYS, NAMESPACE, Oracle, State, Store, change};
use crate::change::Snapshot;
use crate::pattern::KeyRange;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// One step. Numbers are taken modulo what there is.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// A transaction. If it is this engine's `own`, the index is told of it later.
    Write {
        writes: BTreeMap<usize, Option<&'static str>>,
        own: bool,
    },
    /// The watch delivers some transactions.
    Deliver {
        watcher: usize,
        count: usize,
        drain: bool,
    },
    /// The watch learns that there is nothing more.
    Progress {
        watcher: usize,
    },
    /// The watch loses an event: drift.
    Lose {
        watcher: usize,
    },
    /// A lock transaction returns the values of these keys. The index is told of them later.
    Read {
        keys: BTreeSet<usize>,
    },
    /// The index is told one thing of what waits to be told.
    Tell {
        which: usize,
    },
    Work {
        budget: usize,
    },
    OpenSnapshot {
        watcher: usize,
        back: i64,
    },
    /// A snapshot whose pages are each read later, beside the watch.
    OpenMoving {
        watcher: usize,
        back: i64,
    },
    OpenCrawl {
        watcher: usize,
        back: i64,
        /// Between every two of these keys; none: everything.
        bounds: BTreeSet<usize>,
    },
    Page {
        watcher: usize,
        count: usize,
    },
    Close {
        watcher: usize,
    },
    Cancel {
        watcher: usize,
    },
    Release {
        which: usize,
    },
    Ask {
        which: usize,
    },
    DecideAll,
}

struct Watcher {
    prefix: &'static str,
    /// Delivered, or lost, up to here.
    heard: Revision,
    complete: bool,
    view: Option<ViewModel>,
}

struct ViewModel {
    id: ViewId,
    purpose: ViewPurpose,
    revision: Revision,
    pages: Vec<KeyValue>,
    moving: Option<Moving>,
    closed: bool,
    /// A crawl was closed when the watch had passed its revision, so every difference is drift.
    settled: bool,
}

/// Of a snapshot that is read beside the watch.
struct Moving {
    /// Keys of which no page was read.
    unread: Vec<usize>,
    /// The latest revision at which a page was read.
    read_at: Revision,
}

/// What is known of an instance by following the decisions.
struct Followed {
    id: InstanceId,
    snapshot: Snapshot,
    truth: bool,
}

pub(super) struct World {
    pub(super) oracle: Oracle,
    pub(super) index: Index,
    pub(super) store: Store,
    watchers: Vec<Watcher>,
    untold: Vec<Vec<Change>>,
    /// The mirror as it was when last looked at.
    mirror: State,
    /// For each key, the revision up to which older news must be refused.
    floor: Vec<Revision>,
    expected: BTreeSet<usize>,
    followed: BTreeMap<usize, Followed>,
    /// By instance: what its next decision must report.
    touches: BTreeMap<usize, Vec<Touch>>,
    /// Instances that may be decided: a key they read changed.
    concerned: BTreeSet<usize>,
    /// Groups whose members may be decided by walks, with the latest touch of each slot.
    changed_groups: HashMap<GroupName, BTreeMap<Slot, Revision>>,
    pub(super) lost: bool,
    pub(super) drift: u64,
    pub(super) stale: u64,
    pub(super) released: u64,
    /// Decisions on values that are known to be a state of the store, and on others.
    pub(super) coherent: Cell<(u64, u64)>,
}

impl World {
    pub(super) fn new(rules: Arc<[CompiledRule]>, prefixes: &[&'static str], store: Store) -> Self {
        let texts = prefixes.iter().map(|prefix| KeyScope::Prefix((*prefix).to_owned())).collect();
        let hasher = FixedState::with_seed(7);
        let mut this = Self {
            index: Index::new(rules.clone(), texts, vec![NAMESPACE.to_owned()], hasher),
            oracle: Oracle::new(rules),
            watchers: prefixes
                .iter()
                .map(|prefix| Watcher { prefix, heard: Revision::NONE, complete: false, view: None })
                .collect(),
            store,
            untold: Vec::new(),
            mirror: vec![None; KEYS.len()],
            floor: vec![Revision::NONE; KEYS.len()],
            expected: BTreeSet::new(),
            followed: BTreeMap::new(),
            touches: BTreeMap::new(),
            concerned: BTreeSet::new(),
            changed_groups: HashMap::new(),
            lost: false,
            drift: 0,
            stale: 0,
            released: 0,
            coherent: Cell::default(),
        };
        let always = this.oracle.instances.iter().enumerate().filter(|(_, model)| model.always);
        this.expected = always.map(|(number, _)| number).collect();
        for watcher in 0..this.watchers.len() {
            this.open(watcher, ViewPurpose::Snapshot, this.store.revision);
        }
        this
    }

    pub(super) fn step(&mut self, step: Step) {
        match step {
            Step::Write { writes, own } => self.write(&writes, own),
            Step::Deliver { watcher, count, drain } => {
                let watcher = watcher % self.watchers.len();
                for _ in 0..count {
                    self.deliver(watcher, true, drain);
                }
            }
            Step::Progress { watcher } => self.progress(watcher % self.watchers.len()),
            Step::Lose { watcher } => {
                self.deliver(watcher % self.watchers.len(), false, false);
            }
            Step::Read { keys } => {
                let read = |key| {
                    let (value, at) = self.store.at(key, self.store.revision).unzip();
                    change(key, value, at.unwrap_or(self.store.revision), Deletion::SeenAbsent)
                };
                self.untold.push(keys.into_iter().map(read).collect());
            }
            Step::Tell { which } if !self.untold.is_empty() => {
                let changes = self.untold.remove(which % self.untold.len());
                changes.into_iter().for_each(|change| self.apply(change));
            }
            Step::Tell { .. } => {}
            Step::Work { budget } => self.work(budget),
            Step::OpenSnapshot { watcher, back } => {
                let watcher = watcher % self.watchers.len();
                // A linearizable read is never behind what was delivered.
                let delivered =
                    self.index.position(WatcherIndex::new(watcher)).max(self.watchers[watcher].heard);
                let revision = self.store.back(back).max(delivered);
                self.open(watcher, ViewPurpose::Snapshot, revision);
            }
            Step::OpenMoving { watcher, back } => {
                let watcher = watcher % self.watchers.len();
                let delivered =
                    self.index.position(WatcherIndex::new(watcher)).max(self.watchers[watcher].heard);
                let revision = self.store.back(back).max(delivered);
                self.open(watcher, ViewPurpose::Snapshot, revision);
                if let Some(view) = &mut self.watchers[watcher].view {
                    view.moving = Some(Moving { unread: (0..KEYS.len()).collect(), read_at: revision });
                    view.pages.clear();
                }
            }
            Step::OpenCrawl { watcher, back, bounds } => {
                let revision = self.store.back(back).max(Revision::new(1));
                self.open_within(
                    watcher % self.watchers.len(),
                    ViewPurpose::Crawl,
                    revision,
                    ranges(&bounds),
                );
            }
            Step::Page { watcher, count } => self.page(watcher % self.watchers.len(), count),
            Step::Close { watcher } => self.close(watcher % self.watchers.len()),
            Step::Cancel { watcher } => self.cancel(watcher % self.watchers.len()),
            Step::Release { which } => self.release(which),
            Step::Ask { which } => self.request_decision(which),
            Step::DecideAll => self.decide_all(),
        }
        self.drain();
        self.check_instances();
    }

    fn write(&mut self, writes: &BTreeMap<usize, Option<&'static str>>, own: bool) {
        self.store.write(writes);
        if own {
            let revision = self.store.revision;
            let write = |(key, value): (&usize, &Option<&str>)| {
                change(*key, value.map(Value::from), revision, Deletion::Committed)
            };
            self.untold.push(writes.iter().map(write).collect());
        }
    }

    /// Delivers one transaction as a batch, or loses it. False if there is nothing to deliver.
    fn deliver(&mut self, watcher: usize, heard: bool, drain: bool) -> bool {
        let Watcher { prefix, heard: after, .. } = self.watchers[watcher];
        let Some((revision, events)) = self.store.next(prefix, after) else { return false };
        self.watchers[watcher].heard = revision;
        if !heard {
            self.lost = true;
            return true;
        }
        for event in events {
            let key = number(&event);
            let deleted = matches!(event, Change::Delete { .. });
            self.apply(event);
            if deleted {
                self.floor[key] = revision.max(self.floor[key]);
            }
            if drain {
                self.drain();
            }
        }
        self.index.advance(WatcherIndex::new(watcher), revision);
        self.look_all();
        true
    }

    fn progress(&mut self, watcher: usize) {
        let Watcher { prefix, heard, .. } = self.watchers[watcher];
        if self.store.next(prefix, heard).is_none() {
            self.watchers[watcher].heard = self.store.revision;
            self.index.advance(WatcherIndex::new(watcher), self.store.revision);
            self.look_all();
        }
    }

    /// Tells the index one change, and notes which decisions must follow and which may.
    fn apply(&mut self, change: Change) {
        let key = number(&change);
        let before = self.mirror.clone();
        let entry = self.index.entry_of(KEYS[key]);
        let known = entry.map(|entry| match self.index.mirror.entry(entry).content {
            Content::Present { revision, .. } => (true, revision),
            Content::Gone { revision } => (false, revision),
        });
        let walks = self.index.walks.len();
        let members = self.groups_with_members();
        let (revision, is_put) = (change.revision(), matches!(change, Change::Put { .. }));
        let read = matches!(change, Change::Delete { how: Deletion::SeenAbsent, .. });
        // A key that a read found deleted may have been deleted right after it was put.
        let told_at = match known {
            Some((true, known)) if read && known < revision => known.next(),
            _ => revision,
        };
        self.index.apply_all(vec![change]);
        self.observe(key);
        let changed = before[key] != self.mirror[key];
        let groups_changed = self.note(key, &before, |name| members.contains(name).then_some(told_at));
        let stale = known.is_some_and(
            |(present, known)| if present { revision < known } else { is_put && revision <= known },
        );
        self.stale += u64::from(stale);
        if (changed || stale) && self.index.ready {
            for (number, slot) in &self.oracle.readers[key].instances {
                if self.expected.contains(number) {
                    self.touches.entry(*number).or_default().push((*slot, told_at));
                }
            }
        }
        if !groups_changed {
            assert_eq!(self.index.walks.len(), walks, "{} is as before for its groups", KEYS[key]);
        }
    }

    fn work(&mut self, budget: usize) {
        self.drain();
        let sweeping = self.index.views.sweeping();
        // A sweep may complete the first snapshot, and then all instances are decided.
        let all = sweeping || self.index.full_walk.is_some();
        self.index.work(budget);
        self.look_all();
        let concerned =
            if all { (0..self.oracle.instances.len()).collect() } else { self.members_of_changed_groups() };
        self.concerned.extend(concerned);
        let decided = self.take();
        if !sweeping {
            assert!(decided.len() <= budget, "{} of {budget}", decided.len());
        }
        for decide in &decided {
            self.check_walk(decide, all);
        }
        self.check_decided(decided);
        let walked = self.groups_with_walks();
        self.changed_groups.retain(|name, _| walked.contains(name));
        for closed in self.index.take_closed() {
            let watcher = &mut self.watchers[closed.watcher.index()];
            let view = watcher.view.take().expect("only open views are closed");
            assert_eq!((closed.id, closed.purpose), (view.id, view.purpose));
            assert!(view.closed);
            watcher.complete |= view.purpose == ViewPurpose::Snapshot;
            if view.purpose == ViewPurpose::Snapshot || (view.settled && !self.lost) {
                assert_eq!(closed.drift, 0, "of {:?}", view.purpose);
            }
            self.drift += closed.drift;
        }
        assert_eq!(self.index.ready, self.watchers.iter().all(|watcher| watcher.complete));
    }

    fn release(&mut self, which: usize) {
        let orphaned = |number: &&usize| !self.oracle.instances[**number].implied(&self.mirror);
        // Mostly choose instances that may be removed.
        let all: Vec<usize> = match which % 4 {
            0 => self.followed.keys().copied().collect(),
            _ => self.followed.keys().filter(orphaned).copied().collect(),
        };
        let Some(&number) = all.get(which / 4 % all.len().max(1)) else { return };
        let followed = &self.followed[&number];
        let orphaned = !self.oracle.instances[number].implied(&self.mirror);
        if orphaned && followed.truth {
            return;
        }
        let clean = self.index.dirty.is_empty();
        assert!(clean, "all is drained");
        assert_eq!(self.index.release(followed.id), orphaned);
        if orphaned {
            assert!(
                self.index.request_decision(followed.id, DecisionReason::Ask(QuestionId::new(1))).is_none()
            );
            assert!(!self.index.release(followed.id));
            self.followed.remove(&number);
            self.expected.remove(&number);
            self.released += 1;
        }
    }

    fn request_decision(&mut self, which: usize) {
        let all: Vec<InstanceId> = self.followed.values().map(|followed| followed.id).collect();
        let Some(&id) = all.get(which % all.len().max(1)) else { return };
        let decide =
            self.index.request_decision(id, DecisionReason::Ask(QuestionId::new(9))).expect("it exists");
        assert_eq!((decide.instance, decide.reason), (id, DecisionReason::Ask(QuestionId::new(9))));
        self.check_decide(&decide);
    }

    fn decide_all(&mut self) {
        if !self.index.ready {
            return;
        }
        self.index.decide_all(DecisionReason::Crawl);
        let mut decided = BTreeSet::new();
        while self.index.has_backlog() {
            self.index.work(3);
            self.look_all();
            self.concerned.extend(0..self.oracle.instances.len());
            let out = self.take();
            let crawled = out.iter().filter(|decide| decide.reason == DecisionReason::Crawl);
            decided.extend(crawled.map(|decide| self.oracle.numbers[&(decide.rule, decide.binding.clone())]));
            self.check_decided(out);
            self.index.take_closed().into_iter().for_each(|closed| {
                let watcher = &mut self.watchers[closed.watcher.index()];
                watcher.complete |= closed.purpose == ViewPurpose::Snapshot;
                watcher.view = None;
            });
        }
        self.changed_groups.clear();
        assert!(self.expected.iter().all(|number| decided.contains(number)));
    }

    fn work_off(&mut self, budget: usize) {
        for _ in 0..10_000 {
            if !self.index.has_backlog() {
                return;
            }
            self.work(budget);
        }
        panic!("the backlog has no end");
    }

    /// Delivers and tells everything, repairs what was lost, and compares.
    pub(super) fn end(&mut self, told_first: bool, budget: usize) {
        for at in 0..self.watchers.len() {
            match &self.watchers[at].view {
                Some(view) if view.purpose == ViewPurpose::Snapshot || told_first => self.close(at),
                Some(_) => self.cancel(at),
                None => {}
            }
        }
        for is_told in [told_first, !told_first] {
            if is_told {
                let changes = std::mem::take(&mut self.untold);
                changes.into_iter().flatten().for_each(|change| self.apply(change));
            } else {
                for at in 0..self.watchers.len() {
                    while self.deliver(at, true, false) {}
                    self.progress(at);
                }
            }
            self.drain();
            self.work_off(budget);
        }
        if self.lost {
            self.repair(budget);
        }
        self.check_end();
    }

    fn repair(&mut self, budget: usize) {
        let store = self.store.state();
        let differ = |key: &usize| self.oracle.wants(*key) && self.mirror[*key] != store[*key];
        let expected = (0..KEYS.len()).filter(differ).count() as u64;
        let (before, counted) = (self.drift, self.index.counters().drift);
        // In two parts, which have every key once between them.
        let (first, last) = (KeyRange::of_prefix("").start, KeyRange::of_prefix("").end);
        let middle = KEYS[budget % KEYS.len()].as_bytes().to_vec();
        for at in 0..self.watchers.len() {
            let parts = [(first.clone(), middle.clone()), (middle.clone(), last.clone())];
            for (start, end) in parts {
                let within = vec![KeyRange { start, end }];
                self.open_within(at, ViewPurpose::Crawl, self.store.revision, within);
                self.page(at, 2);
                self.close(at);
                self.drain();
                self.work_off(budget);
            }
        }
        assert_eq!(self.drift - before, expected, "drift");
        assert_eq!(self.index.counters().drift - counted, expected);
    }
}

/// From the first of these keys to the second, and so on.
fn ranges(bounds: &BTreeSet<usize>) -> Vec<KeyRange> {
    let mut keys: Vec<&[u8]> = bounds.iter().map(|at| KEYS[*at].as_bytes()).collect();
    keys.sort();
    let range = |pair: &[&[u8]]| KeyRange { start: pair[0].to_vec(), end: pair[1].to_vec() };
    keys.chunks_exact(2).map(range).collect()
}

fn number(change: &Change) -> usize {
    KEYS.iter().position(|key| key.as_bytes() == change.key()).expect("a key of the universe")
}
