//! How long a change waits before it fires something.

use crate::time::{Jitter, LONGEST};
use rand::Rng;
use std::time::Duration;

/// How long an instance that became true, or that somebody changed, waits before it fires; for
/// [`Rule::settle`](crate::Rule::settle) and [`EngineBuilder::settle`](crate::EngineBuilder::settle). A [`Duration`]
/// converts into it.
///
/// ```
/// use etcd_rules::{Jitter, Settle};
/// use std::time::Duration;
/// let settle = Settle::new(Duration::from_millis(20)).jitter(Jitter::up_to(0.5));       // 20 to 30 ms
/// assert_ne!(settle, Duration::from_millis(20).into());
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[must_use = "it does nothing until it is given to a rule or an engine"]
pub struct Settle {
    delay: Duration,
    jitter: Jitter,
}

impl Settle {
    /// Not at all: the default.
    pub const NONE: Settle = Settle::new(Duration::ZERO);

    /// For this long, without jitter. No wait is longer than 365 days.
    pub const fn new(delay: Duration) -> Self {
        Self { delay, jitter: Jitter::NONE }
    }

    /// And at random longer, so that of several engines another one is first each time. Default: no longer.
    pub const fn jitter(mut self, jitter: Jitter) -> Self {
        self.jitter = jitter;
        self
    }

    pub(crate) fn delay(&self) -> Duration {
        self.delay
    }

    pub(crate) fn part(&self) -> Jitter {
        self.jitter
    }

    /// How long it is this time.
    pub(crate) fn draw(&self, rng: &mut impl Rng) -> Duration {
        self.jitter.lengthen(self.delay, rng).min(LONGEST)
    }
}

impl From<Duration> for Settle {
    fn from(delay: Duration) -> Self {
        Self::new(delay)
    }
}
