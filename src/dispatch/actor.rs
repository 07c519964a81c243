//! The dispatcher actor: tells [`Pending`] what happened and carries out what it wants. It never waits
//! for anybody up the path: what goes back to the index is kept until the index has room.

use super::end_step::{EndEnd, EndStep};
use super::lock_step::{LockEnd, LockStep};
use super::messages::{Action, Closing, ClosingOutcome, Finish, Hold, LockOutcome, Tally};
use super::pending::Pending;
use super::run::{self, Run};
use crate::engine::env::{Env, Retry};
use crate::engine::live::{Live, LiveFiring};
use crate::engine::part::{Faults, Part, guarded, spawn_guarded};
use crate::etcd::{Link, LockKey};
use crate::evaluate::Decisions;
use crate::firing::{Effects, Fence, Firing, Parts};
use crate::index::actor::{Feedback, IndexActor};
use crate::index::{Binding, InstanceId, Revision, Snapshot};
use crate::lock::batch::Class;
use crate::lock::keeper::{Keeper, LockLease, LockLeases};
use crate::lock::requests::{Requests, submit};
use crate::lock::txn::{Holder, clear_mark, free_orphan};
use crate::metrics;
use crate::rule::CompiledRule;
use actix::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// What a dispatcher is made of.
pub(crate) struct Settings {
    pub(crate) engine: Arc<str>,
    pub(crate) env: Env,
    pub(crate) rules: Arc<[CompiledRule]>,
    pub(crate) namespace: Arc<str>,
    pub(crate) reserved: Arc<[String]>,
    pub(crate) max_txn_ops: usize,
    pub(crate) limit: usize,
    pub(crate) ageing: Duration,
    pub(crate) link: Arc<Link>,
    pub(crate) requests: Addr<Requests>,
    pub(crate) keeper: Addr<Keeper>,
    pub(crate) leases: LockLeases,
    pub(crate) runtime: Handle,
    pub(crate) live: Live,
    pub(crate) faults: Faults,
}

pub(crate) struct Dispatcher {
    settings: Settings,
    pending: Pending,
    index: Option<Addr<IndexActor>>,
    /// What goes back to the index, bounded by the number of instances that are not idle.
    outbox: Feedback,
    outbox_waits: bool,
    busy: HashMap<InstanceId, Busy>,
    /// Numbers of attempts whose lock may exist.
    nonces: HashSet<u64>,
    timer: Option<(Instant, SpawnHandle)>,
    draining: Option<oneshot::Sender<usize>>,
    rng: StdRng,
}

/// A firing from its lock to its end.
struct Busy {
    nonce: u64,
    fence: Option<Fence>,
    lease: Option<LockLease>,
    overrule: Option<Revision>,
    cancelled: CancellationToken,
}

/// How often the instances are counted for the metrics.
const TALLY: Duration = Duration::from_secs(2);

/// While another run of the same instance, from before a restart, has not ended.
const STILL_RUNNING: Duration = Duration::from_millis(100);

/// Grace for callbacks of optimistic rules, which have no lease.
const UNLOCKED_GRACE: Duration = Duration::from_secs(1);

impl Dispatcher {
    pub(crate) fn new(settings: Settings) -> Self {
        let Settings { env, rules, limit, ageing, .. } = &settings;
        let pending = Pending::new(rules.clone(), *limit, *ageing, env.rng(10), env.hasher());
        Self {
            rng: env.rng(11),
            pending,
            index: None,
            outbox: Feedback::default(),
            outbox_waits: false,
            busy: HashMap::new(),
            nonces: HashSet::new(),
            timer: None,
            draining: None,
            settings,
        }
    }

    /// One turn: something happened, then whatever follows from it.
    fn turn(&mut self, ctx: &mut Context<Self>, happened: impl FnOnce(&mut Self, Instant, &mut Vec<Action>)) {
        guarded(self, ctx, |this, ctx| {
            let now = Instant::now();
            let mut actions = Vec::new();
            happened(this, now, &mut actions);
            this.pending.fill(now, &mut actions);
            for action in actions {
                this.carry_out(action, ctx);
            }
            this.send_back(ctx);
            this.set_timer(ctx);
            if this.pending.running() == 0
                && let Some(drained) = this.draining.take()
            {
                // The one who waits may have given up.
                let _ = drained.send(0);
            }
        });
    }

    fn carry_out(&mut self, action: Action, ctx: &mut Context<Self>) {
        match action {
            Action::Ask(instance, number) => self.outbox.asks.push((instance, number)),
            Action::Release(instance) => self.outbox.releases.push(instance),
            Action::Close(instance, closing) => self.close(instance, closing, Effects::default(), ctx),
            Action::ClearMark { rule, binding, revision } => {
                let key = self.settings.rules[rule as usize].backoff_key(&self.settings.namespace, &binding);
                self.tell(rule, clear_mark(&key, revision));
            }
            Action::Lock { instance, snapshot, witness, overrule } => {
                let Some((rule, binding)) = self.identity(instance) else { return };
                if self.still_running(instance, rule, &binding, ctx) {
                    return;
                }
                let nonce = self.rng.next_u64();
                self.nonces.insert(nonce);
                self.busy.insert(
                    instance,
                    Busy { nonce, fence: None, lease: None, overrule, cancelled: CancellationToken::new() },
                );
                let Settings { engine, env, rules, namespace, requests, leases, .. } = &self.settings;
                let Some(lease) = leases.get(&rules[rule as usize].lock_ttl()) else { return };
                let step = LockStep {
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
                    retry: Retry::new(StdRng::from_rng(&mut self.rng)),
                };
                let me = ctx.address();
                spawn_guarded(&self.settings.faults, Self::NAME, async move {
                    let started = Instant::now();
                    let (end, snapshot) = step.run().await;
                    let took = started.elapsed();
                    // Closed: the engine is stopping or restarting.
                    let _ = me.send(LockEnded { instance, end, snapshot, took }).await;
                });
            }
            Action::Run { instance, snapshot, overrule } => {
                let Some((rule, binding)) = self.identity(instance) else { return };
                if self.still_running(instance, rule, &binding, ctx) {
                    return;
                }
                let cancelled = CancellationToken::new();
                let nonce = self.rng.next_u64();
                self.busy.insert(instance, Busy { nonce, fence: None, lease: None, overrule, cancelled });
                self.start(instance, snapshot, ctx);
            }
        }
    }

    fn identity(&self, instance: InstanceId) -> Option<(u32, Binding)> {
        self.pending.record(instance).map(|record| (record.rule, record.binding.clone()))
    }

    /// A callback that could not be stopped before a restart may run on: it is waited for.
    fn still_running(
        &mut self,
        id: InstanceId,
        rule: u32,
        binding: &Binding,
        ctx: &mut Context<Self>,
    ) -> bool {
        let running = self.settings.live.is_running(rule, binding);
        if running {
            let mut actions = Vec::new();
            self.pending.postpone(id, STILL_RUNNING, Instant::now(), &mut actions);
            for action in actions {
                self.carry_out(action, ctx);
            }
        }
        running
    }

    /// Sends a transaction whose answer nobody needs: what it would remove ends with a lease anyway.
    fn tell(&self, rule: u32, request: crate::lock::txn::Request) {
        let requests = self.settings.requests.clone();
        spawn_guarded(&self.settings.faults, Self::NAME, async move {
            if let Some(Err(failure)) = submit(&requests, rule, Class::Ending, request, None).await {
                tracing::debug!(%failure, "a key was left to its lease");
            }
        });
    }

    /// The lock is taken: runs the callback.
    fn start(&mut self, instance: InstanceId, snapshot: Snapshot, ctx: &mut Context<Self>) {
        let Some(record) = self.pending.record(instance) else { return };
        let Some(busy) = self.busy.get(&instance) else { return };
        let Settings { engine, rules, link, reserved, max_txn_ops, runtime, live, .. } = &self.settings;
        let rule = &rules[record.rule as usize];
        metrics::started(engine, rule.id(), record.since.elapsed());
        let cancelled = busy.cancelled.clone();
        let firing = Firing::new(Parts {
            rules: rules.clone(),
            rule: record.rule as usize,
            binding: record.binding.clone(),
            snapshot,
            attempt: record.failures + 1,
            fence: busy.fence.clone(),
            cancelled: cancelled.clone(),
            link: link.clone(),
            reserved: reserved.clone(),
            max_txn_ops: *max_txn_ops,
        });
        let run = Run {
            callback: rule.callback().clone(),
            firing,
            limit: rule.options().time_limit,
            cancelled: cancelled.clone(),
            grace: busy.lease.as_ref().map_or(UNLOCKED_GRACE, |lease| lease.grace),
            registered: live.register(record.rule, record.binding.clone(), LiveFiring { cancelled }),
        };
        let (engine, id) = (engine.clone(), rule.id().clone());
        let runtime = runtime.clone();
        let me = ctx.address();
        spawn_guarded(&self.settings.faults, Self::NAME, async move {
            let started = Instant::now();
            let (finish, effects) = run::run(&engine, &id, &runtime, run).await;
            metrics::finished(&engine, &id, &finish, started.elapsed());
            // Closed: the engine is stopping or restarting.
            let _ = me.send(RunEnded { instance, finish, effects }).await;
        });
    }

    /// The callback has ended: closes the firing in etcd.
    fn close(&mut self, instance: InstanceId, closing: Closing, effects: Effects, ctx: &mut Context<Self>) {
        let Some((rule, binding)) = self.identity(instance) else { return };
        let Some(busy) = self.busy.get(&instance) else { return };
        let (effects, hold): (Effects, Option<Hold>) = match closing {
            Closing::Commit(hold) => (effects, hold),
            Closing::Unlock(hold) => (Effects::default(), hold),
            Closing::Nothing => return,
        };
        let Settings { engine, env, rules, namespace, requests, keeper, .. } = &self.settings;
        let step = EndStep {
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
            requests: requests.clone(),
            keeper: keeper.clone(),
            retry: Retry::new(StdRng::from_rng(&mut self.rng)),
            used: Vec::new(),
        };
        let me = ctx.address();
        spawn_guarded(&self.settings.faults, Self::NAME, async move {
            let started = Instant::now();
            let end = step.run().await;
            let took = started.elapsed();
            // Closed: the engine is stopping or restarting.
            let _ = me.send(EndEnded { instance, end, took }).await;
        });
    }

    /// Hands the outbox to the index, as soon as it has room.
    fn send_back(&mut self, ctx: &mut Context<Self>) {
        if self.outbox_waits || self.outbox.is_empty() {
            return;
        }
        let Some(index) = &self.index else { return };
        if let Err(SendError::Full(feedback)) = index.try_send(std::mem::take(&mut self.outbox)) {
            self.outbox_waits = true;
            let sending = actix::fut::wrap_future::<_, Self>(index.send(feedback));
            ctx.spawn(sending.map(|_, this, ctx| {
                this.outbox_waits = false;
                guarded(this, ctx, |this, ctx| this.send_back(ctx));
            }));
        }
    }

    fn set_timer(&mut self, ctx: &mut Context<Self>) {
        let Some(deadline) = self.pending.deadline() else { return };
        if let Some((at, _)) = self.timer
            && at <= deadline
        {
            return;
        }
        if let Some((_, handle)) = self.timer.take() {
            ctx.cancel_future(handle);
        }
        let sleeping = actix::fut::wrap_future::<_, Self>(tokio::time::sleep_until(deadline));
        let handle = ctx.spawn(sleeping.map(|(), this, ctx| {
            this.timer = None;
            this.turn(ctx, |this, now, out| this.pending.tick(now, out));
        }));
        self.timer = Some((deadline, handle));
    }

    fn forget(&mut self, instance: InstanceId) {
        if let Some(busy) = self.busy.remove(&instance) {
            self.nonces.remove(&busy.nonce);
        }
    }
}

impl Actor for Dispatcher {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(1024);
        ctx.run_interval(TALLY, |this, _| {
            let Settings { engine, rules, .. } = &this.settings;
            metrics::tally(engine, &this.pending.tally());
            for (rule, count) in this.pending.take_ineffective() {
                metrics::ineffective(engine, rules[rule as usize].id(), count);
            }
        });
    }
}

impl Part for Dispatcher {
    const NAME: &'static str = "dispatcher";

    fn faults(&self) -> &Faults {
        &self.settings.faults
    }
}

/// The index, to which feedback goes. It is made after the dispatcher.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Attach(pub(crate) Addr<IndexActor>);

impl Handler<Attach> for Dispatcher {
    type Result = ();

    fn handle(&mut self, Attach(index): Attach, ctx: &mut Self::Context) {
        self.index = Some(index);
        self.turn(ctx, |_, _, _| {});
    }
}

impl Handler<Decisions> for Dispatcher {
    type Result = ();

    fn handle(&mut self, Decisions { decisions, arrived }: Decisions, ctx: &mut Self::Context) {
        self.turn(ctx, |this, now, out| {
            for decided in decisions {
                let instance = decided.instance;
                let new = this.pending.record(instance).is_none();
                this.pending.decided(decided, now, out);
                if new {
                    this.pending.due_since(instance, arrived);
                }
            }
        });
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct LockEnded {
    instance: InstanceId,
    end: LockEnd,
    snapshot: Snapshot,
    took: Duration,
}

impl Handler<LockEnded> for Dispatcher {
    type Result = ();

    fn handle(&mut self, ended: LockEnded, ctx: &mut Self::Context) {
        let LockEnded { instance, end, snapshot, took } = ended;
        let mut won = false;
        self.turn(ctx, |this, now, out| {
            let Some(record) = this.pending.record(instance) else { return this.forget(instance) };
            let rule = record.rule;
            let id = this.settings.rules[rule as usize].id().clone();
            metrics::locked(&this.settings.engine, &id, &end, took);
            let outcome = match end {
                LockEnd::Won { fence, lease } => {
                    if let Some(busy) = this.busy.get_mut(&instance) {
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
                LockEnd::Held { key, create_revision, ours: Some(nonce), at }
                    if !this.nonces.contains(&nonce) =>
                {
                    // Left over from an attempt whose answer never came.
                    tracing::info!(rule = %id, key, at, "freeing an orphaned lock");
                    metrics::orphan(&this.settings.engine);
                    this.tell(rule, free_orphan(&key, create_revision));
                    LockOutcome::Failed("an orphaned lock of this engine".into())
                }
                LockEnd::Held { key, at, .. } => LockOutcome::Held { key, at },
                LockEnd::Marked { key, revision, attempt, gave_up, at } => {
                    LockOutcome::Marked { key, revision, attempt, gave_up, at }
                }
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
        if won {
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
            let closing = this.pending.finished(instance, &finish);
            if let (Finish::Failed(error) | Finish::Panicked(error), Some(record)) =
                (&finish, this.pending.record(instance))
            {
                let rule = this.settings.rules[record.rule as usize].id();
                tracing::warn!(%rule, attempt = record.failures, error, "a callback failed; it will be tried again");
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
            let rule = this.settings.rules[number as usize].id().clone();
            metrics::ended(&this.settings.engine, &rule, &end, took);
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
                EndEnd::Marked { key, revision, attempt, gave_up, at } => {
                    ClosingOutcome::Marked { key, revision, attempt, gave_up, at }
                }
                EndEnd::Refused(error) => {
                    tracing::warn!(%rule, error, "a commit was refused; it counts as a failure of the callback");
                    match this.pending.refused(instance, error.clone()) {
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

/// Locks and backoff keys that were deleted; `None`: some may have been missed.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Released(pub(crate) Option<Vec<(String, Revision)>>);

impl Handler<Released> for Dispatcher {
    type Result = ();

    fn handle(&mut self, Released(keys): Released, ctx: &mut Self::Context) {
        self.turn(ctx, |this, now, out| match keys {
            None => this.pending.released_unknown(now, out),
            Some(keys) => {
                for (key, revision) in keys {
                    this.pending.released(&key, revision, now, out);
                }
            }
        });
    }
}

/// All locks of the application, as a crawl found them: those under this engine's leases that nobody
/// works under are freed.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct LocksSeen(pub(crate) Vec<LockKey>);

impl Handler<LocksSeen> for Dispatcher {
    type Result = ();

    fn handle(&mut self, LocksSeen(locks): LocksSeen, ctx: &mut Self::Context) {
        guarded(self, ctx, |this, _| {
            let leases = this.settings.leases.values();
            let ours: Vec<i64> = leases.filter_map(|l| l.borrow().as_ref().map(|lease| lease.id)).collect();
            for lock in locks {
                let holder: Option<Holder> = serde_json::from_slice(lock.value.as_bytes()).ok();
                let busy = holder.is_some_and(|holder| this.nonces.contains(&holder.nonce));
                if ours.contains(&lock.lease) && !busy {
                    tracing::info!(key = lock.key, "freeing an orphaned lock");
                    metrics::orphan(&this.settings.engine);
                    this.tell(0, free_orphan(&lock.key, lock.create_revision));
                }
            }
        });
    }
}

/// Starts nothing more, and answers once no firing is left, with 0; or with the number of firings
/// that are left a short while after `deadline`, when the rest was cancelled.
#[derive(Message)]
#[rtype(result = "usize")]
pub(crate) struct Drain {
    pub(crate) deadline: Instant,
}

impl Handler<Drain> for Dispatcher {
    type Result = ResponseFuture<usize>;

    fn handle(&mut self, Drain { deadline }: Drain, ctx: &mut Self::Context) -> Self::Result {
        let (drained, done) = oneshot::channel();
        self.draining = Some(drained);
        self.pending.stop();
        let sleeping = actix::fut::wrap_future::<_, Self>(tokio::time::sleep_until(deadline));
        ctx.spawn(sleeping.then(|(), this, _| {
            // From now on: told, then dropped, then unlocked.
            this.busy.values().for_each(|busy| busy.cancelled.cancel());
            let graces =
                this.busy.values().map(|b| b.lease.as_ref().map_or(UNLOCKED_GRACE, |lease| lease.grace));
            let limit = graces.max().unwrap_or_default() + Duration::from_secs(2);
            actix::fut::wrap_future::<_, Self>(tokio::time::sleep(limit)).map(|(), this, _| {
                if let Some(drained) = this.draining.take() {
                    // The one who waits may have given up.
                    let _ = drained.send(this.pending.running());
                }
            })
        }));
        self.turn(ctx, |_, _, _| {});
        Box::pin(async move { done.await.unwrap_or(0) })
    }
}

/// Counts of instances by what they are doing.
#[derive(Message)]
#[rtype(result = "Tally")]
pub(crate) struct GetTally;

impl Handler<GetTally> for Dispatcher {
    type Result = MessageResult<GetTally>;

    fn handle(&mut self, _: GetTally, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.pending.tally())
    }
}
