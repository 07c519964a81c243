//! The dispatcher actor: tells [`WorkQueue`] what happened and carries out its actions. It never waits
//! for an actor before it on the path of a change: feedback to the index is kept until the index has room.

mod active;
mod callback;
mod commit;
mod controls;
mod drain;
mod firing;
mod fleet;
mod held;
mod lock;
mod releases;
mod status;

pub(crate) use controls::ApplyControls;
pub(crate) use drain::Drain;
pub(crate) use fleet::Membership;
pub(crate) use status::{FireNow, FleetSize, GetFleet, GetLanes, GetStatuses, GetTally};

use super::messages::{Action, Basis};
use super::run::{CallbackTelemetry, EndReporter, EndedRuns, Run, run_and_report};
use super::tools::Tools;
use super::work_queue::{FleetSettings, WorkQueue};
use crate::change::Revision;
use crate::compiled::Binding;
use crate::compiled::{CompiledRule, RuleIndex};
use crate::dispatch::controls::RuleControls;
use crate::dispatch::running::RunningCallbacks;
use crate::etcd::EtcdClient;
use crate::evaluate::Decisions;
use crate::events::{Event, EventKind, Events};
use crate::firing::{Callback, Surroundings};
use crate::index::InstanceId;
use crate::index::actor::{Feedback, IndexActor};
use crate::lock::batch::Class;
use crate::lock::lease_manager::{LeaseManager, LockLeases};
use crate::lock::txn::{Nonce, Request, clear_mark};
use crate::lock::txn_sender::{AnswerTo, Submissions, Submit, TxnSender, submit};
use crate::metrics::Meters;
use crate::runtime::env::{Env, RandomStream};
use crate::runtime::supervised::{ActorFaults, SupervisedActor, guarded, spawn_guarded, tell, tell_soon};
use crate::trace::lines::Line;
use crate::trace::{Telemetry, spans};
use crate::watch_cell::WatchCellSender;
use active::{ActiveFiring, ActiveFirings};
use actix::prelude::*;
use callback::RunsEnded;
use fleet::Announcing;
use futures_util::future::BoxFuture;
use rand::Rng;
use rand::rngs::StdRng;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span};

/// What a dispatcher is made of.
pub(crate) struct DispatcherConfig {
    pub(crate) engine: Arc<str>,
    pub(crate) meters: Meters,
    pub(crate) env: Env,
    pub(crate) rules: Arc<[CompiledRule]>,
    pub(crate) callbacks: Arc<[Callback]>,
    pub(crate) namespace: Arc<str>,
    /// Before every key in etcd.
    pub(crate) key_prefix: Arc<str>,
    pub(crate) reserved: Arc<[String]>,
    pub(crate) max_txn_ops: usize,
    pub(crate) limit: usize,
    pub(crate) starvation_limit: Duration,
    pub(crate) etcd: Arc<EtcdClient>,
    pub(crate) requests: Addr<TxnSender>,
    pub(crate) lease_manager: Addr<LeaseManager>,
    pub(crate) leases: LockLeases,
    pub(crate) runtime: Handle,
    pub(crate) running: RunningCallbacks,
    pub(crate) controls: RuleControls,
    pub(crate) events: Events,
    pub(crate) telemetry: Telemetry,
    pub(crate) faults: ActorFaults,
    /// `None`: every engine tries everything.
    pub(crate) membership: Option<Membership>,
}

pub(crate) struct Dispatcher {
    config: DispatcherConfig,
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
    starting: Vec<(Run, EndReporter)>,
    ended: EndedRuns,
    firings: ActiveFirings,
    timer: Option<(Instant, SpawnHandle)>,
    /// The locks of callbacks are being read.
    looking_at_locks: bool,
    draining: Option<oneshot::Sender<usize>>,
    /// At the end of a shutdown: what etcd has not answered by then is waited for no more.
    out_of_time: CancellationToken,
    releases: WatchCellSender<Option<Revision>>,
    releases_after: Option<Revision>,
    announcing: Option<Announcing>,
    rng: StdRng,
}

/// How often what there is goes to the metrics.
const TALLY: Duration = Duration::from_secs(1);

/// While another run of the same instance, from before a restart, has not ended.
const STILL_RUNNING: Duration = Duration::from_millis(100);

impl Dispatcher {
    /// `releases` is told after which revision what is released is to be watched.
    pub(crate) fn new(mut config: DispatcherConfig, releases: WatchCellSender<Option<Revision>>) -> Self {
        let membership = config.membership.take();
        let DispatcherConfig { env, rules, limit, starvation_limit, .. } = &config;
        let mut work = WorkQueue::new(
            rules.clone(),
            *limit,
            *starvation_limit,
            env.rng(RandomStream::WorkQueue),
            env.hasher(),
        );
        let announcing = membership.map(|membership| {
            work.share(FleetSettings { me: membership.me, interval: membership.interval });
            Announcing::new(membership, &config.engine, rules)
        });
        let tools = Tools {
            engine: config.engine.clone(),
            env: env.clone(),
            meters: config.meters.clone(),
            rules: rules.clone(),
            namespace: config.namespace.clone(),
            etcd: config.etcd.clone(),
            requests: config.requests.clone(),
            lease_manager: config.lease_manager.clone(),
            reveal: config.telemetry.reveal,
        };
        let around = Surroundings {
            engine: config.engine.clone(),
            key_prefix: config.key_prefix.clone(),
            rules: rules.clone(),
            callbacks: config.callbacks.clone(),
            source: config.etcd.clone(),
            reserved: config.reserved.clone(),
            max_txn_ops: config.max_txn_ops,
            reveal: config.telemetry.reveal,
        };
        let callback_telemetry = CallbackTelemetry {
            engine: config.engine.clone(),
            telemetry: config.telemetry.clone(),
            meters: config.meters.clone(),
        };
        Self {
            tools: Arc::new(tools),
            around: Arc::new(around),
            callback_telemetry: Arc::new(callback_telemetry),
            rng: env.rng(RandomStream::Dispatcher),
            work,
            index: None,
            outbox: Feedback::default(),
            outbox_waits: false,
            submissions: Vec::new(),
            submit_to: config.requests.clone().recipient(),
            starting: Vec::new(),
            // Nothing runs before the actor has started.
            ended: EndedRuns::new(|| {}),
            firings: ActiveFirings::new(env.hasher()),
            timer: None,
            looking_at_locks: false,
            draining: None,
            out_of_time: CancellationToken::new(),
            releases,
            releases_after: None,
            announcing,
            config,
        }
    }

    /// One turn: something happened, then whatever follows from it.
    fn turn(&mut self, ctx: &mut Context<Self>, happened: impl FnOnce(&mut Self, Instant, &mut Vec<Action>)) {
        guarded(self, ctx, |this, ctx| {
            let now = Instant::now();
            let mut actions = Vec::new();
            this.work.observe(this.config.events.has_listeners());
            this.take_ended(now, ctx);
            happened(this, now, &mut actions);
            this.work.fill(now, &mut actions);
            for action in actions {
                this.carry_out(action, ctx);
            }
            this.work.take_events().for_each(|event| this.config.meters.workqueue_event(event));
            this.watch_releases(now);
            this.flush_answers(ctx);
            this.set_timer(ctx);
            this.flush();
            if this.work.running() == 0
                && let Some(drained) = this.draining.take()
            {
                // The caller may have stopped waiting.
                let _ = drained.send(0);
            }
        });
    }

    fn carry_out(&mut self, action: Action, ctx: &mut Context<Self>) {
        match action {
            Action::Notify { rule, binding, state } => {
                self.notify_of(rule, &binding, || EventKind::State(state))
            }
            Action::WarnSlowed { rule, binding, cause } => self.warn_slowed(rule, &binding, cause),
            Action::ReadLocks => self.read_locks(ctx),
            Action::Ask(instance, number) => self.outbox.asks.push((instance, number)),
            Action::Release(instance) => self.outbox.releases.push(instance),
            Action::Close(instance, closing) => self.close(instance, closing, None, ctx),
            Action::ClearMark { rule, binding, revision } => {
                self.send(rule, clear_mark(self.tools.keys(rule, &binding).mark(), revision));
            }
            Action::Lock { instance, basis, supersedes_backoff } => {
                self.lock(instance, basis, supersedes_backoff, ctx);
            }
            Action::Run { instance, basis: Basis { snapshot, witness, .. }, supersedes_backoff } => {
                let Some((rule, binding)) = self.identity(instance) else { return };
                if self.still_running(instance, rule, &binding, ctx) {
                    return;
                }
                let span = self.span(instance, &snapshot);
                let keys = self.tools.keys(rule, &binding);
                let nonce = Nonce(self.rng.next_u64());
                let firing = ActiveFiring::optimistic(nonce, span, keys, supersedes_backoff);
                self.firings.insert(instance, firing);
                self.start(instance, snapshot, witness);
            }
        }
    }

    /// Tells those who listen what happened to an instance.
    fn notify_of(&self, rule: RuleIndex, binding: &Binding, kind: impl FnOnce() -> EventKind) {
        self.config.events.emit(|| {
            let rule = &self.config.rules[rule.index()];
            let (id, attributes) = (rule.id().clone(), rule.attributes_of(binding));
            Event { at: Instant::now(), rule: id, attributes, kind: kind() }
        });
    }

    /// Tells those who listen what happened to an instance that there is a record of.
    fn notify_event(&self, instance: InstanceId, kind: impl FnOnce() -> EventKind) {
        if let Some(record) = self.work.record(instance) {
            self.notify_of(record.rule, &record.binding, kind);
        }
    }

    fn identity(&self, instance: InstanceId) -> Option<(RuleIndex, Binding)> {
        self.work.record(instance).map(|record| (record.rule, record.binding.clone()))
    }

    /// A callback that could not be stopped before a restart may run on: it is waited for.
    fn still_running(
        &mut self,
        id: InstanceId,
        rule: RuleIndex,
        binding: &Binding,
        ctx: &mut Context<Self>,
    ) -> bool {
        let running = self.config.running.is_running(rule, binding);
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
    fn send(&self, rule: RuleIndex, request: Request) {
        let requests = self.config.requests.clone();
        spawn_guarded(&self.config.faults, Self::NAME, async move {
            if let Some(Err(failure)) = submit(&requests, rule, Class::Ending, request, None).await {
                tracing::debug!(%failure, "key left to its lease");
            }
        });
    }

    /// Hands the outbox to the index, as soon as it has room.
    fn flush_answers(&mut self, ctx: &mut Context<Self>) {
        if self.outbox_waits || self.outbox.is_empty() {
            return;
        }
        let Some(index) = &self.index else { return };
        if let Err(SendError::Full(feedback)) = index.try_send(std::mem::take(&mut self.outbox)) {
            self.outbox_waits = true;
            let sending = actix::fut::wrap_future::<_, Self>(index.send(feedback));
            ctx.spawn(sending.map(|_, this, ctx| {
                this.outbox_waits = false;
                guarded(this, ctx, |this, ctx| this.flush_answers(ctx));
            }));
        }
    }

    /// Sends what the turn has produced, one message to each receiver: every message, and every task that is
    /// started on another thread, has its price.
    fn flush(&mut self) {
        if !self.submissions.is_empty() {
            // Bounded by the firing slots.
            tell_soon(&self.submit_to, Submissions(std::mem::take(&mut self.submissions)));
        }
        // Callbacks stall and end with the engine's process, if it has one within this one.
        #[cfg(any(test, feature = "virtual-time"))]
        let process = self.config.env.process.clone();
        // In a box: tokio moves what it spawns several times.
        let boxed = move |(run, end): (Run, EndReporter)| -> BoxFuture<'static, ()> {
            let running = run_and_report(run, end);
            #[cfg(any(test, feature = "virtual-time"))]
            if let Some(process) = process.clone() {
                return Box::pin(async move { process.host(running).await.unwrap_or_default() });
            }
            Box::pin(running)
        };
        match self.starting.len() {
            0 => {}
            1 => drop(self.starting.pop().map(|starting| self.config.runtime.spawn(boxed(starting)))),
            _ => {
                let starting = std::mem::take(&mut self.starting);
                self.config.runtime.spawn(async move {
                    starting.into_iter().map(boxed).for_each(|run| drop(tokio::spawn(run)));
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
}

impl Actor for Dispatcher {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(1024);
        let me = ctx.address().recipient();
        self.ended = EndedRuns::new(move || {
            // Full: the messages in the mailbox make turns, and each turn looks. Closed: the engine is
            // stopping or restarting.
            let _ = me.try_send(RunsEnded);
        });
        tell_soon(&self.config.requests.clone().recipient(), AnswerTo(ctx.address().recipient()));
        ctx.run_interval(TALLY, |this, ctx| {
            let now = Instant::now();
            guarded(this, ctx, |this, ctx| this.take_ended(now, ctx));
            this.watch_releases(now);
            this.find_stuck(now);
            this.look_at_locks(now, ctx);
            this.announce(now);
            this.config.meters.workqueue_depths(&this.work.depths(now), now);
        });
    }
}

impl SupervisedActor for Dispatcher {
    const NAME: &'static str = "dispatcher";

    fn faults(&self) -> &ActorFaults {
        &self.config.faults
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
        self.turn(ctx, |this, now, out| this.apply_controls(now, out));
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
