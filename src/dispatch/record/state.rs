//! The states of a record, why it is in them, and what follows from a change.

use crate::change::Revision;
use crate::condition::Slot;
use crate::dispatch::slot_queue::{QueuePlace, WorkClass};
use crate::fleet::member::MemberId;
use crate::index::QuestionId;
use crate::inspect::StateKind;
use crate::lock::txn::{Holder, InstanceMark};
use smallvec::SmallVec;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// What an instance is doing, with all that only this needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// True; waits for a slot.
    Queued(WorkClass),
    /// True; another instance of this engine has its lock.
    Parked,
    /// Has a slot; decided again with fresh values. The number comes back with the answer.
    Checking(QuestionId),
    /// Has a slot; the transaction that takes the lock is out.
    Locking(AnswerState),
    /// Has a slot; the callback runs.
    Running,
    /// Has a slot; the transaction that ends the firing is out.
    Committing { end: AfterFiring, tried: EndTxn, answer: AnswerState },
    /// The firing is over; decided again with what it changed.
    AwaitingOwnEvent { asked: QuestionId, end: AfterFiring },
    /// True, and the callback has dealt with what was there.
    Idle,
    /// True; not before this time.
    Waiting(Instant, Wait),
    /// True; another engine has the lock, or holds the instance back.
    Held(Arc<Remote>),
    /// True, and given up until somebody changes a key: here, or by another engine.
    GivenUp(Option<Arc<Remote>>),
    /// True; it would fire, if its rule were not in a dry run.
    WouldFire,
    /// True; another engine owns it, and tries it. `until`: this engine takes over then.
    Yielded { owner: MemberId, until: Option<Instant> },
}

impl State {
    /// It waits for a slot, or for a lock within this engine before that.
    pub(crate) fn is_queued(&self) -> bool {
        matches!(self, State::Queued(_) | State::Parked)
    }

    /// This engine has begun with it, and goes on whoever owns it now: the new owner takes it that it is seen to.
    pub(crate) fn is_begun(&self) -> bool {
        match self {
            State::Waiting(_, why) => !matches!(why, Wait::Settle | Wait::Ineffective),
            State::AwaitingOwnEvent { end, .. } => *end != AfterFiring::Done,
            _ => self.is_queued() || self.holds_slot(),
        }
    }

    pub(crate) fn holds_slot(&self) -> bool {
        self.is_reserved() || matches!(self, State::Running | State::Committing { .. })
    }

    /// It has a slot, and its callback has not started.
    pub(crate) fn is_reserved(&self) -> bool {
        matches!(self, State::Checking(_) | State::Locking(_))
    }

    /// It fires, or would: for its rate and its interval that is the same.
    pub(crate) fn fires(&self) -> bool {
        matches!(self, State::Running | State::WouldFire)
    }

    /// The key in etcd that it waits for.
    pub(crate) fn remote(&self) -> Option<&Arc<Remote>> {
        match self {
            State::Held(remote) => Some(remote),
            State::GivenUp(remote) => remote.as_ref(),
            _ => None,
        }
    }

    /// The lock that another engine has, if it waits for that.
    pub(crate) fn remote_lock(&self) -> Option<&Arc<Remote>> {
        self.remote().filter(|remote| remote.kind == RemoteKind::Lock)
    }

    /// It goes for its lock again without having to ask for it within this engine: in the name of all of its
    /// instances that want the same lock, it waits until another engine has released it, or for what was done under
    /// it to be seen.
    pub(crate) fn stands_for_others(&self) -> bool {
        self.remote_lock().is_some() || matches!(self, State::Waiting(_, Wait::Released))
    }

    /// When something is to happen to it.
    pub(crate) fn timer(&self) -> Option<Instant> {
        match self {
            State::Waiting(until, _) => Some(*until),
            State::Yielded { until, .. } => *until,
            _ => None,
        }
    }

    /// What is known of the answer that it waits for.
    pub(crate) fn answer(&mut self) -> Option<&mut AnswerState> {
        match self {
            State::Locking(answer) | State::Committing { answer, .. } => Some(answer),
            _ => None,
        }
    }

    pub(crate) fn kind(&self) -> StateKind {
        match self {
            State::Queued(_) | State::Parked => StateKind::Queued,
            State::Checking(_) | State::Locking(_) | State::Running | State::Committing { .. } => {
                StateKind::Running
            }
            State::Waiting(..) => StateKind::Waiting,
            State::Held(_) => StateKind::Held,
            State::GivenUp(_) => StateKind::GivenUp,
            State::WouldFire => StateKind::WouldFire,
            State::Yielded { .. } => StateKind::Yielded,
            State::Idle | State::AwaitingOwnEvent { .. } => StateKind::Idle,
        }
    }
}

/// What is known of an answer before it is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum AnswerState {
    /// What is deleted after it was given will be told.
    #[default]
    Awaited,
    /// Deletions may have been missed since, so that what it says of other engines' locks and marks may be
    /// outdated.
    Outdated,
}

/// A key of another engine whose deletion wakes an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Remote {
    pub(crate) key: Arc<str>,
    pub(crate) kind: RemoteKind,
    /// The store's revision at which it was there.
    pub(crate) at: Revision,
    /// `None`: it can't be read.
    pub(crate) holder: Option<RemoteHolder>,
}

/// What the key of another engine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RemoteKind {
    /// The lock: it may be wanted by other instances of this engine too.
    Lock,
    /// The mark, which is of one instance alone.
    Mark,
}

/// What another engine wrote, for people who ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RemoteHolder {
    Lock(Holder),
    Mark(InstanceMark),
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
    /// It has just become true, or was changed: that may not be all.
    Settle,
    /// It fired not long ago.
    Interval,
    /// It fires too often, whatever is true in between.
    TooOften,
}

/// What follows from a firing for its instance, remembered until that is decided again. How the callback ended does not
/// tell it: the delay is drawn here, and a firing can end without its callback or its commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AfterFiring {
    Done,
    RetryAfter(Duration),
    GaveUp,
    /// The callback failed; the delay until the next attempt.
    Failed(Duration),
    /// Its callback failed for the link to etcd, which says nothing of the callback.
    OfLink,
    /// Not completed for a reason that is not the callback's.
    Interrupted,
    /// Its callback was not to run any more when it had its lock.
    NotRun,
}

impl AfterFiring {
    pub(crate) fn is_success(self) -> bool {
        matches!(self, AfterFiring::Done | AfterFiring::RetryAfter(_))
    }
}

/// A commit of this engine for the instance: these changes are nobody else's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct OwnCommit {
    pub(crate) revision: Revision,
    pub(crate) slots: SmallVec<[Slot; 4]>,
}

/// The mark of an instance, as last seen or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SeenMark {
    pub(crate) revision: Revision,
    /// This engine wrote it, and removes it when it tries again.
    pub(crate) mine: bool,
    /// A key changed after it was written: it holds this engine back no more.
    pub(crate) outdated: bool,
}

/// What the transaction that is to end a firing contains; when it is refused, the next one is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EndTxn {
    Commit,
    Mark,
    Unlock,
}

/// What the work queue must do after an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QueueAction {
    /// Nothing.
    Stay,
    /// Put it into the queue of this class.
    Enqueue(WorkClass),
    /// Put it before all others of its lane: it has been handed the lock that it waited for.
    EnqueueFirst,
    /// It has this place among those that wait for its lock.
    Park(QueuePlace),
    /// Queued, but its caller gives it a slot at once.
    GoOn,
    /// Forget the record: the instance is false, or done with.
    Drop,
    /// Wake it when its waiting time is over.
    WakeAt(Instant),
}
