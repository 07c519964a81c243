//! The lock watcher: a task with one watch on deletions below the namespace, so that instances which wait for
//! another engine's lock or backoff key look again as soon as it is gone. It is open only while some wait: each
//! firing of each engine is an event of it.

use crate::change::{Change, Revision};
use crate::etcd::{EtcdClient, Failure, FailureKind, LiveWatch, LockKey, Pieces, StreamEvent};
use crate::health::status::Status;
use crate::pattern::KeyScope;
use crate::read::resume::{Resume, ResumeStep, Start};
use crate::read::start::start;
use crate::runtime::retry::Retry;
use crate::runtime::supervised::{ActorFault, ActorFaults, spawn_guarded};
use crate::watch_cell::WatchCell;
use actix::prelude::*;
use std::sync::Arc;
use std::time::Duration;

/// Locks and backoff keys that were deleted; `None`: some may have been missed.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Released(pub(crate) Option<Vec<(String, Revision)>>);

/// All locks of the application, as a crawl found them: those under this engine's leases that nobody
/// works under are freed.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct LocksSeen(pub(crate) Vec<LockKey>);

/// What a lock watcher is made of.
pub(crate) struct LockWatcherSettings {
    pub(crate) etcd: Arc<EtcdClient>,
    pub(crate) namespace: String,
    pub(crate) dispatcher: Recipient<Released>,
    /// The revision after which deletions are wanted; `None`: nobody waits.
    pub(crate) after: WatchCell<Option<Revision>>,
    pub(crate) status: Status,
    pub(crate) silence: Duration,
    pub(crate) faults: ActorFaults,
}

/// Its name among the parts of the engine.
const NAME: &str = "lock watcher";

/// Starts it on the present thread, with which it ends.
pub(crate) fn start_lock_watcher(settings: LockWatcherSettings, retry: Retry) {
    let faults = settings.faults.clone();
    spawn_guarded(&faults, NAME, run(settings, retry));
}

/// The name in the engine's health.
const PART: &str = "watch of released locks";

async fn run(mut settings: LockWatcherSettings, mut retry: Retry) {
    let mut resume = Resume::default();
    let mut followed = None;
    loop {
        if settings.after.get().is_none() {
            settings.status.fine(PART);
        }
        // `None`: the dispatcher is gone.
        let Some(after) = settings.after.wait_for(Option::is_some).await.flatten() else { return };
        if followed.replace(after) != Some(after) {
            resume.forget_position();
            resume.snapshot(after, None);
        }
        match follow(&mut settings, after, &mut resume, &mut retry).await {
            Ok(FollowEnd::WaitChanged) => followed = None,
            Ok(FollowEnd::Over) => return,
            Ok(FollowEnd::Again) => {}
            Err(failure) => {
                if failure.kind == FailureKind::Compacted {
                    resume.forget_position();
                }
                settings.status.failure(PART, &failure);
                retry.wait().await;
            }
        }
    }
}

/// Why the stream is followed no further.
enum FollowEnd {
    /// Nobody waits, or for what was deleted before it began.
    WaitChanged,
    /// The dispatcher is gone, or all parts are to start anew.
    Over,
    /// The stream's connection has been replaced.
    Again,
}

async fn follow(
    settings: &mut LockWatcherSettings,
    after: Revision,
    resume: &mut Resume,
    retry: &mut Retry,
) -> Result<FollowEnd, Failure> {
    let LockWatcherSettings { etcd, namespace, dispatcher, after: wanted, .. } = settings;
    let below = KeyScope::Prefix(namespace.clone());
    let from = match start(etcd, &below, resume).await? {
        Start::Watch(from) => from,
        // The watchers need not find this too: where nothing of theirs has changed since, they are behind
        // what was restored. To end here alone would leave all that wait unwoken.
        Start::Rewound(reason) => {
            settings.faults.report(ActorFault::Rewound(reason));
            return Ok(FollowEnd::Over);
        }
        // Nothing is read.
        Start::Snapshot(revision) | Start::Beside(revision) => {
            // What was deleted before is not known: all that wait look again.
            resume.snapshot(revision, None);
            if dispatcher.send(Released(None)).await.is_err() {
                return Ok(FollowEnd::Over);
            }
            revision.next()
        }
    };
    let mut stream = LiveWatch::open(etcd, &below, from, true, settings.silence, Pieces::Whole).await?;
    settings.status.fine(PART);
    loop {
        tokio::select! {
            biased;
            heard = stream.next() => {
                let StreamEvent::Message(message) = heard? else { return Ok(FollowEnd::Again) };
                match resume.heard(message) {
                    ResumeStep::Alive => retry.reset(),
                    ResumeStep::Deliver(changes, _) => {
                        retry.reset();
                        let keys: Vec<(String, Revision)> = changes.into_iter().filter_map(deleted).collect();
                        if !keys.is_empty() && dispatcher.send(Released(Some(keys))).await.is_err() {
                            return Ok(FollowEnd::Over);
                        }
                    }
                    ResumeStep::Resync => return Err(ended(FailureKind::Compacted, "history was compacted")),
                    ResumeStep::Doubt => return Err(ended(FailureKind::Unreachable, "another cluster answered")),
                    ResumeStep::Reopen(reason) => return Err(Failure::of_reason("watch", reason)),
                }
            }
            Some(_) = wanted.wait_for(|wanted| *wanted != Some(after)) => return Ok(FollowEnd::WaitChanged),
        }
    }
}

fn ended(kind: FailureKind, message: &str) -> Failure {
    Failure::new(kind, "watch", message)
}

fn deleted(change: Change) -> Option<(String, Revision)> {
    match change {
        Change::Delete { key, revision, .. } => Some((String::from_utf8(key).ok()?, revision)),
        Change::Put { .. } => None,
    }
}

#[cfg(all(test, feature = "embedded"))]
mod tests;
