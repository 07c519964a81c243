//! Ends one firing in etcd, sending the transaction until its outcome is known or its lock is lost.

use super::evidence::{self, ChangedKey, Evidence};
use super::guard::Guard;
use super::messages::Hold;
use super::outcome::CommitOutcome;
use super::tools::Tools;
use crate::change::{Change, Deletion, Revision};
use crate::compiled::RuleIndex;
use crate::condition::Slot;
use crate::etcd::{Failure, FailureKind, LeaseId};
use crate::firing::{Effect, Effects, Fence};
use crate::lock::batch::Class;
use crate::lock::key_leases::{Forget, KeyLease, LeasePurpose};
use crate::lock::keys::Keys;
use crate::lock::shared_leases::{KeyLife, LeaseTicket};
use crate::lock::txn::{EndReply, Ending, InstanceMark, Marking, Reply, Request};
use crate::lock::txn_sender::submit;
use crate::runtime::retry::Retry;
use smallvec::SmallVec;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

/// How long the end of an optimistic firing, which has no lease, is tried.
const UNLOCKED_LIMIT: Duration = Duration::from_secs(30);

/// How long the mark of an instance lives that a rule without a lock gave up.
const GIVEN_UP: Duration = Duration::from_secs(3600);

pub(super) struct CommitTxn {
    pub(super) tools: Arc<Tools>,
    pub(super) rule: RuleIndex,
    pub(super) keys: Keys,
    pub(super) guard: Guard,
    pub(super) effects: Effects,
    pub(super) hold: Option<Hold>,
    pub(super) retry: Retry,
    pub(super) began: Instant,
    /// Leases of keys in the last attempt.
    pub(super) used: Vec<LeaseId>,
    /// When that was to be sent.
    pub(super) send_before: Option<Instant>,
}

impl CommitTxn {
    /// The transaction, if it needs no lease. [`answered`](Self::answered) tells how it ended; what is then
    /// not known yet is for [`run`](Self::run) to find out, and so is all that needs leases, or nothing at
    /// all.
    pub(super) fn begin(&self) -> Option<Request> {
        let leased = |effect: &Effect| matches!(effect, Effect::Put { ttl: Some(_), .. });
        if self.is_nothing() || self.hold.is_some() || self.effects.changes.iter().any(leased) {
            return None;
        }
        let leases: SmallVec<[Option<LeaseId>; 8]> = self.effects.changes.iter().map(|_| None).collect();
        Some(self.ending(&leases, None).request())
    }

    /// What the answer to the first attempt means.
    pub(super) fn answered(&mut self, answer: Result<Reply, Failure>) -> Result<CommitOutcome, Failure> {
        let ended = self.ending(&[], None).read(answer?);
        Ok(self.end(ended).unwrap_or(CommitOutcome::FenceLost))
    }

    /// A firing of an optimistic rule that changes nothing needs no transaction.
    fn is_nothing(&self) -> bool {
        let Self { guard, effects, hold, .. } = self;
        matches!(guard, Guard::Optimistic { supersedes_backoff: None })
            && effects.changes.is_empty()
            && hold.is_none()
    }

    /// `failed`: how the first attempt did, if there was one.
    pub(super) async fn run(mut self: Box<Self>, mut failed: Option<Failure>) -> CommitOutcome {
        if self.is_nothing() {
            return self.closed(Revision::NONE);
        }
        let give_up_at = self.began + UNLOCKED_LIMIT;
        let mut ambiguous = false;
        loop {
            let failure = match failed.take() {
                Some(failure) => failure,
                None => match self.send(&mut ambiguous).await {
                    Ok(end) => return end,
                    Err(failure) => failure,
                },
            };
            ambiguous |= failure.is_ambiguous();
            match failure.kind {
                FailureKind::Rejected | FailureKind::Permission => {
                    return match ambiguous && self.is_unlocked().await {
                        true => self
                            .unlocked()
                            .await
                            .unwrap_or_else(|doubt| CommitOutcome::Failed(doubt.to_string())),
                        false if failure.is_too_large() => CommitOutcome::TooLarge(failure.to_string()),
                        false => CommitOutcome::Refused(failure.to_string()),
                    };
                }
                // A lease of a key ended meanwhile: take another. The lock's own is checked below.
                FailureKind::LeaseGone if !self.is_late() => {
                    let used = std::mem::take(&mut self.used);
                    // Closed: the engine is stopping, which the next attempt finds too.
                    let _ = self.tools.lease_manager.send(Forget(used)).await;
                }
                _ => {}
            }
            self.retry.wait().await;
            let over = match self.guard.lease() {
                Some(lease) => lease.lost.is_cancelled(),
                None => Instant::now() >= give_up_at,
            };
            if over {
                return CommitOutcome::Failed(failure.to_string());
            }
        }
    }

    async fn send(&mut self, ambiguous: &mut bool) -> Result<CommitOutcome, Failure> {
        let mut leases = Vec::new();
        let mut send_before: Option<Instant> = None;
        for effect in &self.effects.changes {
            leases.push(match effect {
                Effect::Put { key, ttl: Some(ttl), .. } => {
                    let reads = self.keys.slots().any(|slot| slot == key);
                    let purpose = if reads { LeasePurpose::Poll } else { LeasePurpose::Data };
                    let ticket = self.key_lease(purpose, (*ttl).into()).await?;
                    send_before = Some(send_before.map_or(ticket.send_before, |t| t.min(ticket.send_before)));
                    Some(ticket.lease)
                }
                Effect::Put { ttl: None, .. } | Effect::Delete { .. } | Effect::DeletePrefix { .. } => None,
            });
        }
        let mark = match &self.hold {
            None => None,
            Some(hold) => Some((self.mark(hold), self.mark_lease(hold).await?)),
        };
        self.used = leases.iter().flatten().copied().chain(mark.iter().map(|(_, lease)| *lease)).collect();
        let marking = mark.as_ref().map(|(mark, lease)| Marking { mark, lease: *lease });
        let request = self.ending(&leases, marking).request();
        self.send_before = send_before;
        let answer = submit(&self.tools.requests, self.rule, Class::Ending, request, send_before).await;
        let Some(answer) = answer else { return Ok(CommitOutcome::Failed("the engine is stopping".into())) };
        let marking = mark.as_ref().map(|(mark, lease)| Marking { mark, lease: *lease });
        let ended = self.ending(&leases, marking).read(answer?);
        match self.end(ended) {
            Some(end) => Ok(end),
            None if *ambiguous => self.unlocked().await,
            // A proxy may have sent it twice. The first one may then have left a mark, which would hold
            // this engine back like another engine's.
            None => Ok(self.marked_at().await?.map_or(CommitOutcome::FenceLost, |at| self.closed(at))),
        }
    }

    /// The last attempt was not sent in time. Its leases are as good as before for others.
    fn is_late(&self) -> bool {
        self.send_before.is_some_and(|limit| Instant::now() >= limit)
    }

    fn ending<'a>(&'a self, leases: &'a [Option<LeaseId>], marking: Option<Marking<'a>>) -> Ending<'a> {
        let Self { keys, guard, effects, .. } = self;
        let supersedes_backoff = guard.supersedes_backoff();
        Ending { keys, fence: guard.fence(), effects, leases, supersedes_backoff, marking }
    }

    /// `None`: the lock is gone.
    fn end(&mut self, ended: EndReply) -> Option<CommitOutcome> {
        Some(match ended {
            EndReply::Committed { revision } => self.closed(revision),
            EndReply::FenceLost => return None,
            EndReply::Unexpected { changes, mark_gone } => CommitOutcome::Unexpected { changes, mark_gone },
            EndReply::Marked(found) => CommitOutcome::Marked(found.told_by(self.tools.reveal)),
        })
    }

    /// The lock is gone, and the transaction was sent before without an answer: the history of the keys that it writes
    /// tells whether it took effect.
    async fn unlocked(&mut self) -> Result<CommitOutcome, Failure> {
        let Some(fence) = self.guard.fence() else { return Ok(CommitOutcome::FenceLost) };
        let mark = self.hold.as_ref().map(|_| ChangedKey { key: self.keys.mark(), is_put: true });
        let written = self.effects.changes.iter().map(ChangedKey::by).chain(mark);
        let evidence = evidence::find(&self.tools.etcd, self.keys.lock(), fence, written).await?;
        Ok(match evidence {
            Evidence::Committed(revision) => self.closed(revision),
            Evidence::NotCommitted if self.guard.is_lost() => CommitOutcome::FenceLost,
            Evidence::NotCommitted | Evidence::Gone => CommitOutcome::Unknown,
        })
    }

    /// The revision of the mark that was to be left behind, if it is there.
    async fn marked_at(&self) -> Result<Option<Revision>, Failure> {
        let (Some(hold), Some(fence)) = (&self.hold, self.guard.fence()) else { return Ok(None) };
        let Some((value, revision)) = self.tools.etcd.get(self.keys.mark()).await? else { return Ok(None) };
        let ours = self.mark(hold);
        let found: Option<InstanceMark> = serde_json::from_slice(value.as_bytes()).ok();
        // All but the time, which is another one in every attempt.
        let same = found.is_some_and(|found| InstanceMark { until: ours.until, ..found } == ours);
        Ok((same && revision > fence.create_revision).then_some(revision))
    }

    /// The lock is known to be gone.
    async fn is_unlocked(&self) -> bool {
        let Some(Fence { create_revision }) = self.guard.fence() else { return false };
        let found = self.tools.etcd.get(self.keys.lock()).await;
        found.is_ok_and(|found| found.is_none_or(|(_, revision)| revision != create_revision))
    }

    /// It is over: the effects are handed on.
    fn closed(&mut self, revision: Revision) -> CommitOutcome {
        let effects = std::mem::take(&mut self.effects.changes);
        let written = |key: &str| effects.iter().any(|effect| effect.changes(key));
        let slots = self.keys.slots().enumerate().filter(|(_, key)| written(key));
        let slots = slots.map(|(slot, _)| Slot::new(slot)).collect();
        let deleted = |key: Vec<u8>| Change::Delete { key, revision, how: Deletion::Committed };
        let mut changes = Vec::with_capacity(effects.len());
        for effect in effects {
            match effect {
                Effect::Put { key, value, .. } => {
                    changes.push(Change::Put { key: key.into_bytes(), value, revision });
                }
                Effect::Delete { key } => changes.push(deleted(key.into_bytes())),
                // Which others there were is told by the watch.
                Effect::DeletePrefix { prefix } => {
                    let own = self.keys.slots().filter(|key| key.starts_with(prefix.as_str()));
                    changes.extend(own.map(|key| deleted(key.into())));
                }
            }
        }
        CommitOutcome::Committed { revision, slots, marked: self.hold.is_some(), changes }
    }

    fn mark(&self, hold: &Hold) -> InstanceMark {
        /// People read the error in the key. Its beginning is enough.
        const ERROR: usize = 512;
        let now = self.tools.env.unix_millis();
        InstanceMark {
            engine: self.tools.engine.to_string(),
            attempt: hold.attempt,
            until: hold.delay.map_or(u64::MAX, |delay| now + delay.as_millis() as u64),
            gave_up: hold.delay.is_none(),
            error: hold.error.chars().take(ERROR).collect(),
            reveal: self.tools.reveal,
            name: self.keys.long_mark(),
        }
    }

    /// A mark outlives the delay a little, since this engine removes it when it tries again; if it can't any
    /// more, the mark's lease lets the others go on. What was given up stays while the engine lives.
    async fn mark_lease(&self, hold: &Hold) -> Result<LeaseId, Failure> {
        let life = match (hold.delay, self.guard.lease()) {
            (None, Some(lease)) => return Ok(lease.id),
            (None, None) => GIVEN_UP.into(),
            (Some(delay), _) => KeyLife::of_mark(delay, self.tools.rules[self.rule.index()].lock_ttl()),
        };
        Ok(self.key_lease(LeasePurpose::Mark, life).await?.lease)
    }

    async fn key_lease(&self, purpose: LeasePurpose, life: KeyLife) -> Result<LeaseTicket, Failure> {
        let (reply, ticket) = oneshot::channel();
        let stopping = || Failure::new(FailureKind::Unreachable, "lease_grant", "the engine is stopping");
        self.tools.lease_manager.send(KeyLease { purpose, life, reply }).await.map_err(|_| stopping())?;
        let limit = Instant::now() + UNLOCKED_LIMIT;
        timeout_at(limit, ticket).await.ok().and_then(Result::ok).unwrap_or_else(|| Err(stopping()))
    }
}
