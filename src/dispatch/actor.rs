//! The dispatcher actor: tells [`Pending`] what happened and carries out what it wants. It never waits
//! for anybody up the path: what goes back to the index is kept until the index has room.

mod brake;
mod callback;
mod drain;
mod end;
mod firing;
mod lock;
mod look;
mod releases;
mod tell;

pub(crate) use brake::SetBrakes;
pub(crate) use drain::Drain;
pub(crate) use look::{FireNow, GetRules, GetTally, LookAt};

use super::messages::{Action, Finish};
use super::pending::Pending;
use super::run::{Ended, RunTelling, Watched};
use super::tools::Tools;
use crate::change::Revision;
use crate::compiled::Binding;
use crate::compiled::CompiledRule;
use crate::dispatch::brakes::Brakes;
use crate::dispatch::live::Live;
use crate::etcd::EtcdClient;
use crate::evaluate::Decisions;
use crate::events::{Event, EventKind, Events};
use crate::firing::{Callback, Effects, Fence, Surroundings};
use crate::index::InstanceId;
use crate::index::actor::{Feedback, IndexActor};
use crate::lock::batch::Class;
use crate::lock::keys::Keys;
use crate::lock::lease_manager::{LeaseManager, LockLease, LockLeases};
use crate::lock::txn::clear_mark;
use crate::lock::txn_sender::{AnswerTo, Submissions, Submit, TxnSender, submit};
use crate::metrics::Meters;
use crate::runtime::env::{Env, RandomStream};
use crate::runtime::supervised::{Faults, SupervisedActor, guarded, spawn_guarded, tell_soon};
use crate::trace::lines::Line;
use crate::trace::{Telling, spans};
use crate::watch_cell::WatchCellSender;
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
    pub(crate) ageing: Duration,
    pub(crate) etcd: Arc<EtcdClient>,
    pub(crate) requests: Addr<TxnSender>,
    pub(crate) keeper: Addr<LeaseManager>,
    pub(crate) leases: LockLeases,
    pub(crate) runtime: Handle,
    pub(crate) live: Live,
    pub(crate) brakes: Brakes,
    pub(crate) events: Events,
    pub(crate) telling: Telling,
    pub(crate) faults: Faults,
}

pub(crate) struct Dispatcher {
    settings: Settings,
    tools: Arc<Tools>,
    around: Arc<Surroundings>,
    run_telling: Arc<RunTelling>,
    pending: Pending,
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
    releases: WatchCellSender<Option<Revision>>,
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
    overrule: Option<Revision>,
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
    fn new(nonce: u64, overrule: Option<Revision>, span: Span) -> Self {
        Self {
            nonce,
            keys: None,
            fence: None,
            lease: None,
            overrule,
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

/// How often what there is goes to the metrics.
const TALLY: Duration = Duration::from_secs(1);

/// While another run of the same instance, from before a restart, has not ended.
const STILL_RUNNING: Duration = Duration::from_millis(100);

impl Dispatcher {
    /// `releases` is told after which revision what is released is to be watched.
    pub(crate) fn new(settings: Settings, releases: WatchCellSender<Option<Revision>>) -> Self {
        let Settings { env, rules, limit, ageing, .. } = &settings;
        let pending =
            Pending::new(rules.clone(), *limit, *ageing, env.rng(RandomStream::WorkQueue), env.hasher());
        let tools = Tools {
            engine: settings.engine.clone(),
            env: env.clone(),
            rules: rules.clone(),
            namespace: settings.namespace.clone(),
            etcd: settings.etcd.clone(),
            requests: settings.requests.clone(),
            keeper: settings.keeper.clone(),
        };
        let around = Surroundings {
            engine: settings.engine.clone(),
            rules: rules.clone(),
            callbacks: settings.callbacks.clone(),
            source: settings.etcd.clone(),
            reserved: settings.reserved.clone(),
            max_txn_ops: settings.max_txn_ops,
        };
        let run_telling = RunTelling {
            engine: settings.engine.clone(),
            telling: settings.telling.clone(),
            meters: settings.meters.clone(),
        };
        Self {
            tools: Arc::new(tools),
            around: Arc::new(around),
            run_telling: Arc::new(run_telling),
            rng: env.rng(RandomStream::Dispatcher),
            pending,
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
            this.pending.observe(this.settings.events.has_listeners());
            this.take_ended(now, ctx);
            happened(this, now, &mut actions);
            this.pending.fill(now, &mut actions);
            for action in actions {
                this.carry_out(action, ctx);
            }
            this.pending.take_notes().for_each(|note| this.settings.meters.note(note));
            this.watch_releases(now);
            this.send_back(ctx);
            this.set_timer(ctx);
            this.hand_out();
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
            Action::Tell { rule, binding, state } => self.tell_of(rule, &binding, || EventKind::State(state)),
            Action::Ask(instance, number) => self.outbox.asks.push((instance, number)),
            Action::Release(instance) => self.outbox.releases.push(instance),
            Action::Close(instance, closing) => self.close(instance, closing, Effects::default(), ctx),
            Action::ClearMark { rule, binding, revision } => {
                self.tell(rule, clear_mark(self.tools.keys(rule, &binding).mark(), revision));
            }
            Action::Lock { instance, snapshot, witness, overrule } => {
                self.lock(instance, (snapshot, witness), overrule, ctx);
            }
            Action::Run { instance, snapshot, overrule } => {
                let Some((rule, binding)) = self.identity(instance) else { return };
                if self.still_running(instance, rule, &binding, ctx) {
                    return;
                }
                let span = self.span(instance, &snapshot);
                let nonce = self.rng.next_u64();
                self.busy.insert(instance, Busy::new(nonce, overrule, span));
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
        if let Some(record) = self.pending.record(instance) {
            self.tell_of(record.rule, &record.binding, kind);
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
    fn hand_out(&mut self) {
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
            this.settings.meters.load(&this.pending.loads(now), now);
        });
    }
}

impl SupervisedActor for Dispatcher {
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

    fn handle(&mut self, Decisions { decisions, came }: Decisions, ctx: &mut Self::Context) {
        self.turn(ctx, |this, now, out| {
            for decided in decisions {
                let instance = decided.instance;
                this.pending.decided(decided, now, out);
                this.pending.came(instance, came, now);
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
