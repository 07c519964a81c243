//! What an engine takes from outside, injected so that a whole engine can be run again from a seed:
//! the wall clock, randomness, hashers, and where actors run. Monotonic time is tokio's, which can be
//! paused.

use super::part::Probe;
use crate::rule::Backoff;
use foldhash::fast::FixedState;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Where the actors of an engine run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Placement {
    /// On threads of the engine's own.
    #[default]
    OwnThreads,
    /// All in the `LocalSet` in which the engine is started.
    #[cfg_attr(not(test), expect(dead_code, reason = "for engines that run again from a seed"))]
    Local,
}

/// See the [module](self).
#[derive(Clone)]
pub(crate) struct Env {
    pub(crate) seed: u64,
    pub(crate) placement: Placement,
    /// For tests: looks at, or fails, the handling of messages.
    pub(crate) probe: Option<Probe>,
    wall_clock: Arc<dyn Fn() -> SystemTime + Send + Sync>,
}

impl Env {
    /// The real clock, a random seed, threads of the engine's own.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    pub(crate) fn real() -> Self {
        Self {
            seed: rand::random(),
            placement: Placement::OwnThreads,
            probe: None,
            wall_clock: Arc::new(SystemTime::now),
        }
    }

    /// Everything in one thread, repeating from a seed.
    #[cfg(test)]
    pub(crate) fn local(seed: u64, wall_clock: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self { seed, placement: Placement::Local, probe: None, wall_clock: Arc::new(wall_clock) }
    }

    /// Unix time in milliseconds: for people who read keys, never for decisions.
    pub(crate) fn unix_millis(&self) -> u64 {
        let since = (self.wall_clock)().duration_since(UNIX_EPOCH).unwrap_or_default();
        since.as_millis() as u64
    }

    /// A source of random numbers for one part of the engine.
    pub(crate) fn rng(&self, part: u64) -> StdRng {
        StdRng::seed_from_u64(self.seed.wrapping_add(part.wrapping_mul(0x9E37_79B9_7F4A_7C15)))
    }

    pub(crate) fn hasher(&self) -> FixedState {
        FixedState::with_seed(self.seed)
    }
}

/// Waiting between attempts to reach etcd: from 50 ms, doubled, up to 5 s, with jitter.
pub(crate) struct Retry {
    backoff: Backoff,
    attempt: u32,
    rng: Random,
}

/// The source of jitter, made when it is first needed: most firings never wait.
enum Random {
    Seed(u64),
    Made(Box<StdRng>),
}

impl Random {
    fn get(&mut self) -> &mut StdRng {
        if let Self::Seed(seed) = *self {
            *self = Self::Made(Box::new(StdRng::seed_from_u64(seed)));
        }
        match self {
            Self::Made(rng) => rng,
            Self::Seed(_) => unreachable!("just made"),
        }
    }
}

impl Retry {
    pub(crate) fn new(rng: StdRng) -> Self {
        Self::with(Random::Made(Box::new(rng)))
    }

    pub(crate) fn seeded(seed: u64) -> Self {
        Self::with(Random::Seed(seed))
    }

    fn with(rng: Random) -> Self {
        Self { backoff: Backoff::new(Duration::from_millis(50), Duration::from_secs(5)), attempt: 0, rng }
    }

    pub(crate) async fn wait(&mut self) {
        self.attempt = self.attempt.saturating_add(1);
        tokio::time::sleep(self.backoff.delay(self.attempt, self.rng.get())).await;
    }

    /// Another one, with random numbers of its own.
    pub(crate) fn fork(&mut self) -> Self {
        Self::seeded(self.rng.get().next_u64())
    }

    pub(crate) fn reset(&mut self) {
        self.attempt = 0;
    }
}
