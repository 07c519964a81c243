//! How a rule uses a key pattern.

use super::RuleIndex;
use super::domain::Constraint;
use crate::condition::Slot;
use smallvec::SmallVec;
use std::sync::Arc;

/// One use of a key pattern, as a slot of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Use {
    pub(crate) rule: RuleIndex,
    pub(crate) slot: Slot,
    /// `None` if it binds all attributes of the rule, as a binder does. `Some(kind)` if it binds those of a
    /// group kind, or is only shown.
    pub(crate) group: Option<u8>,
    /// For each bound attribute, in the rule's order, the captured segment that holds its value.
    pub(crate) order: SmallVec<[u8; 4]>,
    /// Pairs of captured segments that must be equal, because an attribute occurs twice.
    pub(crate) equal: SmallVec<[(u8, u8); 1]>,
    /// Captured segments whose values are constrained.
    pub(crate) limits: SmallVec<[(u8, Arc<Constraint>); 1]>,
}
