//! The result of a decision.

use crate::change::Snapshot;
use crate::compiled::{Binding, RuleIndex};
use crate::condition::Witness;
use crate::index::{DecisionReason, InstanceId, Touch};
use smallvec::SmallVec;

/// One instance, decided.
#[derive(Debug)]
pub(crate) struct Decided {
    pub(crate) instance: InstanceId,
    pub(crate) rule: RuleIndex,
    pub(crate) binding: Binding,
    pub(crate) verdict: Verdict,
    pub(crate) snapshot: Snapshot,
    /// The values are known to have been there together at some revision.
    pub(crate) coherent: bool,
    pub(crate) touches: SmallVec<[Touch; 2]>,
    pub(crate) reason: DecisionReason,
    pub(crate) orphaned: bool,
}

#[derive(Debug)]
pub(crate) enum Verdict {
    True(Witness),
    False,
    /// A user's comparison panicked, so the condition is neither true nor false.
    Failed(String),
}

impl Verdict {
    /// The result as a word, for metrics.
    pub(crate) fn result(&self) -> &'static str {
        match self {
            Verdict::True(_) => "true",
            Verdict::False => "false",
            Verdict::Failed(_) => "failed",
        }
    }
}
