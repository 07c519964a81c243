//! Which instances are to be decided, why, and with which values of their keys.

use super::Index;
use super::instances::InstanceId;
use super::places::{EntryId, InstanceIndex};
use crate::change::Seen;
use crate::change::{Revision, Snapshot};
use crate::compiled::{Binding, RuleIndex};
use crate::condition::Slot;
use smallvec::SmallVec;

/// A key that changed, as a slot of the rule, and the revision of the change.
pub(crate) type Touch = (Slot, Revision);

/// Which question of the dispatcher it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct QuestionId(u64);

impl QuestionId {
    pub(crate) const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    #[cfg(test)]
    pub(crate) const fn new(number: u64) -> Self {
        Self(number)
    }
}

/// Why an instance is to be decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DecisionReason {
    /// A key it reads changed, or it is new.
    Change,
    /// A crawl looks at every instance.
    Crawl,
    /// The dispatcher asked. The question is named with the answer.
    Ask(QuestionId),
}

/// An instance to decide, with the values of its keys.
#[derive(Debug)]
pub(crate) struct Decide {
    pub(crate) instance: InstanceId,
    pub(crate) rule: RuleIndex,
    pub(crate) binding: Binding,
    pub(crate) snapshot: Snapshot,
    /// The values are known to have been there together at some revision.
    pub(crate) coherent: bool,
    pub(crate) touches: SmallVec<[Touch; 2]>,
    pub(crate) reason: DecisionReason,
    /// No existing key implies the instance any more. It can be removed once it is idle.
    pub(crate) orphaned: bool,
}

/// An instance that will be decided at the end of this turn.
pub(super) struct Dirty {
    /// `None` if it has been decided already.
    pub(super) instance: Option<InstanceIndex>,
    pub(super) touches: SmallVec<[Touch; 2]>,
    reason: DecisionReason,
}

/// Room for so many due decisions is kept for the next ones.
const DIRTY: usize = 65_536;

impl Index {
    /// Marks an instance for a decision.
    pub(super) fn mark_dirty(&mut self, index: InstanceIndex, touch: Option<Touch>, reason: DecisionReason) {
        let instance = self.instances.get_mut(index);
        if !self.readable.has(instance.rule) {
            return;
        }
        if let Some(at) = instance.dirty_at() {
            let dirty = &mut self.dirty[at];
            dirty.touches.extend(touch);
            if dirty.reason == DecisionReason::Change {
                dirty.reason = reason;
            }
        } else {
            instance.set_dirty_at(Some(self.dirty.len()));
            self.dirty.push(Dirty { instance: Some(index), touches: touch.into_iter().collect(), reason });
        }
    }

    /// Values of an instance's keys, by slot.
    fn snapshot(&self, index: InstanceIndex) -> Snapshot {
        let instance = self.instances.get(index);
        let rule = &self.rules[instance.rule.index()];
        let mut snapshot: Snapshot = instance.entries().map(|id| self.seen(id)).collect();
        for (kind, (group, _)) in instance.groups().enumerate() {
            let group = self.groups.get(group);
            for (&slot, &id) in rule.kinds()[kind].slots.iter().zip(group.entries()) {
                snapshot[slot.index()] = self.seen(id);
            }
        }
        snapshot
    }

    /// Requests a decision on an instance. `None` if it does not exist any more, or can't be decided because keys of
    /// its rule can't be read. If a change has made a decision due anyway, this is that decision.
    pub(crate) fn request_decision(&mut self, id: InstanceId, reason: DecisionReason) -> Option<Decide> {
        let index = self.instances.resolve(id)?;
        if !self.readable.has(self.instances.get(index).rule) {
            return None;
        }
        let due = self.instances.get(index).dirty_at().map(|at| &mut self.dirty[at]);
        let touches = match due.filter(|dirty| dirty.reason == DecisionReason::Change) {
            Some(dirty) => {
                self.instances.get_mut(index).set_dirty_at(None);
                dirty.instance = None;
                std::mem::take(&mut dirty.touches)
            }
            None => SmallVec::new(),
        };
        Some(self.decide(index, touches, reason))
    }

    fn decide(
        &mut self,
        index: InstanceIndex,
        touches: SmallVec<[Touch; 2]>,
        reason: DecisionReason,
    ) -> Decide {
        self.counters.decided += 1;
        let snapshot = self.snapshot(index);
        let instance = self.instances.get(index);
        Decide {
            instance: self.instances.id(index),
            rule: instance.rule,
            binding: instance.binding.clone(),
            coherent: self.is_coherent(instance.rule, &instance.binding, &snapshot),
            snapshot,
            touches,
            reason,
            orphaned: instance.is_orphaned(|| self.rules[instance.rule.index()].attributes().is_empty()),
        }
    }

    /// Moves the due decisions into `out`.
    pub(crate) fn drain(&mut self, out: &mut Vec<Decide>) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for Dirty { instance, touches, reason } in dirty.drain(..) {
            let Some(instance) = instance else { continue };
            self.instances.get_mut(instance).set_dirty_at(None);
            let decide = self.decide(instance, touches, reason);
            out.push(decide);
        }
        // All instances were due at once. That is rare, and the memory is large.
        if dirty.capacity() <= DIRTY {
            self.dirty = dirty;
        }
    }

    /// The values of a rule's keys for a binding, whether or not such an instance exists.
    pub(crate) fn look_up(&self, rule: RuleIndex, binding: &Binding) -> Snapshot {
        let rule = &self.rules[rule.index()];
        let keys = (0..rule.slots().len()).map(|slot| rule.key(Slot::new(slot), binding));
        keys.map(|key| self.entry_of(&key).and_then(|id| self.seen(id))).collect()
    }

    fn seen(&self, id: EntryId) -> Option<Seen> {
        let (value, mod_revision) = self.mirror.present(id)?;
        Some(Seen { value: value.clone(), mod_revision })
    }
}
