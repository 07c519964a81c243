//! Groups: the instances of a rule that share a key which binds only some of its attributes, such
//! as `/config/enabled` in a rule over `/servers/:id/…`.
//!
//! What such a key contributes is cached here once. The members are decided again only when that changes.
//! They are decided by a walk in chunks, so that a group with a million members needs neither a list for each
//! key nor a long pause.

use super::Touch;
use super::mirror::Mirror;
use super::places::{EntryId, GroupIndex, InstanceIndex, MemberIndex};
use crate::change::Seen;
use crate::change::Snapshot;
use crate::compiled::CompiledRule;
use crate::compiled::{Binding, RuleIndex};
use crate::condition::{LeafNumber, Slot};
use crate::runtime::spare::Spare;
use crate::value::Value;
use foldhash::fast::FixedState;
use hashbrown::HashTable;
use slab::Slab;
use smallvec::SmallVec;
use std::hash::BuildHasher;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A walk over the members after a change. Those at places below `next` are still to be decided.
#[derive(Clone, Debug)]
pub(crate) struct Walk {
    pub(crate) next: usize,
    pub(crate) touches: SmallVec<[Touch; 2]>,
}

impl Walk {
    /// Remembers the two latest touches of each slot. One of them may be an instance's own commit, and then
    /// the other one counts. Earlier ones don't matter.
    fn touch(&mut self, touch: Touch) {
        if self.touches.contains(&touch) {
            return;
        }
        self.touches.push(touch);
        let of_slot = || self.touches.iter().enumerate().filter(|(_, (slot, _))| *slot == touch.0);
        if of_slot().count() > 2
            && let Some((oldest, _)) = of_slot().min_by_key(|(_, (_, revision))| *revision)
        {
            self.touches.remove(oldest);
        }
    }
}

pub(crate) struct KeyGroup {
    rule: RuleIndex,
    kind: u8,
    binding: Binding,
    /// By slot of the kind.
    entries: SmallVec<[EntryId; 2]>,
    /// The instances, in no particular order. A group has this one list, however many keys it has.
    members: Vec<InstanceIndex>,
    spare: Spare,
    /// The truth of each leaf of the kind. `None` if the leaf's comparison panicked.
    truths: SmallVec<[Option<bool>; 2]>,
    /// The value of each operand of the kind.
    operands: SmallVec<[Option<Value>; 1]>,
    walk: Option<Walk>,
}

impl KeyGroup {
    pub(crate) fn entries(&self) -> &[EntryId] {
        &self.entries
    }

    /// Adds a member and returns its place.
    pub(crate) fn join(&mut self, instance: InstanceIndex) -> MemberIndex {
        self.members.push(instance);
        MemberIndex::new(self.members.len() - 1)
    }

    pub(crate) fn set_entry(&mut self, rules: &[CompiledRule], slot: Slot, id: EntryId) {
        let slots = &rules[self.rule.index()].kinds()[self.kind as usize].slots;
        if let Some(at) = slots.iter().position(|&other| other == slot) {
            self.entries[at] = id;
        }
    }

    /// Computes again what the keys contribute. True if it has changed.
    pub(crate) fn refresh(&mut self, rules: &[CompiledRule], mirror: &Mirror) -> bool {
        let rule = &rules[self.rule.index()];
        let kind = &rule.kinds()[self.kind as usize];
        let mut changed = false;
        let mut snapshot: Snapshot = vec![None; rule.slots().len()].into();
        for (&slot, &id) in kind.slots.iter().zip(&self.entries) {
            snapshot[slot.index()] =
                mirror.present(id).map(|(value, mod_revision)| Seen { value: value.clone(), mod_revision });
        }
        for (truth, &leaf) in self.truths.iter_mut().zip(&kind.leaves) {
            let now = leaf_truth(rule, leaf, &snapshot);
            changed |= now.is_none() || *truth != now;
            *truth = now;
        }
        for (operand, &slot) in self.operands.iter_mut().zip(&kind.operands) {
            let now = snapshot[slot.index()].as_ref().map(|seen| seen.value.clone());
            changed |= *operand != now;
            *operand = now;
        }
        changed
    }

    /// Starts a walk over all members, or restarts it. True if no walk was under way.
    pub(crate) fn begin_walk(&mut self, touch: Touch) -> bool {
        let next = self.members.len();
        match &mut self.walk {
            _ if next == 0 => false,
            Some(walk) => {
                walk.next = next;
                walk.touch(touch);
                false
            }
            None => {
                self.walk = Some(Walk { next, touches: smallvec::smallvec![touch] });
                true
            }
        }
    }
}

/// A user's comparison may panic. That must not end the index.
fn leaf_truth(rule: &CompiledRule, leaf: LeafNumber, snapshot: &Snapshot) -> Option<bool> {
    catch_unwind(AssertUnwindSafe(|| rule.condition().leaf_truth(leaf, snapshot))).ok()
}

pub(crate) struct Groups {
    table: Slab<KeyGroup>,
    by_binding: HashTable<GroupIndex>,
    hasher: FixedState,
    spare: Spare,
}

impl Groups {
    pub(crate) fn new(hasher: FixedState) -> Self {
        Self { table: Slab::new(), by_binding: HashTable::new(), hasher, spare: Spare::default() }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    pub(crate) fn get(&self, index: GroupIndex) -> &KeyGroup {
        &self.table[index.index()]
    }

    pub(crate) fn get_mut(&mut self, index: GroupIndex) -> &mut KeyGroup {
        &mut self.table[index.index()]
    }

    pub(crate) fn get_or_insert(
        &mut self,
        rules: &[CompiledRule],
        rule: RuleIndex,
        kind: u8,
        packed: &[u8],
    ) -> GroupIndex {
        let hash = self.hasher.hash_one((rule, kind, packed));
        let table = &self.table;
        let found = self.by_binding.find(hash, |&index| {
            let group = &table[index.index()];
            group.rule == rule && group.kind == kind && group.binding.bytes() == packed
        });
        if let Some(&index) = found {
            return index;
        }
        let compiled = &rules[rule.index()];
        let shape = &compiled.kinds()[kind as usize];
        let empty: Snapshot = vec![None; compiled.slots().len()].into();
        let truths = shape.leaves.iter().map(|&leaf| leaf_truth(compiled, leaf, &empty)).collect();
        let index = GroupIndex::new(self.table.insert(KeyGroup {
            rule,
            kind,
            binding: Binding::of(packed),
            entries: smallvec::smallvec![EntryId::NONE; shape.slots.len()],
            members: Vec::new(),
            spare: Spare::default(),
            truths,
            operands: smallvec::smallvec![None; shape.operands.len()],
            walk: None,
        }));
        let (table, hasher) = (&self.table, &self.hasher);
        self.by_binding.insert_unique(hash, index, |&index| {
            let group = &table[index.index()];
            hasher.hash_one((group.rule, group.kind, group.binding.bytes()))
        });
        index
    }

    /// Removes a member. Returns the member that was moved to its place, if there is one.
    pub(crate) fn leave(&mut self, index: GroupIndex, at: MemberIndex) -> Option<InstanceIndex> {
        let group = self.get_mut(index);
        group.members.swap_remove(at.index());
        if group.spare.is_far_too_much(group.members.len(), group.members.capacity()) {
            group.members.shrink_to_fit();
        }
        if let Some(walk) = &mut group.walk {
            walk.next = walk.next.min(group.members.len());
        }
        // Walks go from the end to the start. So a walk that is under way may decide the moved member twice,
        // but never misses it.
        group.members.get(at.index()).copied()
    }

    pub(crate) fn remove_if_unused(&mut self, index: GroupIndex) {
        let group = self.get(index);
        if !group.members.is_empty() || group.entries.iter().any(|&id| id != EntryId::NONE) {
            return;
        }
        let group = self.table.remove(index.index());
        let hash = self.hasher.hash_one((group.rule, group.kind, group.binding.bytes()));
        if let Ok(found) = self.by_binding.find_entry(hash, |&other| other == index) {
            found.remove();
        }
    }

    /// Gives memory back if there were far more groups than there are.
    pub(crate) fn shrink(&mut self) {
        if self.spare.is_far_too_much(self.table.len(), self.table.capacity()) {
            self.table.shrink_to_fit();
            let (table, hasher) = (&self.table, &self.hasher);
            self.by_binding.shrink_to_fit(|&index| {
                let group = &table[index.index()];
                hasher.hash_one((group.rule, group.kind, group.binding.bytes()))
            });
        }
    }

    pub(crate) fn walk(&self, index: GroupIndex) -> Option<Walk> {
        self.table.get(index.index())?.walk.clone()
    }

    pub(crate) fn member(&self, index: GroupIndex, at: MemberIndex) -> Option<InstanceIndex> {
        self.get(index).members.get(at.index()).copied()
    }

    /// The walk has done everything from `next` on. At 0 it is complete.
    pub(crate) fn walked_to(&mut self, index: GroupIndex, next: usize) {
        let group = self.get_mut(index);
        if next == 0 {
            group.walk = None;
        } else if let Some(walk) = &mut group.walk {
            walk.next = next;
        }
    }
}
