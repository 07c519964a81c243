//! The index: which instances read which keys, and what must be decided again after a change.
//!
//! [`Index`] is synchronous and does no I/O. It merges all news of keys into the [mirror](mirror), and keeps
//! the instances and groups that the keys imply. It hands out [`Decide`] orders ([decisions]): an instance
//! with the values of its keys, all from the same state of the mirror. [`actor`] carries messages to and from
//! it.

pub(crate) mod actor;
mod coherence;
mod decisions;
mod groups;
mod instances;
pub(crate) mod listing;
mod mirror;
mod orders;
pub(crate) mod patterns;
mod readable;
mod table;
pub(crate) mod views;
mod walks;
mod watchers;

#[cfg(test)]
pub(crate) mod tests;

pub(crate) use decisions::{Decide, Reason, Touch};
pub(crate) use instances::InstanceId;
pub(crate) use orders::{Order, Orders, Reached, Timestamps};
pub(crate) use readable::WatchState;
pub(crate) use views::Purpose;
pub(crate) use watchers::WatcherIndex;

use crate::change::{Change, Deletion, KeyValue, Revision};
use crate::compiled::{Binding, CompiledRule, Packed, RuleIndex, Use};
use crate::condition::Slot;
use crate::pattern::KeyScope;
use crate::value::Value;
use coherence::Coherence;
use decisions::Dirty;
use foldhash::fast::FixedState;
use groups::Groups;
use instances::Instances;
use mirror::{EntryId, Merge, Mirror, NO_ENTRY, Subscriber};
use patterns::{Captures, Patterns};
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
    walks: VecDeque<u32>,
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
            groups: Groups::new(hasher),
            views: Views::default(),
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
            self.coherence.told(watcher, revision);
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
        let (mut hashes, mut known) = (SmallVec::<[u64; AHEAD]>::new(), SmallVec::<[_; AHEAD]>::new());
        while !changes.as_slice().is_empty() {
            // No read depends on the result of an earlier one, so they overlap.
            let mut touched = 0;
            hashes.clear();
            for change in changes.as_slice().iter().take(AHEAD) {
                let hash = self.mirror.hash(change.key());
                touched ^= self.mirror.touch(hash);
                hashes.push(hash);
            }
            known.clear();
            for (change, &hash) in changes.as_slice().iter().zip(&hashes) {
                known.push(self.mirror.find_hashed(hash, change.key()));
            }
            for &id in known.iter().flatten() {
                if let Some(&Subscriber::Instance(index, _)) = self.mirror.entry(id).readers.first() {
                    let instance = self.instances.get(index);
                    touched ^= u64::from(instance.touch());
                }
            }
            std::hint::black_box(touched);
            for (known, change) in known.drain(..).zip(&mut changes) {
                match (known, change) {
                    // A key with an entry matches a pattern, and entries are not removed while changes are
                    // merged.
                    (Some(id), Change::Put { value, revision, .. }) => self.put_known(id, value, revision),
                    (_, change) => self.apply(change),
                }
            }
        }
    }

    /// Merges one change. The instances that read its key become dirty.
    pub(crate) fn apply(&mut self, change: Change) {
        match change {
            Change::Put { key, value, revision } => {
                let Some((text, watcher)) = self.wanted(&key) else { return };
                // This news is late: the key was deleted after this commit or read. The deletion is known,
                // but its tombstone has been collected.
                let hash = self.mirror.hash(&key);
                match self.mirror.find_hashed(hash, &key) {
                    Some(id) => self.put_known(id, value, revision),
                    None if revision < self.complete_to(watcher) => {}
                    None => {
                        let uses = self.match_new(text);
                        self.put_new(hash, KeyValue { key, value, revision }, watcher, uses);
                    }
                }
            }
            Change::Delete { key, revision, how } => {
                let Some((key, watcher)) = self.wanted(&key) else { return };
                let guard = self.views.any_older(watcher, revision);
                let delivered = how == Deletion::Delivered;
                let unknown =
                    (guard || delivered) && self.mirror.find(key).is_none() && !self.uses(key).is_empty();
                if unknown && !guard {
                    self.forget(watcher, revision);
                }
                let known =
                    self.mirror.find(key).and_then(|id| self.mirror.present(id)).map(|(_, known)| known);
                let merge = self.mirror.delete(key, revision, guard && unknown, watcher);
                // A deletion that was found by a read may have happened at any time after the key was put.
                // Readers must not take it to be later than that.
                let happened = match (&merge, known, how) {
                    (Merge::Deleted(_), Some(known), Deletion::SeenAbsent) => known.next(),
                    _ => revision,
                };
                self.settle(merge, happened);
            }
        }
    }

    fn put_known(&mut self, id: EntryId, value: Value, revision: Revision) {
        let merge = self.mirror.put_at(id, value, revision);
        self.settle(merge, revision);
    }

    /// Puts a key that has no entry, if a pattern matches it. `uses` is the result of [`Index::match_new`].
    fn put_new(
        &mut self,
        hash: u64,
        KeyValue { key, value, revision }: KeyValue,
        watcher: WatcherIndex,
        uses: impl IntoIterator<Item = Matched>,
    ) -> Option<EntryId> {
        let mut uses = uses.into_iter().peekable();
        uses.peek()?;
        // The key keeps the allocation into which it was read. Mostly that has no spare capacity, so nothing
        // is copied.
        let key = String::from_utf8(key).ok()?.into_boxed_str();
        let id = self.mirror.put_new(hash, key, value, revision, watcher);
        self.link(id, uses, revision);
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
    fn watcher_of(&self, key: &str) -> Option<WatcherIndex> {
        self.ranges.iter().position(|range| range.contains(key)).map(WatcherIndex::new)
    }

    fn settle(&mut self, merge: Merge, revision: Revision) {
        match merge {
            Merge::Created(id) => {
                let uses = self.uses(&self.mirror.entry(id).key);
                self.link(id, uses.into_iter(), revision);
            }
            Merge::Changed(id) => self.touch(id, revision),
            Merge::Deleted(id) => self.unlink(id, revision),
            Merge::Stale(id) => self.touch_late(id, revision),
            Merge::Known => {}
        }
    }

    /// Connects a key that now exists with the instances and groups that read it. They are made if they are
    /// new.
    fn link(&mut self, id: EntryId, uses: impl Iterator<Item = Matched>, revision: Revision) {
        let mut readers: SmallVec<[Subscriber; 1]> = SmallVec::new();
        for Matched { rule, slot, group, binding, hash } in uses {
            match group {
                None => {
                    let index = self.instance(hash, rule, binding);
                    let instance = self.instances.get_mut(index);
                    instance.entries[slot.index()] = id;
                    instance.implied_by += 1;
                    readers.push(Subscriber::Instance(index, slot));
                    self.mark_dirty(index, Some((slot, revision)), Reason::Change);
                }
                Some(kind) => {
                    let index = self.groups.get_or_insert(&self.rules, rule, kind, binding.bytes());
                    self.groups.get_mut(index).set_entry(&self.rules, slot, id);
                    readers.push(Subscriber::Group(index, slot));
                    self.group_changed(index, slot, revision);
                }
            }
        }
        self.mirror.entry_mut(id).readers = readers;
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
        self.patterns.matching(key, |usage: &Use, captures: &Captures<'_>| {
            let &Use { rule, slot, group, ref order, .. } = usage;
            let binding = Binding::new(order.iter().map(|&at| captures[at as usize]));
            let hash = if group.is_none() { self.instances.hash(rule, &binding) } else { 0 };
            uses.push(Matched { rule, slot, group, binding, hash });
        });
    }

    /// Tells the readers of a key that it doesn't exist any more.
    fn unlink(&mut self, id: EntryId, revision: Revision) {
        for reader in std::mem::take(&mut self.mirror.entry_mut(id).readers) {
            match reader {
                Subscriber::Instance(index, slot) => {
                    let instance = self.instances.get_mut(index);
                    instance.entries[slot.index()] = NO_ENTRY;
                    instance.implied_by -= 1;
                    self.mark_dirty(index, Some((slot, revision)), Reason::Change);
                }
                Subscriber::Group(index, slot) => {
                    self.groups.get_mut(index).set_entry(&self.rules, slot, NO_ENTRY);
                    self.group_changed(index, slot, revision);
                    self.groups.remove_if_unused(index);
                }
            }
        }
    }

    /// Tells the readers of a key that it has another value.
    fn touch(&mut self, id: EntryId, revision: Revision) {
        for at in 0..self.mirror.entry(id).readers.len() {
            match self.mirror.entry(id).readers[at] {
                Subscriber::Instance(index, slot) => {
                    self.mark_dirty(index, Some((slot, revision)), Reason::Change)
                }
                Subscriber::Group(index, slot) => self.group_changed(index, slot, revision),
            }
        }
    }

    /// Notes a change that arrives when a newer one of the same key is already known, because an own commit
    /// overtook the watch. The value stays as it is. But somebody else did change the key, and its readers
    /// must know.
    fn touch_late(&mut self, id: EntryId, revision: Revision) {
        if self.mirror.present(id).is_some() {
            return self.touch(id, revision);
        }
        let key = self.mirror.entry(id).key.clone();
        for Matched { rule, slot, group, binding, hash } in self.uses(&key) {
            if group.is_none()
                && let Some(index) = self.instances.find_hashed(hash, rule, &binding)
            {
                self.mark_dirty(index, Some((slot, revision)), Reason::Change);
            }
        }
    }

    /// The instance of a rule for a binding. It is made if it is new. `hash` is that of [`Instances::hash`].
    fn instance(&mut self, hash: u64, rule: RuleIndex, binding: Binding) -> u32 {
        if let Some(index) = self.instances.find_hashed(hash, rule, &binding) {
            return index;
        }
        let Self { rules, instances, groups, packed, .. } = self;
        let compiled = &rules[rule.index()];
        let attributes = compiled.attributes().len();
        let index = instances.insert(hash, rule, binding, compiled.slots().len());
        let instance = instances.get_mut(index);
        for (kind, shape) in compiled.kinds().iter().enumerate() {
            let values = shape.attributes.iter().map(|&at| instance.binding.get(at as usize, attributes));
            Binding::pack(values, packed);
            let group = groups.get_or_insert(rules, rule, kind as u8, packed);
            let at = groups.get_mut(group).join(index);
            instance.groups.push((group, at));
        }
        self.mark_dirty(index, None, Reason::Change);
        index
    }

    /// Handles a change of a group's key. The members are decided only if what the key contributes has
    /// changed.
    fn group_changed(&mut self, index: u32, slot: Slot, revision: Revision) {
        let Self { groups, mirror, rules, .. } = self;
        if groups.get_mut(index).refresh(rules, mirror)
            && self.ready
            && groups.get_mut(index).begin_walk((slot, revision))
        {
            self.walks.push_back(index);
        }
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
        for (group, at) in instance.groups.clone() {
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
