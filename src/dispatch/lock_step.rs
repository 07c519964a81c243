//! Takes the lock of one instance, sending the transaction until its outcome is known.

use super::actor::OUT_OF_TIME;
use super::messages::FoundMark;
use crate::broken::{Promise, is_broken};
use crate::condition::Witness;
use crate::engine::env::Retry;
use crate::etcd::FailureKind;
use crate::firing::Fence;
use crate::index::{Binding, Change, Revision, Snapshot};
use crate::latest::Latest;
use crate::lock::batch::Class;
use crate::lock::keeper::LockLease;
use crate::lock::requests::{Requests, submit};
use crate::lock::txn::{Holder, Locked, Locking, free_attempt};
use crate::rule::CompiledRule;
use actix::Addr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// How long a firing waits for a lease before it gives its slot to others.
const LEASE_WAIT: Duration = Duration::from_secs(5);

/// Times the transaction is sent while its outcome is unknown.
const SENDS: u32 = 5;

pub(super) struct LockStep {
    pub(super) rules: Arc<[CompiledRule]>,
    pub(super) rule: u32,
    pub(super) binding: Binding,
    pub(super) namespace: Arc<str>,
    pub(super) snapshot: Snapshot,
    pub(super) witness: Witness,
    pub(super) overrule: Option<Revision>,
    pub(super) holder: Holder,
    pub(super) lease: Latest<Option<LockLease>>,
    pub(super) requests: Addr<Requests>,
    pub(super) retry: Retry,
    /// What has no answer then is waited for no more.
    pub(super) out_of_time: CancellationToken,
}

/// How it ended.
#[derive(Debug)]
pub(crate) enum LockEnd {
    Won {
        fence: Fence,
        lease: LockLease,
    },
    /// Somebody has the lock; `ours`: under this engine's lease.
    Held {
        key: String,
        create_revision: Revision,
        holder: Option<Holder>,
        ours: bool,
        at: Revision,
    },
    Marked(FoundMark),
    Untrue {
        changes: Vec<Change>,
        mark_gone: bool,
    },
    Failed(String),
}

impl LockEnd {
    /// A word for it.
    pub(crate) fn result(&self) -> &'static str {
        match self {
            LockEnd::Won { .. } => "won",
            LockEnd::Held { .. } => "held",
            LockEnd::Marked { .. } => "backed_off",
            LockEnd::Untrue { .. } => "untrue",
            LockEnd::Failed(_) => "failed",
        }
    }
}

impl LockStep {
    /// Returns the snapshot with the outcome: it is what the callback is given.
    pub(super) async fn run(mut self: Box<Self>) -> (LockEnd, Snapshot) {
        let out_of_time = self.out_of_time.clone();
        let end = tokio::select! {
            biased;
            end = self.attempt() => end,
            () = out_of_time.cancelled() => LockEnd::Failed(OUT_OF_TIME.into()),
        };
        (end, self.snapshot)
    }

    async fn attempt(&mut self) -> LockEnd {
        let alive = |lease: &Option<LockLease>| lease.as_ref().is_some_and(|l| !l.lost.is_cancelled());
        let mut lease = self.lease.get().filter(|lease| !lease.lost.is_cancelled());
        if lease.is_none() {
            lease = match timeout(LEASE_WAIT, self.lease.wait_for(alive)).await {
                Ok(lease) => lease.flatten(),
                Err(_) => return LockEnd::Failed("no lease: etcd does not grant one".into()),
            };
        }
        let Some(lease) = lease else { return LockEnd::Failed("the engine is stopping".into()) };
        let rule = &self.rules[self.rule as usize];
        let lock = rule.lock_key(&self.namespace, &self.binding);
        let mark = rule.backoff_key(&self.namespace, &self.binding);
        let keys: Vec<String> =
            (0..rule.slots().len()).map(|slot| rule.key(slot as u8, &self.binding)).collect();
        let locking = Locking {
            lock: &lock,
            holder: &self.holder,
            lease: lease.id,
            mark: &mark,
            overrule: self.overrule,
            witness: &self.witness,
            snapshot: &self.snapshot,
            keys: &keys,
        };
        for sent in 1.. {
            let answer = submit(&self.requests, self.rule, Class::Lock, locking.request(), None).await;
            match answer {
                None => return LockEnd::Failed("the engine is stopping".into()),
                Some(Ok(reply)) => return outcome(locking.read(reply), lock, mark, lease),
                Some(Err(failure)) if failure.is_ambiguous() => {
                    if sent >= SENDS || lease.lost.is_cancelled() {
                        let freeing = free(
                            self.requests.clone(),
                            self.rule,
                            lock,
                            self.holder.clone(),
                            lease,
                            self.retry.fork(),
                        );
                        if !is_broken(Promise::Orphans) {
                            actix::spawn(freeing);
                        }
                        return LockEnd::Failed(failure.to_string());
                    }
                    self.retry.wait().await;
                }
                Some(Err(failure)) => {
                    if failure.kind == FailureKind::LeaseGone {
                        lease.lost.cancel();
                    }
                    return LockEnd::Failed(failure.to_string());
                }
            }
        }
        LockEnd::Failed("not sent".into())
    }
}

fn outcome(locked: Locked, lock: String, mark_key: String, lease: LockLease) -> LockEnd {
    match locked {
        Locked::Won(fence) => LockEnd::Won { fence, lease },
        Locked::Held { create_revision, lease: under, holder, at } => {
            LockEnd::Held { key: lock, create_revision, holder, ours: under == lease.id, at }
        }
        Locked::Marked { revision, mark, at } => {
            LockEnd::Marked(FoundMark { key: mark_key, revision, mark, at })
        }
        Locked::Untrue { changes, mark_gone } => LockEnd::Untrue { changes, mark_gone },
    }
}

/// The lock may have been taken without our knowing: frees it, as soon as etcd answers again. Ends
/// with the lease, for the lock ends with it too.
async fn free(
    requests: Addr<Requests>,
    rule: u32,
    lock: String,
    holder: Holder,
    lease: LockLease,
    mut retry: Retry,
) {
    while !lease.lost.is_cancelled() {
        retry.wait().await;
        match submit(&requests, rule, Class::Ending, free_attempt(&lock, &holder), None).await {
            Some(Err(failure)) if failure.is_ambiguous() => {}
            Some(Err(failure)) => return tracing::debug!(%failure, "lock left to its lease"),
            Some(Ok(_)) | None => return,
        }
    }
}
