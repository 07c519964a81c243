//! The dispatcher actor: tells [`WorkQueue`] what happened and carries out what it wants. It never waits
//! for anybody up the path: what goes back to the index is kept until the index has room.

mod callback;
mod commit;
mod controls;
mod drain;
mod events;
mod firing;
mod lock;
mod releases;
mod status;

pub(crate) use controls::ApplyControls;
pub(crate) use drain::Drain;
pub(crate) use status::{FireNow, GetLanes, GetStatuses, GetTally};

use super::messages::{Action, Finish};
use super::run::{CallbackTelemetry, Ended, Watched};
use super::tools::Tools;
use super::work_queue::WorkQueue;
use crate::change::Revision;
use crate::compiled::Binding;
use crate::compiled::CompiledRule;
use crate::dispatch::controls::RuleControls;
use crate::dispatch::running::RunningCallbacks;
use crate::etcd::Link;
use crate::evaluate::Decisions;
use crate::events::{Event, EventKind, Events};
use crate::firing::{Callback, Effects, Fence, Surroundings};
use crate::index::InstanceId;
use crate::index::actor::{Feedback, IndexActor};
use crate::latest::Setter;
use crate::lock::batch::Class;
use crate::lock::keeper::{Keeper, LockLease, LockLeases};
use crate::lock::keys::Keys;
use crate::lock::requests::{AnswerTo, Requests, Submissions, Submit, submit};
use crate::lock::txn::clear_mark;
use crate::metrics::Meters;
use crate::runtime::env::Env;
use crate::runtime::part::{Faults, Part, guarded, spawn_guarded, tell_soon};
use crate::trace::lines::Line;
use crate::trace::{Telemetry, spans};
use actix::prelude::*;
use callback::RunsEnded;
use firing::Step;
use foldhash::fast::FixedState;
use futures_util::future::BoxFuture;
use rand::Rng;
use rand::rngs::StdRng;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span};

/// What a dispatcher is made of.
pub(crate) struct Settings {
    pub(crate) engine: Arc<str>,
    pub(crate) meters: Meters,
    pub(crate) env: Env,
    pub(crate) rules: Arc<[CompiledRule]>,
    pub(crate) callbacks: Arc<[Callback]>,
    pub(crate) namespace: Arc<str>,
    pub(crate) reserved: Arc<[String]>,
    pub(crate) max_txn_ops: usize,
    pub(crate) limit: usize,
    pub(crate) starvation_limit: Duration,
    pub(crate) link: Arc<Link>,
    pub(crate) requests: Addr<Requests>,
    pub(crate) keeper: Addr<Keeper>,
    pub(crate) leases: LockLeases,
    pub(crate) runtime: Handle,
    pub(crate) live: RunningCallbacks,
    pub(crate) brakes: RuleControls,
    pub(crate) events: Events,
    pub(crate) telemetry: Telemetry,
    pub(crate) faults: Faults,
}

pub(crate) struct Dispatcher {
    settings: Settings,
    tools: Arc<Tools>,
    around: Arc<Surroundings>,
    callback_telemetry: Arc<CallbackTelemetry>,
    work: WorkQueue,
    index: Option<Addr<IndexActor>>,
    /// What goes back to the index, bounded by the number of instances that are not idle.
    outbox: Feedback,
    outbox_waits: bool,
    /// What goes to etcd, and to the application's runtime, at the end of the turn.
    submissions: Vec<Submit>,
    submit_to: Recipient<Submissions>,
    starting: Vec<BoxFuture<'static, ()>>,
    ended: Ended,
    busy: HashMap<InstanceId, Busy, FixedState>,
    /// Numbers of attempts whose lock may exist.
    nonces: HashSet<u64, FixedState>,
    timer: Option<(Instant, SpawnHandle)>,
    draining: Option<oneshot::Sender<usize>>,
    /// At the end of a shutdown: what etcd has not answered by then is waited for no more.
    out_of_time: CancellationToken,
    releases: Setter<Option<Revision>>,
    releases_after: Option<Revision>,
    rng: StdRng,
}

/// A firing from its lock to its end.
struct Busy {
    nonce: u64,
    /// Those of an instance whose lock is taken, until its end takes them.
    keys: Option<Keys>,
    fence: Option<Fence>,
    lease: Option<LockLease>,
    supersedes_backoff: Option<Revision>,
    /// Told to end.
    told: bool,
    /// Tells the callback; made when that is about to run.
    cancelled: Option<CancellationToken>,
    /// Waits for the answer to its transaction.
    step: Option<Step>,
    /// The callback runs.
    running: Option<Watched>,
    /// How the callback ended.
    finish: Option<Finish>,
    span: Span,
}

impl Busy {
    fn new(nonce: u64, supersedes_backoff: Option<Revision>, span: Span) -> Self {
        Self {
            nonce,
            keys: None,
            fence: None,
            lease: None,
            supersedes_backoff,
            told: false,
            cancelled: None,
            step: None,
            running: None,
            finish: None,
            span,
        }
    }

    /// Its lock is taken.
    fn won(&mut self, fence: Fence, lease: LockLease, keys: Keys) {
        (self.fence, self.lease, self.keys) = (Some(fence), Some(lease), Some(keys));
    }

    /// What tells the callback to end: also the loss of the lock's lease.
    fn token(&mut self) -> CancellationToken {
        let Self { told, lease, cancelled, .. } = self;
        let token = cancelled.get_or_insert_with(|| {
            lease.as_ref().map_or_else(CancellationToken::new, |lease| lease.lost.child_token())
        });
        // Told while its transaction was out: the callback must hear of it too.
        if *told {
            token.cancel();
        }
        token.clone()
    }

    /// Tells it to end.
    fn cancel(&mut self) {
        self.told = true;
        if let Some(token) = &self.cancelled {
            token.cancel();
        }
    }

    fn is_cancelled(&self) -> bool {
        self.told || self.cancelled.as_ref().is_some_and(CancellationToken::is_cancelled)
    }
}

/// Why a step was ended at the end of a shutdown.
pub(super) const OUT_OF_TIME: &str = "the engine is stopping, and etcd did not answer in time";

/// How often what there is goes to the metrics.
const TALLY: Duration = Duration::from_secs(1);

/// While another run of the same instance, from before a restart, has not ended.
const STILL_RUNNING: Duration = Duration::from_millis(100);

impl Dispatcher {
    /// `releases` is told after which revision what is released is to be watched.
    pub(crate) fn new(settings: Settings, releases: Setter<Option<Revision>>) -> Self {
        let Settings { env, rules, limit, starvation_limit, .. } = &settings;
        let work = WorkQueue::new(rules.clone(), *limit, *starvation_limit, env.rng(10), env.hasher());
        let tools = Tools {
            engine: settings.engine.clone(),
            env: env.clone(),
            rules: rules.clone(),
            namespace: settings.namespace.clone(),
            link: settings.link.clone(),
            requests: settings.requests.clone(),
            keeper: settings.keeper.clone(),
        };
        let around = Surroundings {
            engine: settings.engine.clone(),
            rules: rules.clone(),
            callbacks: settings.callbacks.clone(),
            source: settings.link.clone(),
            reserved: settings.reserved.clone(),
            max_txn_ops: settings.max_txn_ops,
        };
        let callback_telemetry = CallbackTelemetry {
            engine: settings.engine.clone(),
            telemetry: settings.telemetry.clone(),
            meters: settings.meters.clone(),
        };
        Self {
            tools: Arc::new(tools),
            around: Arc::new(around),
            callback_telemetry: Arc::new(callback_telemetry),
            rng: env.rng(11),
            work,
            index: None,
            outbox: Feedback::default(),
            outbox_waits: false,
            submissions: Vec::new(),
            submit_to: settings.requests.clone().recipient(),
            starting: Vec::new(),
            // Nothing runs before the actor has started.
            ended: Ended::new(|| {}),
            busy: HashMap::with_hasher(env.hasher()),
            nonces: HashSet::with_hasher(env.hasher()),
            timer: None,
            draining: None,
            out_of_time: CancellationToken::new(),
            releases,
            releases_after: None,
            settings,
        }
    }

    /// One turn: something happened, then whatever follows from it.
    fn turn(&mut self, ctx: &mut Context<Self>, happened: impl FnOnce(&mut Self, Instant, &mut Vec<Action>)) {
        guarded(self, ctx, |this, ctx| {
            let now = Instant::now();
            let mut actions = Vec::new();
            this.work.observe(this.settings.events.has_listeners());
            this.take_ended(now, ctx);
            happened(this, now, &mut actions);
            this.work.fill(now, &mut actions);
            for action in actions {
                this.carry_out(action, ctx);
            }
            this.work.take_events().for_each(|event| this.settings.meters.workqueue_event(event));
            this.watch_releases(now);
            this.send_back(ctx);
            this.set_timer(ctx);
            this.flush();
            if this.work.running() == 0
                && let Some(drained) = this.draining.take()
            {
                // The one who waits may have given up.
                let _ = drained.send(0);
            }
        });
    }

    fn carry_out(&mut self, action: Action, ctx: &mut Context<Self>) {
        match action {
            Action::Notify { rule, binding, state } => {
                self.tell_of(rule, &binding, || EventKind::State(state))
            }
            Action::Ask(instance, number) => self.outbox.asks.push((instance, number)),
            Action::Release(instance) => self.outbox.releases.push(instance),
            Action::Close(instance, closing) => self.close(instance, closing, Effects::default(), ctx),
            Action::ClearMark { rule, binding, revision } => {
                self.tell(rule, clear_mark(self.tools.keys(rule, &binding).mark(), revision));
            }
            Action::Lock { instance, snapshot, witness, supersedes_backoff } => {
                self.lock(instance, (snapshot, witness), supersedes_backoff, ctx);
            }
            Action::Run { instance, snapshot, supersedes_backoff } => {
                let Some((rule, binding)) = self.identity(instance) else { return };
                if self.still_running(instance, rule, &binding, ctx) {
                    return;
                }
                let span = self.span(instance, &snapshot);
                let nonce = self.rng.next_u64();
                self.busy.insert(instance, Busy::new(nonce, supersedes_backoff, span));
                self.start(instance, snapshot);
            }
        }
    }

    /// Tells those who listen what happened to an instance.
    fn tell_of(&self, rule: u32, binding: &Binding, kind: impl FnOnce() -> EventKind) {
        self.settings.events.tell(|| {
            let rule = &self.settings.rules[rule as usize];
            let (id, attributes) = (rule.id().clone(), rule.attributes_of(binding));
            Event { at: Instant::now(), rule: id, attributes, kind: kind() }
        });
    }

    /// Tells those who listen what happened to an instance that there is a record of.
    fn tell_event(&self, instance: InstanceId, kind: impl FnOnce() -> EventKind) {
        if let Some(record) = self.work.record(instance) {
            self.tell_of(record.rule, &record.binding, kind);
        }
    }

    fn identity(&self, instance: InstanceId) -> Option<(u32, Binding)> {
        self.work.record(instance).map(|record| (record.rule, record.binding.clone()))
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
            self.work.postpone(id, STILL_RUNNING, Instant::now(), &mut actions);
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
                tracing::debug!(%failure, "key left to its lease");
            }
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

    /// Hands out what the turn has come to: each in one piece, since every message and every task that is
    /// started on another thread has its price.
    fn flush(&mut self) {
        if !self.submissions.is_empty() {
            // Bounded by the firing slots.
            tell_soon(&self.submit_to, Submissions(std::mem::take(&mut self.submissions)));
        }
        match self.starting.len() {
            0 => {}
            1 => drop(self.starting.pop().map(|run| self.settings.runtime.spawn(run))),
            _ => {
                let starting = std::mem::take(&mut self.starting);
                self.settings.runtime.spawn(async move {
                    for run in starting {
                        tokio::spawn(run);
                    }
                });
            }
        }
    }

    fn set_timer(&mut self, ctx: &mut Context<Self>) {
        let Some(deadline) = self.work.deadline() else { return };
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
            this.turn(ctx, |this, now, out| this.work.tick(now, out));
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
        let me = ctx.address().recipient();
        self.ended = Ended::new(move || {
            // Full: what is in the mailbox makes turns, and each looks. Closed: the engine is stopping or restarting.
            let _ = me.try_send(RunsEnded);
        });
        tell_soon(&self.settings.requests.clone().recipient(), AnswerTo(ctx.address().recipient()));
        ctx.run_interval(TALLY, |this, ctx| {
            let now = Instant::now();
            guarded(this, ctx, |this, ctx| this.take_ended(now, ctx));
            this.watch_releases(now);
            this.find_stuck(now);
            this.settings.meters.workqueue_depths(&this.work.depths(now), now);
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
        self.turn(ctx, |this, now, out| this.brake(now, out));
    }
}

impl Handler<Decisions> for Dispatcher {
    type Result = ();

    fn handle(&mut self, Decisions { decisions, timestamps }: Decisions, ctx: &mut Self::Context) {
        self.turn(ctx, |this, now, out| {
            for decided in decisions {
                let instance = decided.instance;
                this.work.decided(decided, now, out);
                this.work.came(instance, timestamps, now);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_callback_hears_that_it_was_told_to_end_also_if_that_was_before_it_began() {
        let mut busy = Busy::new(1, None, Span::none());
        busy.cancel();
        assert!(busy.is_cancelled() && busy.token().is_cancelled());
        let mut busy = Busy::new(2, None, Span::none());
        let token = busy.token();
        assert!(!busy.is_cancelled() && !token.is_cancelled());
        busy.cancel();
        assert!(token.is_cancelled());
    }
}
