//! Keys that a rule's callback is shown without being part of its condition.

use super::Rule;
use crate::compiled::RuleError;
use crate::condition::{Compiled, Slot};
use crate::pattern::Pattern;
use std::fmt;
use std::sync::Arc;

/// A pattern that is shown, as it was written.
#[derive(Clone, Debug)]
pub(super) struct Shown {
    pattern: String,
    /// An optimistic commit expects its key unchanged if the callback has looked at it.
    checked: bool,
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pattern, checked } = self;
        write!(f, "show {pattern}{}", if *checked { "" } else { ", unchecked" })
    }
}

impl Rule {
    /// Shows the callback a key that is no part of the condition: [`Firing::value`](crate::Firing::value) tells its
    /// value, from the same view as those of the condition. All of them together are a state that etcd had. By default
    /// only the condition's keys are shown.
    ///
    /// The key makes no instance, and does not count for the truth. When it changes, nothing is decided again and
    /// nothing fires: what was shown may be older than what the key holds when the callback reads it. If the commit
    /// depends on it, it says so with [`expect_unchanged`](crate::Commit::expect_unchanged). The commit of an
    /// [optimistic](Rule::optimistic) rule expects unchanged what its callback has looked at, these keys too.
    ///
    /// The pattern may have the attributes of the condition and no others. The engine watches its keys and keeps them
    /// in memory, and each counts to the keys that a rule may have. For a key that is seldom needed, or that has no
    /// bounds, [`get`](crate::Firing::get) in the callback is cheaper.
    ///
    /// ```
    /// use etcd_rules::{Error, Firing, Outcome, Rule, key};
    ///
    /// async fn configure(firing: Firing) -> Result<Outcome, Error> {
    ///     let mtu = firing.value_opt("/config/mtu")?.cloned().unwrap_or("1500".into());
    ///     Ok(firing.commit().put("/servers/:id/mtu", mtu).into())
    /// }
    ///
    /// let rule = Rule::new("configure")
    ///     .when(key("/servers/:id/state").equals("new") & key("/servers/:id/mtu").absent())
    ///     .show("/config/mtu")                                   // another MTU configures no server again
    ///     .run(configure);
    /// # let _ = rule;
    /// ```
    pub fn show(mut self, pattern: impl Into<String>) -> Self {
        self.shown.push(Shown { pattern: pattern.into(), checked: true });
        self
    }

    /// As [`show`](Rule::show), but the commit of an [optimistic](Rule::optimistic) rule takes effect although the key
    /// has changed, unless it changes the key itself. For a rule with a lock it is the same as `show`.
    ///
    /// For keys that change so often that they would refuse every commit, such as counters, where an older value does
    /// as well.
    pub fn show_unchecked(mut self, pattern: impl Into<String>) -> Self {
        self.shown.push(Shown { pattern: pattern.into(), checked: false });
        self
    }
}

/// Adds what is shown to the slots of the condition, behind its own. Returns the slots that no optimistic commit
/// expects unchanged.
pub(super) fn add_shown(
    condition: &mut Compiled,
    shown: Vec<Shown>,
    bound: &[Arc<str>],
    errors: &mut Vec<RuleError>,
) -> Vec<Slot> {
    let mut unchecked = Vec::new();
    let mut slots = condition.slots.to_vec();
    for Shown { pattern: written, checked } in shown {
        let pattern = match Pattern::parse(&written) {
            Ok(pattern) => pattern,
            Err(mistake) => {
                errors.push(RuleError::Shown(mistake));
                continue;
            }
        };
        let unbound = pattern.attributes().iter().find(|name| !bound.contains(name));
        if let Some(attribute) = unbound {
            let attribute = attribute.to_string();
            errors.push(RuleError::ShownAttribute { pattern: written, attribute, bound: super::list(bound) });
        } else if slots.contains(&pattern) {
            errors.push(RuleError::ShownTwice(written));
        } else {
            if !checked {
                unchecked.push(Slot::new(slots.len()));
            }
            slots.push(pattern);
        }
    }
    condition.slots = slots.into();
    unchecked
}
