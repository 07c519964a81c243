//! How long a lease can be relied on, and which keys may share a lease. Nothing here does I/O or reads a
//! clock.

use crate::etcd::{Grant, LeaseId};
use crate::mutants::{Mutant, is_active};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// How long this process may rely on a lease: for the granted TTL, counted from the moment when the last
/// successful renewal was *sent*.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lifetime {
    sent: Instant,
    ttl: Duration,
}

impl Lifetime {
    pub(crate) fn new(sent: Instant, ttl: Duration) -> Self {
        Self { sent, ttl }
    }

    /// The TTL that was granted.
    pub(crate) fn ttl(&self) -> Duration {
        self.ttl
    }

    /// When to renew: twice before there is cause for worry.
    pub(crate) fn renew_at(&self) -> Instant {
        self.sent + self.ttl / 3
    }

    /// How long to wait before a failed renewal is tried again.
    pub(crate) fn retry_in(&self) -> Duration {
        (self.ttl / 20).clamp(Duration::from_millis(50), Duration::from_secs(1))
    }

    /// How long one renewal may take. If its answer is lost, there must be time for another.
    pub(crate) fn attempt(&self) -> Duration {
        self.ttl / 5
    }

    /// When the firings under the lease are cancelled.
    pub(crate) fn tell_at(&self) -> Instant {
        self.sent + self.ttl * 3 / 4
    }

    /// How long a callback may continue after it was cancelled, before it is dropped. The time that then
    /// remains of the lease makes up for clocks and threads that are not exact.
    pub(crate) fn grace(&self) -> Duration {
        grace(self.ttl)
    }
}

/// The grace under a lease with this TTL.
pub(crate) fn grace(ttl: Duration) -> Duration {
    ttl / 8
}

/// Leases shared by keys with a TTL.
///
/// A lease is granted for longer than was asked: for the TTL plus a window. Keys with the same TTL may join
/// it within the window, because they still live for at least their TTL.
#[derive(Debug, Default)]
pub(crate) struct SharedLeases {
    open: BTreeMap<Duration, Shared>,
}

#[derive(Clone, Copy, Debug)]
struct Shared {
    grant: Grant,
    keys: usize,
}

/// The most keys on one lease. etcd deletes them all at once when it ends.
const KEYS: usize = 1000;

/// A lease for a key, and the time by which the key must be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub(crate) lease: LeaseId,
    pub(crate) send_before: Instant,
}

impl SharedLeases {
    /// The window in which keys of this TTL share a lease: a fifth of it, at least a second.
    pub(crate) fn window(ttl: Duration) -> Duration {
        (ttl / 5).max(Duration::from_secs(1))
    }

    /// Joins a lease, if there is one that lives long enough.
    pub(crate) fn join(&mut self, ttl: Duration, now: Instant) -> Option<Ticket> {
        let shared = self.open.get_mut(&ttl)?;
        let ticket = ticket(&shared.grant, ttl)?;
        if now >= ticket.send_before || shared.keys >= KEYS {
            self.open.remove(&ttl);
            return None;
        }
        shared.keys += 1;
        Some(ticket)
    }

    /// Adds a lease that was granted for this TTL plus its window.
    pub(crate) fn granted(&mut self, ttl: Duration, grant: Grant) -> Option<Ticket> {
        self.open.insert(ttl, Shared { grant, keys: 1 });
        ticket(&grant, ttl)
    }

    /// Removes a lease that does not exist any more, so that no key joins it.
    pub(crate) fn forget(&mut self, lease: LeaseId) {
        self.open.retain(|_, shared| shared.grant.id != lease);
    }

    /// Removes leases that no key can join any more.
    pub(crate) fn prune(&mut self, now: Instant) {
        self.open.retain(|ttl, shared| ticket(&shared.grant, *ttl).is_some_and(|t| now < t.send_before));
    }
}

/// The key must be sent while the lease still has at least the key's TTL left. `None` if the server granted
/// less than that.
fn ticket(grant: &Grant, ttl: Duration) -> Option<Ticket> {
    let mut slack = grant.ttl.checked_sub(ttl)?;
    if is_active(Mutant::KeyTtl) {
        slack = grant.ttl;
    }
    Some(Ticket { lease: grant.id, send_before: grant.sent + slack })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const SEVEN: LeaseId = LeaseId::new(7);

    #[test]
    fn firings_are_told_and_dropped_before_the_lease_can_have_expired() {
        let sent = Instant::now();
        for seconds in [2, 5, 10, 60] {
            let ttl = seconds * SECOND;
            let life = Lifetime::new(sent, ttl);
            assert!(life.renew_at() + ttl / 3 < life.tell_at(), "there is time for a second renewal");
            assert!(life.tell_at() + life.grace() < sent + ttl, "{seconds} s");
        }
    }

    #[test]
    fn keys_join_a_lease_only_while_it_outlives_them() {
        let now = Instant::now();
        let mut leases = SharedLeases::default();
        assert_eq!(leases.join(5 * SECOND, now), None);
        let grant = Grant { id: SEVEN, ttl: 6 * SECOND, sent: now };
        assert_eq!(leases.granted(5 * SECOND, grant).map(|t| t.lease), Some(SEVEN));
        assert_eq!(leases.join(5 * SECOND, now + SECOND / 2).map(|t| t.lease), Some(SEVEN));
        assert_eq!(leases.join(4 * SECOND, now), None, "another TTL, another lease");
        assert_eq!(leases.join(5 * SECOND, now + SECOND), None, "it would expire early");
    }

    #[test]
    fn a_lease_has_a_limited_number_of_keys() {
        let now = Instant::now();
        let mut leases = SharedLeases::default();
        leases.granted(5 * SECOND, Grant { id: SEVEN, ttl: 6 * SECOND, sent: now });
        let joined = std::iter::from_fn(|| leases.join(5 * SECOND, now)).count();
        assert_eq!(joined, KEYS - 1);
    }

    #[test]
    fn a_lease_that_is_gone_is_not_joined() {
        let now = Instant::now();
        let mut leases = SharedLeases::default();
        leases.granted(5 * SECOND, Grant { id: SEVEN, ttl: 6 * SECOND, sent: now });
        leases.forget(SEVEN);
        assert_eq!(leases.join(5 * SECOND, now), None);
    }

    #[test]
    fn a_lease_granted_too_short_is_not_used() {
        let now = Instant::now();
        let mut leases = SharedLeases::default();
        assert_eq!(leases.granted(5 * SECOND, Grant { id: SEVEN, ttl: 4 * SECOND, sent: now }), None);
    }
}
