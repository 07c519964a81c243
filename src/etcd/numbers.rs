//! Numbers by which etcd and the engine's links tell things apart, each of a type of its own.

use std::fmt;

/// Which cluster. All of its members tell the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ClusterId(u64);

impl ClusterId {
    pub(crate) const fn new(id: u64) -> Self {
        Self(id)
    }

    /// An answer with an id of 0 does not tell: a proxy answers for many members.
    pub(crate) const fn is_told(self) -> bool {
        self.0 != 0
    }
}

/// In hexadecimal digits, as etcd's own tools show it.
impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// Which election of a cluster's leader: a later one has a greater number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RaftTerm(u64);

impl RaftTerm {
    pub(crate) const fn new(term: u64) -> Self {
        Self(term)
    }
}

impl fmt::Display for RaftTerm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which watch of a stream, as etcd numbers them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct WatchId(i64);

impl WatchId {
    /// Of answers to progress requests, which concern the whole stream.
    pub(super) const WHOLE_STREAM: Self = Self(-1);

    pub(super) const fn new(id: i64) -> Self {
        Self(id)
    }

    pub(super) const fn get(self) -> i64 {
        self.0
    }
}

/// Which connection, of all that one link has had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ConnectionId(u64);

impl ConnectionId {
    #[cfg(test)]
    pub(super) const fn new(number: u64) -> Self {
        Self(number)
    }

    pub(super) const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Which token of a user, of all that the engine was given; a newer one has a greater number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TokenGeneration(u64);

impl TokenGeneration {
    /// Before the first token.
    pub(super) const NONE: Self = Self(0);

    pub(super) const fn new(number: u64) -> Self {
        Self(number)
    }
}
