//! Queries for instances, and pages of results.

use super::{Instance, StateKind};
use crate::pattern::Attributes;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A set of kinds of states.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct StateSet(u16);

impl StateSet {
    /// Whether a kind is in the set. The empty set contains all kinds.
    pub(crate) fn contains(self, kind: StateKind) -> bool {
        self.0 == 0 || self.0 & kind.bit() != 0
    }

    fn insert(&mut self, kind: StateKind) {
        self.0 |= kind.bit();
    }
}

/// Which instances [`EngineHandle::instances`](crate::EngineHandle::instances) lists. By default it lists
/// all, true or not, 100 at a time.
///
/// ```
/// use etcd_rules::inspect::{InstanceQuery, StateKind};
/// let failing = InstanceQuery::new().rule("poll").state(StateKind::Waiting).attribute("geo", "eu").limit(20);
/// # let _ = failing;
/// ```
#[derive(Clone, Debug)]
#[must_use = "a query does nothing by itself"]
pub struct InstanceQuery {
    pub(crate) rule: Option<String>,
    pub(crate) states: StateSet,
    pub(crate) attributes: Attributes,
    pub(crate) limit: usize,
    pub(crate) after: Option<Cursor>,
}

/// The most instances in a page.
const MOST: usize = 1000;

impl Default for InstanceQuery {
    fn default() -> Self {
        Self::new()
    }
}

impl InstanceQuery {
    /// All instances.
    pub fn new() -> Self {
        Self {
            rule: None,
            states: StateSet::default(),
            attributes: Attributes::new(),
            limit: 100,
            after: None,
        }
    }

    /// Lists only instances of this rule.
    pub fn rule(mut self, id: impl Into<String>) -> Self {
        self.rule = Some(id.into());
        self
    }

    /// Lists only instances in this state. If it is called several times, in one of these states.
    pub fn state(mut self, kind: StateKind) -> Self {
        self.states.insert(kind);
        self
    }

    /// Lists only instances whose condition was true when last decided.
    pub fn only_true(mut self) -> Self {
        StateKind::ALL.iter().filter(|kind| **kind != StateKind::Untrue).for_each(|k| self.states.insert(*k));
        self
    }

    /// Lists only instances that have this attribute with this value. If it is called several times, all of
    /// them must match.
    pub fn attribute(mut self, name: impl Into<Arc<str>>, value: impl Into<String>) -> Self {
        self.attributes.insert(name, value);
        self
    }

    /// The most instances in a page. The default is 100. Values outside of 1 to 1,000 are brought into that
    /// range. A page of instances with long attributes or errors ends earlier, at a mebibyte of them.
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = limit.clamp(1, MOST);
        self
    }

    /// Continues after an earlier page.
    pub fn after(mut self, cursor: Cursor) -> Self {
        self.after = Some(cursor);
        self
    }
}

/// Where a page ended. It can be shown as text and parsed again, for use in the address of the next page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cursor(pub(crate) u32);

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Cursor {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// A page of instances.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct InstancePage {
    /// The instances. Their order has no meaning, but stays the same while they exist.
    pub instances: Vec<Instance>,
    /// Where the next page starts. `None` if this was the last page.
    pub next: Option<Cursor>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_without_states_wants_all_and_limits_are_kept_to() {
        let all = InstanceQuery::new();
        assert!(StateKind::ALL.iter().all(|kind| all.states.contains(*kind)));
        let some = InstanceQuery::new().state(StateKind::Held).state(StateKind::Idle);
        let wanted: Vec<_> = StateKind::ALL.iter().filter(|kind| some.states.contains(**kind)).collect();
        assert_eq!(wanted, [&StateKind::Held, &StateKind::Idle]);
        assert!(!InstanceQuery::new().only_true().states.contains(StateKind::Untrue));
        assert_eq!(InstanceQuery::new().limit(0).limit, 1);
        assert_eq!(InstanceQuery::new().limit(usize::MAX).limit, MOST);
        assert_eq!("17".parse(), Ok(Cursor(17)));
    }
}
