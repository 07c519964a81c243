//! The steps of a firing as events, for those who listen.

use super::super::acquire::LockEnd;
use super::super::commit::EndEnd;
use super::super::messages::Finish;
use crate::events::{CommitResult, EventKind, NotLocked};
use std::time::Duration;

pub(super) fn lock(end: &LockEnd, took: Duration) -> EventKind {
    let reason = match end {
        LockEnd::Won { fence, .. } => {
            return EventKind::Locked { fencing_token: fence.create_revision, took };
        }
        LockEnd::Held { holder, .. } => {
            NotLocked::Held(holder.as_ref().map(|holder| holder.engine.to_string()))
        }
        LockEnd::Marked(found) => NotLocked::BackedOff(found.mark.as_ref().map(|mark| mark.engine.clone())),
        LockEnd::Untrue { .. } => NotLocked::Untrue,
        LockEnd::Failed(error) => NotLocked::Failed(error.clone()),
    };
    EventKind::NotLocked { reason, took }
}

pub(super) fn end(end: &EndEnd, finish: &Finish, took: Duration) -> EventKind {
    let result = match end {
        EndEnd::Closed { revision, .. } => CommitResult::Committed { revision: *revision },
        EndEnd::FenceLost => CommitResult::FenceLost,
        EndEnd::Unexpected { .. } => CommitResult::Unexpected,
        EndEnd::Marked(_) => CommitResult::BackedOff,
        EndEnd::Refused(error) => CommitResult::Refused(error.clone()),
        EndEnd::Failed(error) => CommitResult::Failed(error.clone()),
    };
    EventKind::Closed { outcome: finish.outcome(), result, took }
}
