//! Figures of a running engine.

use serde::{Deserialize, Serialize};

/// Figures of a running engine.
///
/// The index and the dispatcher are asked one after the other, so that the figures may be of slightly
/// different moments. From `queued` to `idle` each counts instances whose condition was last found true;
/// an instance counts once. The same figures are metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Stats {
    /// Keys in memory: those that some pattern matches.
    pub keys: usize,
    /// Rule instances known, true or false.
    pub instances: usize,
    /// Deleted keys that are remembered until older reads are over.
    pub tombstones: usize,
    /// Decisions made since the last (re)start.
    pub decisions: u64,
    /// Differences that crawls had to repair since the last (re)start; expected: none.
    pub drift: u64,
    /// Instances that wait for a slot, or for a lock that another instance of this engine has.
    pub queued: usize,
    /// Instances that have a slot: from the last look before the lock to the end of the commit.
    pub running: usize,
    /// Instances that wait for a time: the backoff after a failure, a delay that the callback asked for,
    /// the slow-down of ineffective firings, or another try after trouble with etcd.
    pub waiting: usize,
    /// Instances that another engine works on, or holds back.
    pub held: usize,
    /// Instances given up until somebody else changes a key.
    pub given_up: usize,
    /// Instances that would fire, if their rule were not in a [dry run](crate::EngineHandle::begin_dry_run).
    pub would_fire: usize,
    /// Instances that another engine owns, and tries.
    pub yielded: usize,
    /// Instances whose callback has dealt with what was there; some may be about to be looked at again.
    pub idle: usize,
    /// Engines of the application that are alive, this one included, as it sees them. 0 unless it is a
    /// [member](crate::EngineBuilder::owners).
    pub members: usize,
    /// Of these engines, those whose rules are not this engine's.
    pub members_differing: usize,
}
