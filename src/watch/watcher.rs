//! The watcher: a task that takes the snapshot, holds the stream, and hands batches to the index. It only
//! decodes and forwards: a watch that falls behind is caught up slowly by etcd.

use super::ahead::{Ahead, ChangeBatch, LARGE};
use super::beside::{Beside, Progress, newest};
use super::lag::{Lag, LagChange};
use super::progress::{Furthest, WatchProgress};
use crate::change::{KeyValue, Revision};
use crate::etcd::{
    EtcdClient, Failure, FailureKind, LastEvent, LiveWatch, Pieces, StreamEvent, WatchMessage,
};
use crate::health::Reason;
use crate::health::status::Status;
use crate::index::actor::{CloseView, IndexActor, OpenView, ViewPage, WatchBatch, WatchIs};
use crate::index::{ViewPurpose, WatchState, WatcherIndex};
use crate::metrics::Meters;
use crate::pattern::KeyScope;
use crate::read::reader::{self, SharedSplitPoints, StreamGeneration};
use crate::read::resume::{Resume, ResumeStep, Start};
use crate::read::start::start;
use crate::read::throttle::Throttle;
use crate::runtime::retry::Retry;
use crate::runtime::supervised::{ActorFault, ActorFaults, spawn_guarded};
use crate::watch_cell::WatchCell;
use actix::prelude::*;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// How often the metrics are told how far the watches are behind.
const SHOW: Duration = Duration::from_secs(1);

/// What a watcher is made of.
pub(crate) struct WatcherSettings {
    pub(crate) engine: Arc<str>,
    pub(crate) meters: Meters,
    pub(crate) progress: WatchProgress,
    pub(crate) number: WatcherIndex,
    pub(crate) keys: KeyScope,
    pub(crate) etcd: Arc<EtcdClient>,
    pub(crate) index: Addr<IndexActor>,
    pub(crate) status: Status,
    pub(crate) splits: SharedSplitPoints,
    /// How many engines share the work, once that is known.
    pub(crate) members: WatchCell<Option<usize>>,
    pub(crate) generation: StreamGeneration,
    /// A stream that was silent for so long is asked for a sign of life, and given up after as long again.
    pub(crate) silence: Duration,
    /// Its keys are more than what any pattern needs. If etcd refuses them, what the patterns need of them is watched
    /// instead.
    pub(crate) splits_up: bool,
    /// For how long it may be behind before that counts as lagging.
    pub(crate) lag_limit: Duration,
    pub(crate) faults: ActorFaults,
}

impl WatcherSettings {
    /// The watcher's name in the engine's health.
    fn part(&self) -> String {
        format!("watch of `{}`", self.keys)
    }

    /// Reports the beginning and the end of lagging.
    fn report(&self, lag: &mut Lag) {
        let now = Instant::now();
        self.progress.behind(self.number, lag.since(now));
        match lag.change(now) {
            Some(LagChange::Began(cause)) => {
                self.status.problem(&self.lag_part(), Reason::Lagging, cause.message().to_owned());
            }
            Some(LagChange::Ended) => self.status.fine(&self.lag_part()),
            None => {}
        }
    }

    /// The mirror is complete, and a stream tells what happens.
    fn follows(&self, lag: &mut Lag) {
        self.status.fine(&self.part());
        lag.following();
        self.progress.following(self.number);
        self.report(lag);
    }

    fn lag_part(&self) -> String {
        format!("changes below `{}`", self.keys)
    }
}

/// Its name among the parts of the engine.
const NAME: &str = "watcher";

/// Starts the watch of one covering prefix on the present thread, with which it ends.
pub(crate) fn start_watcher(settings: WatcherSettings, retry: Retry) {
    if settings.number == WatcherIndex::FIRST {
        // For all of them.
        let (progress, meters) = (settings.progress.clone(), settings.meters.clone());
        spawn_guarded(&settings.faults, NAME, async move {
            loop {
                sleep(SHOW).await;
                let Furthest { position, lag, revisions } = progress.furthest(Instant::now());
                meters.watch(position, lag, revisions);
            }
        });
    }
    let faults = settings.faults.clone();
    spawn_guarded(&faults, NAME, run(settings, retry));
}

async fn run(settings: WatcherSettings, retry: Retry) {
    let mut watch = Watch {
        resume: Resume::default(),
        lag: Lag::new(settings.lag_limit),
        retry,
        state: WatchState::Starting,
        pieces: Pieces::Whole,
    };
    loop {
        let result = Box::pin(follow(&settings, &mut watch)).await;
        let failure = match result {
            Ok(Stop::Rewound(reason)) => return settings.faults.report(ActorFault::Rewound(reason)),
            Ok(Stop::IndexGone) => return,
            Ok(Stop::Again) => continue,
            Err(failure) => failure,
        };
        if failure.kind == FailureKind::Compacted {
            watch.resume.lost_snapshot();
        }
        let refused = failure.kind == FailureKind::Permission;
        if refused && settings.splits_up {
            return settings.faults.report(ActorFault::Refused(settings.keys.clone()));
        }
        let state = match watch.state {
            _ if refused => WatchState::Refused,
            WatchState::Follows => WatchState::Broken,
            state => state,
        };
        if !watch.is(state, &settings).await {
            return;
        }
        let Watch { lag, retry, .. } = &mut watch;
        settings.progress.broken(settings.number, Instant::now());
        if lag.broken() {
            settings.status.fine(&settings.lag_part());
        }
        settings.status.failure(&settings.part(), &failure);
        retry.wait().await;
    }
}

/// What is known from one stream to the next.
struct Watch {
    resume: Resume,
    lag: Lag,
    retry: Retry,
    state: WatchState,
    /// How the next stream is asked to send what it has.
    pieces: Pieces,
}

impl Watch {
    /// Tells the index how it is now, if that is news. False if the index is gone.
    async fn is(&mut self, state: WatchState, settings: &WatcherSettings) -> bool {
        if std::mem::replace(&mut self.state, state) == state {
            return true;
        }
        settings.generation.refuse(state == WatchState::Refused);
        settings.index.send(WatchIs(settings.number, state)).await.is_ok()
    }
}

enum Stop {
    Again,
    Rewound(String),
    IndexGone,
}

/// From a look at the cluster, through a snapshot if one is needed, along the stream to its end.
async fn follow(settings: &WatcherSettings, watch: &mut Watch) -> Result<Stop, Failure> {
    let Watch { resume, lag, pieces, state, .. } = &mut *watch;
    let (pieces, joins) = (*pieces, *state == WatchState::Starting);
    let open = async |from| {
        LiveWatch::open(&settings.etcd, &settings.keys, from, false, settings.silence, pieces).await
    };
    let (stream, mut beside) = match start(&settings.etcd, &settings.keys, resume).await? {
        Start::Rewound(reason) => return Ok(Stop::Rewound(reason)),
        Start::Watch(from) => (open(from).await?, None),
        Start::Snapshot(revision) => {
            let read = late(settings, lag, snapshot(settings, revision, joins)).await?;
            let SnapshotRead::Complete(newest) = read else {
                return Ok(Stop::IndexGone);
            };
            resume.snapshot(revision, newest);
            (open(revision.next()).await?, None)
        }
        Start::Beside(_) => {
            let Some((stream, revision, beside)) =
                Box::pin(late(settings, lag, Beside::open(settings, pieces))).await?
            else {
                return Ok(Stop::IndexGone);
            };
            resume.snapshot(revision, None);
            (stream, Some(beside))
        }
    };
    let mut ahead = HandingOn::default();
    let end = stream_to_end(settings, watch, stream, &mut ahead, &mut beside).await;
    settings.generation.stop();
    if end.is_err() {
        settings.meters.stream_broke();
    }
    if beside.is_some() {
        // What the stream told is not all there was.
        watch.resume.lost_beside();
    }
    // The next stream resumes after what was read: that must be with the index, however this one ended.
    if late(settings, &mut watch.lag, ahead.deliver(settings)).await { end } else { Ok(Stop::IndexGone) }
}

/// Waits for something, and reports it if that makes the watch late.
async fn late<T>(settings: &WatcherSettings, lag: &mut Lag, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = due(lag.deadline(Instant::now())) => settings.report(lag),
        }
    }
}

async fn due(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// How the reading of a snapshot came out.
enum SnapshotRead {
    /// The index has all of it. What is there, if anything is, was last changed so.
    Complete(Option<LastEvent>),
    IndexGone,
}

/// How long the first snapshot waits to hear whether others do the work meanwhile.
const MEMBERS: Duration = Duration::from_secs(1);

/// Beside others that do the work meanwhile, the first snapshot takes its time.
async fn pace(settings: &WatcherSettings, joins: bool) -> Throttle {
    if !joins {
        return Throttle::Fast;
    }
    let mut members = settings.members.clone();
    let known = timeout(MEMBERS, members.wait_for(Option::is_some)).await;
    match known.ok().flatten().flatten() {
        Some(members) if members > 1 => Throttle::joining(),
        _ => Throttle::Fast,
    }
}

/// Has the index compare the prefix at one revision.
async fn snapshot(
    settings: &WatcherSettings,
    revision: Revision,
    joins: bool,
) -> Result<SnapshotRead, Failure> {
    let WatcherSettings { index, number, .. } = settings;
    let open = OpenView { watcher: *number, revision, purpose: ViewPurpose::Snapshot, within: Vec::new() };
    let Ok(Some(view)) = index.send(open).await else { return Ok(SnapshotRead::IndexGone) };
    let started = Instant::now();
    let mut latest: Option<LastEvent> = None;
    let page = async |keys: Vec<KeyValue>, rest| {
        latest = newest(latest.take(), &keys);
        index.send(ViewPage(view, keys, rest)).await.unwrap_or(false)
    };
    let throttle = &mut pace(settings, joins).await;
    let read =
        reader::read(&settings.etcd, (&settings.keys, None), revision, &settings.splits, throttle, page);
    if read.await?.is_none() {
        return Ok(SnapshotRead::IndexGone);
    }
    let (done, closed) = oneshot::channel();
    let sent = index.send(CloseView(view, revision, done)).await;
    let complete = sent.is_ok() && closed.await.is_ok();
    settings.meters.snapshot(started.elapsed());
    Ok(if complete { SnapshotRead::Complete(latest) } else { SnapshotRead::IndexGone })
}

async fn stream_to_end(
    settings: &WatcherSettings,
    watch: &mut Watch,
    mut stream: LiveWatch,
    handing_on: &mut HandingOn,
    beside: &mut Option<Beside>,
) -> Result<Stop, Failure> {
    // Not before the stream has said something: etcd may refuse the watch.
    let mut follows = false;
    loop {
        // What was read is handed on, one batch at a time, while the next is being read.
        handing_on.begin(settings);
        if handing_on.ahead.has_many_bytes() && stream.pieces() == Pieces::Whole && beside.is_none() {
            // etcd keeps what is not read, and would then send all of it in one message.
            watch.pieces = Pieces::Small;
            return Ok(Stop::Again);
        }
        let Watch { resume, lag, .. } = &mut *watch;
        lag.waiting(handing_on.oldest());
        settings.report(lag);
        let late = lag.deadline(Instant::now());
        let reached = if handing_on.is_empty() { resume.delivered() } else { Revision::NONE };
        let delivered = async {
            match &mut handing_on.delivering {
                Some((delivering, _)) => delivering.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            delivered = delivered => {
                handing_on.delivered();
                if delivered.is_err() {
                    return Ok(Stop::IndexGone);
                }
            }
            progress = go_on(beside, settings, reached) => match progress? {
                Progress::On => {}
                Progress::IndexGone => return Ok(Stop::IndexGone),
                Progress::Complete(found) => {
                    *beside = None;
                    resume.completed(found.newest);
                    follows = true;
                    settings.follows(lag);
                    if !watch.is(WatchState::Follows, settings).await {
                        return Ok(Stop::IndexGone);
                    }
                }
            },
            heard = stream.next(), if !handing_on.ahead.is_full() => {
                let heard_at = Instant::now();
                let heard = match heard {
                    Ok(StreamEvent::Message(message)) => message,
                    // What this connection delivered is with the index before the watch goes on over the next.
                    Ok(StreamEvent::Moved) => return Ok(Stop::Again),
                    Err(failure) => {
                        if let Some(since) = stream.silent_since() {
                            settings.progress.broken(settings.number, since);
                        }
                        return Err(failure);
                    }
                };
                let store = heard.store();
                settings.generation.start();
                let refused = matches!(heard, WatchMessage::Cancelled { .. });
                if !follows && !refused && beside.is_none() {
                    follows = true;
                    settings.follows(lag);
                    if !watch.is(WatchState::Follows, settings).await {
                        return Ok(Stop::IndexGone);
                    }
                }
                let Watch { resume, lag, retry, .. } = &mut *watch;
                if let WatchMessage::Changes(header, changes) = &heard {
                    lag.heard(changes.last().is_none_or(|last| last.revision() >= header.revision), heard_at);
                }
                match resume.heard(heard) {
                    ResumeStep::Alive => retry.reset(),
                    ResumeStep::Deliver(changes, position) => {
                        retry.reset();
                        settings.meters.watch_events(changes.len());
                        settings.progress.received(settings.number, position, store);
                        if changes.iter().any(|change| change.bytes() >= LARGE) {
                            watch.pieces = Pieces::Small;
                        }
                        handing_on.ahead.add(changes, position, heard_at);
                    }
                    ResumeStep::Resync => {
                        tracing::info!(
                            engine = &*settings.engine, prefix = settings.keys.text(),
                            "the watch's history was compacted: comparing with a new snapshot"
                        );
                        settings.meters.resync();
                        lag.compacted(heard_at);
                        return Ok(Stop::Again);
                    }
                    // With a pause: members of two clusters behind one address would make it spin.
                    ResumeStep::Doubt => {
                        return Err(Failure::new(FailureKind::Unreachable, "watch", "another cluster answered"));
                    }
                    ResumeStep::Reopen(reason) => {
                        return Err(Failure::of_reason("watch", reason));
                    }
                }
            }
            () = settings.generation.doubted() => return Ok(Stop::Again),
            () = due(late) => {}
        }
    }
}

/// A snapshot that is read beside the watch goes on, if there is one.
async fn go_on(
    beside: &mut Option<Beside>,
    settings: &WatcherSettings,
    delivered: Revision,
) -> Result<Progress, Failure> {
    match beside {
        Some(beside) => beside.step(settings, delivered).await,
        None => std::future::pending().await,
    }
}

type Delivering = Pin<Box<actix::dev::Request<IndexActor, WatchBatch>>>;

/// Hands on what was read from the stream, one part at a time.
#[derive(Default)]
struct HandingOn {
    ahead: Ahead,
    /// What is being handed on, and when the first of it was received.
    delivering: Option<(Delivering, Instant)>,
}

impl HandingOn {
    /// When the oldest was received of what is not yet with the index.
    fn oldest(&self) -> Option<Instant> {
        self.delivering.as_ref().map(|(_, arrived)| *arrived).or(self.ahead.oldest())
    }

    /// The index has everything.
    fn is_empty(&self) -> bool {
        self.delivering.is_none() && self.ahead.is_empty()
    }

    /// Begins to hand on what there is, unless that is under way.
    fn begin(&mut self, settings: &WatcherSettings) {
        if self.delivering.is_none()
            && let Some(ChangeBatch { changes, position, arrived, .. }) = self.ahead.take()
        {
            let batch = WatchBatch { watcher: settings.number, changes, position, arrived };
            self.delivering = Some((Box::pin(settings.index.send(batch)), arrived));
        }
    }

    fn delivered(&mut self) {
        self.delivering = None;
        self.ahead.left();
    }

    /// Hands on all that is left. False if the index is gone.
    async fn deliver(&mut self, settings: &WatcherSettings) -> bool {
        loop {
            self.begin(settings);
            let Some((delivering, _)) = self.delivering.take() else { return true };
            if delivering.await.is_err() {
                return false;
            }
        }
    }
}
