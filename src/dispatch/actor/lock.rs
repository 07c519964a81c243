//! The first step of a firing: its lock.

use super::super::acquire::AcquireTxn;
use super::super::outcome::LockOutcome;
use super::active::Sent;
use super::*;
use crate::change::Snapshot;
use crate::lock::txn::{Holder, Showing, free_orphan};
use crate::lock::txn_sender::Awaited;
use crate::mutants::{Mutant, is_active};
use crate::runtime::retry::Retry;
use crate::trace::reveal::Reveal;

impl Dispatcher {
    /// Has its lock taken.
    pub(super) fn lock(
        &mut self,
        instance: InstanceId,
        Basis { snapshot, witness, coherent }: Basis,
        supersedes_backoff: Option<Revision>,
        ctx: &mut Context<Self>,
    ) {
        let Some((rule, binding)) = self.identity(instance) else { return };
        if self.still_running(instance, rule, &binding, ctx) {
            return;
        }
        let nonce = Nonce(self.rng.next_u64());
        let span = self.span(instance, &snapshot);
        let locking = spans::lock(&span);
        let DispatcherConfig { engine, env, rules, etcd, .. } = &self.config;
        let Some(lease) = etcd.leases.get(&rules[rule.index()].lock_ttl()) else { return };
        let keys = self.tools.keys(rule, &binding);
        let since = env.unix_millis();
        let mut txn = Box::new(AcquireTxn {
            tools: self.tools.clone(),
            rule,
            holder: Holder { engine: engine.clone(), nonce, since, name: keys.long_lock() },
            keys,
            snapshot,
            witness,
            showing: if coherent { Showing::AsDecided } else { Showing::IfUnchanged },
            supersedes_backoff,
            lease: lease.clone(),
            under: None,
            sent: 0,
            retry: Retry::seeded(self.rng.next_u64()),
        });
        let sent = match txn.begin() {
            Some(request) => {
                self.submit(Awaited { instance, nonce }, rule, Class::Lock, request);
                Sent::Awaited(txn, locking)
            }
            None => {
                self.go_on_locking(instance, txn, locking, ctx.address());
                Sent::WithTask
            }
        };
        self.firings.insert(instance, ActiveFiring::with_lock(nonce, span, sent));
    }

    /// Goes on where one answer did not tell the outcome.
    pub(super) fn go_on_locking(
        &self,
        instance: InstanceId,
        txn: Box<AcquireTxn>,
        locking: Span,
        me: Addr<Self>,
    ) {
        let out_of_time = self.shutdown.out_of_time.clone();
        spawn_guarded(&self.config.reports.faults, Self::NAME, async move {
            let (outcome, txn) = txn.run(out_of_time).instrument(locking.clone()).await;
            locking.record("result", outcome.result());
            drop(locking);
            // Closed: the engine is stopping or restarting.
            let _ = tell(&me, LockEnded { instance, outcome, snapshot: txn.snapshot }).await;
        });
    }

    /// An attempt to take a lock is over. True if it was won.
    pub(super) fn lock_ended(
        &mut self,
        instance: InstanceId,
        mut outcome: LockOutcome,
        now: Instant,
        out: &mut Vec<Action>,
    ) -> bool {
        let Some(record) = self.work.record(instance) else {
            self.firings.remove(instance);
            return false;
        };
        let (rule, took) = (record.rule, now - record.entered);
        self.config.reports.meters.rule(rule).locked(outcome.result());
        self.notify_event(instance, || outcome.event(took));
        if let LockOutcome::Held { key, create_revision, holder: Some(holder), ours: true, .. } = &outcome
            && !self.firings.nonces().any(|nonce| nonce == holder.nonce)
            && !is_active(Mutant::Orphans)
        {
            // The lock is left over from an attempt whose answer never came.
            self.log_orphan(rule, Some(self.config.rules[rule.index()].id()), key, *create_revision);
            self.config.reports.meters.orphan();
            self.send(rule, free_orphan(key, *create_revision));
            self.fails_to_lock(instance, outcome.result(), false);
            outcome = LockOutcome::Failed("an orphaned lock of this engine".into());
        } else if !outcome.is_won() {
            self.fails_to_lock(instance, outcome.result(), outcome.is_failure());
        }
        self.work.locked(instance, &outcome, now, out);
        match outcome {
            LockOutcome::Won { fence, lease, keys, read } => {
                // The mirror is not to be behind what the callback is shown.
                self.feedback.outbox.changes.extend(read.into_iter().flat_map(|read| read.changes));
                let Some(firing) = self.firings.get_mut(instance) else { return false };
                firing.span.record("fencing_token", fence.create_revision.get());
                return firing.won(fence, lease, keys);
            }
            LockOutcome::Untrue { changes, .. } => self.feedback.outbox.changes.extend(changes),
            LockOutcome::TooLarge(error) => self.log_too_large(instance, rule, &error),
            LockOutcome::Held { .. } | LockOutcome::Marked(_) | LockOutcome::Failed(_) => {}
        }
        false
    }

    /// Says that an instance is given up, because a transaction of it is larger than what etcd takes.
    pub(super) fn log_too_large(&self, instance: InstanceId, rule: RuleIndex, error: &str) {
        let DispatcherConfig { engine, rules, reports: Reports { telemetry, .. }, .. } = &self.config;
        let Some(record) = self.work.record(instance) else { return };
        if let Some(suppressed) = telemetry.lines.pass(Line::TooLarge, rule, Instant::now()) {
            let (engine, rule) = (&**engine, &rules[rule.index()]);
            let instance = telemetry.reveal.instance(&rule.attributes_of(&record.binding));
            let (instance, rule) = (instance.as_deref(), &**rule.id());
            tracing::warn!(
                engine,
                rule,
                instance,
                error,
                suppressed,
                "instance given up until a key of it changes: what it needs is too large for etcd"
            );
        }
    }

    fn fails_to_lock(&mut self, instance: InstanceId, result: &'static str, is_failure: bool) {
        if let Some(firing) = self.firings.get(instance) {
            spans::outcome(&firing.span, result, is_failure);
        }
        self.firings.remove(instance);
    }

    /// Says that a lock of this engine is freed under which no firing works.
    pub(super) fn log_orphan(&self, rule: RuleIndex, id: Option<&str>, key: &str, revision: Revision) {
        let DispatcherConfig { engine, reports: Reports { telemetry, .. }, .. } = &self.config;
        if let Some(suppressed) = telemetry.lines.pass(Line::OrphanFreed, rule, Instant::now()) {
            let key = (telemetry.reveal >= Reveal::Keys).then_some(key);
            tracing::info!(
                engine = &**engine,
                rule = id,
                key,
                revision = revision.get(),
                suppressed,
                "orphaned lock freed"
            );
        }
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct LockEnded {
    instance: InstanceId,
    outcome: LockOutcome,
    snapshot: Snapshot,
}

impl Handler<LockEnded> for Dispatcher {
    type Result = ();

    fn handle(&mut self, ended: LockEnded, ctx: &mut Self::Context) {
        let LockEnded { instance, outcome, snapshot } = ended;
        let mut won = Vec::new();
        self.turn(ctx, |this, now, out| {
            if this.lock_ended(instance, outcome, now, out) {
                won.push((instance, snapshot));
            }
        });
        self.start_won(won, ctx);
    }
}
