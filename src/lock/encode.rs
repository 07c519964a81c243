//! Transactions as bytes, in the format that etcd expects (`etcdserverpb.TxnRequest` of its `rpc.proto`).
//!
//! etcd-client takes a transaction as a tree of structs, by value. A transaction that may have to be sent
//! again would have to be built, cloned, measured level by level, encoded and dropped, for each firing. Here
//! it is written once, key by key, and a request copies the bytes of its entries.

use crate::change::Revision;
use crate::etcd::{Identity, LeaseId};
use crate::mutants::{Mutant, is_active};
use crate::runtime::reuse;
use bytes::Bytes;
use prost::encoding::encoded_len_varint;

/// How a key is compared: `etcdserverpb.Compare.CompareResult`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sign {
    Equal = 0,
    Greater = 1,
    Less = 2,
    NotEqual = 3,
}

/// Which property of a key is compared, and with what: `etcdserverpb.Compare.CompareTarget` and its union.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CompareTarget<'a> {
    /// The revision of the key's creation. 0 if it is absent.
    Created(Revision),
    /// The revision of its last change. 0 if it is absent.
    Changed(Revision),
    Value(&'a [u8]),
}

/// A transaction: compares, and operations for success and for failure.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct EncodedTxn(reuse::Bytes);

/// Fields of `TxnRequest`.
const COMPARE: u32 = 1;
const SUCCESS: u32 = 2;
const FAILURE: u32 = 3;

/// Fields of `RequestOp`.
const RANGE: u32 = 1;
const PUT: u32 = 2;
const DELETE_RANGE: u32 = 3;
const TXN: u32 = 4;

impl EncodedTxn {
    /// An empty transaction with room for this many bytes.
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Self(reuse::Bytes::with_room(bytes))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    #[cfg(test)]
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Adds a compare. The transaction succeeds if all of its compares hold.
    pub(crate) fn compare(&mut self, key: &str, sign: Sign, target: CompareTarget<'_>) {
        self.compare_all(key, &[], sign, target);
    }

    /// Adds a compare of all keys from one on and before another, or of one key if no end is given. It holds if it
    /// holds of each, and if there are none, of an absent key.
    pub(crate) fn compare_all(&mut self, key: &str, end: &[u8], sign: Sign, target: CompareTarget<'_>) {
        const RANGE_END: u32 = 64;
        const RESULT: u32 = 1;
        const TARGET: u32 = 2;
        const KEY: u32 = 3;
        let (kind, field, with) = match target {
            CompareTarget::Created(revision) => (1, 5, Err(revision.get())),
            CompareTarget::Changed(revision) => (2, 6, Err(revision.get())),
            CompareTarget::Value(value) => (3, 7, Ok(value)),
        };
        let with_len = with.map_or_else(number_len, bytes_len);
        // Its number takes one byte more than those of the other fields.
        let end_len = if end.is_empty() { 0 } else { 1 + bytes_len(end) };
        self.begin(COMPARE, 2 * number_len(0) + bytes_len(key.as_bytes()) + with_len + end_len);
        self.number(RESULT, sign as i64);
        self.number(TARGET, kind);
        self.bytes(KEY, key.as_bytes());
        match with {
            Ok(value) => self.bytes(field, value),
            Err(revision) => self.number(field, revision),
        }
        if !end.is_empty() {
            self.bytes(RANGE_END, end);
        }
    }

    /// Adds a put for the case of success, attached to a lease if one is given.
    pub(crate) fn then_put(&mut self, key: &str, value: &[u8], lease: Option<LeaseId>) {
        const KEY: u32 = 1;
        const VALUE: u32 = 2;
        const LEASE: u32 = 3;
        let length =
            bytes_len(key.as_bytes()) + bytes_len(value) + lease.map_or(0, |lease| number_len(lease.get()));
        self.operation(SUCCESS, PUT, length);
        self.bytes(KEY, key.as_bytes());
        self.bytes(VALUE, value);
        if let Some(lease) = lease {
            self.number(LEASE, lease.get());
        }
    }

    /// Adds the deletion of a key for the case of success.
    pub(crate) fn then_delete(&mut self, key: &str) {
        self.operation_on_key(SUCCESS, DELETE_RANGE, key);
    }

    /// Adds the deletion of all keys from one on and before another for the case of success.
    pub(crate) fn then_delete_all(&mut self, key: &str, end: &[u8]) {
        const KEY: u32 = 1;
        const RANGE_END: u32 = 2;
        self.operation(SUCCESS, DELETE_RANGE, bytes_len(key.as_bytes()) + bytes_len(end));
        self.bytes(KEY, key.as_bytes());
        self.bytes(RANGE_END, end);
    }

    /// Adds the read of a key for the case of success.
    pub(crate) fn then_get(&mut self, key: &str) {
        self.operation_on_key(SUCCESS, RANGE, key);
    }

    /// Adds the read of a key for the case of failure.
    pub(crate) fn else_get(&mut self, key: &str) {
        self.operation_on_key(FAILURE, RANGE, key);
    }

    fn operation_on_key(&mut self, branch: u32, operation: u32, key: &str) {
        const KEY: u32 = 1;
        self.operation(branch, operation, bytes_len(key.as_bytes()));
        self.bytes(KEY, key.as_bytes());
    }

    /// Writes the head of a `RequestOp` around an operation of `length` bytes.
    fn operation(&mut self, branch: u32, operation: u32, length: usize) {
        begin_operation(&mut self.0, branch, operation, length);
    }

    fn begin(&mut self, field: u32, length: usize) {
        begin(&mut self.0, field, length);
    }

    fn bytes(&mut self, field: u32, bytes: &[u8]) {
        self.begin(field, bytes.len());
        self.0.extend_from_slice(bytes);
    }

    fn number(&mut self, field: u32, number: i64) {
        varint(&mut self.0, tag(field, VARINT));
        varint(&mut self.0, number as u64);
    }
}

/// The part of an outer transaction by which a store refuses what is meant for another: a compare of its identity,
/// and a read of it after all else that a refused transaction reads.
pub(crate) fn guard(identity: &Identity) -> EncodedTxn {
    let mut guard = EncodedTxn::default();
    if !is_active(Mutant::Identity) {
        guard.compare(identity.key(), Sign::Equal, CompareTarget::Value(identity.value()));
    }
    guard.else_get(identity.key());
    guard
}

/// This transaction alone.
pub(crate) fn alone(txn: &EncodedTxn, guard: &EncodedTxn) -> Bytes {
    let mut body = Vec::with_capacity(txn.len() + guard.len());
    body.extend_from_slice(&txn.0);
    body.extend_from_slice(&guard.0);
    body.into()
}

/// An outer transaction that contains all of these, with no compares but those of its guard. Each nested transaction
/// decides by itself.
pub(crate) fn nested<'a>(txns: impl Iterator<Item = &'a EncodedTxn> + Clone, guard: &EncodedTxn) -> Bytes {
    let length = |txn: &EncodedTxn| {
        let operation = message_len(txn.len());
        message_len(operation)
    };
    let mut body = Vec::with_capacity(guard.len() + txns.clone().map(length).sum::<usize>());
    body.extend_from_slice(&guard.0);
    for txn in txns {
        begin_operation(&mut body, SUCCESS, TXN, txn.len());
        body.extend_from_slice(&txn.0);
    }
    body.into()
}

fn begin(buffer: &mut Vec<u8>, field: u32, length: usize) {
    varint(buffer, tag(field, LENGTH_DELIMITED));
    varint(buffer, length as u64);
}

fn begin_operation(buffer: &mut Vec<u8>, branch: u32, operation: u32, length: usize) {
    begin(buffer, branch, message_len(length));
    begin(buffer, operation, length);
}

/// Wire types.
const VARINT: u64 = 0;
const LENGTH_DELIMITED: u64 = 2;

fn tag(field: u32, wire_type: u64) -> u64 {
    u64::from(field) << 3 | wire_type
}

/// Mostly one byte, or two.
fn varint(buffer: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        buffer.push(number as u8 | 0x80);
        number >>= 7;
    }
    buffer.push(number as u8);
}

/// The length of a field with `length` bytes in it. All fields here have numbers below 16, so the tag is one byte.
fn message_len(length: usize) -> usize {
    1 + encoded_len_varint(length as u64) + length
}

fn bytes_len(bytes: &[u8]) -> usize {
    message_len(bytes.len())
}

fn number_len(number: i64) -> usize {
    1 + encoded_len_varint(number as u64)
}

#[cfg(test)]
mod tests;
