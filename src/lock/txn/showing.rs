//! What the callback is to be shown: how the transaction that takes a lock makes sure that it is a state that etcd had.

use super::{Locking, Response, as_change, only_key};
use crate::change::{Change, Revision, Seen, Snapshot};
use crate::condition::Check;
use etcd_client::proto::PbKeyValue;
use smallvec::SmallVec;

/// How the transaction that takes a lock makes sure that what the callback is shown is a state that etcd had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Showing {
    /// The values that were decided on are one.
    AsDecided,
    /// They are one if no key has changed since: all keys are compared by revision.
    IfUnchanged,
    /// The transaction reads all keys, and the callback is shown what it read.
    Read,
}

impl Locking<'_> {
    /// What the callback is to be shown, if the transaction has read it.
    pub(super) fn shown(&self, responses: impl Iterator<Item = Response>, at: Revision) -> Option<ReadKeys> {
        let reads = self.showing == Showing::Read;
        reads.then(|| ReadKeys { at, changes: self.changes(responses, at) })
    }

    /// What the keys of the condition held at this revision.
    pub(super) fn changes(&self, responses: impl Iterator<Item = Response>, at: Revision) -> Vec<Change> {
        let found = responses.map(only_key);
        self.keys.slots().zip(found).map(|(key, kv)| as_change(key, kv, at)).collect()
    }

    /// Whether the witness holds for what was read, so that the condition does.
    pub(super) fn is_proven_by(&self, responses: impl Iterator<Item = Response>) -> bool {
        // What is read for the identity of the store comes after the keys.
        let keys = responses.take(self.snapshot.len());
        let found: SmallVec<[Option<PbKeyValue>; 4]> = keys.map(only_key).collect();
        found.len() == self.snapshot.len()
            && self.witness.iter().all(|check| {
                let found = found[check.slot().index()].as_ref();
                let seen = self.seen(check.slot());
                match check {
                    Check::Absent(_) => found.is_none(),
                    Check::Exists(_) => found.is_some(),
                    Check::ValueIs(_) => found.map(|kv| &*kv.value) == seen.map(|seen| seen.value.as_bytes()),
                    Check::ValueIsNot(_, leaf) => {
                        found.is_some_and(|kv| kv.value != self.condition.literal(*leaf))
                    }
                    Check::Unchanged(_) => {
                        found.map(|kv| Revision::new(kv.mod_revision)) == seen.map(|seen| seen.mod_revision)
                    }
                }
            })
    }
}

/// What the transaction that took a lock has read: all keys of the instance, at this revision.
#[derive(Debug)]
pub(crate) struct ReadKeys {
    pub(crate) at: Revision,
    pub(crate) changes: Vec<Change>,
}

impl ReadKeys {
    /// The values by slot.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let seen = |change: &Change| match change {
            Change::Put { value, revision, .. } => {
                Some(Seen { value: value.clone(), mod_revision: *revision })
            }
            Change::Delete { .. } => None,
        };
        self.changes.iter().map(seen).collect()
    }
}
