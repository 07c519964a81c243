//! Waiting between attempts to reach etcd.

use crate::compiled::Backoff;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::time::Duration;

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
