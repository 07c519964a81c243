//! What goes out of the dispatcher: to the index, to etcd, to the application's runtime, to the lock watcher, and to
//! whoever waits for its end. It is gathered during a turn, and goes out at the end of it.

use super::super::run::{CallbackTelemetry, EndReporter, EndedRuns, Run};
use crate::change::Revision;
use crate::firing::Surroundings;
use crate::index::actor::{Feedback, IndexActor};
use crate::lock::txn_sender::{Submissions, Submit, TxnSender};
use crate::watch_cell::WatchCellSender;
use actix::{Addr, Recipient};
use std::sync::Arc;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// What goes back to the index.
#[derive(Default)]
pub(super) struct FeedbackChannel {
    /// It is made after the dispatcher.
    pub(super) index: Option<Addr<IndexActor>>,
    /// Bounded by the number of instances that are not idle.
    pub(super) outbox: Feedback,
    /// A message waits for room in the index's mailbox.
    pub(super) waits: bool,
}

/// What goes to etcd, and is answered.
pub(super) struct RequestChannel {
    pub(super) sender: Recipient<Submissions>,
    pub(super) submissions: Vec<Submit>,
}

impl RequestChannel {
    pub(super) fn new(sender: &Addr<TxnSender>) -> Self {
        Self { sender: sender.clone().recipient(), submissions: Vec::new() }
    }
}

/// What goes to the application's runtime, and comes back from it.
pub(super) struct CallbackStarts {
    pub(super) around: Arc<Surroundings>,
    pub(super) telemetry: Arc<CallbackTelemetry>,
    pub(super) starting: Vec<(Run, EndReporter)>,
    pub(super) ended: EndedRuns,
}

impl CallbackStarts {
    pub(super) fn new(around: Surroundings, telemetry: CallbackTelemetry) -> Self {
        Self {
            around: Arc::new(around),
            telemetry: Arc::new(telemetry),
            starting: Vec::new(),
            // Nothing runs before the actor has started.
            ended: EndedRuns::new(|| {}),
        }
    }
}

/// After which revision what is released is watched. `None`: it is not watched.
pub(super) struct WatchedReleases {
    pub(super) watcher: WatchCellSender<Option<Revision>>,
    /// What the watcher was given last.
    pub(super) after: Option<Revision>,
}

/// How the dispatcher ends.
#[derive(Default)]
pub(super) struct Shutdown {
    /// Waits for the last firing.
    pub(super) draining: Option<oneshot::Sender<usize>>,
    /// At the end of a shutdown: what etcd has not answered by then is waited for no more.
    pub(super) out_of_time: CancellationToken,
}
