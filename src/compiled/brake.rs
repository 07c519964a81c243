//! What holds a rule back, as its rule or its operator wants it.

use super::{RateLimit, RuleError};
use crate::time::LONGEST;
use std::time::Duration;

/// Every brake of a rule. Default: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Brake {
    pub(crate) paused: bool,
    pub(crate) dry_run: bool,
    pub(crate) rate_limit: Option<RateLimit>,
    pub(crate) min_interval: Option<Duration>,
}

impl Brake {
    /// What makes no sense about it.
    pub(crate) fn mistakes(&self) -> impl Iterator<Item = RuleError> + use<> {
        let rate = self.rate_limit.and_then(|limit| limit.check().err());
        rate.into_iter().chain(self.min_interval.and_then(|interval| check_interval(interval).err()))
    }
}

pub(crate) fn check_interval(interval: Duration) -> Result<(), RuleError> {
    if !interval.is_zero() && interval <= LONGEST {
        return Ok(());
    }
    Err(RuleError::Option {
        option: "min_interval",
        value: format!("{interval:?}"),
        reason: "the time must be more than zero and at most 365 days",
    })
}
