//! Takes the lock of one instance, sending the transaction until its outcome is known.

use super::outcome::{CHANGED, LockOutcome};
use super::tools::{OUT_OF_TIME, Tools};
use crate::change::{Revision, Snapshot};
use crate::compiled::RuleIndex;
use crate::condition::Witness;
use crate::etcd::{Failure, FailureKind, LeaseId};
use crate::lock::batch::Class;
use crate::lock::keys::Keys;
use crate::lock::lease_manager::LockLease;
use crate::lock::txn::{Holder, LockReply, Locking, Reply, Request, Showing, free_attempt};
use crate::lock::txn_sender::submit;
use crate::mutants::{Mutant, is_active};
use crate::runtime::retry::Retry;
use crate::watch_cell::WatchCell;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// How long a firing waits for a lease before it gives its slot to others.
const LEASE_WAIT: Duration = Duration::from_secs(5);

/// Times the transaction is sent while its outcome is unknown.
const SENDS: u32 = 5;

pub(super) struct AcquireTxn {
    pub(super) tools: Arc<Tools>,
    pub(super) rule: RuleIndex,
    pub(super) snapshot: Snapshot,
    pub(super) witness: Witness,
    pub(super) showing: Showing,
    pub(super) supersedes_backoff: Option<Revision>,
    pub(super) holder: Holder,
    pub(super) lease: WatchCell<Option<LockLease>>,
    /// The one that the lock is taken under.
    pub(super) under: Option<LockLease>,
    /// How often the transaction was sent.
    pub(super) sent: u32,
    pub(super) keys: Keys,
    pub(super) retry: Retry,
}

/// What an answer means for the attempt, which may not be over with it.
pub(super) enum AcquireStep {
    Ended(LockOutcome),
    /// It is to be sent again at once, in another form.
    GoOn(Request),
    /// Nothing is known yet: it is to be sent again after a while.
    Unknown,
}

impl AcquireTxn {
    /// The transaction, if there is a lease to take the lock under. [`answered`](Self::answered) tells how it
    /// ended; what is then not known yet is for [`run`](Self::run) to find out, and so is all without a
    /// lease.
    pub(super) fn begin(&mut self) -> Option<Request> {
        self.under = self.lease.get().filter(|lease| !lease.lost.is_cancelled());
        let lease = self.under.as_ref()?.id;
        Some(self.request(lease))
    }

    /// A request without an answer is given up once it is `out_of_time`.
    pub(super) async fn run(mut self: Box<Self>, out_of_time: CancellationToken) -> (LockOutcome, Box<Self>) {
        let end = tokio::select! {
            biased;
            end = self.attempt() => end,
            () = out_of_time.cancelled() => LockOutcome::Failed(OUT_OF_TIME.into()),
        };
        (end, self)
    }

    async fn attempt(&mut self) -> LockOutcome {
        if self.sent > 0 {
            self.retry.wait().await;
        }
        if self.under.is_none() {
            let alive = |lease: &Option<LockLease>| lease.as_ref().is_some_and(|l| !l.lost.is_cancelled());
            self.under = match timeout(LEASE_WAIT, self.lease.wait_for(alive)).await {
                Ok(lease) => lease.flatten(),
                Err(_) => return LockOutcome::Failed("no lease: etcd does not grant one".into()),
            };
        }
        let Some(lease) = self.under.as_ref().map(|lease| lease.id) else {
            return LockOutcome::Failed("the engine is stopping".into());
        };
        let mut request = self.request(lease);
        loop {
            let Some(answer) = submit(&self.tools.requests, self.rule, Class::Lock, request, None).await
            else {
                return LockOutcome::Failed("the engine is stopping".into());
            };
            request = match self.answered(answer) {
                AcquireStep::Ended(end) => return end,
                AcquireStep::GoOn(request) => request,
                AcquireStep::Unknown => {
                    self.retry.wait().await;
                    self.request(lease)
                }
            };
        }
    }

    fn request(&mut self, lease: LeaseId) -> Request {
        self.sent += 1;
        self.locking(lease).request()
    }

    fn locking(&self, lease: LeaseId) -> Locking<'_> {
        Locking {
            keys: &self.keys,
            holder: &self.holder,
            lease,
            supersedes_backoff: self.supersedes_backoff,
            condition: self.tools.rules[self.rule.index()].condition(),
            witness: &self.witness,
            snapshot: &self.snapshot,
            showing: self.showing,
        }
    }

    /// What an answer means.
    pub(super) fn answered(&mut self, answer: Result<Reply, Failure>) -> AcquireStep {
        let Some(lease) = self.under.clone() else { return AcquireStep::Unknown };
        let failure = match answer {
            Ok(reply) => {
                let locked = self.locking(lease.id).read(reply);
                return self.came_out(locked, lease);
            }
            Err(failure) => failure,
        };
        if failure.is_ambiguous() {
            if self.sent < SENDS && !lease.lost.is_cancelled() {
                return AcquireStep::Unknown;
            }
            self.free(lease);
        } else if failure.kind == FailureKind::LeaseGone {
            lease.lost.cancel();
        } else if failure.is_too_large() {
            return AcquireStep::Ended(LockOutcome::TooLarge(failure.to_string()));
        }
        AcquireStep::Ended(LockOutcome::Failed(failure.to_string()))
    }

    fn came_out(&mut self, locked: LockReply, lease: LockLease) -> AcquireStep {
        let keys = std::mem::take(&mut self.keys);
        AcquireStep::Ended(match locked {
            LockReply::Won(fence, read) => {
                if let Some(read) = &read {
                    self.snapshot = read.snapshot();
                }
                LockOutcome::Won { fence, lease, keys, read }
            }
            // However often the keys change, this one is refused only if the condition holds no more.
            LockReply::Changed => {
                self.tools.meters.rule(self.rule).locked(CHANGED);
                self.keys = keys;
                self.showing = Showing::Read;
                return AcquireStep::GoOn(self.request(lease.id));
            }
            LockReply::Outdated => {
                self.keys = keys;
                self.free(lease);
                LockOutcome::Failed("an answer was lost, and the condition holds no more".into())
            }
            LockReply::Held { create_revision, lease: under, holder, at } => {
                let key = keys.lock().to_owned();
                LockOutcome::Held { key, create_revision, holder, ours: under == lease.id, at }
            }
            LockReply::Marked(found) => LockOutcome::Marked(found.told_by(self.tools.reveal)),
            LockReply::Untrue { changes, mark_gone } => LockOutcome::Untrue { changes, mark_gone },
        })
    }

    /// Frees the lock that the attempt may have taken.
    fn free(&mut self, lease: LockLease) {
        let keys = std::mem::take(&mut self.keys);
        let (tools, holder, retry) = (self.tools.clone(), self.holder.clone(), self.retry.fork());
        if !is_active(Mutant::Orphans) {
            actix::spawn(free(tools, self.rule, keys, holder, lease, retry));
        }
    }
}

/// The lock may have been taken although no answer came. Frees it as soon as etcd answers again. Ends
/// with the lease, because the lock ends with that too.
async fn free(
    tools: Arc<Tools>,
    rule: RuleIndex,
    keys: Keys,
    holder: Holder,
    lease: LockLease,
    mut retry: Retry,
) {
    while !lease.lost.is_cancelled() {
        retry.wait().await;
        let request = free_attempt(keys.lock(), &holder);
        match submit(&tools.requests, rule, Class::Ending, request, None).await {
            Some(Err(failure)) if failure.is_ambiguous() => {}
            Some(Err(failure)) => return tracing::debug!(%failure, "lock left to its lease"),
            Some(Ok(_)) | None => return,
        }
    }
}
