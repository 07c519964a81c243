//! What an application sees go wrong.

use crate::pattern::{FormatError, PatternError};
use crate::rule::RuleError;
use std::fmt;
use std::time::Duration;

/// An error of the engine or of a firing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration has mistakes; all of them are listed.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The engine was not ready within [`start_timeout`](crate::EngineBuilder::start_timeout).
    #[error("not ready within {within:?}: {reason}")]
    NotReady {
        /// The configured time.
        within: Duration,
        /// What the engine was waiting for.
        reason: String,
    },
    /// The engine could not be started on this machine.
    #[error("could not start the engine: {0}")]
    Start(String),
    /// The engine gave up after repeated panics of its own parts.
    #[error("the engine stopped: {0}")]
    Stopped(String),
    /// Callbacks did not end although they were cancelled.
    #[error("{firings} callbacks did not end although they were cancelled; their locks end with their TTL")]
    Unfinished {
        /// How many.
        firings: usize,
    },
    /// The metrics exporter could not be installed.
    #[error("could not install the metrics exporter: {0}")]
    Metrics(String),
    /// A request to etcd failed.
    #[error("{0}")]
    Etcd(String),
    /// The key does not exist.
    #[error("the key `{key}` does not exist")]
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
    /// The rule has no such attribute.
    #[error("the rule has no attribute `:{0}`")]
    UnknownAttribute(String),
    /// Commit: one key twice; etcd refuses that.
    #[error("the commit changes the key `{0}` twice")]
    DuplicateEffect(String),
    /// Commit: a key below the engine's namespace.
    #[error("the commit changes the key `{0}`, which belongs to an engine's namespace")]
    ReservedKey(String),
    /// Commit: more operations than a transaction allows.
    #[error("the commit has {effects} effects and expectations; a transaction allows {allowed}")]
    TooManyEffects {
        /// What the commit has.
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
    /// Commit: a TTL of zero.
    #[error("the TTL of `{0}` is zero")]
    ZeroTtl(String),
    /// An attribute named in a request for inspection is missing.
    #[error("no rule has the id `{0}`")]
    UnknownRule(String),
}

/// All mistakes of a configuration, found by [`EngineBuilder::build`](crate::EngineBuilder::build).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildError {
    pub(crate) mistakes: Vec<Mistake>,
}

impl BuildError {
    /// The mistakes, in the order of the builder's calls.
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
    /// The application's name can't be part of a key.
    #[error("the application name `{0}` may only have letters, digits, `-`, `_` and `.`")]
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
    #[error("the rule id `{0}` is used more than once")]
    DuplicateRule(String),
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
