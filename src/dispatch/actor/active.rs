//! Firings under way, as the actor sees them: the request that is out for each, and the token that tells it
//! to end. What a firing means for its instance is in the record. Tasks and tokens belong to the actor alone
//! and are kept here, so that the record is free of both.

use super::super::acquire::AcquireTxn;
use super::super::commit::CommitTxn;
use super::super::guard::Guard;
use super::super::outcome::CommitOutcome;
use super::super::run::{StuckDetector, UNLOCKED_GRACE};
use crate::cancellation::FiringCancellation;
use crate::change::Revision;
use crate::firing::{Fence, FiringOutcome};
use crate::index::InstanceId;
use crate::lock::keys::Keys;
use crate::lock::lease_manager::LockLease;
use crate::lock::txn::Nonce;
use crate::lock::txn_sender::Awaited;
use foldhash::fast::FixedState;
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;
use tracing::Span;

/// A firing from its lock to its end. Its stage changes by the methods of this type alone. Each of them is refused, and
/// changes nothing, at a stage that it does not lead from.
///
/// Its steps don't look into its transactions `L` and `C`.
pub(super) struct ActiveFiring<L = AcquireTxn, C = CommitTxn> {
    pub(super) nonce: Nonce,
    pub(super) span: Span,
    /// When its callback began, which is when its lock was won.
    began: Instant,
    /// Told to end.
    cancelled: bool,
    stage: Stage<L, C>,
}

/// How far it is.
#[derive(Default)]
enum Stage<L, C> {
    /// The transaction that takes its lock is out.
    Locking(Sent<L>),
    /// Others are excluded. Its callback is about to run, or to be given up.
    Guarded { guard: Guard, keys: Keys },
    /// Its callback runs. The token tells that to end.
    Running { guard: Guard, keys: Keys, token: FiringCancellation, detector: StuckDetector },
    /// The transaction that ends it is out. `callback`: how the callback ended, if it was run.
    Committing { guard: Guard, callback: Option<FiringOutcome>, txn: Sent<C> },
    /// For as long as [`ActiveFiring::step`] has the stage in its hands.
    #[default]
    Between,
}

/// A transaction that is out.
#[derive(Default)]
pub(super) enum Sent<T> {
    /// Its answer comes back in a message; the span is that of the wait.
    Awaited(Box<T>, Span),
    /// A task of its own goes on until its outcome is known.
    #[default]
    WithTask,
}

impl<T> Sent<T> {
    /// The transaction, if its answer comes back in a message. Whoever takes it goes on with it.
    fn take(&mut self) -> Option<(Box<T>, Span)> {
        match std::mem::take(self) {
            Sent::Awaited(txn, span) => Some((txn, span)),
            Sent::WithTask => None,
        }
    }

    fn is_awaited(&self) -> bool {
        matches!(self, Sent::Awaited(..))
    }
}

/// The transaction whose answer is there, or is no longer waited for; with the span of the wait.
pub(super) enum AwaitedTxn<L, C> {
    Acquire(Box<L>, Span),
    Commit(Box<C>, Span),
}

/// What a run of its callback needs to know of a firing.
pub(super) struct RunOf {
    pub(super) fence: Option<Fence>,
    pub(super) token: FiringCancellation,
    pub(super) grace: Duration,
}

impl<L, C> ActiveFiring<L, C> {
    /// It begins with its lock.
    pub(super) fn with_lock(nonce: Nonce, span: Span, txn: Sent<L>) -> Self {
        Self::new(nonce, span, Stage::Locking(txn))
    }

    /// It needs no lock. Its mark, if there is one at this revision, is replaced when it ends.
    pub(super) fn optimistic(
        nonce: Nonce,
        span: Span,
        keys: Keys,
        supersedes_backoff: Option<Revision>,
    ) -> Self {
        let guard = Guard::Optimistic { supersedes_backoff };
        Self::new(nonce, span, Stage::Guarded { guard, keys })
    }

    fn new(nonce: Nonce, span: Span, stage: Stage<L, C>) -> Self {
        Self { nonce, span, began: Instant::now(), cancelled: false, stage }
    }

    /// Leads from one stage to the next, unless the step is refused: then the stage comes back as it was, with nothing.
    fn step<T>(&mut self, to: impl FnOnce(Stage<L, C>) -> (Stage<L, C>, Option<T>)) -> Option<T> {
        let (stage, done) = to(std::mem::take(&mut self.stage));
        self.stage = stage;
        done
    }

    /// Its transaction was answered, or the answer is no longer waited for: whoever is given the transaction goes on
    /// with it.
    pub(super) fn answer(&mut self) -> Option<AwaitedTxn<L, C>> {
        match &mut self.stage {
            Stage::Locking(sent) => sent.take().map(|(txn, span)| AwaitedTxn::Acquire(txn, span)),
            Stage::Committing { txn: sent, .. } => {
                sent.take().map(|(txn, span)| AwaitedTxn::Commit(txn, span))
            }
            Stage::Guarded { .. } | Stage::Running { .. } | Stage::Between => None,
        }
    }

    /// The transaction that takes its lock was answered, and is to be sent again. False if it is not to be.
    pub(super) fn lock_again(&mut self, txn: Box<L>, span: Span) -> bool {
        self.step(|stage| match stage {
            Stage::Locking(Sent::WithTask) => (Stage::Locking(Sent::Awaited(txn, span)), Some(())),
            other => (other, None),
        })
        .is_some()
    }

    /// Its lock is taken. True if its callback may run.
    pub(super) fn won(&mut self, fence: Fence, lease: LockLease, keys: Keys) -> bool {
        let guard = Guard::Lock { fence, lease };
        self.step(|stage| match stage {
            Stage::Locking(Sent::WithTask) => (Stage::Guarded { guard, keys }, Some(())),
            other => (other, None),
        })
        .is_some()
    }

    /// Others are excluded: the callback is run now. `limit`: its time.
    pub(super) fn run(&mut self, limit: Duration, now: Instant) -> Option<RunOf> {
        let cancelled = self.cancelled;
        let run = self.step(|stage| {
            let (guard, keys) = match stage {
                Stage::Guarded { guard, keys } => (guard, keys),
                other => return (other, None),
            };
            // Also the loss of the lock's lease tells it to end.
            let token = FiringCancellation::new(guard.lease().map(|lease| lease.lost.clone()));
            // It was told to end while its transaction was out: the callback must be told too.
            if cancelled {
                token.cancel();
            }
            let run = RunOf { fence: guard.fence(), token: token.clone(), grace: guard.grace() };
            let detector = StuckDetector::new(now, limit, run.grace);
            (Stage::Running { guard, keys, token, detector }, Some(run))
        })?;
        self.began = now;
        Some(run)
    }

    /// It is to be ended in etcd, with the transaction that is made of its guard and of its keys. An earlier
    /// transaction that was refused has taken the keys with it. `callback`: how its callback ended, if it was run and
    /// has ended just now.
    pub(super) fn begin_commit<T>(
        &mut self,
        callback: Option<FiringOutcome>,
        txn: impl FnOnce(&Guard, Option<Keys>) -> (Sent<C>, T),
    ) -> Option<T> {
        self.step(|stage| {
            let (guard, keys, callback) = match stage {
                Stage::Guarded { guard, keys } | Stage::Running { guard, keys, .. } => {
                    (guard, Some(keys), callback)
                }
                Stage::Committing { guard, callback, txn: Sent::WithTask } => (guard, None, callback),
                other => return (other, None),
            };
            let (txn, made) = txn(&guard, keys);
            (Stage::Committing { guard, callback, txn }, Some(made))
        })
    }

    /// The transaction that was to end it has this outcome, which may be another end than that of its callback.
    pub(super) fn commit_ended(&mut self, outcome: &CommitOutcome) -> Option<&Guard> {
        let Stage::Committing { guard, callback, txn: Sent::WithTask } = &mut self.stage else { return None };
        match outcome {
            CommitOutcome::Refused(error) => *callback = Some(FiringOutcome::Failed(error.clone())),
            CommitOutcome::TooLarge(error) => {
                *callback = Some(FiringOutcome::GaveUp(error.clone()));
            }
            _ => {}
        }
        Some(guard)
    }

    /// How its callback ended, or its commit in its place. It is known from the commit on, if the callback was run.
    pub(super) fn callback(&self) -> Option<&FiringOutcome> {
        match &self.stage {
            Stage::Committing { callback, .. } => callback.as_ref(),
            _ => None,
        }
    }

    /// Tells it to end.
    pub(super) fn cancel(&mut self) {
        self.cancelled = true;
        if let Stage::Running { token, .. } = &self.stage {
            token.cancel();
        }
    }

    /// The lock of this revision is gone: the callback that runs under it is told to end.
    pub(super) fn lost_lock(&mut self, created: Revision) {
        if let Stage::Running { guard: Guard::Lock { fence, .. }, .. } = &self.stage
            && fence.create_revision == created
        {
            self.cancel();
        }
    }

    /// The keys and the revision of the lock that its callback runs under, if it has had that since then or for longer,
    /// and was not told to end.
    pub(super) fn held_since(&self, then: Instant) -> Option<(&Keys, Revision)> {
        match &self.stage {
            Stage::Running { guard: Guard::Lock { fence, .. }, keys, token, .. } => {
                let held = self.began <= then && !token.is_cancelled();
                held.then_some((keys, fence.create_revision))
            }
            _ => None,
        }
    }

    /// What excludes others, once they are excluded.
    fn guard(&self) -> Option<&Guard> {
        match &self.stage {
            Stage::Guarded { guard, .. } | Stage::Running { guard, .. } | Stage::Committing { guard, .. } => {
                Some(guard)
            }
            Stage::Locking(_) | Stage::Between => None,
        }
    }

    /// Others are excluded, and nobody takes the lock any more.
    pub(super) fn is_guarded(&self) -> bool {
        self.guard().is_some()
    }

    /// How long its callback may go on after it was told to end.
    pub(super) fn grace(&self) -> Duration {
        self.guard().map_or(UNLOCKED_GRACE, Guard::grace)
    }

    /// True once its callback does not end although it was told to.
    pub(super) fn has_got_stuck(&mut self, now: Instant) -> bool {
        match &mut self.stage {
            Stage::Running { token, detector, .. } => detector.has_got_stuck(token.is_cancelled(), now),
            _ => false,
        }
    }

    /// Whether its callback has got stuck. `None`: it does not run.
    pub(super) fn is_stuck(&self) -> Option<bool> {
        match &self.stage {
            Stage::Running { detector, .. } => Some(detector.is_stuck()),
            _ => None,
        }
    }

    fn awaits_answer(&self) -> bool {
        match &self.stage {
            Stage::Locking(txn) => txn.is_awaited(),
            Stage::Committing { txn, .. } => txn.is_awaited(),
            _ => false,
        }
    }
}

/// By instance. Bounded by the firing slots.
pub(super) struct ActiveFirings(HashMap<InstanceId, ActiveFiring, FixedState>);

impl ActiveFirings {
    pub(super) fn new(hasher: FixedState) -> Self {
        Self(HashMap::with_hasher(hasher))
    }

    pub(super) fn insert(&mut self, instance: InstanceId, firing: ActiveFiring) {
        self.0.insert(instance, firing);
    }

    pub(super) fn remove(&mut self, instance: InstanceId) {
        self.0.remove(&instance);
    }

    pub(super) fn get(&self, instance: InstanceId) -> Option<&ActiveFiring> {
        self.0.get(&instance)
    }

    pub(super) fn get_mut(&mut self, instance: InstanceId) -> Option<&mut ActiveFiring> {
        self.0.get_mut(&instance)
    }

    /// The firing that waits for this answer, and not a later one of the same instance.
    pub(super) fn awaited(&mut self, Awaited { instance, nonce }: Awaited) -> Option<&mut ActiveFiring> {
        self.0.get_mut(&instance).filter(|firing| firing.nonce == nonce)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (InstanceId, &ActiveFiring)> {
        self.0.iter().map(|(instance, firing)| (*instance, firing))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (InstanceId, &mut ActiveFiring)> {
        self.0.iter_mut().map(|(instance, firing)| (*instance, firing))
    }

    /// Whose answers come back in messages, in order.
    pub(super) fn awaiting_answers(&self) -> Vec<InstanceId> {
        let awaiting = self.0.iter().filter(|(_, firing)| firing.awaits_answer());
        let mut awaiting: Vec<InstanceId> = awaiting.map(|(instance, _)| *instance).collect();
        awaiting.sort_unstable();
        awaiting
    }

    /// The attempts whose locks may exist.
    pub(super) fn nonces(&self) -> impl Iterator<Item = Nonce> {
        self.0.values().map(|firing| firing.nonce)
    }
}

#[cfg(test)]
mod tests;
