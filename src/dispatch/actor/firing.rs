//! The steps of one firing, its [lock](super::lock), its [callback](super::callback), its
//! [end](super::commit), and the answers that lead from one to the next. What they need of etcd goes out at
//! the end of the turn, and answers come back in one message a request. Only what one answer does not settle
//! (a lease is missing, etcd can't be reached) gets a task of its own, which goes on until it is settled.

use super::super::acquire::AcquireStep;
use super::super::outcome::{CommitOutcome, LockOutcome};
use super::super::tools::OUT_OF_TIME;
use super::active::AwaitedTxn;
use super::commit::record_in;
use super::*;
use crate::change::Snapshot;
use crate::etcd::Failure;
use crate::lock::txn::Reply;
use crate::lock::txn_sender::{Answered, Asker, Awaited};
use crate::trace::spans::FiringStart;
use tracing::Level;
use tracing::level_filters::LevelFilter;

impl Dispatcher {
    /// Has a transaction sent, whose answer comes back to the firing.
    pub(super) fn submit(&mut self, awaited: Awaited, rule: RuleIndex, class: Class, request: Request) {
        let asker = Asker::Firing(awaited);
        self.requests.submissions.push(Submit { rule, class, request, asker, send_before: None });
    }

    /// The span of a firing that begins with these values.
    pub(super) fn span(&self, instance: InstanceId, snapshot: &Snapshot) -> Span {
        // Nobody wants spans: what would be in them is not put together.
        if LevelFilter::current() < Level::INFO {
            return Span::none();
        }
        let DispatcherConfig { engine, rules, reports: Reports { telemetry, .. }, .. } = &self.config;
        let Some(record) = self.work.record(instance) else { return Span::none() };
        let rule = &rules[record.rule.index()];
        let beginning = FiringStart {
            engine,
            rule: rule.id(),
            attempt: record.failures + 1,
            revision: snapshot
                .iter()
                .flatten()
                .map(|seen| seen.mod_revision)
                .max()
                .unwrap_or(Revision::NONE)
                .get(),
            queued: record.latency.due.elapsed(),
        };
        spans::firing(beginning, telemetry.reveal, || rule.attributes_of(&record.binding))
    }

    /// A transaction of a firing was answered. The snapshot is of one whose callback may run now.
    fn answered(
        &mut self,
        awaited: Awaited,
        answer: Result<Reply, Failure>,
        me: &Addr<Self>,
        now: Instant,
        out: &mut Vec<Action>,
    ) -> Option<Snapshot> {
        let instance = awaited.instance;
        let firing = self.firings.awaited(awaited)?;
        match firing.answer()? {
            AwaitedTxn::Acquire(mut txn, locking) => match txn.answered(answer) {
                AcquireStep::Unknown => self.go_on_locking(instance, txn, locking, me.clone()),
                AcquireStep::GoOn(request) => {
                    let rule = txn.rule;
                    if firing.lock_again(txn, locking) {
                        self.submit(awaited, rule, Class::Lock, request);
                    }
                }
                AcquireStep::Ended(outcome) => {
                    locking.record("result", outcome.result());
                    return self.lock_ended(instance, outcome, now, out).then_some(txn.snapshot);
                }
            },
            AwaitedTxn::Commit(mut txn, committing) => match txn.answered(answer) {
                Err(failure) => {
                    self.go_on_committing(instance, txn, Some(failure), committing, me.clone());
                }
                Ok(outcome) => {
                    record_in(&committing, &outcome);
                    drop(committing);
                    self.commit_ended(instance, outcome, now - txn.began, now, out);
                }
            },
        }
        None
    }

    /// The shutdown is over: nothing waits for an answer any longer.
    pub(super) fn give_up(&mut self, ctx: &mut Context<Self>) {
        self.turn(ctx, |this, now, out| {
            for instance in this.firings.awaiting_answers() {
                match this.firings.get_mut(instance).and_then(ActiveFiring::answer) {
                    Some(AwaitedTxn::Acquire(_, locking)) => {
                        let outcome = LockOutcome::Failed(OUT_OF_TIME.into());
                        locking.record("result", outcome.result());
                        this.lock_ended(instance, outcome, now, out);
                    }
                    Some(AwaitedTxn::Commit(txn, committing)) => {
                        let outcome = CommitOutcome::Failed(OUT_OF_TIME.into());
                        record_in(&committing, &outcome);
                        this.commit_ended(instance, outcome, now - txn.began, now, out);
                    }
                    None => {}
                }
            }
        });
    }
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
