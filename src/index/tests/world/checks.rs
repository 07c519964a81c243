//! The checks after every step.

use super::super::super::mirror::Content;
use super::super::super::*;
use super::super::oracle::{GroupName, KEYS, KeyContent, State};
use super::{Followed, World};
use std::collections::{BTreeSet, HashSet};

impl World {
    pub(super) fn groups_with_members(&self) -> HashSet<GroupName> {
        self.expected.iter().flat_map(|number| &self.oracle.instances[*number].groups).cloned().collect()
    }

    /// Notes which instances may be decided because of a key. `touch` is the revision that walks of a group
    /// must report. True if a group has a reason for a walk.
    pub(super) fn note(
        &mut self,
        key: usize,
        before: &State,
        touch: impl Fn(&GroupName) -> Option<Revision>,
    ) -> bool {
        let readers = &self.oracle.readers[key];
        self.concerned.extend(readers.instances.iter().map(|(number, _)| *number));
        let mut any = false;
        for (name, slot) in &readers.groups {
            if self.oracle.contribution(name, before) != self.oracle.contribution(name, &self.mirror) {
                let touches = self.changed_groups.entry(name.clone()).or_default();
                touches.remove(slot);
                touches.extend(touch(name).map(|revision| (*slot, revision)));
                any = true;
            }
        }
        any
    }

    /// Looks at one key of the mirror. Its revision must never go back.
    pub(super) fn observe(&mut self, key: usize) {
        let Some(entry) = self.index.entry_of(KEYS[key]) else {
            self.mirror[key] = None;
            return;
        };
        let held: KeyContent = match &self.index.mirror.entry(entry).content {
            Content::Present { value, revision } => Some((value.clone(), *revision)),
            Content::Gone { .. } => None,
        };
        if let Some((_, revision)) = held {
            assert!(revision >= self.floor[key], "{} went back to {held:?}", KEYS[key]);
        }
        let (Content::Present { revision, .. } | Content::Gone { revision }) =
            self.index.mirror.entry(entry).content;
        self.floor[key] = revision.max(self.floor[key]);
        self.mirror[key] = held;
        for (number, _) in &self.oracle.readers[key].instances {
            if self.oracle.instances[*number].implied(&self.mirror) {
                self.expected.insert(*number);
            }
        }
    }

    /// Looks at every key after a step that may have changed any.
    pub(super) fn look_all(&mut self) {
        let before = self.mirror.clone();
        (0..KEYS.len()).for_each(|key| self.observe(key));
        for key in (0..KEYS.len()).filter(|key| before[*key] != self.mirror[*key]).collect::<Vec<_>>() {
            self.note(key, &before, |_| None);
        }
        // What a group contributes may have changed with one key and changed back with the next.
        for name in self.groups_with_walks() {
            self.changed_groups.entry(name).or_default();
        }
    }

    pub(super) fn groups_with_walks(&self) -> HashSet<GroupName> {
        let mut walked = HashSet::new();
        for model in self.expected.iter().map(|number| &self.oracle.instances[*number]) {
            let index =
                self.index.instances.find(model.rule, &model.binding).expect("checked after each step");
            let groups = model.groups.iter().zip(self.index.instances.get(index).groups());
            let walks = groups.filter(|(_, (group, _))| self.index.groups.walk(*group).is_some());
            walked.extend(walks.map(|(name, _)| name.clone()));
        }
        walked
    }

    pub(super) fn members_of_changed_groups(&self) -> BTreeSet<usize> {
        let groups = &self.changed_groups;
        let models = self.oracle.instances.iter().enumerate();
        let members = models.filter(|(_, model)| model.groups.iter().any(|name| groups.contains_key(name)));
        members.map(|(number, _)| number).collect()
    }

    /// A decision that comes from the walk of a group must report what changed.
    pub(super) fn check_walk(&self, decide: &Decide, all: bool) {
        let model = &self.oracle.instances[self.oracle.numbers[&(decide.rule, decide.binding.clone())]];
        let walked = |name: &GroupName| {
            let changed = self.changed_groups.get(name)?;
            Some(changed.iter().all(|(slot, revision)| decide.touches.contains(&(*slot, *revision))))
        };
        let walked: Vec<bool> = model.groups.iter().filter_map(walked).collect();
        assert!(all || walked.contains(&true), "{decide:?} because of {:?}", self.changed_groups);
    }

    pub(super) fn take(&mut self) -> Vec<Decide> {
        let before = self.index.counters().decided;
        let mut decided = Vec::new();
        self.index.drain(&mut decided);
        assert_eq!(self.index.counters().decided - before, decided.len() as u64);
        assert!(self.index.ready || decided.is_empty(), "nothing is decided on half of the keys");
        decided
    }

    pub(super) fn drain(&mut self) {
        let decided = self.take();
        self.check_decided(decided);
    }

    pub(super) fn check_decided(&mut self, decided: Vec<Decide>) {
        let mut once = BTreeSet::new();
        for decide in decided {
            let number = self.oracle.numbers[&(decide.rule, decide.binding.clone())];
            let model = &self.oracle.instances[number];
            assert!(once.insert(number), "decided twice at once");
            assert!(self.concerned.contains(&number), "{decide:?} is of no concern");
            assert!(self.expected.contains(&number), "{decide:?} should not exist");
            for touch in self.touches.remove(&number).unwrap_or_default() {
                assert!(decide.touches.contains(&touch), "{touch:?} is not in {decide:?}");
            }
            self.check_decide(&decide);
            let truth = self.oracle.truth(model.rule, &decide.snapshot);
            self.followed.insert(number, Followed { id: decide.instance, snapshot: decide.snapshot, truth });
        }
        assert!(self.touches.is_empty(), "changed and not decided: {:?}", self.touches);
        self.concerned.clear();
    }

    /// A decision shows the mirror as it is.
    pub(super) fn check_decide(&self, decide: &Decide) {
        let model = &self.oracle.instances[self.oracle.numbers[&(decide.rule, decide.binding.clone())]];
        assert_eq!(decide.snapshot, model.snapshot(&self.mirror), "of {:?}", decide.binding);
        assert_eq!(decide.orphaned, !model.implied(&self.mirror));
        let (coherent, others) = self.coherent.get();
        if !decide.coherent {
            return self.coherent.set((coherent, others + 1));
        }
        self.coherent.set((coherent + u64::from(model.keys.len() > 1), others));
        // What the watch lost nobody can know of.
        let was_there = |revision| {
            model.keys.iter().zip(&decide.snapshot).all(|(key, seen)| {
                let held = key.and_then(|key| self.store.at(key, revision));
                held.map(|(_, revision)| revision) == seen.as_ref().map(|seen| seen.mod_revision)
            })
        };
        let some = self.lost || (0..=self.store.revision.get()).map(Revision::new).any(was_there);
        assert!(some, "{:?} were never there together", decide.snapshot);
    }

    pub(super) fn check_instances(&self) {
        for (number, model) in self.oracle.instances.iter().enumerate() {
            let found = self.index.instances.find(model.rule, &model.binding).is_some();
            assert_eq!(
                found,
                self.expected.contains(&number),
                "{:?} of rule {}",
                model.binding,
                model.rule.index()
            );
        }
        assert_eq!(self.index.instances(), self.expected.len());
    }

    pub(super) fn check_end(&mut self) {
        let wanted = |(key, held): (usize, KeyContent)| if self.oracle.wants(key) { held } else { None };
        let store: State = self.store.state().into_iter().enumerate().map(wanted).collect();
        assert_eq!(self.mirror, store);
        let held = || store.iter().enumerate().filter_map(|(key, held)| Some((KEYS[key], held.as_ref()?)));
        assert_eq!(self.index.keys(), held().count());
        assert_eq!(
            self.index.bytes(),
            held().map(|(key, (value, _))| key.len() + value.len()).sum::<usize>()
        );
        assert_eq!(self.index.tombstones(), 0);
        let entries = (0..self.index.mirror.capacity()).filter_map(|at| self.index.mirror.at(at)).count();
        assert_eq!(entries, held().count(), "entries");
        self.check_instances();
        for number in &self.expected {
            let model = &self.oracle.instances[*number];
            let last = self.followed.get(number).expect("every instance was decided");
            let now = model.snapshot(&store);
            assert_eq!(last.truth, self.oracle.truth(model.rule, &now), "the truth of {:?}", model.binding);
            for (key, slot) in &model.binders {
                let slot = slot.index();
                assert_eq!(last.snapshot[slot], now[slot], "{} of {:?}", KEYS[*key], model.binding);
            }
        }
    }
}
