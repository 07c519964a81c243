//! The crawler: a task that from time to time reads everything at one revision, or a share of it if other engines do
//! so too, and has the index compare it. Then it has every instance decided again, and looks for locks that nobody
//! works under.

use super::mutex::CrawlMutex;
use super::parts::{CrawlParts, Picked};
use crate::change::Revision;
use crate::etcd::{EtcdClient, Failure, FailureKind};
use crate::index::ViewPurpose;
use crate::index::actor::{CancelView, CloseView, DecideAll, IndexActor, OpenView, ViewPage};
use crate::index::places::ViewId;
use crate::lock::lock_watcher::LocksSeen;
use crate::metrics::Meters;
use crate::pattern::KeyScope;
use crate::read::reader::{self, SharedSplitPoints, StreamGeneration};
use crate::read::throttle::Throttle;
use crate::runtime::supervised::{ActorFault, ActorFaults, spawn_guarded};
use crate::time::Jitter;
use crate::watch_cell::WatchCell;
use actix::prelude::*;
use rand::rngs::StdRng;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

/// How long events that explain a difference may take to arrive, after the last key was read.
const SETTLE: Duration = Duration::from_secs(1);

/// Keys that the index compares at once.
const PIECE: usize = 128;

/// How long the index may take to compare, behind live changes.
const COMPARE: Duration = Duration::from_secs(120);

/// The keys of one watch.
#[derive(Clone)]
pub(crate) struct WatchedKeys {
    pub(crate) keys: KeyScope,
    pub(crate) splits: SharedSplitPoints,
    pub(crate) generation: StreamGeneration,
    /// They are more than what any pattern needs. If etcd refuses them, what the patterns need of them is watched
    /// instead.
    pub(crate) splits_up: bool,
}

/// What a crawler is made of.
pub(crate) struct CrawlerSettings {
    pub(crate) engine: Arc<str>,
    pub(crate) meters: Meters,
    pub(crate) etcd: Arc<EtcdClient>,
    pub(crate) watched: Vec<WatchedKeys>,
    pub(crate) index: Addr<IndexActor>,
    pub(crate) dispatcher: Recipient<LocksSeen>,
    pub(crate) namespace: String,
    /// How many engines share the work, once that is known.
    pub(crate) members: WatchCell<Option<usize>>,
    /// Between the end of a crawl and the start of the next.
    pub(crate) interval: Duration,
    /// By which part of the interval it may be longer or shorter.
    pub(crate) jitter: Jitter,
    /// Keys read in a second at most.
    pub(crate) rate: Option<u32>,
    pub(crate) mutex: Option<CrawlMutex>,
    pub(crate) rng: StdRng,
    pub(crate) faults: ActorFaults,
}

/// Its name among the parts of the engine.
const NAME: &str = "crawler";

/// Starts it on the present thread, with which it ends.
pub(crate) fn start_crawler(settings: CrawlerSettings) {
    let faults = settings.faults.clone();
    spawn_guarded(&faults, NAME, run(settings));
}

async fn run(mut settings: CrawlerSettings) {
    let mut parts = CrawlParts::new(settings.watched.iter().map(|watched| watched.keys.range()));
    let mut failing = false;
    loop {
        let CrawlerSettings { interval, jitter, .. } = settings;
        sleep(jitter.lengthen(interval, &mut settings.rng)).await;
        let crawled = turn(&mut settings, &mut parts).await;
        let engine = &*settings.engine;
        let looked = look_again(&settings).await;
        let crawled = crawled.and_then(|crawled| looked.map(|()| crawled));
        let failed_before = std::mem::replace(&mut failing, crawled.is_err());
        match crawled {
            Ok(Some((keys, drift, took))) => {
                settings.meters.crawl(took, keys, drift);
                if drift > 0 {
                    tracing::warn!(
                        engine,
                        keys,
                        drift,
                        ?took,
                        "crawl repaired differences that no event explains"
                    );
                } else {
                    tracing::debug!(engine, keys, ?took, "crawled");
                }
            }
            Ok(None) => tracing::debug!(engine, "crawl abandoned: a watch was opened anew meanwhile"),
            Err(failure) => {
                settings.meters.crawl_failed();
                // Once, until one succeeds.
                if !failed_before {
                    tracing::warn!(engine, %failure, "crawl failed; the next one will do");
                }
            }
        }
    }
}

async fn cancel(index: &Addr<IndexActor>, views: Vec<ViewId>) {
    for view in views {
        // Closed: the engine is restarting, and the index with it.
        let _ = index.send(CancelView(view)).await;
    }
}

/// One crawl, when it is this engine's turn, and how long it took; `None` as [`crawl`].
async fn turn(
    settings: &mut CrawlerSettings,
    parts: &mut CrawlParts,
) -> Result<Option<(usize, u64, Duration)>, Failure> {
    let held = match &mut settings.mutex {
        None => None,
        Some(mutex) => Some(mutex.acquire(&settings.etcd, &mut settings.rng).await),
    };
    let started = Instant::now();
    let crawled = crawl(settings, parts).await;
    let took = started.elapsed();
    if let (Some(mutex), Some(held)) = (&mut settings.mutex, held) {
        mutex.release(&settings.etcd, held).await;
    }
    Ok(crawled?.map(|(keys, drift)| (keys, drift, took)))
}

/// Has every instance decided again, and looks for locks that nobody works under: once an interval, whatever was read.
async fn look_again(settings: &CrawlerSettings) -> Result<(), Failure> {
    let CrawlerSettings { etcd, index, dispatcher, namespace, .. } = settings;
    let locks = match etcd.locks(&format!("{namespace}lock/")).await {
        // Then there are none of this engine's.
        Err(failure) if failure.kind == FailureKind::Permission => Vec::new(),
        locks => locks?,
    };
    // Closed: the engine is restarting, and these with it.
    let _ = index.send(DecideAll).await;
    let _ = dispatcher.send(LocksSeen(locks)).await;
    Ok(())
}

/// One crawl; `None` if a resync took its place, or a watch did not follow all the time. What etcd refuses to let be
/// read is left out.
async fn crawl(settings: &CrawlerSettings, parts: &mut CrawlParts) -> Result<Option<(usize, u64)>, Failure> {
    let CrawlerSettings { etcd, index, .. } = settings;
    let refused = |watched: &WatchedKeys| watched.generation.is_refused();
    // By watch: the stream, or that it is refused.
    let streams = || -> Option<Vec<Option<u64>>> {
        let stream =
            |at: &WatchedKeys| if refused(at) { Some(None) } else { at.generation.stream().map(Some) };
        settings.watched.iter().map(stream).collect()
    };
    let Some(followed) = streams() else { return Ok(None) };
    let members = settings.members.get().and_then(NonZeroUsize::new).unwrap_or(NonZeroUsize::MIN);
    let known =
        settings.watched.iter().map(|watched| (!refused(watched)).then(|| watched.splits.stretches()));
    let picked = parts.pick(members, &known.collect::<Vec<_>>());
    // One revision for all keys.
    let revision = etcd.header(&KeyScope::Prefix(settings.namespace.clone())).await?.revision;
    // All views before the first key is read, so that what is deleted meanwhile is remembered.
    let mut views = Vec::new();
    for Picked { watcher, ranges, .. } in &picked {
        let (watcher, within) = (*watcher, ranges.clone());
        match index.send(OpenView { watcher, revision, purpose: ViewPurpose::Crawl, within }).await {
            Ok(Some(view)) => views.push(view),
            _ => {
                cancel(index, views).await;
                return Ok(None);
            }
        }
    }
    let mut keys = 0;
    let mut throttle = Throttle::beside(settings.rate, picked.iter().map(|picked| picked.keys).sum());
    let mut lost = Vec::new();
    for (&view, picked) in views.iter().zip(&picked) {
        let watched = &settings.watched[picked.watcher.index()];
        match read(settings, watched, picked, revision, view, &mut throttle, &mut keys).await {
            Ok(true) => {}
            // Its watch is to find that out too, and says so in the health.
            Err(failure) if failure.kind == FailureKind::Permission => {
                if watched.splits_up {
                    settings.faults.report(ActorFault::Refused(watched.keys.clone()));
                }
                watched.generation.doubt();
                lost.push(view);
            }
            read => {
                cancel(index, views).await;
                return read.map(|_| None);
            }
        }
    }
    cancel(index, lost.clone()).await;
    sleep(SETTLE).await;
    // A watch that was interrupted has yet to deliver what explains the differences: they are no drift.
    if streams().as_ref() != Some(&followed) {
        cancel(index, views).await;
        return Ok(None);
    }
    let mut drift = 0;
    for (view, picked) in views.into_iter().zip(&picked).filter(|(view, _)| !lost.contains(view)) {
        let (done, closed) = oneshot::channel();
        let sent = index.send(CloseView(view, revision, done)).await;
        match timeout(COMPARE, closed).await {
            Ok(Ok(closed)) if sent.is_ok() => {
                drift += closed.drift;
                parts.checked(picked);
            }
            _ => return Ok(None),
        }
    }
    Ok(Some((keys, drift)))
}

/// Has the index compare what was picked of a watcher's keys, and counts them. False if the view has ended meanwhile.
async fn read(
    settings: &CrawlerSettings,
    watched: &WatchedKeys,
    picked: &Picked,
    revision: Revision,
    view: ViewId,
    throttle: &mut Throttle,
    keys: &mut usize,
) -> Result<bool, Failure> {
    let CrawlerSettings { etcd, index, .. } = settings;
    let whole = picked.ranges.is_empty().then_some(None);
    for within in whole.into_iter().chain(picked.ranges.iter().map(Some)) {
        let page = async |mut found: Vec<_>, _| {
            *keys += found.len();
            // In pieces, so that a live change waits for one of them at most.
            while !found.is_empty() {
                let rest = found.split_off(found.len().min(PIECE));
                let piece = std::mem::replace(&mut found, rest);
                if !index.send(ViewPage(view, piece, 0)).await.unwrap_or(false) {
                    return false;
                }
            }
            true
        };
        let range = (&watched.keys, within);
        if reader::read(etcd, range, revision, &watched.splits, throttle, page).await?.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}
