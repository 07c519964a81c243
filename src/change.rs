//! Keys as they were read, and changes of keys.

use crate::value::Value;

/// A revision of the store. 0 means none.
pub(crate) type Revision = i64;

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
    pub(crate) mod_revision: i64,
}

/// What a rule's keys hold, by slot.
pub(crate) type Snapshot = Box<[Option<Seen>]>;
