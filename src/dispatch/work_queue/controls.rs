//! What holds rules back: pauses (what runs ends as it would, and nothing starts), rates, intervals,
//! and dry runs.

use super::*;

impl WorkQueue {
    /// Holds a lane back as it is wanted now.
    pub(crate) fn brake(&mut self, lane: u32, wanted: Brake, now: Instant, out: &mut Vec<Action>) {
        let was = std::mem::replace(&mut self.brakes[lane as usize], wanted);
        if was.rate_limit != wanted.rate_limit {
            self.queue.limit_rate(lane, wanted.rate_limit, now);
        }
        if was.min_interval != wanted.min_interval {
            self.set_interval(lane, wanted.min_interval, now, out);
        }
        if was.dry_run && !wanted.dry_run {
            self.end_dry_run(lane, now, out);
        }
        match (was.paused, wanted.paused) {
            (false, true) => self.pause(lane, now, out),
            (true, false) => self.queue.pause(lane, false),
            _ => {}
        }
    }

    /// Instances of the lane rest for so long between two firings.
    fn set_interval(&mut self, lane: u32, least: Option<Duration>, now: Instant, out: &mut Vec<Action>) {
        let hasher = self.records.hasher();
        for (interval, _) in self.intervals.iter_mut().zip(&self.lanes).filter(|(_, of)| **of == lane) {
            match (&mut *interval, least) {
                (Some(interval), Some(least)) => interval.change(least),
                (_, least) => *interval = least.map(|least| Interval::new(least, hasher.clone())),
            }
        }
        let rests = |id: &InstanceId| {
            let record = self.records.get(id).filter(|record| self.lane(record.rule) == lane);
            record.is_some_and(|record| matches!(record.state, State::Waiting(_, Wait::Interval)))
        };
        let resting: Vec<InstanceId> = self.timers.iter().map(|(_, id)| *id).filter(rests).collect();
        for id in resting {
            // Back to rest with it, if it is not over.
            self.step(id, now, out, |record, now| record.enqueue(WorkClass::Live, now));
        }
    }

    /// What would have fired does. That it would have is no reason to rest.
    fn end_dry_run(&mut self, lane: u32, now: Instant, out: &mut Vec<Action>) {
        let waits = |record: &InstanceRecord| {
            record.state == State::WouldFire && self.lanes[record.rule as usize] == lane
        };
        let mut waiting: Vec<InstanceId> =
            self.records.iter().filter(|(_, record)| waits(record)).map(|(id, _)| *id).collect();
        waiting.sort_unstable();
        for id in waiting {
            if let Some(record) = self.records.get(&id)
                && let Some(interval) = &mut self.intervals[record.rule as usize]
            {
                interval.forget(&record.binding);
            }
            self.step(id, now, out, |record, now| record.enqueue(WorkClass::Live, now));
        }
    }

    /// From now on nothing of the lane starts.
    fn pause(&mut self, lane: u32, now: Instant, out: &mut Vec<Action>) {
        self.queue.pause(lane, true);
        // What waits here for an unknown time must not hold up other rules: it gives back the locks that it
        // was handed, and will ask for them again.
        let mut parked = Vec::new();
        for (_, waiting) in self.locks.values_mut() {
            waiting.retain(|number, id| {
                let record = self.records.get(id);
                let stays = record.is_none_or(|record| self.lanes[record.rule as usize] != lane);
                if !stays {
                    parked.push((*number, *id));
                }
                stays
            });
        }
        parked.sort_unstable();
        for (_, id) in parked {
            self.places.insert(id, self.queue.push(lane, WorkClass::Live, id, now));
            self.enter(id, State::Queued(WorkClass::Live), now);
            self.tell(id, now, out);
        }
        self.pass_lock(now, |_, of| of == lane);
    }

    pub(crate) fn is_paused(&self, lane: u32) -> bool {
        self.queue.is_paused(lane)
    }

    /// It has its lock, and its callback is not to run any more: ends the firing as it is.
    pub(super) fn give_up_lock(&mut self, id: InstanceId, now: Instant, out: &mut Vec<Action>) {
        self.enter(id, State::Ending, now);
        if let Some(record) = self.records.get_mut(&id) {
            self.queue.withdraw(self.lanes[record.rule as usize]);
            record.end = Some(End::NotRun);
            record.tried = Tried::Unlock;
            out.push(Action::Close(id, Closing::Unlock(None)));
        }
    }
}
