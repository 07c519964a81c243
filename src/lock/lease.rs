//! How long a lease can be relied on. Nothing here does I/O or reads a clock.

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

    /// When to renew. Half of the TTL is then left until firings are told. At a TTL of 5 s that is time for a
    /// connection that falls silent just now to be found out and replaced, and for another attempt.
    pub(crate) fn renew_at(&self) -> Instant {
        self.sent + self.ttl / 4
    }

    /// How long after an attempt was sent the next may be, if it failed. A connection that is replaced fails it late:
    /// the next follows at once.
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

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn firings_are_told_and_dropped_before_the_lease_can_have_expired() {
        let sent = Instant::now();
        for seconds in [2, 5, 10, 60] {
            let ttl = seconds * SECOND;
            let life = Lifetime::new(sent, ttl);
            assert!(life.renew_at() + 2 * life.attempt() < life.tell_at(), "two may be slow");
            assert!(life.tell_at() + life.grace() < sent + ttl, "{seconds} s");
        }
    }
}
