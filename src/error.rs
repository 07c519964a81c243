//! What an application sees go wrong.

use crate::pattern::{FormatError, PatternError};
use crate::rule::RuleError;
use std::fmt;
use std::time::Duration;

/// An error of the engine or of a firing.
///
/// `Build`, `NotReady`, `Start`, `Stopped`, `Unfinished`, `Metrics`, `UnknownRule` and `Rule` are of the engine; the
/// others end a firing, if its callback passes them on, and are then retried with backoff.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// [`build`](crate::EngineBuilder::build): the configuration has mistakes; all of them are listed.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// [`start`](crate::Engine::start): the engine was not ready within
    /// [`start_timeout`](crate::EngineBuilder::start_timeout). It has been ended.
    #[error("the engine was not ready within {within:?}: {reason}")]
    NotReady {
        /// The configured time.
        within: Duration,
        /// Its [health](crate::Health) then: what it was waiting for.
        reason: String,
    },
    /// [`start`](crate::Engine::start): there is no tokio runtime, or a thread could not be made.
    #[error("could not start the engine: {0}")]
    Start(String),
    /// The engine has [failed](crate::Health::Failed), has ended before, or does not answer.
    #[error("the engine has stopped: {0}")]
    Stopped(String),
    /// [`shutdown`](crate::EngineHandle::shutdown): callbacks did not end although they were cancelled.
    #[error("{firings} callbacks did not end although they were cancelled; their locks end with their TTL")]
    Unfinished {
        /// How many.
        firings: usize,
    },
    /// [`EngineHandle::explain`](crate::EngineHandle::explain): a comparison of the condition panicked.
    #[error("a comparison of rule `{rule}` panicked: {text}")]
    Comparison {
        /// The rule.
        rule: String,
        /// The text of the panic.
        text: String,
    },
    /// [`EndpointBuilder::listen`](crate::http::EndpointBuilder::listen): the endpoint could not be made.
    #[cfg(feature = "http")]
    #[error("no HTTP endpoint: {0}")]
    Http(String),
    /// `install_prometheus`: the metrics exporter could not be installed.
    #[error("could not install the metrics exporter: {0}")]
    Metrics(String),
    /// A request of a callback to etcd failed: it names the request and what etcd said.
    #[error("{0}")]
    Etcd(String),
    /// [`Firing::get`](crate::Firing::get): the key does not exist.
    #[error("the key `{key}` does not exist; use `get_opt` if that is no error")]
    Absent {
        /// The key.
        key: String,
    },
    /// A pattern is malformed.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// A pattern can't be made a key with this instance's attributes.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// [`Firing::attribute`](crate::Firing::attribute): the rule has no such attribute.
    /// [`EngineHandle::explain`](crate::EngineHandle::explain): the rule has this one, and it was not given.
    #[error("attribute `:{0}`: the rule does not have it, or it has no value here")]
    UnknownAttribute(String),
    /// Commit: one key twice; etcd refuses that.
    #[error("the commit changes the key `{0}` twice; change it once")]
    DuplicateEffect(String),
    /// Commit: a key below `/etcd-rules/` or the engine's namespace.
    #[error("the commit changes the key `{0}`, which belongs to an engine's namespace; use another key")]
    ReservedKey(String),
    /// Commit: more operations than a transaction allows
    /// ([`max_txn_ops`](crate::EngineBuilder::max_txn_ops), less 2).
    #[error(
        "the commit has {effects} changes or expectations; a transaction allows {allowed}: make it smaller"
    )]
    TooManyEffects {
        /// Its changes or its expectations, whichever are more.
        effects: usize,
        /// What fits.
        allowed: usize,
    },
    /// Commit: `expect_unchanged` of a key whose value was not shown.
    #[error("`{0}` is not a key of the rule's condition, so its value was not shown to the callback")]
    NotShown(String),
    /// Commit of an optimistic rule that changes none of the keys shown.
    #[error("the commit of an optimistic rule must change at least one key of its condition")]
    NothingShownChanges,
    /// Commit: a TTL of zero, or of more than 365 days.
    #[error("the TTL of `{key}` is {ttl:?}; it must be more than zero and at most 365 days, or use `put`")]
    Ttl {
        /// The key.
        key: String,
        /// Its TTL.
        ttl: std::time::Duration,
    },
    /// [`EngineHandle::explain`](crate::EngineHandle::explain): the engine has no such rule.
    #[error("no rule has the id `{0}`")]
    UnknownRule(String),
    /// [`EngineHandle::set_rate_limit`](crate::EngineHandle::set_rate_limit) and the like: what is wanted of the
    /// rule makes no sense.
    #[error("rule `{rule}`: {error}")]
    Rule {
        /// The rule's id.
        rule: String,
        /// What is wrong with it.
        error: RuleError,
    },
}

/// All mistakes of a configuration, found by [`EngineBuilder::build`](crate::EngineBuilder::build).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildError {
    pub(crate) mistakes: Vec<Mistake>,
}

impl BuildError {
    /// The mistakes: of the application's name, of options, of endpoints, then of the rules in their order.
    pub fn mistakes(&self) -> &[Mistake] {
        &self.mistakes
    }
}

impl std::error::Error for BuildError {}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mistakes.as_slice() {
            [one] => write!(f, "the engine can't be built: {one}"),
            many => {
                write!(f, "the engine can't be built, for {} reasons:", many.len())?;
                many.iter().try_for_each(|mistake| write!(f, "\n  - {mistake}"))
            }
        }
    }
}

/// One mistake of a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Mistake {
    /// The application's name is missing.
    #[error("the application name is empty: it keeps the locks of two applications apart")]
    NoApplication,
    /// The application's name has characters other than ASCII letters, digits, `-`, `_` and `.`.
    #[error("the application name `{0}` may only have ASCII letters, digits, `-`, `_` and `.`")]
    Application(String),
    /// There is no endpoint.
    #[error("there is no endpoint: give at least one, such as `127.0.0.1:2379`")]
    NoEndpoint,
    /// An endpoint is not an address.
    #[error("the endpoint `{endpoint}` is malformed: {reason}")]
    Endpoint {
        /// The endpoint.
        endpoint: String,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no rule.
    #[error("there is no rule: add at least one")]
    NoRule,
    /// Two rules have the same id.
    #[error("the rule id `{0}` is used more than once: give every rule its own")]
    DuplicateRule(String),
    /// An [expansion](crate::EngineBuilder::expand) or a [constraint](crate::EngineBuilder::constrain) makes no
    /// sense.
    #[error("{option} of `:{attribute}`: {reason}")]
    Attribute {
        /// `expand` or `constrain`.
        option: &'static str,
        /// The attribute.
        attribute: String,
        /// Why that can't be.
        reason: String,
    },
    /// A rule has a mistake.
    #[error("rule `{rule}`: {error}")]
    Rule {
        /// The rule's id.
        rule: String,
        /// What is wrong with it.
        error: RuleError,
    },
    /// An option has a value that makes no sense.
    #[error("{option} is {value}: {reason}")]
    Option {
        /// The option.
        option: &'static str,
        /// Its value.
        value: String,
        /// Why that can't be.
        reason: String,
    },
}
