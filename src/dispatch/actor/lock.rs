//! The first step of a firing: its lock.

use super::super::acquire::{AcquireTxn, LockEnd};
use super::super::messages::LockOutcome;
use super::firing::Step;
use super::{events, *};
use crate::broken::{Promise, is_broken};
use crate::change::Snapshot;
use crate::condition::Witness;
use crate::lock::txn::{Holder, free_orphan};
use crate::runtime::part::tell;
use crate::runtime::retry::Retry;
use crate::trace::reveal::Reveal;

impl Dispatcher {
    /// Has its lock taken.
    pub(super) fn lock(
        &mut self,
        instance: InstanceId,
        (snapshot, witness): (Snapshot, Witness),
        supersedes_backoff: Option<Revision>,
        ctx: &mut Context<Self>,
    ) {
        let Some((rule, binding)) = self.identity(instance) else { return };
        if self.still_running(instance, rule, &binding, ctx) {
            return;
        }
        let nonce = self.rng.next_u64();
        self.nonces.insert(nonce);
        let span = self.span(instance, &snapshot);
        let locking = spans::lock(&span);
        self.busy.insert(instance, Busy::new(nonce, supersedes_backoff, span));
        let Settings { engine, env, rules, leases, .. } = &self.settings;
        let Some(lease) = leases.get(&rules[rule as usize].lock_ttl()) else { return };
        let mut step = Box::new(AcquireTxn {
            tools: self.tools.clone(),
            rule,
            keys: self.tools.keys(rule, &binding),
            snapshot,
            witness,
            supersedes_backoff,
            holder: Holder { engine: engine.clone(), nonce, since: env.unix_millis() },
            lease: lease.clone(),
            under: None,
            sent: 0,
            retry: Retry::seeded(self.rng.next_u64()),
        });
        match step.begin() {
            Some(request) => {
                self.submit(instance, nonce, (rule, Class::Lock, request), Step::Lock(step, locking))
            }
            None => self.go_on_locking(instance, step, locking, ctx.address()),
        }
    }

    /// What one answer did not settle.
    pub(super) fn go_on_locking(
        &self,
        instance: InstanceId,
        step: Box<AcquireTxn>,
        locking: Span,
        me: Addr<Self>,
    ) {
        let out_of_time = self.out_of_time.clone();
        spawn_guarded(&self.settings.faults, Self::NAME, async move {
            let (end, step) = step.run(out_of_time).instrument(locking.clone()).await;
            locking.record("result", end.result());
            drop(locking);
            // Closed: the engine is stopping or restarting.
            let _ = tell(&me, LockEnded { instance, end, snapshot: step.snapshot }).await;
        });
    }

    /// An attempt to take a lock is over. True if it was won.
    pub(super) fn lock_ended(
        &mut self,
        instance: InstanceId,
        end: LockEnd,
        now: Instant,
        out: &mut Vec<Action>,
    ) -> bool {
        let mut won = false;
        let Some(record) = self.work.record(instance) else {
            self.forget(instance);
            return false;
        };
        let (rule, took) = (record.rule, now - record.entered);
        let id = self.settings.rules[rule as usize].id().clone();
        self.settings.meters.rule(rule).locked(end.result());
        if !matches!(end, LockEnd::Won { .. })
            && let Some(busy) = self.busy.get(&instance)
        {
            spans::outcome(&busy.span, end.result(), matches!(end, LockEnd::Failed(_)));
        }
        self.tell_event(instance, || events::lock(&end, took));
        let outcome = match end {
            LockEnd::Won { fence, lease, keys } => {
                if let Some(busy) = self.busy.get_mut(&instance) {
                    busy.span.record("fencing_token", fence.create_revision);
                    busy.won(fence, lease, keys);
                }
                won = true;
                LockOutcome::Won
            }
            LockEnd::Held { key, create_revision, holder: Some(holder), ours: true, .. }
                if !self.nonces.contains(&holder.nonce) && !is_broken(Promise::Orphans) =>
            {
                // Left over from an attempt whose answer never came.
                self.tell_orphan(rule, Some(&id), &key, create_revision);
                self.settings.meters.orphan();
                self.tell(rule, free_orphan(&key, create_revision));
                LockOutcome::Failed("an orphaned lock of this engine".into())
            }
            LockEnd::Held { key, holder, at, .. } => LockOutcome::Held { key, holder, at },
            LockEnd::Marked(mark) => LockOutcome::Marked(mark),
            LockEnd::Untrue { changes, mark_gone } => {
                self.outbox.changes.extend(changes);
                LockOutcome::Untrue { mark_gone }
            }
            LockEnd::Failed(error) => LockOutcome::Failed(error),
        };
        if !won {
            self.forget(instance);
        }
        self.work.locked(instance, outcome, now, out);
        won
    }

    /// Tells that a lock is freed which this engine has without knowing why.
    pub(super) fn tell_orphan(&self, rule: u32, id: Option<&str>, key: &str, revision: Revision) {
        let Settings { engine, telemetry, .. } = &self.settings;
        if let Some(suppressed) = telemetry.lines.pass(Line::OrphanFreed, rule, Instant::now()) {
            let key = (telemetry.reveal >= Reveal::Keys).then_some(key);
            tracing::info!(engine = &**engine, rule = id, key, revision, suppressed, "orphaned lock freed");
        }
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct LockEnded {
    instance: InstanceId,
    end: LockEnd,
    snapshot: Snapshot,
}

impl Handler<LockEnded> for Dispatcher {
    type Result = ();

    fn handle(&mut self, ended: LockEnded, ctx: &mut Self::Context) {
        let LockEnded { instance, end, snapshot } = ended;
        let mut won = Vec::new();
        self.turn(ctx, |this, now, out| {
            if this.lock_ended(instance, end, now, out) {
                won.push((instance, snapshot));
            }
        });
        self.start_won(won, ctx);
    }
}
