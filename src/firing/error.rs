//! What goes wrong in a callback.

use crate::pattern::{FormatError, PatternError};
use std::time::Duration;

/// An error of a [`Firing`](crate::Firing). A callback that returns it fails, and is retried with backoff.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FiringError {
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
    #[error("attribute `:{0}`: the rule does not have it")]
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
        ttl: Duration,
    },
}
