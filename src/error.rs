//! The errors that an application sees, by where they arise.

use crate::compiled::RuleError;
use crate::firing::{BoxError, ErrorKind, FiringError};
use crate::pattern::FormatError;
use std::fmt;
use std::time::Duration;

/// Any error of this crate, for applications that don't tell them apart: what `?` makes of each of the others.
///
/// [`kind`](Error::kind) tells what to do about it. Text and [source](std::error::Error::source) are those of the
/// error inside.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration has mistakes.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// A running engine, or its start or end.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A firing.
    #[error(transparent)]
    Firing(#[from] FiringError),
}

impl Error {
    /// What kind of error it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Build(error) => error.kind(),
            Error::Engine(error) => error.kind(),
            Error::Firing(error) => error.kind(),
        }
    }
}

/// An error of an engine: of its start and end, and of what its handle is asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// [`start`](crate::Engine::start): there is no tokio runtime for callbacks.
    #[error(
        "there is no runtime for callbacks: call `start` within a tokio runtime, or give one to the builder"
    )]
    NoRuntime,
    /// [`start`](crate::Engine::start): the engine was not ready within
    /// [`start_timeout`](crate::EngineBuilder::start_timeout). It has been ended.
    #[error("the engine was not ready within {within:?}: {health}")]
    NotReady {
        /// The configured time.
        within: Duration,
        /// The text of its [health](crate::Health) then: what it was waiting for.
        health: String,
    },
    /// Something of the process could not be had: a thread, the address of an HTTP endpoint, the place of the
    /// process's metrics recorder. The source says why.
    #[error("could not set up {what}")]
    Setup {
        /// What.
        what: String,
        /// Why not.
        source: BoxError,
    },
    /// The engine has [failed](crate::Health::Failed) or has ended, or its parts are starting again.
    #[error("the engine has stopped: {0}")]
    Stopped(String),
    /// A part of the engine does not answer: a comparison blocks it, or the process has no CPU.
    #[error("the engine did not answer within {within:?}")]
    NoAnswer {
        /// How long was waited.
        within: Duration,
    },
    /// [`shutdown`](crate::RunningEngine::shutdown): callbacks did not end although they were cancelled.
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
    /// [`Engine::evaluate_on`](crate::Engine::evaluate_on): a value of an attribute makes no key.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// [`EngineHandle::explain`](crate::EngineHandle::explain) and the like: the rule has this attribute, and it was
    /// not given; or the other way round.
    #[error("attribute `:{0}`: the rule does not have it, or it has no value here")]
    UnknownAttribute(String),
    /// [`EngineHandle::explain`](crate::EngineHandle::explain) and the like: the engine has no such rule.
    #[error("no rule has the id `{0}`")]
    UnknownRule(String),
    /// [`EngineHandle::set_rate_limit`](crate::EngineHandle::set_rate_limit) and the like: what is wanted of the
    /// rule makes no sense. The source says what is wrong with it.
    #[error("rule `{rule}` can't be changed so")]
    Rule {
        /// The rule's id.
        rule: String,
        /// What is wrong.
        source: RuleError,
    },
}

impl EngineError {
    /// What kind of error it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            EngineError::NoRuntime | EngineError::Setup { .. } => ErrorKind::Setup,
            EngineError::NotReady { .. } => ErrorKind::NotReady,
            EngineError::Stopped(_) => ErrorKind::Stopped,
            EngineError::NoAnswer { .. } => ErrorKind::TimedOut,
            EngineError::Unfinished { .. } => ErrorKind::Unfinished,
            EngineError::Comparison { .. } => ErrorKind::Panicked,
            EngineError::UnknownRule(_) => ErrorKind::NotFound,
            EngineError::Format(_) | EngineError::UnknownAttribute(_) | EngineError::Rule { .. } => {
                ErrorKind::InvalidInput
            }
        }
    }
}

/// All mistakes of a configuration, found by [`EngineBuilder::build`](crate::EngineBuilder::build).
///
/// Its text has each of them in full, on a line of its own. It has no source, since there may be several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildError {
    pub(crate) errors: Vec<ConfigError>,
}

impl BuildError {
    /// The mistakes: of the application's name, of options, of endpoints, then of the rules in their order.
    pub fn errors(&self) -> &[ConfigError] {
        &self.errors
    }

    /// What kind of error it is: [`ErrorKind::InvalidConfig`].
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidConfig
    }
}

impl std::error::Error for BuildError {}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.errors.as_slice() {
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
pub enum ConfigError {
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
    #[error(
        "the endpoint `{endpoint}` is malformed: {reason}; an endpoint is `host:port` or `[::1]:port`, which `http://` \
         or `https://` may precede"
    )]
    Endpoint {
        /// The endpoint, without a user and a password.
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
