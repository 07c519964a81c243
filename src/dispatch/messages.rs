//! What the core of the dispatcher is told, and what it wants to be done.

use crate::change::{Revision, Snapshot};
use crate::compiled::{Binding, RuleIndex};
use crate::condition::Witness;
use crate::firing::FiringOutcome;
use crate::index::{InstanceId, QuestionId};
use crate::inspect::InstanceState;
use std::time::Duration;

/// What must be done.
#[derive(Debug)]
pub(crate) enum Action {
    /// Notify those who listen that the instance came into this state.
    Notify { rule: RuleIndex, binding: Binding, state: InstanceState },
    /// Have the instance decided again; the question comes back with the answer.
    Ask(InstanceId, QuestionId),
    /// Take its lock, verifying the witness.
    Lock { instance: InstanceId, basis: Basis, supersedes_backoff: Option<Revision> },
    /// Run the callback of an optimistic rule, without a lock.
    Run { instance: InstanceId, basis: Basis, supersedes_backoff: Option<Revision> },
    /// Close a firing in another way than was tried.
    Close(InstanceId, Closing),
    /// Say that an instance fires too often. `cause`: the rule whose commit made it due, if it was one of this engine.
    WarnSlowed { rule: RuleIndex, binding: Binding, cause: Option<RuleIndex> },
    /// The index may forget the instance if no key implies it.
    Release(InstanceId),
    /// Read the keys of all locks and marks.
    ReadLocks,
    /// Remove the backoff key that this engine wrote.
    ClearMark { rule: RuleIndex, binding: Binding, revision: Revision },
}

/// What an instance was found true with.
#[derive(Debug)]
pub(crate) struct Basis {
    pub(crate) snapshot: Snapshot,
    pub(crate) witness: Witness,
    /// The values are known to have been there together at some revision.
    pub(crate) coherent: bool,
}

/// How a callback ended, for the decision about its instance: what all are told of it, and whether it was an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CallbackEnd {
    pub(crate) outcome: FiringOutcome,
    /// It failed after a read of it had failed for the link to etcd: that is no attempt.
    pub(crate) of_link: bool,
}

impl CallbackEnd {
    /// It has to do with the callback alone.
    pub(crate) fn of(outcome: FiringOutcome) -> Self {
        Self { outcome, of_link: false }
    }

    /// The same end, when a read of the callback had failed for the link to etcd.
    pub(crate) fn after_link_errors(self) -> Self {
        let of_link = matches!(self.outcome, FiringOutcome::Failed(_) | FiringOutcome::Panicked(_));
        Self { of_link, ..self }
    }
}

/// The transaction with which a firing ends.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Closing {
    /// Effects and unlock; with a mark that holds all engines back.
    Commit(Option<Hold>),
    /// Unlock, with a mark if the callback failed.
    Unlock(Option<Hold>),
    /// Nothing: the lock is lost.
    Nothing,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hold {
    pub(crate) attempt: u32,
    /// `None`: given up.
    pub(crate) delay: Option<Duration>,
    pub(crate) error: String,
}
