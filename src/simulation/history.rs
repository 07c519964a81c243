//! Everything that happened in a schedule, in order: the server's own history, what callbacks were shown and
//! did, and the steps of the plan. The checker reads nothing else.

use super::kinds::Kind;
use super::plan::PlanStep;
use crate::embedded::record::{Done, Written};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Event {
    Server(Done),
    /// A callback began.
    Began(Began),
    /// A callback ended, or was dropped.
    Ended {
        run: u64,
        how: How,
    },
    /// A callback read a key of its own accord: when it asked, and what it was told.
    Read {
        run: u64,
        key: String,
        asked: Duration,
        value: Option<String>,
    },
    /// The schedule carried out this step of its plan.
    Did(PlanStep),
    /// An engine was started.
    Started(EngineRun),
    /// The health of an engine changed. This is the text of [`crate::Health`].
    Health(EngineRun, String),
    /// A rule was paused in an engine, or is about to be resumed.
    Paused(EngineRun, Kind),
    Resumed(EngineRun, Kind),
    /// A run of an engine is over: it was ended by force, or its shutdown is complete.
    Over(EngineRun, String),
    /// All faults are over, and callbacks succeed from now on.
    Quiesced,
}

/// One run of an engine. A restart is another run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct EngineRun {
    pub(super) engine: usize,
    pub(super) number: u32,
}

/// What a callback was given.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Began {
    /// Different for every run of a callback in a schedule.
    pub(super) run: u64,
    pub(super) life: EngineRun,
    pub(super) kind: Kind,
    /// The values of the instance's attributes.
    pub(super) id: Vec<String>,
    /// The fencing token.
    pub(super) token: i64,
    pub(super) attempt: u32,
    /// By slot of the kind.
    pub(super) shown: Vec<Option<String>>,
}

/// How a callback ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// Returned a commit with effects.
    Committed,
    /// Returned without effects.
    Done,
    RetryAfter,
    GaveUp,
    Failed,
    /// A read of its own failed.
    ReadFailed,
    /// It was told to end, and did.
    Cancelled,
    Panicked,
    /// Dropped by the engine, after it was cancelled or because its time limit was over.
    Dropped,
    /// Its process ended.
    Crashed,
}

/// The keys and values that follow from the server's history.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Store {
    pub(super) revision: i64,
    pub(super) keys: BTreeMap<String, Written>,
}

impl Store {
    pub(super) fn apply(&mut self, done: &Done) {
        match done {
            Done::Arrived(..) => {}
            Done::Committed { revision, changes, .. } => {
                self.revision = *revision;
                for change in changes {
                    match change.value {
                        Some(_) => self.keys.insert(change.key.clone(), change.clone()),
                        None => self.keys.remove(&change.key),
                    };
                }
            }
            Done::Replaced { revision, keys } => {
                self.revision = *revision;
                self.keys = keys.iter().map(|kv| (kv.key.clone(), kv.clone())).collect();
            }
        }
    }

    pub(super) fn value(&self, key: &str) -> Option<&str> {
        self.keys.get(key)?.value.as_deref()
    }
}

/// The record that all parts write to, in the order in which things happen.
#[derive(Clone)]
pub(super) struct History {
    inner: Arc<Mutex<Inner>>,
    full: Arc<Notify>,
}

struct Inner {
    start: Instant,
    events: Vec<(Duration, Event)>,
    now: Store,
    runs: u64,
}

/// With more events than this, a schedule counts as spinning.
const TOO_MANY: usize = 60_000;

impl History {
    pub(super) fn new() -> Self {
        let (start, events, now) = (Instant::now(), Vec::new(), Store::default());
        let inner = Arc::new(Mutex::new(Inner { start, events, now, runs: 0 }));
        Self { inner, full: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(super) fn add(&self, event: Event) {
        let mut inner = self.lock();
        if let Event::Server(done) = &event {
            inner.now.apply(done);
        }
        let at = inner.start.elapsed();
        if inner.events.len() < TOO_MANY {
            inner.events.push((at, event));
        } else {
            self.full.notify_one();
        }
    }

    /// Completes when the history is full. Then something spins, perhaps without any time passing.
    pub(super) async fn full(&self) {
        self.full.notified().await;
    }

    /// Time since the start.
    pub(super) fn time(&self) -> Duration {
        self.lock().start.elapsed()
    }

    pub(super) fn next_run(&self) -> u64 {
        let mut inner = self.lock();
        inner.runs += 1;
        inner.runs
    }

    pub(super) fn now(&self) -> Store {
        self.lock().now.clone()
    }

    pub(super) fn look<T>(&self, look: impl FnOnce(&Store, &[(Duration, Event)]) -> T) -> T {
        let inner = self.lock();
        look(&inner.now, &inner.events)
    }
}
