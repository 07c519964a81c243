//! The steps of one firing: its lock, its callback, its end. What they need of etcd goes out at the end of the
//! turn, and answers come back in one message a request. Only what one answer does not settle (a lease is
//! missing, etcd can't be reached) gets a task of its own, which goes on until it is settled.

use super::super::end_step::{EndEnd, EndStep};
use super::super::lock_step::{Keys, LockEnd, LockStep};
use super::super::messages::{Closing, ClosingOutcome, Finish, Hold, LockOutcome};
use super::super::record::{Record, State};
use super::super::run::{self, Run, RunEnded, UNLOCKED_GRACE};
use super::{tell, *};
use crate::broken::{Promise, is_broken};
use crate::condition::Witness;
use crate::engine::env::Retry;
use crate::engine::live::LiveFiring;
use crate::engine::part::tell;
use crate::etcd::Failure;
use crate::firing::{Effects, Firing, Parts, Source};
use crate::index::Snapshot;
use crate::lock::requests::{Answered, Asker, Awaited};
use crate::lock::txn::{Holder, Reply, Request, free_orphan};
use crate::trace::reveal::Reveal;
use crate::trace::spans::Beginning;

impl Dispatcher {
    /// Has its lock taken.
    pub(super) fn lock(
        &mut self,
        instance: InstanceId,
        (snapshot, witness): (Snapshot, Witness),
        overrule: Option<Revision>,
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
        self.busy.insert(instance, Busy::new(nonce, overrule, span));
        let Settings { engine, env, rules, namespace, requests, leases, .. } = &self.settings;
        let of = &rules[rule as usize];
        let Some(lease) = leases.get(&of.lock_ttl()) else { return };
        let mut step = Box::new(LockStep {
            rule,
            keys: Keys::of(of, namespace, &binding),
            snapshot,
            witness,
            overrule,
            holder: Holder { engine: engine.to_string(), nonce, since: env.unix_millis() },
            lease: lease.clone(),
            under: None,
            sent: 0,
            requests: requests.clone(),
            retry: Retry::seeded(self.rng.next_u64()),
            out_of_time: self.out_of_time.clone(),
        });
        match step.begin() {
            Some(request) => {
                self.submit(instance, nonce, (rule, Class::Lock, request), Step::Lock(step, locking))
            }
            None => self.go_on_locking(instance, step, locking, ctx.address()),
        }
    }

    /// Has a transaction sent, whose answer the step waits for.
    fn submit(&mut self, instance: InstanceId, nonce: u64, sent: (u32, Class, Request), step: Step) {
        let (rule, class, request) = sent;
        let asker = Asker::Firing(Awaited { instance, nonce });
        self.submissions.push(Submit { rule, class, request, asker, send_before: None });
        if let Some(busy) = self.busy.get_mut(&instance) {
            busy.step = Some(step);
        }
    }

    /// What one answer did not settle.
    fn go_on_locking(&self, instance: InstanceId, step: Box<LockStep>, locking: Span, me: Addr<Self>) {
        spawn_guarded(&self.settings.faults, Self::NAME, async move {
            let (end, step) = step.run().instrument(locking.clone()).await;
            locking.record("result", end.result());
            drop(locking);
            // Closed: the engine is stopping or restarting.
            let _ = tell(&me, LockEnded { instance, end, snapshot: step.snapshot }).await;
        });
    }

    fn go_on_ending(
        &self,
        instance: InstanceId,
        step: Box<EndStep>,
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

    /// The span of a firing that begins with these values.
    pub(super) fn span(&self, instance: InstanceId, snapshot: &Snapshot) -> Span {
        let Settings { engine, rules, telling, .. } = &self.settings;
        let Some(record) = self.pending.record(instance) else { return Span::none() };
        let rule = &rules[record.rule as usize];
        let beginning = Beginning {
            engine,
            rule: rule.id(),
            attempt: record.failures + 1,
            revision: snapshot.iter().flatten().map(|seen| seen.mod_revision).max().unwrap_or(0),
            queued: record.path.due.elapsed(),
        };
        spans::firing(beginning, telling.reveal, || rule.attributes_of(&record.binding))
    }

    /// Tells that a lock is freed which this engine has without knowing why.
    pub(super) fn tell_orphan(&self, rule: u32, id: Option<&str>, key: &str, revision: Revision) {
        let Settings { engine, telling, .. } = &self.settings;
        if let Some(suppressed) = telling.lines.pass(Line::OrphanFreed, rule, Instant::now()) {
            let key = (telling.reveal >= Reveal::Keys).then_some(key);
            tracing::info!(engine = &**engine, rule = id, key, revision, suppressed, "orphaned lock freed");
        }
    }

    /// The lock is taken: runs the callback.
    pub(super) fn start(&mut self, instance: InstanceId, snapshot: Snapshot) {
        let Some(record) = self.pending.record(instance) else { return };
        let Some(busy) = self.busy.get(&instance) else { return };
        let Settings { engine, rules, link, reserved, max_txn_ops, live, .. } = &self.settings;
        let rule = &rules[record.rule as usize];
        let attempt = record.failures + 1;
        self.tell_event(instance, || EventKind::Started { attempt });
        let cancelled = busy.cancelled.clone();
        let firing = Firing::new(Parts {
            engine: engine.clone(),
            rules: rules.clone(),
            rule: record.rule as usize,
            binding: record.binding.clone(),
            snapshot,
            attempt,
            due: record.path.due,
            fence: busy.fence.clone(),
            cancelled: cancelled.clone(),
            source: Source::Etcd(link.clone()),
            reserved: reserved.clone(),
            max_txn_ops: *max_txn_ops,
        });
        let limit = rule.options().time_limit;
        let grace = busy.lease.as_ref().map_or(UNLOCKED_GRACE, |lease| lease.grace);
        let run = Run {
            callback: rule.callback().clone(),
            firing,
            limit,
            cancelled: cancelled.clone(),
            grace,
            path: record.path,
            meters: self.settings.meters.clone(),
            number: record.rule,
            registered: live.register(record.rule, record.binding.clone(), LiveFiring { cancelled }),
            span: spans::callback(&busy.span),
            telling: self.settings.telling.clone(),
        };
        let end = self.ended.end_of(instance, busy.nonce, self.settings.meters.clone(), record.rule);
        self.starting.push(Box::pin(run::run_and_tell(engine.clone(), run, end)));
        if let Some(busy) = self.busy.get_mut(&instance) {
            busy.running = Some(Watched::new(Instant::now(), limit, grace));
        }
    }

    /// Finds callbacks that go on although they were told to end, and tells of them.
    pub(super) fn find_stuck(&mut self, now: Instant) {
        let Settings { engine, rules, telling, meters, .. } = &self.settings;
        for (instance, busy) in &mut self.busy {
            let Some(running) = &mut busy.running else { continue };
            if !running.has_got_stuck(busy.cancelled.is_cancelled(), now) {
                continue;
            }
            let Some(record) = self.pending.record(*instance) else { continue };
            meters.rule(record.rule).stuck(1.0);
            if let Some(suppressed) = telling.lines.pass(Line::CallbackStuck, record.rule, now) {
                let rule = &rules[record.rule as usize];
                let instance = telling.reveal.instance(&rule.attributes_of(&record.binding));
                let (engine, rule, instance) = (&**engine, &**rule.id(), instance.as_deref());
                tracing::warn!(
                    parent: &busy.span, engine, rule, instance, suppressed,
                    "callback does not end although it was told to; it keeps its slot"
                );
            }
        }
    }

    /// Tells that etcd refused a commit, which counts as a failure of the callback.
    fn tell_refused(&self, instance: InstanceId, rule: u32, error: &str) {
        let Settings { engine, rules, telling, .. } = &self.settings;
        let (Some(record), Some(busy)) = (self.pending.record(instance), self.busy.get(&instance)) else {
            return;
        };
        if let Some(suppressed) = telling.lines.pass(Line::CommitRefused, rule, Instant::now()) {
            let (engine, rule) = (&**engine, &rules[rule as usize]);
            let instance = telling.reveal.instance(&rule.attributes_of(&record.binding));
            let (instance, rule) = (instance.as_deref(), &**rule.id());
            tracing::warn!(parent: &busy.span, engine, rule, instance, error, suppressed, "commit refused");
        }
    }

    /// The callback has ended: closes the firing in etcd.
    pub(super) fn close(
        &mut self,
        instance: InstanceId,
        closing: Closing,
        effects: Effects,
        ctx: &mut Context<Self>,
    ) {
        let Some((rule, binding)) = self.identity(instance) else { return };
        let Some(busy) = self.busy.get(&instance) else { return };
        let nonce = busy.nonce;
        let (effects, hold): (Effects, Option<Hold>) = match closing {
            Closing::Commit(hold) => (effects, hold),
            Closing::Unlock(hold) => (Effects::default(), hold),
            Closing::Nothing => return,
        };
        let Settings { engine, env, rules, namespace, link, requests, keeper, .. } = &self.settings;
        let step = Box::new(EndStep {
            engine: engine.clone(),
            env: env.clone(),
            rules: rules.clone(),
            rule,
            binding,
            namespace: namespace.clone(),
            fence: busy.fence.clone(),
            lease: busy.lease.clone(),
            effects,
            hold,
            overrule: busy.overrule,
            link: link.clone(),
            requests: requests.clone(),
            keeper: keeper.clone(),
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
            Step::End(step, committing) => match step.answered(answer) {
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

    /// Runs the callbacks of those whose lock was won.
    fn start_won(&mut self, won: Vec<(InstanceId, Snapshot)>, ctx: &mut Context<Self>) {
        if won.is_empty() {
            return;
        }
        guarded(self, ctx, |this, _| {
            for (instance, snapshot) in won {
                // It may have been paused meanwhile.
                let starts = |record: &Record| record.state == State::Running;
                if this.pending.record(instance).is_some_and(starts) {
                    this.start(instance, snapshot);
                }
            }
            this.hand_out();
        });
    }
}

/// A step whose transaction is out, and its span.
pub(super) enum Step {
    Lock(Box<LockStep>, Span),
    End(Box<EndStep>, Span),
}

/// Notes in the span of a commit how it went.
fn note(committing: &Span, end: &EndEnd) {
    committing.record("result", end.result());
    if let EndEnd::Closed { revision: revision @ 1.., .. } = end {
        committing.record("revision", revision);
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
        self.hand_out();
    }

    fn run_ended(&mut self, ended: RunEnded, now: Instant, ctx: &mut Context<Self>) {
        let RunEnded { instance, nonce, finish, effects } = ended;
        let Some(busy) = self.busy.get_mut(&instance).filter(|busy| busy.nonce == nonce) else { return };
        let stuck = busy.running.take().is_some_and(|running| running.is_stuck());
        spans::outcome(&busy.span, finish.outcome(), finish.is_failure());
        busy.finish = Some(finish.clone());
        let Some(record) = self.pending.record(instance) else { return };
        let took = now - record.entered;
        if stuck {
            self.settings.meters.rule(record.rule).stuck(-1.0);
        }
        let closing = self.pending.finished(instance, &finish, now);
        self.tell_event(instance, || EventKind::Ended { outcome: finish.told(), took });
        self.close(instance, closing, effects.unwrap_or_default(), ctx);
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

impl Dispatcher {
    /// An attempt to take a lock is over. True if it was won.
    fn lock_ended(
        &mut self,
        instance: InstanceId,
        end: LockEnd,
        now: Instant,
        out: &mut Vec<Action>,
    ) -> bool {
        let mut won = false;
        let Some(record) = self.pending.record(instance) else {
            self.forget(instance);
            return false;
        };
        let (rule, took) = (record.rule, now - record.entered);
        let id = self.settings.rules[rule as usize].id().clone();
        self.settings.meters.rule(rule).locked(&end);
        if !matches!(end, LockEnd::Won { .. })
            && let Some(busy) = self.busy.get(&instance)
        {
            spans::outcome(&busy.span, end.result(), matches!(end, LockEnd::Failed(_)));
        }
        self.tell_event(instance, || tell::lock(&end, took));
        let outcome = match end {
            LockEnd::Won { fence, lease } => {
                if let Some(busy) = self.busy.get_mut(&instance) {
                    busy.span.record("fencing_token", fence.create_revision);
                    // Told to end while its transaction was out: the new token must say so too.
                    let told = busy.cancelled.is_cancelled();
                    busy.cancelled = lease.lost.child_token();
                    if told {
                        busy.cancelled.cancel();
                    }
                    busy.fence = Some(fence);
                    busy.lease = Some(lease);
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
        self.pending.locked(instance, outcome, now, out);
        won
    }

    fn end_ended(
        &mut self,
        instance: InstanceId,
        end: EndEnd,
        took: Duration,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        let Some(record) = self.pending.record(instance) else { return self.forget(instance) };
        let number = record.rule;
        self.settings.meters.rule(number).ended(&end, took);
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
            self.tell_event(instance, || tell::end(&end, finish, took));
        }
        let outcome = match end {
            EndEnd::Closed { revision, slots, marked, changes } => {
                self.outbox.changes.extend(changes);
                ClosingOutcome::Closed { revision, slots, marked }
            }
            EndEnd::FenceLost => ClosingOutcome::Lost { mark_gone: false },
            EndEnd::Unexpected { changes, mark_gone } => {
                self.outbox.changes.extend(changes);
                if let Some(Busy { fence: Some(fence), .. }) = self.busy.get(&instance) {
                    // The lock is still ours.
                    self.tell(number, free_orphan(&fence.key, fence.create_revision));
                }
                ClosingOutcome::Lost { mark_gone }
            }
            EndEnd::Marked(mark) => ClosingOutcome::Marked(mark),
            EndEnd::Refused(error) => {
                self.tell_refused(instance, number, &error);
                match self.pending.refused(instance, error.clone(), now) {
                    Closing::Nothing => ClosingOutcome::Failed(error),
                    closing => return out.push(Action::Close(instance, closing)),
                }
            }
            EndEnd::Failed(error) => ClosingOutcome::Failed(error),
        };
        self.forget(instance);
        self.pending.closed(instance, outcome, now, out);
    }
}
