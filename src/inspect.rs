//! What an application sees of a running engine's rules and instances.

use crate::condition::Explanation;
use crate::pattern::Attributes;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// One rule instance, and what the engine is doing about it; see
/// [`EngineHandle::instances`](crate::EngineHandle::instances).
///
/// Its text is one line, such as
/// `poll id=7: waiting for another 2.5s after failure 3 (connection refused)`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Instance {
    /// The id of its rule.
    pub rule: Arc<str>,
    /// Its attributes and their values.
    pub attributes: Attributes,
    /// What the engine is doing about it.
    pub state: InstanceState,
    /// For how long it has been in this state; zero for [`InstanceState::Untrue`].
    pub lasting: Duration,
    /// Failures of its callback in a row so far, those of other engines included as far as their marks were
    /// seen. The next attempt has one more.
    pub failures: u32,
    /// What went wrong last: an error or panic of the callback, the reason for which it gave up, or trouble
    /// with etcd. `None` after a success.
    pub last_error: Option<Arc<str>>,
}

/// What an engine is doing about an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InstanceState {
    /// The condition was found false, or has not been decided yet. Nothing is done.
    Untrue,
    /// True; waits for its turn.
    Queued(QueuedFor),
    /// It has a slot.
    Running(Phase),
    /// True; it waits for a time.
    Waiting {
        /// Why.
        reason: WaitReason,
        /// How long from now.
        remaining: Duration,
    },
    /// True; another engine has its lock. It is tried again when that is released.
    Locked {
        /// The engine that has the lock, by its [name](crate::EngineBuilder::name), if the lock's value can be
        /// read.
        engine: Option<String>,
        /// Since when, by that engine's clock.
        since: Option<SystemTime>,
    },
    /// True; another engine holds it back: its callback failed there, or asked to be run again later. It is
    /// tried again when that engine removes its mark, or somebody changes a key.
    HeldBack {
        /// The engine that holds it back, by its [name](crate::EngineBuilder::name), if the mark can be read.
        engine: Option<String>,
        /// Until when, by that engine's clock.
        until: Option<SystemTime>,
        /// The error there; empty if the callback asked to be run again later.
        error: String,
    },
    /// True; a callback gave it up. It is left alone until somebody changes a key.
    GivenUp {
        /// The engine that gave up, by its [name](crate::EngineBuilder::name); `None`: this one.
        engine: Option<String>,
        /// The reason it gave.
        reason: String,
    },
    /// True, and its callback has dealt with what was there. It fires again when somebody changes a key, and
    /// at the next crawl.
    Idle,
}

/// What a queued instance waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum QueuedFor {
    /// A free slot, of its rule or of the engine.
    Slot,
    /// A lock that another instance of this engine has.
    Lock,
    /// Its rule is [paused](crate::EngineHandle::pause).
    Resume,
}

/// What is being done with a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// It is decided again, with the newest values.
    Deciding,
    /// Its lock is being taken.
    Locking,
    /// The callback runs.
    Callback,
    /// The transaction that ends the firing is out.
    Committing,
}

/// Why an instance waits for a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WaitReason {
    /// The callback failed: [backoff](crate::Rule::backoff).
    Backoff,
    /// The callback asked to be run again later.
    RetryAfter,
    /// The callback succeeded and left the condition true; it is slowed down.
    Ineffective,
    /// Something other than the callback failed: no lease, no answer, a lock that was lost.
    Trouble,
    /// A lock or mark of another engine is gone; what it did should be seen first. Milliseconds.
    Released,
    /// It has just become true, or was changed: it is to [settle](crate::Rule::settle).
    Settle,
}

/// The states of instances without their details, for queries and counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
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
            InstanceState::Idle => StateKind::Idle,
        }
    }
}

/// Several kinds of states.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct StateSet(u16);

impl StateSet {
    /// Nothing said: all of them.
    pub(crate) fn contains(self, kind: StateKind) -> bool {
        self.0 == 0 || self.0 & kind.bit() != 0
    }

    fn insert(&mut self, kind: StateKind) {
        self.0 |= kind.bit();
    }
}

/// Which instances [`EngineHandle::instances`](crate::EngineHandle::instances) lists. Default: all, true or
/// not, 100 at a time.
///
/// ```
/// use etcd_rules::{InstanceQuery, StateKind};
/// let failing = InstanceQuery::new().rule("poll").state(StateKind::Waiting).attribute("geo", "eu").limit(20);
/// # let _ = failing;
/// ```
#[derive(Clone, Debug)]
#[must_use = "a query does nothing by itself"]
pub struct InstanceQuery {
    pub(crate) rule: Option<String>,
    pub(crate) states: StateSet,
    pub(crate) attributes: Attributes,
    pub(crate) limit: usize,
    pub(crate) after: Option<Cursor>,
}

/// Instances of a page at most.
const MOST: usize = 1000;

impl Default for InstanceQuery {
    fn default() -> Self {
        Self::new()
    }
}

impl InstanceQuery {
    /// All instances.
    pub fn new() -> Self {
        Self {
            rule: None,
            states: StateSet::default(),
            attributes: Attributes::new(),
            limit: 100,
            after: None,
        }
    }

    /// Only those of this rule.
    pub fn rule(mut self, id: impl Into<String>) -> Self {
        self.rule = Some(id.into());
        self
    }

    /// Only those in this state; called several times, in one of these states.
    pub fn state(mut self, kind: StateKind) -> Self {
        self.states.insert(kind);
        self
    }

    /// Only those whose condition was last found true.
    pub fn only_true(mut self) -> Self {
        StateKind::ALL.iter().filter(|kind| **kind != StateKind::Untrue).for_each(|k| self.states.insert(*k));
        self
    }

    /// Only those that have this attribute, with this value; called several times, with all of them.
    pub fn attribute(mut self, name: impl Into<Arc<str>>, value: impl Into<String>) -> Self {
        self.attributes.insert(name, value);
        self
    }

    /// Instances in the page at most: from 1 to 1,000, whatever is given. Default: 100.
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = limit.clamp(1, MOST);
        self
    }

    /// Goes on after an earlier page.
    pub fn after(mut self, cursor: Cursor) -> Self {
        self.after = Some(cursor);
        self
    }
}

/// Where a page ended. Its text can be parsed, for the address of a next page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor(pub(crate) u32);

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Cursor {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// A page of instances.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InstancePage {
    /// The instances, in an order that stays as it is while they exist, and means nothing.
    pub instances: Vec<Instance>,
    /// Where to go on; `None` if this was the last page.
    pub next: Option<Cursor>,
}

/// A rule of a running engine: what it is, and what its instances are doing; see
/// [`EngineHandle::rules`](crate::EngineHandle::rules).
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// It is [paused](crate::EngineHandle::pause) in this engine: nothing of it starts.
    pub paused: bool,
    /// How many instances may be fired at once in this engine.
    pub concurrency: usize,
    /// How long a callback may run.
    pub time_limit: Duration,
    /// The TTL of the lease behind its locks.
    pub lock_ttl: Duration,
    /// Callbacks started since the last (re)start of the engine.
    pub fired: u64,
    /// Its instances by state.
    pub counts: StateCounts,
}

/// How many instances are in which state.
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

/// Why an instance is true or false, and what the engine is doing about it; see
/// [`EngineHandle::explain`](crate::EngineHandle::explain). Its text has a line for each part of the condition
/// and one for the instance.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct InstanceExplanation {
    /// The truth of each part of the condition, with what was seen.
    pub condition: Explanation,
    /// The instance; `None` if no existing key implies it, so that the engine does not know it.
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

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let space = if self.attributes.is_empty() { "" } else { " " };
        write!(f, "{}{space}{}: {}", self.rule, self.attributes, self.state)?;
        let waits = matches!(self.state, InstanceState::Waiting { reason: WaitReason::Backoff, .. });
        if waits && self.failures > 0 {
            write!(f, " after failure {}", self.failures)?;
        }
        match (&self.last_error, &self.state) {
            (None, _) | (_, InstanceState::GivenUp { .. } | InstanceState::HeldBack { .. }) => Ok(()),
            (Some(error), _) => write!(f, " ({error})"),
        }
    }
}

impl fmt::Display for InstanceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by = |engine: &Option<String>| engine.clone().unwrap_or_else(|| "an unknown engine".into());
        match self {
            InstanceState::Untrue => f.write_str("not true"),
            InstanceState::Queued(QueuedFor::Slot) => f.write_str("queued for a slot"),
            InstanceState::Queued(QueuedFor::Lock) => {
                f.write_str("queued for a lock that another instance has")
            }
            InstanceState::Queued(QueuedFor::Resume) => f.write_str("queued: its rule is paused"),
            InstanceState::Running(Phase::Deciding) => f.write_str("being decided again"),
            InstanceState::Running(Phase::Locking) => f.write_str("taking its lock"),
            InstanceState::Running(Phase::Callback) => f.write_str("running"),
            InstanceState::Running(Phase::Committing) => f.write_str("committing"),
            InstanceState::Waiting { reason, remaining } => {
                write!(f, "waiting for another {remaining:.1?}")?;
                f.write_str(match reason {
                    WaitReason::Backoff => "",
                    WaitReason::RetryAfter => " as its callback asked",
                    WaitReason::Ineffective => ", slowed down because its callback leaves it true",
                    WaitReason::Trouble => " after trouble",
                    WaitReason::Released => " after a release",
                    WaitReason::Settle => " to settle",
                })
            }
            InstanceState::Locked { engine, .. } => write!(f, "locked by {}", by(engine)),
            InstanceState::HeldBack { engine, error, .. } if error.is_empty() => {
                write!(f, "held back by {}, as the callback there asked", by(engine))
            }
            InstanceState::HeldBack { engine, error, .. } => {
                write!(f, "held back by {}: {error}", by(engine))
            }
            InstanceState::GivenUp { engine: None, reason } => write!(f, "given up: {reason}"),
            InstanceState::GivenUp { engine: Some(engine), reason } => {
                write!(f, "given up by {engine}: {reason}")
            }
            InstanceState::Idle => f.write_str("idle: its callback has dealt with it"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_has_a_name_that_leads_back_to_it() {
        for (at, kind) in StateKind::ALL.iter().enumerate() {
            assert_eq!(*kind as usize, at, "counts are kept by number");
            assert_eq!(kind.name().parse(), Ok(*kind));
        }
        assert!("True".parse::<StateKind>().is_err());
    }

    #[test]
    fn an_instance_says_in_one_line_what_is_done_about_it() {
        let second = Duration::from_secs(1);
        let waiting = |reason| InstanceState::Waiting { reason, remaining: second };
        let other = || Some("b".to_owned());
        for (state, failures, error, expected) in [
            (InstanceState::Untrue, 0, None, "r id=7: not true"),
            (InstanceState::Queued(QueuedFor::Slot), 0, None, "r id=7: queued for a slot"),
            (
                waiting(WaitReason::Backoff),
                3,
                Some("no"),
                "r id=7: waiting for another 1.0s after failure 3 (no)",
            ),
            (
                waiting(WaitReason::RetryAfter),
                0,
                None,
                "r id=7: waiting for another 1.0s as its callback asked",
            ),
            (InstanceState::Locked { engine: other(), since: None }, 0, None, "r id=7: locked by b"),
            (
                InstanceState::HeldBack { engine: None, until: None, error: "no".into() },
                2,
                Some("no"),
                "r id=7: held back by an unknown engine: no",
            ),
            (
                InstanceState::GivenUp { engine: None, reason: "no use".into() },
                0,
                Some("no use"),
                "r id=7: given up: no use",
            ),
            (
                InstanceState::GivenUp { engine: other(), reason: "no use".into() },
                0,
                None,
                "r id=7: given up by b: no use",
            ),
        ] {
            let instance = Instance {
                rule: "r".into(),
                attributes: [("id", "7")].into(),
                state,
                lasting: second,
                failures,
                last_error: error.map(Into::into),
            };
            assert_eq!(instance.to_string(), expected);
        }
    }

    #[test]
    fn a_query_without_states_wants_all_and_limits_are_kept_to() {
        let all = InstanceQuery::new();
        assert!(StateKind::ALL.iter().all(|kind| all.states.contains(*kind)));
        let some = InstanceQuery::new().state(StateKind::Held).state(StateKind::Idle);
        let wanted: Vec<_> = StateKind::ALL.iter().filter(|kind| some.states.contains(**kind)).collect();
        assert_eq!(wanted, [&StateKind::Held, &StateKind::Idle]);
        assert!(!InstanceQuery::new().only_true().states.contains(StateKind::Untrue));
        assert_eq!(InstanceQuery::new().limit(0).limit, 1);
        assert_eq!(InstanceQuery::new().limit(usize::MAX).limit, MOST);
        assert_eq!("17".parse(), Ok(Cursor(17)));
    }
}
