//! What etcd refuses before it looks at its store: malformed requests, and transactions that contradict themselves.

use super::refusal::RpcError;
use etcd_client::proto::{
    PbDeleteRequest, PbPutRequest, PbRangeRequest, PbTxnOpRequest, PbTxnRequest, PbTxnRequestOp,
};
use std::collections::BTreeSet;

/// Operations in a transaction: the largest of compares, successes and failures, added along nested ones.
const MAX_TXN_OPS: usize = 128;

pub(super) fn range(request: &PbRangeRequest) -> Result<(), RpcError> {
    has_key(&request.key)
}

pub(super) fn put(request: &PbPutRequest) -> Result<(), RpcError> {
    has_key(&request.key)?;
    if request.ignore_value && !request.value.is_empty() {
        return Err(RpcError::VALUE_PROVIDED);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(RpcError::LEASE_PROVIDED);
    }
    Ok(())
}

pub(super) fn delete(request: &PbDeleteRequest) -> Result<(), RpcError> {
    has_key(&request.key)
}

pub(super) fn txn(request: &PbTxnRequest) -> Result<(), RpcError> {
    level(request, MAX_TXN_OPS)?;
    writes(&request.success)?;
    writes(&request.failure)?;
    Ok(())
}

fn has_key(key: &[u8]) -> Result<(), RpcError> {
    if key.is_empty() { Err(RpcError::EMPTY_KEY) } else { Ok(()) }
}

fn level(request: &PbTxnRequest, allowed: usize) -> Result<(), RpcError> {
    let operations = request.compare.len().max(request.success.len()).max(request.failure.len());
    let left = allowed.checked_sub(operations).ok_or(RpcError::TOO_MANY_OPS)?;
    request.compare.iter().try_for_each(|compare| has_key(&compare.key))?;
    request.success.iter().chain(&request.failure).try_for_each(|operation| match &operation.request {
        Some(PbTxnOpRequest::RequestRange(request)) => range(request),
        Some(PbTxnOpRequest::RequestPut(request)) => put(request),
        Some(PbTxnOpRequest::RequestDeleteRange(request)) => delete(request),
        Some(PbTxnOpRequest::RequestTxn(request)) => level(request, left),
        None => Err(RpcError::KEY_NOT_FOUND),
    })
}

/// The keys that a list of operations may put, and the spans it may delete.
#[derive(Default)]
struct Writes<'a> {
    puts: BTreeSet<&'a [u8]>,
    deletes: Vec<(&'a [u8], &'a [u8])>,
}

impl Writes<'_> {
    /// As etcd sees it: a deletion "from a key on" has the literal end `\0` here and overlaps nothing.
    fn deletes(&self, key: &[u8]) -> bool {
        self.deletes.iter().any(|&(start, end)| match end {
            [] => key == start,
            end => key >= start && key < end,
        })
    }
}

/// Refuses a key that is put twice, or deleted and put, except in branches that exclude each other.
fn writes(operations: &[PbTxnRequestOp]) -> Result<Writes<'_>, RpcError> {
    let mut all = Writes::default();
    for operation in operations {
        if let Some(PbTxnOpRequest::RequestDeleteRange(request)) = &operation.request {
            all.deletes.push((&request.key, &request.range_end));
        }
    }
    for operation in operations {
        let Some(PbTxnOpRequest::RequestTxn(nested)) = &operation.request else { continue };
        let success = writes(&nested.success)?;
        let failure = writes(&nested.failure)?;
        for &key in &success.puts {
            if all.deletes(key) || !all.puts.insert(key) {
                return Err(RpcError::DUPLICATE_KEY);
            }
        }
        for &key in &failure.puts {
            if all.deletes(key) || (!all.puts.insert(key) && !success.puts.contains(key)) {
                return Err(RpcError::DUPLICATE_KEY);
            }
        }
        all.deletes.extend(success.deletes);
        all.deletes.extend(failure.deletes);
    }
    for operation in operations {
        if let Some(PbTxnOpRequest::RequestPut(request)) = &operation.request
            && (all.deletes(&request.key) || !all.puts.insert(&request.key))
        {
            return Err(RpcError::DUPLICATE_KEY);
        }
    }
    Ok(all)
}
