//! The releases actor: one watch on deletions below the namespace, so that instances which wait for
//! another engine's lock or backoff key look again as soon as it is gone.

use crate::dispatch::actor::{Dispatcher, Released};
use crate::engine::env::Retry;
use crate::engine::part::{AbortOnDrop, Fault, Faults, Part, spawn_guarded};
use crate::engine::status::Status;
use crate::etcd::{Failure, FailureKind, Link};
use crate::index::{Change, Revision};
use crate::watch::resume::{Resume, Start, Step};
use crate::watch::start::start;
use actix::prelude::*;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// What a releases actor is made of.
pub(crate) struct Settings {
    pub(crate) link: Arc<Link>,
    pub(crate) namespace: String,
    pub(crate) dispatcher: Addr<Dispatcher>,
    pub(crate) status: Status,
    pub(crate) silence: Duration,
    pub(crate) faults: Faults,
}

pub(crate) struct Releases {
    settings: Option<(Settings, Retry)>,
    faults: Faults,
}

impl Releases {
    pub(crate) fn new(settings: Settings, retry: Retry) -> Self {
        Self { faults: settings.faults.clone(), settings: Some((settings, retry)) }
    }
}

impl Actor for Releases {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        if let Some((settings, retry)) = self.settings.take() {
            let task = spawn_guarded(&self.faults, Self::NAME, run(settings, retry));
            ctx.spawn(actix::fut::wrap_future(AbortOnDrop(task)));
        }
    }
}

impl Part for Releases {
    const NAME: &'static str = "releases";

    fn faults(&self) -> &Faults {
        &self.faults
    }
}

async fn run(settings: Settings, mut retry: Retry) {
    let mut resume = Resume::default();
    loop {
        match follow(&settings, &mut resume, &mut retry).await {
            Ok(()) => return,
            Err(failure) => {
                if failure.kind == FailureKind::Compacted {
                    resume.compacted();
                }
                settings.status.failure("watch of released locks", &failure);
                retry.wait().await;
            }
        }
    }
}

/// Follows the stream to its end; `Ok` if the dispatcher is gone.
async fn follow(settings: &Settings, resume: &mut Resume, retry: &mut Retry) -> Result<(), Failure> {
    let Settings { link, namespace, dispatcher, .. } = settings;
    let from = match start(link, namespace, resume).await? {
        Start::Watch(from) => from,
        // The watchers need not find this too: where nothing of theirs has changed since, they are behind
        // what was restored. To end here alone would leave all that wait unwoken.
        Start::Rewound(reason) => {
            settings.faults.report(Fault::Rewound(reason));
            return Ok(());
        }
        Start::Snapshot(revision) => {
            // What was deleted before is not known: all that wait look again.
            resume.snapshot(revision, None);
            if dispatcher.send(Released(None)).await.is_err() {
                return Ok(());
            }
            revision + 1
        }
    };
    let mut stream = link.watch(namespace, from, true).await?;
    settings.status.fine("watch of released locks");
    let mut heard_at = Instant::now();
    let mut asked = false;
    loop {
        tokio::select! {
            biased;
            heard = stream.next() => {
                heard_at = Instant::now();
                asked = false;
                match resume.heard(heard?) {
                    Step::Alive => retry.reset(),
                    Step::Deliver(changes, _) => {
                        retry.reset();
                        let keys: Vec<(String, Revision)> = changes.into_iter().filter_map(deleted).collect();
                        if !keys.is_empty() && dispatcher.send(Released(Some(keys))).await.is_err() {
                            return Ok(());
                        }
                    }
                    Step::Resync => return Err(ended(FailureKind::Compacted, "history was compacted")),
                    Step::Doubt => return Err(ended(FailureKind::Unreachable, "another cluster answered")),
                    Step::Reopen(reason) => return Err(ended(FailureKind::Unreachable, &reason)),
                }
            }
            () = sleep_until(heard_at + settings.silence) => {
                if asked {
                    link.leave();
                    return Err(ended(FailureKind::Unreachable, "the stream is silent"));
                }
                asked = true;
                heard_at = Instant::now();
                stream.heartbeat(namespace).await?;
            }
        }
    }
}

fn ended(kind: FailureKind, message: &str) -> Failure {
    Failure { kind, request: "watch", message: message.to_owned() }
}

fn deleted(change: Change) -> Option<(String, Revision)> {
    match change {
        Change::Delete { key, revision, .. } => Some((String::from_utf8(key).ok()?, revision)),
        Change::Put { .. } => None,
    }
}
