//! Keys as they were read, and changes of keys.

use std::fmt;

use crate::value::Value;

/// A revision of the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Revision(i64);

impl Revision {
    /// Before all revisions: a store begins with 1. To etcd it is the revision of a key that does not exist, and, in a
    /// request, the newest one.
    pub(crate) const NONE: Self = Self(0);

    pub(crate) const fn new(revision: i64) -> Self {
        Self(revision)
    }

    /// As etcd is told it.
    pub(crate) const fn get(self) -> i64 {
        self.0
    }

    /// How many revisions lie between an earlier one and this one.
    pub(crate) fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0).max(0).cast_unsigned()
    }

    /// The revision before.
    pub(crate) const fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// The revision of the next transaction.
    pub(crate) const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// News of one key.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Change {
    Put { key: Vec<u8>, value: Value, revision: Revision },
    Delete { key: Vec<u8>, revision: Revision, how: Deletion },
}

impl Change {
    pub(crate) fn key(&self) -> &[u8] {
        match self {
            Change::Put { key, .. } | Change::Delete { key, .. } => key,
        }
    }

    /// The bytes of the key and the value.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Change::Put { key, value, .. } => key.len() + value.len(),
            Change::Delete { key, .. } => key.len(),
        }
    }

    pub(crate) fn revision(&self) -> Revision {
        match self {
            Change::Put { revision, .. } | Change::Delete { revision, .. } => *revision,
        }
    }
}

/// How a deletion became known, which decides how exact its revision is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deletion {
    /// The watch delivered the event. Nothing older about this key can follow it.
    Delivered,
    /// Our own commit deleted the key at this revision. The event is still to come.
    Committed,
    /// A read found the key absent at this revision. It was deleted then or earlier.
    SeenAbsent,
}

/// A key as it was read from etcd.
#[derive(Clone, Debug)]
pub(crate) struct KeyValue {
    pub(crate) key: Vec<u8>,
    pub(crate) value: Value,
    pub(crate) revision: Revision,
}

/// A key that exists, as it was seen.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Seen {
    pub(crate) value: Value,
    pub(crate) mod_revision: Revision,
}

/// What a rule's keys hold, by slot.
pub(crate) type Snapshot = Box<[Option<Seen>]>;
