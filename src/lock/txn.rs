//! The transactions of a firing: building them and reading their answers. No I/O.

#[cfg(test)]
mod tests;

use super::batch::{Footprint, KeyMark};
use crate::broken::{Promise, is_broken};
use crate::condition::Check;
use crate::etcd::FailureKind;
use crate::firing::{Effect, Effects, Expectation, Fence};
use crate::index::{Change, Deletion, Revision, Snapshot};
use crate::value::Value;
use etcd_client::proto::{PbKeyValue, PbTxnOpResponse};
use etcd_client::{Compare, CompareOp, PutOptions, Txn, TxnOp};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

/// A transaction with what the batcher needs to know of it.
pub(crate) struct Request {
    pub(crate) txn: Txn,
    pub(crate) footprint: Footprint,
}

/// What a transaction answered; `revision` is the store's after the request it travelled in.
#[derive(Debug, Default)]
pub(crate) struct Reply {
    pub(crate) revision: Revision,
    pub(crate) succeeded: bool,
    pub(crate) responses: Vec<Option<PbTxnOpResponse>>,
}

/// The value of a lock key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holder {
    /// The engine, for people who read the key.
    pub(crate) engine: String,
    /// Different for every attempt, so that a request sent twice recognises its own lock.
    pub(crate) nonce: u64,
    /// Unix time in milliseconds, for people who read the key.
    pub(crate) since: u64,
}

/// The value of a backoff key: why and until when an instance is held back in all engines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    pub(crate) engine: String,
    /// Failures in a row so far; 0 if the callback asked to be run again later.
    pub(crate) attempt: u32,
    /// Unix time in milliseconds, for people who read the key. The engine that wrote the mark
    /// removes it when it tries again; its lease ends it otherwise.
    pub(crate) until: u64,
    /// Not to be tried again until a key of the instance changes.
    pub(crate) gave_up: bool,
    pub(crate) error: String,
}

/// The mark that an instance's transaction may find and replace.
pub(crate) fn mark_is(key: &str, known: Option<Revision>) -> Compare {
    Compare::mod_revision(key, CompareOp::Equal, known.unwrap_or(0))
}

/// Everything that takes a lock and verifies that the condition still holds.
pub(crate) struct Locking<'a> {
    pub(crate) lock: &'a str,
    pub(crate) holder: &'a Holder,
    pub(crate) lease: i64,
    pub(crate) mark: &'a str,
    /// The revision of a mark that this engine may overrule.
    pub(crate) overrule: Option<Revision>,
    pub(crate) witness: &'a [Check],
    pub(crate) snapshot: &'a Snapshot,
    /// All keys of the instance, by slot.
    pub(crate) keys: &'a [String],
}

impl Locking<'_> {
    pub(crate) fn request(&self) -> Request {
        let holder = serde_json::to_vec(self.holder).unwrap_or_default();
        let absent = |key: &str| Compare::create_revision(key, CompareOp::Equal, 0);
        let mut compares = vec![absent(self.lock)];
        if !is_broken(Promise::Backoff) {
            compares.push(mark_is(self.mark, self.overrule));
        }
        if !is_broken(Promise::Witness) {
            compares.extend(self.witness.iter().map(|check| self.compare(check)));
        }
        let mut then =
            vec![TxnOp::put(self.lock, holder.clone(), Some(PutOptions::new().with_lease(self.lease)))];
        let mut writes = vec![self.lock];
        if self.overrule.is_some() {
            then.push(TxnOp::delete(self.mark, None));
            writes.push(self.mark);
        }
        let reads = [self.lock, self.mark].into_iter().chain(self.keys.iter().map(String::as_str));
        let or_else: Vec<TxnOp> = reads.clone().map(|key| TxnOp::get(key, None)).collect();
        let values: usize = self.snapshot.iter().flatten().map(|seen| seen.value.len()).sum();
        let compared: usize = self
            .witness
            .iter()
            .map(|check| match check {
                Check::ValueIs(slot) => self.seen(*slot).map_or(0, Value::len),
                Check::ValueIsNot(_, value) => value.len(),
                Check::Absent(_) | Check::Exists(_) | Check::Unchanged(_) => 0,
            })
            .sum();
        let keys: usize = reads.clone().map(|key| key.len() + OVERHEAD).sum();
        let operations = compares.len().max(or_else.len());
        let footprint = Footprint {
            reads: marks(reads),
            writes: marks(writes),
            operations,
            request_bytes: 2 * keys + compared + holder.len(),
            response_bytes: keys + values,
            puts: true,
            solo: false,
        };
        Request { txn: Txn::new().when(compares).and_then(then).or_else(or_else), footprint }
    }

    fn seen(&self, slot: u8) -> Option<&Value> {
        self.snapshot[slot as usize].as_ref().map(|seen| &seen.value)
    }

    fn compare(&self, check: &Check) -> Compare {
        let key = |slot: u8| self.keys[slot as usize].as_str();
        match check {
            Check::Absent(slot) => Compare::create_revision(key(*slot), CompareOp::Equal, 0),
            Check::Exists(slot) => Compare::create_revision(key(*slot), CompareOp::Greater, 0),
            Check::ValueIs(slot) => {
                let value = self.seen(*slot).cloned().unwrap_or_default();
                Compare::value(key(*slot), CompareOp::Equal, value)
            }
            Check::ValueIsNot(slot, value) => Compare::value(key(*slot), CompareOp::NotEqual, value.clone()),
            Check::Unchanged(slot) => {
                let revision = self.snapshot[*slot as usize].as_ref().map_or(0, |seen| seen.mod_revision);
                Compare::mod_revision(key(*slot), CompareOp::Equal, revision)
            }
        }
    }

    /// Reads the answer.
    pub(crate) fn read(&self, reply: Reply) -> Locked {
        if reply.succeeded {
            return Locked::Won(Fence { key: self.lock.to_owned(), create_revision: reply.revision });
        }
        let revision = reply.revision;
        let mut found = reply.responses.into_iter().map(only_key);
        let lock = found.next().flatten();
        let mark = found.next().flatten();
        if let Some(lock) = lock {
            let holder: Option<Holder> = serde_json::from_slice(&lock.value).ok();
            if lock.lease == self.lease && holder.as_ref().is_some_and(|h| h.nonce == self.holder.nonce) {
                let create_revision = lock.create_revision;
                return Locked::Won(Fence { key: self.lock.to_owned(), create_revision });
            }
            let create_revision = lock.create_revision;
            return Locked::Held { create_revision, lease: lock.lease, holder, at: revision };
        }
        match mark {
            Some(kv) if Some(kv.mod_revision) != self.overrule => Locked::Marked {
                revision: kv.mod_revision,
                mark: serde_json::from_slice(&kv.value).ok(),
                at: revision,
            },
            mark => {
                let changes = self.keys.iter().zip(found).map(|(key, kv)| as_change(key, kv, revision));
                let mark_gone = self.overrule.is_some() && mark.is_none();
                Locked::Untrue { changes: changes.collect(), mark_gone }
            }
        }
    }
}

/// How an attempt to take a lock ended.
#[derive(Debug)]
pub(crate) enum Locked {
    /// The lock is ours, and the condition held when it was taken.
    Won(Fence),
    /// Somebody holds the lock; seen at the store's revision `at`.
    Held { create_revision: Revision, lease: i64, holder: Option<Holder>, at: Revision },
    /// The instance is held back after a failure.
    Marked { revision: Revision, mark: Option<Mark>, at: Revision },
    /// The lock is free, but the condition does not hold as it was seen; what the keys hold now.
    Untrue { changes: Vec<Change>, mark_gone: bool },
}

/// Bytes of protocol around a key in a request or response, roughly.
const OVERHEAD: usize = 64;

fn marks<'k>(keys: impl IntoIterator<Item = &'k str>) -> SmallVec<[KeyMark; 4]> {
    keys.into_iter().map(|key| KeyMark::of(key.as_bytes())).collect()
}

fn only_key(response: Option<PbTxnOpResponse>) -> Option<PbKeyValue> {
    match response {
        Some(PbTxnOpResponse::ResponseRange(range)) => range.kvs.into_iter().next(),
        _ => None,
    }
}

fn as_change(key: &str, kv: Option<PbKeyValue>, revision: Revision) -> Change {
    let key = key.as_bytes().to_vec();
    match kv {
        Some(kv) => Change::Put { key, value: kv.value.into(), revision: kv.mod_revision },
        None => Change::Delete { key, revision, how: Deletion::SeenAbsent },
    }
}

/// The mark that a transaction leaves behind.
pub(crate) struct Marking<'a> {
    pub(crate) mark: &'a Mark,
    pub(crate) lease: i64,
}

/// The transaction that ends a firing: effects if the lock is still the firing's (and whatever else
/// is expected holds), and the release of the lock with them. Without a fence (an optimistic rule)
/// the expectations decide, and that no other engine holds the instance back.
pub(crate) struct Ending<'a> {
    pub(crate) fence: Option<&'a Fence>,
    pub(crate) effects: &'a Effects,
    /// By effect: the lease of a key with a TTL.
    pub(crate) leases: &'a [Option<i64>],
    pub(crate) mark_key: &'a str,
    /// The revision of a mark that this engine may overrule (optimistic rules only).
    pub(crate) overrule: Option<Revision>,
    pub(crate) marking: Option<Marking<'a>>,
}

impl Ending<'_> {
    pub(crate) fn request(&self) -> Request {
        let Effects { changes, expectations } = self.effects;
        let unlocked = self.fence.is_none();
        let mut compares: Vec<Compare> = Vec::new();
        match self.fence {
            Some(_) if is_broken(Promise::Fence) => {}
            Some(Fence { key, create_revision }) => {
                compares.push(Compare::create_revision(key.as_str(), CompareOp::Equal, *create_revision));
            }
            None => compares.push(mark_is(self.mark_key, self.overrule)),
        }
        if !is_broken(Promise::Expectations) {
            compares.extend(expectations.iter().map(|Expectation { key, revision }| {
                Compare::mod_revision(key.as_str(), CompareOp::Equal, *revision)
            }));
        }
        let mut request_bytes = 0;
        let mut then = Vec::new();
        for (effect, lease) in changes.iter().zip(self.leases) {
            request_bytes += effect.key().len() + OVERHEAD;
            match effect {
                Effect::Put { key, value, .. } => {
                    request_bytes += value.len();
                    let options = lease.map(|lease| PutOptions::new().with_lease(lease));
                    then.push(TxnOp::put(key.as_str(), value.clone(), options));
                }
                Effect::Delete { key } => then.push(TxnOp::delete(key.as_str(), None)),
            }
        }
        let mut writes: Vec<&str> = changes.iter().map(Effect::key).collect();
        if let Some(Marking { mark, lease }) = &self.marking {
            let value = serde_json::to_vec(mark).unwrap_or_default();
            request_bytes += value.len() + OVERHEAD;
            then.push(TxnOp::put(self.mark_key, value, Some(PutOptions::new().with_lease(*lease))));
            writes.push(self.mark_key);
        } else if unlocked && self.overrule.is_some() {
            then.push(TxnOp::delete(self.mark_key, None));
            writes.push(self.mark_key);
        }
        if let Some(fence) = self.fence {
            then.push(TxnOp::delete(fence.key.as_str(), None));
            writes.push(&fence.key);
        }
        let first = self.fence.map_or(self.mark_key, |fence| &fence.key);
        let reads: Vec<&str> =
            std::iter::once(first).chain(expectations.iter().map(|e| e.key.as_str())).collect();
        let or_else: Vec<TxnOp> = reads.iter().map(|key| TxnOp::get(*key, None)).collect();
        let compared: usize = reads.iter().map(|key| key.len() + OVERHEAD).sum();
        let operations = compares.len().max(then.len()).max(or_else.len());
        let puts =
            changes.iter().any(|effect| matches!(effect, Effect::Put { .. })) || self.marking.is_some();
        let footprint = Footprint {
            reads: marks(reads),
            writes: marks(writes),
            operations,
            request_bytes: request_bytes + 2 * compared,
            response_bytes: compared + then.len() * OVERHEAD,
            puts,
            solo: false,
        };
        Request { txn: Txn::new().when(compares).and_then(then).or_else(or_else), footprint }
    }

    pub(crate) fn read(&self, reply: Reply) -> Ended {
        let revision = reply.revision;
        if reply.succeeded {
            return Ended::Committed { revision };
        }
        let mut found = reply.responses.into_iter().map(only_key);
        let first = found.next().flatten();
        let mark_absent = first.is_none();
        match (self.fence, first) {
            (Some(fence), Some(lock)) if lock.create_revision == fence.create_revision => {}
            (Some(_), _) => return Ended::FenceLost,
            (None, Some(mark)) if Some(mark.mod_revision) != self.overrule => {
                return Ended::Marked {
                    revision: mark.mod_revision,
                    mark: serde_json::from_slice(&mark.value).ok(),
                    at: revision,
                };
            }
            (None, _) => {}
        }
        let mark_gone = self.fence.is_none() && self.overrule.is_some() && mark_absent;
        let expected = self.effects.expectations.iter();
        let changes = expected.zip(found).map(|(e, kv)| as_change(&e.key, kv, revision)).collect();
        Ended::Unexpected { changes, mark_gone }
    }
}

/// How the transaction that ends a firing went.
#[derive(Debug)]
pub(crate) enum Ended {
    Committed {
        revision: Revision,
    },
    /// The lock is not this firing's any more; nothing took effect.
    FenceLost,
    /// Another engine holds the instance of an optimistic rule back; nothing took effect.
    Marked {
        revision: Revision,
        mark: Option<Mark>,
        at: Revision,
    },
    /// An expectation failed; nothing took effect, and the lock still is this firing's.
    Unexpected {
        changes: Vec<Change>,
        mark_gone: bool,
    },
}

/// Deletes a lock nobody works under, if it is still the one that was seen.
pub(crate) fn free_orphan(lock: &str, create_revision: Revision) -> Request {
    delete_if(lock, Compare::create_revision(lock, CompareOp::Equal, create_revision))
}

/// Deletes the lock of an attempt that may or may not have been taken, if it was.
pub(crate) fn free_attempt(lock: &str, holder: &Holder) -> Request {
    let value = serde_json::to_vec(holder).unwrap_or_default();
    delete_if(lock, Compare::value(lock, CompareOp::Equal, value))
}

/// Deletes a mark, if it is still the one that was seen.
pub(crate) fn clear_mark(mark: &str, revision: Revision) -> Request {
    delete_if(mark, mark_is(mark, Some(revision)))
}

fn delete_if(key: &str, compare: Compare) -> Request {
    let footprint = Footprint {
        reads: marks([key]),
        writes: marks([key]),
        operations: 1,
        request_bytes: 2 * (key.len() + OVERHEAD),
        response_bytes: OVERHEAD,
        puts: false,
        solo: false,
    };
    Request { txn: Txn::new().when([compare]).and_then([TxnOp::delete(key, None)]), footprint }
}

/// A request that failed for a reason of its own and not of the server's state.
pub(crate) fn is_at_fault(kind: FailureKind) -> bool {
    matches!(kind, FailureKind::Rejected | FailureKind::Permission | FailureKind::LeaseGone)
}
