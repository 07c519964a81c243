//! What an engine takes from outside, injected so that a whole engine can be run again from a seed:
//! the wall clock, randomness, hashers, and where actors run. Monotonic time is tokio's, which can be
//! paused.

use super::supervised::MessageProbe;
use foldhash::fast::FixedState;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Where the actors of an engine run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Placement {
    /// On threads of the engine's own.
    #[default]
    OwnThreads,
    /// All in the `LocalSet` in which the engine is started.
    #[cfg_attr(
        not(any(test, feature = "virtual-time")),
        expect(dead_code, reason = "for engines under virtual time")
    )]
    Local,
}

/// Who draws random numbers: each from a stream of its own, so that one that draws more changes nothing for the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RandomStream {
    LeaseManager,
    LockWatcher,
    Crawler,
    /// With which endpoint an engine begins.
    Home,
    CrawlMutex,
    WorkQueue,
    Dispatcher,
    /// A link to etcd.
    EtcdClient(u8),
    Watcher(u16),
    /// The identity that a store is offered.
    Identity,
    /// Who this engine is among the members.
    Member,
    Announcer,
    FleetWatcher,
}

impl RandomStream {
    fn number(self) -> u64 {
        match self {
            Self::LeaseManager => 2,
            Self::LockWatcher => 3,
            Self::Crawler => 4,
            Self::Home => 5,
            Self::CrawlMutex => 6,
            Self::Identity => 7,
            Self::Member => 8,
            Self::Announcer => 9,
            Self::WorkQueue => 10,
            Self::Dispatcher => 11,
            Self::FleetWatcher => 12,
            Self::EtcdClient(number) => 0x1_0000 + u64::from(number),
            Self::Watcher(number) => 0x2_0000 + u64::from(number),
        }
    }
}

/// See the [module](self).
#[derive(Clone)]
pub(crate) struct Env {
    pub(crate) seed: u64,
    pub(crate) placement: Placement,
    /// Whether the seed decides everything.
    repeats: bool,
    /// For tests: looks at, or fails, the handling of messages.
    pub(crate) probe: Option<MessageProbe>,
    /// The process that callbacks are in, so that they stall and end with it.
    #[cfg(any(test, feature = "virtual-time"))]
    pub(crate) process: Option<super::process::Process>,
    wall_clock: Arc<dyn Fn() -> SystemTime + Send + Sync>,
}

impl Env {
    /// The real clock, a random seed, threads of the engine's own.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    pub(crate) fn real() -> Self {
        Self {
            seed: rand::random(),
            placement: Placement::OwnThreads,
            repeats: false,
            probe: None,
            #[cfg(any(test, feature = "virtual-time"))]
            process: None,
            wall_clock: Arc::new(SystemTime::now),
        }
    }

    /// Everything in one thread, repeating from a seed.
    #[cfg(any(test, feature = "virtual-time"))]
    pub(crate) fn local(seed: u64, wall_clock: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        let wall_clock = Arc::new(wall_clock);
        Self { seed, placement: Placement::Local, repeats: true, probe: None, process: None, wall_clock }
    }

    /// Unix time in milliseconds: for people who read keys, never for decisions.
    pub(crate) fn unix_millis(&self) -> u64 {
        let since = (self.wall_clock)().duration_since(UNIX_EPOCH).unwrap_or_default();
        since.as_millis() as u64
    }

    /// A source of random numbers for one part of the engine.
    pub(crate) fn rng(&self, stream: RandomStream) -> StdRng {
        StdRng::seed_from_u64(self.seed.wrapping_add(stream.number().wrapping_mul(0x9E37_79B9_7F4A_7C15)))
    }

    /// A number that no other store has for its identity. A seed has fewer bits than that.
    pub(crate) fn identity(&self) -> u128 {
        if self.repeats { self.rng(RandomStream::Identity).random() } else { rand::random() }
    }

    pub(crate) fn hasher(&self) -> FixedState {
        FixedState::with_seed(self.seed)
    }
}
