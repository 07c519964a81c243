//! The steps of one firing: its lock, its callback, its end. Each is carried out by a task and comes back
//! as a message.

use super::super::end_step::{EndEnd, EndStep};
use super::super::lock_step::{LockEnd, LockStep};
use super::super::messages::{Closing, ClosingOutcome, Finish, Hold, LockOutcome};
use super::super::record::{Record, State};
use super::super::run::{self, Run, UNLOCKED_GRACE};
use super::{tell, *};
use crate::broken::{Promise, is_broken};
use crate::condition::Witness;
use crate::engine::env::Retry;
use crate::engine::live::LiveFiring;
use crate::engine::part::tell;
use crate::firing::{Effects, Firing, Parts, Source};
use crate::index::Snapshot;
use crate::lock::txn::{Holder, free_orphan};
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
        let Some(lease) = leases.get(&rules[rule as usize].lock_ttl()) else { return };
        let step = Box::new(LockStep {
            rules: rules.clone(),
            rule,
            binding,
            namespace: namespace.clone(),
            snapshot,
            witness,
            overrule,
            holder: Holder { engine: engine.to_string(), nonce, since: env.unix_millis() },
            lease: lease.clone(),
            requests: requests.clone(),
            retry: Retry::seeded(self.rng.next_u64()),
            out_of_time: self.out_of_time.clone(),
        });
        let me = ctx.address();
        spawn_guarded(&self.settings.faults, Self::NAME, async move {
            let (end, snapshot) = step.run().instrument(locking.clone()).await;
            locking.record("result", end.result());
            drop(locking);
            // Closed: the engine is stopping or restarting.
            let _ = tell(&me, LockEnded { instance, end, snapshot }).await;
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
    pub(super) fn start(&mut self, instance: InstanceId, snapshot: Snapshot, ctx: &mut Context<Self>) {
        let Some(record) = self.pending.record(instance) else { return };
        let Some(busy) = self.busy.get(&instance) else { return };
        let Settings { engine, rules, link, reserved, max_txn_ops, runtime, live, .. } = &self.settings;
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
        let run = Run {
            callback: rule.callback().clone(),
            firing,
            limit: rule.options().time_limit,
            cancelled: cancelled.clone(),
            grace: busy.lease.as_ref().map_or(UNLOCKED_GRACE, |lease| lease.grace),
            path: record.path,
            meters: self.settings.meters.clone(),
            number: record.rule,
            registered: live.register(record.rule, record.binding.clone(), LiveFiring { cancelled }),
            span: spans::callback(&busy.span),
            telling: self.settings.telling.clone(),
        };
        let running = run::start(engine.clone(), rule.id().clone(), runtime, run);
        let me = ctx.address();
        spawn_guarded(&self.settings.faults, Self::NAME, async move {
            let (finish, effects) = running.await;
            // Closed: the engine is stopping or restarting.
            let _ = tell(&me, RunEnded { instance, finish, effects }).await;
        });
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
            used: Vec::new(),
        });
        let committing = spans::commit(&busy.span);
        let out_of_time = self.out_of_time.clone();
        let me = ctx.address();
        spawn_guarded(&self.settings.faults, Self::NAME, async move {
            let started = Instant::now();
            let end = tokio::select! {
                biased;
                end = step.run().instrument(committing.clone()) => end,
                () = out_of_time.cancelled() => EndEnd::Failed(OUT_OF_TIME.into()),
            };
            let took = started.elapsed();
            committing.record("result", end.result());
            if let EndEnd::Closed { revision: revision @ 1.., .. } = end {
                committing.record("revision", revision);
            }
            drop(committing);
            // Closed: the engine is stopping or restarting.
            let _ = tell(&me, EndEnded { instance, end, took }).await;
        });
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
        let mut won = false;
        self.turn(ctx, |this, now, out| {
            let Some(record) = this.pending.record(instance) else { return this.forget(instance) };
            let (rule, took) = (record.rule, now - record.entered);
            let id = this.settings.rules[rule as usize].id().clone();
            this.settings.meters.rule(rule).locked(&end);
            if !matches!(end, LockEnd::Won { .. })
                && let Some(busy) = this.busy.get(&instance)
            {
                spans::outcome(&busy.span, end.result(), matches!(end, LockEnd::Failed(_)));
            }
            this.tell_event(instance, || tell::lock(&end, took));
            let outcome = match end {
                LockEnd::Won { fence, lease } => {
                    if let Some(busy) = this.busy.get_mut(&instance) {
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
                    if !this.nonces.contains(&holder.nonce) && !is_broken(Promise::Orphans) =>
                {
                    // Left over from an attempt whose answer never came.
                    this.tell_orphan(rule, Some(&id), &key, create_revision);
                    this.settings.meters.orphan();
                    this.tell(rule, free_orphan(&key, create_revision));
                    LockOutcome::Failed("an orphaned lock of this engine".into())
                }
                LockEnd::Held { key, holder, at, .. } => LockOutcome::Held { key, holder, at },
                LockEnd::Marked(mark) => LockOutcome::Marked(mark),
                LockEnd::Untrue { changes, mark_gone } => {
                    this.outbox.changes.extend(changes);
                    LockOutcome::Untrue { mark_gone }
                }
                LockEnd::Failed(error) => LockOutcome::Failed(error),
            };
            if !won {
                this.forget(instance);
            }
            this.pending.locked(instance, outcome, now, out);
        });
        // It may have been paused meanwhile.
        let starts = |record: &Record| record.state == State::Running;
        if won && self.pending.record(instance).is_some_and(starts) {
            guarded(self, ctx, |this, ctx| this.start(instance, snapshot, ctx));
        }
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct RunEnded {
    instance: InstanceId,
    finish: Finish,
    effects: Option<Effects>,
}

impl Handler<RunEnded> for Dispatcher {
    type Result = ();

    fn handle(&mut self, ended: RunEnded, ctx: &mut Self::Context) {
        guarded(self, ctx, |this, ctx| {
            let RunEnded { instance, finish, effects } = ended;
            let now = Instant::now();
            let took = this.pending.record(instance).map_or(Duration::ZERO, |record| now - record.entered);
            let closing = this.pending.finished(instance, &finish, now);
            this.tell_event(instance, || EventKind::Ended { outcome: finish.told(), took });
            if let Some(busy) = this.busy.get_mut(&instance) {
                spans::outcome(&busy.span, finish.outcome(), finish.is_failure());
                busy.finish = Some(finish);
            }
            this.close(instance, closing, effects.unwrap_or_default(), ctx);
        });
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
        self.turn(ctx, |this, now, out| {
            let Some(record) = this.pending.record(instance) else { return this.forget(instance) };
            let number = record.rule;
            this.settings.meters.rule(number).ended(&end, took);
            let lease = this.busy.get(&instance).and_then(|busy| busy.lease.as_ref());
            if lease.is_some_and(|lease| lease.lost.is_cancelled()) || matches!(end, EndEnd::FenceLost) {
                this.settings.meters.rule(number).lock_lost();
            }
            if !matches!(end, EndEnd::Closed { .. })
                && let Some(busy) = this.busy.get(&instance)
            {
                spans::outcome(
                    &busy.span,
                    end.result(),
                    matches!(end, EndEnd::Refused(_) | EndEnd::Failed(_)),
                );
            }
            if let EndEnd::Refused(error) = &end
                && let Some(busy) = this.busy.get_mut(&instance)
            {
                busy.finish = Some(Finish::Failed(error.clone()));
            }
            if let Some(finish) = this.busy.get(&instance).and_then(|busy| busy.finish.as_ref()) {
                this.tell_event(instance, || tell::end(&end, finish, took));
            }
            let outcome = match end {
                EndEnd::Closed { revision, slots, marked, changes } => {
                    this.outbox.changes.extend(changes);
                    ClosingOutcome::Closed { revision, slots, marked }
                }
                EndEnd::FenceLost => ClosingOutcome::Lost { mark_gone: false },
                EndEnd::Unexpected { changes, mark_gone } => {
                    this.outbox.changes.extend(changes);
                    if let Some(Busy { fence: Some(fence), .. }) = this.busy.get(&instance) {
                        // The lock is still ours.
                        this.tell(number, free_orphan(&fence.key, fence.create_revision));
                    }
                    ClosingOutcome::Lost { mark_gone }
                }
                EndEnd::Marked(mark) => ClosingOutcome::Marked(mark),
                EndEnd::Refused(error) => {
                    this.tell_refused(instance, number, &error);
                    match this.pending.refused(instance, error.clone(), now) {
                        Closing::Nothing => ClosingOutcome::Failed(error),
                        closing => return out.push(Action::Close(instance, closing)),
                    }
                }
                EndEnd::Failed(error) => ClosingOutcome::Failed(error),
            };
            this.forget(instance);
            this.pending.closed(instance, outcome, now, out);
        });
    }
}
