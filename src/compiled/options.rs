//! Options of a rule, and the limits against which a rule is checked.

use super::{Backoff, Controls, RateLimit, Settle};
use std::time::Duration;

/// Options of a rule. If one is `None`, the engine's value counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct RuleOptions {
    pub(crate) time_limit: Option<Duration>,
    pub(crate) lock_ttl: Option<Duration>,
    pub(crate) concurrency: Option<usize>,
    pub(crate) backoff: Option<Backoff>,
    pub(crate) optimistic: bool,
    pub(crate) settle: Option<Settle>,
    pub(crate) instance_rate: Option<RateLimit>,
    pub(crate) controls: Controls,
}

/// What counts for a rule that has no such option of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Defaults {
    pub(crate) time_limit: Duration,
    pub(crate) backoff: Backoff,
    pub(crate) rate_limit: Option<RateLimit>,
    pub(crate) min_interval: Option<Duration>,
}

/// Default of [`EngineBuilder::time_limit`](crate::EngineBuilder::time_limit).
pub(crate) const TIME_LIMIT: Duration = Duration::from_secs(5 * 60);

impl Default for Defaults {
    fn default() -> Self {
        Self { time_limit: TIME_LIMIT, backoff: Backoff::default(), rate_limit: None, min_interval: None }
    }
}

/// Limits against which a rule is checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) max_txn_ops: usize,
    pub(crate) lock_ttl: Duration,
    pub(crate) concurrency: usize,
    pub(crate) settle: Settle,
    pub(crate) instance_rate: RateLimit,
    pub(crate) defaults: Defaults,
}
