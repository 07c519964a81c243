//! Leases: granted, renewed, expired. Pure: the time is passed in.

use super::refusal::RpcError;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// The least TTL with etcd's default election time-outs, in seconds.
const MIN_TTL: i64 = 2;
const MAX_TTL: i64 = 9_000_000_000;
/// Where the ids begin that the server chooses.
const FIRST_ID: i64 = 0x0e7c_d000_0000_0001;

#[derive(Clone, Debug)]
struct Lease {
    ttl: i64,
    expires: Instant,
    keys: BTreeSet<Vec<u8>>,
}

/// What is told about a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LeaseInfo {
    pub(super) granted: i64,
    pub(super) remaining: i64,
    pub(super) keys: Vec<Vec<u8>>,
}

/// All leases of a server.
#[derive(Clone, Debug)]
pub(super) struct Leases {
    leases: BTreeMap<i64, Lease>,
    by_expiry: BTreeSet<(Instant, i64)>,
    next_id: i64,
}

impl Leases {
    pub(super) fn new() -> Self {
        Self { leases: BTreeMap::new(), by_expiry: BTreeSet::new(), next_id: FIRST_ID }
    }

    /// Grants a lease; an id of 0 lets the server choose. Returns id and TTL.
    pub(super) fn grant(&mut self, id: i64, ttl: i64, now: Instant) -> Result<(i64, i64), RpcError> {
        let id = if id == 0 { self.free_id() } else { id };
        if ttl > MAX_TTL {
            return Err(RpcError::LEASE_TTL_TOO_LARGE);
        }
        if self.exists(id) {
            return Err(RpcError::LEASE_EXISTS);
        }
        let ttl = ttl.max(MIN_TTL);
        let expires = expiry(ttl, now);
        self.leases.insert(id, Lease { ttl, expires, keys: BTreeSet::new() });
        self.by_expiry.insert((expires, id));
        Ok((id, ttl))
    }

    fn free_id(&mut self) -> i64 {
        loop {
            let id = self.next_id;
            self.next_id = if id == i64::MAX { 1 } else { id + 1 };
            if !self.exists(id) {
                return id;
            }
        }
    }

    pub(super) fn exists(&self, id: i64) -> bool {
        self.leases.contains_key(&id)
    }

    /// Starts the life of a lease again. Returns its TTL.
    pub(super) fn renew(&mut self, id: i64, now: Instant) -> Option<i64> {
        let lease = self.leases.get_mut(&id)?;
        self.by_expiry.remove(&(lease.expires, id));
        lease.expires = expiry(lease.ttl, now);
        self.by_expiry.insert((lease.expires, id));
        Some(lease.ttl)
    }

    /// Starts all lives again, as a new leader does.
    pub(super) fn renew_all(&mut self, now: Instant) {
        let ids: Vec<i64> = self.leases.keys().copied().collect();
        for id in ids {
            self.renew(id, now);
        }
    }

    /// Ends a lease. Returns the keys to delete, in order.
    pub(super) fn remove(&mut self, id: i64) -> Option<BTreeSet<Vec<u8>>> {
        let lease = self.leases.remove(&id)?;
        self.by_expiry.remove(&(lease.expires, id));
        Some(lease.keys)
    }

    pub(super) fn attach(&mut self, id: i64, key: &[u8]) {
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.keys.insert(key.to_vec());
        }
    }

    pub(super) fn detach(&mut self, id: i64, key: &[u8]) {
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.keys.remove(key);
        }
    }

    /// The keys of a lease; none if there is no such lease.
    pub(super) fn keys(&self, id: i64) -> impl Iterator<Item = &Vec<u8>> {
        self.leases.get(&id).into_iter().flat_map(|lease| &lease.keys)
    }

    pub(super) fn info(&self, id: i64, now: Instant) -> Option<LeaseInfo> {
        let lease = self.leases.get(&id)?;
        Some(LeaseInfo {
            granted: lease.ttl,
            remaining: lease.expires.saturating_duration_since(now).as_secs() as i64,
            keys: lease.keys.iter().cloned().collect(),
        })
    }

    /// The ids, those that expire first before the others.
    pub(super) fn ids(&self) -> Vec<i64> {
        self.by_expiry.iter().map(|&(_, id)| id).collect()
    }

    /// All leases and their TTLs, by id.
    pub(super) fn all(&self) -> impl Iterator<Item = (i64, i64)> {
        self.leases.iter().map(|(&id, lease)| (id, lease.ttl))
    }

    /// The lease that has expired, the earliest first.
    pub(super) fn next_expired(&self, now: Instant) -> Option<i64> {
        let &(expires, id) = self.by_expiry.first()?;
        (expires <= now).then_some(id)
    }

    /// When the next lease expires.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.by_expiry.first().map(|&(expires, _)| expires)
    }
}

fn expiry(ttl: i64, now: Instant) -> Instant {
    let ttl = Duration::from_secs(u64::try_from(ttl).unwrap_or(0));
    now.checked_add(ttl).unwrap_or_else(|| now + Duration::from_secs(100 * 365 * 86_400))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_expire_in_order_and_a_renewal_begins_anew() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut leases = Leases::new();
        assert_eq!(leases.grant(7, 5, start), Ok((7, 5)));
        assert_eq!(leases.grant(8, 1, start), Ok((8, MIN_TTL)));
        assert_eq!(leases.grant(8, 1, start), Err(RpcError::LEASE_EXISTS));
        assert_eq!(leases.ids(), [8, 7]);
        assert_eq!(leases.next_expired(after(1)), None);
        assert_eq!(leases.next_expired(after(2)), Some(8));
        assert_eq!(leases.renew(8, after(1)), Some(2));
        assert_eq!(leases.next_expiry(), Some(after(3)));
        leases.attach(8, b"k");
        assert_eq!(leases.info(8, after(2)).unwrap().remaining, 1);
        assert_eq!(leases.remove(8), Some(BTreeSet::from([b"k".to_vec()])));
        assert_eq!(leases.renew(8, after(2)), None);
    }
}
