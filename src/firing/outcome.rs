//! What a callback returns, and how it ended.

use super::{Effects, FiringError};
use crate::time::seconds;
use serde::Serialize;
use std::time::Duration;

/// What a callback returns when it did not fail: effects to commit, and what is to happen next.
///
/// `()` and a [`Commit`](crate::Commit) convert into it; a commit can also end with
/// [`retry_after`](crate::Commit::retry_after) or [`give_up`](crate::Commit::give_up).
#[derive(Debug)]
#[must_use = "an outcome does nothing unless the callback returns it"]
pub struct Outcome {
    pub(crate) effects: Result<Effects, FiringError>,
    /// `Done`, `RetryAfter` or `GaveUp`.
    pub(crate) then: FiringOutcome,
}

/// How a callback ended: for those who listen to [events](crate::events), and for the engine itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", content = "detail", rename_all = "snake_case")]
#[non_exhaustive]
pub enum FiringOutcome {
    /// It succeeded.
    Done,
    /// It asked to be run again after this time.
    RetryAfter(#[serde(with = "seconds")] Duration),
    /// It gave up, for this reason.
    GaveUp(String),
    /// It returned this error, or its commit has this mistake.
    Failed(String),
    /// It panicked with this text.
    Panicked(String),
    /// Its time limit was over.
    TimedOut,
    /// It was cancelled: its lock was lost, or the engine ended.
    Cancelled,
}

impl Outcome {
    /// The outcome as a word, as in the metric `etcd_rules_callbacks_total`: `done`, `retry_after` or `gave_up`; or
    /// `error`, if it has a commit with a mistake.
    pub fn name(&self) -> &'static str {
        if self.effects.is_err() { "error" } else { self.then.name() }
    }

    /// Done, without effects. The callback runs again when the condition still holds and somebody else
    /// changed a key that it reads, or at the next crawl.
    pub fn done() -> Self {
        Self { effects: Ok(Effects::default()), then: FiringOutcome::Done }
    }

    /// Not done, but no failure: run again in `delay` if the condition still holds then, or sooner if
    /// somebody else changes a key that it reads. A delay below 10 ms counts as 10 ms, one above 365 days as
    /// 365 days. Other engines keep to it too. If this engine is gone by then, another one runs it within a lock TTL
    /// after the delay, or 3 s if that is more.
    pub fn retry_after(delay: Duration) -> Self {
        Self { effects: Ok(Effects::default()), then: FiringOutcome::RetryAfter(delay) }
    }

    /// Leave the instance alone, in all engines, until somebody else changes a key that it reads. Crawls
    /// don't wake it. It is also tried again when the condition was false in between, and when the engine
    /// that gave up has ended, has restarted or has lost its lease.
    pub fn give_up(reason: impl Into<String>) -> Self {
        Self { effects: Ok(Effects::default()), then: FiringOutcome::GaveUp(reason.into()) }
    }
}

impl From<()> for Outcome {
    fn from((): ()) -> Self {
        Self::done()
    }
}

impl FiringOutcome {
    /// The names of all outcomes.
    pub const NAMES: [&'static str; 7] =
        ["done", "retry_after", "gave_up", "error", "panic", "timeout", "cancelled"];

    /// The outcome as a word, as in the metric `etcd_rules_callbacks_total`.
    pub fn name(&self) -> &'static str {
        match self {
            FiringOutcome::Done => "done",
            FiringOutcome::RetryAfter(_) => "retry_after",
            FiringOutcome::GaveUp(_) => "gave_up",
            FiringOutcome::Failed(_) => "error",
            FiringOutcome::Panicked(_) => "panic",
            FiringOutcome::TimedOut => "timeout",
            FiringOutcome::Cancelled => "cancelled",
        }
    }

    /// With other words of the callback.
    pub(crate) fn map_text(self, map: impl FnOnce(&str) -> String) -> Self {
        match self {
            FiringOutcome::GaveUp(reason) => FiringOutcome::GaveUp(map(&reason)),
            FiringOutcome::Failed(error) => FiringOutcome::Failed(map(&error)),
            FiringOutcome::Panicked(text) => FiringOutcome::Panicked(map(&text)),
            other => other,
        }
    }

    /// Whether the callback failed.
    pub(crate) fn is_failure(&self) -> bool {
        matches!(self, FiringOutcome::Failed(_) | FiringOutcome::Panicked(_) | FiringOutcome::TimedOut)
    }

    /// What the callback's error or panic says.
    pub(crate) fn error(&self) -> Option<&str> {
        match self {
            FiringOutcome::Failed(text) | FiringOutcome::Panicked(text) => Some(text),
            _ => None,
        }
    }
}
