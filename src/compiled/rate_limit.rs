//! How many firings of a rule may start in a time.

use super::RuleError;
use crate::time::LONGEST;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// So many firings in a time; for [`Rule::rate_limit`](crate::Rule::rate_limit) and
/// [`EngineHandle::set_rate_limit`](crate::EngineHandle::set_rate_limit).
///
/// `count` firings may start at once; after that one for each `per / count`. What was not used is saved up to
/// those `count`. So in one `per` at most `2 × count - 1` can start (all that was saved, and those that follow
/// one by one), and in the long run `count`.
///
/// ```
/// use etcd_rules::RateLimit;
/// use std::time::Duration;
/// let limit = RateLimit::new(10, Duration::from_secs(60));
/// assert_eq!(limit.to_string(), "10 in 60s");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[must_use = "a limit does nothing until it is given to a rule"]
pub struct RateLimit {
    count: u32,
    #[serde(rename = "per_seconds", with = "crate::time::seconds")]
    per: Duration,
}

impl RateLimit {
    /// At least 1, in more than zero and at most 365 days; something else is a mistake, which is reported where
    /// the limit is used.
    ///
    /// Firings of a limit of more than a thousand a second start in small groups, one a millisecond: there a
    /// `per` of some milliseconds or longer is needed to reach it.
    pub const fn new(count: u32, per: Duration) -> Self {
        Self { count, per }
    }

    /// How many.
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// In which time.
    pub const fn per(&self) -> Duration {
        self.per
    }

    pub(crate) fn check(&self) -> Result<(), RuleError> {
        let wrong = |reason| Err(RuleError::Option { option: "rate_limit", value: self.to_string(), reason });
        if self.count == 0 {
            return wrong("nothing could ever start; to hold the rule back, pause it");
        }
        if self.per.is_zero() || self.per > LONGEST {
            return wrong("the time must be more than zero and at most 365 days");
        }
        Ok(())
    }
}

impl fmt::Display for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {:?}", self.count, self.per)
    }
}
