//! The second step of a firing: its callback.

use super::super::record::{InstanceRecord, State};
use super::super::run::{Run, RunEnded};
use super::active::RunOf;
use super::*;
use crate::change::Snapshot;
use crate::condition::Witness;
use crate::firing::Parts;
use crate::lock::txn_sender::Awaited;

impl Dispatcher {
    /// Runs the callbacks of those whose lock was won.
    pub(super) fn start_won(&mut self, won: Vec<(InstanceId, Snapshot)>, ctx: &mut Context<Self>) {
        if won.is_empty() {
            return;
        }
        guarded(self, ctx, |this, _| {
            for (instance, snapshot) in won {
                // It may have been paused meanwhile.
                let starts = |record: &InstanceRecord| record.state == State::Running;
                if this.work.record(instance).is_some_and(starts) {
                    this.start(instance, snapshot, Witness::new());
                }
            }
            this.flush();
        });
    }

    /// Others are excluded: runs the callback. `witness`: what its commit has to prove, if it has no lock.
    pub(super) fn start(&mut self, instance: InstanceId, snapshot: Snapshot, witness: Witness) {
        let Some(record) = self.work.record(instance) else { return };
        let Some(firing) = self.firings.get_mut(instance) else { return };
        let DispatcherConfig { rules, callbacks: CallbackHost { running, .. }, .. } = &self.config;
        let rule = record.rule;
        let limit = rules[rule.index()].time_limit();
        let Some(RunOf { fence, token, grace }) = firing.run(limit, Instant::now()) else { return };
        let attempt = record.failures + 1;
        let parts = Parts {
            around: self.callbacks.around.clone(),
            rule,
            binding: record.binding.clone(),
            snapshot,
            witness,
            attempt,
            due: record.latency.due,
            fence,
            cancelled: token.clone(),
        };
        let run = Run {
            telemetry: self.callbacks.telemetry.clone(),
            parts,
            limit,
            grace,
            latency: record.latency,
            registered: running.register(rule, record.binding.clone(), token.own().clone()),
            span: spans::callback(&firing.span),
        };
        let end = self.callbacks.ended.end_of(instance, firing.nonce, self.callbacks.telemetry.clone(), rule);
        self.callbacks.starting.push((run, end));
        self.notify_event(instance, || EventKind::Started { attempt });
    }

    /// Says that an instance fires too often, and which rule makes it true again and again.
    pub(super) fn warn_slowed(&self, rule: RuleIndex, binding: &Binding, cause: Option<RuleIndex>) {
        let DispatcherConfig { engine, rules, reports: Reports { telemetry, .. }, .. } = &self.config;
        if let Some(suppressed) = telemetry.lines.pass(Line::InstanceSlowed, rule, Instant::now()) {
            let compiled = &rules[rule.index()];
            let instance = telemetry.reveal.instance(&compiled.attributes_of(binding));
            let (engine, rule, instance) = (&**engine, &**compiled.id(), instance.as_deref());
            let made_true_by = cause.map_or("somebody else", |cause| &**rules[cause.index()].id());
            tracing::warn!(
                engine,
                rule,
                instance,
                made_true_by,
                suppressed,
                "instance fires too often, and is slowed down; rules may undo each other's work"
            );
        }
    }

    /// Finds callbacks that go on although they were told to end, and says so.
    pub(super) fn find_stuck(&mut self, now: Instant) {
        let DispatcherConfig { engine, rules, reports: Reports { telemetry, meters, .. }, .. } = &self.config;
        for (instance, firing) in self.firings.iter_mut() {
            if !firing.has_got_stuck(now) {
                continue;
            }
            let Some(record) = self.work.record(instance) else { continue };
            meters.rule(record.rule).stuck(1.0);
            if let Some(suppressed) = telemetry.lines.pass(Line::CallbackStuck, record.rule, now) {
                let rule = &rules[record.rule.index()];
                let instance = telemetry.reveal.instance(&rule.attributes_of(&record.binding));
                let (engine, rule, instance) = (&**engine, &**rule.id(), instance.as_deref());
                tracing::warn!(
                    parent: &firing.span, engine, rule, instance, suppressed,
                    "callback does not end although it was told to; it keeps its slot"
                );
            }
        }
    }
}

/// Callbacks have ended.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct RunsEnded;

impl Handler<RunsEnded> for Dispatcher {
    type Result = ();

    fn handle(&mut self, _: RunsEnded, ctx: &mut Self::Context) {
        guarded(self, ctx, |this, ctx| {
            this.take_ended(Instant::now(), ctx);
        });
    }
}

impl Dispatcher {
    /// Ends the firings of all callbacks that have ended.
    pub(super) fn take_ended(&mut self, now: Instant, ctx: &mut Context<Self>) {
        let ended = self.callbacks.ended.take();
        if ended.is_empty() {
            return;
        }
        for ended in ended {
            self.run_ended(ended, now, ctx);
        }
        self.flush();
    }

    fn run_ended(&mut self, ended: RunEnded, now: Instant, ctx: &mut Context<Self>) {
        let RunEnded { instance, nonce, end, effects } = ended;
        let Some(firing) = self.firings.awaited(Awaited { instance, nonce }) else { return };
        let Some(stuck) = firing.is_stuck() else { return };
        let outcome = &end.outcome;
        spans::outcome(&firing.span, outcome.name(), outcome.is_failure());
        let Some(record) = self.work.record(instance) else { return };
        let took = now - record.entered;
        if stuck {
            self.config.reports.meters.rule(record.rule).stuck(-1.0);
        }
        let closing = self.work.finished(instance, &end, now);
        self.notify_event(instance, || EventKind::Ended { outcome: outcome.clone(), took });
        self.close(instance, closing, Some((end.outcome, effects.unwrap_or_default())), ctx);
    }
}
