//! What is known of changes of an instance's keys: which of them the last callback was given, which are its
//! own commit's, and which are somebody else's.

use super::OwnCommit;
use crate::change::{Revision, Snapshot};
use crate::index::Touch;
use crate::mutants::{Mutant, is_active};
use smallvec::SmallVec;

#[derive(Debug, Default)]
pub(super) struct KeyChanges {
    /// By slot, the revisions of the values shown to the last callback; 0 for an absent key.
    given: Option<SmallVec<[Revision; 2]>>,
    own: OwnCommit,
    /// Changes seen since the values were taken that are not yet known to be ours or foreign.
    during: SmallVec<[Touch; 4]>,
    /// Somebody else changed a key since the values were taken.
    foreign: bool,
    /// The latest revision of its keys that was ever seen.
    newest: Revision,
}

impl KeyChanges {
    /// The values of this snapshot are what the callback will be given.
    pub(super) fn give(&mut self, snapshot: &Snapshot) {
        self.given = Some(
            snapshot
                .iter()
                .map(|seen| seen.as_ref().map_or(Revision::NONE, |seen| seen.mod_revision))
                .collect(),
        );
        self.own = OwnCommit::default();
        self.during.clear();
        self.foreign = false;
        self.newest = self.given.iter().flatten().copied().fold(self.newest, Revision::max);
    }

    /// The callback is given what all keys held at this revision, which is later than what was decided on.
    pub(super) fn read(&mut self, at: Revision) {
        self.given.iter_mut().flatten().for_each(|given| *given = at.max(*given));
        self.during.retain(|touch| touch.1 > at);
        // What was seen meanwhile is in what was read.
        self.foreign &= self.newest > at;
    }

    /// The commit of the firing took effect.
    pub(super) fn committed(&mut self, own: OwnCommit) {
        self.own = own;
    }

    /// Decided from a view that contains what the commit did to its keys: the watch was quicker than the
    /// answer. What came later is decided by itself.
    pub(super) fn has_seen_own(&self) -> bool {
        let OwnCommit { revision, slots } = &self.own;
        !slots.is_empty() && slots.iter().all(|slot| self.during.contains(&(*slot, *revision)))
    }

    /// Counts as changed by somebody else in any case.
    pub(super) fn assume_foreign(&mut self) {
        self.foreign = true;
    }

    /// These changes have been seen.
    pub(super) fn see(&mut self, touches: &[Touch]) {
        self.newest = touches.iter().map(|touch| touch.1).fold(self.newest, Revision::max);
    }

    /// These values have been seen.
    pub(super) fn see_all(&mut self, snapshot: &Snapshot) {
        let seen = snapshot.iter().flatten().map(|seen| seen.mod_revision);
        self.newest = seen.fold(self.newest, Revision::max);
    }

    pub(super) fn newest(&self) -> Revision {
        self.newest
    }

    /// Keeps changes until it is known which of them are ours: one a slot, since of two that are
    /// newer than the values given one must be somebody else's.
    pub(super) fn remember(&mut self, touches: &[Touch]) {
        if is_active(Mutant::DirtyMark) {
            return;
        }
        for touch in touches {
            let foreign = self.is_foreign(*touch);
            match self.during.iter().find(|known| known.0 == touch.0) {
                None if foreign => self.during.push(*touch),
                Some(known) if foreign && known.1 != touch.1 => self.foreign = true,
                _ => {}
            }
        }
    }

    /// Whether somebody else changed a key during the firing, which is over.
    pub(super) fn take_foreign(&mut self) -> bool {
        let during = std::mem::take(&mut self.during);
        std::mem::take(&mut self.foreign) || self.any_foreign(&during)
    }

    /// Somebody else changed a key after the values that the last callback was given.
    pub(super) fn is_foreign(&self, (slot, revision): Touch) -> bool {
        let ours = revision == self.own.revision && self.own.slots.contains(&slot);
        let known = self.given.as_ref().is_some_and(|given| revision <= given[slot.index()]);
        !ours && !known
    }

    pub(super) fn any_foreign(&self, touches: &[Touch]) -> bool {
        touches.iter().any(|touch| self.is_foreign(*touch))
    }
}
