//! Whether a history keeps the promises: the same rules for every scenario. Pure; each rule is shown to fail in
//! `tests`.

mod effects;
mod engines;
mod overlaps;
#[cfg(test)]
mod tests;

pub use effects::recovery;

use crate::history::{Expect, History};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The promises, by the names that a violation has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Promise {
    /// A job is done exactly once within an epoch, as it was asked, in one piece.
    Once,
    /// What took effect is the commit of a run that ended well.
    Commit,
    /// Of the effective runs of a lock no two overlap, and their fencing tokens rise.
    Lock,
    /// No two callbacks of a lock run at the same time, but for a process that stood still.
    Alone,
    /// An error of the link is no attempt of the callback.
    Attempt,
    /// Nothing is undone, and every engine is ready, within the time to recover.
    Recovery,
    /// No callback is cancelled while some endpoint answered.
    Cancelled,
    /// Health tells the truth.
    Health,
    /// Nothing is left: locks, marks, leases, processes.
    Left,
    /// No crawl had to repair anything.
    Drift,
    /// Memory is bounded.
    Memory,
    /// Nothing takes effect in another cluster.
    Foreign,
    /// The fault was felt, and the observer saw everything: else the run shows nothing.
    Felt,
}

/// A promise that was not kept.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Violation {
    pub promise: Promise,
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.promise, self.text)
    }
}

/// Collects violations.
#[derive(Default)]
struct Found(Vec<Violation>);

impl Found {
    fn add(&mut self, promise: Promise, text: impl Into<String>) {
        self.0.push(Violation { promise, text: text.into() });
    }
}

/// Everything that is wrong.
pub fn check(history: &History, expect: &Expect) -> Vec<Violation> {
    let mut found = Found::default();
    effects::check(history, &mut found);
    overlaps::check(history, &mut found);
    engines::check(history, expect, &mut found);
    let mut violations = found.0;
    violations.sort();
    violations.dedup();
    violations
}
