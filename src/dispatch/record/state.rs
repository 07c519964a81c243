//! The states of a record, why it is in them, and what follows from a change.

use crate::change::Revision;
use crate::inspect::StateKind;
use crate::lock::txn::{Holder, Mark};
use smallvec::SmallVec;
use std::time::Duration;
use tokio::time::Instant;

/// Live work goes before what only a crawl brought up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum WorkClass {
    Live,
    Crawl,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// True; waits for a slot.
    Queued(WorkClass),
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
    /// True; it would fire, if its rule were not in a dry run.
    WouldFire,
}

impl State {
    pub(crate) fn holds_slot(self) -> bool {
        matches!(self, State::Checking(_) | State::Locking | State::Running | State::Ending)
    }

    /// It has a slot, and its callback has not started.
    pub(crate) fn is_reserved(self) -> bool {
        matches!(self, State::Checking(_) | State::Locking)
    }

    pub(crate) fn kind(self) -> StateKind {
        match self {
            State::Queued(_) | State::Parked => StateKind::Queued,
            State::Checking(_) | State::Locking | State::Running | State::Ending => StateKind::Running,
            State::Waiting(..) => StateKind::Waiting,
            State::Held => StateKind::Held,
            State::GivenUp => StateKind::GivenUp,
            State::WouldFire => StateKind::WouldFire,
            State::Idle | State::Settling(_) => StateKind::Idle,
        }
    }
}

/// What another engine wrote, for people who ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RemoteHolder {
    Lock(Holder),
    Mark(Mark),
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
    /// Its callback was not to run any more when it had its lock.
    NotRun,
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
    /// A key changed after it was written: it holds this engine back no more.
    pub(crate) outdated: bool,
}

/// What the transaction that is to end a firing contains; when it is refused, the next one is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tried {
    Commit,
    Mark,
    Unlock,
}

/// What the dispatcher must do after an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nothing.
    Stay,
    /// Put it into the queue of this class.
    Enqueue(WorkClass),
    /// Forget the record: the instance is false, or done with.
    Drop,
    /// Wake it when its waiting time is over.
    WakeAt(Instant),
}
