//! The transaction sender: an actor that sends transactions, together those that may share a request.

use super::batch::{Batch, BatchLimits, Batcher, Class};
use super::encode::{EncodedTxn, alone, guard, nested};
use super::txn::{Nonce, Reply, Request, is_at_fault};
use crate::compiled::{CompiledRule, RuleIndex};
use crate::etcd::{EtcdClient, Failure, FailureKind, Identity, TxnResponse};
use crate::health::status::{REQUESTS, Status};
use crate::index::InstanceId;
use crate::metrics::Meters;
use crate::runtime::supervised::{ActorFaults, SupervisedActor, guarded, spawn_guarded, tell, tell_soon};
use actix::prelude::*;
use bytes::Bytes;
use etcd_client::proto::PbTxnOpResponse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

/// After NOSPACE, how long only deletions are sent before puts are tried again.
const NO_SPACE_PAUSE: Duration = Duration::from_secs(1);

/// What a transaction sender is made of.
pub(crate) struct TxnSenderSettings {
    pub(crate) meters: Meters,
    pub(crate) etcd: Arc<EtcdClient>,
    pub(crate) status: Status,
    pub(crate) rules: Arc<[CompiledRule]>,
    /// Read from when there is nothing else to ask etcd for.
    pub(crate) namespace: Arc<str>,
    pub(crate) limits: BatchLimits,
    pub(crate) faults: ActorFaults,
}

pub(crate) struct TxnSender {
    settings: TxnSenderSettings,
    batcher: Batcher<Entry>,
    /// Rules that were refused by permission: their transactions travel alone.
    refused: BTreeSet<RuleIndex>,
    /// Rules whose locks are refused, and when the last was.
    locked_out: BTreeMap<RuleIndex, Instant>,
    /// What keeps requests from being answered, until one is.
    trouble: Option<FailureKind>,
    probing: bool,
    /// Where the answers to firings go, and those that wait to go there together.
    firings: Option<Recipient<Answered>>,
    answered: Vec<(Awaited, Result<Reply, Failure>)>,
}

/// While requests fail, one is sent this often although nobody needs it: the health must not stay as it
/// was when the last need for a request has gone.
const PROBE: Duration = Duration::from_secs(1);

/// How long a rule counts as refused after its last lock was: longer than any instance waits before it tries again.
const FORGET: Duration = Duration::from_secs(15);

struct Entry {
    rule: RuleIndex,
    class: Class,
    txn: EncodedTxn,
    send_before: Option<Instant>,
    asker: Asker,
}

/// Who is to have the answer to a transaction.
pub(crate) enum Asker {
    Task(oneshot::Sender<Result<Reply, Failure>>),
    Firing(Awaited),
}

/// The step of a firing that waits for an answer: the number is its attempt's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Awaited {
    pub(crate) instance: InstanceId,
    pub(crate) nonce: Nonce,
}

impl TxnSender {
    pub(crate) fn new(settings: TxnSenderSettings) -> Self {
        let batcher = Batcher::new(settings.limits.clone());
        Self {
            settings,
            batcher,
            refused: BTreeSet::new(),
            locked_out: BTreeMap::new(),
            trouble: None,
            probing: false,
            firings: None,
            answered: Vec::new(),
        }
    }

    /// Sends batches while there are any and a flight is free, and answers whom there is an answer for.
    fn send(&mut self, ctx: &mut Context<Self>) {
        let now = Instant::now();
        while let Some(mut batch) = self.batcher.next() {
            for entry in batch.take_out(|entry| entry.send_before.is_some_and(|limit| now >= limit)) {
                let message = "a lease of its keys would end too early";
                let late = Failure::new(FailureKind::LeaseGone, "txn", message);
                self.answer(entry.asker, Err(late));
            }
            if batch.entries().len() == 0 {
                self.batcher.landed(batch.flight());
                continue;
            }
            self.settings.meters.batch(batch.entries().len());
            let etcd = self.settings.etcd.clone();
            let me = ctx.address();
            let sending = async move {
                let answer = etcd.send_txn(|identity| outer(&batch, identity)).await;
                // Closed: the engine is stopping, and nobody waits for the answer.
                let _ = tell(&me, Landed { batch, answer }).await;
            };
            spawn_guarded(&self.settings.faults, Self::NAME, Box::pin(sending));
        }
        // What needed space is not wanted any more, and nothing else will tell that there is some.
        if self.trouble == Some(FailureKind::NoSpace) && self.batcher.is_idle() {
            self.well();
        }
        self.flush_answers();
    }

    fn landed(&mut self, batch: Batch<Entry>, answer: Result<TxnResponse, Failure>, ctx: &mut Context<Self>) {
        match answer {
            Ok(answer) => {
                // Deletions are answered also without space.
                if self.trouble != Some(FailureKind::NoSpace) || batch.has_puts() {
                    self.well();
                }
                self.batcher.landed(batch.flight());
                // What is refused travels alone.
                if let Some(Entry { rule, class: Class::Lock, .. }) =
                    batch.entries().next().filter(|_| !batch.is_nested())
                {
                    self.let_in(*rule);
                }
                self.reply(batch, answer);
            }
            // What needs no space finds none only if the identity can't be written: that is for those who asked.
            Err(failure) if failure.kind == FailureKind::NoSpace && batch.has_puts() => {
                self.unwell(&failure, ctx);
                self.batcher.hold_puts(true);
                self.batcher.put_back(batch);
                ctx.run_later(NO_SPACE_PAUSE, |this, ctx| {
                    guarded(this, ctx, |this, ctx| {
                        this.batcher.hold_puts(false);
                        this.send(ctx);
                    });
                });
            }
            // Without the identity nothing was sent, and nothing of the batch is at fault.
            Err(failure) if is_at_fault(failure.kind) && self.settings.etcd.knows_identity() => {
                if let Some(entry) = self.batcher.split(batch) {
                    if failure.kind == FailureKind::Permission {
                        self.refused.insert(entry.rule);
                        if entry.class == Class::Lock {
                            self.lock_out(entry.rule, &failure, ctx);
                        }
                    }
                    self.answer(entry.asker, Err(failure));
                }
            }
            Err(failure) => {
                self.unwell(&failure, ctx);
                self.batcher.landed(batch.flight());
                for entry in batch.into_entries() {
                    self.answer(entry.asker, Err(failure.clone()));
                }
            }
        }
        self.send(ctx);
    }

    fn answer(&mut self, asker: Asker, answer: Result<Reply, Failure>) {
        match asker {
            // The one who asked may be gone.
            Asker::Task(task) => drop(task.send(answer)),
            Asker::Firing(firing) => self.answered.push((firing, answer)),
        }
    }

    /// Answers firings, all of a request at once.
    fn flush_answers(&mut self) {
        if let Some(firings) = self.firings.as_ref().filter(|_| !self.answered.is_empty()) {
            // Bounded by the firing slots, each of which waits for one answer at a time.
            tell_soon(firings, Answered(std::mem::take(&mut self.answered)));
        }
    }

    fn reply(&mut self, batch: Batch<Entry>, answer: TxnResponse) {
        let TxnResponse { revision, succeeded, responses } = answer;
        if !batch.is_nested() {
            if let Some(entry) = batch.into_entries().next() {
                self.answer(entry.asker, Ok(Reply { revision, succeeded, responses }));
            }
            return;
        }
        if !succeeded || responses.len() != batch.entries().len() {
            let lacking = Failure::new(FailureKind::Unreachable, "txn", "the answer lacks a part");
            for entry in batch.into_entries() {
                self.answer(entry.asker, Err(lacking.clone()));
            }
            return;
        }
        for (entry, response) in batch.into_entries().zip(responses) {
            let answer = match response {
                // Headers of nested answers are empty: the outer one's revision counts for all.
                Some(PbTxnOpResponse::ResponseTxn(txn)) => Ok(Reply {
                    revision,
                    succeeded: txn.succeeded,
                    responses: txn.responses.into_iter().map(|response| response.response).collect(),
                }),
                _ => Err(Failure::new(FailureKind::Unreachable, "txn", "the answer lacks a part")),
            };
            self.answer(entry.asker, answer);
        }
    }

    fn push(&mut self, submit: Submit) {
        let Submit { rule, class, request, asker, send_before } = submit;
        let Request { txn, mut footprint } = request;
        let (bytes, most) = (txn.len() + self.around(), self.settings.limits.max_request_bytes);
        if bytes > most {
            return self.answer(asker, Err(Failure::too_large("txn", bytes, most)));
        }
        footprint.solo |= self.refused.contains(&rule);
        self.batcher.push(class, footprint, Entry { rule, class, txn, send_before, asker });
    }

    /// The bytes that etcd counts around a transaction: the identity of the store, which is compared and read, and who
    /// sends it.
    fn around(&self) -> usize {
        const REST: usize = 512;
        2 * self.settings.namespace.len() + REST
    }

    /// A lock of the rule was refused for lack of permission.
    fn lock_out(&mut self, rule: RuleIndex, failure: &Failure, ctx: &mut Context<Self>) {
        let part = self.part(rule);
        self.settings.status.rule_refused(rule, &part, failure);
        if self.locked_out.is_empty() {
            self.forget_later(ctx);
        }
        self.locked_out.insert(rule, Instant::now());
    }

    /// Its locks are refused no more.
    fn let_in(&mut self, rule: RuleIndex) {
        if self.locked_out.remove(&rule).is_some() {
            self.settings.status.rule_allowed(rule, &self.part(rule));
        }
    }

    /// Whether a rule is refused shows only when it is tried. If it was not for a while, nothing is known.
    fn forget_later(&mut self, ctx: &mut Context<Self>) {
        ctx.run_later(FORGET, |this, ctx| {
            guarded(this, ctx, |this, ctx| {
                let now = Instant::now();
                let old = |at: &Instant| now.duration_since(*at) >= FORGET;
                let forgotten: Vec<RuleIndex> =
                    this.locked_out.iter().filter(|(_, at)| old(at)).map(|(rule, _)| *rule).collect();
                forgotten.into_iter().for_each(|rule| this.let_in(rule));
                if !this.locked_out.is_empty() {
                    this.forget_later(ctx);
                }
            });
        });
    }

    /// The name of a rule's locks in the engine's health.
    fn part(&self, rule: RuleIndex) -> String {
        format!("locks of rule `{}`", self.settings.rules[rule.index()].id())
    }

    fn well(&mut self) {
        self.trouble = None;
        self.settings.status.fine(REQUESTS);
    }

    fn unwell(&mut self, failure: &Failure, ctx: &mut Context<Self>) {
        self.settings.status.failure(REQUESTS, failure);
        // What found no space is held back here, and sent until there is.
        self.trouble = Some(failure.kind);
        if failure.kind != FailureKind::NoSpace && !self.probing {
            self.probe(ctx);
        }
    }

    /// Asks etcd for something until it, or another request, is answered.
    fn probe(&mut self, ctx: &mut Context<Self>) {
        self.probing = true;
        let TxnSenderSettings { etcd, namespace, .. } = &self.settings;
        let (etcd, namespace) = (etcd.clone(), namespace.clone());
        let asking = async move {
            sleep(PROBE).await;
            etcd.probe(&namespace).await
        };
        ctx.spawn(actix::fut::wrap_future::<_, Self>(asking).map(|answer, this, ctx| {
            guarded(this, ctx, |this, ctx| {
                this.probing = false;
                match (answer, this.trouble) {
                    (_, None | Some(FailureKind::NoSpace)) => {}
                    (Ok(()), Some(_)) => this.well(),
                    (Err(_), Some(_)) => this.probe(ctx),
                }
            });
        }));
    }
}

/// One entry goes as it is, several as nested transactions: each decides for itself, and all take effect in the
/// engine's store only.
fn outer(batch: &Batch<Entry>, identity: &Identity) -> Bytes {
    let guard = guard(identity);
    let mut txns = batch.entries().map(|entry| &entry.txn);
    match txns.next() {
        Some(txn) if !batch.is_nested() => alone(txn, &guard),
        _ => nested(batch.entries().map(|entry| &entry.txn), &guard),
    }
}

impl Actor for TxnSender {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // Bounded by the firing slots, each with one transaction at a time.
        ctx.set_mailbox_capacity(4096);
    }
}

impl SupervisedActor for TxnSender {
    const NAME: &'static str = "requests";

    fn faults(&self) -> &ActorFaults {
        &self.settings.faults
    }
}

/// A transaction to send. If the actor ends before it is answered, a task's sender is dropped, and a firing
/// ends with the actor, for all of them are restarted together.
pub(crate) struct Submit {
    pub(crate) rule: RuleIndex,
    pub(crate) class: Class,
    pub(crate) request: Request,
    pub(crate) asker: Asker,
    /// Of no use later: a lease that its keys use would end too early.
    pub(crate) send_before: Option<Instant>,
}

/// Transactions to send.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Submissions(pub(crate) Vec<Submit>);

impl Handler<Submissions> for TxnSender {
    type Result = ();

    fn handle(&mut self, Submissions(submissions): Submissions, ctx: &mut Self::Context) {
        guarded(self, ctx, |this, ctx| {
            submissions.into_iter().for_each(|submit| this.push(submit));
            this.send(ctx);
        });
    }
}

/// Answers to firings.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Answered(pub(crate) Vec<(Awaited, Result<Reply, Failure>)>);

/// Where the answers to firings go.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct AnswerTo(pub(crate) Recipient<Answered>);

impl Handler<AnswerTo> for TxnSender {
    type Result = ();

    fn handle(&mut self, AnswerTo(firings): AnswerTo, _: &mut Self::Context) {
        self.firings = Some(firings);
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct Landed {
    batch: Batch<Entry>,
    answer: Result<TxnResponse, Failure>,
}

impl Handler<Landed> for TxnSender {
    type Result = ();

    fn handle(&mut self, Landed { batch, answer }: Landed, ctx: &mut Self::Context) {
        guarded(self, ctx, |this, ctx| this.landed(batch, answer, ctx));
    }
}

/// Sends a transaction and waits for its answer. `None`: the engine is stopping or restarting.
pub(crate) async fn submit(
    requests: &Addr<TxnSender>,
    rule: RuleIndex,
    class: Class,
    request: Request,
    send_before: Option<Instant>,
) -> Option<Result<Reply, Failure>> {
    let (task, answer) = oneshot::channel();
    let submit = Submit { rule, class, request, asker: Asker::Task(task), send_before };
    tell(requests, Submissions(vec![submit])).await.ok()?;
    answer.await.ok()
}

#[cfg(all(test, feature = "embedded"))]
mod tests;
