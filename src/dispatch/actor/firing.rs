//! The steps of one firing, its [lock](super::lock), its [callback](super::callback), its [end](super::end), and the
//! answers that lead from one to the next. What they need of etcd goes out at the end of the
//! turn, and answers come back in one message a request. Only what one answer does not settle (a lease is
//! missing, etcd can't be reached) gets a task of its own, which goes on until it is settled.

use super::super::acquire::{AcquireTxn, LockEnd};
use super::super::commit::{CommitTxn, EndEnd};
use super::commit::note;
use super::*;
use crate::change::Snapshot;
use crate::etcd::Failure;
use crate::lock::requests::{Answered, Asker, Awaited};
use crate::lock::txn::{Reply, Request};
use crate::trace::spans::Beginning;

impl Dispatcher {
    /// Has a transaction sent, whose answer the step waits for.
    pub(super) fn submit(
        &mut self,
        instance: InstanceId,
        nonce: u64,
        sent: (u32, Class, Request),
        step: Step,
    ) {
        let (rule, class, request) = sent;
        let asker = Asker::Firing(Awaited { instance, nonce });
        self.submissions.push(Submit { rule, class, request, asker, send_before: None });
        if let Some(busy) = self.busy.get_mut(&instance) {
            busy.step = Some(step);
        }
    }

    /// The span of a firing that begins with these values.
    pub(super) fn span(&self, instance: InstanceId, snapshot: &Snapshot) -> Span {
        let Settings { engine, rules, telemetry, .. } = &self.settings;
        let Some(record) = self.work.record(instance) else { return Span::none() };
        let rule = &rules[record.rule as usize];
        let beginning = Beginning {
            engine,
            rule: rule.id(),
            attempt: record.failures + 1,
            revision: snapshot.iter().flatten().map(|seen| seen.mod_revision).max().unwrap_or(0),
            queued: record.latency.due.elapsed(),
        };
        spans::firing(beginning, telemetry.reveal, || rule.attributes_of(&record.binding))
    }

    /// A transaction of a firing was answered. The snapshot is of one whose callback may run now.
    fn answered(
        &mut self,
        Awaited { instance, nonce }: Awaited,
        answer: Result<Reply, Failure>,
        me: &Addr<Self>,
        now: Instant,
        out: &mut Vec<Action>,
    ) -> Option<Snapshot> {
        let busy = self.busy.get_mut(&instance).filter(|busy| busy.nonce == nonce)?;
        match busy.step.take()? {
            Step::Lock(mut step, locking) => match step.answered(answer) {
                None => self.go_on_locking(instance, step, locking, me.clone()),
                Some(end) => {
                    locking.record("result", end.result());
                    return self.lock_ended(instance, end, now, out).then_some(step.snapshot);
                }
            },
            Step::End(mut step, committing) => match step.answered(answer) {
                Err(failure) => self.go_on_ending(instance, step, Some(failure), committing, me.clone()),
                Ok(end) => {
                    note(&committing, &end);
                    drop(committing);
                    self.end_ended(instance, end, now - step.began, now, out);
                }
            },
        }
        None
    }

    /// The shutdown is over: what waits for an answer waits no more.
    pub(super) fn give_up(&mut self, ctx: &mut Context<Self>) {
        self.turn(ctx, |this, now, out| {
            let mut waiting: Vec<InstanceId> =
                this.busy.iter().filter(|(_, busy)| busy.step.is_some()).map(|(id, _)| *id).collect();
            waiting.sort_unstable();
            for instance in waiting {
                match this.busy.get_mut(&instance).and_then(|busy| busy.step.take()) {
                    Some(Step::Lock(_, locking)) => {
                        let end = LockEnd::Failed(OUT_OF_TIME.into());
                        locking.record("result", end.result());
                        this.lock_ended(instance, end, now, out);
                    }
                    Some(Step::End(step, committing)) => {
                        let end = EndEnd::Failed(OUT_OF_TIME.into());
                        note(&committing, &end);
                        this.end_ended(instance, end, now - step.began, now, out);
                    }
                    None => {}
                }
            }
        });
    }
}

/// A step whose transaction is out, and its span.
pub(super) enum Step {
    Lock(Box<AcquireTxn>, Span),
    End(Box<CommitTxn>, Span),
}

impl Handler<Answered> for Dispatcher {
    type Result = ();

    fn handle(&mut self, Answered(answers): Answered, ctx: &mut Self::Context) {
        let mut won = Vec::new();
        let me = ctx.address();
        self.turn(ctx, |this, now, out| {
            for (awaited, answer) in answers {
                let snapshot = this.answered(awaited, answer, &me, now, out);
                won.extend(snapshot.map(|snapshot| (awaited.instance, snapshot)));
            }
        });
        self.start_won(won, ctx);
    }
}
