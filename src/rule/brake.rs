//! What holds a rule back, as its rule or its operator wants it.

use super::RateLimit;

/// Every brake of a rule. Default: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Brake {
    pub(crate) paused: bool,
    pub(crate) rate_limit: Option<RateLimit>,
}
