//! The messages from the index to evaluators.

use super::decisions::{Decide, QuestionId};
use super::instances::InstanceId;
use actix::Message;
use tokio::time::Instant;

/// One order for an evaluator.
#[derive(Debug)]
pub(crate) enum EvaluationOrder {
    Decide(Decide),
    /// The instance that was asked for does not exist any more.
    Gone(InstanceId, QuestionId),
}

impl EvaluationOrder {
    pub(crate) fn instance(&self) -> InstanceId {
        match self {
            EvaluationOrder::Decide(decide) => decide.instance,
            EvaluationOrder::Gone(instance, _) => *instance,
        }
    }
}

#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Orders {
    pub(crate) orders: Vec<EvaluationOrder>,
    pub(crate) timestamps: Timestamps,
}

/// Is answered when all orders sent before it have been decided.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Reached;

/// When the cause of a decision was received, and when the index had merged it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timestamps {
    pub(crate) arrived: Instant,
    pub(crate) indexed: Instant,
}
