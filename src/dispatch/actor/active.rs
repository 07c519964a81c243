//! Firings under way, as the actor sees them: the request that is out for each, and the token that tells it
//! to end. What a firing means for its instance is in the record. Tasks and tokens belong to the actor alone
//! and are kept here, so that the record is free of both.

use super::super::acquire::AcquireTxn;
use super::super::commit::CommitTxn;
use super::super::guard::Guard;
use super::super::messages::Finish;
use super::super::run::{StuckDetector, UNLOCKED_GRACE};
use crate::cancellation::FiringCancellation;
use crate::firing::Fence;
use crate::index::InstanceId;
use crate::lock::keys::Keys;
use crate::lock::txn::Nonce;
use crate::lock::txn_sender::Awaited;
use foldhash::fast::FixedState;
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;
use tracing::Span;

/// A firing from its lock to its end.
pub(super) struct ActiveFiring {
    pub(super) nonce: Nonce,
    /// When its callback began, which is when its lock was won.
    pub(super) began: Instant,
    pub(super) span: Span,
    /// Told to end.
    cancelled: bool,
    pub(super) stage: Stage,
}

/// How far it is.
#[derive(Default)]
pub(super) enum Stage {
    /// The transaction that takes its lock is out.
    Locking(Sent<AcquireTxn>),
    /// Others are excluded. Its callback is about to run, or to be given up.
    Guarded { guard: Guard, keys: Keys },
    /// Its callback runs. The token tells that to end.
    Running { guard: Guard, keys: Keys, token: FiringCancellation, detector: StuckDetector },
    /// The transaction that ends it is out. `finish`: how the callback ended, if it was run.
    Committing { guard: Guard, finish: Option<Finish>, txn: Sent<CommitTxn> },
    /// Between two of these states, within one turn only.
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
    /// The transaction, if its answer comes back in a message, which is there or is no longer waited for.
    pub(super) fn take(&mut self) -> Option<(Box<T>, Span)> {
        match std::mem::take(self) {
            Sent::Awaited(txn, span) => Some((txn, span)),
            Sent::WithTask => None,
        }
    }

    fn is_awaited(&self) -> bool {
        matches!(self, Sent::Awaited(..))
    }
}

/// What a run of its callback needs to know of a firing.
pub(super) struct RunOf {
    pub(super) fence: Option<Fence>,
    pub(super) token: FiringCancellation,
    pub(super) grace: Duration,
}

impl ActiveFiring {
    pub(super) fn new(nonce: Nonce, span: Span, stage: Stage) -> Self {
        Self { nonce, began: Instant::now(), span, cancelled: false, stage }
    }

    /// Others are excluded: the callback is run now. `limit`: its time.
    pub(super) fn run(&mut self, limit: Duration, now: Instant) -> Option<RunOf> {
        let (guard, keys) = match std::mem::take(&mut self.stage) {
            Stage::Guarded { guard, keys } => (guard, keys),
            other => {
                self.stage = other;
                return None;
            }
        };
        // Also the loss of the lock's lease tells it to end.
        let token = FiringCancellation::new(guard.lease().map(|lease| lease.lost.clone()));
        // It was told to end while its transaction was out: the callback must be told too.
        if self.cancelled {
            token.cancel();
        }
        self.began = now;
        let run = RunOf { fence: guard.fence(), token: token.clone(), grace: guard.grace() };
        let detector = StuckDetector::new(now, limit, run.grace);
        self.stage = Stage::Running { guard, keys, token, detector };
        Some(run)
    }

    /// Tells it to end.
    pub(super) fn cancel(&mut self) {
        self.cancelled = true;
        if let Stage::Running { token, .. } = &self.stage {
            token.cancel();
        }
    }

    pub(super) fn guard(&self) -> Option<&Guard> {
        match &self.stage {
            Stage::Guarded { guard, .. } | Stage::Running { guard, .. } | Stage::Committing { guard, .. } => {
                Some(guard)
            }
            Stage::Locking(_) | Stage::Between => None,
        }
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
mod tests {
    use super::*;

    #[test]
    fn a_callback_hears_that_it_was_told_to_end_also_if_that_was_before_it_began() {
        let guard = || Guard::Optimistic { supersedes_backoff: None };
        let firing = || {
            let stage = Stage::Guarded { guard: guard(), keys: Keys::default() };
            ActiveFiring::new(Nonce(1), Span::none(), stage)
        };
        let mut before = firing();
        before.cancel();
        let run = before.run(Duration::MAX, Instant::now()).expect("it may run");
        assert!(run.token.is_cancelled());
        let mut after = firing();
        let run = after.run(Duration::MAX, Instant::now()).expect("it may run");
        assert!(!run.token.is_cancelled());
        after.cancel();
        assert!(run.token.is_cancelled());
        assert!(after.run(Duration::MAX, Instant::now()).is_none(), "it runs");
    }

    #[test]
    fn an_answer_to_an_earlier_attempt_is_not_for_a_later_one_of_the_same_instance() {
        let instance = InstanceId { index: 1, generation: 1 };
        let mut firings = ActiveFirings::new(FixedState::with_seed(1));
        let of = |nonce| ActiveFiring::new(Nonce(nonce), Span::none(), Stage::Locking(Sent::WithTask));
        firings.insert(instance, of(1));
        firings.remove(instance);
        firings.insert(instance, of(2));
        let found = [1, 2].map(|nonce| firings.awaited(Awaited { instance, nonce: Nonce(nonce) }).is_some());
        assert_eq!(found, [false, true]);
        assert_eq!(firings.nonces().collect::<Vec<_>>(), [Nonce(2)]);
    }
}
