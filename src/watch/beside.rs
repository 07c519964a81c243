//! A snapshot that is read beside the watch, for when compactions leave no time to read one first.
//!
//! The watch is opened from now on, and only then the prefix is read, each range at its newest revision, which no
//! compaction can take away. Both go to the index, which keeps the newest that it is told of a key. The mirror is
//! complete when it has all ranges, and the watch has told of the latest change that was found in any of them.

use super::watcher::WatcherSettings;
use crate::change::{KeyValue, Revision};
use crate::etcd::{Failure, FailureKind, LastEvent, LiveWatch, Pieces, StreamEvent, WatchMessage};
use crate::index::ViewPurpose;
use crate::index::actor::{CloseView, OpenView, ViewPage};
use crate::index::places::ViewId;
use crate::read::reader;
use crate::read::throttle::Throttle;
use futures_util::future::LocalBoxFuture;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// What was read.
pub(super) struct RangesRead {
    /// The latest change of a key that is there.
    pub(super) newest: Option<LastEvent>,
    /// The revision of the store when the last range was read.
    read_at: Revision,
}

impl RangesRead {
    fn latest(&self) -> Revision {
        self.newest.as_ref().map_or(Revision::NONE, |newest| newest.revision)
    }
}

/// A snapshot under way.
pub(super) struct Beside {
    view: ViewId,
    started: Instant,
    stage: Stage,
}

enum Stage {
    Reading(LocalBoxFuture<'static, Result<Option<RangesRead>, Failure>>),
    /// All is read. The watch may have to tell of it yet.
    Read(RangesRead),
    /// The index compares. False: it is gone.
    Closing(LocalBoxFuture<'static, bool>, Option<RangesRead>),
}

/// What comes of waiting for it.
pub(super) enum Progress {
    /// Something was done. It goes on.
    On,
    /// The mirror has it.
    Complete(RangesRead),
    /// The index is gone.
    IndexGone,
}

/// The latest change among some keys and what is known.
pub(super) fn newest(known: Option<LastEvent>, keys: &[KeyValue]) -> Option<LastEvent> {
    let latest = known.as_ref().map_or(Revision::NONE, |known| known.revision);
    match keys.iter().max_by_key(|found| found.revision) {
        Some(KeyValue { key, revision, value }) if *revision > latest => {
            Some(LastEvent { key: key.clone(), revision: *revision, value: Some(value.clone()) })
        }
        _ => known,
    }
}

impl Beside {
    /// Opens the watch, and begins to read. Returns also the revision after which the watch tells everything.
    /// `None` if the index is gone.
    pub(super) async fn open(
        settings: &WatcherSettings,
        pieces: Pieces,
    ) -> Result<Option<(LiveWatch, Revision, Self)>, Failure> {
        /// From now on.
        const NOW: Revision = Revision::NONE;
        let WatcherSettings { etcd, index, number, keys, silence, splits, .. } = settings;
        let mut stream = LiveWatch::open(etcd, keys, NOW, false, *silence, pieces).await?;
        registered(&mut stream).await?;
        // Not what the stream told, which may come from a proxy or from a member that is behind. What it told before
        // this is of no account: the ranges will have it.
        let revision = etcd.header(keys).await?.revision;
        let open =
            OpenView { watcher: *number, revision, purpose: ViewPurpose::Snapshot, within: Vec::new() };
        let Ok(Some(view)) = index.send(open).await else { return Ok(None) };
        let (etcd, range, splits, index) = (etcd.clone(), keys.clone(), splits.clone(), index.clone());
        let reading = async move {
            /// The newest, of each range.
            const NEWEST: Revision = Revision::NONE;
            let mut found = None;
            let page = async |keys: Vec<KeyValue>, rest| {
                found = newest(found.take(), &keys);
                index.send(ViewPage(view, keys, rest)).await.unwrap_or(false)
            };
            let read_at =
                reader::read(&etcd, (&range, None), NEWEST, &splits, &mut Throttle::Fast, page).await?;
            Ok(read_at.map(|read_at| RangesRead { newest: found, read_at: read_at.max(revision) }))
        };
        let beside = Self { view, started: Instant::now(), stage: Stage::Reading(Box::pin(reading)) };
        Ok(Some((stream, revision, beside)))
    }

    /// Goes on. Nothing is lost if it is not waited for to its end. `delivered`: the index has what the watch told up
    /// to there.
    pub(super) async fn step(
        &mut self,
        settings: &WatcherSettings,
        delivered: Revision,
    ) -> Result<Progress, Failure> {
        match &mut self.stage {
            Stage::Reading(reading) => match reading.await? {
                Some(found) => self.stage = Stage::Read(found),
                None => return Ok(Progress::IndexGone),
            },
            Stage::Read(found) if found.latest() > delivered => std::future::pending().await,
            Stage::Read(found) => {
                let (done, closed) = oneshot::channel();
                let sending = settings.index.send(CloseView(self.view, found.read_at, done));
                let closing = async move { sending.await.is_ok() && closed.await.is_ok() };
                let found = RangesRead { newest: found.newest.take(), read_at: found.read_at };
                self.stage = Stage::Closing(Box::pin(closing), Some(found));
            }
            Stage::Closing(closing, found) => {
                let complete = closing.await;
                let Some(found) = found.take().filter(|_| complete) else { return Ok(Progress::IndexGone) };
                settings.meters.snapshot(self.started.elapsed());
                return Ok(Progress::Complete(found));
            }
        }
        Ok(Progress::On)
    }
}

/// Waits until the watch is registered.
async fn registered(stream: &mut LiveWatch) -> Result<(), Failure> {
    loop {
        match stream.next().await? {
            StreamEvent::Message(WatchMessage::Created(_)) => return Ok(()),
            StreamEvent::Message(WatchMessage::Cancelled { reason, .. }) => {
                return Err(Failure::of_reason("watch", reason));
            }
            StreamEvent::Message(_) => {}
            StreamEvent::Moved => {
                return Err(Failure::new(FailureKind::Unreachable, "watch", "the connection was replaced"));
            }
        }
    }
}
