//! The etcd of the little world: keys, locks and marks of every instance, and one revision for all.

use super::*;

/// What is known of an instance's two keys: revision of the last change, and whether it is there.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Keys([(Revision, bool); 2]);

impl Keys {
    pub(super) fn truth(&self) -> bool {
        self.0[0].1 && !self.0[1].1
    }

    /// 0 for a key that is absent.
    pub(super) fn revisions(&self) -> [i64; 2] {
        self.0.map(|(revision, present)| if present { revision.get() } else { 0 })
    }

    pub(super) fn matches(&self, given: &Snapshot) -> bool {
        snapshot(&self.revisions()) == *given
    }

    /// As the mirror does it: what is newer counts, what is older is told all the same.
    pub(super) fn merge(&mut self, slot: Slot, revision: Revision, present: bool) -> Option<Touch> {
        let known = &mut self.0[slot.index()];
        if revision > known.0 {
            let changed = present || known.1;
            *known = (revision, present);
            return changed.then_some((slot, revision));
        }
        (revision < known.0 && (present || known.1)).then_some((slot, revision))
    }
}

#[derive(Debug)]
pub(super) struct LockAnswer {
    pub(super) outcome: LockOutcome,
    pub(super) fence: Option<Revision>,
    pub(super) changes: Vec<(Slot, Revision, bool)>,
}

struct Lock {
    revision: Revision,
    ours: Option<u32>,
}

#[derive(Clone, Copy)]
struct Mark {
    revision: Revision,
    attempt: u32,
    gave_up: bool,
}

pub(super) struct Etcd {
    revision: Revision,
    pub(super) keys: Vec<Keys>,
    locks: BTreeMap<String, Lock>,
    marks: BTreeMap<u32, Mark>,
    /// For the watch of the keys, and the watch of releases.
    pub(super) events: Vec<(u32, Slot, Revision, bool)>,
    pub(super) releases: Vec<(String, Revision)>,
}

impl Etcd {
    pub(super) fn new(instances: usize) -> Self {
        Self {
            revision: Revision::new(1),
            keys: vec![Keys::default(); instances],
            locks: BTreeMap::new(),
            marks: BTreeMap::new(),
            events: Vec::new(),
            releases: Vec::new(),
        }
    }

    fn next(&mut self) -> Revision {
        self.revision = self.revision.next();
        self.revision
    }

    /// Nothing happens if a key is deleted that is not there.
    pub(super) fn change(&mut self, id: u32, slot: Slot, present: bool) -> Option<Revision> {
        let revision = self.revision.next();
        self.write(id, slot, present, revision).then(|| self.next())
    }

    fn write(&mut self, id: u32, slot: Slot, present: bool, revision: Revision) -> bool {
        let changes = present || self.keys[id as usize].0[slot.index()].1;
        if changes {
            self.keys[id as usize].0[slot.index()] = (revision, present);
            self.events.push((id, slot, revision, present));
        }
        changes
    }

    pub(super) fn mark_revision(&self, id: u32) -> Option<Revision> {
        self.marks.get(&id).map(|mark| mark.revision)
    }

    fn delete_mark(&mut self, id: u32, revision: Revision) {
        if self.marks.remove(&id).is_some() {
            self.releases.push((mark_of(id), revision));
        }
    }

    pub(super) fn clear_mark(&mut self, id: u32, revision: Revision) {
        if self.mark_revision(id) == Some(revision) {
            let deleted = self.next();
            self.delete_mark(id, deleted);
        }
    }

    pub(super) fn unlock(&mut self, lock: &str, revision: Revision) {
        if self.locks.get(lock).is_some_and(|lock| lock.revision == revision) {
            self.locks.remove(lock);
            let deleted = self.next();
            self.releases.push((lock.to_owned(), deleted));
        }
    }

    pub(super) fn lose_locks(&mut self) {
        let ours = self.locks.iter().filter(|(_, lock)| lock.ours.is_some());
        let ours: Vec<(String, Revision)> = ours.map(|(key, lock)| (key.clone(), lock.revision)).collect();
        ours.iter().for_each(|(key, revision)| self.unlock(key, *revision));
    }

    /// Another engine's lock transaction, which is like ours.
    pub(super) fn foreign_lock(&mut self, id: u32) -> Option<Revision> {
        let (lock, free) = (lock_of(id), !self.marks.contains_key(&id) && rule_of(id) != 3);
        if !free || self.locks.contains_key(&lock) || !self.keys[id as usize].truth() {
            return None;
        }
        let revision = self.next();
        self.locks.insert(lock, Lock { revision, ours: None });
        Some(revision)
    }

    /// Another engine's firing ends with a mark.
    pub(super) fn foreign_mark(&mut self, id: u32, gave_up: bool) -> Option<Revision> {
        if self.marks.contains_key(&id) || self.locks.contains_key(&lock_of(id)) {
            return None;
        }
        let revision = self.next();
        self.marks.insert(id, Mark { revision, attempt: 1, gave_up });
        Some(revision)
    }

    pub(super) fn lock(
        &mut self,
        id: u32,
        supersedes_backoff: Option<Revision>,
        runs: &HashMap<u32, Run>,
    ) -> LockAnswer {
        let (key, at) = (lock_of(id), self.revision);
        let answer = |outcome| LockAnswer { outcome, fence: None, changes: Vec::new() };
        if let Some(lock) = self.locks.get(&key) {
            let (revision, ours) = (lock.revision, lock.ours);
            let orphaned =
                ours.is_some_and(|other| runs.get(&other).is_none_or(|run| run.fence != Some(revision)));
            if orphaned {
                self.unlock(&key, revision);
                return answer(LockOutcome::Failed("an orphaned lock".into()));
            }
            assert_eq!(ours, None, "{id} wants the lock of a callback of its own engine");
            return answer(held_by_lock(&key, at.get()));
        }
        let mark = self.marks.get(&id).copied();
        let found = mark.map(|mark| mark.revision);
        if found == supersedes_backoff && self.keys[id as usize].truth() {
            let revision = self.next();
            self.delete_mark(id, revision);
            self.locks.insert(key, Lock { revision, ours: Some(id) });
            return LockAnswer { outcome: won(), fence: Some(revision), changes: Vec::new() };
        }
        match mark {
            Some(Mark { revision, attempt, gave_up }) if found != supersedes_backoff => answer(
                LockOutcome::Marked(found_mark(mark_of(id), revision.get(), (attempt, gave_up), at.get())),
            ),
            mark => {
                let read = |slot: usize| {
                    let (revision, present) = self.keys[id as usize].0[slot];
                    (Slot::new(slot), if present { revision } else { at }, present)
                };
                let mark_gone = supersedes_backoff.is_some() && mark.is_none();
                let outcome = untrue(mark_gone);
                LockAnswer { outcome, fence: None, changes: vec![read(0), read(1)] }
            }
        }
    }

    /// The answer does not come. Sometimes the lock was taken all the same.
    pub(super) fn forget_lock(&mut self, id: u32, answer: LockAnswer) -> LockAnswer {
        if let Some(fence) = answer.fence
            && fence.get() % 2 == 0
        {
            self.unlock(&lock_of(id), fence);
        }
        LockAnswer { outcome: LockOutcome::Failed("no answer".into()), fence: None, changes: Vec::new() }
    }

    /// The transaction that ends a firing.
    pub(super) fn end(&mut self, id: u32, run: &Run, effects: &[(Slot, bool)], hold: Option<&Hold>) -> End {
        let key = lock_of(id);
        // One that was refused too often has its lock all the same.
        let optimistic = run.fence.is_none();
        let mark = self.mark_revision(id);
        let lost = |mark_gone| End(CommitOutcome::Unexpected { changes: Vec::new(), mark_gone }, Vec::new());
        if !optimistic && self.locks.get(&key).map(|lock| lock.revision) != run.fence {
            return lost(false);
        }
        if optimistic && mark != run.supersedes_backoff {
            let Some(Mark { revision, attempt, gave_up }) = self.marks.get(&id).copied() else {
                return lost(true);
            };
            let at = self.revision;
            let outcome =
                CommitOutcome::Marked(found_mark(mark_of(id), revision.get(), (attempt, gave_up), at.get()));
            return End(outcome, Vec::new());
        }
        if optimistic && !effects.is_empty() && !self.keys[id as usize].matches(&run.given) {
            return lost(false);
        }
        let revision = self.next();
        let mut changes = Vec::new();
        for &(slot, present) in effects {
            self.write(id, slot, present, revision);
            changes.push((slot, revision, present));
        }
        if !optimistic {
            self.locks.remove(&key);
            self.releases.push((key, revision));
        }
        if let Some(Hold { attempt, delay, .. }) = hold {
            self.marks.insert(id, Mark { revision, attempt: *attempt, gave_up: delay.is_none() });
        } else if optimistic {
            self.delete_mark(id, revision);
        }
        let slots: Vec<u8> = effects.iter().map(|(slot, _)| slot.0).collect();
        End(committed(revision.get(), &slots, hold.is_some()), changes)
    }
}
