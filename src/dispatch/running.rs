//! The firings that run now, shared by the dispatcher, the application's threads and the engine's
//! handle. It outlives a restart of the actors: a callback that can't be stopped must not run twice.

use crate::compiled::Binding;
use dashmap::DashMap;
use foldhash::fast::FixedState;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

type Key = (u32, Binding);

/// Parts of the list that are locked apart.
const SHARDS: usize = 16;

#[derive(Clone)]
pub(crate) struct RunningCallbacks(Arc<DashMap<Key, RunningEntry, FixedState>>);

#[derive(Clone, Debug)]
pub(crate) struct RunningEntry {
    /// Tells the callback to end.
    pub(crate) cancelled: CancellationToken,
}

/// Takes the firing off the list when it is dropped: when the callback has really ended.
pub(crate) struct Registered {
    live: RunningCallbacks,
    key: Key,
}

impl RunningCallbacks {
    pub(crate) fn new(hasher: FixedState) -> Self {
        // As many on every machine, so that the order is the same too in which all are told to end.
        Self(Arc::new(DashMap::with_hasher_and_shard_amount(hasher, SHARDS)))
    }

    pub(crate) fn register(&self, rule: u32, binding: Binding, firing: RunningEntry) -> Registered {
        let key = (rule, binding);
        self.0.insert(key.clone(), firing);
        Registered { live: self.clone(), key }
    }

    pub(crate) fn is_running(&self, rule: u32, binding: &Binding) -> bool {
        self.0.contains_key(&(rule, binding.clone()))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Tells all of them to end.
    pub(crate) fn cancel_all(&self) {
        self.0.iter().for_each(|firing| firing.cancelled.cancel());
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.live.0.remove(&self.key);
    }
}
