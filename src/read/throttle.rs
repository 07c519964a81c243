//! How fast a prefix is read: at full speed when somebody waits for it, at half of it by an engine that joins others at
//! their work, or beside live work.
//!
//! A crawl has hours, and live work has not. So a crawl asks for small pages, one at a time, and rests after each for
//! much longer than the page took: it uses a small part of etcd and of the engine, whatever the two can do, and
//! slows down by itself when they are busy.

use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};

/// Keys asked for at once, and requests under way at once, when somebody waits.
const FAST: (usize, usize) = (4096, 4);

/// The same when an engine joins others: their changes wait behind such a page.
const JOINING: (usize, usize) = (1024, 2);

/// Keys asked for at once beside live work: few, since a change waits behind a page of them, in etcd and here. A range
/// that has grown may return several pages' worth.
const BESIDE: usize = 128;

/// How much longer a crawl rests than it works.
const REST: u32 = 9;

/// The longest that a crawl asks for rest in all, so that it ends before etcd compacts the revision that it reads, even
/// if etcd is slow. Timers add up to a millisecond to each rest.
const REST_IN_ALL: Duration = Duration::from_secs(30);

/// RestPeriods shorter than this are put together: timers are no finer than a millisecond, and round up.
const SHORTEST: Duration = Duration::from_millis(4);

/// RestPeriods between the pieces of a crawl's work.
#[derive(Debug)]
pub(crate) struct RestPeriods {
    /// After one piece.
    most: Duration,
    owed: Duration,
}

impl RestPeriods {
    /// `pieces`: about how many there will be.
    pub(crate) fn new(pieces: usize) -> Self {
        let pieces = u32::try_from(pieces).unwrap_or(u32::MAX).max(1);
        Self { most: REST_IN_ALL / pieces, owed: Duration::ZERO }
    }

    /// How long to rest after a piece that took so long; not at all if that would be too short.
    pub(crate) fn after(&mut self, took: Duration) -> Option<Duration> {
        self.owed += (took * REST).min(self.most);
        (self.owed >= SHORTEST).then(|| std::mem::take(&mut self.owed))
    }
}

/// How fast to read, of several prefixes one after the other.
#[derive(Debug)]
pub(crate) enum Throttle {
    /// As fast as it goes: somebody waits.
    Fast,
    /// Others do the work meanwhile: with rests as long as the pages took.
    Joining { owed: Duration },
    /// Beside live work, with a rest after each page.
    Beside(RestPeriods),
    /// So many keys in a second at most, from the start.
    Rate { rate: u32, started: Instant, got: u64 },
}

impl Throttle {
    pub(crate) fn joining() -> Self {
        Self::Joining { owed: Duration::ZERO }
    }

    /// Beside live work; `keys`: about how many there are.
    pub(crate) fn beside(rate: Option<u32>, keys: usize) -> Self {
        match rate {
            None => Self::Beside(RestPeriods::new(keys / BESIDE)),
            Some(rate) => Self::Rate { rate: rate.max(1), started: Instant::now(), got: 0 },
        }
    }

    /// Pages may be read ahead of what takes them in.
    pub(super) fn reads_ahead(&self) -> bool {
        matches!(self, Self::Fast)
    }

    /// Keys in a page, and requests under way at once: at a limited rate, a few small pages a second and not a
    /// burst now and then.
    pub(super) fn shape(&self) -> (usize, usize) {
        match self {
            Self::Fast => FAST,
            Self::Joining { .. } => JOINING,
            Self::Beside(_) => (BESIDE, 1),
            Self::Rate { rate, .. } => (BESIDE.min(*rate as usize / 4).max(1), 1),
        }
    }

    /// Waits after a page of so many keys, which took so long.
    pub(super) async fn wait(&mut self, keys: usize, took: Duration) {
        match self {
            Self::Fast => {}
            Self::Joining { owed } => {
                *owed += took;
                if *owed >= SHORTEST {
                    sleep(std::mem::take(owed)).await;
                }
            }
            Self::Beside(rests) => {
                if let Some(rest) = rests.after(took) {
                    sleep(rest).await;
                }
            }
            Self::Rate { rate, started, got } => {
                *got += keys as u64;
                sleep_until(*started + Duration::from_secs_f64(*got as f64 / f64::from(*rate))).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_crawl_rests_nine_times_as_long_as_it_works() {
        let mut rests = RestPeriods::new(10);
        assert_eq!([1, 7, 0].map(|took| rests.after(took * MS)), [Some(9 * MS), Some(63 * MS), None]);
    }

    #[test]
    fn short_rests_are_put_together() {
        let mut rests = RestPeriods::new(10);
        assert_eq!([MS / 5; 4].map(|took| rests.after(took)), [None, None, Some(27 * MS / 5), None]);
    }

    #[test]
    fn all_rests_of_a_crawl_are_bounded() {
        let mut rests = RestPeriods::new(3000);
        assert_eq!(rests.after(Duration::from_secs(5)), Some(10 * MS));
    }

    #[tokio::test(start_paused = true)]
    async fn an_engine_that_joins_others_rests_as_long_as_it_works() {
        let start = Instant::now();
        let mut throttle = Throttle::joining();
        for took in [3, 2, 10] {
            throttle.wait(1024, took * MS).await;
        }
        assert_eq!(start.elapsed(), 15 * MS, "rests alone, as nothing else takes time here");
        assert!(!throttle.reads_ahead());
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_sets_the_size_of_pages_and_the_time_they_take() {
        let start = Instant::now();
        let mut throttle = Throttle::beside(Some(400), 1_000_000);
        assert_eq!(throttle.shape(), (100, 1));
        throttle.wait(100, Duration::ZERO).await;
        assert_eq!(start.elapsed(), 250 * MS);
        // What a page took is part of it.
        tokio::time::advance(200 * MS).await;
        throttle.wait(100, 200 * MS).await;
        assert_eq!(start.elapsed(), 500 * MS);
        assert_eq!(Throttle::beside(Some(u32::MAX), 1000).shape(), (BESIDE, 1));
    }
}
