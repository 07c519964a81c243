//! Locks within this engine: of several instances that want the same one, the first has it, and the others
//! wait in order.

use super::*;

impl WorkQueue {
    /// Reserves the lock within this engine; parks the instance if another one has it.
    pub(super) fn reserve(&mut self, id: InstanceId, now: Instant, out: &mut Vec<Action>) -> bool {
        let Some(key) = self.shared_lock(id) else { return true };
        let (holder, waiting) = self.locks.entry(key).or_insert_with(|| (id, BTreeMap::new()));
        if *holder == id {
            self.handed.remove(&id);
            return true;
        }
        let number = self.queue.number();
        waiting.insert(number, id);
        self.places.insert(id, number);
        self.enter(id, State::Parked, now);
        self.tell(id, now, out);
        false
    }

    /// The lock, if instances other than this one may want the same.
    fn shared_lock(&self, id: InstanceId) -> Option<String> {
        let record = self.records.get(&id)?;
        let rule = &self.rules[record.rule as usize];
        (rule.has_lock_pattern() && !rule.options().optimistic).then(|| {
            let mut key = String::new();
            rule.write_lock_key("", &record.binding, &mut key);
            key
        })
    }

    /// Hands the lock within this engine to the one that has waited longest: one wake a release.
    pub(super) fn unreserve(&mut self, id: InstanceId, now: Instant) {
        let Some(key) = self.shared_lock(id) else { return };
        let Some((holder, waiting)) = self.locks.get_mut(&key) else { return };
        if *holder != id {
            if let Some(number) = self.places.get(&id) {
                waiting.remove(number);
            }
            return;
        }
        self.handed.remove(&id);
        while let Some((_, next)) = waiting.pop_first() {
            if let Some(record) = self.records.get(&next) {
                *holder = next;
                self.handed.insert(next);
                self.places.insert(next, self.queue.push_front(self.lanes[record.rule as usize], next, now));
                self.enter(next, State::Queued(WorkClass::Live), now);
                return;
            }
        }
        self.locks.remove(&key);
    }

    /// What was handed a lock and can't get a slot, for how long whoever knows, gives it on to the next; it will
    /// ask for it again. Returns whether there was any.
    pub(super) fn pass_lock(&mut self, now: Instant, stuck: impl Fn(&Self, u32) -> bool) -> bool {
        let stuck = |id: &InstanceId| {
            let record = self.records.get(id);
            record.is_some_and(|record| stuck(self, self.lane(record.rule)))
        };
        let stuck: Vec<InstanceId> = self.handed.iter().copied().filter(stuck).collect();
        stuck.iter().for_each(|id| self.unreserve(*id, now));
        !stuck.is_empty()
    }
}
