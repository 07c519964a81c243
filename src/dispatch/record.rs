//! What the dispatcher knows of one instance that is, or was, true: a state machine without I/O and
//! without a clock. [`WorkQueue`](super::work_queue::WorkQueue) owns the records and carries out the steps.
//!
//! ```text
//!                       ┌────────────── foreign change, crawl ───────────────┐
//!   true                v   slot          true           won         ended   │
//! ───────────────> Queued ───────> Checking ───> Locking ───> Running ──> Ending
//!                   ^   ^             │ false      │ held        (slot held from Checking to Ending)
//!                   │   │ due         v            v                     │
//!                   │ Waiting      (gone)        Held ── released ─┐     v
//!                   │   ^                                          │  Settling ── false ──> (gone)
//!                   └───┼──────────────────────────────────────────┘     │ still true
//!                       └── failed, retry later, ineffective ────────────┤
//!                             Idle (done) or GivenUp  <──────────────────┘
//! ```
//!
//! Settling waits for a decision from a view that contains the commit; if the watch has told of the commit before its
//! answer came, there was one already, and it goes on at once.
//!
//! In a dry run of its rule it goes from Checking to WouldFire, and back to Queued after a foreign change and when the
//! dry run ends.
//!
//! An instance that is decided false outside of a firing has no record: attempts start anew.

mod state;

pub(crate) use state::{End, KnownMark, Next, Own, RemoteHolder, State, Tried, Wait, WorkClass};

use super::latency::TriggerLatency;
use crate::broken::{Promise, is_broken};
use crate::change::{Revision, Snapshot};
use crate::compiled::Binding;
use crate::index::Touch;
use crate::time::LONGEST;
use smallvec::SmallVec;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

#[derive(Debug)]
pub(crate) struct InstanceRecord {
    pub(crate) rule: u32,
    pub(crate) binding: Binding,
    pub(crate) state: State,
    /// When it came into this state.
    pub(crate) entered: Instant,
    /// Since when it has been due, and what became of it since.
    pub(crate) latency: TriggerLatency,
    /// Failures in a row.
    pub(crate) failures: u32,
    /// Interruptions in a row (no lease, no answer …).
    pub(crate) troubles: u32,
    /// Times in a row that its lock was refused because the condition did not hold as seen.
    pub(crate) rechecks: u8,
    /// Firings in a row that succeeded, after which it was still true and not left alone.
    pub(crate) ineffective: u32,
    pub(crate) last_end: Option<Instant>,
    pub(crate) end: Option<End>,
    pub(crate) tried: Tried,
    pub(crate) mark: Option<KnownMark>,
    /// The key in etcd whose deletion wakes it, while it is held or given up.
    pub(crate) waits_for: Option<Arc<str>>,
    /// Deletions may have been missed while its transaction was out.
    pub(crate) blind: bool,
    pub(crate) orphaned: bool,
    /// Since the last success.
    pub(crate) last_error: Option<Arc<str>>,
    /// Who has its lock, or holds it back, while it is held or given up.
    pub(crate) remote_holder: Option<Box<RemoteHolder>>,
    /// By slot, the revisions of the values shown to the last callback; 0 for an absent key.
    given: Option<SmallVec<[Revision; 2]>>,
    own: Own,
    /// Changes seen since the values were taken that are not yet known to be ours or foreign.
    during: SmallVec<[Touch; 4]>,
    /// Somebody else changed a key since the values were taken.
    foreign: bool,
    /// What was decided last since the values were taken, without having been asked for.
    truth: bool,
    /// The latest revision of its keys that was ever seen.
    newest: Revision,
}

/// Ineffective firings are slowed down to at most one in this time.
pub(crate) const INEFFECTIVE_MAX: Duration = Duration::from_secs(5);

impl InstanceRecord {
    pub(crate) fn new(rule: u32, binding: Binding, class: WorkClass, orphaned: bool, now: Instant) -> Self {
        Self {
            rule,
            binding,
            state: State::Queued(class),
            entered: now,
            latency: TriggerLatency::new(now),
            failures: 0,
            troubles: 0,
            rechecks: 0,
            ineffective: 0,
            last_end: None,
            end: None,
            tried: Tried::Commit,
            mark: None,
            waits_for: None,
            blind: false,
            orphaned,
            last_error: None,
            remote_holder: None,
            given: None,
            own: Own::default(),
            during: SmallVec::new(),
            foreign: false,
            truth: true,
            newest: 0,
        }
    }

    pub(crate) fn holds_slot(&self) -> bool {
        self.state.holds_slot()
    }

    /// The values of this snapshot are what the callback will be given.
    pub(crate) fn give(&mut self, snapshot: &Snapshot) {
        self.given =
            Some(snapshot.iter().map(|seen| seen.as_ref().map_or(0, |seen| seen.mod_revision)).collect());
        self.own = Own::default();
        self.during.clear();
        self.foreign = false;
        self.blind = false;
        self.truth = true;
        self.newest = self.given.iter().flatten().copied().fold(self.newest, Revision::max);
    }

    /// The commit of the firing took effect.
    pub(crate) fn committed(&mut self, own: Own) {
        self.own = own;
    }

    /// It was decided from a view that contains what the commit of its firing did to its keys: the watch was quicker
    /// than the answer. What came later is decided by itself.
    pub(crate) fn has_seen_own(&self) -> bool {
        let Own { revision, slots } = &self.own;
        !slots.is_empty() && slots.iter().all(|slot| self.during.contains(&(*slot, *revision)))
    }

    /// What was decided last, of an instance that fires.
    pub(crate) fn truth(&self) -> bool {
        self.truth
    }

    /// Makes it fire again after this firing, come what may.
    pub(crate) fn unfinished(&mut self) {
        self.foreign = true;
    }

    /// These changes have been seen.
    pub(crate) fn see(&mut self, touches: &[Touch]) {
        self.newest = touches.iter().map(|touch| touch.1).fold(self.newest, Revision::max);
    }

    /// Keeps changes until it is known which of them are ours: one a slot, since of two that are
    /// newer than the values given one must be somebody else's.
    fn remember(&mut self, touches: &[Touch]) {
        if is_broken(Promise::DirtyMark) {
            return;
        }
        for touch in touches {
            let foreign = self.is_foreign(*touch);
            match self.during.iter().find(|known| known.0 == touch.0) {
                None if foreign => self.during.push(*touch),
                Some(known) if foreign && known.1 != touch.1 => self.foreign = true,
                _ => {}
            }
        }
    }

    /// Somebody else changed a key after the values that the last callback was given.
    fn is_foreign(&self, (slot, revision): Touch) -> bool {
        let ours = revision == self.own.revision && self.own.slots.contains(&slot);
        let known = self.given.as_ref().is_some_and(|given| revision <= given[slot as usize]);
        !ours && !known
    }

    fn any_foreign(&self, touches: &[Touch]) -> bool {
        touches.iter().any(|touch| self.is_foreign(*touch))
    }

    /// A foreign change that the engine which wrote the mark can't have seen.
    fn outdates_mark(&self, touches: &[Touch]) -> bool {
        let seen = self.mark.filter(|mark| !mark.mine).map_or(0, |mark| mark.revision);
        touches.iter().any(|touch| touch.1 > seen && self.is_foreign(*touch))
    }

    /// The revision of the mark that its next transaction replaces.
    pub(crate) fn supersedes_backoff(&self) -> Option<Revision> {
        self.mark.filter(|mark| mark.mine || mark.outdated).map(|mark| mark.revision)
    }

    /// The mark holds it back no more.
    pub(crate) fn disregard_mark(&mut self) {
        if let Some(mark) = &mut self.mark {
            mark.outdated = true;
        }
    }

    /// Another engine has the lock.
    pub(crate) fn held(&mut self) -> Next {
        if !self.truth {
            return Next::Drop;
        }
        self.mark.take_if(|mark| !mark.mine);
        self.state = State::Held;
        Next::Stay
    }

    /// The mark of another engine (or one that this engine has forgotten) holds it back; unless a key
    /// changed after the mark was written.
    pub(crate) fn marked(&mut self, revision: Revision, gave_up: bool, base: Duration, now: Instant) -> Next {
        if !self.truth {
            return Next::Drop;
        }
        let outdated = self.newest > revision;
        self.mark = Some(KnownMark { revision, mine: false, outdated });
        if outdated {
            return self.wait(base, Wait::Backoff, now);
        }
        self.state = if gave_up { State::GivenUp } else { State::Held };
        Next::Stay
    }

    /// A decision that was not asked for: a key changed, or a crawl came by.
    pub(crate) fn decided(
        &mut self,
        truth: bool,
        touches: &[Touch],
        crawl: bool,
        base: Duration,
        now: Instant,
    ) -> Next {
        self.see(touches);
        match self.state {
            State::Checking(_) | State::Locking | State::Running | State::Ending | State::Settling(_) => {
                self.remember(touches);
                self.truth = truth;
                Next::Stay
            }
            _ if !truth => Next::Drop,
            State::Queued(WorkClass::Crawl) if !crawl || !touches.is_empty() => {
                self.enqueue(WorkClass::Live, now)
            }
            State::Queued(_) | State::Parked => Next::Stay,
            State::Idle if self.any_foreign(touches) => self.fire_again(WorkClass::Live, base, None, now),
            State::WouldFire if self.any_foreign(touches) => self.enqueue(WorkClass::Live, now),
            State::Idle if crawl => self.fire_again(WorkClass::Crawl, base, None, now),
            State::Held if self.mark.is_some_and(|mark| !mark.mine) && self.outdates_mark(touches) => {
                self.disregard_mark();
                self.wait(base, Wait::Backoff, now)
            }
            State::Held if crawl => self.enqueue(WorkClass::Crawl, now),
            State::Waiting(until, Wait::Backoff) if self.any_foreign(touches) && now + base < until => {
                self.wait(base, Wait::Backoff, now)
            }
            State::Waiting(until, Wait::RetryAfter) if self.any_foreign(touches) => {
                self.fire_again(WorkClass::Live, base, Some(until), now)
            }
            State::GivenUp if self.outdates_mark(touches) => {
                self.disregard_mark();
                self.wait(base, Wait::Backoff, now)
            }
            State::Idle | State::Held | State::Waiting(..) | State::GivenUp | State::WouldFire => Next::Stay,
        }
    }

    /// The decision that was asked for after a firing.
    pub(crate) fn settled(&mut self, truth: bool, touches: &[Touch], base: Duration, now: Instant) -> Next {
        self.see(touches);
        self.remember(touches);
        let end = self.end.take().unwrap_or(End::Interrupted);
        if !truth {
            return Next::Drop;
        }
        let during = std::mem::take(&mut self.during);
        let foreign = std::mem::take(&mut self.foreign) || self.any_foreign(&during);
        self.last_end = Some(now);
        if matches!(end, End::Done | End::RetryAfter(_)) {
            self.ineffective = self.ineffective.saturating_add(1);
        }
        match end {
            End::Done | End::GaveUp if self.orphaned && !foreign => Next::Drop,
            End::Done if foreign => self.fire_again(WorkClass::Live, base, None, now),
            End::Done => {
                self.state = State::Idle;
                Next::Stay
            }
            End::RetryAfter(delay) if foreign => {
                self.fire_again(WorkClass::Live, base, now.checked_add(delay), now)
            }
            End::RetryAfter(delay) => self.wait(delay, Wait::RetryAfter, now),
            End::GaveUp if foreign => self.wait(base, Wait::Backoff, now),
            End::GaveUp => {
                self.state = State::GivenUp;
                Next::Stay
            }
            End::Failed(delay) if foreign => self.wait(delay.min(base), Wait::Backoff, now),
            End::Failed(delay) => self.wait(delay, Wait::Backoff, now),
            End::NotRun => self.enqueue(WorkClass::Live, now),
            End::Interrupted => {
                self.latency = TriggerLatency::new(now);
                self.trouble(base, now)
            }
        }
    }

    /// Fires again, but slowed down if that keeps the instance as true as it was; not after `latest`.
    fn fire_again(
        &mut self,
        class: WorkClass,
        base: Duration,
        latest: Option<Instant>,
        now: Instant,
    ) -> Next {
        let doublings = self.ineffective.saturating_sub(1).min(16);
        let delay = base.saturating_mul(1 << doublings).min(INEFFECTIVE_MAX);
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
        Next::WakeAt(at)
    }

    pub(crate) fn enqueue(&mut self, class: WorkClass, now: Instant) -> Next {
        self.state = State::Queued(class);
        self.latency = TriggerLatency::new(now);
        Next::Enqueue(class)
    }

    pub(crate) fn wait(&mut self, delay: Duration, why: Wait, now: Instant) -> Next {
        let until = now + delay.min(LONGEST);
        self.state = State::Waiting(until, why);
        Next::WakeAt(until)
    }

    /// This is as far as a dry run goes.
    pub(crate) fn would_fire(&mut self) -> Next {
        self.state = State::WouldFire;
        Next::Stay
    }

    /// Not before this time, because it fired not long ago.
    pub(crate) fn rest(&mut self, until: Instant) -> Next {
        self.state = State::Waiting(until, Wait::Interval);
        Next::WakeAt(until)
    }

    /// Tries again later for a reason that is not the callback's.
    pub(crate) fn trouble(&mut self, base: Duration, now: Instant) -> Next {
        self.troubles = self.troubles.saturating_add(1);
        let delay = base.saturating_mul(1 << (self.troubles - 1).min(6));
        self.wait(delay, Wait::Trouble, now)
    }

    /// It can be fired now: it is not under way, here or remote_holder.
    pub(crate) fn is_at_rest(&self) -> bool {
        match self.state {
            State::Waiting(..) | State::GivenUp | State::Idle => true,
            State::Held => self.mark.is_some_and(|mark| !mark.mine),
            _ => false,
        }
    }

    /// Somebody asks for it to be fired now, whatever it waits for.
    pub(crate) fn fire_now(&mut self, now: Instant) -> Next {
        if !self.is_at_rest() {
            return Next::Stay;
        }
        self.disregard_mark();
        self.enqueue(WorkClass::Live, now)
    }

    /// Its waiting time is over.
    pub(crate) fn due(&mut self, now: Instant) -> Next {
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
                    Wait::Ineffective | Wait::Released | Wait::Settle => {
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
            State::Waiting(until, _) => Next::WakeAt(until),
            _ => Next::Stay,
        }
    }

    /// The lock or mark it waited for is gone. After a mark that gave up its engine may be, too: the
    /// restart of that is a reason to try again.
    pub(crate) fn released(&mut self, grace: Duration, now: Instant) -> Next {
        match self.state {
            State::Held | State::GivenUp => {
                self.mark.take_if(|mark| !mark.mine);
                // What it waited for was another engine's work.
                self.latency = TriggerLatency::new(now);
                self.wait(grace, Wait::Released, now)
            }
            _ => Next::Stay,
        }
    }
}
