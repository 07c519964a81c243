//! Delays between attempts: exponential, bounded, with jitter.

use crate::time::{Jitter, LONGEST, doubled};
use rand::Rng;
use std::time::Duration;

/// How long to wait before a failed firing is tried again: `base × 2^(attempt-1)`, at most `max`, and longer than
/// that by a [jitter](Backoff::jitter), so that many instances which failed together don't return together.
///
/// When somebody else changes a key that the instance reads, the wait is cut to `base`. Other engines wait
/// too: see [Several engines](crate#several-engines).
///
/// `base` is also the first delay in two other cases. When something other than the callback failed (no
/// lease, no answer, a lost lock), the delay doubles up to `64 × base`. When a firing succeeded and left its
/// condition true, it doubles up to 5 seconds.
///
/// With a short `base`, failing instances put load on etcd and on what the callback uses. With a long `max`,
/// they stay idle for long after the cause is gone.
///
/// ```
/// use etcd_rules::Backoff;
/// use std::time::Duration;
/// let quick = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
/// assert_ne!(quick, Backoff::default());
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[must_use = "a backoff does nothing until it is given to a rule"]
pub struct Backoff {
    base: Duration,
    max: Duration,
    jitter: Jitter,
}

/// Of a delay, unless something else is wanted.
const JITTER: Jitter = Jitter::up_to(0.2);

impl Backoff {
    /// The first delay and the longest one. `base` is at least one millisecond, `max` is at least `base`, and
    /// no wait is longer than 365 days.
    pub fn new(base: Duration, max: Duration) -> Self {
        let base = base.clamp(Duration::from_millis(1), LONGEST);
        Self { base, max: max.clamp(base, LONGEST), jitter: JITTER }
    }

    /// By how much a delay is longer, at random. Default: by up to a fifth.
    ///
    /// Without jitter everything that failed together is tried again together.
    pub fn jitter(mut self, jitter: Jitter) -> Self {
        self.jitter = jitter;
        self
    }

    pub(crate) fn part(&self) -> Jitter {
        self.jitter
    }

    pub(crate) fn base(&self) -> Duration {
        self.base
    }

    /// The delay after failure number `attempt` (from 1).
    pub(crate) fn delay(&self, attempt: u32, rng: &mut impl Rng) -> Duration {
        self.jitter.lengthen(doubled(self.base, self.max, attempt), rng)
    }
}

/// 100 ms, doubled up to 5 minutes, and up to a fifth longer.
impl Default for Backoff {
    fn default() -> Self {
        Self::new(Duration::from_millis(100), Duration::from_secs(5 * 60))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    #[test]
    fn delays_double_up_to_the_maximum_within_a_fifth() {
        let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        let mut rng = StdRng::seed_from_u64(7);
        for (attempt, expected) in
            [(1, 100), (2, 200), (3, 400), (4, 800), (5, 1000), (40, 1000), (u32::MAX, 1000)]
        {
            for _ in 0..100 {
                let delay = backoff.delay(attempt, &mut rng).as_millis();
                assert!((expected..=expected * 12 / 10).contains(&delay), "{attempt}: {delay}");
                let exact = backoff.jitter(Jitter::NONE).delay(attempt, &mut rng);
                assert_eq!(exact, Duration::from_millis(expected as u64));
            }
        }
    }
}
