//! The index: which instances read which keys, and what must be decided again after a change.
//!
//! [`Index`] is synchronous and does no I/O. It merges all news of keys into the [mirror](mirror), and keeps
//! the instances and groups that the keys imply. It hands out [`Decide`] orders ([decisions]): an instance
//! with the values of its keys, all from the same state of the mirror. [`actor`] carries messages to and from
//! it.

pub(crate) mod actor;
mod coherence;
mod decisions;
mod forms;
mod groups;
mod instances;
mod links;
pub(crate) mod listing;
mod mirror;
mod orders;
pub(crate) mod patterns;
pub(crate) mod places;
mod readable;
mod table;
pub(crate) mod views;
mod walks;
mod watchers;

#[cfg(test)]
pub(crate) mod tests;

pub(crate) use decisions::{Decide, DecisionReason, QuestionId, Touch};
pub(crate) use instances::InstanceId;
pub(crate) use orders::{EvaluationOrder, Orders, Reached, Timestamps};
pub(crate) use readable::WatchState;
pub(crate) use views::ViewPurpose;
pub(crate) use watchers::WatcherIndex;

use crate::change::{Change, Deletion, KeyValue, Revision};
use crate::compiled::{Binding, CompiledRule, Packed, RuleIndex, Use};
use crate::condition::Slot;
use crate::pattern::KeyScope;
use crate::value::Value;
use coherence::Coherence;
use decisions::Dirty;
use foldhash::fast::FixedState;
use forms::Forms;
use groups::Groups;
use instances::Instances;
use mirror::{Merge, Mirror, Readers, Subscriber};
use patterns::{KeySegments, Patterns};
use places::{EntryId, GroupIndex, InstanceIndex};
use readable::Readable;
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::sync::Arc;
use views::Views;
use walks::FullWalk;

/// Counts of the work done, for metrics and tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    /// Keys matched against the patterns.
    pub(crate) matched: u64,
    /// Decisions handed out.
    pub(crate) decided: u64,
    /// Differences that a crawl found and repaired.
    pub(crate) drift: u64,
    /// Keys ignored because they are not UTF-8.
    pub(crate) not_text: u64,
}

pub(crate) struct Index {
    rules: Arc<[CompiledRule]>,
    ranges: Vec<KeyScope>,
    namespaces: Vec<String>,
    patterns: Patterns,
    mirror: Mirror,
    instances: Instances,
    forms: Forms,
    groups: Groups,
    views: Views,
    /// The revision up to which each watcher is complete.
    positions: Vec<Revision>,
    coherence: Coherence,
    /// For each watcher, the revision of the latest deletion that has no tombstone any more.
    forgotten: Vec<Revision>,
    /// Nothing is decided until every watcher's first snapshot is in, or etcd has refused to let it be read.
    ready: bool,
    readable: Readable,
    dirty: Vec<Dirty>,
    walks: VecDeque<GroupIndex>,
    full_walk: Option<FullWalk>,
    counters: Counters,
    /// A buffer that is reused whenever an instance is made.
    packed: Packed,
}

/// How many keys are looked up before the first of them is merged.
const AHEAD: usize = 32;

/// One use of a pattern that a key matches.
struct Matched {
    rule: RuleIndex,
    slot: Slot,
    group: Option<u8>,
    /// The values bound.
    binding: Binding,
    /// The hash of the instance, if all attributes are bound.
    hash: u64,
}

impl Index {
    /// Makes an index. `ranges` are the keys of each watcher. If one has all of another, it comes after that one, whose
    /// keys are its own. Keys below `namespaces` belong to engines and match no pattern.
    pub(crate) fn new(
        rules: Arc<[CompiledRule]>,
        ranges: Vec<KeyScope>,
        namespaces: Vec<String>,
        hasher: FixedState,
    ) -> Self {
        let patterns = Patterns::new(
            rules.iter().enumerate().flat_map(|(number, rule)| rule.uses(RuleIndex::new(number))),
        );
        let watchers = ranges.len();
        let mut this = Self {
            patterns,
            coherence: Coherence::new(&rules, &ranges),
            mirror: Mirror::new(hasher.clone()),
            instances: Instances::new(rules.len(), hasher.clone()),
            forms: Forms::new(&rules),
            groups: Groups::new(hasher),
            views: Views::new(),
            positions: vec![Revision::NONE; watchers],
            forgotten: vec![Revision::NONE; watchers],
            ready: false,
            readable: Readable::new(rules.len(), watchers),
            dirty: Vec::new(),
            walks: VecDeque::new(),
            full_walk: None,
            counters: Counters::default(),
            packed: Packed::new(),
            namespaces,
            ranges,
            rules,
        };
        for number in RuleIndex::all(this.rules.len()) {
            if this.rules[number.index()].attributes().is_empty() {
                let binding = Binding::new([].into_iter());
                this.instance(this.instances.hash(number, &binding), number, binding);
            }
        }
        this
    }

    pub(crate) fn counters(&self) -> Counters {
        self.counters
    }

    pub(crate) fn instances(&self) -> usize {
        self.instances.len()
    }

    pub(crate) fn keys(&self) -> usize {
        self.mirror.keys()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.mirror.bytes()
    }

    pub(crate) fn tombstones(&self) -> usize {
        self.mirror.tombstones()
    }

    #[cfg(feature = "bench")]
    pub(crate) fn watchers(&self) -> usize {
        self.ranges.len()
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready
    }

    pub(crate) fn position(&self, watcher: WatcherIndex) -> Revision {
        self.positions[watcher.index()]
    }

    /// The watcher has delivered everything up to `revision`.
    pub(crate) fn advance(&mut self, watcher: WatcherIndex, revision: Revision) {
        let position = &mut self.positions[watcher.index()];
        if revision > *position {
            *position = revision;
            self.collect_tombstones(watcher);
            self.shrink();
        }
        // What a snapshot has yet to bring may be older.
        if !self.views.has_snapshot(watcher) {
            self.coherence.delivered(watcher, revision);
        }
    }

    /// Gives memory back that is not needed any more. A snapshot may have made room for what is still to come.
    pub(crate) fn shrink(&mut self) {
        if self.ready && !self.views.is_any_open() {
            self.mirror.shrink();
            self.instances.shrink();
            self.groups.shrink();
        }
    }

    /// Merges changes in their order; see [`Index::apply`].
    ///
    /// With millions of keys, hardly any is in the processor's cache. So the keys of several changes are
    /// looked up, and the memory they lead to is read, before the first change is merged. These reads don't
    /// depend on each other, so the processor waits for all of them at the same time.
    pub(crate) fn apply_all(&mut self, changes: Vec<Change>) {
        let mut changes = changes.into_iter();
        let mut hashes = SmallVec::<[u64; AHEAD]>::new();
        while !changes.as_slice().is_empty() {
            // No read depends on the result of an earlier one, so they overlap.
            let mut touched = 0;
            hashes.clear();
            for change in changes.as_slice().iter().take(AHEAD) {
                let hash = self.mirror.hash(change.key());
                touched ^= self.mirror.touch(hash);
                hashes.push(hash);
            }
            let mut readers = SmallVec::<[InstanceIndex; AHEAD]>::new();
            for &hash in &hashes {
                let Some(id) = self.mirror.guess(hash) else { continue };
                if let Some(Subscriber::Instance(index, _)) = self.mirror.entry(id).readers.first() {
                    readers.push(index);
                }
            }
            for index in readers {
                touched ^= u64::from(self.instances.get(index).touch());
            }
            std::hint::black_box(touched);
            for (hash, change) in hashes.drain(..).zip(&mut changes) {
                self.apply_hashed(hash, change);
            }
        }
    }

    /// Merges one change. The instances that read its key become dirty.
    pub(crate) fn apply(&mut self, change: Change) {
        self.apply_hashed(self.mirror.hash(change.key()), change);
    }

    fn apply_hashed(&mut self, hash: u64, change: Change) {
        match change {
            Change::Put { key, value, revision } => {
                // A key with an entry matches a pattern.
                if let Some(id) = self.entry_hashed(hash, &key) {
                    return self.put_known(id, value, revision);
                }
                let Some((text, watcher)) = self.wanted(&key) else { return };
                // This news is late: the key was deleted after this commit or read. The deletion is known,
                // but its tombstone has been collected.
                if revision < self.complete_to(watcher) {
                    return;
                }
                let uses = self.match_new(text);
                self.put_new(hash, KeyValue { key, value, revision }, watcher, uses);
            }
            Change::Delete { key, revision, how } => {
                let Some((key, watcher)) = self.wanted(&key) else { return };
                let guard = self.views.any_older(watcher, revision);
                let Some(id) = self.entry_hashed(hash, key.as_bytes()) else {
                    let unknown = (guard || how == Deletion::Delivered) && !self.uses(key).is_empty();
                    if unknown && guard {
                        self.mirror.delete_unknown(hash, key, revision, watcher);
                    } else if unknown {
                        self.forget(watcher, revision);
                    }
                    return;
                };
                let known = self.mirror.present(id).map(|(_, known)| known);
                match (self.mirror.delete_at(id, key.len(), revision), known, how) {
                    // A deletion that was found by a read may have happened at any time after the key was put.
                    // Readers must not take it to be later than that.
                    (Merge::Deleted(id), Some(known), Deletion::SeenAbsent) => {
                        self.unlink(id, key, known.next());
                    }
                    (Merge::Deleted(id), ..) => self.unlink(id, key, revision),
                    (merge, ..) => self.apply_merge(merge, revision),
                }
            }
        }
    }

    fn put_known(&mut self, id: EntryId, value: Value, revision: Revision) {
        let merge = self.mirror.put_at(id, value, revision);
        self.apply_merge(merge, revision);
    }

    /// Puts a key that has no entry, if a pattern matches it. `uses` is the result of [`Index::match_new`].
    fn put_new(
        &mut self,
        hash: u64,
        KeyValue { key, value, revision }: KeyValue,
        watcher: WatcherIndex,
        uses: impl IntoIterator<Item = Matched>,
    ) -> Option<EntryId> {
        let readers = self.subscribe(uses.into_iter());
        if readers.is_empty() {
            return None;
        }
        let length = key.len();
        // The key keeps the allocation into which it was read. Mostly that has no spare capacity, so nothing
        // is copied.
        let text = || String::from_utf8(key).expect("a pattern matches it").into_boxed_str();
        let readers = Readers::new(readers, text);
        let id = self.mirror.put_new(hash, length, (value, revision), watcher, readers);
        self.attach(id, revision);
        Some(id)
    }

    /// The revision at which a key without an entry is known not to have existed.
    fn complete_to(&self, watcher: WatcherIndex) -> Revision {
        self.position(watcher).max(self.views.told_by_snapshot(watcher).unwrap_or(Revision::NONE))
    }

    /// Notes that a key was deleted at this revision, and that the mirror doesn't remember which key.
    fn forget(&mut self, watcher: WatcherIndex, revision: Revision) {
        let forgotten = &mut self.forgotten[watcher.index()];
        *forgotten = revision.max(*forgotten);
    }

    /// The key as text and its watcher, if a pattern may match it.
    fn wanted<'k>(&mut self, key: &'k [u8]) -> Option<(&'k str, WatcherIndex)> {
        let Ok(key) = std::str::from_utf8(key) else {
            self.counters.not_text += 1;
            return None;
        };
        if self.namespaces.iter().any(|namespace| key.starts_with(namespace.as_str())) {
            return None;
        }
        Some((key, self.watcher_of(key)?))
    }

    /// The watcher that covers a key. Of two ranges that have it, the smaller one comes first.
    pub(crate) fn watcher_of(&self, key: &str) -> Option<WatcherIndex> {
        self.ranges.iter().position(|range| range.contains(key)).map(WatcherIndex::new)
    }

    fn apply_merge(&mut self, merge: Merge, revision: Revision) {
        match merge {
            Merge::Created(id) => self.link(id, revision),
            Merge::Changed(id) => self.touch(id, revision),
            Merge::Deleted(_) => unreachable!("only `Mirror::delete_at` deletes"),
            Merge::Stale(id) => self.touch_late(id, revision),
            Merge::Known => {}
        }
    }

    /// Every use of a pattern that the key matches, with the values that it binds.
    fn uses(&self, key: &str) -> Vec<Matched> {
        let mut uses = Vec::new();
        self.add_uses(key, &mut uses);
        uses
    }

    /// The same for a key that has no entry.
    fn match_new(&mut self, key: &str) -> Vec<Matched> {
        self.counters.matched += 1;
        self.uses(key)
    }

    fn add_uses(&self, key: &str, uses: &mut Vec<Matched>) {
        self.patterns.matching(key, |usage: &Use, captures: &KeySegments<'_>| {
            let &Use { rule, slot, group, ref order, .. } = usage;
            let binding = Binding::new(order.iter().map(|&at| captures[at as usize]));
            let hash = if group.is_none() { self.instances.hash(rule, &binding) } else { 0 };
            uses.push(Matched { rule, slot, group, binding, hash });
        });
    }

    /// Removes an instance that no key implies any more. False if a key implies it again.
    pub(crate) fn release(&mut self, id: InstanceId) -> bool {
        let Some(index) = self.instances.resolve(id) else { return false };
        let instance = self.instances.get(index);
        let rule = instance.rule.index();
        if !instance.is_orphaned(|| self.rules[rule].attributes().is_empty()) || instance.dirty_at().is_some()
        {
            return false;
        }
        for (group, at) in instance.groups().collect::<SmallVec<[_; 2]>>() {
            if let Some(moved) = self.groups.leave(group, at) {
                self.instances.get_mut(moved).moved_in(group, at);
            }
            self.groups.remove_if_unused(group);
        }
        self.instances.remove(index);
        true
    }

    /// Removes the tombstones that are not needed any more, because no event and no view can be older.
    fn collect_tombstones(&mut self, watcher: WatcherIndex) {
        let position = self.positions[watcher.index()];
        let horizon = self.views.oldest(watcher).map_or(position, |oldest| oldest.min(position));
        if let Some(newest) = self.mirror.collect_tombstones(watcher, horizon) {
            self.forget(watcher, newest);
        }
    }
}
