//! The status of a rule, with the number of its instances in each state.

use super::StateKind;
use crate::compiled::RateLimit;
use crate::time::{optional_seconds, seconds};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A rule of a running engine, its options, and what its instances are doing. See
/// [`EngineHandle::rules`](crate::EngineHandle::rules).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RuleStatus {
    /// The rule's id.
    pub id: Arc<str>,
    /// The condition, as text.
    pub condition: String,
    /// Its attributes.
    pub attributes: Vec<Arc<str>>,
    /// It runs without a lock.
    pub optimistic: bool,
    /// It is [paused](crate::EngineHandle::pause) in this engine, so nothing of it starts.
    pub paused: bool,
    /// It is in a [dry run](crate::EngineHandle::begin_dry_run) in this engine, so none of its callbacks
    /// start.
    pub dry_run: bool,
    /// The current rate limit in this engine. `None` if there is none.
    pub rate_limit: Option<RateLimit>,
    /// The current least time between two firings of an instance in this engine. `None` if there is none.
    #[serde(rename = "min_interval_seconds", with = "optional_seconds")]
    pub min_interval: Option<Duration>,
    /// How many of its instances may fire at once in this engine.
    pub concurrency: usize,
    /// How long a callback may run.
    #[serde(rename = "time_limit_seconds", with = "seconds")]
    pub time_limit: Duration,
    /// The TTL of the lease behind its locks.
    #[serde(rename = "lock_ttl_seconds", with = "seconds")]
    pub lock_ttl: Duration,
    /// Callbacks started since the last (re)start of the engine.
    pub fired: u64,
    /// How often since then an instance would have fired if the rule had not been in a [dry
    /// run](crate::EngineHandle::begin_dry_run).
    pub would_have_fired: u64,
    /// Its instances by state.
    pub counts: StateCounts,
}

/// How many instances are in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateCounts([usize; StateKind::ALL.len()]);

impl StateCounts {
    /// How many are in this state.
    pub fn get(&self, kind: StateKind) -> usize {
        self.0[kind as usize]
    }

    /// How many are true.
    pub fn all_true(&self) -> usize {
        self.iter().filter(|(kind, _)| *kind != StateKind::Untrue).map(|(_, count)| count).sum()
    }

    /// Every state with its count.
    pub fn iter(&self) -> impl Iterator<Item = (StateKind, usize)> + '_ {
        StateKind::ALL.iter().map(|kind| (*kind, self.get(*kind)))
    }

    pub(crate) fn at(&mut self, kind: StateKind) -> &mut usize {
        &mut self.0[kind as usize]
    }
}

/// By name, such as `{"queued": 3, …}`.
impl Serialize for StateCounts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

/// States that are not named count nothing.
impl<'de> Deserialize<'de> for StateCounts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut counts = Self::default();
        for (kind, count) in BTreeMap::<StateKind, usize>::deserialize(deserializer)? {
            *counts.at(kind) = count;
        }
        Ok(counts)
    }
}
