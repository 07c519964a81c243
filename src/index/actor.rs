//! The index actor: carries changes into the [`Index`] and orders for decisions out of it.

mod look;

pub(crate) use look::{Figures, GetListed, LookUp};

use super::views::{Closed, Purpose, ViewId};
use super::{Index, InstanceId, Order, Orders, Reached, Reason, Timestamps};
use crate::change::{Change, KeyValue, Revision};
use crate::health::status::Status;
use crate::metrics::Meters;
use crate::read::pace::Rests;
use crate::runtime::supervised::{Fault, Faults, Part, forward, guarded};
use actix::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

/// Units of backlog done before live changes get their turn.
const CHUNK: usize = 64;

/// The same before the first snapshot is complete: nothing is decided until then.
const FIRST_CHUNK: usize = 16_384;

/// The same while only a crawl waits for it.
const CRAWL_CHUNK: usize = 128;

/// Messages that wait for the index at most; then watchers and the crawler wait.
const MAILBOX: usize = 64;

/// Where orders for one evaluator go.
pub(crate) struct EvaluatorHandle {
    pub(crate) orders: Recipient<Orders>,
    pub(crate) reached: Recipient<Reached>,
}

pub(crate) struct IndexActor {
    meters: Meters,
    /// Instances by rule, as the metrics have them.
    shown: Vec<usize>,
    index: Index,
    evaluators: Vec<EvaluatorHandle>,
    status: Status,
    faults: Faults,
    working: bool,
    rests: Rests,
    closing: BTreeMap<ViewId, oneshot::Sender<Closed>>,
}

impl IndexActor {
    pub(crate) fn new(
        meters: Meters,
        index: Index,
        evaluators: Vec<EvaluatorHandle>,
        status: Status,
        faults: Faults,
    ) -> Self {
        Self {
            meters,
            shown: Vec::new(),
            index,
            evaluators,
            status,
            faults,
            working: false,
            rests: Rests::new(1),
            closing: BTreeMap::new(),
        }
    }

    /// Sends what must be decided to the evaluators, each instance always to the same one.
    fn flush(&mut self, ctx: &mut Context<Self>, mut orders: Vec<Order>, arrived: Instant) {
        let mut decide = Vec::new();
        self.index.drain(&mut decide);
        orders.extend(decide.into_iter().map(Order::Decide));
        let timestamps = Timestamps { arrived, indexed: Instant::now() };
        if !orders.is_empty() {
            let shards = self.evaluators.len();
            if shards == 1 {
                forward(ctx, &self.evaluators[0].orders, Orders { orders, timestamps });
            } else {
                let mut shares: Vec<Vec<Order>> = (0..shards).map(|_| Vec::new()).collect();
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
                // The one who asked may be gone.
                let _ = waiting.send(closed);
            }
        }
        if self.index.is_ready() {
            self.status.index_ready();
        }
        self.show();
        if self.index.has_backlog() && !self.working {
            self.work_on(ctx, Duration::ZERO);
        }
    }

    /// Does the next chunk of the backlog once the last one, which took so long, has been decided: what is queued
    /// before a live change is one chunk at most. What only a crawl waits for is done with rests.
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
                    // Closed: the engine is restarting, and this actor with it.
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
    /// Tells the metrics what there is.
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

impl Part for IndexActor {
    const NAME: &'static str = "index";

    fn faults(&self) -> &Faults {
        &self.faults
    }
}

/// What a watcher received, in order.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Batch {
    pub(crate) watcher: u16,
    pub(crate) changes: Vec<Change>,
    /// Everything up to here has been delivered.
    pub(crate) position: Revision,
    /// When the first of the changes was received.
    pub(crate) arrived: Instant,
}

impl Handler<Batch> for IndexActor {
    type Result = ();

    fn handle(&mut self, batch: Batch, ctx: &mut Self::Context) {
        guarded(self, ctx, |this, ctx| {
            this.index.apply_all(batch.changes);
            this.index.advance(batch.watcher, batch.position);
            this.flush(ctx, Vec::new(), batch.arrived);
        });
    }
}

/// What the dispatcher learned and wants; see [`crate::dispatch::actor`].
#[derive(Default, Message)]
#[rtype(result = "()")]
pub(crate) struct Feedback {
    /// Own commits, and values that a lock transaction returned.
    pub(crate) changes: Vec<Change>,
    pub(crate) asks: Vec<(InstanceId, u64)>,
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
            // The changes are merged by now: an answer contains them, and who asked needs no second one for them.
            let mut orders = Vec::with_capacity(feedback.asks.len());
            for (instance, number) in feedback.asks {
                orders.push(match this.index.ask(instance, Reason::Ask(number)) {
                    Some(decide) => Order::Decide(decide),
                    None => Order::Gone(instance, number),
                });
            }
            let mut decide = Vec::new();
            this.index.drain(&mut decide);
            orders.extend(decide.into_iter().map(Order::Decide));
            this.flush(ctx, orders, Instant::now());
        });
    }
}

/// Begins a comparison; see [`Index::open_view`].
#[derive(Message)]
#[rtype(result = "Option<ViewId>")]
pub(crate) struct OpenView {
    pub(crate) watcher: u16,
    pub(crate) revision: Revision,
    pub(crate) purpose: Purpose,
}

impl Handler<OpenView> for IndexActor {
    type Result = Option<ViewId>;

    fn handle(&mut self, view: OpenView, ctx: &mut Self::Context) -> Self::Result {
        let mut opened = None;
        guarded(self, ctx, |this, _| {
            opened = this.index.open_view(view.watcher, view.revision, view.purpose);
        });
        opened
    }
}

/// Keys that a view contains, and how many more of them are known to come. False if the view was ended meanwhile.
#[derive(Message)]
#[rtype(result = "bool")]
pub(crate) struct ViewPage(pub(crate) ViewId, pub(crate) Vec<KeyValue>, pub(crate) usize);

impl Handler<ViewPage> for IndexActor {
    type Result = bool;

    fn handle(&mut self, ViewPage(view, page, rest): ViewPage, ctx: &mut Self::Context) -> Self::Result {
        let mut goes_on = false;
        guarded(self, ctx, |this, ctx| {
            let (told, had) = (page.len(), (this.index.keys(), this.index.instances()));
            goes_on = this.index.view_page(view, page);
            this.index.make_room(rest, told, had);
            if let Some((known, found, at)) = this.index.take_contradiction() {
                let reason = format!(
                    "a key that was changed at revision {known} was last changed at {found}, as of revision {at}"
                );
                this.faults.report(Fault::Rewound(reason));
                goes_on = false;
            }
            this.flush(ctx, Vec::new(), Instant::now());
        });
        goes_on
    }
}

/// Ends a view: compared to its end when the receiver answers; never answered if it was ended meanwhile.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct CloseView(pub(crate) ViewId, pub(crate) oneshot::Sender<Closed>);

impl Handler<CloseView> for IndexActor {
    type Result = ();

    fn handle(&mut self, CloseView(view, done): CloseView, ctx: &mut Self::Context) {
        guarded(self, ctx, |this, ctx| {
            this.rests = Rests::new(this.index.keys() / CRAWL_CHUNK);
            if this.index.close_view(view) {
                this.closing.retain(|_, waiting| !waiting.is_closed());
                this.closing.insert(view, done);
            }
            this.flush(ctx, Vec::new(), Instant::now());
        });
    }
}

/// Forgets a view that can't be completed.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct CancelView(pub(crate) ViewId);

impl Handler<CancelView> for IndexActor {
    type Result = ();

    fn handle(&mut self, CancelView(view): CancelView, ctx: &mut Self::Context) {
        guarded(self, ctx, |this, _| this.index.cancel_view(view));
    }
}

/// Has every instance decided again, behind live changes.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct DecideAll;

impl Handler<DecideAll> for IndexActor {
    type Result = ();

    fn handle(&mut self, _: DecideAll, ctx: &mut Self::Context) {
        guarded(self, ctx, |this, ctx| {
            this.rests = Rests::new(this.index.instances() / CRAWL_CHUNK);
            this.index.decide_all(Reason::Crawl);
            this.flush(ctx, Vec::new(), Instant::now());
        });
    }
}
