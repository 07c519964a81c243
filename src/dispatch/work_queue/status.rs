//! What people see of instances: their state in words, and how many are in which state.

use super::*;
use crate::inspect::{Phase, QueuedFor, WaitReason};
use std::time::{SystemTime, UNIX_EPOCH};

/// One instance as it is now.
#[derive(Debug)]
pub(crate) struct InstanceStatus {
    pub(crate) state: InstanceState,
    pub(crate) lasting: Duration,
    pub(crate) failures: u32,
    pub(crate) last_error: Option<Arc<str>>,
}

/// One rule as it is now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LaneStatus {
    /// As it is now.
    pub(crate) controls: Controls,
    pub(crate) stats: LaneStats,
}

impl WorkQueue {
    /// True instances of all rules, by state.
    pub(crate) fn tally(&self) -> StateCounts {
        self.stats.all()
    }

    /// Every lane: one a rule, in the order of the rules.
    pub(crate) fn lane_statuses(&self) -> ByLane<LaneStatus> {
        let status = |(lane, controls): (Lane, &Controls)| LaneStatus {
            controls: *controls,
            stats: *self.stats.of(lane),
        };
        self.controls.iter().map(status).collect()
    }

    /// Tells those who listen about a new state, if it is one between firings.
    pub(super) fn notify(&self, id: InstanceId, now: Instant, out: &mut Vec<Action>) {
        if !self.observed {
            return;
        }
        let Some(record) = self.records.get(&id) else { return };
        let between = match record.state {
            State::Queued(_) | State::Parked | State::Waiting(..) | State::Idle | State::WouldFire => true,
            State::Held(_) | State::GivenUp(_) | State::Yielded { .. } => true,
            State::Checking(_)
            | State::Locking(_)
            | State::Running
            | State::Committing { .. }
            | State::AwaitingOwnEvent { .. } => false,
        };
        if between {
            let (rule, binding) = (record.rule, record.binding.clone());
            out.push(Action::Notify { rule, binding, state: self.state(record, now) });
        }
    }

    /// `None`: there is no record of it, because it is not true.
    pub(crate) fn status(&self, id: InstanceId, now: Instant) -> Option<InstanceStatus> {
        let record = self.records.get(&id)?;
        Some(InstanceStatus {
            state: self.state(record, now),
            lasting: now.saturating_duration_since(record.entered),
            failures: record.failures,
            last_error: record.last_error.clone(),
        })
    }

    fn state(&self, record: &InstanceRecord, now: Instant) -> InstanceState {
        match record.state {
            State::Queued(_) if self.is_paused(record.lane) => InstanceState::Queued(QueuedFor::Resume),
            State::Queued(_) if self.queue.is_throttled(record.lane, now) => {
                InstanceState::Queued(QueuedFor::Rate)
            }
            State::Yielded { owner, .. } => {
                let engine = self.view().and_then(|view| view.name(owner));
                InstanceState::Yielded { engine: engine.map(|name| name.to_string()) }
            }
            _ => state(record, now),
        }
    }
}

fn state(record: &InstanceRecord, now: Instant) -> InstanceState {
    match record.state {
        State::Queued(_) => InstanceState::Queued(QueuedFor::Slot),
        State::Parked => InstanceState::Queued(QueuedFor::Lock),
        State::Checking(_) => InstanceState::Running(Phase::Deciding),
        State::Locking(_) => InstanceState::Running(Phase::Locking),
        State::Running => InstanceState::Running(Phase::Callback),
        State::Committing { .. } => InstanceState::Running(Phase::Committing),
        State::AwaitingOwnEvent { .. } | State::Idle => InstanceState::Idle,
        State::WouldFire => InstanceState::WouldFire,
        State::Yielded { .. } => InstanceState::Yielded { engine: None },
        State::Waiting(until, why) => {
            InstanceState::Waiting { reason: reason(why), remaining: until.saturating_duration_since(now) }
        }
        State::Held(ref remote) => match &remote.holder {
            Some(RemoteHolder::Lock(holder)) => {
                InstanceState::Locked { engine: Some(holder.engine.to_string()), since: time(holder.since) }
            }
            Some(RemoteHolder::Mark(mark)) => InstanceState::HeldBack {
                engine: Some(mark.engine.clone()),
                until: time(mark.until),
                error: mark.error.clone(),
            },
            None if record.mark.is_some_and(|mark| !mark.mine) => {
                InstanceState::HeldBack { engine: None, until: None, error: String::new() }
            }
            None => InstanceState::Locked { engine: None, since: None },
        },
        State::GivenUp(ref remote) => match remote.as_ref().and_then(|remote| remote.holder.as_ref()) {
            Some(RemoteHolder::Mark(mark)) => {
                InstanceState::GivenUp { engine: Some(mark.engine.clone()), reason: mark.error.clone() }
            }
            _ => InstanceState::GivenUp {
                engine: None,
                reason: record.last_error.as_deref().unwrap_or_default().to_owned(),
            },
        },
    }
}

fn reason(why: Wait) -> WaitReason {
    match why {
        Wait::Backoff => WaitReason::Backoff,
        Wait::RetryAfter => WaitReason::RetryAfter,
        Wait::Ineffective => WaitReason::Ineffective,
        Wait::Trouble => WaitReason::Trouble,
        Wait::Released => WaitReason::Released,
        Wait::Settle => WaitReason::Settle,
        Wait::Interval => WaitReason::Interval,
        Wait::TooOften => WaitReason::TooOften,
    }
}

/// A time that another engine wrote; `None` if it means never, or nothing.
fn time(unix_millis: u64) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_millis(unix_millis)).filter(|_| unix_millis != u64::MAX)
}
