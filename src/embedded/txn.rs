//! Transactions: compares decide all branches first, then everything is checked, then it is applied.

use super::member::{Member, inner_header};
use super::range;
use super::refusal::RpcError;
use super::span::Span;
use super::store::Store;
use etcd_client::proto::{
    PbCompare, PbKeyValue, PbPutRequest, PbRangeRequest, PbResponseOp, PbTargetUnion, PbTxnOpRequest,
    PbTxnOpResponse, PbTxnRequest, PbTxnRequestOp, PbTxnResponse,
};
use std::cmp::Ordering;

/// Which branch a transaction takes, and the nested ones in that branch.
struct Path {
    succeeded: bool,
    nested: Vec<Path>,
}

/// Applies a checked transaction without ending the revision. Its header is to be filled in.
pub(super) fn apply(member: &mut Member, request: &PbTxnRequest) -> Result<PbTxnResponse, RpcError> {
    let path = path(&member.store, request);
    if !is_read_only(request) {
        each_operation(request, &path, &mut |operation| match operation {
            PbTxnOpRequest::RequestPut(put) => check_put(member, put),
            _ => Ok(()),
        })?;
    }
    each_operation(request, &path, &mut |operation| match operation {
        PbTxnOpRequest::RequestRange(range) => check_range(&member.store, range),
        _ => Ok(()),
    })?;
    apply_branch(member, request, &path)
}

/// True if the transaction itself puts something. etcd does not look into nested ones when space is out.
pub(super) fn has_direct_put(request: &PbTxnRequest) -> bool {
    let mut operations = request.success.iter().chain(&request.failure);
    operations.any(|operation| matches!(operation.request, Some(PbTxnOpRequest::RequestPut(_))))
}

/// True if it only reads. A nested transaction counts as a write, whatever it does.
pub(super) fn is_read_only(request: &PbTxnRequest) -> bool {
    let mut operations = request.success.iter().chain(&request.failure);
    operations.all(|operation| matches!(operation.request, Some(PbTxnOpRequest::RequestRange(_))))
}

fn branch<'a>(request: &'a PbTxnRequest, path: &Path) -> &'a [PbTxnRequestOp] {
    if path.succeeded { &request.success } else { &request.failure }
}

fn path(store: &Store, request: &PbTxnRequest) -> Path {
    let mut path = Path { succeeded: request.compare.iter().all(|c| holds(store, c)), nested: Vec::new() };
    for operation in branch(request, &path) {
        if let Some(PbTxnOpRequest::RequestTxn(nested)) = &operation.request {
            path.nested.push(self::path(store, nested));
        }
    }
    path
}

fn each_operation(
    request: &PbTxnRequest,
    path: &Path,
    check: &mut dyn FnMut(&PbTxnOpRequest) -> Result<(), RpcError>,
) -> Result<(), RpcError> {
    let mut nested = path.nested.iter();
    for operation in branch(request, path) {
        match &operation.request {
            Some(PbTxnOpRequest::RequestTxn(request)) => {
                if let Some(path) = nested.next() {
                    each_operation(request, path, check)?;
                }
            }
            Some(operation) => check(operation)?,
            None => {}
        }
    }
    Ok(())
}

fn check_put(member: &Member, put: &PbPutRequest) -> Result<(), RpcError> {
    if (put.ignore_value || put.ignore_lease) && member.store.get(&put.key).is_none() {
        return Err(RpcError::KEY_NOT_FOUND);
    }
    if put.lease != 0 && !member.leases.exists(put.lease) {
        return Err(RpcError::LEASE_NOT_FOUND);
    }
    Ok(())
}

/// Against the state before the transaction; a negative revision is older than any compaction.
fn check_range(store: &Store, range: &PbRangeRequest) -> Result<(), RpcError> {
    match range.revision {
        0 => Ok(()),
        revision if revision > store.revision() => Err(RpcError::FUTURE_REVISION),
        revision if revision < store.compacted() => Err(RpcError::COMPACTED),
        _ => Ok(()),
    }
}

fn apply_branch(member: &mut Member, request: &PbTxnRequest, path: &Path) -> Result<PbTxnResponse, RpcError> {
    let mut nested = path.nested.iter();
    let mut responses = Vec::new();
    for operation in branch(request, path) {
        let response = match &operation.request {
            Some(PbTxnOpRequest::RequestRange(request)) => {
                Some(PbTxnOpResponse::ResponseRange(range::apply(&member.store, request)?))
            }
            Some(PbTxnOpRequest::RequestPut(request)) => {
                Some(PbTxnOpResponse::ResponsePut(member.apply_put(request)))
            }
            Some(PbTxnOpRequest::RequestDeleteRange(request)) => {
                Some(PbTxnOpResponse::ResponseDeleteRange(member.apply_delete(request)))
            }
            Some(PbTxnOpRequest::RequestTxn(request)) => match nested.next() {
                Some(path) => Some(PbTxnOpResponse::ResponseTxn(apply_branch(member, request, path)?)),
                None => None,
            },
            None => None,
        };
        responses.push(PbResponseOp { response });
    }
    // A nested header stays empty: etcd fills in that of the whole transaction only.
    Ok(PbTxnResponse { header: Some(inner_header(0)), succeeded: path.succeeded, responses })
}

/// A compare over a span holds if it holds for every key there.
fn holds(store: &Store, compare: &PbCompare) -> bool {
    const VALUE: i32 = 3;
    let span = Span::new(&compare.key, &compare.range_end);
    let mut found = store.range(&span, store.revision()).peekable();
    if found.peek().is_none() {
        // A missing value can't be written down, so no comparison with one holds.
        return compare.target != VALUE && holds_for(compare, &PbKeyValue::default());
    }
    found.all(|kv| holds_for(compare, kv))
}

/// The numbers are those of the protocol; an operand of another kind than the target counts as 0 or empty.
fn holds_for(compare: &PbCompare, kv: &PbKeyValue) -> bool {
    let operand = &compare.target_union;
    let ordering = match compare.target {
        0 => kv.version.cmp(&match operand {
            Some(PbTargetUnion::Version(version)) => *version,
            _ => 0,
        }),
        1 => kv.create_revision.cmp(&match operand {
            Some(PbTargetUnion::CreateRevision(revision)) => *revision,
            _ => 0,
        }),
        2 => kv.mod_revision.cmp(&match operand {
            Some(PbTargetUnion::ModRevision(revision)) => *revision,
            _ => 0,
        }),
        3 => kv.value.as_slice().cmp(match operand {
            Some(PbTargetUnion::Value(value)) => value.as_slice(),
            _ => &[],
        }),
        4 => kv.lease.cmp(&match operand {
            Some(PbTargetUnion::Lease(lease)) => *lease,
            _ => 0,
        }),
        _ => Ordering::Equal,
    };
    match compare.result {
        0 => ordering.is_eq(),
        1 => ordering.is_gt(),
        2 => ordering.is_lt(),
        3 => ordering.is_ne(),
        _ => true,
    }
}
