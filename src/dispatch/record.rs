//! What the dispatcher knows of one instance that is, or was, true: a state machine without I/O and
//! without a clock. [`WorkQueue`](super::work_queue::WorkQueue) owns the records and carries out the steps.
//!
//! ```text
//!                       ┌────────────── foreign change, crawl ───────────────┐
//!   true                v   slot          true           won         ended   │
//! ───────────────> Queued ───────> Checking ───> Locking ───> Running ──> Committing
//!                   ^   ^             │ false      │ held        (slot held from Checking to Committing)
//!                   │   │ due         v            v                     │
//!                   │ Waiting      (gone)        Held ── released ─┐     v
//!                   │   ^                                          │ AwaitingOwnEvent ── false ──> (gone)
//!                   └───┼──────────────────────────────────────────┘     │ still true
//!                       └── failed, retry later, ineffective ────────────┤
//!                             Idle (done) or GivenUp  <──────────────────┘
//! ```
//!
//! AwaitingOwnEvent waits for a decision from a view that contains the commit; if the watch has told of the commit
//! before its answer came, there was one already, and it goes on at once.
//!
//! An instance that is to be queued is Yielded instead if another engine owns it; it comes back when that engine is
//! gone, or does not see to it.
//!
//! In a dry run of its rule it goes from Checking to WouldFire, and back to Queued after a foreign change and
//! when the dry run ends.
//!
//! An instance that is decided false outside of a firing has no record: attempts start anew.

mod changes;
mod state;
mod waiting;

pub(crate) use state::{
    AfterFiring, AnswerState, EndTxn, OwnCommit, QueueAction, Remote, RemoteHolder, RemoteKind, SeenMark,
    State, Wait,
};
pub(crate) use waiting::SLOWEST;

use super::latency::TriggerLatency;
use super::outcome::CommitOutcome;
use super::slot_queue::{QueuePlace, WorkClass};
use crate::change::{Revision, Snapshot};
use crate::compiled::{Binding, Lane, RuleIndex};
use crate::index::Touch;
use crate::lock::txn::MarkKind;
use changes::KeyChanges;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// After a callback that failed for the link to etcd. The link itself waits between its attempts.
const LINK_PAUSE: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(crate) struct InstanceRecord {
    pub(crate) rule: RuleIndex,
    pub(crate) lane: Lane,
    pub(crate) binding: Binding,
    pub(crate) state: State,
    /// When it came into this state.
    pub(crate) entered: Instant,
    /// Its last place in the queue, or among those that wait for its lock: what keeps its entry there valid.
    pub(crate) place: QueuePlace,
    /// Since when it has been due, and the stages it has passed.
    pub(crate) latency: TriggerLatency,
    /// Failures in a row.
    pub(crate) failures: u32,
    /// Interruptions in a row (no lease, no answer …).
    pub(crate) troubles: u32,
    /// Times in a row that its lock was refused because the condition did not hold as seen.
    rechecks: u8,
    /// Commits without a lock in a row that were refused because a key had changed.
    refusals: u8,
    /// Firings in a row that succeeded and left the condition true, with no change by anybody else.
    pub(crate) ineffective: u32,
    last_end: Option<Instant>,
    pub(crate) mark: Option<SeenMark>,
    pub(crate) orphaned: bool,
    /// It is tried next although another engine owns it.
    pub(crate) insists: bool,
    /// Since the last success.
    pub(crate) last_error: Option<Arc<str>>,
    changes: KeyChanges,
    /// What was decided last since the values were taken, without having been asked for.
    truth: bool,
}

/// Times in a row that a lock may be refused because the condition does not hold as it was seen,
/// before the instance waits a little: keys that change all the time must not keep a slot.
const RECHECKS: u8 = 8;

/// Commits without a lock in a row that may be refused before the instance takes its lock.
const REFUSALS: u8 = 8;

impl InstanceRecord {
    /// Not queued yet.
    pub(crate) fn new(
        (rule, lane): (RuleIndex, Lane),
        binding: Binding,
        class: WorkClass,
        now: Instant,
    ) -> Self {
        Self {
            rule,
            lane,
            binding,
            state: State::Queued(class),
            entered: now,
            place: QueuePlace::default(),
            latency: TriggerLatency::new(now),
            failures: 0,
            troubles: 0,
            rechecks: 0,
            refusals: 0,
            ineffective: 0,
            last_end: None,
            mark: None,
            orphaned: false,
            insists: false,
            last_error: None,
            changes: KeyChanges::default(),
            truth: true,
        }
    }

    /// The values of this snapshot are what the callback will be given.
    pub(crate) fn give(&mut self, snapshot: &Snapshot) {
        self.changes.give(snapshot);
        self.truth = true;
    }

    /// What was decided last, of an instance that fires.
    pub(crate) fn truth(&self) -> bool {
        self.truth
    }

    /// These changes have been seen.
    pub(crate) fn see(&mut self, touches: &[Touch]) {
        self.changes.see(touches);
    }

    /// These values have been seen.
    pub(crate) fn see_all(&mut self, snapshot: &Snapshot) {
        self.changes.see_all(snapshot);
    }

    /// The latest revision of its keys that was ever seen.
    pub(crate) fn newest(&self) -> Revision {
        self.changes.newest()
    }

    /// The commit of its firing took effect.
    pub(crate) fn committed(&mut self, own: OwnCommit) {
        self.changes.committed(own);
    }

    /// It was decided from a view that contains what its commit did.
    pub(crate) fn has_seen_own(&self) -> bool {
        self.changes.has_seen_own()
    }

    /// A foreign change that the engine which wrote the mark can't have seen.
    fn outdates_mark(&self, touches: &[Touch]) -> bool {
        let seen = self.mark.filter(|mark| !mark.mine).map_or(Revision::NONE, |mark| mark.revision);
        touches.iter().any(|touch| touch.1 > seen && self.changes.is_foreign(*touch))
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

    /// Its lock is taken. `read`: the callback is shown what its keys held at this revision, and not what was decided
    /// on.
    pub(crate) fn won(&mut self, read: Option<Revision>) {
        if let Some(at) = read {
            self.changes.read(at);
        }
        self.insists = false;
        self.mark = None;
        self.troubles = 0;
        self.rechecks = 0;
    }

    /// Its lock was refused because the condition does not hold as it was seen. Whether it is looked at again
    /// at once.
    pub(crate) fn refused_as_untrue(&mut self, mark_gone: bool) -> bool {
        self.mark.take_if(|_| mark_gone);
        self.rechecks = (self.rechecks + 1) % RECHECKS;
        self.rechecks > 0
    }

    /// The commit of its optimistic rule was refused because a key had changed. Whether it fires again at once.
    pub(crate) fn refused_as_changed(&mut self) -> bool {
        self.refusals = self.refusals.saturating_add(1);
        self.refusals <= REFUSALS
    }

    /// An instance of an optimistic rule takes its lock all the same, since it was refused too often.
    pub(crate) fn needs_lock(&self) -> bool {
        self.refusals >= REFUSALS
    }

    /// Its lock can't be taken, until a key of it changes.
    pub(crate) fn too_large(&mut self) -> QueueAction {
        if !self.truth {
            return QueueAction::Drop;
        }
        self.state = State::GivenUp(None);
        QueueAction::Stay
    }

    /// Another engine has the lock.
    pub(crate) fn held(&mut self, remote: Remote) -> QueueAction {
        self.insists = false;
        if !self.truth {
            return QueueAction::Drop;
        }
        self.mark.take_if(|mark| !mark.mine);
        self.state = State::Held(Arc::new(remote));
        QueueAction::Stay
    }

    /// The mark of another engine (or one that this engine has forgotten) holds it back; unless a key
    /// changed after the mark was written.
    pub(crate) fn marked(
        &mut self,
        revision: Revision,
        kind: MarkKind,
        remote: Remote,
        base: Duration,
        now: Instant,
    ) -> QueueAction {
        self.insists = false;
        if !self.truth {
            return QueueAction::Drop;
        }
        let outdated = self.changes.newest() > revision;
        self.mark = Some(SeenMark { revision, mine: false, outdated });
        if outdated {
            return self.wait(base, Wait::Backoff, now);
        }
        let remote = Arc::new(remote);
        self.state = match kind {
            MarkKind::GivenUp => State::GivenUp(Some(remote)),
            MarkKind::Backoff | MarkKind::RetryAfter => State::Held(remote),
        };
        QueueAction::Stay
    }

    /// A decision that was not asked for: a key changed, or a crawl came by.
    pub(crate) fn decided(
        &mut self,
        truth: bool,
        touches: &[Touch],
        crawl: bool,
        base: Duration,
        now: Instant,
    ) -> QueueAction {
        self.see(touches);
        match self.state {
            State::Checking(_)
            | State::Locking(_)
            | State::Running
            | State::Committing { .. }
            | State::AwaitingOwnEvent { .. } => {
                self.changes.remember(touches);
                self.truth = truth;
                QueueAction::Stay
            }
            _ if !truth => QueueAction::Drop,
            State::Queued(WorkClass::Crawl) if !crawl || !touches.is_empty() => {
                self.enqueue(WorkClass::Live, now)
            }
            State::Queued(_) | State::Parked => QueueAction::Stay,
            State::Idle if self.changes.any_foreign(touches) => {
                self.fire_again(WorkClass::Live, base, None, now)
            }
            State::WouldFire if self.changes.any_foreign(touches) => self.enqueue(WorkClass::Live, now),
            State::Idle if crawl => self.fire_again(WorkClass::Crawl, base, None, now),
            State::Held(_) if self.mark.is_some_and(|mark| !mark.mine) && self.outdates_mark(touches) => {
                self.disregard_mark();
                self.wait(base, Wait::Backoff, now)
            }
            State::Held(_) if crawl => self.enqueue(WorkClass::Crawl, now),
            State::Waiting(until, Wait::Backoff)
                if self.changes.any_foreign(touches) && now + base < until =>
            {
                self.wait(base, Wait::Backoff, now)
            }
            State::Waiting(until, Wait::RetryAfter) if self.changes.any_foreign(touches) => {
                self.fire_again(WorkClass::Live, base, Some(until), now)
            }
            State::GivenUp(_) if self.outdates_mark(touches) => {
                self.disregard_mark();
                self.wait(base, Wait::Backoff, now)
            }
            // The owner may not know of it any more.
            State::Yielded { .. } if self.orphaned && !touches.is_empty() => {
                self.enqueue(WorkClass::Live, now)
            }
            State::Yielded { until, .. } if self.changes.any_foreign(touches) => match until {
                Some(_) => self.enqueue(WorkClass::Live, now),
                None => self.due_elsewhere(now),
            },
            State::Idle
            | State::Held(_)
            | State::Waiting(..)
            | State::GivenUp(_)
            | State::WouldFire
            | State::Yielded { .. } => QueueAction::Stay,
        }
    }

    /// The transaction that was to end the firing has this outcome. How the firing ended with it.
    pub(crate) fn closed(&mut self, outcome: &CommitOutcome) -> AfterFiring {
        let State::Committing { end, .. } = self.state else { return AfterFiring::Interrupted };
        match outcome {
            CommitOutcome::Committed { revision, slots, marked, .. } => {
                self.mark = marked.then_some(SeenMark { revision: *revision, mine: true, outdated: false });
                self.committed(OwnCommit { revision: *revision, slots: slots.clone() });
                // One that needs its lock does so for as long as it is true: others change its keys all the time.
                if !self.needs_lock() {
                    self.refusals = 0;
                }
                if end.is_success() {
                    self.failures = 0;
                    self.troubles = 0;
                    self.last_error = None;
                }
                return end;
            }
            CommitOutcome::Unexpected { mark_gone, .. } => drop(self.mark.take_if(|_| *mark_gone)),
            CommitOutcome::FenceLost | CommitOutcome::Marked(_) | CommitOutcome::Unknown => {}
            CommitOutcome::Refused(error) | CommitOutcome::TooLarge(error) | CommitOutcome::Failed(error) => {
                self.last_error = Some(error.as_str().into());
            }
        }
        // It fires again in any case.
        self.changes.assume_foreign();
        AfterFiring::Interrupted
    }

    /// The firing is over, and the instance was decided with what it changed.
    pub(crate) fn after_firing(
        &mut self,
        end: AfterFiring,
        truth: bool,
        touches: &[Touch],
        base: Duration,
        now: Instant,
    ) -> QueueAction {
        self.see(touches);
        self.changes.remember(touches);
        if !truth {
            return QueueAction::Drop;
        }
        let foreign = self.changes.take_foreign();
        self.last_end = Some(now);
        if end.is_success() {
            self.ineffective = self.ineffective.saturating_add(1);
        }
        match end {
            AfterFiring::Done | AfterFiring::GaveUp if self.orphaned && !foreign => QueueAction::Drop,
            AfterFiring::Done if foreign => self.fire_again(WorkClass::Live, base, None, now),
            AfterFiring::Done => {
                self.state = State::Idle;
                QueueAction::Stay
            }
            AfterFiring::RetryAfter(delay) if foreign => {
                self.fire_again(WorkClass::Live, base, now.checked_add(delay), now)
            }
            AfterFiring::RetryAfter(delay) => self.wait(delay, Wait::RetryAfter, now),
            AfterFiring::GaveUp if foreign => self.wait(base, Wait::Backoff, now),
            AfterFiring::GaveUp => {
                self.state = State::GivenUp(None);
                QueueAction::Stay
            }
            AfterFiring::Failed(delay) if foreign => self.wait(delay.min(base), Wait::Backoff, now),
            AfterFiring::Failed(delay) => self.wait(delay, Wait::Backoff, now),
            AfterFiring::NotRun => self.enqueue(WorkClass::Live, now),
            AfterFiring::OfLink => {
                self.latency = TriggerLatency::new(now);
                self.wait(LINK_PAUSE, Wait::Trouble, now)
            }
            AfterFiring::Interrupted => {
                self.latency = TriggerLatency::new(now);
                self.trouble(base, now)
            }
        }
    }
}
