//! Options of a rule, and the limits against which a rule is checked.

use super::{Backoff, Controls, RateLimit, Settle};
use std::time::Duration;

/// Options of a rule. If one is `None`, the engine's value counts.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) time_limit: Duration,
    pub(crate) lock_ttl: Option<Duration>,
    pub(crate) concurrency: Option<usize>,
    pub(crate) backoff: Backoff,
    pub(crate) optimistic: bool,
    pub(crate) settle: Option<Settle>,
    pub(crate) instance_rate: Option<RateLimit>,
    pub(crate) controls: Controls,
}

/// Default of [`Rule::time_limit`](crate::Rule::time_limit).
const TIME_LIMIT: Duration = Duration::from_secs(5 * 60);

impl Default for Options {
    fn default() -> Self {
        Self {
            time_limit: TIME_LIMIT,
            lock_ttl: None,
            concurrency: None,
            backoff: Backoff::default(),
            optimistic: false,
            settle: None,
            instance_rate: None,
            controls: Controls::default(),
        }
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
}
