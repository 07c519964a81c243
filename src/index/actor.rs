//! The index actor. It brings changes to the [`Index`], and sends the orders for decisions that come out of
//! it.

mod queries;

pub(crate) use queries::{Figures, GetListed, LookUp};

use super::places::ViewId;
use super::views::{Closed, Contradiction, ViewPurpose};
use super::{
    DecisionReason, EvaluationOrder, Index, InstanceId, Orders, QuestionId, Reached, Timestamps, WatchState,
    WatcherIndex,
};
use crate::change::{Change, KeyValue, Revision};
use crate::health::status::Status;
use crate::metrics::Meters;
use crate::pattern::KeyRange;
use crate::read::throttle::RestPeriods;
use crate::runtime::supervised::{ActorFault, ActorFaults, SupervisedActor, forward, guarded};
use actix::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

/// How much of the backlog is done before live changes get their turn.
const CHUNK: usize = 64;

/// The same before the first snapshot is complete. Nothing is decided until then, so nothing is held up.
const FIRST_CHUNK: usize = 16_384;

/// The same while only a crawl waits for the backlog.
const CRAWL_CHUNK: usize = 128;

/// The most messages that wait for the index. When the mailbox is full, watchers and the crawler wait.
const MAILBOX: usize = 64;

/// Where orders for one evaluator go.
pub(crate) struct EvaluatorHandle {
    pub(crate) orders: Recipient<Orders>,
    pub(crate) reached: Recipient<Reached>,
}

pub(crate) struct IndexActor {
    meters: Meters,
    /// The number of instances of each rule that the metrics were last given.
    shown: Vec<usize>,
    index: Index,
    evaluators: Vec<EvaluatorHandle>,
    status: Status,
    faults: ActorFaults,
    working: bool,
    /// What the health was told of: the version.
    followed: u64,
    rests: RestPeriods,
    closing: BTreeMap<ViewId, oneshot::Sender<Closed>>,
}

impl IndexActor {
    pub(crate) fn new(
        meters: Meters,
        index: Index,
        evaluators: Vec<EvaluatorHandle>,
        status: Status,
        faults: ActorFaults,
    ) -> Self {
        Self {
            meters,
            shown: Vec::new(),
            index,
            evaluators,
            status,
            faults,
            working: false,
            followed: 0,
            rests: RestPeriods::new(1),
            closing: BTreeMap::new(),
        }
    }

    /// Sends what must be decided to the evaluators. An instance always goes to the same evaluator.
    fn flush(&mut self, ctx: &mut Context<Self>, mut orders: Vec<EvaluationOrder>, arrived: Instant) {
        let mut decide = Vec::new();
        self.index.drain(&mut decide);
        orders.extend(decide.into_iter().map(EvaluationOrder::Decide));
        let timestamps = Timestamps { arrived, indexed: Instant::now() };
        if !orders.is_empty() {
            let shards = self.evaluators.len();
            if shards == 1 {
                forward(ctx, &self.evaluators[0].orders, Orders { orders, timestamps });
            } else {
                let mut shares: Vec<Vec<EvaluationOrder>> = (0..shards).map(|_| Vec::new()).collect();
                for order in orders {
                    shares[order.instance().index as usize % shards].push(order);
                }
                for (evaluator, share) in self.evaluators.iter().zip(shares) {
                    if !share.is_empty() {
                        forward(ctx, &evaluator.orders, Orders { orders: share, timestamps });
                    }
                }
            }
        }
        for closed in self.index.take_closed() {
            if let Some(waiting) = self.closing.remove(&closed.id) {
                // The receiver may be gone, and then nobody needs the answer.
                let _ = waiting.send(closed);
            }
        }
        if self.index.is_ready() {
            if let Some(rules) = self.index.followed_since(&mut self.followed) {
                self.status.followed(rules);
                self.status.unreadable(self.index.unreadable());
            }
            self.status.index_ready();
            if !self.index.has_backlog() {
                self.status.snapshots_decided();
            }
        }
        self.show();
        if self.index.has_backlog() && !self.working {
            self.work_on(ctx, Duration::ZERO);
        }
    }

    /// Does the next chunk of the backlog as soon as the last one has been decided. So at most one chunk is
    /// queued before a live change. `took` is how long the last chunk took: if only a crawl waits for the
    /// backlog, the index rests in proportion to it.
    fn work_on(&mut self, ctx: &mut Context<Self>, took: Duration) {
        self.working = true;
        let rest = if self.index.has_time() { self.rests.after(took) } else { None };
        let turn = async move {
            if let Some(rest) = rest {
                sleep(rest).await;
            }
        };
        ctx.spawn(actix::fut::wrap_future::<_, Self>(turn).then(|(), this, ctx| {
            let begun = Instant::now();
            guarded(this, ctx, |this, ctx| {
                this.index.work(match (this.index.is_ready(), this.index.has_time()) {
                    (false, _) => FIRST_CHUNK,
                    (true, false) => CHUNK,
                    (true, true) => CRAWL_CHUNK,
                });
                this.flush(ctx, Vec::new(), Instant::now());
            });
            let decided: Vec<_> =
                this.evaluators.iter().map(|evaluator| evaluator.reached.send(Reached)).collect();
            let decided = async move {
                for decided in decided {
                    // An error means that the engine is restarting, and this actor with it.
                    let _ = decided.await;
                }
                begun.elapsed()
            };
            actix::fut::wrap_future::<_, Self>(decided).map(|took, this: &mut Self, ctx| {
                this.working = false;
                if this.index.has_backlog() {
                    this.work_on(ctx, took);
                }
            })
        }));
    }
}

impl IndexActor {
    /// Sets the gauges to what is in memory now.
    fn show(&mut self) {
        self.meters.mirror(self.index.keys(), self.index.bytes(), self.index.tombstones());
        let counts = self.index.instances_by_rule();
        if self.shown != counts {
            self.meters.instances(counts);
            self.shown.clear();
            self.shown.extend_from_slice(counts);
        }
    }
}

impl Actor for IndexActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
    }
}

impl SupervisedActor for IndexActor {
    const NAME: &'static str = "index";

    fn faults(&self) -> &ActorFaults {
        &self.faults
    }
}

/// What a watcher received, in order.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct WatchBatch {
    pub(crate) watcher: WatcherIndex,
    pub(crate) changes: Vec<Change>,
    /// Everything up to here has been delivered.
    pub(crate) position: Revision,
    /// When the first of the changes arrived.
    pub(crate) arrived: Instant,
}

impl Handler<WatchBatch> for IndexActor {
    type Result = ();

    fn handle(&mut self, batch: WatchBatch, ctx: &mut Self::Context) {
        guarded(self, ctx, |this, ctx| {
            this.index.apply_all(batch.changes);
            this.index.advance(batch.watcher, batch.position);
            this.flush(ctx, Vec::new(), batch.arrived);
        });
    }
}

/// How a watcher is now.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct WatchIs(pub(crate) WatcherIndex, pub(crate) WatchState);

impl Handler<WatchIs> for IndexActor {
    type Result = ();

    fn handle(&mut self, WatchIs(watcher, state): WatchIs, ctx: &mut Self::Context) {
        guarded(self, ctx, |this, ctx| {
            this.index.set_watch_state(watcher, state);
            this.flush(ctx, Vec::new(), Instant::now());
        });
    }
}

/// What the dispatcher has learned, and which decisions it asks for; see [`crate::dispatch::actor`].
#[derive(Default, Message)]
#[rtype(result = "()")]
pub(crate) struct Feedback {
    /// The engine's own commits, and values that a lock transaction returned.
    pub(crate) changes: Vec<Change>,
    pub(crate) asks: Vec<(InstanceId, QuestionId)>,
    pub(crate) releases: Vec<InstanceId>,
}

impl Feedback {
    pub(crate) fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.asks.is_empty() && self.releases.is_empty()
    }
}

impl Handler<Feedback> for IndexActor {
    type Result = ();

    fn handle(&mut self, feedback: Feedback, ctx: &mut Self::Context) {
        guarded(self, ctx, |this, ctx| {
            this.index.apply_all(feedback.changes);
            for instance in feedback.releases {
                this.index.release(instance);
            }
            this.index.shrink();
            // The changes are merged by now, so an answer already contains them. Whoever asked needs no
            // second decision for them.
            let mut orders = Vec::with_capacity(feedback.asks.len());
            for (instance, number) in feedback.asks {
                orders.push(match this.index.request_decision(instance, DecisionReason::Ask(number)) {
                    Some(decide) => EvaluationOrder::Decide(decide),
                    None => EvaluationOrder::Gone(instance, number),
                });
            }
            let mut decide = Vec::new();
            this.index.drain(&mut decide);
            orders.extend(decide.into_iter().map(EvaluationOrder::Decide));
            this.flush(ctx, orders, Instant::now());
        });
    }
}

/// Begins a comparison with the mirror; see [`Index::open_view_within`].
#[derive(Message)]
#[rtype(result = "Option<ViewId>")]
pub(crate) struct OpenView {
    pub(crate) watcher: WatcherIndex,
    pub(crate) revision: Revision,
    pub(crate) purpose: ViewPurpose,
    pub(crate) within: Vec<KeyRange>,
}

impl Handler<OpenView> for IndexActor {
    type Result = Option<ViewId>;

    fn handle(&mut self, view: OpenView, ctx: &mut Self::Context) -> Self::Result {
        let mut opened = None;
        guarded(self, ctx, |this, _| {
            let OpenView { watcher, revision, purpose, within } = view;
            opened = this.index.open_view_within(watcher, revision, purpose, within);
        });
        opened
    }
}

/// Keys that a view contains, and how many more are known to come. The answer is false if the view has ended
/// meanwhile.
#[derive(Message)]
#[rtype(result = "bool")]
pub(crate) struct ViewPage(pub(crate) ViewId, pub(crate) Vec<KeyValue>, pub(crate) usize);

impl Handler<ViewPage> for IndexActor {
    type Result = bool;

    fn handle(&mut self, ViewPage(view, page, rest): ViewPage, ctx: &mut Self::Context) -> Self::Result {
        let mut goes_on = false;
        guarded(self, ctx, |this, ctx| {
            let (read, had) = (page.len(), (this.index.keys(), this.index.instances()));
            goes_on = this.index.view_page(view, page);
            this.index.make_room(rest, read, had);
            if let Some(Contradiction { changed, found, as_of }) = this.index.take_contradiction() {
                let reason = format!(
                    "a key that was changed at revision {changed} was last changed at {found}, as of revision {as_of}"
                );
                this.faults.report(ActorFault::Rewound(reason));
                goes_on = false;
            }
            this.flush(ctx, Vec::new(), Instant::now());
        });
        goes_on
    }
}

/// Closes a view, of which the latest part was read at this revision. The answer comes when the comparison is
/// complete. It never comes if the view has ended meanwhile.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct CloseView(pub(crate) ViewId, pub(crate) Revision, pub(crate) oneshot::Sender<Closed>);

impl Handler<CloseView> for IndexActor {
    type Result = ();

    fn handle(&mut self, CloseView(view, read_at, done): CloseView, ctx: &mut Self::Context) {
        guarded(self, ctx, |this, ctx| {
            this.rests = RestPeriods::new(this.index.keys() / CRAWL_CHUNK);
            this.index.read_later(view, read_at);
            if this.index.close_view(view) {
                this.closing.retain(|_, waiting| !waiting.is_closed());
                this.closing.insert(view, done);
            }
            this.flush(ctx, Vec::new(), Instant::now());
        });
    }
}

/// Drops a view that can't be completed.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct CancelView(pub(crate) ViewId);

impl Handler<CancelView> for IndexActor {
    type Result = ();

    fn handle(&mut self, CancelView(view): CancelView, ctx: &mut Self::Context) {
        guarded(self, ctx, |this, _| this.index.cancel_view(view));
    }
}

/// Requests a new decision on every instance, with lower priority than live changes.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct DecideAll;

impl Handler<DecideAll> for IndexActor {
    type Result = ();

    fn handle(&mut self, _: DecideAll, ctx: &mut Self::Context) {
        guarded(self, ctx, |this, ctx| {
            this.rests = RestPeriods::new(this.index.instances() / CRAWL_CHUNK);
            this.index.decide_all(DecisionReason::Crawl);
            this.flush(ctx, Vec::new(), Instant::now());
        });
    }
}
