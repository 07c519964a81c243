//! All instances that are true or busy, and what is to be done with them next. No I/O, no clock:
//! the [actor](super::actor) tells what happened and carries out the [`Action`]s.
//!
//! | file | subject |
//! |---|---|
//! | [`transition`] | from one state of an instance to another: the one place where states change |
//! | [`ending`] | how a firing ends |
//! | [`local_locks`], [`remote`] | who waits for a lock within the engine; for another engine's lock or mark |
//! | [`owners`], [`helping`] | which engine is to try what; help for one that is behind |
//! | [`controls`] | pauses, dry runs, rates, intervals |
//! | [`status`] | what people see of it |

mod controls;
mod ending;
mod helping;
mod local_locks;
mod owners;
mod remote;
pub(crate) mod status;
mod transition;

pub(crate) use ending::AfterCommit;
pub(crate) use owners::FleetSettings;

use super::instance_rate::InstanceRates;
use super::interval::Interval;
use super::messages::{Action, Basis, CallbackEnd, Closing, Hold};
use super::outcome::{CommitOutcome, LockOutcome};
use super::record::{
    AfterFiring, AnswerState, EndTxn, InstanceRecord, QueueAction, Remote, RemoteHolder, RemoteKind,
    SeenMark, State, Wait,
};
use super::slot_queue::{QueueEntry, SlotQueue, WorkClass};
use super::stats::{LaneStats, WorkqueueStats};
use crate::change::Revision;
use crate::compiled::{ByLane, CompiledRule, Controls, Lane, Lanes, RuleIndex, lanes};
use crate::evaluate::{Decided, Verdict};
use crate::firing::FiringOutcome;
use crate::index::{DecisionReason, InstanceId, QuestionId, Timestamps, Touch};
use crate::inspect::{InstanceState, StateCounts};
use crate::lock::txn::MarkKind;
use crate::metrics::{WorkqueueDepth, WorkqueueEvent};
use crate::runtime::spare::Spare;
use crate::time::LONGEST;
use foldhash::fast::FixedState;
use local_locks::LocalLocks;
use owners::Owners;
use rand::rngs::StdRng;
use remote::RemoteReleases;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long after a release another engine's effects may take to arrive by the watch.
const RELEASE_GRACE: Duration = Duration::from_millis(5);

/// A callback that asks to run again sooner than this is made to wait for as long: it would only spin.
const RETRY_AFTER_MIN: Duration = Duration::from_millis(10);

/// Entries of the queue that have become void, beyond as many as count, before they are cleared out.
const VOID: usize = 64;

pub(crate) struct WorkQueue {
    rules: Arc<[CompiledRule]>,
    lanes: Lanes,
    /// In boxes, since there may be many at once: a map that grows must not move them all.
    records: HashMap<InstanceId, Box<InstanceRecord>, FixedState>,
    spare: Spare,
    queue: SlotQueue,
    timers: BTreeSet<(Instant, InstanceId)>,
    local_locks: LocalLocks,
    releases: RemoteReleases,
    /// The number of the last question.
    asked: QuestionId,
    stopping: bool,
    /// When a rate lets something start next.
    opens: Option<Instant>,
    /// What holds each lane back.
    controls: ByLane<Controls>,
    /// By rule: its firings, if instances are to rest between them.
    intervals: Vec<Option<Interval>>,
    rates: InstanceRates,
    /// `None`: no engine is asked whether it owns something.
    owners: Option<Owners>,
    /// Somebody listens: changes of states are told.
    observed: bool,
    stats: WorkqueueStats,
    rng: StdRng,
}

impl WorkQueue {
    /// `limit`: slots of all rules together.
    pub(crate) fn new(
        rules: Arc<[CompiledRule]>,
        limit: usize,
        starvation_limit: Duration,
        rng: StdRng,
        hasher: FixedState,
    ) -> Self {
        let (lanes, limits) = lanes(&rules);
        Self {
            lanes,
            records: HashMap::with_hasher(hasher.clone()),
            spare: Spare::default(),
            queue: SlotQueue::new(limit, &limits, starvation_limit),
            timers: BTreeSet::new(),
            local_locks: LocalLocks::new(hasher.clone()),
            releases: RemoteReleases::new(hasher.clone()),
            asked: QuestionId::default(),
            stopping: false,
            opens: None,
            controls: limits.map(|_| Controls::default()),
            intervals: rules.iter().map(|_| None).collect(),
            rates: InstanceRates::new(&rules, hasher.clone()),
            owners: None,
            observed: false,
            stats: WorkqueueStats::new(limits.map(|_| LaneStats::default()), hasher),
            rules,
            rng,
        }
    }

    /// Leaves to other engines what they own.
    pub(crate) fn share(&mut self, settings: FleetSettings) {
        self.owners = Some(Owners::new(settings, &self.rules));
    }

    pub(crate) fn record(&self, id: InstanceId) -> Option<&InstanceRecord> {
        self.records.get(&id).map(|record| &**record)
    }

    pub(crate) fn running(&self) -> usize {
        self.queue.running()
    }

    /// What there is now, by lane.
    pub(crate) fn depths(&self, now: Instant) -> ByLane<WorkqueueDepth> {
        let mut depths = self.stats.depths(now);
        for (lane, depth) in depths.iter_mut() {
            let controls = &self.controls[lane];
            (depth.paused, depth.dry_run) = (controls.paused, controls.dry_run);
            depth.throttled = self.stats.queued_in(lane) > 0 && self.queue.is_throttled(lane, now);
        }
        depths
    }

    /// What happened since the last call.
    pub(crate) fn take_events(&mut self) -> impl Iterator<Item = WorkqueueEvent> {
        self.stats.take_events()
    }

    /// Whether changes of states are to be told.
    pub(crate) fn observe(&mut self, observed: bool) {
        self.observed = observed;
    }

    /// No instance gets a slot from now on.
    pub(crate) fn stop(&mut self) {
        self.stopping = true;
    }

    /// When [`WorkQueue::tick`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let owners = self.owners.as_ref().and_then(Owners::deadline);
        self.timers.first().map(|(at, _)| *at).into_iter().chain(self.opens).chain(owners).min()
    }

    /// An instance was decided.
    pub(crate) fn decided(&mut self, decided: Decided, now: Instant, out: &mut Vec<Action>) {
        let id = decided.instance;
        let base = self.base(decided.rule);
        let truth = matches!(decided.verdict, Verdict::True(_));
        if truth && !decided.touches.is_empty() && self.rates.is_watching() {
            self.remember_cause(&decided);
        }
        let Some(record) = self.records.get_mut(&id) else {
            return self.found(decided, now, out);
        };
        record.orphaned = decided.orphaned;
        if let Verdict::Failed(reason) = &decided.verdict {
            record.last_error = Some(reason.as_str().into());
        }
        let lane = record.lane;
        match (&record.state, decided.reason) {
            (State::Checking(asked), DecisionReason::Ask(number)) if *asked == number => {
                match decided.verdict {
                    Verdict::True(_) if self.stopping || self.queue.is_paused(lane) => {
                        self.transition(id, now, out, |record, now| record.enqueue(WorkClass::Live, now));
                    }
                    Verdict::True(witness) => {
                        record.see(&decided.touches);
                        record.latency.decided(now);
                        let (snapshot, coherent) = (decided.snapshot, decided.coherent);
                        self.checked(id, decided.rule, Basis { snapshot, witness, coherent }, now, out);
                    }
                    Verdict::False | Verdict::Failed(_) => {
                        self.transition(id, now, out, |_, _| QueueAction::Drop)
                    }
                }
            }
            (State::AwaitingOwnEvent { asked, end }, DecisionReason::Ask(number)) if *asked == number => {
                let end = *end;
                self.decided_after_firing(id, end, truth, &decided.touches, now, out);
            }
            (state, reason) => {
                let crawl = reason == DecisionReason::Crawl;
                let touches = &decided.touches;
                let delay = if matches!(state, State::Idle | State::WouldFire) {
                    self.settle_delay(decided.rule)
                } else {
                    None
                };
                self.transition(id, now, out, |record, now| {
                    match (record.decided(truth, touches, crawl, base, now), delay) {
                        (QueueAction::Enqueue(WorkClass::Live), Some(delay)) => {
                            record.wait(delay, Wait::Settle, now)
                        }
                        (next, _) => next,
                    }
                });
            }
        }
    }

    /// What makes an instance due that may be slowed down.
    fn remember_cause(&mut self, decided: &Decided) {
        let Decided { rule, binding, touches, .. } = decided;
        let compiled = &self.rules[rule.index()];
        let keys: Vec<(String, Revision)> =
            touches.iter().map(|(slot, at)| (compiled.key(*slot, binding), *at)).collect();
        self.rates.caused(*rule, binding, keys.iter().map(|(key, at)| (key.as_str(), *at)));
    }

    /// An instance without a record was decided.
    fn found(&mut self, decided: Decided, now: Instant, out: &mut Vec<Action>) {
        let Decided { instance, rule, binding, verdict, snapshot, coherent, touches, reason, orphaned } =
            decided;
        let Verdict::True(witness) = verdict else {
            if orphaned {
                out.push(Action::Release(instance));
            }
            return;
        };
        // A change is live work even if a crawl found it.
        let crawled = reason == DecisionReason::Crawl && touches.is_empty();
        let class = if crawled { WorkClass::Crawl } else { WorkClass::Live };
        let lane = self.lanes.of(rule);
        let mut record = Box::new(InstanceRecord::new((rule, lane), binding, class, now));
        record.orphaned = orphaned;
        record.see(&touches);
        if self.owners.is_some() {
            record.see_all(&snapshot);
        }
        // An instance that was just decided, and can go on at once, needs no second decision.
        let dry = self.controls[lane].dry_run;
        let at_once = !self.stopping && !dry && self.queue.is_empty(lane) && self.queue.has_slot(lane, now);
        let next = match self.settle_delay(rule).filter(|_| !crawled) {
            Some(delay) => record.wait(delay, Wait::Settle, now),
            None if at_once => QueueAction::GoOn,
            None => QueueAction::Enqueue(class),
        };
        self.admit(instance, record, next, now, out);
        let goes_on = next == QueueAction::GoOn
            && self.records.get(&instance).is_some_and(|record| record.state.is_queued());
        if goes_on && self.acquire_local(instance, now, out) {
            self.stats.event(WorkqueueEvent::Taken(lane, Duration::ZERO));
            self.checked(instance, rule, Basis { snapshot, witness, coherent }, now, out);
        }
    }

    /// An instance that this decision made due has been due since its change was received.
    pub(crate) fn came(&mut self, id: InstanceId, came: Timestamps, now: Instant) {
        if let Some(record) = self.records.get_mut(&id)
            && record.latency.due == now
        {
            record.latency.came(came, now);
        }
    }

    /// True, and to have a slot: on to the lock.
    fn checked(
        &mut self,
        id: InstanceId,
        rule: RuleIndex,
        basis: Basis,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        let dry = self.controls[self.lanes.of(rule)].dry_run;
        let mut optimistic = self.rules[rule.index()].options().optimistic;
        let mut supersedes_backoff = None;
        self.transition(id, now, out, |record, _| {
            record.give(&basis.snapshot);
            supersedes_backoff = record.supersedes_backoff();
            optimistic &= !record.needs_lock();
            record.state = match (dry, optimistic) {
                // This is as far as a dry run goes.
                (true, _) => State::WouldFire,
                (false, true) => {
                    // As when a lock is won: what is due later is its owner's again.
                    record.insists = false;
                    State::Running
                }
                (false, false) => State::Locking(AnswerState::Awaited),
            };
            QueueAction::Stay
        });
        match (dry, optimistic) {
            (true, _) => {}
            (false, true) => out.push(Action::Run { instance: id, basis, supersedes_backoff }),
            (false, false) => out.push(Action::Lock { instance: id, basis, supersedes_backoff }),
        }
    }

    /// Gives free slots to what is queued.
    pub(crate) fn fill(&mut self, now: Instant, out: &mut Vec<Action>) {
        let records = &self.records;
        if self.queue.len() > 2 * self.stats.queued() + VOID {
            self.queue.retain(|entry| is_valid(records, entry));
        }
        self.opens = None;
        if self.stopping {
            return;
        }
        loop {
            self.fill_slots(now, out);
            // It has no use for a lock before its rate lets it start.
            if !self.pass_locks(now, out, |queue, record| {
                record.state.is_queued() && queue.is_throttled(record.lane, now)
            }) {
                break;
            }
        }
        self.help(now, out);
        self.opens = self.queue.opens(now);
    }

    fn fill_slots(&mut self, now: Instant, out: &mut Vec<Action>) {
        loop {
            let records = &self.records;
            let Some(entry) = self.queue.take(now, |entry| is_valid(records, entry)) else { return };
            let id = entry.instance;
            if !self.acquire_local(id, now, out) {
                continue;
            }
            let mut waited = None;
            self.check(id, now, out, |record| waited = Some((record.lane, record.latency.queued(now))));
            if let Some((lane, waited)) = waited {
                self.stats.event(WorkqueueEvent::Taken(lane, waited));
            }
        }
    }

    /// Has it decided again, with a slot.
    fn check(
        &mut self,
        id: InstanceId,
        now: Instant,
        out: &mut Vec<Action>,
        also: impl FnOnce(&mut InstanceRecord),
    ) {
        self.asked = self.asked.next();
        let asked = self.asked;
        self.transition(id, now, out, |record, _| {
            also(record);
            record.state = State::Checking(asked);
            QueueAction::Stay
        });
        out.push(Action::Ask(id, asked));
    }

    /// The attempt to take the lock has ended.
    pub(crate) fn locked(
        &mut self,
        id: InstanceId,
        outcome: &LockOutcome,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        let Some(record) = self.records.get_mut(&id) else { return };
        if !matches!(record.state, State::Locking(_)) {
            return;
        }
        record.latency.locked(now);
        let (rule, lane) = (record.rule, record.lane);
        match outcome {
            LockOutcome::Won { read, .. } => {
                record.won(read.as_ref().map(|read| read.at));
                let controls = &self.controls[lane];
                if controls.paused || controls.dry_run {
                    self.give_up_lock(id, now, out);
                } else {
                    self.transition(id, now, out, |record, _| {
                        record.state = State::Running;
                        QueueAction::Stay
                    });
                }
            }
            LockOutcome::Untrue { mark_gone, .. } => {
                if record.refused_as_untrue(*mark_gone) {
                    self.check(id, now, out, |_| {});
                } else {
                    let base = self.base(rule);
                    self.transition(id, now, out, |record, now| record.trouble(base, now));
                }
            }
            LockOutcome::Held { key, holder, at, .. } => {
                let holder = holder.clone().map(RemoteHolder::Lock);
                let remote = Remote { key: key.as_str().into(), kind: RemoteKind::Lock, at: *at, holder };
                self.hold(id, remote, now, out);
            }
            LockOutcome::Marked(found) => self.hold_marked(id, found, now, out),
            LockOutcome::TooLarge(error) => {
                record.last_error = Some(error.as_str().into());
                self.transition(id, now, out, |record, _| record.too_large());
            }
            LockOutcome::Failed(error) => {
                record.last_error = Some(error.as_str().into());
                let base = self.base(rule);
                self.transition(id, now, out, |record, now| record.trouble(base, now));
            }
        }
    }

    /// Fires an instance now that waits, is idle or was given up. False: it is none of these.
    pub(crate) fn fire_now(&mut self, id: InstanceId, now: Instant, out: &mut Vec<Action>) -> bool {
        let Some(record) = self.records.get(&id).filter(|record| record.is_at_rest()) else { return false };
        if let Some(interval) = &mut self.intervals[record.rule.index()] {
            interval.forget(&record.binding);
        }
        self.rates.forget(record.rule, &record.binding);
        self.transition(id, now, out, |record, now| record.fire_now(now));
        true
    }

    /// Waiting times are over.
    pub(crate) fn tick(&mut self, now: Instant, out: &mut Vec<Action>) {
        while let Some(&(at, id)) = self.timers.first()
            && at <= now
        {
            self.timers.pop_first();
            self.transition(id, now, out, |record, now| record.due(now));
        }
        self.tend_owners(now, out);
    }

    /// How long an instance of the rule that became true waits, if at all.
    fn settle_delay(&mut self, rule: RuleIndex) -> Option<Duration> {
        Some(self.rules[rule.index()].settle().draw(&mut self.rng)).filter(|wait| !wait.is_zero())
    }

    /// Why an instance can't be run now although it has a slot: waits a little.
    pub(crate) fn postpone(&mut self, id: InstanceId, delay: Duration, now: Instant, out: &mut Vec<Action>) {
        self.transition(id, now, out, |record, now| record.wait(delay, Wait::Trouble, now));
    }

    /// What an instance was [postponed](Self::postpone) for is over.
    pub(crate) fn resume(&mut self, id: InstanceId, now: Instant, out: &mut Vec<Action>) {
        let waits = |record: &InstanceRecord| matches!(record.state, State::Waiting(_, Wait::Trouble));
        if self.records.get(&id).is_some_and(|record| waits(record)) {
            self.postpone(id, Duration::ZERO, now, out);
        }
    }

    fn base(&self, rule: RuleIndex) -> Duration {
        self.rules[rule.index()].backoff().base()
    }
}

/// An entry counts while its instance waits at this place.
fn is_valid(records: &HashMap<InstanceId, Box<InstanceRecord>, FixedState>, entry: &QueueEntry) -> bool {
    let waits =
        |record: &InstanceRecord| record.place == entry.place && matches!(record.state, State::Queued(_));
    records.get(&entry.instance).is_some_and(|record| waits(record))
}
