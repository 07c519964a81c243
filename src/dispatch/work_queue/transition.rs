//! The one way from one state of an instance to another, and what follows from that for slots, locks, queues, timers,
//! counts, and those who listen.

use super::local_locks::shared_lock;
use super::*;
use crate::mutants::{Mutant, is_active};

impl WorkQueue {
    /// An instance that there was no record of.
    pub(super) fn admit(
        &mut self,
        id: InstanceId,
        record: Box<InstanceRecord>,
        next: QueueAction,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        self.records.insert(id, record);
        self.apply(id, true, now, out, |_, _| next);
    }

    /// Changes the state of an instance, if there is a record of it, and does what follows from that.
    pub(super) fn transition(
        &mut self,
        id: InstanceId,
        now: Instant,
        out: &mut Vec<Action>,
        change: impl FnOnce(&mut InstanceRecord, Instant) -> QueueAction,
    ) {
        self.apply(id, false, now, out, change);
    }

    fn apply(
        &mut self,
        id: InstanceId,
        new: bool,
        now: Instant,
        out: &mut Vec<Action>,
        change: impl FnOnce(&mut InstanceRecord, Instant) -> QueueAction,
    ) {
        let Some(record) = self.records.get_mut(&id) else { return };
        let before = (!new).then(|| record.state.clone());
        let entered = record.entered;
        let mut next = change(record, now);
        let lane = record.lane;
        if matches!(next, QueueAction::Enqueue(_) | QueueAction::GoOn)
            && !before.as_ref().is_some_and(|before| {
                if is_active(Mutant::Keeps) { before.is_queued() } else { before.is_begun() }
            })
            && !record.insists
            // The owner may not know of an instance that only the deletion of a key told of.
            && !record.orphaned
            && !self.controls[lane].dry_run
            && let Some(owners) = &mut self.owners
            && let Some(owner) =
                owners.other(record.rule, &self.rules[record.rule.index()], &record.binding, now)
        {
            next = record.defer(owner, None);
        }
        let interval = self.intervals[record.rule.index()].as_mut();
        if matches!(next, QueueAction::Enqueue(_) | QueueAction::GoOn)
            && !before.as_ref().is_some_and(State::is_queued)
            && let Some(until) = interval.and_then(|interval| interval.until(&record.binding, now))
        {
            next = record.rest(until);
        }
        if matches!(next, QueueAction::Enqueue(_) | QueueAction::GoOn)
            && !before.as_ref().is_some_and(State::is_queued)
        {
            if matches!(before, Some(State::Waiting(_, Wait::TooOften))) {
                let (rule, binding) = (record.rule, record.binding.clone());
                let cause = self.rates.cause(rule, &binding);
                out.push(Action::WarnSlowed { rule, binding, cause });
                self.stats.event(WorkqueueEvent::Slowed(lane));
            } else if let Some(until) = self.rates.due(record.rule, &record.binding, now) {
                next = record.slow_down(until);
            }
        }
        let dropped = next == QueueAction::Drop;
        let after = (!dropped).then_some(&record.state);
        let changed = before.as_ref() != after;
        self.stats.moved(id, before.as_ref(), record, dropped, now);
        if before.as_ref().map(std::mem::discriminant) != after.map(std::mem::discriminant) {
            record.entered = now;
        }

        let was = |test: fn(&State) -> bool| before.as_ref().is_some_and(test);
        let is = |test: fn(&State) -> bool| after.is_some_and(test);
        let (had_slot, has_slot) = (was(State::holds_slot), is(State::holds_slot));
        let gets_slot = !had_slot && has_slot;
        if gets_slot {
            self.queue.occupy(lane);
            if let Some(owners) = &mut self.owners {
                owners.helping.took(lane, record.newest());
            }
        }
        if (was(State::is_reserved) || gets_slot) && !is(State::is_reserved) {
            if is(State::fires) {
                self.queue.start(lane, now);
                if let Some(interval) = &mut self.intervals[record.rule.index()] {
                    interval.fired(&record.binding, now);
                }
                self.rates.fired(record.rule, &record.binding, now);
            } else {
                self.queue.withdraw(lane);
            }
        }
        let vacates = had_slot && !has_slot;
        if vacates {
            self.queue.vacate(lane);
        }

        if changed {
            if let Some(until) = before.as_ref().and_then(State::timer) {
                self.timers.remove(&(until, id));
            }
            if let Some(owners) = &mut self.owners {
                if let Some(State::Yielded { owner, .. }) = before {
                    owners.take(owner, entered, id);
                }
                if let Some(State::Yielded { owner, .. }) = after {
                    owners.place(*owner, record.entered, id);
                }
            }
            if let Some(remote) = before.as_ref().and_then(State::remote) {
                self.releases.leave(id, remote);
            }
            if let Some(remote) = after.and_then(State::remote) {
                self.releases.wait(id, remote, now);
            }
        }
        let stands = is(State::stands_for_others) && !self.queue.is_paused(lane);
        let keeps = vacates && stands;
        let leaves = was(State::stands_for_others) && !stands && !has_slot && !is(State::is_queued);
        let lets_go = dropped || vacates && !stands || leaves;
        let lock = if lets_go { shared_lock(&self.rules, record) } else { None };
        let remote = before.as_ref().and_then(State::remote_lock).filter(|_| lets_go).cloned();
        let place = record.place;
        match next {
            QueueAction::Stay | QueueAction::GoOn | QueueAction::Drop => {}
            QueueAction::Enqueue(class) => record.place = self.queue.push(lane, class, id, now),
            QueueAction::EnqueueFirst => record.place = self.queue.push_front(lane, id, now),
            QueueAction::Park(place) => record.place = place,
            QueueAction::WakeAt(at) => {
                self.timers.insert((at, id));
            }
        }
        if keeps {
            self.keep_local(id);
        }
        if let Some(lock) = lock {
            self.release_local(&lock, (id, place), remote.as_deref(), now, out);
        }
        if dropped {
            self.forget(id, out);
        } else if changed && next != QueueAction::EnqueueFirst {
            self.notify(id, now, out);
        }
    }

    fn forget(&mut self, id: InstanceId, out: &mut Vec<Action>) {
        let Some(record) = self.records.remove(&id) else { return };
        if self.spare.is_far_too_much(self.records.len(), self.records.capacity()) {
            self.records.shrink_to_fit();
        }
        if self.observed {
            let (rule, binding) = (record.rule, record.binding.clone());
            out.push(Action::Notify { rule, binding, state: InstanceState::Untrue });
        }
        if record.orphaned {
            out.push(Action::Release(id));
        }
        if let Some(SeenMark { revision, mine: true, .. }) = record.mark {
            out.push(Action::ClearMark { rule: record.rule, binding: record.binding, revision });
        }
    }

    #[cfg(test)]
    pub(crate) fn records(&self) -> impl Iterator<Item = (InstanceId, &InstanceRecord)> {
        self.records.iter().map(|(id, record)| (*id, &**record))
    }

    /// Locks within this engine that somebody has or waits for.
    #[cfg(test)]
    pub(crate) fn locks_taken(&self) -> usize {
        self.local_locks.len()
    }

    /// Those that have a lock within this engine without a slot.
    #[cfg(test)]
    pub(crate) fn idle_holders(&self) -> impl Iterator<Item = InstanceId> {
        let has_slot = |id: &InstanceId| self.records.get(id).is_some_and(|record| record.state.holds_slot());
        self.local_locks.holders().filter(move |id| !has_slot(id))
    }

    /// Those that wait for a lock within this engine.
    #[cfg(test)]
    pub(crate) fn parked(&self) -> impl Iterator<Item = InstanceId> {
        self.local_locks.waiting()
    }

    /// Permits of a lane's rate that are reserved.
    #[cfg(test)]
    pub(crate) fn reserved(&self, lane: Lane) -> usize {
        self.queue.reserved(lane)
    }

    #[cfg(test)]
    pub(crate) fn is_throttled(&self, lane: Lane, now: Instant) -> bool {
        self.queue.is_throttled(lane, now)
    }

    /// Timers, waits for releases, and places in queues, void ones included.
    #[cfg(test)]
    pub(crate) fn leftovers(&self) -> usize {
        let parked = self.local_locks.waiting().count();
        self.timers.len() + self.releases.len() + self.queue.len() + parked + self.stats.queued()
    }
}
