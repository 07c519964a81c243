//! When an instance is due: at once, after a time, or when another engine has let it go.

use super::{InstanceRecord, QueueAction, State, Wait, WorkClass};
use crate::dispatch::latency::TriggerLatency;
use crate::fleet::member::MemberId;
use crate::time::LONGEST;
use std::time::Duration;
use tokio::time::Instant;

/// Ineffective firings, and those of an instance that fires too often, are slowed down to at most one in this time.
pub(crate) const SLOWEST: Duration = Duration::from_secs(5);

impl InstanceRecord {
    /// Fires again, but slowed down if that keeps the instance as true as it was; not after `latest`.
    pub(super) fn fire_again(
        &mut self,
        class: WorkClass,
        base: Duration,
        latest: Option<Instant>,
        now: Instant,
    ) -> QueueAction {
        let doublings = self.ineffective.saturating_sub(1).min(16);
        let delay = base.saturating_mul(1 << doublings).min(SLOWEST);
        let Some(end) = self.last_end.filter(|_| self.ineffective > 0) else {
            return self.enqueue(class, now);
        };
        if now.duration_since(end) > 2 * delay {
            self.ineffective = 0;
        }
        let at = latest.map_or(end + delay, |latest| latest.min(end + delay));
        if now >= at {
            return self.enqueue(class, now);
        }
        self.state = State::Waiting(at, Wait::Ineffective);
        self.latency = TriggerLatency::new(now);
        QueueAction::WakeAt(at)
    }

    pub(crate) fn enqueue(&mut self, class: WorkClass, now: Instant) -> QueueAction {
        self.state = State::Queued(class);
        self.latency = TriggerLatency::new(now);
        QueueAction::Enqueue(class)
    }

    /// Leaves it to the engine that owns it, for so long.
    pub(crate) fn defer(&mut self, owner: MemberId, until: Option<Instant>) -> QueueAction {
        self.state = State::Yielded { owner, until };
        until.map_or(QueueAction::Stay, QueueAction::WakeAt)
    }

    /// It has become due while another engine owns it.
    pub(super) fn due_elsewhere(&mut self, now: Instant) -> QueueAction {
        self.latency = TriggerLatency::new(now);
        QueueAction::Stay
    }

    pub(crate) fn wait(&mut self, delay: Duration, why: Wait, now: Instant) -> QueueAction {
        let until = now + delay.min(LONGEST);
        self.state = State::Waiting(until, why);
        QueueAction::WakeAt(until)
    }

    /// Not before this time, because it fired not long ago.
    pub(crate) fn rest(&mut self, until: Instant) -> QueueAction {
        self.state = State::Waiting(until, Wait::Interval);
        QueueAction::WakeAt(until)
    }

    /// Not before this time, because it fires too often.
    pub(crate) fn slow_down(&mut self, until: Instant) -> QueueAction {
        self.state = State::Waiting(until, Wait::TooOften);
        QueueAction::WakeAt(until)
    }

    /// Tries again later for a reason that is not the callback's.
    pub(crate) fn trouble(&mut self, base: Duration, now: Instant) -> QueueAction {
        self.troubles = self.troubles.saturating_add(1);
        let delay = base.saturating_mul(1 << (self.troubles - 1).min(6));
        self.wait(delay, Wait::Trouble, now)
    }

    /// It can be fired now: it is under way neither here nor in another engine.
    pub(crate) fn is_at_rest(&self) -> bool {
        match self.state {
            State::Waiting(..) | State::GivenUp(_) | State::Idle | State::Yielded { .. } => true,
            State::Held(_) => self.mark.is_some_and(|mark| !mark.mine),
            _ => false,
        }
    }

    /// Somebody asks for it to be fired now, whatever it waits for.
    pub(crate) fn fire_now(&mut self, now: Instant) -> QueueAction {
        if !self.is_at_rest() {
            return QueueAction::Stay;
        }
        self.disregard_mark();
        self.insists = true;
        self.enqueue(WorkClass::Live, now)
    }

    /// Its waiting time is over.
    pub(crate) fn due(&mut self, now: Instant) -> QueueAction {
        match self.state {
            State::Waiting(until, why) if until <= now => {
                let mut latency = self.latency;
                let next = self.enqueue(WorkClass::Live, now);
                if why == Wait::RetryAfter {
                    // Nothing cut its time short.
                    self.ineffective = 0;
                }
                // It has been due all the time.
                match why {
                    Wait::Ineffective | Wait::TooOften | Wait::Released | Wait::Settle => {
                        latency.queued(now);
                        self.latency = latency;
                    }
                    Wait::Trouble => {
                        latency.locked(now);
                        self.latency = latency;
                    }
                    Wait::Backoff | Wait::RetryAfter | Wait::Interval => {}
                }
                next
            }
            State::Waiting(until, _) => QueueAction::WakeAt(until),
            State::Yielded { until: Some(until), .. } if until <= now => {
                // What the former owner has seen to is looked at again, as by a crawl.
                self.enqueue(if self.insists { WorkClass::Live } else { WorkClass::Crawl }, now)
            }
            State::Yielded { until: Some(until), .. } => QueueAction::WakeAt(until),
            _ => QueueAction::Stay,
        }
    }

    /// The lock or mark it waited for is gone. After a mark that gave up its engine may be, too: the
    /// restart of that is a reason to try again.
    pub(crate) fn released(&mut self, grace: Duration, now: Instant) -> QueueAction {
        match self.state {
            State::Held(_) | State::GivenUp(_) => {
                self.mark.take_if(|mark| !mark.mine);
                // It waited for another engine's work.
                self.latency = TriggerLatency::new(now);
                self.wait(grace, Wait::Released, now)
            }
            _ => QueueAction::Stay,
        }
    }
}
