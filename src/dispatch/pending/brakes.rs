//! Rules that are paused: what runs ends as it would, and nothing starts.

use super::*;

impl Pending {
    /// From now on nothing of the lane starts.
    pub(crate) fn pause(&mut self, lane: u32, now: Instant, out: &mut Vec<Action>) {
        self.queue.pause(lane, true);
        // What waits here for an unknown time must not hold up other rules: it gives back the locks that it
        // was handed, and will ask for them again.
        let mut parked = Vec::new();
        let mut holders = Vec::new();
        for (holder, waiting) in self.locks.values_mut() {
            let of_lane = |id: &InstanceId| {
                let record = self.records.get(id);
                record.filter(|record| self.lanes[record.rule as usize] == lane)
            };
            if of_lane(holder).is_some_and(|record| matches!(record.state, State::Queued(_))) {
                holders.push(*holder);
            }
            waiting.retain(|number, id| {
                let stays = of_lane(id).is_none();
                if !stays {
                    parked.push((*number, *id));
                }
                stays
            });
        }
        parked.sort_unstable();
        for (_, id) in parked {
            self.tickets.insert(id, self.queue.push(lane, Class::Live, id, now));
            self.enter(id, State::Queued(Class::Live), now);
            self.tell(id, now, out);
        }
        for id in holders {
            self.unreserve(id, now);
        }
    }

    /// Ends a [pause](Pending::pause).
    pub(crate) fn resume(&mut self, lane: u32) {
        self.queue.pause(lane, false);
    }

    pub(crate) fn is_paused(&self, lane: u32) -> bool {
        self.queue.is_paused(lane)
    }

    /// It has its lock, and its callback is not to run any more: ends the firing as it is.
    pub(super) fn give_up_lock(&mut self, id: InstanceId, now: Instant, out: &mut Vec<Action>) {
        self.enter(id, State::Ending, now);
        if let Some(record) = self.records.get_mut(&id) {
            record.end = Some(End::NotRun);
            record.tried = Tried::Unlock;
            out.push(Action::Close(id, Closing::Unlock(None)));
        }
    }
}
