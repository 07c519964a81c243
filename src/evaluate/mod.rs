//! The evaluator actors. They decide instances on the values that the index has collected for them. The
//! user's comparisons run only here and in the group cache of the index. A panic in one of them is caught
//! here.
//!
//! [`decide`] and [`decide_all`] are pure; the actor around them sends and receives messages.

mod decided;

pub(crate) use decided::{Decided, Verdict};

use crate::compiled::CompiledRule;
use crate::compiled::{Binding, RuleIndex};
use crate::condition::Evaluation;
use crate::index::{Decide, DecisionReason, EvaluationOrder, Orders, Reached, Timestamps};
use crate::metrics::Meters;
use crate::runtime::supervised::{ActorFaults, SupervisedActor, forward, guarded};
use crate::trace::Telemetry;
use crate::trace::lines::Line;
use actix::prelude::*;
use smallvec::SmallVec;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use tokio::time::Instant;

#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Decisions {
    pub(crate) decisions: Vec<Decided>,
    pub(crate) timestamps: Timestamps,
}

pub(crate) struct Evaluator {
    engine: Arc<str>,
    meters: Meters,
    rules: Arc<[CompiledRule]>,
    dispatcher: Recipient<Decisions>,
    mailbox: usize,
    telemetry: Telemetry,
    faults: ActorFaults,
}

impl Evaluator {
    pub(crate) fn new(
        engine: Arc<str>,
        meters: Meters,
        rules: Arc<[CompiledRule]>,
        dispatcher: Recipient<Decisions>,
        mailbox: usize,
        telemetry: Telemetry,
        faults: ActorFaults,
    ) -> Self {
        Self { engine, meters, rules, dispatcher, mailbox, telemetry, faults }
    }
}

impl Evaluator {
    /// Logs a comparison that panicked.
    fn log_panic(&self, decided: &Decided) {
        let Verdict::Failed(error) = &decided.verdict else { return };
        if let Some(suppressed) =
            self.telemetry.lines.pass(Line::ComparisonPanicked, decided.rule, Instant::now())
        {
            let compiled = &self.rules[decided.rule.index()];
            let (engine, rule, reveal) = (&*self.engine, &**compiled.id(), self.telemetry.reveal);
            let attributes = compiled.attributes_of(&decided.binding);
            let error = &*reveal.text(error, &attributes, &decided.snapshot, Some(&[]));
            let instance = reveal.instance(&attributes);
            let instance = instance.as_deref();
            tracing::error!(
                engine,
                rule,
                instance,
                error,
                suppressed,
                "comparison panicked; its instance is left alone"
            );
        }
    }
}

impl Actor for Evaluator {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.mailbox);
    }
}

impl SupervisedActor for Evaluator {
    const NAME: &'static str = "evaluator";

    fn faults(&self) -> &ActorFaults {
        &self.faults
    }
}

impl Handler<Orders> for Evaluator {
    type Result = ();

    fn handle(&mut self, Orders { orders, timestamps }: Orders, ctx: &mut Self::Context) {
        guarded(self, ctx, |this, ctx| {
            let mut decisions = Vec::with_capacity(orders.len());
            decide_all(&this.rules, orders, |decided| decisions.push(decided));
            for decided in &decisions {
                this.log_panic(decided);
                // Of an instance that is gone nothing was evaluated.
                if decided.snapshot.len() == this.rules[decided.rule.index()].slots().len() {
                    this.meters.rule(decided.rule).evaluated(decided.verdict.result());
                }
            }
            // Waits for room: the dispatcher never waits for an evaluator.
            forward(ctx, &this.dispatcher, Decisions { decisions, timestamps });
        });
    }
}

impl Handler<Reached> for Evaluator {
    type Result = ();

    fn handle(&mut self, _: Reached, _: &mut Self::Context) {}
}

/// How many orders have their rules read before the first is decided. The reads don't depend on each other,
/// so their waits for memory overlap.
const AHEAD: usize = 16;

/// Decides instances one after the other.
pub(crate) fn decide_all(
    rules: &[CompiledRule],
    orders: Vec<EvaluationOrder>,
    mut decided: impl FnMut(Decided),
) {
    let mut orders = orders.into_iter();
    while !orders.as_slice().is_empty() {
        let touched = orders.as_slice().iter().take(AHEAD).fold(0, |touched, order| match order {
            EvaluationOrder::Decide(decide) => touched ^ rules[decide.rule.index()].touch(),
            EvaluationOrder::Gone(..) => touched,
        });
        std::hint::black_box(touched);
        orders.by_ref().take(AHEAD).for_each(|order| decided(decide(rules, order)));
    }
}

/// Decides one instance. If a comparison panics, the instance is neither true nor false.
pub(crate) fn decide(rules: &[CompiledRule], order: EvaluationOrder) -> Decided {
    let decide = match order {
        EvaluationOrder::Decide(decide) => decide,
        EvaluationOrder::Gone(instance, number) => {
            return Decided {
                instance,
                rule: RuleIndex::default(),
                binding: Binding::new([].into_iter()),
                verdict: Verdict::False,
                snapshot: Box::default(),
                coherent: true,
                touches: SmallVec::new(),
                reason: DecisionReason::Ask(number),
                orphaned: false,
            };
        }
    };
    let Decide { instance, rule, binding, snapshot, coherent, touches, reason, orphaned } = decide;
    let compiled = &rules[rule.index()];
    let verdict = match catch_unwind(AssertUnwindSafe(|| compiled.condition().evaluate(&snapshot))) {
        Ok(Evaluation { truth: true, witness }) => Verdict::True(witness),
        Ok(_) => Verdict::False,
        Err(panic) => {
            let text = crate::runtime::supervised::panic_text(&*panic);
            Verdict::Failed(format!("a comparison panicked: {text}"))
        }
    };
    Decided { instance, rule, binding, verdict, snapshot, coherent, touches, reason, orphaned }
}
