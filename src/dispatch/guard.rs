//! What excludes others while an instance fires.

use super::run::UNLOCKED_GRACE;
use crate::change::Revision;
use crate::firing::Fence;
use crate::lock::lease_manager::LockLease;
use std::time::Duration;

#[derive(Clone, Debug)]
pub(crate) enum Guard {
    /// A lock under a lease of this engine.
    Lock { fence: Fence, lease: LockLease },
    /// Nothing: of an optimistic rule, whose commit compares what its callback saw. It replaces the mark of this
    /// revision.
    Optimistic { supersedes_backoff: Option<Revision> },
}

impl Guard {
    pub(crate) fn fence(&self) -> Option<Fence> {
        match self {
            Guard::Lock { fence, .. } => Some(*fence),
            Guard::Optimistic { .. } => None,
        }
    }

    pub(crate) fn lease(&self) -> Option<&LockLease> {
        match self {
            Guard::Lock { lease, .. } => Some(lease),
            Guard::Optimistic { .. } => None,
        }
    }

    pub(crate) fn supersedes_backoff(&self) -> Option<Revision> {
        match self {
            // The transaction that took the lock has replaced it.
            Guard::Lock { .. } => None,
            Guard::Optimistic { supersedes_backoff } => *supersedes_backoff,
        }
    }

    /// How long the callback may go on after it was told to end.
    pub(crate) fn grace(&self) -> Duration {
        self.lease().map_or(UNLOCKED_GRACE, |lease| lease.grace)
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.lease().is_some_and(|lease| lease.lost.is_cancelled())
    }
}
