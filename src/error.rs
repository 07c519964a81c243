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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::condition::{ConditionError, EvaluateError};
    use crate::events::Lagged;
    use crate::firing::{EtcdError, error_text};
    use crate::inspect::StateKind;
    use crate::pattern::{Attributes, Pattern, PatternError};
    #[cfg(feature = "virtual-time")]
    use crate::testing::NotUntil;
    use crate::testing::{NotFired, NotTried, WhyNotFired};
    use std::error::Error as StdError;
    use std::sync::Arc;

    fn pattern() -> PatternError {
        Pattern::parse("/a//b").expect_err("there is nothing between two slashes")
    }

    fn format() -> FormatError {
        Pattern::parse("/a/:id").expect("a pattern").format(&Attributes::new()).expect_err("it has no id")
    }

    fn json() -> Arc<serde_json::Error> {
        Arc::new(serde_json::from_str::<u8>("{").expect_err("it is no number"))
    }

    fn of_etcd(is_engines: bool) -> EtcdError {
        let refused = etcd_client::Error::GRpcStatus(tonic::Status::permission_denied("no"));
        let request = is_engines.then_some("get");
        EtcdError::new(ErrorKind::PermissionDenied, request, "no".into(), Some(Arc::new(refused)))
    }

    /// Every public error type, and of an enum every variant that holds another error.
    fn all() -> Vec<Box<dyn StdError>> {
        let condition = || ConditionError::from(pattern());
        let rule = || RuleError::from(condition());
        let config = || ConfigError::Rule { rule: "r".into(), error: rule() };
        let build = || BuildError { errors: vec![config(), config()] };
        let setup = || EngineError::Setup { what: "a thread".into(), source: "no memory".into() };
        let attribute =
            Attributes::from([("id", "x")]).deserialize::<std::collections::HashMap<String, u8>>();
        let attribute = attribute.expect_err("it is no number");
        let (rule_id, attributes) = ("r".to_owned(), Attributes::new());
        let (reason, lagged) = (WhyNotFired::Lagged(Lagged(3)), Lagged(3));
        vec![
            Box::new(Error::from(build())),
            Box::new(Error::from(setup())),
            Box::new(Error::from(FiringError::from(of_etcd(true)))),
            Box::new(build()),
            Box::new(config()),
            Box::new(setup()),
            Box::new(EngineError::from(format())),
            Box::new(EngineError::Rule { rule: "r".into(), source: rule() }),
            Box::new(of_etcd(true)),
            Box::new(of_etcd(false)),
            Box::new(FiringError::from(of_etcd(false))),
            Box::new(FiringError::from(pattern())),
            Box::new(FiringError::from(format())),
            Box::new(FiringError::from(attribute.clone())),
            Box::new(FiringError::Json { key: "/a".into(), source: json() }),
            Box::new(FiringError::IntoJson { key: "/a".into(), source: json() }),
            Box::new(rule()),
            Box::new(RuleError::Lock(pattern())),
            Box::new(RuleError::Shown(pattern())),
            Box::new(condition()),
            Box::new(EvaluateError::Condition(vec![condition(), condition()])),
            Box::new(EvaluateError::from(format())),
            Box::new(pattern().kind()),
            Box::new(pattern()),
            Box::new(format()),
            Box::new(attribute),
            Box::new("new".parse::<StateKind>().expect_err("no state has this name")),
            Box::new(lagged),
            Box::new(NotTried::from(setup())),
            Box::new(NotFired { rule: rule_id, attributes, reason, seen: Vec::new(), others: Vec::new() }),
            #[cfg(feature = "virtual-time")]
            Box::new(NotUntil { key: "/a".into(), within: Duration::from_secs(1), seen: Vec::new() }),
        ]
    }

    /// Whoever shows an error with its sources, as `anyhow` does, shows each of them once.
    #[test]
    fn no_error_has_the_text_of_its_source_in_its_own() {
        let mut sources = 0;
        for error in all() {
            let Some(source) = error.source() else { continue };
            sources += 1;
            let (own, of_source) = (error.to_string(), source.to_string());
            assert!(
                !own.contains(&of_source),
                "`{own}` tells `{of_source}`, which its source tells: {error:?}"
            );
            let whole = error_text(&*error);
            assert!(whole.contains(&of_source), "{whole}");
        }
        assert_eq!(sources, 10, "of those above");
    }
}
