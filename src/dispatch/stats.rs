//! Counts instances and their work as they go from state to state, for the metrics and for callers who ask.
//! It is the one place that counts. It never walks over all instances, and has no clock.

use super::record::{InstanceRecord, State, Wait};
use crate::compiled::{ByLane, Lane};
use crate::index::InstanceId;
use crate::inspect::{StateCounts, StateKind};
use crate::metrics::{WorkqueueDepth, WorkqueueEvent};
use foldhash::fast::FixedState;
use std::collections::HashMap;
use tokio::time::Instant;

type Map<K, V> = HashMap<K, V, FixedState>;

pub(crate) struct WorkqueueStats {
    lanes: ByLane<LaneStats>,
    /// Instances that wait for a slot or a lock, of all lanes.
    queued: usize,
    /// Instances that have a slot, and since when: bounded by the number of slots.
    working: Map<InstanceId, (Lane, Instant)>,
    /// Instances whose callback failed the last time, and since when without a success.
    failing: Map<InstanceId, (Lane, Instant)>,
    /// Since the last call of [`WorkqueueStats::take_events`].
    events: Vec<WorkqueueEvent>,
}

/// What is counted of one lane.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LaneStats {
    /// True instances by state.
    pub(crate) states: StateCounts,
    /// Callbacks that were started, and those that a dry run kept from starting.
    pub(crate) fired: u64,
    pub(crate) would_have_fired: u64,
}

impl WorkqueueStats {
    pub(crate) fn new(lanes: ByLane<LaneStats>, hasher: FixedState) -> Self {
        Self {
            lanes,
            queued: 0,
            working: HashMap::with_hasher(hasher.clone()),
            failing: HashMap::with_hasher(hasher),
            events: Vec::new(),
        }
    }

    pub(crate) fn event(&mut self, event: WorkqueueEvent) {
        self.events.push(event);
    }

    pub(crate) fn take_events(&mut self) -> std::vec::Drain<'_, WorkqueueEvent> {
        self.events.drain(..)
    }

    /// An instance has gone from one state to that of its record. `before`: none, if it is new; `dropped`:
    /// the record goes.
    pub(crate) fn moved(
        &mut self,
        id: InstanceId,
        before: Option<&State>,
        record: &InstanceRecord,
        dropped: bool,
        now: Instant,
    ) {
        let lane = record.lane;
        let after = (!dropped).then_some(&record.state);
        if before == after {
            return self.judge(id, record, dropped, now);
        }
        let stats = &mut self.lanes[lane];
        if let Some(before) = before {
            *stats.states.at(before.kind()) -= 1;
        }
        if let Some(after) = after {
            *stats.states.at(after.kind()) += 1;
        }
        let was = |test: fn(&State) -> bool| before.is_some_and(test);
        let is = |test: fn(&State) -> bool| after.is_some_and(test);
        match (was(State::is_queued), is(State::is_queued)) {
            (false, true) => {
                self.queued += 1;
                self.events.push(WorkqueueEvent::Added(lane));
            }
            (true, false) => self.queued -= 1,
            _ => {}
        }
        match (was(State::holds_slot), is(State::holds_slot)) {
            (false, true) => {
                self.working.insert(id, (lane, now));
            }
            (true, false) => {
                if let Some((_, since)) = self.working.remove(&id) {
                    self.events.push(WorkqueueEvent::Worked(lane, now.saturating_duration_since(since)));
                }
            }
            _ => {}
        }
        match after {
            Some(State::Running) => stats.fired += 1,
            Some(State::WouldFire) => {
                stats.would_have_fired += 1;
                self.events.push(WorkqueueEvent::WouldHaveFired(lane));
            }
            Some(State::Waiting(_, why))
                if !matches!(why, Wait::Released | Wait::Settle | Wait::Interval) =>
            {
                self.events.push(WorkqueueEvent::PutOff(lane));
            }
            _ => {}
        }
        self.judge(id, record, dropped, now);
    }

    /// Notes whether an instance is failing. While it is being fired, what was noted before stays.
    fn judge(&mut self, id: InstanceId, record: &InstanceRecord, dropped: bool, now: Instant) {
        if record.state.holds_slot() && !dropped {
            return;
        }
        // An instance that another engine holds back is counted there, and a dry run tries nothing.
        let left_alone = matches!(
            record.state,
            State::Held(_) | State::GivenUp(_) | State::WouldFire | State::Yielded { .. }
        );
        if record.failures > 0 && !left_alone && !dropped {
            self.failing.entry(id).or_insert((record.lane, now));
        } else if !self.failing.is_empty() {
            self.failing.remove(&id);
        }
    }

    /// Instances that wait for a slot or a lock.
    pub(crate) fn queued(&self) -> usize {
        self.queued
    }

    pub(crate) fn of(&self, lane: Lane) -> &LaneStats {
        &self.lanes[lane]
    }

    /// True instances of all lanes, by state.
    pub(crate) fn all(&self) -> StateCounts {
        let mut all = StateCounts::default();
        for (kind, count) in self.lanes.iter().flat_map(|(_, stats)| stats.states.iter()) {
            *all.at(kind) += count;
        }
        all
    }

    /// What there is now.
    pub(crate) fn depths(&self, now: Instant) -> ByLane<WorkqueueDepth> {
        let mut depths =
            self.lanes.map(|stats| WorkqueueDepth { states: stats.states, ..WorkqueueDepth::default() });
        let earliest = |known: Option<Instant>, since| Some(known.map_or(since, |known| known.min(since)));
        for &(lane, since) in self.working.values() {
            let depth = &mut depths[lane];
            depth.working += now.saturating_duration_since(since);
            depth.longest_working = earliest(depth.longest_working, since);
        }
        for &(lane, since) in self.failing.values() {
            let depth = &mut depths[lane];
            depth.failing += 1;
            depth.longest_failing = earliest(depth.longest_failing, since);
        }
        depths
    }

    /// Instances that wait in a lane.
    pub(crate) fn queued_in(&self, lane: Lane) -> usize {
        self.lanes[lane].states.get(StateKind::Queued)
    }
}
