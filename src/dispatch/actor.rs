//! The dispatcher actor: tells [`WorkQueue`] what happened and carries out its actions. It never waits
//! for an actor before it on the path of a change: feedback to the index is kept until the index has room.

mod active;
mod callback;
mod channels;
mod commit;
mod config;
mod controls;
mod drain;
mod firing;
mod fleet;
mod held;
mod lock;
mod releases;
mod status;

pub(crate) use config::{CallbackHost, DispatchLimits, DispatcherConfig, EtcdHandles, KeySpace, Reports};
pub(crate) use controls::ApplyControls;
pub(crate) use drain::Drain;
pub(crate) use fleet::Membership;
pub(crate) use status::{FireNow, FleetSize, GetFleet, GetLanes, GetStatuses, GetTally};

use super::messages::{Action, Basis};
use super::run::{EndReporter, EndedRuns, Run, run_and_report};
use super::tools::Tools;
use super::work_queue::{FleetSettings, WorkQueue};
use crate::change::Revision;
use crate::compiled::Binding;
use crate::compiled::{CompiledRule, RuleIndex};
use crate::etcd::EtcdClient;
use crate::evaluate::Decisions;
use crate::events::{Event, EventKind};
use crate::index::InstanceId;
use crate::index::actor::IndexActor;
use crate::lock::batch::Class;
use crate::lock::txn::{Nonce, Request, clear_mark};
use crate::lock::txn_sender::{AnswerTo, Submissions, Submit, submit};
use crate::runtime::env::RandomStream;
use crate::runtime::supervised::{ActorFaults, SupervisedActor, guarded, spawn_guarded, tell, tell_soon};
use crate::trace::lines::Line;
use crate::trace::spans;
use crate::watch_cell::WatchCellSender;
use active::{ActiveFiring, ActiveFirings};
use actix::prelude::*;
use callback::RunsEnded;
use channels::{CallbackStarts, FeedbackChannel, RequestChannel, Shutdown, WatchedReleases};
use fleet::Announcing;
use futures_util::future::BoxFuture;
use rand::Rng;
use rand::rngs::StdRng;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::{Instrument, Span};

pub(crate) struct Dispatcher {
    config: DispatcherConfig,
    tools: Arc<Tools>,
    rng: StdRng,
    work: WorkQueue,
    firings: ActiveFirings,
    callbacks: CallbackStarts,
    feedback: FeedbackChannel,
    requests: RequestChannel,
    timer: Option<(Instant, SpawnHandle)>,
    /// Instances whose callbacks of before a restart are waited for.
    outlived: BTreeSet<InstanceId>,
    /// The locks of callbacks are being read.
    looking_at_locks: bool,
    releases: WatchedReleases,
    shutdown: Shutdown,
    announcing: Option<Announcing>,
}

/// How often what there is goes to the metrics.
const TALLY: Duration = Duration::from_secs(1);

/// How long an instance waits at most until it is looked at again, while another run of it, from before a restart, has
/// not ended.
const STILL_RUNNING: Duration = Duration::from_secs(60);

impl Dispatcher {
    /// `releases` is told after which revision what is released is to be watched.
    pub(crate) fn new(mut config: DispatcherConfig, releases: WatchCellSender<Option<Revision>>) -> Self {
        let membership = config.membership.take();
        let DispatcherConfig { engine, env, rules, limits, etcd, .. } = &config;
        let mut work = WorkQueue::new(
            rules.clone(),
            limits.concurrency,
            limits.starvation_limit,
            env.rng(RandomStream::WorkQueue),
            env.hasher(),
        );
        let announcing = membership.map(|membership| {
            work.share(FleetSettings { me: membership.me, interval: membership.interval });
            Announcing::new(membership, engine, rules)
        });
        Self {
            tools: Arc::new(config.tools()),
            rng: env.rng(RandomStream::Dispatcher),
            work,
            firings: ActiveFirings::new(env.hasher()),
            callbacks: CallbackStarts::new(config.surroundings(), config.callback_telemetry()),
            feedback: FeedbackChannel::default(),
            requests: RequestChannel::new(&etcd.requests),
            timer: None,
            outlived: BTreeSet::new(),
            looking_at_locks: false,
            releases: WatchedReleases { watcher: releases, after: None },
            shutdown: Shutdown::default(),
            announcing,
            config,
        }
    }

    /// One turn: something happened, then whatever follows from it.
    fn turn(&mut self, ctx: &mut Context<Self>, happened: impl FnOnce(&mut Self, Instant, &mut Vec<Action>)) {
        guarded(self, ctx, |this, ctx| {
            let now = Instant::now();
            let mut actions = Vec::new();
            this.work.observe(this.config.reports.events.has_listeners());
            this.take_ended(now, ctx);
            happened(this, now, &mut actions);
            this.work.fill(now, &mut actions);
            for action in actions {
                this.carry_out(action, ctx);
            }
            this.work.take_events().for_each(|event| this.config.reports.meters.workqueue_event(event));
            this.watch_releases(now);
            this.flush_answers(ctx);
            this.set_timer(ctx);
            this.flush();
            if this.work.running() == 0
                && let Some(drained) = this.shutdown.draining.take()
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
            Action::Ask(instance, number) => self.feedback.outbox.asks.push((instance, number)),
            Action::Release(instance) => self.feedback.outbox.releases.push(instance),
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
        self.config.reports.events.emit(|| {
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
        let running = self.config.callbacks.running.is_running(rule, binding);
        if running {
            let mut actions = Vec::new();
            self.work.postpone(id, STILL_RUNNING, Instant::now(), &mut actions);
            for action in actions {
                self.carry_out(action, ctx);
            }
            if !self.outlived.insert(id) {
                return running;
            }
            let (callbacks, binding) = (self.config.callbacks.running.clone(), binding.clone());
            let ended = async move { callbacks.ended(rule, &binding).await };
            ctx.spawn(actix::fut::wrap_future::<_, Self>(ended).map(move |(), this, ctx| {
                this.outlived.remove(&id);
                this.turn(ctx, |this, now, out| this.work.resume(id, now, out));
            }));
        }
        running
    }

    /// Sends a transaction whose answer nobody needs: what it would remove ends with a lease anyway.
    fn send(&self, rule: RuleIndex, request: Request) {
        let requests = self.config.etcd.requests.clone();
        spawn_guarded(&self.config.reports.faults, Self::NAME, async move {
            if let Some(Err(failure)) = submit(&requests, rule, Class::Ending, request, None).await {
                tracing::debug!(%failure, "key left to its lease");
            }
        });
    }

    /// Hands the outbox to the index, as soon as it has room.
    fn flush_answers(&mut self, ctx: &mut Context<Self>) {
        let FeedbackChannel { index, outbox, waits } = &mut self.feedback;
        if *waits || outbox.is_empty() {
            return;
        }
        let Some(index) = index else { return };
        if let Err(SendError::Full(feedback)) = index.try_send(std::mem::take(outbox)) {
            *waits = true;
            let sending = actix::fut::wrap_future::<_, Self>(index.send(feedback));
            ctx.spawn(sending.map(|_, this, ctx| {
                this.feedback.waits = false;
                guarded(this, ctx, |this, ctx| this.flush_answers(ctx));
            }));
        }
    }

    /// Sends what the turn has produced, one message to each receiver: every message, and every task that is
    /// started on another thread, has its price.
    fn flush(&mut self) {
        let RequestChannel { sender, submissions } = &mut self.requests;
        if !submissions.is_empty() {
            // Bounded by the firing slots.
            tell_soon(sender, Submissions(std::mem::take(submissions)));
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
        let (starting, runtime) = (&mut self.callbacks.starting, &self.config.callbacks.runtime);
        match starting.len() {
            0 => {}
            1 => drop(starting.pop().map(|starting| runtime.spawn(boxed(starting)))),
            _ => {
                let starting = std::mem::take(starting);
                runtime.spawn(async move {
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
        self.callbacks.ended = EndedRuns::new(move || {
            // Full: the messages in the mailbox make turns, and each turn looks. Closed: the engine is
            // stopping or restarting.
            let _ = me.try_send(RunsEnded);
        });
        tell_soon(&self.config.etcd.requests.clone().recipient(), AnswerTo(ctx.address().recipient()));
        ctx.run_interval(TALLY, |this, ctx| {
            let now = Instant::now();
            guarded(this, ctx, |this, ctx| this.take_ended(now, ctx));
            this.watch_releases(now);
            this.find_stuck(now);
            this.look_at_locks(now, ctx);
            this.announce(now);
            this.config.reports.meters.workqueue_depths(&this.work.depths(now), now);
        });
    }
}

impl SupervisedActor for Dispatcher {
    const NAME: &'static str = "dispatcher";

    fn faults(&self) -> &ActorFaults {
        &self.config.reports.faults
    }
}

/// The index, to which feedback goes. It is made after the dispatcher.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Attach(pub(crate) Addr<IndexActor>);

impl Handler<Attach> for Dispatcher {
    type Result = ();

    fn handle(&mut self, Attach(index): Attach, ctx: &mut Self::Context) {
        self.feedback.index = Some(index);
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
