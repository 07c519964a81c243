//! Locks, as etcd's lock service keeps them: a key for each lease below the lock's name, the oldest holds it. Pure.

use super::member::Member;
use super::refusal::RpcError;
use super::span::Span;
use etcd_client::proto::{PbDeleteRequest, PbPutRequest, PbResponseHeader};
use tokio::time::Instant;

/// What etcd grants, in seconds, to a client that brings no lease.
const SESSION_TTL: i64 = 60;

/// A place in the queue for a lock.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) key: Vec<u8>,
    pub(super) lease: i64,
    /// The keys below the lock's name; `0` comes after `/`.
    span: Span,
    /// Keys that were created before this one come first.
    created: i64,
}

impl Member {
    /// Takes a place, or finds the one that the lease has already.
    pub(super) fn queue_for_lock(
        &mut self,
        name: &[u8],
        lease: i64,
        now: Instant,
    ) -> Result<Place, RpcError> {
        if self.is_full() {
            // etcd's transaction has a put, needed or not.
            return Err(RpcError::NO_SPACE);
        }
        let lease = if lease == 0 { self.grant(0, SESSION_TTL, now)?.0 } else { lease };
        let prefix = [name, b"/"].concat();
        let sign = if lease < 0 { "-" } else { "" };
        let key = [&prefix, format!("{sign}{:x}", lease.unsigned_abs()).as_bytes()].concat();
        self.leases.renew(lease, now);
        let created = match self.store.get(&key) {
            Some(kv) => kv.create_revision,
            None => {
                let put = PbPutRequest { key: key.clone(), lease, ..PbPutRequest::default() };
                self.put(&put)?;
                self.store.revision()
            }
        };
        Ok(Place { key, lease, span: Span::new(&prefix, &[name, b"0"].concat()), created })
    }

    /// The header of the answer once the lock is held; `None` while somebody else is before.
    pub(super) fn lock_is_held(&self, place: &Place) -> Option<PbResponseHeader> {
        let older = |created| created < place.created;
        let mut keys = self.store.range(&place.span, self.store.revision());
        let free = !keys.any(|kv| older(kv.create_revision));
        free.then(|| self.header())
    }

    /// Deletes the key of a lock, or of a place in its queue.
    pub(super) fn unlock(&mut self, key: &[u8]) -> Result<PbResponseHeader, RpcError> {
        self.delete(&PbDeleteRequest { key: key.to_vec(), ..PbDeleteRequest::default() })?;
        Ok(self.header())
    }
}
