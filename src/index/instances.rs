//! The table of rule instances: found by rule and binding, addressed by small numbers.

use super::places::{EntryId, GroupIndex, InstanceIndex, MemberIndex};
use super::table::Table;
use crate::compiled::{Binding, RuleIndex};
use crate::condition::Slot;
use crate::runtime::spare::Spare;
use crate::typed_index::TypedIndex;
use foldhash::fast::FixedState;
use slab::Slab;
use smallvec::SmallVec;
use std::hash::BuildHasher;

/// Identifies an instance for as long as it exists. When its number is used again, the generation differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct InstanceId {
    /// Its place, which only [`Instances::resolve`] may take for one: by then another instance may have it.
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

const CLEAN: u32 = u32::MAX;

pub(crate) struct IndexedInstance {
    pub(crate) rule: RuleIndex,
    generation: u32,
    pub(crate) binding: Binding,
    dirty_at: u32,
    slots: u8,
    /// The entry of each slot, and behind them two numbers for each group kind: the group, and this instance's place
    /// among its members. One list takes less room than two.
    links: SmallVec<[u32; 4]>,
}

impl IndexedInstance {
    /// Reads the memory that a decision needs, so that it is in the processor's cache by then.
    pub(crate) fn touch(&self) -> u32 {
        let binding = self.binding.bytes().first().copied().unwrap_or(0);
        self.dirty_at ^ self.generation ^ u32::from(binding)
    }

    /// The entry of each slot. Slots that belong to a group stay empty here.
    pub(crate) fn entries(&self) -> impl ExactSizeIterator<Item = EntryId> + '_ {
        self.links[..usize::from(self.slots)].iter().map(|&id| place(id))
    }

    /// Sets the entry of a slot that belongs to no group.
    pub(crate) fn set_entry(&mut self, slot: Slot, id: EntryId) {
        debug_assert!(slot.index() < usize::from(self.slots), "behind them are groups");
        self.links[slot.index()] = link(id);
    }

    /// For each group kind, the group and this instance's place among its members.
    pub(crate) fn groups(&self) -> impl ExactSizeIterator<Item = (GroupIndex, MemberIndex)> + '_ {
        self.links[usize::from(self.slots)..].chunks_exact(2).map(|group| (place(group[0]), place(group[1])))
    }

    /// Notes the group of the next kind, and the place among its members.
    pub(crate) fn join(&mut self, group: GroupIndex, at: MemberIndex) {
        self.links.extend([link(group), link(at)]);
    }

    /// Its place in the list of dirty instances, if it is dirty.
    pub(crate) fn dirty_at(&self) -> Option<usize> {
        (self.dirty_at != CLEAN).then_some(self.dirty_at as usize)
    }

    pub(crate) fn set_dirty_at(&mut self, at: Option<usize>) {
        self.dirty_at = at.map_or(CLEAN, |at| at as u32);
    }

    /// Whether no existing key implies it. A rule without attributes always has its one instance, which
    /// `always` tells. That is called only if no key implies the instance, because for most instances the
    /// rule then need not be read.
    pub(crate) fn is_orphaned(&self, always: impl FnOnce() -> bool) -> bool {
        self.entries().all(|id| id == EntryId::NONE) && !always()
    }

    /// Notes that it was moved to another place among a group's members.
    pub(crate) fn moved_in(&mut self, group: GroupIndex, at: MemberIndex) {
        let groups = self.links[usize::from(self.slots)..].chunks_exact_mut(2);
        for member in groups.filter(|member| member[0] == link(group)) {
            member[1] = link(at);
        }
    }
}

/// What stands for a place in [`IndexedInstance::links`], where places in several tables are.
fn link(place: impl TypedIndex) -> u32 {
    place.place() as u32
}

/// The place that a link stands for.
fn place<I: TypedIndex>(link: u32) -> I {
    I::at(link as usize)
}

pub(crate) struct Instances {
    table: Slab<IndexedInstance>,
    by_binding: Table<InstanceIndex>,
    hasher: FixedState,
    generation: u32,
    /// How many instances each rule has.
    by_rule: Vec<usize>,
    spare: Spare,
}

impl Instances {
    pub(crate) fn new(rules: usize, hasher: FixedState) -> Self {
        let (table, by_binding, by_rule) = (Slab::new(), Table::default(), vec![0; rules]);
        Self { table, by_binding, hasher, generation: 0, by_rule, spare: Spare::default() }
    }

    pub(crate) fn by_rule(&self) -> &[usize] {
        &self.by_rule
    }

    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    pub(crate) fn capacity(&self) -> usize {
        self.table.capacity()
    }

    pub(crate) fn at(&self, index: usize) -> Option<InstanceIndex> {
        self.table.contains(index).then_some(InstanceIndex::new(index))
    }

    pub(crate) fn get(&self, index: InstanceIndex) -> &IndexedInstance {
        &self.table[index.index()]
    }

    pub(crate) fn get_mut(&mut self, index: InstanceIndex) -> &mut IndexedInstance {
        &mut self.table[index.index()]
    }

    pub(crate) fn id(&self, index: InstanceIndex) -> InstanceId {
        InstanceId { index: index.index() as u32, generation: self.get(index).generation }
    }

    /// The index behind an id, if that instance still exists.
    pub(crate) fn resolve(&self, id: InstanceId) -> Option<InstanceIndex> {
        let index = InstanceIndex::new(id.index as usize);
        let instance = self.table.get(index.index())?;
        (instance.generation == id.generation).then_some(index)
    }

    pub(crate) fn find(&self, rule: RuleIndex, binding: &Binding) -> Option<InstanceIndex> {
        self.find_hashed(self.hash(rule, binding), rule, binding)
    }

    /// The hash of an instance, for callers that look it up more than once.
    pub(crate) fn hash(&self, rule: RuleIndex, binding: &Binding) -> u64 {
        self.hasher.hash_one((rule, binding.bytes()))
    }

    /// Reads the memory where an instance would be found, so that it is in the processor's cache by then.
    pub(crate) fn touch(&self, hash: u64) -> u64 {
        self.by_binding.touch(hash)
    }

    pub(crate) fn find_hashed(&self, hash: u64, rule: RuleIndex, binding: &Binding) -> Option<InstanceIndex> {
        self.by_binding.find(hash, |index| {
            let instance = self.get(index);
            instance.rule == rule && instance.binding == *binding
        })
    }

    /// Adds an instance that must not exist yet. `hash` is that of [`Instances::hash`].
    pub(crate) fn insert(
        &mut self,
        hash: u64,
        rule: RuleIndex,
        binding: Binding,
        slots: usize,
    ) -> InstanceIndex {
        self.generation = self.generation.wrapping_add(1);
        self.by_rule[rule.index()] += 1;
        let index = InstanceIndex::new(self.table.insert(IndexedInstance {
            rule,
            generation: self.generation,
            binding,
            dirty_at: CLEAN,
            slots: slots as u8,
            links: smallvec::smallvec![link(EntryId::NONE); slots],
        }));
        self.by_binding.insert(hash, index);
        index
    }

    /// Makes room for `more` instances.
    pub(crate) fn reserve(&mut self, more: usize) {
        self.table.reserve_exact(more);
        self.by_binding.reserve(more);
    }

    /// Gives memory back if there were far more instances than there are.
    pub(crate) fn shrink(&mut self) {
        if self.spare.is_far_too_much(self.table.len(), self.table.capacity()) {
            self.table.shrink_to_fit();
            self.by_binding.shrink();
        }
    }

    pub(crate) fn remove(&mut self, index: InstanceIndex) {
        let instance = self.table.remove(index.index());
        self.by_rule[instance.rule.index()] -= 1;
        let hash = self.hasher.hash_one((instance.rule, instance.binding.bytes()));
        self.by_binding.remove(hash, index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_is_as_large_as_a_cache_line() {
        assert_eq!(
            (size_of::<IndexedInstance>(), size_of::<Option<IndexedInstance>>()),
            (64, 64),
            "a slab has room for `None`"
        );
    }
}
