//! The controls of a rule, which its author or an operator sets: pause, dry run, rate limit and least interval.

use super::{RateLimit, RuleError};
use crate::limits::{self, Amount};
use std::time::Duration;

/// All controls of a rule. By default it has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Controls {
    pub(crate) paused: bool,
    pub(crate) dry_run: bool,
    pub(crate) rate_limit: Option<RateLimit>,
    pub(crate) min_interval: Option<Duration>,
}

impl Controls {
    /// Settings that make no sense.
    pub(crate) fn mistakes(&self) -> impl Iterator<Item = RuleError> + use<> {
        let rate = self.rate_limit.and_then(|limit| limit.check().err());
        rate.into_iter().chain(self.min_interval.and_then(|interval| check_interval(interval).err()))
    }
}

pub(crate) fn check_interval(interval: Duration) -> Result<(), RuleError> {
    match limits::mistake(limits::RULE, "min_interval", Amount::Time(interval)) {
        Some(reason) => {
            Err(RuleError::Option { option: "min_interval", value: format!("{interval:?}"), reason })
        }
        None => Ok(()),
    }
}
