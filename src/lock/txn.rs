//! The transactions of a firing: how they are built, and how their answers are read. Nothing here does I/O.

#[cfg(test)]
mod tests;

mod showing;
mod values;

pub(crate) use showing::{ReadKeys, Showing};
pub(crate) use values::{FoundMark, Holder, InstanceMark, MarkKind, Nonce};

use super::batch::{Footprint, KeyHash};
use super::encode::{CompareTarget, EncodedTxn, Sign};
use super::keys::Keys;
use crate::change::{Change, Deletion, Revision, Seen, Snapshot};
use crate::condition::{Check, Compiled, Slot};
use crate::etcd::{FailureKind, LeaseId};
use crate::firing::{Effect, Effects, Expectation, Expected, Fence};
use crate::mutants::{Mutant, is_active};
use crate::pattern::prefix_end;
use etcd_client::proto::{PbKeyValue, PbTxnOpResponse};
use smallvec::SmallVec;
use values::json;

/// A transaction, with what the batcher needs to know about it.
pub(crate) struct Request {
    pub(crate) txn: EncodedTxn,
    pub(crate) footprint: Footprint,
}

/// The answer of a transaction. `revision` is that of the store after the request in which it was sent.
#[derive(Debug, Default)]
pub(crate) struct Reply {
    pub(crate) revision: Revision,
    pub(crate) succeeded: bool,
    pub(crate) responses: Vec<Option<PbTxnOpResponse>>,
}

/// The mark that an instance's transaction may find and replace.
fn compare_mark(txn: &mut EncodedTxn, key: &str, known: Option<Revision>) {
    txn.compare(key, Sign::Equal, CompareTarget::Changed(known.unwrap_or(Revision::NONE)));
}

/// The transaction that takes a lock and verifies that the condition still holds.
pub(crate) struct Locking<'a> {
    pub(crate) keys: &'a Keys,
    pub(crate) holder: &'a Holder,
    pub(crate) lease: LeaseId,
    /// The revision of a mark that this engine may replace.
    pub(crate) supersedes_backoff: Option<Revision>,
    pub(crate) condition: &'a Compiled,
    pub(crate) witness: &'a [Check],
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) showing: Showing,
}

impl Locking<'_> {
    pub(crate) fn request(&self) -> Request {
        let (lock, mark) = (self.keys.lock(), self.keys.mark());
        let mut txn = EncodedTxn::with_capacity(ROOM);
        let mut compares = 1;
        txn.compare(lock, Sign::Equal, CompareTarget::Created(Revision::NONE));
        if !is_active(Mutant::Backoff) {
            compares += 1;
            compare_mark(&mut txn, mark, self.supersedes_backoff);
        }
        if !is_active(Mutant::Witness) {
            if self.showing == Showing::IfUnchanged {
                compares += self.snapshot.len();
                let slots = (0..self.snapshot.len()).map(Slot::new);
                slots.for_each(|slot| self.compare(&mut txn, &Check::Unchanged(slot)));
            } else {
                compares += self.witness.len();
                self.witness.iter().for_each(|check| self.compare(&mut txn, check));
            }
        }
        txn.then_put(lock, &self.holder.json(), Some(self.lease));
        let mut writes = Marks::from_slice(&[mark_of(lock)]);
        if self.supersedes_backoff.is_some() {
            txn.then_delete(mark);
            writes.push(mark_of(mark));
        }
        let mut operations = writes.len();
        if self.showing == Showing::Read {
            self.keys.slots().for_each(|key| txn.then_get(key));
            operations += self.snapshot.len();
        }
        let mut reads = Marks::new();
        let mut response_bytes = 0;
        for key in self.keys.all() {
            txn.else_get(key);
            reads.push(mark_of(key));
            response_bytes += key.len() + OVERHEAD;
        }
        let values: usize = self.snapshot.iter().flatten().map(|seen| seen.value.len()).sum();
        let footprint = Footprint {
            operations: compares.max(operations).max(reads.len()),
            reads,
            writes,
            request_bytes: txn.len(),
            response_bytes: response_bytes + values,
            puts: true,
            solo: false,
        };
        Request { txn, footprint }
    }

    fn compare(&self, txn: &mut EncodedTxn, check: &Check) {
        let (slot, sign, target) = match check {
            Check::Absent(slot) => (slot, Sign::Equal, CompareTarget::Created(Revision::NONE)),
            Check::Exists(slot) => (slot, Sign::Greater, CompareTarget::Created(Revision::NONE)),
            Check::ValueIs(slot) => {
                let value = self.seen(*slot).map_or(&[][..], |seen| seen.value.as_bytes());
                (slot, Sign::Equal, CompareTarget::Value(value))
            }
            Check::ValueIsNot(slot, leaf) => {
                (slot, Sign::NotEqual, CompareTarget::Value(self.condition.literal(*leaf)))
            }
            Check::Unchanged(slot) => {
                let revision = self.seen(*slot).map_or(Revision::NONE, |seen| seen.mod_revision);
                (slot, Sign::Equal, CompareTarget::Changed(revision))
            }
        };
        txn.compare(self.keys.slot(*slot), sign, target);
    }

    fn seen(&self, slot: Slot) -> Option<&Seen> {
        self.snapshot[slot.index()].as_ref()
    }

    /// Reads the answer.
    pub(crate) fn read(&self, reply: Reply) -> LockReply {
        let revision = reply.revision;
        if reply.succeeded {
            let fence = Fence { create_revision: revision };
            let writes = 1 + usize::from(self.supersedes_backoff.is_some());
            return LockReply::Won(fence, self.shown(reply.responses.into_iter().skip(writes), revision));
        }
        let mut responses = reply.responses.into_iter();
        let lock = responses.next().and_then(only_key);
        let mark = responses.next().and_then(only_key);
        if let Some(lock) = lock {
            let holder: Option<Holder> = serde_json::from_slice(&lock.value).ok();
            let create_revision = Revision::new(lock.create_revision);
            let under = LeaseId::new(lock.lease);
            if under == self.lease && holder.as_ref().is_some_and(|h| h.nonce == self.holder.nonce) {
                let fence = Fence { create_revision };
                // An earlier request took it, whose answer is lost.
                return match self.showing {
                    Showing::Read if !self.is_proven_by(responses.clone()) => LockReply::Outdated,
                    _ => LockReply::Won(fence, self.shown(responses, revision)),
                };
            }
            return LockReply::Held { create_revision, lease: under, holder, at: revision };
        }
        match mark {
            Some(kv) if Some(Revision::new(kv.mod_revision)) != self.supersedes_backoff => {
                LockReply::Marked(FoundMark::read(self.keys.mark(), &kv, revision))
            }
            mark => {
                let mark_gone = self.supersedes_backoff.is_some() && mark.is_none();
                if self.showing == Showing::IfUnchanged && !mark_gone && self.is_proven_by(responses.clone())
                {
                    return LockReply::Changed;
                }
                LockReply::Untrue { changes: self.changes(responses, revision), mark_gone }
            }
        }
    }
}

/// What the reply to one transaction that takes a lock says. The outcome of an attempt is another type, because an
/// attempt may go on after a reply, or end without one.
#[derive(Debug)]
pub(crate) enum LockReply {
    /// The lock is ours, and the condition held when it was taken. With what the transaction has read, if it did.
    Won(Fence, Option<ReadKeys>),
    /// The lock is free and the condition holds, but a key that was to be shown has changed.
    Changed,
    /// The lock is ours. But the answer that told what the callback is to be shown is lost, and the condition holds
    /// no more.
    Outdated,
    /// Somebody else holds the lock. It was seen at the store's revision `at`.
    Held { create_revision: Revision, lease: LeaseId, holder: Option<Holder>, at: Revision },
    /// The instance is held back after a failure.
    Marked(FoundMark),
    /// The lock is free, but the condition does not hold as it was seen; what the keys hold now.
    Untrue { changes: Vec<Change>, mark_gone: bool },
}

/// An estimate of the bytes around a key in a response.
const OVERHEAD: usize = 64;

/// The bytes that suffice for the transaction of a firing with few keys.
const ROOM: usize = 512;

type Marks = SmallVec<[KeyHash; 4]>;

fn mark_of(key: &str) -> KeyHash {
    KeyHash::of(key.as_bytes())
}

/// The answer to one operation.
type Response = Option<PbTxnOpResponse>;

fn only_key(response: Response) -> Option<PbKeyValue> {
    match response {
        Some(PbTxnOpResponse::ResponseRange(range)) => range.kvs.into_iter().next(),
        _ => None,
    }
}

fn as_change(key: &str, kv: Option<PbKeyValue>, revision: Revision) -> Change {
    let key = key.as_bytes().to_vec();
    match kv {
        Some(kv) => Change::Put { key, value: kv.value.into(), revision: Revision::new(kv.mod_revision) },
        None => Change::Delete { key, revision, how: Deletion::SeenAbsent },
    }
}

/// The mark that a transaction writes.
pub(crate) struct Marking<'a> {
    pub(crate) mark: &'a InstanceMark,
    pub(crate) lease: LeaseId,
}

/// The transaction that ends a firing. If the lock is still the firing's, and the commit's expectations hold,
/// it applies the effects and releases the lock. An optimistic rule has no fence. Its effects take place if
/// the expectations hold and no other engine holds the instance back.
pub(crate) struct Ending<'a> {
    pub(crate) keys: &'a Keys,
    pub(crate) fence: Option<Fence>,
    pub(crate) effects: &'a Effects,
    /// For each effect, the lease if it puts a key with a TTL.
    pub(crate) leases: &'a [Option<LeaseId>],
    /// The revision of a mark that this engine may replace. For optimistic rules only.
    pub(crate) supersedes_backoff: Option<Revision>,
    pub(crate) marking: Option<Marking<'a>>,
}

impl Ending<'_> {
    pub(crate) fn request(&self) -> Request {
        let Effects { changes, expectations } = self.effects;
        let (lock, mark) = (self.keys.lock(), self.keys.mark());
        let mut txn = EncodedTxn::with_capacity(ROOM);
        let (mut reads, mut writes) = (Marks::new(), Marks::new());
        let (mut compares, mut response_bytes) = (0, 0);
        let mut read = |txn: &mut EncodedTxn, key: &str| {
            txn.else_get(key);
            reads.push(mark_of(key));
            response_bytes += key.len() + OVERHEAD;
        };
        match self.fence {
            Some(Fence { create_revision }) => {
                if !is_active(Mutant::Fence) {
                    compares += 1;
                    txn.compare(lock, Sign::Equal, CompareTarget::Created(create_revision));
                }
                read(&mut txn, lock);
            }
            None => {
                compares += 1;
                compare_mark(&mut txn, mark, self.supersedes_backoff);
                read(&mut txn, mark);
            }
        }
        // What is of a range concerns keys that nobody has listed.
        let mut solo = false;
        for Expectation { key, is } in expectations {
            if !is_active(Mutant::Expectations) {
                compares += 1;
                let (sign, target) = match is {
                    Expected::NoneBefore(_) => (Sign::Equal, CompareTarget::Created(Revision::NONE)),
                    Expected::NoLaterBefore(_, revision) => {
                        (Sign::Less, CompareTarget::Changed(revision.next()))
                    }
                    Expected::At(revision) => (Sign::Equal, CompareTarget::Changed(*revision)),
                    Expected::There => (Sign::Greater, CompareTarget::Created(Revision::NONE)),
                    Expected::Value(value) => (Sign::Equal, CompareTarget::Value(value.as_bytes())),
                    Expected::OtherThan(value) => (Sign::NotEqual, CompareTarget::Value(value.as_bytes())),
                };
                txn.compare_all(key, is.end().unwrap_or_default(), sign, target);
            }
            if is.end().is_none() {
                read(&mut txn, key);
            }
        }
        for Expectation { key, .. } in expectations.iter().filter(|expected| expected.is.end().is_some()) {
            solo = true;
            reads.push(mark_of(key));
        }
        let mut puts = self.marking.is_some();
        for (effect, lease) in changes.iter().zip(self.leases) {
            match effect {
                Effect::Put { key, value, .. } => {
                    puts = true;
                    txn.then_put(key, value.as_bytes(), *lease);
                }
                Effect::Delete { key } => txn.then_delete(key),
                Effect::DeletePrefix { prefix } => {
                    solo = true;
                    txn.then_delete_all(prefix, &prefix_end(prefix.as_bytes()));
                }
            }
            writes.push(mark_of(effect.key()));
        }
        if let Some(Marking { mark: value, lease }) = &self.marking {
            txn.then_put(mark, &json(value), Some(*lease));
            writes.push(mark_of(mark));
        } else if self.fence.is_none() && self.supersedes_backoff.is_some() {
            txn.then_delete(mark);
            writes.push(mark_of(mark));
        }
        if self.fence.is_some() {
            txn.then_delete(lock);
            writes.push(mark_of(lock));
        }
        let footprint = Footprint {
            operations: compares.max(writes.len()).max(reads.len()),
            request_bytes: txn.len(),
            response_bytes: response_bytes + writes.len() * OVERHEAD,
            reads,
            writes,
            puts,
            solo,
        };
        Request { txn, footprint }
    }

    pub(crate) fn read(&self, reply: Reply) -> EndReply {
        let revision = reply.revision;
        if reply.succeeded {
            return EndReply::Committed { revision };
        }
        let mut found = reply.responses.into_iter().map(only_key);
        let first = found.next().flatten();
        let mark_absent = first.is_none();
        match (self.fence, first) {
            (Some(fence), Some(lock)) if Revision::new(lock.create_revision) == fence.create_revision => {}
            (Some(_), _) => return EndReply::FenceLost,
            (None, Some(mark)) if Some(Revision::new(mark.mod_revision)) != self.supersedes_backoff => {
                return EndReply::Marked(FoundMark::read(self.keys.mark(), &mark, revision));
            }
            (None, _) => {}
        }
        let mark_gone = self.fence.is_none() && self.supersedes_backoff.is_some() && mark_absent;
        let expected = self.effects.expectations.iter().filter(|expected| expected.is.end().is_none());
        let changes = expected.zip(found).map(|(e, kv)| as_change(&e.key, kv, revision)).collect();
        EndReply::Unexpected { changes, mark_gone }
    }
}

/// What the reply to one transaction that ends a firing says. The outcome of a commit is another type, because a commit
/// may go on after a reply, or its effects may be found in etcd without one.
#[derive(Debug)]
pub(crate) enum EndReply {
    Committed {
        revision: Revision,
    },
    /// The lock is not this firing's any more, so nothing took effect.
    FenceLost,
    /// Another engine holds the instance of an optimistic rule back, so nothing took effect.
    Marked(FoundMark),
    /// An expectation failed, so nothing took effect. The lock is still this firing's.
    Unexpected {
        changes: Vec<Change>,
        mark_gone: bool,
    },
}

/// Deletes a lock under which nobody works, if it is still the one that was seen.
pub(crate) fn free_orphan(lock: &str, create_revision: Revision) -> Request {
    delete_if(lock, CompareTarget::Created(create_revision))
}

/// Deletes the lock of an attempt with an unknown result, if the attempt did take it.
pub(crate) fn free_attempt(lock: &str, holder: &Holder) -> Request {
    delete_if(lock, CompareTarget::Value(&json(holder)))
}

/// Deletes a mark, if it is still the one that was seen.
pub(crate) fn clear_mark(mark: &str, revision: Revision) -> Request {
    delete_if(mark, CompareTarget::Changed(revision))
}

fn delete_if(key: &str, is: CompareTarget<'_>) -> Request {
    let mut txn = EncodedTxn::default();
    txn.compare(key, Sign::Equal, is);
    txn.then_delete(key);
    let footprint = Footprint {
        reads: Marks::from_slice(&[mark_of(key)]),
        writes: Marks::from_slice(&[mark_of(key)]),
        operations: 1,
        request_bytes: txn.len(),
        response_bytes: OVERHEAD,
        puts: false,
        solo: false,
    };
    Request { txn, footprint }
}

/// Whether a request failed because of its content, and not because of the server's state.
pub(crate) fn is_at_fault(kind: FailureKind) -> bool {
    matches!(kind, FailureKind::Rejected | FailureKind::Permission | FailureKind::LeaseGone)
}
