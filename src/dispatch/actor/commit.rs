//! The last step of a firing: its commit, and the end of its lock.

use super::super::commit::CommitTxn;
use super::super::messages::Closing;
use super::super::outcome::CommitOutcome;
use super::super::tools::OUT_OF_TIME;
use super::super::work_queue::AfterCommit;
use super::active::Sent;
use super::*;
use crate::etcd::Failure;
use crate::firing::{Effects, FiringOutcome};
use crate::lock::txn::free_orphan;
use crate::lock::txn_sender::Awaited;
use crate::runtime::retry::Retry;

impl Dispatcher {
    /// Closes a firing in etcd. `ended`: how its callback did, if that was run and has ended just now.
    pub(super) fn close(
        &mut self,
        instance: InstanceId,
        closing: Closing,
        ended: Option<(FiringOutcome, Effects)>,
        ctx: &mut Context<Self>,
    ) {
        let Some((rule, binding)) = self.identity(instance) else { return };
        let Some(firing) = self.firings.get_mut(instance) else { return };
        if !firing.is_guarded() {
            return;
        }
        let (callback, effects) =
            ended.map(|(outcome, effects)| (Some(outcome), effects)).unwrap_or_default();
        let (effects, hold) = match closing {
            Closing::Commit(hold) => (effects, hold),
            Closing::Unlock(hold) => (Effects::default(), hold),
            Closing::Nothing => return self.firings.remove(instance),
        };
        let (nonce, committing) = (firing.nonce, spans::commit(&firing.span));
        let mut task = None;
        let request = firing.begin_commit(callback, |guard, keys| {
            let txn = Box::new(CommitTxn {
                tools: self.tools.clone(),
                rule,
                keys: keys.unwrap_or_else(|| self.tools.keys(rule, &binding)),
                guard: guard.clone(),
                effects,
                hold,
                retry: Retry::seeded(self.rng.next_u64()),
                began: Instant::now(),
                used: Vec::new(),
                send_before: None,
            });
            match txn.begin() {
                Some(request) => (Sent::Awaited(txn, committing), Some(request)),
                None => {
                    task = Some((txn, committing));
                    (Sent::WithTask, None)
                }
            }
        });
        if let Some(request) = request.flatten() {
            self.submit(Awaited { instance, nonce }, rule, Class::Ending, request);
        }
        if let Some((txn, committing)) = task {
            self.go_on_committing(instance, txn, None, committing, ctx.address());
        }
    }

    pub(super) fn go_on_committing(
        &self,
        instance: InstanceId,
        txn: Box<CommitTxn>,
        failed: Option<Failure>,
        committing: Span,
        me: Addr<Self>,
    ) {
        let out_of_time = self.shutdown.out_of_time.clone();
        spawn_guarded(&self.config.reports.faults, Self::NAME, async move {
            let began = txn.began;
            let outcome = tokio::select! {
                biased;
                outcome = txn.run(failed).instrument(committing.clone()) => outcome,
                () = out_of_time.cancelled() => CommitOutcome::Failed(OUT_OF_TIME.into()),
            };
            let took = began.elapsed();
            record_in(&committing, &outcome);
            drop(committing);
            // Closed: the engine is stopping or restarting.
            let _ = tell(&me, CommitEnded { instance, outcome, took }).await;
        });
    }

    pub(super) fn commit_ended(
        &mut self,
        instance: InstanceId,
        outcome: CommitOutcome,
        took: Duration,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        let Some(record) = self.work.record(instance) else { return self.firings.remove(instance) };
        let rule = record.rule;
        let meters = self.config.reports.meters.rule(rule);
        meters.ended(outcome.result(), took);
        if let Some(firing) = self.firings.get_mut(instance)
            && let Some(guard) = firing.commit_ended(&outcome)
        {
            if guard.is_lost() || matches!(outcome, CommitOutcome::FenceLost) {
                meters.lock_lost();
            }
            let fence = guard.fence();
            if !matches!(outcome, CommitOutcome::Committed { .. }) {
                spans::outcome(&firing.span, outcome.result(), outcome.is_failure());
            }
            if let (CommitOutcome::Unexpected { .. }, Some(fence)) = (&outcome, fence) {
                // The lock is still ours.
                let keys = self.tools.keys(rule, &record.binding);
                self.send(rule, free_orphan(keys.lock(), fence.create_revision));
            }
        }
        if let Some(callback) = self.firings.get(instance).and_then(ActiveFiring::callback) {
            self.notify_event(instance, || outcome.event(callback, took));
        }
        if let CommitOutcome::Refused(error) = &outcome {
            self.log_refused(instance, rule, error);
        }
        if let CommitOutcome::TooLarge(error) = &outcome {
            self.log_too_large(instance, rule, error);
        }
        if self.work.closed(instance, &outcome, now, out) == AfterCommit::Over {
            self.firings.remove(instance);
        }
        self.feedback.outbox.changes.extend(outcome.into_changes());
    }

    /// Says that etcd refused a commit, which counts as a failure of the callback.
    fn log_refused(&self, instance: InstanceId, rule: RuleIndex, error: &str) {
        let DispatcherConfig { engine, rules, reports: Reports { telemetry, .. }, .. } = &self.config;
        let (Some(record), Some(firing)) = (self.work.record(instance), self.firings.get(instance)) else {
            return;
        };
        if let Some(suppressed) = telemetry.lines.pass(Line::CommitRefused, rule, Instant::now()) {
            let (engine, rule) = (&**engine, &rules[rule.index()]);
            let instance = telemetry.reveal.instance(&rule.attributes_of(&record.binding));
            let (instance, rule) = (instance.as_deref(), &**rule.id());
            tracing::warn!(parent: &firing.span, engine, rule, instance, error, suppressed, "commit refused");
        }
    }
}

/// Notes in the span of a commit how it went.
pub(super) fn record_in(committing: &Span, outcome: &CommitOutcome) {
    committing.record("result", outcome.result());
    if let CommitOutcome::Committed { revision, .. } = outcome
        && *revision != Revision::NONE
    {
        committing.record("revision", revision.get());
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct CommitEnded {
    instance: InstanceId,
    outcome: CommitOutcome,
    took: Duration,
}

impl Handler<CommitEnded> for Dispatcher {
    type Result = ();

    fn handle(&mut self, ended: CommitEnded, ctx: &mut Self::Context) {
        let CommitEnded { instance, outcome, took } = ended;
        self.turn(ctx, |this, now, out| this.commit_ended(instance, outcome, took, now, out));
    }
}
