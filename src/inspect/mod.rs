//! What an application sees of a running engine's rules and instances.

mod query;
mod rules;
mod stats;
mod text;

pub(crate) use query::StateSet;
pub use query::{Cursor, InstancePage, InstanceQuery};
pub use rules::{RuleStatus, StateCounts};
pub use stats::Stats;

use crate::condition::Explanation;
use crate::pattern::Attributes;
use crate::time::{seconds, unix_seconds};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// One rule instance, and what the engine is doing about it. See
/// [`EngineHandle::instances`](crate::EngineHandle::instances).
///
/// Its text is one line, such as
/// `poll id=7: waiting for another 2.5s after failure 3 (connection refused)`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Instance {
    /// The id of its rule.
    pub rule: Arc<str>,
    /// Its attributes and their values.
    pub attributes: Attributes,
    /// What the engine is doing about it.
    pub state: InstanceState,
    /// For how long it has been in this state. Zero for [`InstanceState::Untrue`].
    #[serde(rename = "lasting_seconds", with = "seconds")]
    pub lasting: Duration,
    /// How often its callback has failed in a row so far. Failures in other engines count if their marks were
    /// seen. The number of the next attempt is one more than this.
    pub failures: u32,
    /// What went wrong last: an error or panic of the callback, its reason for giving up, or trouble with
    /// etcd. `None` after a success.
    pub last_error: Option<Arc<str>>,
}

impl Instance {
    /// The bytes of it that whoever writes keys decides about.
    pub(crate) fn bytes(&self) -> usize {
        let attributes: usize = self.attributes.iter().map(|(name, value)| name.len() + value.len()).sum();
        let said = match &self.state {
            InstanceState::HeldBack { error: text, .. } | InstanceState::GivenUp { reason: text, .. } => {
                text.len()
            }
            _ => 0,
        };
        attributes + said + self.last_error.as_ref().map_or(0, |error| error.len())
    }
}

/// What an engine is doing about an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "detail", rename_all = "snake_case")]
#[non_exhaustive]
pub enum InstanceState {
    /// The condition is false, or has not been decided yet. Nothing is done.
    Untrue,
    /// It is true, and waits for its turn.
    Queued(QueuedFor),
    /// It has a slot.
    Running(Phase),
    /// It is true, and waits for some time to pass.
    Waiting {
        /// Why.
        reason: WaitReason,
        /// How long from now.
        #[serde(rename = "remaining_seconds", with = "seconds")]
        remaining: Duration,
    },
    /// It is true, but another engine has its lock. It is tried again when the lock is released.
    Locked {
        /// The engine that has the lock, by its [name](crate::EngineBuilder::name), if the lock's value can be
        /// read.
        engine: Option<String>,
        /// Since when, by that engine's clock.
        #[serde(rename = "since_unix_seconds", with = "unix_seconds")]
        since: Option<SystemTime>,
    },
    /// It is true, but another engine holds it back, because its callback failed there or asked to be run
    /// again later. It is tried again when that engine removes its mark, or when somebody changes one of its
    /// keys.
    HeldBack {
        /// The engine that holds it back, by its [name](crate::EngineBuilder::name), if the mark can be read.
        engine: Option<String>,
        /// Until when, by that engine's clock.
        #[serde(rename = "until_unix_seconds", with = "unix_seconds")]
        until: Option<SystemTime>,
        /// The error there. Empty if the callback asked to be run again later.
        error: String,
    },
    /// It is true, but a callback gave it up. It is left alone until somebody changes one of its keys.
    GivenUp {
        /// The engine that gave up, by its [name](crate::EngineBuilder::name). `None` if it is this engine.
        engine: Option<String>,
        /// The reason it gave.
        reason: String,
    },
    /// It is true, and would fire if its rule were not in a [dry run](crate::EngineHandle::begin_dry_run). It
    /// fires when the dry run ends.
    WouldFire,
    /// It is true, and another engine owns it and tries it. This engine takes over when that one is gone, drains, or
    /// does not see to it.
    Yielded {
        /// That engine, by its [name](crate::EngineBuilder::name), if it is known.
        engine: Option<String>,
    },
    /// It is true, and its callback has dealt with the current values. It fires again when somebody changes
    /// one of its keys, and at the next crawl.
    Idle,
}

/// What a queued instance waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum QueuedFor {
    /// A free slot, of its rule or of the engine.
    Slot,
    /// A lock that another instance in this engine holds.
    Lock,
    /// Its rule is [paused](crate::EngineHandle::pause).
    Resume,
    /// The [rate limit](crate::Rule::rate_limit) of its rule.
    Rate,
}

/// What an instance is doing with its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Phase {
    /// It is being decided again, with the newest values.
    Deciding,
    /// Its lock is being taken.
    Locking,
    /// The callback runs.
    Callback,
    /// The transaction that ends the firing has been sent.
    Committing,
}

/// Why an instance waits for some time to pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum WaitReason {
    /// The callback failed, and the [backoff](crate::Rule::backoff) isn't over.
    Backoff,
    /// The callback asked to be run again later.
    RetryAfter,
    /// The callback succeeded but left the condition true, so the instance is slowed down.
    Ineffective,
    /// Something other than the callback failed: no lease, no answer, a lock that was lost.
    Trouble,
    /// Another engine has removed its lock or mark. This engine waits some milliseconds to see that engine's
    /// changes first.
    Released,
    /// It has just become true, or one of its keys was changed. It is given time to
    /// [settle](crate::Rule::settle).
    Settle,
    /// It fired recently, and the [least interval](crate::Rule::min_interval) of its rule isn't over.
    Interval,
    /// It fires more often than it [may](crate::EngineBuilder::instance_rate), so it is slowed down. Often another rule
    /// undoes what its callback does.
    TooOften,
}

/// The states of instances without their details, for queries and counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum StateKind {
    /// [`InstanceState::Untrue`].
    Untrue,
    /// [`InstanceState::Queued`].
    Queued,
    /// [`InstanceState::Running`].
    Running,
    /// [`InstanceState::Waiting`].
    Waiting,
    /// [`InstanceState::Locked`] and [`InstanceState::HeldBack`].
    Held,
    /// [`InstanceState::GivenUp`].
    GivenUp,
    /// [`InstanceState::WouldFire`].
    WouldFire,
    /// [`InstanceState::Yielded`].
    Yielded,
    /// [`InstanceState::Idle`].
    Idle,
}

impl StateKind {
    /// All of them.
    pub const ALL: &[StateKind] = &[
        StateKind::Untrue,
        StateKind::Queued,
        StateKind::Running,
        StateKind::Waiting,
        StateKind::Held,
        StateKind::GivenUp,
        StateKind::WouldFire,
        StateKind::Yielded,
        StateKind::Idle,
    ];

    /// Its name, as in the metric `etcd_rules_instances_by_state`.
    pub fn name(self) -> &'static str {
        match self {
            StateKind::Untrue => "untrue",
            StateKind::Queued => "queued",
            StateKind::Running => "running",
            StateKind::Waiting => "waiting",
            StateKind::Held => "held",
            StateKind::GivenUp => "given_up",
            StateKind::WouldFire => "would_fire",
            StateKind::Yielded => "yielded",
            StateKind::Idle => "idle",
        }
    }

    fn bit(self) -> u16 {
        1 << self as u16
    }
}

impl fmt::Display for StateKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The text is not the [name](StateKind::name) of a state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not the name of a state")]
pub struct UnknownState(String);

impl FromStr for StateKind {
    type Err = UnknownState;

    fn from_str(name: &str) -> Result<Self, UnknownState> {
        let found = Self::ALL.iter().find(|kind| kind.name() == name);
        found.copied().ok_or_else(|| UnknownState(name.to_owned()))
    }
}

impl InstanceState {
    /// The state without its details.
    pub fn kind(&self) -> StateKind {
        match self {
            InstanceState::Untrue => StateKind::Untrue,
            InstanceState::Queued(_) => StateKind::Queued,
            InstanceState::Running(_) => StateKind::Running,
            InstanceState::Waiting { .. } => StateKind::Waiting,
            InstanceState::Locked { .. } | InstanceState::HeldBack { .. } => StateKind::Held,
            InstanceState::GivenUp { .. } => StateKind::GivenUp,
            InstanceState::WouldFire => StateKind::WouldFire,
            InstanceState::Yielded { .. } => StateKind::Yielded,
            InstanceState::Idle => StateKind::Idle,
        }
    }
}

/// Why an instance is true or false, and what the engine is doing about it. See
/// [`EngineHandle::explain`](crate::EngineHandle::explain). Its text has a line for each part of the
/// condition and one for the instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct InstanceExplanation {
    /// The truth of each part of the condition, with what was seen.
    pub condition: Explanation,
    /// The instance. `None` if no existing key implies it, so that the engine doesn't know it.
    pub instance: Option<Instance>,
}

impl fmt::Display for InstanceExplanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.condition.fmt(f)?;
        match &self.instance {
            Some(instance) => instance.fmt(f),
            None => f.write_str("no such instance: no existing key has these attributes"),
        }
    }
}

/// An instance that some keys imply, found by [`Engine::instances_on`](crate::Engine::instances_on).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct EvaluatedInstance {
    /// The rule's id.
    pub rule: String,
    /// The instance's attributes.
    pub attributes: Attributes,
    /// Whether its condition is true, and why.
    pub explanation: Explanation,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_of_instances_comes_back_from_json() {
        let second = Duration::from_secs(1);
        let other = || Some("b".to_owned());
        let since = Some(std::time::UNIX_EPOCH + second);
        for (state, json) in [
            (InstanceState::Idle, r#"{"kind":"idle"}"#),
            (InstanceState::Queued(QueuedFor::Slot), r#"{"kind":"queued","detail":"slot"}"#),
            (InstanceState::Running(Phase::Callback), r#"{"kind":"running","detail":"callback"}"#),
            (
                InstanceState::Waiting { reason: WaitReason::RetryAfter, remaining: second },
                r#"{"kind":"waiting","detail":{"reason":"retry_after","remaining_seconds":1.0}}"#,
            ),
            (
                InstanceState::Locked { engine: other(), since },
                r#"{"kind":"locked","detail":{"engine":"b","since_unix_seconds":1.0}}"#,
            ),
            (
                InstanceState::HeldBack { engine: None, until: None, error: "no".into() },
                r#"{"kind":"held_back","detail":{"engine":null,"until_unix_seconds":null,"error":"no"}}"#,
            ),
            (
                InstanceState::GivenUp { engine: other(), reason: "no".into() },
                r#"{"kind":"given_up","detail":{"engine":"b","reason":"no"}}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&state).unwrap(), json);
            let instance = Instance {
                rule: "r".into(),
                attributes: [("id", "7")].into(),
                state,
                lasting: second / 4,
                failures: 3,
                last_error: Some("no".into()),
            };
            let page = InstancePage { instances: vec![instance], next: Some(Cursor(7)) };
            let json = serde_json::to_string(&page).unwrap();
            assert_eq!(serde_json::from_str::<InstancePage>(&json).unwrap(), page, "{json}");
        }
        let mut counts = StateCounts::default();
        *counts.at(StateKind::GivenUp) = 3;
        let json = serde_json::to_value(counts).unwrap();
        assert_eq!(json["given_up"], 3);
        assert_eq!(serde_json::from_value::<StateCounts>(json).unwrap(), counts);
        for kind in StateKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
        }
    }

    #[test]
    fn every_state_has_a_name_that_leads_back_to_it() {
        for (at, kind) in StateKind::ALL.iter().enumerate() {
            assert_eq!(*kind as usize, at, "counts are kept by number");
            assert_eq!(kind.name().parse(), Ok(*kind));
        }
        assert!("True".parse::<StateKind>().is_err());
    }
}
