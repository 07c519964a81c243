//! How a callback ended, when it did not fail.

use super::{Effects, FiringError};
use std::time::Duration;

/// What a callback returns when it did not fail: effects to commit, and what is to happen next.
///
/// `()` and a [`Commit`](crate::Commit) convert into it; a commit can also end with
/// [`retry_after`](crate::Commit::retry_after) or [`give_up`](crate::Commit::give_up).
#[derive(Debug)]
#[must_use = "an outcome does nothing unless the callback returns it"]
pub struct Outcome {
    pub(crate) effects: Result<Effects, FiringError>,
    pub(crate) then: Then,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// Nothing until a key of the instance changes, or the next crawl.
    Done,
    RetryAfter(Duration),
    GiveUp(String),
}

impl Outcome {
    /// The outcome as a word, as in the metric `etcd_rules_callbacks_total`: `done`, `retry_after` or `gave_up`; or
    /// `error`, if it has a commit with a mistake.
    pub fn name(&self) -> &'static str {
        match (&self.effects, &self.then) {
            (Err(_), _) => "error",
            (_, Then::Done) => "done",
            (_, Then::RetryAfter(_)) => "retry_after",
            (_, Then::GiveUp(_)) => "gave_up",
        }
    }

    /// Done, without effects. The callback runs again when the condition still holds and somebody else
    /// changed a key that it reads, or at the next crawl.
    pub fn done() -> Self {
        Self { effects: Ok(Effects::default()), then: Then::Done }
    }

    /// Not done, but no failure: run again in `delay` if the condition still holds then, or sooner if
    /// somebody else changes a key that it reads. A delay below 10 ms counts as 10 ms, one above 365 days as
    /// 365 days. Other engines keep to it too. If this engine is gone by then, another one runs it within a lock TTL
    /// after the delay, or 3 s if that is more.
    pub fn retry_after(delay: Duration) -> Self {
        Self { effects: Ok(Effects::default()), then: Then::RetryAfter(delay) }
    }

    /// Leave the instance alone, in all engines, until somebody else changes a key that it reads. Crawls
    /// don't wake it. It is also tried again when the condition was false in between, and when the engine
    /// that gave up has ended, has restarted or has lost its lease.
    pub fn give_up(reason: impl Into<String>) -> Self {
        Self { effects: Ok(Effects::default()), then: Then::GiveUp(reason.into()) }
    }
}

impl From<()> for Outcome {
    fn from((): ()) -> Self {
        Self::done()
    }
}
