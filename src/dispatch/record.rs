//! What the dispatcher knows of one instance that is, or was, true: a state machine without I/O and
//! without a clock. [`Pending`](super::pending::Pending) owns the records and carries out the steps.
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
//! An instance that is decided false outside of a firing has no record: attempts start anew.

use crate::index::{Binding, Revision, Snapshot, Touch};
use smallvec::SmallVec;
use std::time::Duration;
use tokio::time::Instant;

/// Live work goes before what only a crawl brought up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Class {
    Live,
    Crawl,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// True; waits for a slot.
    Queued(Class),
    /// True; another instance of this engine has its lock.
    Parked,
    /// Has a slot; decided again with fresh values. The number comes back with the answer.
    Checking(u64),
    /// Has a slot; the transaction that takes the lock is out.
    Locking,
    /// Has a slot; the callback runs.
    Running,
    /// Has a slot; the transaction that ends the firing is out.
    Ending,
    /// The firing is over; decided again with what it changed.
    Settling(u64),
    /// True, and the callback has dealt with what was there.
    Idle,
    /// True; not before this time.
    Waiting(Instant, Wait),
    /// True; another engine has the lock, or holds the instance back.
    Held,
    /// True, and given up until somebody changes a key.
    GivenUp,
}

/// Why an instance waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// The callback failed.
    Backoff,
    /// The callback asked for it.
    RetryAfter,
    /// The callback succeeded, and the condition is true all the same.
    Ineffective,
    /// Something else failed: no lease, no answer, lock lost.
    Trouble,
    /// A lock or mark is gone; what its holder did should be seen first.
    Released,
}

/// How a firing ended, remembered until it is settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Done,
    RetryAfter(Duration),
    GaveUp,
    /// The callback failed; the delay until the next attempt.
    Failed(Duration),
    /// Not completed for a reason that is not the callback's.
    Interrupted,
}

/// A commit of this engine for the instance: these changes are nobody else's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Own {
    pub(crate) revision: Revision,
    pub(crate) slots: SmallVec<[u8; 4]>,
}

/// A backoff key in etcd, as last seen or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KnownMark {
    pub(crate) revision: Revision,
    /// This engine wrote it, and removes it when it tries again.
    pub(crate) mine: bool,
}

#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) rule: u32,
    pub(crate) binding: Binding,
    pub(crate) state: State,
    /// Since when it has been due: for latency and ageing.
    pub(crate) since: Instant,
    /// Failures in a row.
    pub(crate) failures: u32,
    /// Interruptions in a row (no lease, no answer …).
    pub(crate) troubles: u32,
    /// Times in a row that its lock was refused because the condition did not hold as seen.
    pub(crate) rechecks: u8,
    /// Firings in a row after which it was still true.
    pub(crate) ineffective: u32,
    pub(crate) last_end: Option<Instant>,
    pub(crate) end: Option<End>,
    pub(crate) mark: Option<KnownMark>,
    pub(crate) orphaned: bool,
    pub(crate) last_error: Option<String>,
    /// By slot, the revisions of the values shown to the last callback; 0 for an absent key.
    given: Option<Box<[Revision]>>,
    own: Own,
    /// Changes seen since the values were taken that are not yet known to be ours or foreign.
    during: SmallVec<[Touch; 4]>,
    /// Somebody else changed a key since the values were taken.
    foreign: bool,
}

/// Changes remembered while a firing runs; with more, one of them is taken for foreign.
const REMEMBERED: usize = 32;

/// Ineffective firings are slowed down to at most one in this time.
pub(crate) const INEFFECTIVE_MAX: Duration = Duration::from_secs(5);

/// What the dispatcher must do after an input.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nothing.
    Stay,
    /// Put it into the queue of this class.
    Enqueue(Class),
    /// Forget the record: the instance is false, or done with.
    Drop,
    /// Wake it when its waiting time is over.
    WakeAt(Instant),
}

impl Record {
    pub(crate) fn new(rule: u32, binding: Binding, class: Class, orphaned: bool, now: Instant) -> Self {
        Self {
            rule,
            binding,
            state: State::Queued(class),
            since: now,
            failures: 0,
            troubles: 0,
            rechecks: 0,
            ineffective: 0,
            last_end: None,
            end: None,
            mark: None,
            orphaned,
            last_error: None,
            given: None,
            own: Own::default(),
            during: SmallVec::new(),
            foreign: false,
        }
    }

    pub(crate) fn holds_slot(&self) -> bool {
        matches!(self.state, State::Checking(_) | State::Locking | State::Running | State::Ending)
    }

    /// The values of this snapshot are what the callback will be given.
    pub(crate) fn give(&mut self, snapshot: &Snapshot) {
        self.given =
            Some(snapshot.iter().map(|seen| seen.as_ref().map_or(0, |seen| seen.mod_revision)).collect());
        self.own = Own::default();
        self.during.clear();
        self.foreign = false;
    }

    /// The commit of the firing took effect.
    pub(crate) fn committed(&mut self, own: Own) {
        self.own = own;
    }

    /// Makes it fire again after this firing, come what may.
    pub(crate) fn unfinished(&mut self) {
        self.foreign = true;
    }

    fn remember(&mut self, touches: &[Touch]) {
        for touch in touches {
            if !self.during.contains(touch) {
                self.during.push(*touch);
            }
        }
        if self.during.len() > REMEMBERED {
            self.foreign = true;
            self.during.clear();
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

    /// A foreign change that the engine which gave up can't have seen.
    fn any_newer_than_mark(&self, touches: &[Touch]) -> bool {
        let seen = self.mark.filter(|mark| !mark.mine).map_or(0, |mark| mark.revision);
        touches.iter().any(|touch| touch.1 > seen && self.is_foreign(*touch))
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
        match self.state {
            State::Checking(_) | State::Locking | State::Running | State::Ending | State::Settling(_) => {
                self.remember(touches);
                Next::Stay
            }
            _ if !truth => Next::Drop,
            State::Queued(Class::Crawl) if !crawl => self.enqueue(Class::Live, now),
            State::Queued(_) | State::Parked => Next::Stay,
            State::Idle if self.any_foreign(touches) => self.fire_again(Class::Live, base, now),
            State::Idle if crawl => self.fire_again(Class::Crawl, base, now),
            State::Held if crawl => self.enqueue(Class::Crawl, now),
            State::Waiting(until, Wait::Backoff) if self.any_foreign(touches) && now + base < until => {
                self.wait(base, Wait::Backoff, now)
            }
            State::Waiting(_, Wait::RetryAfter) if self.any_foreign(touches) => {
                self.enqueue(Class::Live, now)
            }
            State::GivenUp if self.any_newer_than_mark(touches) => self.wait(base, Wait::Backoff, now),
            State::Idle | State::Held | State::Waiting(..) | State::GivenUp => Next::Stay,
        }
    }

    /// The decision that was asked for after a firing.
    pub(crate) fn settled(&mut self, truth: bool, touches: &[Touch], base: Duration, now: Instant) -> Next {
        self.remember(touches);
        let end = self.end.take().unwrap_or(End::Interrupted);
        if !truth {
            return Next::Drop;
        }
        let during = std::mem::take(&mut self.during);
        let foreign = std::mem::take(&mut self.foreign) || self.any_foreign(&during);
        self.last_end = Some(now);
        match end {
            End::Done | End::GaveUp if self.orphaned && !foreign => Next::Drop,
            End::Done => {
                self.ineffective = self.ineffective.saturating_add(1);
                self.state = State::Idle;
                if foreign { self.fire_again(Class::Live, base, now) } else { Next::Stay }
            }
            End::RetryAfter(_) if foreign => self.enqueue(Class::Live, now),
            End::RetryAfter(delay) => self.wait(delay, Wait::RetryAfter, now),
            End::GaveUp if foreign => self.wait(base, Wait::Backoff, now),
            End::GaveUp => {
                self.state = State::GivenUp;
                Next::Stay
            }
            End::Failed(delay) if foreign => self.wait(delay.min(base), Wait::Backoff, now),
            End::Failed(delay) => self.wait(delay, Wait::Backoff, now),
            End::Interrupted => self.trouble(base, now),
        }
    }

    /// Fires again, but slowed down if that keeps the instance as true as it was.
    fn fire_again(&mut self, class: Class, base: Duration, now: Instant) -> Next {
        let doublings = self.ineffective.saturating_sub(1).min(16);
        let delay = base.saturating_mul(1 << doublings).min(INEFFECTIVE_MAX);
        let Some(end) = self.last_end.filter(|_| self.ineffective > 0) else {
            return self.enqueue(class, now);
        };
        if now.duration_since(end) > 2 * delay {
            self.ineffective = 0;
        }
        if now.duration_since(end) >= delay {
            return self.enqueue(class, now);
        }
        self.state = State::Waiting(end + delay, Wait::Ineffective);
        self.since = now;
        Next::WakeAt(end + delay)
    }

    pub(crate) fn enqueue(&mut self, class: Class, now: Instant) -> Next {
        self.state = State::Queued(class);
        self.since = now;
        Next::Enqueue(class)
    }

    pub(crate) fn wait(&mut self, delay: Duration, why: Wait, now: Instant) -> Next {
        self.state = State::Waiting(now + delay, why);
        Next::WakeAt(now + delay)
    }

    /// Tries again later for a reason that is not the callback's.
    pub(crate) fn trouble(&mut self, base: Duration, now: Instant) -> Next {
        self.troubles = self.troubles.saturating_add(1);
        let delay = base.saturating_mul(1 << (self.troubles - 1).min(6));
        self.wait(delay, Wait::Trouble, now)
    }

    /// Its waiting time is over.
    pub(crate) fn due(&mut self, now: Instant) -> Next {
        match self.state {
            State::Waiting(until, why) if until <= now => {
                let since = self.since;
                let next = self.enqueue(Class::Live, now);
                if why == Wait::Ineffective || why == Wait::Released {
                    self.since = since;
                }
                next
            }
            State::Waiting(until, _) => Next::WakeAt(until),
            _ => Next::Stay,
        }
    }

    /// The lock or mark it waited for is gone.
    pub(crate) fn released(&mut self, grace: Duration, now: Instant) -> Next {
        match self.state {
            State::Held => self.wait(grace, Wait::Released, now),
            _ => Next::Stay,
        }
    }
}
