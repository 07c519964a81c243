//! Rate limits: how many firings of a rule may start in a period.

use super::RuleError;
use crate::limits::{self, Amount};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// A number of firings in a period, for [`Rule::rate_limit`](crate::Rule::rate_limit) and
/// [`EngineHandle::set_rate_limit`](crate::EngineHandle::set_rate_limit).
///
/// `count` firings may start at once. After that, one may start every `per / count`. Unused permits are
/// saved, up to `count` of them. So at most `2 × count - 1` firings can start within one `per`: those that
/// were saved, and those that follow one by one. In the long run `count` start in each `per`.
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
    /// How often an instance may fire unless something else is wanted. Work on one thing that really comes more often
    /// is rare.
    pub(crate) const OF_INSTANCES: Self = Self::new(300, Duration::from_secs(60));

    /// `count` is at least 1, and `per` is more than zero and at most 365 days. Anything else is a mistake,
    /// which is reported where the limit is used.
    ///
    /// With a limit above a thousand a second, firings start in small groups, one group each millisecond. To
    /// reach such a limit, `per` must be several milliseconds or longer.
    pub const fn new(count: u32, per: Duration) -> Self {
        Self { count, per }
    }

    /// The number of firings.
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// The period.
    pub const fn per(&self) -> Duration {
        self.per
    }

    pub(crate) fn check(&self) -> Result<(), RuleError> {
        let count = Amount::Count(self.count.into());
        let wrong = limits::mistake(limits::RULE, "the count of rate_limit", count)
            .or_else(|| limits::mistake(limits::RULE, "the time of rate_limit", Amount::Time(self.per)));
        match wrong {
            Some(reason) => Err(RuleError::Option { option: "rate_limit", value: self.to_string(), reason }),
            None => Ok(()),
        }
    }
}

impl fmt::Display for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {:?}", self.count, self.per)
    }
}
