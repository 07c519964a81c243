//! The second step of a firing: its callback.

use super::super::record::{InstanceRecord, State};
use super::super::run::{self, Run, RunEnded, UNLOCKED_GRACE};
use super::*;
use crate::change::Snapshot;
use crate::dispatch::running::RunningEntry;
use crate::firing::{Firing, Parts};

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
                    this.start(instance, snapshot);
                }
            }
            this.flush();
        });
    }

    /// The lock is taken: runs the callback.
    pub(super) fn start(&mut self, instance: InstanceId, snapshot: Snapshot) {
        let Some(record) = self.work.record(instance) else { return };
        let Some(busy) = self.busy.get_mut(&instance) else { return };
        let cancelled = busy.token();
        let Settings { rules, live, .. } = &self.settings;
        let rule = &rules[record.rule as usize];
        let attempt = record.failures + 1;
        let firing = Firing::new(Parts {
            around: self.around.clone(),
            rule: record.rule as usize,
            binding: record.binding.clone(),
            snapshot,
            attempt,
            due: record.latency.due,
            fence: busy.fence,
            cancelled: cancelled.clone(),
        });
        let limit = rule.options().time_limit;
        let grace = busy.lease.as_ref().map_or(UNLOCKED_GRACE, |lease| lease.grace);
        let run = Run {
            telemetry: self.callback_telemetry.clone(),
            firing,
            limit,
            cancelled: cancelled.clone(),
            grace,
            latency: record.latency,
            number: record.rule,
            registered: live.register(record.rule, record.binding.clone(), RunningEntry { cancelled }),
            span: spans::callback(&busy.span),
        };
        let end = self.ended.end_of(instance, busy.nonce, self.callback_telemetry.clone(), record.rule);
        self.starting.push(Box::pin(run::run_and_tell(run, end)));
        busy.running = Some(Watched::new(Instant::now(), limit, grace));
        self.tell_event(instance, || EventKind::Started { attempt });
    }

    /// Finds callbacks that go on although they were told to end, and tells of them.
    pub(super) fn find_stuck(&mut self, now: Instant) {
        let Settings { engine, rules, telemetry, meters, .. } = &self.settings;
        for (instance, busy) in &mut self.busy {
            let told = busy.is_cancelled();
            let Some(running) = &mut busy.running else { continue };
            if !running.has_got_stuck(told, now) {
                continue;
            }
            let Some(record) = self.work.record(*instance) else { continue };
            meters.rule(record.rule).stuck(1.0);
            if let Some(suppressed) = telemetry.lines.pass(Line::CallbackStuck, record.rule, now) {
                let rule = &rules[record.rule as usize];
                let instance = telemetry.reveal.instance(&rule.attributes_of(&record.binding));
                let (engine, rule, instance) = (&**engine, &**rule.id(), instance.as_deref());
                tracing::warn!(
                    parent: &busy.span, engine, rule, instance, suppressed,
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
    /// Has an end made of all that has ended.
    pub(super) fn take_ended(&mut self, now: Instant, ctx: &mut Context<Self>) {
        let ended = self.ended.take();
        if ended.is_empty() {
            return;
        }
        for ended in ended {
            self.run_ended(ended, now, ctx);
        }
        self.flush();
    }

    fn run_ended(&mut self, ended: RunEnded, now: Instant, ctx: &mut Context<Self>) {
        let RunEnded { instance, nonce, finish, effects } = ended;
        let Some(busy) = self.busy.get_mut(&instance).filter(|busy| busy.nonce == nonce) else { return };
        let stuck = busy.running.take().is_some_and(|running| running.is_stuck());
        spans::outcome(&busy.span, finish.result(), finish.is_failure());
        busy.finish = Some(finish.clone());
        let Some(record) = self.work.record(instance) else { return };
        let took = now - record.entered;
        if stuck {
            self.settings.meters.rule(record.rule).stuck(-1.0);
        }
        let closing = self.work.finished(instance, &finish, now);
        self.tell_event(instance, || EventKind::Ended { outcome: finish.outcome(), took });
        self.close(instance, closing, effects.unwrap_or_default(), ctx);
    }
}
