//! Follows the keys of all members: a task with one small watch. Its position and resyncs are those of any other watch.

use super::view::FleetView;
use crate::change::{Change, Revision};
use crate::etcd::{EtcdClient, Failure, FailureKind, LiveWatch, Pieces, StreamEvent};
use crate::health::status::Status;
use crate::pattern::{KeyScope, prefix_end};
use crate::read::resume::{Resume, ResumeStep, Start};
use crate::read::start::start;
use crate::runtime::retry::Retry;
use crate::runtime::supervised::{ActorFaults, spawn_guarded};
use crate::watch_cell::WatchCellSender;
use actix::prelude::*;
use std::sync::Arc;
use std::time::Duration;

/// What is known of the members.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub(crate) enum FleetNews {
    /// They are these.
    Members(FleetView),
    /// The watch is broken: they were these.
    Broken,
    /// etcd refuses to let them be read or written, so that there is no advice.
    Refused,
}

/// What a watcher of the members is made of.
pub(crate) struct FleetWatcherSettings {
    pub(crate) etcd: Arc<EtcdClient>,
    /// All keys of members begin with it.
    pub(crate) prefix: String,
    pub(crate) dispatcher: Recipient<FleetNews>,
    /// How many members there are, once that is known.
    pub(crate) count: WatchCellSender<Option<usize>>,
    pub(crate) status: Status,
    pub(crate) silence: Duration,
    pub(crate) faults: ActorFaults,
}

impl FleetWatcherSettings {
    /// False: the dispatcher is gone.
    async fn tell(&self, view: &FleetView) -> bool {
        self.count.set(Some(view.len()));
        self.dispatcher.send(FleetNews::Members(view.clone())).await.is_ok()
    }
}

/// Its name among the parts of the engine.
const NAME: &str = "fleet watcher";

/// The name in the engine's health.
const PART: &str = "watch of members";

/// Keys that are read at once.
const PAGE: i64 = 500;

/// How long etcd is left alone when it has refused to let the members be read.
const REFUSED: Duration = Duration::from_secs(30);

/// Starts it on the present thread, with which it ends.
pub(crate) fn start_fleet_watcher(settings: FleetWatcherSettings, retry: Retry) {
    let faults = settings.faults.clone();
    spawn_guarded(&faults, NAME, run(settings, retry));
}

async fn run(settings: FleetWatcherSettings, mut retry: Retry) {
    let mut resume = Resume::default();
    let mut view = FleetView::default();
    loop {
        let news = match follow(&settings, &mut resume, &mut view, &mut retry).await {
            // The dispatcher is gone.
            Ok(false) => return,
            Ok(true) => continue,
            Err(failure) => {
                settings.status.failure(PART, &failure);
                match failure.kind {
                    FailureKind::Compacted => {
                        resume.forget_position();
                        FleetNews::Broken
                    }
                    FailureKind::Permission => FleetNews::Refused,
                    _ => FleetNews::Broken,
                }
            }
        };
        let refused = matches!(news, FleetNews::Refused);
        if settings.dispatcher.send(news).await.is_err() {
            return;
        }
        if refused {
            tokio::time::sleep(REFUSED).await;
        } else {
            retry.wait().await;
        }
    }
}

/// Follows the members until the stream's connection is replaced. False: the dispatcher is gone.
async fn follow(
    settings: &FleetWatcherSettings,
    resume: &mut Resume,
    view: &mut FleetView,
    retry: &mut Retry,
) -> Result<bool, Failure> {
    let FleetWatcherSettings { etcd, prefix, status, silence, .. } = settings;
    let members = KeyScope::Prefix(prefix.clone());
    let from = match start(etcd, &members, resume).await? {
        Start::Watch(from) => from,
        Start::Snapshot(_) | Start::Beside(_) => {
            let (read, revision) = read(etcd, prefix).await?;
            *view = read;
            resume.snapshot(revision, None);
            if !settings.tell(view).await {
                return Ok(false);
            }
            revision.next()
        }
        // Those of another store are others. That the keys of rules are others too is found by their watches.
        Start::Rewound(_) => {
            *resume = Resume::default();
            return Ok(true);
        }
    };
    let mut stream = LiveWatch::open(etcd, &members, from, false, *silence, Pieces::Whole).await?;
    status.fine(PART);
    // What was said of a broken watch is over.
    if !settings.tell(view).await {
        return Ok(false);
    }
    loop {
        let StreamEvent::Message(message) = stream.next().await? else { return Ok(true) };
        match resume.heard(message) {
            ResumeStep::Alive => retry.reset(),
            ResumeStep::Deliver(changes, _) => {
                retry.reset();
                changes.into_iter().for_each(|change| view.apply(prefix, change));
                if !settings.tell(view).await {
                    return Ok(false);
                }
            }
            ResumeStep::Resync => return Err(ended(FailureKind::Compacted, "history was compacted")),
            ResumeStep::Doubt => return Err(ended(FailureKind::Unreachable, "another cluster answered")),
            ResumeStep::Reopen(reason) => return Err(Failure::of_reason("watch", reason)),
        }
    }
}

fn ended(kind: FailureKind, message: &str) -> Failure {
    Failure::new(kind, "watch", message)
}

/// All members, and a revision at which they were these.
async fn read(etcd: &EtcdClient, prefix: &str) -> Result<(FleetView, Revision), Failure> {
    let mut view = FleetView::default();
    let mut revision = Revision::NONE;
    let mut from = prefix.as_bytes().to_vec();
    let end = prefix_end(prefix.as_bytes());
    loop {
        let page = etcd.range(from, end.clone(), PAGE, revision).await?;
        if revision == Revision::NONE {
            revision = page.revision;
        }
        let last = page.keys.last().map(|last| last.key.clone());
        for found in page.keys {
            view.apply(prefix, Change::Put { key: found.key, value: found.value, revision: found.revision });
        }
        match last.filter(|_| page.count > PAGE) {
            None => return Ok((view, revision)),
            Some(last) => {
                from = last;
                from.push(0);
            }
        }
    }
}
