//! What state the engine is in: told by its parts, read by the application.

use crate::etcd::{Failure, FailureKind};
use crate::metrics;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

/// The state of an engine: `Starting`, then `Ready`, or `Degraded` while something is wrong; at the end
/// `Stopping` and `Stopped`, or `Failed`.
///
/// `Starting` and `Degraded` heal by themselves: the engine goes on trying. After
/// [`Failed`](Health::Failed) only a new engine helps; end the process, or build one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Health {
    /// Reading the first snapshot, or another one after a restart of its parts or a restored backup.
    /// Nothing fires.
    Starting {
        /// What it waits for, if something is wrong: the first problem, beginning with the part.
        problem: Option<String>,
    },
    /// Watching; rules fire; nothing is known to be wrong.
    Ready,
    /// Part of it does not work; it goes on with what does, and tries again.
    Degraded {
        /// What is wrong, one entry a part: a watch, the leases, the watch for released locks, the
        /// requests.
        problems: Vec<String>,
    },
    /// Shutting down; nothing new fires.
    Stopping,
    /// Ended in order, or because the handle was dropped.
    Stopped,
    /// Ended by itself: parts of the engine panicked more than five times within a minute, or its
    /// threads could not be made.
    Failed {
        /// The last panic, or why there are no threads.
        reason: String,
    },
}

impl Health {
    /// The name of the state, as in the metric `etcd_rules_health`.
    pub fn name(&self) -> &'static str {
        match self {
            Health::Starting { .. } => "starting",
            Health::Ready => "ready",
            Health::Degraded { .. } => "degraded",
            Health::Stopping => "stopping",
            Health::Stopped => "stopped",
            Health::Failed { .. } => "failed",
        }
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Health::Starting { problem: Some(problem) } => write!(f, "starting: {problem}"),
            Health::Degraded { problems } => write!(f, "degraded: {}", problems.join("; ")),
            Health::Failed { reason } => write!(f, "failed: {reason}"),
            other => f.write_str(other.name()),
        }
    }
}

/// Shared by all parts of one engine.
#[derive(Clone)]
pub(crate) struct Status(Arc<Shared>);

struct Shared {
    engine: Arc<str>,
    state: Mutex<State>,
    health: watch::Sender<Health>,
}

#[derive(Default)]
struct State {
    index_ready: bool,
    end: Option<Health>,
    problems: BTreeMap<String, (FailureKind, String)>,
}

impl Status {
    pub(crate) fn new(engine: Arc<str>) -> Self {
        metrics::health(&engine, "starting");
        let (health, _) = watch::channel(Health::Starting { problem: None });
        Self(Arc::new(Shared { engine, state: Mutex::default(), health }))
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Health> {
        self.0.health.subscribe()
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.0.state.lock().unwrap_or_else(|e| e.into_inner());
        change(&mut state);
        let problems = || state.problems.iter().map(|(part, (_, text))| format!("{part}: {text}"));
        let health = match &state.end {
            Some(end) => end.clone(),
            None if !state.index_ready => Health::Starting { problem: problems().next() },
            None if state.problems.is_empty() => Health::Ready,
            None => Health::Degraded { problems: problems().collect() },
        };
        let engine = &*self.0.engine;
        self.0.health.send_if_modified(|current| {
            if *current == health {
                return false;
            }
            // One line a change of state, not one a failed request.
            if std::mem::discriminant(current) != std::mem::discriminant(&health) {
                match &health {
                    Health::Degraded { .. } | Health::Failed { .. } => {
                        tracing::warn!(engine, %health, "engine")
                    }
                    _ => tracing::info!(engine, %health, "engine"),
                }
                metrics::health(engine, health.name());
            }
            *current = health;
            true
        });
    }

    /// Every watcher's first snapshot is in.
    pub(crate) fn index_ready(&self) {
        let ready = self.0.state.lock().unwrap_or_else(|e| e.into_inner()).index_ready;
        if !ready {
            self.change(|state| state.index_ready = true);
        }
    }

    /// The actors start again from a snapshot.
    pub(crate) fn restarting(&self) {
        self.change(|state| {
            state.index_ready = false;
            state.problems.clear();
        });
    }

    /// A part of the engine can't do its work.
    pub(crate) fn problem(&self, part: &str, failure: &Failure) {
        let new = {
            let state = self.0.state.lock().unwrap_or_else(|e| e.into_inner());
            state.problems.get(part).is_none_or(|(kind, _)| *kind != failure.kind)
        };
        if new {
            tracing::warn!(engine = &*self.0.engine, part, %failure, "trouble with etcd; trying again");
            self.change(|state| {
                state.problems.insert(part.to_owned(), (failure.kind, failure.to_string()));
            });
        }
    }

    /// The part works (again).
    pub(crate) fn fine(&self, part: &str) {
        let known = self.0.state.lock().unwrap_or_else(|e| e.into_inner()).problems.contains_key(part);
        if known {
            self.change(|state| {
                state.problems.remove(part);
            });
        }
    }

    pub(crate) fn end(&self, health: Health) {
        self.change(|state| state.end = Some(health));
    }
}
