//! Keeps account of work and failures as they come and go, for the metrics: no walk over all instances, however
//! many there are. No clock.

use super::record::{InstanceRecord, State};
use crate::index::InstanceId;
use crate::metrics::{WorkqueueDepth, WorkqueueEvent};
use foldhash::fast::FixedState;
use std::collections::HashMap;
use tokio::time::Instant;

type Map<K, V> = HashMap<K, V, FixedState>;

pub(crate) struct WorkqueueStats {
    lanes: usize,
    /// Instances that have a slot, and since when: bounded by the number of slots.
    working: Map<InstanceId, (u32, Instant)>,
    /// Instances whose callback failed the last time, and since when without a success.
    failing: Map<InstanceId, (u32, Instant)>,
    /// Since the last call of [`WorkqueueStats::take_events`].
    notes: Vec<WorkqueueEvent>,
}

impl WorkqueueStats {
    pub(crate) fn new(lanes: usize, hasher: FixedState) -> Self {
        Self {
            lanes,
            working: HashMap::with_hasher(hasher.clone()),
            failing: HashMap::with_hasher(hasher),
            notes: Vec::new(),
        }
    }

    pub(crate) fn note(&mut self, note: WorkqueueEvent) {
        self.notes.push(note);
    }

    pub(crate) fn take_events(&mut self) -> std::vec::Drain<'_, WorkqueueEvent> {
        self.notes.drain(..)
    }

    /// An instance of a lane goes from one state to another; `None`: to where there is no record of it.
    pub(crate) fn moved(
        &mut self,
        id: InstanceId,
        lane: u32,
        before: State,
        after: Option<State>,
        now: Instant,
    ) {
        match (before.holds_slot(), after.is_some_and(State::holds_slot)) {
            (false, true) => {
                self.working.insert(id, (lane, now));
            }
            (true, false) => {
                if let Some((_, since)) = self.working.remove(&id) {
                    self.notes.push(WorkqueueEvent::Worked(lane, now.saturating_duration_since(since)));
                }
            }
            _ => {}
        }
    }

    /// Looks whether an instance is failing; `None`: there is no record of it any more.
    pub(crate) fn judge(&mut self, id: InstanceId, lane: u32, record: Option<&InstanceRecord>, now: Instant) {
        // One that another engine holds back is that engine's to count, and in a dry run nothing is tried.
        let left_alone = |state| matches!(state, State::Held | State::GivenUp | State::WouldFire);
        let failing = |record: &&InstanceRecord| record.failures > 0 && !left_alone(record.state);
        match record.filter(failing) {
            Some(_) => {
                self.failing.entry(id).or_insert((lane, now));
            }
            None if self.failing.is_empty() => {}
            None => {
                self.failing.remove(&id);
            }
        }
    }

    /// What there is now, by lane.
    pub(crate) fn depths(&self, now: Instant) -> Vec<WorkqueueDepth> {
        let mut depths = vec![WorkqueueDepth::default(); self.lanes];
        let earliest = |known: Option<Instant>, since| Some(known.map_or(since, |known| known.min(since)));
        for &(lane, since) in self.working.values() {
            let load = &mut depths[lane as usize];
            load.working += now.saturating_duration_since(since);
            load.longest_working = earliest(load.longest_working, since);
        }
        for &(lane, since) in self.failing.values() {
            let load = &mut depths[lane as usize];
            load.failing += 1;
            load.longest_failing = earliest(load.longest_failing, since);
        }
        depths
    }
}
