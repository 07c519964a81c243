//! Links between keys and who reads them: instances, and groups of instances.

use super::mirror::{Readers, Subscriber};
use super::places::{EntryId, GroupIndex, InstanceIndex};
use super::{DecisionReason, Index, Matched};
use crate::change::Revision;
use crate::compiled::{Binding, RuleIndex};
use crate::condition::Slot;
use smallvec::SmallVec;

impl Index {
    pub(super) fn entry_of(&self, key: &str) -> Option<EntryId> {
        self.entry_hashed(self.mirror.hash(key.as_bytes()), key.as_bytes())
    }

    /// The same for a key that may be no text, which never has an entry. `hash` is that of the mirror.
    pub(super) fn entry_hashed(&self, hash: u64, key: &[u8]) -> Option<EntryId> {
        self.mirror.find(hash, key, |index, slot| {
            let instance = self.instances.get(index);
            self.forms.fits(instance.rule, slot, &instance.binding, key)
        })
    }

    /// The key of an entry.
    pub(super) fn key_of(&self, id: EntryId) -> String {
        match &self.mirror.entry(id).readers {
            Readers::Listed(listed) => listed.key.to_string(),
            Readers::One(index, slot) => {
                let instance = self.instances.get(*index);
                self.rules[instance.rule.index()].key(*slot, &instance.binding)
            }
        }
    }

    /// The instances and groups that read a key. They are made if they are new.
    pub(super) fn subscribe(&mut self, uses: impl Iterator<Item = Matched>) -> SmallVec<[Subscriber; 1]> {
        uses.map(|Matched { rule, slot, group, binding, hash }| match group {
            None => Subscriber::Instance(self.instance(hash, rule, binding), slot),
            Some(kind) => {
                let group = self.groups.get_or_insert(&self.rules, rule, kind, binding.bytes());
                Subscriber::Group(group, slot)
            }
        })
        .collect()
    }

    /// Connects a key that exists again with the instances and groups that read it.
    pub(super) fn link(&mut self, id: EntryId, revision: Revision) {
        let key = self.key_of(id);
        let uses = self.uses(&key);
        let readers = self.subscribe(uses.into_iter());
        self.mirror.entry_mut(id).readers = Readers::new(readers, || key.into_boxed_str());
        self.attach(id, revision);
    }

    /// Tells the readers of a key that it exists now.
    pub(super) fn attach(&mut self, id: EntryId, revision: Revision) {
        let mut at = 0;
        while let Some(reader) = self.mirror.entry(id).readers.get(at) {
            at += 1;
            match reader {
                Subscriber::Instance(index, slot) => {
                    self.instances.get_mut(index).set_entry(slot, id);
                    self.mark_dirty(index, Some((slot, revision)), DecisionReason::Change);
                }
                Subscriber::Group(index, slot) => {
                    self.groups.get_mut(index).set_entry(&self.rules, slot, id);
                    self.group_changed(index, slot, revision);
                }
            }
        }
    }

    /// Tells the readers of a key that it doesn't exist any more.
    pub(super) fn unlink(&mut self, id: EntryId, key: &str, revision: Revision) {
        for reader in self.mirror.entry_mut(id).readers.take(key) {
            match reader {
                Subscriber::Instance(index, slot) => {
                    self.instances.get_mut(index).set_entry(slot, EntryId::NONE);
                    self.mark_dirty(index, Some((slot, revision)), DecisionReason::Change);
                }
                Subscriber::Group(index, slot) => {
                    self.groups.get_mut(index).set_entry(&self.rules, slot, EntryId::NONE);
                    self.group_changed(index, slot, revision);
                    self.groups.remove_if_unused(index);
                }
            }
        }
    }

    /// Tells the readers of a key that it has another value.
    pub(super) fn touch(&mut self, id: EntryId, revision: Revision) {
        let mut at = 0;
        while let Some(reader) = self.mirror.entry(id).readers.get(at) {
            at += 1;
            match reader {
                Subscriber::Instance(index, slot) => {
                    self.mark_dirty(index, Some((slot, revision)), DecisionReason::Change);
                }
                Subscriber::Group(index, slot) => self.group_changed(index, slot, revision),
            }
        }
    }

    /// Notes a change that arrives when a newer one of the same key is already known, because an own commit
    /// overtook the watch. The value stays as it is. But somebody else did change the key, and its readers
    /// must know.
    pub(super) fn touch_late(&mut self, id: EntryId, revision: Revision) {
        if self.mirror.present(id).is_some() {
            return self.touch(id, revision);
        }
        for Matched { rule, slot, group, binding, hash } in self.uses(&self.key_of(id)) {
            if group.is_none()
                && let Some(index) = self.instances.find_hashed(hash, rule, &binding)
            {
                self.mark_dirty(index, Some((slot, revision)), DecisionReason::Change);
            }
        }
    }

    /// The instance of a rule for a binding. It is made if it is new. `hash` is that of
    /// [`Instances::hash`](super::instances::Instances::hash).
    pub(super) fn instance(&mut self, hash: u64, rule: RuleIndex, binding: Binding) -> InstanceIndex {
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
            instance.join(group, at);
        }
        self.mark_dirty(index, None, DecisionReason::Change);
        index
    }

    /// Handles a change of a group's key. The members are decided only if what the key contributes has
    /// changed.
    fn group_changed(&mut self, index: GroupIndex, slot: Slot, revision: Revision) {
        let Self { groups, mirror, rules, .. } = self;
        if groups.get_mut(index).refresh(rules, mirror)
            && self.ready
            && groups.get_mut(index).begin_walk((slot, revision))
        {
            self.walks.push_back(index);
        }
    }
}
