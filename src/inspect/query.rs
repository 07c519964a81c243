//! Which instances are to be listed, and a page of them.

use super::{Instance, StateKind};
use crate::pattern::Attributes;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Several kinds of states.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct StateSet(u16);

impl StateSet {
    /// Nothing said: all of them.
    pub(crate) fn contains(self, kind: StateKind) -> bool {
        self.0 == 0 || self.0 & kind.bit() != 0
    }

    fn insert(&mut self, kind: StateKind) {
        self.0 |= kind.bit();
    }
}

/// Which instances [`EngineHandle::instances`](crate::EngineHandle::instances) lists. Default: all, true or
/// not, 100 at a time.
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

/// Instances of a page at most.
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

    /// Only those of this rule.
    pub fn rule(mut self, id: impl Into<String>) -> Self {
        self.rule = Some(id.into());
        self
    }

    /// Only those in this state; called several times, in one of these states.
    pub fn state(mut self, kind: StateKind) -> Self {
        self.states.insert(kind);
        self
    }

    /// Only those whose condition was last found true.
    pub fn only_true(mut self) -> Self {
        StateKind::ALL.iter().filter(|kind| **kind != StateKind::Untrue).for_each(|k| self.states.insert(*k));
        self
    }

    /// Only those that have this attribute, with this value; called several times, with all of them.
    pub fn attribute(mut self, name: impl Into<Arc<str>>, value: impl Into<String>) -> Self {
        self.attributes.insert(name, value);
        self
    }

    /// Instances in the page at most: from 1 to 1,000, whatever is given. Default: 100.
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = limit.clamp(1, MOST);
        self
    }

    /// Goes on after an earlier page.
    pub fn after(mut self, cursor: Cursor) -> Self {
        self.after = Some(cursor);
        self
    }
}

/// Where a page ended. Its text can be parsed, for the address of a next page.
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
    /// The instances, in an order that stays as it is while they exist, and means nothing.
    pub instances: Vec<Instance>,
    /// Where to go on; `None` if this was the last page.
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
