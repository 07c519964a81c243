//! How an engine is, and what is wrong with it.

pub(crate) mod status;

use crate::etcd::FailureKind;
use std::fmt;

/// The state of an engine: `Starting`, then `Ready`, or `Degraded` while something is wrong; at the end
/// `Stopping` and `Stopped`, or `Failed`.
///
/// `Starting` and `Degraded` heal by themselves: the engine goes on trying. After
/// [`Failed`](Health::Failed) only a new engine helps; end the process, or build one.
///
/// It is about the engine and etcd: callbacks that fail don't change it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Health {
    /// Reading the first snapshot, or another one after a restart of its parts or a restored backup.
    /// Nothing fires.
    Starting {
        /// What keeps it from starting; empty while the snapshot is being read.
        problems: Vec<Problem>,
    },
    /// Watching; rules fire; nothing is known to be wrong.
    Ready,
    /// Part of it does not work; it goes on with what does, and tries again.
    Degraded {
        /// What is wrong, at most two entries a part; never empty.
        problems: Vec<Problem>,
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

/// Something that is wrong, as long as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// The part that can't do its work: a watch with its prefix, a lease, the locks, the watch for released
    /// locks, the requests.
    pub part: String,
    /// What kind of trouble it is.
    pub reason: Reason,
    /// What happened, for people: what etcd said, for example.
    pub message: String,
}

/// Kinds of trouble, told apart by what an operator can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Reason {
    /// Changes are late: for longer than the [`lag_limit`](crate::EngineBuilder::lag_limit) they have waited
    /// within the engine, etcd has been sending history, or a new snapshot has been read after a compaction.
    /// The process lacks CPU, a comparison blocks, or more changes come than one engine can take in.
    Lagging,
    /// No answer from etcd: refused, cut, or too late. Look at the network, the endpoints, and etcd itself.
    Disconnected,
    /// etcd has no leader, so that nothing can be written. Look at its members.
    NoLeader,
    /// etcd's space quota is exceeded: locks and commits wait. Compact, defragment, disarm the alarm.
    NoSpace,
    /// Credentials are missing, wrong or outdated.
    Auth,
    /// The engine's user may not do what it must. Grant its role the watched prefixes and the namespace.
    Permission,
    /// The lease behind locks was lost, and there is no new one yet: its firings were cancelled, and none
    /// begin.
    LeaseLost,
    /// etcd refuses requests because it has too many.
    Overloaded,
    /// etcd refuses a request for what is in it: a limit of the server, or a fault of the engine.
    Refused,
    /// An endpoint is of another cluster, or of an older state of this one, and nothing is written there; or most of the
    /// endpoints name no common cluster. Look at the list of endpoints, and set
    /// [`cluster_id`](crate::EngineBuilder::cluster_id).
    WrongStore,
}

impl Reason {
    /// All of them.
    pub const ALL: &[Reason] = &[
        Reason::Lagging,
        Reason::Disconnected,
        Reason::NoLeader,
        Reason::NoSpace,
        Reason::Auth,
        Reason::Permission,
        Reason::LeaseLost,
        Reason::Overloaded,
        Reason::Refused,
        Reason::WrongStore,
    ];

    /// Its name, as in the metric `etcd_rules_health`.
    pub fn name(self) -> &'static str {
        match self {
            Reason::Lagging => "lagging",
            Reason::Disconnected => "disconnected",
            Reason::NoLeader => "no_leader",
            Reason::NoSpace => "no_space",
            Reason::Auth => "auth",
            Reason::Permission => "permission",
            Reason::LeaseLost => "lease_lost",
            Reason::Overloaded => "overloaded",
            Reason::Refused => "refused",
            Reason::WrongStore => "wrong_store",
        }
    }
}

impl From<FailureKind> for Reason {
    fn from(kind: FailureKind) -> Self {
        match kind {
            FailureKind::Unreachable => Reason::Disconnected,
            FailureKind::NoLeader => Reason::NoLeader,
            FailureKind::NoSpace => Reason::NoSpace,
            FailureKind::Authentication => Reason::Auth,
            FailureKind::Permission => Reason::Permission,
            FailureKind::LeaseGone => Reason::LeaseLost,
            // History that is needed is gone: all is read anew.
            FailureKind::Compacted => Reason::Lagging,
            FailureKind::Overloaded => Reason::Overloaded,
            FailureKind::Rejected => Reason::Refused,
            FailureKind::WrongStore => Reason::WrongStore,
        }
    }
}

impl Health {
    /// The names of states, as in the metric `etcd_rules_health`.
    pub(crate) const NAMES: &[&str] = &["starting", "ready", "degraded", "stopping", "stopped", "failed"];

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

    /// What is wrong, and is expected to heal.
    pub fn problems(&self) -> &[Problem] {
        match self {
            Health::Starting { problems } | Health::Degraded { problems } => problems,
            Health::Ready | Health::Stopping | Health::Stopped | Health::Failed { .. } => &[],
        }
    }

    /// Whether something is wrong for this reason.
    pub fn has(&self, reason: Reason) -> bool {
        self.problems().iter().any(|problem| problem.reason == reason)
    }

    /// Whether the engine can still come to work by itself: it has neither ended nor failed.
    ///
    /// For a liveness probe, which restarts the process. An engine that can't reach etcd is live: a restart
    /// would not help, and would lose what it knows.
    pub fn is_live(&self) -> bool {
        match self {
            Health::Starting { .. } | Health::Ready | Health::Degraded { .. } | Health::Stopping => true,
            Health::Stopped | Health::Failed { .. } => false,
        }
    }

    /// Whether the engine does all of its work in time: the state is [`Ready`](Health::Ready).
    ///
    /// For a readiness probe, by which a rolling update waits before it replaces the next process, and for
    /// alerts. While it is false the engine may still fire: see [`problems`](Health::problems).
    pub fn is_ready(&self) -> bool {
        matches!(self, Health::Ready)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.part, self.message)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        if let Health::Failed { reason } = self {
            write!(f, ": {reason}")?;
        }
        for (number, problem) in self.problems().iter().enumerate() {
            write!(f, "{} {problem}", if number == 0 { ":" } else { ";" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn degraded(reason: Reason) -> Health {
        let message = "etcd get: no answer".to_owned();
        Health::Degraded { problems: vec![Problem { part: "requests".into(), reason, message }] }
    }

    #[test]
    fn live_until_it_has_ended_and_ready_only_when_nothing_is_wrong() {
        for (health, live, ready) in [
            (Health::Starting { problems: vec![] }, true, false),
            (Health::Ready, true, true),
            (degraded(Reason::Lagging), true, false),
            (degraded(Reason::Disconnected), true, false),
            (Health::Stopping, true, false),
            (Health::Stopped, false, false),
            (Health::Failed { reason: "a panic".into() }, false, false),
        ] {
            assert_eq!((health.is_live(), health.is_ready()), (live, ready), "{health}");
            assert!(Health::NAMES.contains(&health.name()), "{health}");
        }
    }

    #[test]
    fn names_of_reasons_and_states_are_different() {
        let mut names: Vec<&str> = Reason::ALL.iter().map(|reason| reason.name()).collect();
        names.extend(Health::NAMES);
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    #[test]
    fn it_reads_as_a_sentence() {
        assert_eq!(Health::Ready.to_string(), "ready");
        assert_eq!(degraded(Reason::NoSpace).to_string(), "degraded: requests: etcd get: no answer");
        assert!(degraded(Reason::NoSpace).has(Reason::NoSpace));
        assert!(!degraded(Reason::NoSpace).has(Reason::Auth));
    }
}
