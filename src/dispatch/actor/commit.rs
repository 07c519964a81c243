//! The last step of a firing: its commit, and the end of its lock.

use super::super::commit::{CommitTxn, EndEnd};
use super::super::messages::{Closing, ClosingOutcome, Hold};
use super::firing::Step;
use super::{events, *};
use crate::etcd::Failure;
use crate::lock::txn::free_orphan;
use crate::runtime::part::tell;
use crate::runtime::retry::Retry;

impl Dispatcher {
    /// The callback has ended: closes the firing in etcd.
    pub(super) fn close(
        &mut self,
        instance: InstanceId,
        closing: Closing,
        effects: Effects,
        ctx: &mut Context<Self>,
    ) {
        let Some((rule, binding)) = self.identity(instance) else { return };
        let Some(busy) = self.busy.get_mut(&instance) else { return };
        let nonce = busy.nonce;
        let (effects, hold): (Effects, Option<Hold>) = match closing {
            Closing::Commit(hold) => (effects, hold),
            Closing::Unlock(hold) => (Effects::default(), hold),
            Closing::Nothing => return,
        };
        let step = Box::new(CommitTxn {
            tools: self.tools.clone(),
            rule,
            keys: busy.keys.take().unwrap_or_else(|| self.tools.keys(rule, &binding)),
            fence: busy.fence,
            lease: busy.lease.clone(),
            effects,
            hold,
            supersedes_backoff: busy.supersedes_backoff,
            retry: Retry::seeded(self.rng.next_u64()),
            began: Instant::now(),
            used: Vec::new(),
        });
        let committing = spans::commit(&busy.span);
        match step.begin() {
            Some(request) => {
                self.submit(instance, nonce, (rule, Class::Ending, request), Step::End(step, committing));
            }
            None => self.go_on_ending(instance, step, None, committing, ctx.address()),
        }
    }

    pub(super) fn go_on_ending(
        &self,
        instance: InstanceId,
        step: Box<CommitTxn>,
        failed: Option<Failure>,
        committing: Span,
        me: Addr<Self>,
    ) {
        let out_of_time = self.out_of_time.clone();
        spawn_guarded(&self.settings.faults, Self::NAME, async move {
            let began = step.began;
            let end = tokio::select! {
                biased;
                end = step.run(failed).instrument(committing.clone()) => end,
                () = out_of_time.cancelled() => EndEnd::Failed(OUT_OF_TIME.into()),
            };
            let took = began.elapsed();
            note(&committing, &end);
            drop(committing);
            // Closed: the engine is stopping or restarting.
            let _ = tell(&me, EndEnded { instance, end, took }).await;
        });
    }

    pub(super) fn end_ended(
        &mut self,
        instance: InstanceId,
        end: EndEnd,
        took: Duration,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        let Some(record) = self.work.record(instance) else { return self.forget(instance) };
        let number = record.rule;
        self.settings.meters.rule(number).ended(end.result(), took);
        let lease = self.busy.get(&instance).and_then(|busy| busy.lease.as_ref());
        if lease.is_some_and(|lease| lease.lost.is_cancelled()) || matches!(end, EndEnd::FenceLost) {
            self.settings.meters.rule(number).lock_lost();
        }
        if !matches!(end, EndEnd::Closed { .. })
            && let Some(busy) = self.busy.get(&instance)
        {
            spans::outcome(&busy.span, end.result(), matches!(end, EndEnd::Refused(_) | EndEnd::Failed(_)));
        }
        if let EndEnd::Refused(error) = &end
            && let Some(busy) = self.busy.get_mut(&instance)
        {
            busy.finish = Some(Finish::Failed(error.clone()));
        }
        if let Some(finish) = self.busy.get(&instance).and_then(|busy| busy.finish.as_ref()) {
            self.tell_event(instance, || events::end(&end, finish, took));
        }
        let outcome = match end {
            EndEnd::Closed { revision, slots, marked, changes } => {
                self.outbox.changes.extend(changes);
                ClosingOutcome::Closed { revision, slots, marked }
            }
            EndEnd::FenceLost => ClosingOutcome::Lost { mark_gone: false },
            EndEnd::Unexpected { changes, mark_gone } => {
                self.outbox.changes.extend(changes);
                if let Some(fence) = self.busy.get(&instance).and_then(|busy| busy.fence) {
                    // The lock is still ours.
                    let keys = self.tools.keys(number, &record.binding);
                    self.tell(number, free_orphan(keys.lock(), fence.create_revision));
                }
                ClosingOutcome::Lost { mark_gone }
            }
            EndEnd::Marked(mark) => ClosingOutcome::Marked(mark),
            EndEnd::Refused(error) => {
                self.tell_refused(instance, number, &error);
                match self.work.refused(instance, error.clone(), now) {
                    Closing::Nothing => ClosingOutcome::Failed(error),
                    closing => return out.push(Action::Close(instance, closing)),
                }
            }
            EndEnd::Failed(error) => ClosingOutcome::Failed(error),
        };
        self.forget(instance);
        self.work.closed(instance, outcome, now, out);
    }

    /// Tells that etcd refused a commit, which counts as a failure of the callback.
    fn tell_refused(&self, instance: InstanceId, rule: u32, error: &str) {
        let Settings { engine, rules, telemetry, .. } = &self.settings;
        let (Some(record), Some(busy)) = (self.work.record(instance), self.busy.get(&instance)) else {
            return;
        };
        if let Some(suppressed) = telemetry.lines.pass(Line::CommitRefused, rule, Instant::now()) {
            let (engine, rule) = (&**engine, &rules[rule as usize]);
            let instance = telemetry.reveal.instance(&rule.attributes_of(&record.binding));
            let (instance, rule) = (instance.as_deref(), &**rule.id());
            tracing::warn!(parent: &busy.span, engine, rule, instance, error, suppressed, "commit refused");
        }
    }
}

/// Notes in the span of a commit how it went.
pub(super) fn note(committing: &Span, end: &EndEnd) {
    committing.record("result", end.result());
    if let EndEnd::Closed { revision: revision @ 1.., .. } = end {
        committing.record("revision", revision);
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct EndEnded {
    instance: InstanceId,
    end: EndEnd,
    took: Duration,
}

impl Handler<EndEnded> for Dispatcher {
    type Result = ();

    fn handle(&mut self, ended: EndEnded, ctx: &mut Self::Context) {
        let EndEnded { instance, end, took } = ended;
        self.turn(ctx, |this, now, out| this.end_ended(instance, end, took, now, out));
    }
}
