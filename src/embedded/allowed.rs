//! What the caller of a request may do to the store. Pure.

use super::auth::Caller;
use super::member::Member;
use super::permissions::Access;
use super::refusal::RpcError;
use super::span::Span;
use etcd_client::proto::{
    PbDeleteRequest, PbPutRequest, PbRangeRequest, PbTxnOpRequest, PbTxnRequest, PbTxnRequestOp,
};

impl Member {
    fn may(&self, access: Access, key: &[u8], end: &[u8]) -> Result<(), RpcError> {
        self.auth.check(&self.caller, access, &Span::new(key, end))
    }

    /// Trusted callers, and everybody while authentication is off, are not looked at any closer.
    fn is_free(&self) -> bool {
        !self.auth.is_enabled() || self.caller == Caller::Trusted
    }

    pub(super) fn may_range(&self, request: &PbRangeRequest) -> Result<(), RpcError> {
        self.may(Access::Read, &request.key, &request.range_end)
    }

    /// For a watch of `key` to `end`, on behalf of another caller than that of a request.
    pub(super) fn may_watch(&self, caller: &Caller, key: &[u8], end: &[u8]) -> Result<(), RpcError> {
        self.auth.check(caller, Access::Read, &Span::new(key, end))
    }

    pub(super) fn may_put(&self, request: &PbPutRequest) -> Result<(), RpcError> {
        self.may(Access::Write, &request.key, &[])?;
        // Who may not revoke a lease may not add keys to it.
        self.may_revoke(request.lease)?;
        if request.prev_kv { self.may(Access::Read, &request.key, &[]) } else { Ok(()) }
    }

    pub(super) fn may_delete(&self, request: &PbDeleteRequest) -> Result<(), RpcError> {
        self.may(Access::Write, &request.key, &request.range_end)?;
        if request.prev_kv { self.may(Access::Read, &request.key, &request.range_end) } else { Ok(()) }
    }

    /// All compares and operations, whichever branch is taken.
    pub(super) fn may_txn(&self, request: &PbTxnRequest) -> Result<(), RpcError> {
        if self.is_free() {
            return Ok(());
        }
        for compare in &request.compare {
            self.may(Access::Read, &compare.key, &compare.range_end)?;
        }
        self.may_all(&request.success)?;
        self.may_all(&request.failure)
    }

    fn may_all(&self, operations: &[PbTxnRequestOp]) -> Result<(), RpcError> {
        operations.iter().filter_map(|operation| operation.request.as_ref()).try_for_each(|operation| {
            match operation {
                PbTxnOpRequest::RequestRange(range) => self.may_range(range),
                // As in etcd 3.4.23, the lease of a put in a transaction is not looked at.
                PbTxnOpRequest::RequestPut(put) => self.may(Access::Write, &put.key, &[]),
                PbTxnOpRequest::RequestDeleteRange(delete) => {
                    if delete.prev_kv {
                        self.may(Access::Read, &delete.key, &delete.range_end)?;
                    }
                    self.may(Access::Write, &delete.key, &delete.range_end)
                }
                // As in etcd 3.4.23, nobody looks into nested transactions.
                PbTxnOpRequest::RequestTxn(_) => Ok(()),
            }
        })
    }

    /// A lease ends with its keys, so that who revokes it must be allowed to delete all of them.
    pub(super) fn may_revoke(&self, lease: i64) -> Result<(), RpcError> {
        if self.is_free() || self.auth.check_admin(&self.caller).is_ok() {
            return Ok(());
        }
        self.leases.keys(lease).try_for_each(|key| self.may(Access::Write, key, &[]))
    }
}
