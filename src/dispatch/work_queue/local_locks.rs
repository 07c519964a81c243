//! Locks within this engine: of several instances that want the same one, the first has it, and the others
//! wait in order.
//!
//! While another engine has the lock in etcd, the first keeps it here and waits for its release in the name of all: the
//! others would only find the same, and a release would wake them all.

use super::*;
use crate::dispatch::slot_queue::QueuePlace;

pub(super) struct LocalLocks {
    locks: HashMap<String, LocalLock, FixedState>,
    /// Those that have their lock without a slot: they were handed it, or stand for the others.
    idle: BTreeSet<InstanceId>,
}

struct LocalLock {
    holder: InstanceId,
    waiting: BTreeMap<QueuePlace, InstanceId>,
}

impl LocalLocks {
    pub(super) fn new(hasher: FixedState) -> Self {
        Self { locks: HashMap::with_hasher(hasher), idle: BTreeSet::new() }
    }

    /// Takes the lock, or waits at a new place for it, which is returned then.
    fn acquire(
        &mut self,
        key: String,
        id: InstanceId,
        place: impl FnOnce() -> QueuePlace,
    ) -> Option<QueuePlace> {
        let new = || LocalLock { holder: id, waiting: BTreeMap::new() };
        let lock = self.locks.entry(key).or_insert_with(new);
        if lock.holder == id {
            self.idle.remove(&id);
            return None;
        }
        let place = place();
        lock.waiting.insert(place, id);
        Some(place)
    }

    /// Gives up the lock, or waiting at this place for it. Returns who has been handed the lock: the one that
    /// has waited longest.
    fn release(&mut self, key: &str, id: InstanceId, place: QueuePlace) -> Option<InstanceId> {
        let lock = self.locks.get_mut(key)?;
        if lock.holder != id {
            lock.waiting.remove(&place);
            return None;
        }
        self.idle.remove(&id);
        match lock.waiting.pop_first() {
            Some((_, next)) => {
                lock.holder = next;
                self.idle.insert(next);
                Some(next)
            }
            None => {
                self.locks.remove(key);
                None
            }
        }
    }

    /// It gives up its slot, and keeps the lock, if it has it.
    fn keep(&mut self, key: &str, id: InstanceId) {
        if self.locks.get(key).is_some_and(|lock| lock.holder == id) {
            self.idle.insert(id);
        }
    }

    /// These wait no more. In the order in which they began to.
    pub(super) fn withdraw(&mut self, leaves: impl Fn(InstanceId) -> bool) -> Vec<InstanceId> {
        let mut left = Vec::new();
        for lock in self.locks.values_mut() {
            lock.waiting.retain(|place, id| {
                let leaves = leaves(*id);
                if leaves {
                    left.push((*place, *id));
                }
                !leaves
            });
        }
        left.sort_unstable_by_key(|(place, _)| *place);
        left.into_iter().map(|(_, id)| id).collect()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.locks.len()
    }

    #[cfg(test)]
    pub(super) fn holders(&self) -> impl Iterator<Item = InstanceId> {
        self.locks.values().map(|lock| lock.holder)
    }

    #[cfg(test)]
    pub(super) fn waiting(&self) -> impl Iterator<Item = InstanceId> {
        self.locks.values().flat_map(|lock| lock.waiting.values().copied())
    }
}

/// The lock of an instance, if others than it may want the same.
pub(super) fn shared_lock(rules: &[CompiledRule], record: &InstanceRecord) -> Option<String> {
    let rule = &rules[record.rule.index()];
    (rule.has_lock_pattern() && !rule.options().optimistic).then(|| {
        let mut key = String::new();
        rule.write_lock_key("", &record.binding, &mut key);
        key
    })
}

impl WorkQueue {
    /// Takes the lock within this engine; parks the instance if another one has it.
    pub(super) fn acquire_local(&mut self, id: InstanceId, now: Instant, out: &mut Vec<Action>) -> bool {
        let Some(record) = self.records.get(&id) else { return false };
        let Some(key) = shared_lock(&self.rules, record) else { return true };
        let queue = &mut self.queue;
        let Some(place) = self.local_locks.acquire(key, id, || queue.new_place()) else { return true };
        self.transition(id, now, out, |record, _| {
            record.state = State::Parked;
            QueueAction::Park(place)
        });
        false
    }

    /// The instance gives up its slot, and keeps the lock within this engine.
    pub(super) fn keep_local(&mut self, id: InstanceId) {
        if let Some(record) = self.records.get(&id)
            && let Some(key) = shared_lock(&self.rules, record)
        {
            self.local_locks.keep(&key, id);
        }
    }

    /// Hands the lock within this engine to the one that has waited longest: one wake a release. `remote`: another
    /// engine has it in etcd, for all that is known, so that the next one waits for its release in turn.
    pub(super) fn release_local(
        &mut self,
        key: &str,
        (id, place): (InstanceId, QueuePlace),
        remote: Option<&Remote>,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        if let Some(next) = self.local_locks.release(key, id, place) {
            self.transition(next, now, out, |record, _| match remote {
                Some(remote) => record.held(remote.clone()),
                None => {
                    record.state = State::Queued(WorkClass::Live);
                    QueueAction::EnqueueFirst
                }
            });
        }
    }

    /// An instance that has a lock, and can't get a slot for an unknown time, passes the lock on to the next. It will
    /// ask for it again. Returns whether there was such an instance.
    pub(super) fn pass_locks(
        &mut self,
        now: Instant,
        out: &mut Vec<Action>,
        stuck: impl Fn(&SlotQueue, &InstanceRecord) -> bool,
    ) -> bool {
        let stuck = |id: &InstanceId| {
            let record = self.records.get(id).filter(|record| stuck(&self.queue, record))?;
            let key = shared_lock(&self.rules, record)?;
            Some((key, (*id, record.place), record.state.remote_lock().cloned()))
        };
        let stuck: Vec<_> = self.local_locks.idle.iter().filter_map(stuck).collect();
        for (key, from, remote) in &stuck {
            self.release_local(key, *from, remote.as_deref(), now, out);
        }
        !stuck.is_empty()
    }
}
