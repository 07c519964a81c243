//! What holds rules back: pauses (what runs ends as it would, and nothing starts), rates, intervals,
//! and dry runs.

use super::*;

impl WorkQueue {
    /// Holds a lane back as it is wanted now.
    pub(crate) fn set_controls(&mut self, lane: Lane, wanted: Controls, now: Instant, out: &mut Vec<Action>) {
        let was = std::mem::replace(&mut self.controls[lane], wanted);
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
    fn set_interval(&mut self, lane: Lane, least: Option<Duration>, now: Instant, out: &mut Vec<Action>) {
        let hasher = self.records.hasher();
        for rule in self.lanes.rules_of(lane) {
            let interval = &mut self.intervals[rule.index()];
            match (&mut *interval, least) {
                (Some(interval), Some(least)) => interval.change(least),
                (_, least) => *interval = least.map(|least| Interval::new(least, hasher.clone())),
            }
        }
        let rests = |id: &InstanceId| {
            let record = self.records.get(id).filter(|record| record.lane == lane);
            record.is_some_and(|record| matches!(record.state, State::Waiting(_, Wait::Interval)))
        };
        let resting: Vec<InstanceId> = self.timers.iter().map(|(_, id)| *id).filter(rests).collect();
        for id in resting {
            // Back to rest with it, if it is not over.
            self.transition(id, now, out, |record, now| record.enqueue(WorkClass::Live, now));
        }
    }

    /// Instances that only the dry run kept from firing are fired now. A firing that did not happen starts no
    /// rest.
    fn end_dry_run(&mut self, lane: Lane, now: Instant, out: &mut Vec<Action>) {
        let waits = |record: &InstanceRecord| record.state == State::WouldFire && record.lane == lane;
        let mut waiting: Vec<InstanceId> =
            self.records.iter().filter(|(_, record)| waits(record)).map(|(id, _)| *id).collect();
        waiting.sort_unstable();
        for id in waiting {
            if let Some(record) = self.records.get(&id)
                && let Some(interval) = &mut self.intervals[record.rule.index()]
            {
                interval.forget(&record.binding);
            }
            self.transition(id, now, out, |record, now| record.enqueue(WorkClass::Live, now));
        }
    }

    /// From now on nothing of the lane starts.
    fn pause(&mut self, lane: Lane, now: Instant, out: &mut Vec<Action>) {
        self.queue.pause(lane, true);
        // An instance that waits for an unknown time must not hold up other rules: it gives back the locks
        // that it was handed, and asks for them again later.
        let records = &self.records;
        let parked =
            self.local_locks.withdraw(|id| records.get(&id).is_some_and(|record| record.lane == lane));
        for id in parked {
            self.transition(id, now, out, |record, _| {
                record.state = State::Queued(WorkClass::Live);
                QueueAction::Enqueue(WorkClass::Live)
            });
        }
        self.pass_locks(now, out, |_, record| record.lane == lane);
    }

    pub(crate) fn is_paused(&self, lane: Lane) -> bool {
        self.queue.is_paused(lane)
    }
}
