//! Reads a whole prefix at one revision, in sub-ranges, some of them at the same time.

use super::ranges::{RangePlan, RangeRequest};
use crate::etcd::{Failure, FailureKind, Link, Page};
use crate::index::{Found, Revision};
use futures_util::StreamExt;
use futures_util::future::join;
use futures_util::stream::FuturesUnordered;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Keys asked for at once.
const PAGE: usize = 4096;

/// Requests under way at once.
const PARALLEL: usize = 4;

/// Where to split a prefix, learned by reading it: shared by a watcher's snapshots and the crawler.
#[derive(Clone, Default)]
pub(crate) struct Splits(Arc<Mutex<Vec<Vec<u8>>>>);

impl Splits {
    fn get(&self) -> Vec<Vec<u8>> {
        self.0.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    fn set(&self, splits: Vec<Vec<u8>>) {
        *self.0.lock().unwrap_or_else(|e| e.into_inner()) = splits;
    }
}

/// Whether a prefix's watch is open, told by its watcher to the crawler: while it is not, or just after, what
/// a crawl finds different may be explained by events that are still to come.
#[derive(Clone, Default)]
pub(crate) struct Following(Arc<AtomicU64>);

impl Following {
    /// A stream was opened, or has ended: odd numbers are open streams.
    pub(crate) fn turn(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// The number of the stream that is open.
    pub(crate) fn stream(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|number| number % 2 == 1)
    }
}

/// How fast to read, of several prefixes one after the other.
pub(crate) struct Pace {
    /// Requests under way at once.
    parallel: usize,
    /// Keys in a second at most.
    rate: Option<u32>,
    started: Instant,
    got: u64,
}

impl Pace {
    /// As fast as it goes: somebody waits.
    pub(crate) fn fast() -> Self {
        Self { parallel: PARALLEL, rate: None, started: Instant::now(), got: 0 }
    }

    /// Beside live work, which is to notice little of it: one request at a time.
    pub(crate) fn beside(rate: Option<u32>) -> Self {
        Self { parallel: 1, rate, ..Self::fast() }
    }

    /// Keys in a page, and requests under way at once: at a limited rate, a few small pages a second and
    /// not a burst now and then.
    fn shape(&self) -> (usize, usize) {
        match self.rate {
            None => (PAGE, self.parallel),
            Some(rate) => (PAGE.min(rate as usize / 4).max(1), 1),
        }
    }

    async fn wait(&self) {
        if let Some(rate) = self.rate {
            sleep_until(self.started + Duration::from_secs_f64(self.got as f64 / f64::from(rate.max(1))))
                .await;
        }
    }
}

/// Hands every key of the prefix, as of `revision`, to `page`, each once, in no order. Returns false
/// as soon as `page` does. While it takes a page in, the next ones are on their way.
pub(crate) async fn read(
    link: &Link,
    prefix: &str,
    revision: Revision,
    splits: &Splits,
    pace: &mut Pace,
    mut page: impl AsyncFnMut(Vec<Found>) -> bool,
) -> Result<bool, Failure> {
    let (pages, parallel) = pace.shape();
    let mut plan = RangePlan::new(prefix.as_bytes(), pages, &splits.get());
    let mut out = FuturesUnordered::new();
    let mut heard = None;
    loop {
        pace.wait().await;
        while out.len() < parallel
            && let Some(request) = plan.next()
        {
            out.push(fetch(link, request, revision));
        }
        let next = match heard.take() {
            Some(heard) => Some(heard),
            None => out.next().await,
        };
        let Some((request, answer)) = next else { break };
        let Page { keys, count } = match answer {
            // Large values: less at a time.
            Err(Failure { kind: FailureKind::Rejected, .. }) if request.limit > 1 => {
                plan.failed(RangeRequest { limit: (request.limit / 8).max(1), ..request });
                continue;
            }
            answer => answer?,
        };
        pace.got += keys.len() as u64;
        plan.answered(&request, keys.iter().map(|found| found.key.as_slice()), count);
        let (goes_on, next) = join(page(keys), out.next()).await;
        if !goes_on {
            return Ok(false);
        }
        heard = next;
    }
    // Those of smaller pages would make a snapshot send more requests than it needs.
    if pace.rate.is_none() {
        splits.set(plan.splits());
    }
    Ok(true)
}

async fn fetch(
    link: &Link,
    request: RangeRequest,
    revision: Revision,
) -> (RangeRequest, Result<Page, Failure>) {
    let answer = link.range(request.start.clone(), request.end.clone(), request.limit, revision).await;
    (request, answer)
}
