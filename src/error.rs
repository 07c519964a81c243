//! What an application sees go wrong, by who tells of it.

use crate::compiled::RuleError;
use crate::firing::FiringError;
use crate::pattern::FormatError;
use std::fmt;
use std::time::Duration;

/// Any error of this crate, for applications that don't tell them apart: what `?` makes of each of the others.
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

/// An error of an engine: of its start and end, and of what its handle is asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
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
    #[error("no HTTP endpoint: {0}")]
    Http(String),
    /// `install_prometheus`: the metrics exporter could not be installed.
    #[error("could not install the metrics exporter: {0}")]
    Metrics(String),
    /// [`Engine::evaluate_on`](crate::Engine::evaluate_on): a value of an attribute makes no key.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// [`EngineHandle::explain`](crate::EngineHandle::explain) and the like: the rule has this attribute, and it was
    /// not given; or the other way round.
    #[error("attribute `:{0}`: the rule does not have it, or it has no value here")]
    UnknownAttribute(String),
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
