//! A member: its store, leases and alarms, and what each request does to them. Pure: the time is passed in.

use super::auth::{Auth, Caller};
use super::check::MAX_REQUEST_BYTES;
use super::lease::{LeaseInfo, Leases};
use super::refusal::RpcError;
use super::span::Span;
use super::store::Store;
use super::{check, range, txn};
use etcd_client::proto::{
    PbCompactionRequest, PbCompactionResponse, PbDeleteRequest, PbDeleteResponse, PbPutRequest,
    PbPutResponse, PbRangeRequest, PbRangeResponse, PbResponseHeader, PbTxnRequest, PbTxnResponse,
};
use prost::Message;
use std::collections::BTreeSet;
use tokio::time::Instant;

/// The alarm about space, as the protocol numbers it.
pub(super) const ALARM_NO_SPACE: i32 = 1;
const FIRST_CLUSTER: u64 = 0x0e7c_d0c1_0000_0001;
const MEMBER: u64 = 0x0e7c_d0ee_0000_0001;

/// Everything that a server knows. A copy is what a restart goes back to.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) store: Store,
    pub(super) leases: Leases,
    pub(super) auth: Auth,
    /// The number of the member that answers.
    pub(super) speaker: usize,
    /// On whose behalf the request is that is being applied.
    pub(super) caller: Caller,
    /// Raised alarms, as (kind, member).
    pub(super) alarms: BTreeSet<(i32, u64)>,
    cluster_id: u64,
    raft_term: u64,
    /// Counts what etcd would write to its log.
    raft_index: u64,
}

impl Member {
    pub(super) fn new() -> Self {
        Self {
            store: Store::new(),
            leases: Leases::new(),
            auth: Auth::new(),
            speaker: 0,
            caller: Caller::Trusted,
            alarms: BTreeSet::new(),
            cluster_id: FIRST_CLUSTER,
            raft_term: 2,
            raft_index: 4,
        }
    }

    /// An empty server of another cluster.
    pub(super) fn of_next_cluster(&self) -> Self {
        Self { cluster_id: self.cluster_id + 1, ..Self::new() }
    }

    /// As it comes out of a backup: a log that begins.
    pub(super) fn into_restored(self) -> Self {
        Self { raft_term: 1, raft_index: 4, ..self }
    }

    /// The id of a member, by its number.
    pub(super) fn id_of(number: usize) -> u64 {
        MEMBER + number as u64
    }

    pub(super) fn raft_term(&self) -> u64 {
        self.raft_term
    }

    pub(super) fn raft_index(&self) -> u64 {
        self.raft_index
    }

    pub(super) fn header(&self) -> PbResponseHeader {
        self.header_at(self.store.revision())
    }

    pub(super) fn header_at(&self, revision: i64) -> PbResponseHeader {
        PbResponseHeader {
            cluster_id: self.cluster_id,
            member_id: Self::id_of(self.speaker),
            revision,
            raft_term: self.raft_term,
        }
    }

    /// Becomes the leader of a new term: every lease gets its whole life again.
    pub(super) fn new_term(&mut self, now: Instant) {
        self.raft_term += 1;
        self.raft_index += 1;
        self.leases.renew_all(now);
    }

    /// Revokes what has expired, the earliest first, each lease in a revision of its own.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some(id) = self.leases.next_expired(now) {
            self.end_lease(id);
        }
    }

    pub(super) fn range(&mut self, request: &PbRangeRequest) -> Result<PbRangeResponse, RpcError> {
        check::range(request)?;
        self.may_range(request)?;
        let mut response = range::apply(&self.store, request)?;
        response.header = Some(self.header());
        Ok(response)
    }

    /// A read of what there was at a revision, by one that knows nothing later.
    pub(super) fn range_as_of(
        &mut self,
        request: &PbRangeRequest,
        applied: i64,
    ) -> Result<PbRangeResponse, RpcError> {
        if request.revision > applied {
            return Err(RpcError::FUTURE_REVISION);
        }
        let revision = if request.revision > 0 { request.revision } else { applied };
        let mut response = self.range(&PbRangeRequest { revision, ..request.clone() })?;
        response.header = Some(self.header_at(applied));
        Ok(response)
    }

    pub(super) fn put(&mut self, request: &PbPutRequest) -> Result<PbPutResponse, RpcError> {
        check::put(request)?;
        check_size(request)?;
        self.raft_index += 1;
        if self.is_full() {
            return Err(RpcError::NO_SPACE);
        }
        self.may_put(request)?;
        if request.lease != 0 && !self.leases.exists(request.lease) {
            return Err(RpcError::LEASE_NOT_FOUND);
        }
        if (request.ignore_value || request.ignore_lease) && self.store.get(&request.key).is_none() {
            return Err(RpcError::KEY_NOT_FOUND);
        }
        let mut response = self.apply_put(request);
        self.store.commit();
        response.header = Some(self.header());
        Ok(response)
    }

    pub(super) fn delete(&mut self, request: &PbDeleteRequest) -> Result<PbDeleteResponse, RpcError> {
        check::delete(request)?;
        check_size(request)?;
        self.raft_index += 1;
        self.may_delete(request)?;
        let mut response = self.apply_delete(request);
        self.store.commit();
        response.header = Some(self.header());
        Ok(response)
    }

    pub(super) fn txn(&mut self, request: &PbTxnRequest) -> Result<PbTxnResponse, RpcError> {
        check::txn(request)?;
        if !txn::is_read_only(request) {
            check_size(request)?;
            self.raft_index += 1;
        }
        if self.is_full() && txn::has_direct_put(request) {
            return Err(RpcError::NO_SPACE);
        }
        self.may_txn(request)?;
        let mut response = txn::apply(self, request)?;
        self.store.commit();
        response.header = Some(self.header());
        Ok(response)
    }

    pub(super) fn compact(
        &mut self,
        request: &PbCompactionRequest,
    ) -> Result<PbCompactionResponse, RpcError> {
        self.raft_index += 1;
        self.store.compact(request.revision)?;
        Ok(PbCompactionResponse { header: Some(self.header()) })
    }

    /// A checked put, within the transaction being applied.
    pub(super) fn apply_put(&mut self, request: &PbPutRequest) -> PbPutResponse {
        let previous = self.store.get(&request.key).cloned();
        let old_lease = previous.as_ref().map_or(0, |kv| kv.lease);
        let value = match &previous {
            Some(kv) if request.ignore_value => kv.value.clone(),
            _ => request.value.clone(),
        };
        let lease = if request.ignore_lease { old_lease } else { request.lease };
        self.store.put(&request.key, value, lease);
        self.leases.detach(old_lease, &request.key);
        self.leases.attach(lease, &request.key);
        PbPutResponse {
            header: Some(inner_header(self.store.reading_revision())),
            prev_kv: previous.filter(|_| request.prev_kv).map(|kv| (*kv).clone()),
        }
    }

    /// A checked deletion, within the transaction being applied.
    pub(super) fn apply_delete(&mut self, request: &PbDeleteRequest) -> PbDeleteResponse {
        let span = Span::new(&request.key, &request.range_end);
        let found: Vec<_> = self.store.range(&span, self.store.reading_revision()).cloned().collect();
        for kv in &found {
            self.delete_key(&kv.key, kv.lease);
        }
        let deleted = found.len() as i64;
        let prev_kvs = if request.prev_kv { found } else { Vec::new() };
        PbDeleteResponse {
            header: Some(inner_header(self.store.reading_revision())),
            deleted,
            prev_kvs: prev_kvs.iter().map(|kv| (**kv).clone()).collect(),
        }
    }

    fn delete_key(&mut self, key: &[u8], lease: i64) {
        self.store.delete(key);
        self.leases.detach(lease, key);
    }

    pub(super) fn grant(&mut self, id: i64, ttl: i64, now: Instant) -> Result<(i64, i64), RpcError> {
        self.raft_index += 1;
        if self.is_full() {
            return Err(RpcError::NO_SPACE);
        }
        self.leases.grant(id, ttl, now)
    }

    pub(super) fn revoke(&mut self, id: i64) -> Result<(), RpcError> {
        self.raft_index += 1;
        self.may_revoke(id)?;
        if self.end_lease(id) { Ok(()) } else { Err(RpcError::LEASE_NOT_FOUND) }
    }

    /// Ends a lease and deletes its keys, in one revision. False if there is no such lease.
    pub(super) fn end_lease(&mut self, id: i64) -> bool {
        let Some(keys) = self.leases.remove(id) else { return false };
        for key in keys {
            self.store.delete(&key);
        }
        self.store.commit();
        true
    }

    pub(super) fn lease_info(&self, id: i64, now: Instant) -> Option<LeaseInfo> {
        self.leases.info(id, now)
    }

    /// True while the alarm about space is raised.
    pub(super) fn is_full(&self) -> bool {
        self.alarms.iter().any(|&(alarm, _)| alarm == ALARM_NO_SPACE)
    }

    pub(super) fn set_full(&mut self, full: bool) {
        if full {
            self.alarms.insert((ALARM_NO_SPACE, MEMBER));
        } else {
            self.alarms.retain(|&(alarm, _)| alarm != ALARM_NO_SPACE);
        }
    }
}

/// Refuses a write that is too large for etcd's log, with the few bytes that etcd adds to it there.
fn check_size(request: &impl Message) -> Result<(), RpcError> {
    const ENVELOPE: usize = 18;
    if request.encoded_len() + ENVELOPE > MAX_REQUEST_BYTES {
        Err(RpcError::REQUEST_TOO_LARGE)
    } else {
        Ok(())
    }
}

/// The header of an operation inside a transaction, where etcd fills in the revision only.
pub(super) fn inner_header(revision: i64) -> PbResponseHeader {
    PbResponseHeader { revision, ..PbResponseHeader::default() }
}
