//! How an attempt to take a lock came out, and how the transaction that ends a firing did: each is made by its
//! transaction, and is the same for whoever decides, counts, or is told of it.

use crate::change::{Change, Revision};
use crate::condition::Slot;
use crate::events::{CommitResult, EventKind, NotLocked};
use crate::firing::{Fence, FiringOutcome};
use crate::lock::keys::Keys;
use crate::lock::lease_manager::LockLease;
use crate::lock::txn::{FoundMark, Holder, ReadKeys};
use smallvec::SmallVec;
use std::time::Duration;

/// A word for an attempt to take the lock that is followed by another one at once, which reads what is shown.
pub(crate) const CHANGED: &str = "changed";

/// How an attempt to take the lock ended, whatever transactions it took. It has what the dispatcher goes on with; its
/// public word is [`NotLocked`].
#[derive(Debug)]
pub(crate) enum LockOutcome {
    Won {
        fence: Fence,
        lease: LockLease,
        /// For what follows.
        keys: Keys,
        /// What the callback is shown instead of what was decided on.
        read: Option<ReadKeys>,
    },
    /// Somebody has the lock, as of the store's revision `at`; who, if that can be read. `ours`: under this
    /// engine's lease.
    Held {
        key: String,
        create_revision: Revision,
        holder: Option<Holder>,
        ours: bool,
        at: Revision,
    },
    /// A mark holds the instance back.
    Marked(FoundMark),
    /// It does not hold as it was seen; what the keys hold now.
    Untrue {
        changes: Vec<Change>,
        mark_gone: bool,
    },
    /// The transaction that takes the lock has more bytes than etcd takes, so that it can't be taken.
    TooLarge(String),
    Failed(String),
}

impl LockOutcome {
    /// A word for it.
    pub(crate) fn result(&self) -> &'static str {
        match self {
            LockOutcome::Won { .. } => "won",
            LockOutcome::Held { .. } => "held",
            LockOutcome::Marked { .. } => "backed_off",
            LockOutcome::Untrue { .. } => "untrue",
            LockOutcome::TooLarge(_) => "too_large",
            LockOutcome::Failed(_) => "failed",
        }
    }

    pub(crate) fn is_won(&self) -> bool {
        matches!(self, LockOutcome::Won { .. })
    }

    /// Whether something went wrong, and not only somebody else first.
    pub(crate) fn is_failure(&self) -> bool {
        matches!(self, LockOutcome::TooLarge(_) | LockOutcome::Failed(_))
    }

    /// For those who listen.
    pub(crate) fn event(&self, took: Duration) -> EventKind {
        let reason = match self {
            LockOutcome::Won { fence, .. } => {
                return EventKind::Locked { fencing_token: fence.create_revision.get(), took };
            }
            LockOutcome::Held { holder, .. } => {
                NotLocked::Held(holder.as_ref().map(|holder| holder.engine.to_string()))
            }
            LockOutcome::Marked(found) => {
                NotLocked::BackedOff(found.mark.as_ref().map(|mark| mark.engine.clone()))
            }
            LockOutcome::Untrue { .. } => NotLocked::Untrue,
            LockOutcome::TooLarge(error) => NotLocked::TooLarge(error.clone()),
            LockOutcome::Failed(error) => NotLocked::Failed(error.clone()),
        };
        EventKind::NotLocked { reason, took }
    }
}

/// How the commit of a firing ended, whatever transactions it took. It has what the record and the index learn of it;
/// its public word is [`CommitResult`].
#[derive(Debug)]
pub(crate) enum CommitOutcome {
    /// It took effect at `revision`, changing these slots of the instance; `marked`: and left a mark.
    Committed {
        revision: Revision,
        slots: SmallVec<[Slot; 4]>,
        marked: bool,
        /// What it did, for the index.
        changes: Vec<Change>,
    },
    /// Nothing took effect: the lock is not this firing's any more.
    FenceLost,
    /// Nothing took effect: what was expected is not so.
    Unexpected { changes: Vec<Change>, mark_gone: bool },
    /// Nothing took effect: another engine holds the instance (of an optimistic rule) back.
    Marked(FoundMark),
    /// The transaction itself is at fault.
    Refused(String),
    /// The transaction is larger than what etcd takes, whatever is tried.
    TooLarge(String),
    /// Its answer was lost, its lock is gone, and nothing proves that it took effect.
    Unknown,
    /// Not found out, or known not to have happened; the lock is lost or left to its lease.
    Failed(String),
}

impl CommitOutcome {
    /// A word for it.
    pub(crate) fn result(&self) -> &'static str {
        match self {
            CommitOutcome::Committed { .. } => "committed",
            CommitOutcome::FenceLost => "fence_lost",
            CommitOutcome::Unexpected { .. } => "unexpected",
            CommitOutcome::Marked { .. } => "backed_off",
            CommitOutcome::Refused(_) => "refused",
            CommitOutcome::TooLarge(_) => "too_large",
            CommitOutcome::Unknown => "unknown",
            CommitOutcome::Failed(_) => "failed",
        }
    }

    /// For those who listen.
    pub(crate) fn event(&self, callback: &FiringOutcome, took: Duration) -> EventKind {
        let result = match self {
            CommitOutcome::Committed { revision, .. } => CommitResult::Committed { revision: revision.get() },
            CommitOutcome::FenceLost => CommitResult::FenceLost,
            CommitOutcome::Unexpected { .. } => CommitResult::Unexpected,
            CommitOutcome::Marked(_) => CommitResult::BackedOff,
            CommitOutcome::Refused(error) => CommitResult::Refused(error.clone()),
            CommitOutcome::TooLarge(error) => CommitResult::TooLarge(error.clone()),
            CommitOutcome::Unknown => CommitResult::Unknown,
            CommitOutcome::Failed(error) => CommitResult::Failed(error.clone()),
        };
        EventKind::Closed { outcome: callback.clone(), result, took }
    }

    /// Whether something went wrong, and not only somebody else was first.
    pub(crate) fn is_failure(&self) -> bool {
        matches!(self, CommitOutcome::Refused(_) | CommitOutcome::TooLarge(_) | CommitOutcome::Failed(_))
    }

    /// What the index is to be told.
    pub(crate) fn into_changes(self) -> Vec<Change> {
        match self {
            CommitOutcome::Committed { changes, .. } | CommitOutcome::Unexpected { changes, .. } => changes,
            _ => Vec::new(),
        }
    }
}
