//! The health of an engine: its state, and what is wrong with it.

mod changes;
pub(crate) mod status;

pub use changes::HealthChanges;

use crate::etcd::FailureKind;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The state of an engine. It is `Starting` first, then `Ready`, or `Degraded` while something is wrong. At
/// the end it is `Stopping` and `Stopped`, or `Failed`.
///
/// `Starting` and `Degraded` heal by themselves, because the engine goes on trying. After
/// [`Failed`](Health::Failed) only a new engine helps: end the process, or build another engine.
///
/// Health is about the engine and etcd. Callbacks that fail don't change it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Health {
    /// It reads its first snapshot, or a new one after its parts were restarted or a backup was restored.
    /// Nothing fires. This ends when each prefix has been read, or etcd has refused to let it be read.
    Starting {
        /// What keeps it from starting. Empty while the snapshot is being read.
        problems: Vec<Problem>,
    },
    /// It watches, rules fire, and nothing is known to be wrong.
    Ready,
    /// A part of it does not work. The other parts go on, and it tries again.
    Degraded {
        /// What is wrong: one or two problems for each part concerned. Never empty.
        problems: Vec<Problem>,
        /// Whether some rule can fire all the same.
        can_fire: bool,
    },
    /// It is shutting down. Nothing new fires.
    Stopping,
    /// It was shut down, or its [`RunningEngine`](crate::RunningEngine) was dropped.
    Stopped,
    /// It ended by itself, because its parts panicked more than five times within a minute, or its threads
    /// could not be started.
    Failed {
        /// The last panic, or the reason why there are no threads.
        reason: String,
    },
}

/// Something that is wrong now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Problem {
    /// The part that can't do its work: a watch with its prefix, a lease, the locks, the watch for released
    /// locks, or the requests.
    pub part: String,
    /// What kind of trouble it is.
    pub reason: Reason,
    /// What happened, for people. For example, what etcd answered.
    pub message: String,
}

/// Kinds of trouble, told apart by what an operator can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// Changes are late. For longer than the [`lag_limit`](crate::EngineBuilder::lag_limit) they have waited
    /// within the engine, or etcd has been sending history, or a new snapshot has been read after a
    /// compaction. The process may lack CPU, a comparison may block, or more changes come than one engine can
    /// take in.
    Lagging,
    /// etcd doesn't answer: connections are refused or cut, or answers are too late. Look at the network, the
    /// endpoints, and etcd itself.
    Disconnected,
    /// etcd has no leader, so nothing can be written. Look at its members.
    NoLeader,
    /// etcd's space quota is exceeded, so locks and commits wait. Compact, defragment, and disarm the alarm.
    NoSpace,
    /// Credentials are missing, wrong or outdated.
    Auth,
    /// The engine's user lacks a permission. Grant its role the watched prefixes and the namespace.
    Permission,
    /// The lease behind locks was lost, and there is no new one yet. Its firings were cancelled, and no
    /// firing starts.
    LeaseLost,
    /// etcd refuses requests because it has too many.
    Overloaded,
    /// etcd refuses a request because of its content. It exceeds a limit of the server, or the engine has a
    /// defect.
    Refused,
    /// An endpoint is of another cluster, or of an older state of this one, and nothing is written there; or most of
    /// the endpoints name no common cluster. Look at the list of endpoints, and set
    /// [`cluster_id`](crate::EngineBuilder::cluster_id).
    WrongStore,
    /// Engines of another version of this crate are at work in the namespace, and their keys of locks have another
    /// form. The two would not exclude each other, so this one fires nothing. Stop the others first.
    OtherFormat,
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
        Reason::OtherFormat,
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
            Reason::OtherFormat => "other_format",
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
            // History that the watch needs is gone, so everything is read again.
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
            Health::Starting { problems } | Health::Degraded { problems, .. } => problems,
            Health::Ready | Health::Stopping | Health::Stopped | Health::Failed { .. } => &[],
        }
    }

    /// Whether there is a problem with this reason.
    pub fn has(&self, reason: Reason) -> bool {
        self.problems().iter().any(|problem| problem.reason == reason)
    }

    /// Whether the engine has neither ended nor failed, so that it works or can recover by itself.
    ///
    /// Use it for a liveness probe, which restarts the process. An engine that can't reach etcd is live: a
    /// restart would not help, and it would lose what is in memory.
    pub fn is_live(&self) -> bool {
        match self {
            Health::Starting { .. } | Health::Ready | Health::Degraded { .. } | Health::Stopping => true,
            Health::Stopped | Health::Failed { .. } => false,
        }
    }

    /// Whether some rule can fire. It is false while the engine starts, and while something keeps every rule from
    /// firing: etcd doesn't answer, the lease is lost, or etcd refuses the keys of all rules.
    ///
    /// Use it for a readiness probe, for which a rolling update waits before it replaces the next process.
    pub fn can_fire(&self) -> bool {
        match self {
            Health::Ready => true,
            Health::Degraded { can_fire, .. } => *can_fire,
            Health::Starting { .. } | Health::Stopping | Health::Stopped | Health::Failed { .. } => false,
        }
    }

    /// Whether the engine does all of its work in time. The state is [`Ready`](Health::Ready).
    ///
    /// Use it for alerts. While it is false the engine [may still fire](Health::can_fire): see
    /// [`problems`](Health::problems).
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
        let problems = vec![Problem { part: "requests".into(), reason, message }];
        Health::Degraded { problems, can_fire: reason == Reason::Lagging }
    }

    #[test]
    fn live_until_it_has_ended_and_ready_only_when_nothing_is_wrong() {
        for (health, live, can_fire, ready) in [
            (Health::Starting { problems: vec![] }, true, false, false),
            (Health::Ready, true, true, true),
            (degraded(Reason::Lagging), true, true, false),
            (degraded(Reason::Disconnected), true, false, false),
            (Health::Stopping, true, false, false),
            (Health::Stopped, false, false, false),
            (Health::Failed { reason: "a panic".into() }, false, false, false),
        ] {
            let answers = (health.is_live(), health.can_fire(), health.is_ready());
            assert_eq!(answers, (live, can_fire, ready), "{health}");
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
    fn it_comes_back_from_json_with_the_same_names() {
        for health in [
            Health::Starting { problems: vec![] },
            Health::Ready,
            degraded(Reason::LeaseLost),
            Health::Stopped,
            Health::Failed { reason: "a panic".into() },
        ] {
            let json = serde_json::to_value(&health).unwrap();
            assert_eq!(json["state"], health.name());
            assert_eq!(serde_json::from_value::<Health>(json).unwrap(), health);
        }
        for reason in Reason::ALL {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.name());
        }
    }

    #[test]
    fn it_reads_as_a_sentence() {
        assert_eq!(Health::Ready.to_string(), "ready");
        assert_eq!(degraded(Reason::NoSpace).to_string(), "degraded: requests: etcd get: no answer");
        assert!(degraded(Reason::NoSpace).has(Reason::NoSpace));
        assert!(!degraded(Reason::NoSpace).has(Reason::Auth));
    }
}
