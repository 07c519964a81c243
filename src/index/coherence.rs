//! Whether what an instance's keys hold in the mirror is a state that etcd had.
//!
//! The keys of one watch are, as of its position: a batch has whole revisions. Two things make a mixture possible.
//! The watches of one engine are not equally far, so that of one transaction the mirror may have one key and lack
//! another. And what the engine learned otherwise, from its own commits and from what its transactions read, may be
//! ahead of the watch.
//!
//! What is known of a key held at the revision of its last change, and up to the position of its watch. So all that
//! is known held together if there is a revision at which each of them did. If there is none, the transaction that
//! takes the lock has to make sure.

use super::{Index, WatcherIndex};
use crate::change::{Revision, Snapshot};
use crate::compiled::{Binding, CompiledRule, RuleIndex};
use crate::condition::Slot;
use crate::mutants::{Mutant, is_active};
use crate::pattern::KeyScope;
use smallvec::SmallVec;

/// Which watches bring the keys of each rule, and up to which revision they have.
pub(super) struct Coherence {
    /// By watcher: the mirror has its keys as they were at this revision, but for what was learned otherwise. None
    /// while it has not, because a snapshot is under way.
    complete: Vec<Revision>,
    /// By watcher: it is complete as soon as its watch has passed this revision. `None`: a snapshot is to come.
    from: Vec<Option<Revision>>,
    rules: Vec<Owners>,
}

/// The watchers of a rule's keys.
struct Owners {
    /// By slot; `None`: it depends on the key.
    slots: SmallVec<[Option<WatcherIndex>; 4]>,
    /// All that may be concerned, each once.
    all: SmallVec<[WatcherIndex; 2]>,
}

impl Coherence {
    pub(super) fn new(rules: &[CompiledRule], ranges: &[KeyScope]) -> Self {
        let rules = rules.iter().map(|rule| Owners::new(rule, ranges)).collect();
        let watchers = ranges.len();
        Self { complete: vec![Revision::NONE; watchers], from: vec![None; watchers], rules }
    }

    /// The watch has told all up to this revision, and no snapshot is under way.
    pub(super) fn delivered(&mut self, watcher: WatcherIndex, revision: Revision) {
        if self.from[watcher.index()].is_some_and(|from| revision >= from) {
            let complete = &mut self.complete[watcher.index()];
            *complete = revision.max(*complete);
        }
    }

    /// All watchers that may bring keys of a rule.
    pub(super) fn watchers_of(&self, rule: RuleIndex) -> &[WatcherIndex] {
        &self.rules[rule.index()].all
    }

    /// A snapshot begins: the mirror will have some keys as they were, and others as they are.
    pub(super) fn snapshot_begins(&mut self, watcher: WatcherIndex) {
        self.complete[watcher.index()] = Revision::NONE;
        self.from[watcher.index()] = None;
    }

    /// All of a snapshot is in the mirror. The latest part of it was read at `read_at`.
    pub(super) fn snapshot_ends(&mut self, watcher: WatcherIndex, read_at: Revision) {
        self.from[watcher.index()] = Some(read_at);
    }
}

impl Owners {
    fn new(rule: &CompiledRule, ranges: &[KeyScope]) -> Self {
        let mut all = SmallVec::new();
        let slots = rule.slots().iter().map(|pattern| {
            let keys = pattern.scope();
            // One for all keys, unless another watcher has some of them.
            let whole = ranges.iter().position(|range| range.covers(&keys));
            let within = |at: &usize| keys.covers(&ranges[*at]) && Some(*at) != whole;
            let parts = (0..ranges.len()).filter(within);
            let owners: SmallVec<[WatcherIndex; 2]> =
                whole.into_iter().chain(parts).map(WatcherIndex::new).collect();
            for owner in &owners {
                if !all.contains(owner) {
                    all.push(*owner);
                }
            }
            owners.first().copied().filter(|_| owners.len() == 1)
        });
        Self { slots: slots.collect(), all }
    }
}

impl Index {
    /// Whether these values of an instance's keys are known to have been there together at some revision.
    pub(super) fn is_coherent(&self, rule: RuleIndex, binding: &Binding, snapshot: &Snapshot) -> bool {
        // One key is always a state of it.
        if snapshot.len() < 2 || is_active(Mutant::Torn) {
            return true;
        }
        let Coherence { complete, rules, .. } = &self.coherence;
        let owners = &rules[rule.index()];
        let put = snapshot.iter().flatten().map(|seen| seen.mod_revision).max().unwrap_or(Revision::NONE);
        // A key that is absent may have been deleted as late as any.
        let absent = snapshot.iter().any(Option::is_none);
        let deleted = |watcher: &WatcherIndex| {
            self.forgotten[watcher.index()].max(self.mirror.newest_deletion(*watcher))
        };
        let deletions = owners.all.iter().filter(|_| absent).map(deleted);
        let latest = deletions.fold(put, Revision::max);
        let has_it = |watcher: &WatcherIndex| latest <= complete[watcher.index()];
        owners.all.iter().all(has_it) || self.is_coherent_by_key(owners, rule, binding, snapshot)
    }

    /// The same, by what is known of each key.
    fn is_coherent_by_key(
        &self,
        owners: &Owners,
        rule: RuleIndex,
        binding: &Binding,
        snapshot: &Snapshot,
    ) -> bool {
        let compiled = &self.rules[rule.index()];
        let known: SmallVec<[(Revision, Revision); 4]> = snapshot
            .iter()
            .enumerate()
            .map(|(slot, seen)| {
                let key = || compiled.key(Slot::new(slot), binding);
                let watcher = owners.slots[slot].or_else(|| self.watcher_of(&key()));
                let of_watcher = |revisions: &[Revision]| {
                    watcher.map_or(Revision::NONE, |watcher| revisions[watcher.index()])
                };
                let complete = of_watcher(&self.coherence.complete);
                let changed = match seen {
                    Some(seen) => Some(seen.mod_revision),
                    None => self.entry_of(&key()).map(|id| self.revision_of(id)),
                };
                match changed {
                    Some(from) => (from, complete.max(from)),
                    // It may have been deleted as late as any. If the mirror is not complete, it may not even be
                    // absent: nobody has told of it yet.
                    None => (of_watcher(&self.forgotten), complete),
                }
            })
            .collect();
        let latest = known.iter().map(|(from, _)| *from).max().unwrap_or(Revision::NONE);
        known.iter().all(|(_, until)| latest <= *until && *until > Revision::NONE)
    }
}
