//! One step of an instance: from one state to another, and what follows from that for slots, locks, queues,
//! timers and counts.

use super::*;

impl WorkQueue {
    /// Brings an instance into another state, if there is a record of it.
    pub(super) fn enter(&mut self, id: InstanceId, state: State, now: Instant) -> bool {
        let Some(record) = self.records.get_mut(&id) else { return false };
        let before = std::mem::replace(&mut record.state, state);
        record.entered = now;
        let lane = self.lanes[record.rule as usize] as usize;
        *self.counts[lane].at(before.kind()) -= 1;
        *self.counts[lane].at(state.kind()) += 1;
        self.stats.moved(id, lane as u32, before, Some(state), now);
        if state == State::Running {
            self.fired[lane] += 1;
            self.begins(id, now);
        }
        true
    }

    /// It fires, or would: for its rate and its interval that is the same.
    fn begins(&mut self, id: InstanceId, now: Instant) {
        let Some(record) = self.records.get(&id) else { return };
        self.queue.start(self.lanes[record.rule as usize], now);
        if let Some(interval) = &mut self.intervals[record.rule as usize] {
            interval.fired(&record.binding, now);
        }
    }

    /// Changes a record and does what follows from it: slots, locks, queues, timers.
    pub(super) fn step(
        &mut self,
        id: InstanceId,
        now: Instant,
        out: &mut Vec<Action>,
        change: impl FnOnce(&mut InstanceRecord, Instant) -> Next,
    ) {
        let Some(record) = self.records.get_mut(&id) else { return };
        let held_slot = record.holds_slot();
        let (rule, before) = (record.rule, record.state);
        let mut next = change(record, now);
        if matches!(next, Next::Enqueue(_))
            && !matches!(before, State::Queued(_) | State::Parked)
            && let Some(until) = self.intervals[rule as usize]
                .as_mut()
                .and_then(|interval| interval.until(&record.binding, now))
        {
            next = record.rest(until);
        }
        let dropped = next == Next::Drop;
        let counts = &mut self.counts[self.lanes[rule as usize] as usize];
        *counts.at(before.kind()) -= 1;
        if !dropped {
            *counts.at(record.state.kind()) += 1;
        }
        if std::mem::discriminant(&before) != std::mem::discriminant(&record.state) {
            record.entered = now;
        }
        let lane = self.lanes[rule as usize];
        let after = (!dropped).then_some(record.state);
        self.stats.moved(id, lane, before, after, now);
        self.stats.judge(id, lane, after.and(Some(&*record)), now);
        if let Some(State::Waiting(_, why)) = after
            && after != Some(before)
            && !matches!(why, Wait::Released | Wait::Settle | Wait::Interval)
        {
            self.stats.note(WorkqueueEvent::PutOff(lane));
        }
        if let State::Waiting(until, _) = before
            && (dropped || record.state != before)
        {
            self.timers.remove(&(until, id));
        }
        if dropped || !matches!(record.state, State::Held | State::GivenUp) {
            record.remote_holder = None;
            if let Some(key) = record.waits_for.take()
                && let Some(waiting) = self.held.get_mut(&key)
            {
                waiting.remove(&id);
                if waiting.is_empty() {
                    self.held.remove(&key);
                }
            }
        }
        let changed = record.state != before;
        let vacates = held_slot && (dropped || !record.holds_slot());
        if vacates {
            if after == Some(State::WouldFire) {
                self.begins(id, now);
                self.would_have_fired[lane as usize] += 1;
                self.stats.note(WorkqueueEvent::WouldHaveFired(lane));
            } else if before.is_reserved() {
                self.queue.withdraw(lane);
            }
            self.queue.vacate(lane);
        }
        if vacates || dropped {
            self.unreserve(id, now);
        }
        match next {
            Next::Stay => {}
            Next::Enqueue(class) => {
                if !matches!(before, State::Queued(_) | State::Parked) {
                    self.stats.note(WorkqueueEvent::Added(lane));
                }
                let number = self.queue.push(lane, class, id, now);
                self.places.insert(id, number);
            }
            Next::WakeAt(at) => {
                self.timers.insert((at, id));
            }
            Next::Drop => return self.forget(id, out),
        }
        if changed {
            self.tell(id, now, out);
        }
    }

    pub(super) fn forget(&mut self, id: InstanceId, out: &mut Vec<Action>) {
        self.places.remove(&id);
        let Some(record) = self.records.remove(&id) else { return };
        if self.observed {
            let (rule, binding) = (record.rule, record.binding.clone());
            out.push(Action::Notify { rule, binding, state: InstanceState::Untrue });
        }
        if record.orphaned {
            out.push(Action::Release(id));
        }
        if let Some(KnownMark { revision, mine: true, .. }) = record.mark {
            out.push(Action::ClearMark { rule: record.rule, binding: record.binding, revision });
        }
    }

    /// Why an instance can't be run now although it has a slot: waits a little.
    pub(crate) fn postpone(&mut self, id: InstanceId, delay: Duration, now: Instant, out: &mut Vec<Action>) {
        self.step(id, now, out, |record, now| record.wait(delay, Wait::Trouble, now));
    }

    #[cfg(test)]
    pub(crate) fn records(&self) -> impl Iterator<Item = (InstanceId, &InstanceRecord)> {
        self.records.iter().map(|(id, record)| (*id, &**record))
    }

    /// Locks within this engine that somebody has or waits for.
    #[cfg(test)]
    pub(crate) fn locks_taken(&self) -> usize {
        self.locks.len()
    }

    /// Those that have a lock within this engine without a slot.
    #[cfg(test)]
    pub(crate) fn idle_holders(&self) -> impl Iterator<Item = InstanceId> {
        let holders = self.locks.values().map(|(holder, _)| *holder);
        holders.filter(|id| self.records.get(id).is_none_or(|record| !record.holds_slot()))
    }

    /// Those that wait for a lock within this engine.
    #[cfg(test)]
    pub(crate) fn parked(&self) -> impl Iterator<Item = InstanceId> {
        self.locks.values().flat_map(|(_, waiting)| waiting.values().copied())
    }

    /// Permits of a lane's rate that are reserved.
    #[cfg(test)]
    pub(crate) fn reserved(&self, lane: u32) -> usize {
        self.queue.reserved(lane)
    }

    #[cfg(test)]
    pub(crate) fn is_throttled(&self, lane: u32, now: Instant) -> bool {
        self.queue.is_throttled(lane, now)
    }

    /// Timers, waits for releases, and places in queues, void ones included.
    #[cfg(test)]
    pub(crate) fn leftovers(&self) -> usize {
        let parked: usize = self.locks.values().map(|(_, waiting)| waiting.len()).sum();
        let held: usize = self.held.values().map(BTreeSet::len).sum();
        self.timers.len() + held + self.queue.len() + parked + self.places.len()
    }
}
