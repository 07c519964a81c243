//! Reads a whole range of keys at one revision, in sub-ranges, some of them at the same time.

use super::ranges::{RangePlan, RangeRequest, SplitPoints};
use super::throttle::Throttle;
use crate::change::{KeyValue, Revision};
use crate::etcd::{EtcdClient, Failure, FailureKind, RangePage};
use crate::pattern::{KeyRange, KeyScope};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio::time::Instant;

/// Where to split a prefix, learned by reading it: shared by a watcher's snapshots and the crawler.
#[derive(Clone, Default)]
pub(crate) struct SharedSplitPoints(Arc<Mutex<SplitPoints>>);

impl SharedSplitPoints {
    /// For pages of so many keys.
    fn points(&self, page: usize) -> Vec<Vec<u8>> {
        self.lock().points(page)
    }

    /// Where the keys are, as far as is known.
    pub(crate) fn stretches(&self) -> Vec<(Vec<u8>, usize)> {
        self.lock().stretches().to_vec()
    }

    fn set(&self, within: Option<&KeyRange>, learned: SplitPoints) {
        match within {
            None => *self.lock() = learned,
            Some(range) => self.lock().replace(range, learned),
        }
    }

    fn lock(&self) -> MutexGuard<'_, SplitPoints> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// Whether a prefix's watch is open, or refused, told by its watcher to the crawler: while it is not open, or just
/// after, what a crawl finds different may be explained by events that are still to come.
#[derive(Clone, Default)]
pub(crate) struct StreamGeneration(Arc<StreamState>);

#[derive(Default)]
struct StreamState {
    number: AtomicU64,
    refused: AtomicBool,
    doubted: Notify,
}

impl StreamGeneration {
    /// A stream has spoken: before, its watch may not be registered. Odd numbers are such streams.
    pub(crate) fn start(&self) {
        self.0.number.fetch_or(1, Ordering::Relaxed);
    }

    /// The stream has ended.
    pub(crate) fn stop(&self) {
        let number = self.0.number.load(Ordering::Relaxed);
        // Only the watcher changes it.
        self.0.number.store(number + number % 2, Ordering::Relaxed);
    }

    /// The number of the stream that is open.
    pub(crate) fn stream(&self) -> Option<u64> {
        Some(self.0.number.load(Ordering::Relaxed)).filter(|number| number % 2 == 1)
    }

    /// Etcd refuses to let the prefix be read, or refuses it no more.
    pub(crate) fn refuse(&self, refused: bool) {
        self.0.refused.store(refused, Ordering::Relaxed);
    }

    pub(crate) fn is_refused(&self) -> bool {
        self.0.refused.load(Ordering::Relaxed)
    }

    /// A read of the prefix was refused. etcd checks a watch when it is opened and never again, so that a stream which
    /// is open may stay so: it is to be opened anew.
    pub(crate) fn doubt(&self) {
        self.0.doubted.notify_one();
    }

    /// Returns once the stream is [doubted](Self::doubt).
    pub(crate) async fn doubted(&self) {
        self.0.doubted.notified().await;
    }
}

/// Pages that wait to be taken in at most, while others are on their way.
const AHEAD: usize = 2;

/// Hands every key of the scope, or of a range of it, as of `revision`, to `page`, each once, in no order, with how
/// many more the range has that was asked for: of a first read's first page, how many there are in all. With the
/// revision 0, each range is read as it is then, and each key is still handed on once. While a page is taken in, the
/// next ones are on their way, unless there is time.
///
/// Returns the store's newest revision that an answer told of; `None` as soon as `page` is false.
pub(crate) async fn read(
    etcd: &EtcdClient,
    (scope, within): (&KeyScope, Option<&KeyRange>),
    revision: Revision,
    splits: &SharedSplitPoints,
    throttle: &mut Throttle,
    mut page: impl AsyncFnMut(Vec<KeyValue>, usize) -> bool,
) -> Result<Option<Revision>, Failure> {
    let mut newest = Revision::NONE;
    let (size, parallel) = throttle.shape();
    let mut plan = RangePlan::new(scope, within, size, &splits.points(size));
    let mut out = FuturesUnordered::new();
    let mut heard: VecDeque<(Vec<KeyValue>, usize)> = VecDeque::new();
    loop {
        let begun = Instant::now();
        while out.len() < parallel
            && let Some(request) = plan.next()
        {
            out.push(fetch(etcd, request, revision));
        }
        let (keys, rest) = match heard.pop_front() {
            Some(heard) => heard,
            None => match out.next().await {
                None => break,
                Some(answer) => match take(answer, &mut plan, &mut newest)? {
                    None => continue,
                    Some(heard) => heard,
                },
            },
        };
        let got = keys.len();
        let mut taking_in = std::pin::pin!(page(keys, rest));
        let goes_on = loop {
            while throttle.reads_ahead()
                && out.len() < parallel
                && heard.len() < AHEAD
                && let Some(request) = plan.next()
            {
                out.push(fetch(etcd, request, revision));
            }
            tokio::select! {
                biased;
                goes_on = &mut taking_in => break goes_on,
                Some(answer) = out.next(), if heard.len() < AHEAD => {
                    heard.extend(take(answer, &mut plan, &mut newest)?);
                }
            }
        };
        if !goes_on {
            return Ok(None);
        }
        throttle.wait(got, begun.elapsed()).await;
    }
    splits.set(within, plan.learned());
    Ok(Some(newest))
}

type Answered = (RangeRequest, Result<RangePage, Failure>);

/// The keys of an answer, and how many it lacks; none if they must be asked for again, in smaller parts.
fn take(
    (request, answer): Answered,
    plan: &mut RangePlan,
    newest: &mut Revision,
) -> Result<Option<(Vec<KeyValue>, usize)>, Failure> {
    match answer {
        // Large values: less at a time.
        Err(Failure { kind: FailureKind::Rejected, .. }) if request.limit > 1 => {
            plan.failed(RangeRequest { limit: (request.limit / 8).max(1), ..request });
            Ok(None)
        }
        answer => {
            let RangePage { keys, count, revision } = answer?;
            *newest = revision.max(*newest);
            plan.answered(&request, keys.iter().map(|found| found.key.as_slice()), count);
            let rest = usize::try_from(count).unwrap_or(0).saturating_sub(keys.len());
            Ok(Some((keys, rest)))
        }
    }
}

async fn fetch(etcd: &EtcdClient, request: RangeRequest, revision: Revision) -> Answered {
    let answer = etcd.range(request.start.clone(), request.end.clone(), request.limit, revision).await;
    (request, answer)
}
