//! What goes wrong in a callback.

use super::ErrorKind;
use crate::pattern::{AttributeError, FormatError, PatternError};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// An error of a [`Firing`](crate::Firing). A callback that returns it fails, and is retried with backoff.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FiringError {
    /// A request of a callback to etcd failed.
    #[error(transparent)]
    Etcd(#[from] EtcdError),
    /// [`Firing::client`](crate::Firing::client) in a [trial](crate::testing::Trial), which has no etcd.
    #[error("a trial has no etcd, and so no client: run an engine on the embedded etcd instead")]
    NoEtcd,
    /// [`Firing::value`](crate::Firing::value): the key was absent when the condition was found true.
    #[error("the key `{key}` was absent; use `value_opt` if that is no error")]
    WasAbsent {
        /// The key.
        key: String,
    },
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
    #[error("attribute `:{0}`: the rule does not have it")]
    UnknownAttribute(String),
    /// [`Firing::attribute_as`](crate::Firing::attribute_as), or
    /// [`Attributes::deserialize`](crate::Attributes::deserialize) in a callback: an attribute is not what was
    /// expected.
    #[error(transparent)]
    Attribute(#[from] AttributeError),
    /// [`Firing::json`](crate::Firing::json) and the like: the key's value is not the JSON that was expected.
    #[error("the value of `{key}` is not the JSON that was expected")]
    Json {
        /// The key.
        key: String,
        /// What is wrong with it.
        source: Arc<serde_json::Error>,
    },
    /// Commit: what was to be put can't be written as JSON.
    #[error("the value for `{key}` can't be written as JSON")]
    IntoJson {
        /// The key.
        key: String,
        /// What is wrong with it.
        source: Arc<serde_json::Error>,
    },
    /// A literal key of [`Commit::put_key`](crate::Commit::put_key) and the like is empty.
    #[error("the key is empty; etcd has no such key")]
    EmptyKey,
    /// [`Firing::list`](crate::Firing::list) and [`Firing::count`](crate::Firing::count): too many keys, or too many
    /// bytes.
    #[error(
        "there are more than {limit} keys, or more than 64 MiB, that begin with `{prefix}`: choose a longer prefix"
    )]
    TooManyKeys {
        /// What all keys that were read begin with.
        prefix: String,
        /// How many are read at most.
        limit: usize,
    },
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
    /// [`Firing::value`](crate::Firing::value), or `expect_unchanged` of a commit: the pattern is none of the
    /// condition's, and is not [shown](crate::Rule::show).
    #[error(
        "`{0}` is not a pattern of the rule's condition, so its value was not shown to the callback; \
         write it as it is written there, `show` it, or read it with `get`"
    )]
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
        ttl: Duration,
    },
}

impl FiringError {
    /// What kind of error it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            FiringError::Etcd(error) => error.kind(),
            FiringError::NoEtcd => ErrorKind::Setup,
            FiringError::Absent { .. } | FiringError::WasAbsent { .. } => ErrorKind::NotFound,
            FiringError::Pattern(_)
            | FiringError::Format(_)
            | FiringError::UnknownAttribute(_)
            | FiringError::EmptyKey
            | FiringError::NotShown(_) => ErrorKind::InvalidInput,
            FiringError::Attribute(_) | FiringError::Json { .. } => ErrorKind::InvalidValue,
            FiringError::TooManyEffects { .. } | FiringError::TooManyKeys { .. } => ErrorKind::TooLarge,
            FiringError::DuplicateEffect(_)
            | FiringError::ReservedKey(_)
            | FiringError::NothingShownChanges
            | FiringError::IntoJson { .. }
            | FiringError::Ttl { .. } => ErrorKind::InvalidCommit,
        }
    }
}

/// A request to etcd failed. An [`etcd_client::Error`] converts into it, so that `?` works on requests of a
/// callback's own [client](crate::Firing::client).
///
/// Its [source](std::error::Error::source) is the [`etcd_client::Error`] in which there is etcd's answer, or the
/// error of a connection ([`std::io::Error`]). Then its text says what kind of error it is, and the rest is in that
/// of the source. There is none if the engine itself found what is wrong, such as that there was no answer in time,
/// and then the text says that.
#[derive(Clone, Debug)]
pub struct EtcdError {
    kind: ErrorKind,
    request: Option<&'static str>,
    message: String,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl EtcdError {
    /// `request`: the engine's own, or else one that it knows nothing of.
    pub(crate) fn new(
        kind: ErrorKind,
        request: Option<&'static str>,
        message: String,
        source: Option<Arc<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { kind, request, message, source }
    }

    /// What kind of error it is: the first eleven of [`ErrorKind`].
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The kind of request, such as `get`; `None`: one of the callback's own client.
    pub fn request(&self) -> Option<&str> {
        self.request
    }

    /// What etcd said, or what went wrong on the way.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for EtcdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.request, &self.source) {
            (Some(request), None) => write!(f, "etcd {request}: {}", self.message),
            (Some(request), Some(_)) => write!(f, "etcd {request}: {}", self.kind),
            (None, _) => write!(f, "a request to etcd failed: {}", self.kind),
        }
    }
}

impl std::error::Error for EtcdError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
