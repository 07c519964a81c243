//! All instances that are true or busy, and what is to be done with them next. No I/O, no clock:
//! the [actor](super::actor) tells what happened and carries out the [`Action`]s.

mod controls;
mod ending;
mod locks;
mod remote;
pub(crate) mod status;
mod transition;

use super::interval::Interval;
use super::messages::{Action, Closing, ClosingOutcome, Finish, FoundMark, Hold, LockOutcome};
use super::record::{End, InstanceRecord, KnownMark, Next, Own, RemoteHolder, State, Tried, Wait, WorkClass};
use super::slot_queue::{QueueEntry, SlotQueue};
use super::stats::WorkqueueStats;
use crate::change::{Revision, Snapshot};
use crate::compiled::{Brake, CompiledRule, lanes};
use crate::condition::Witness;
use crate::evaluate::{Decided, Verdict};
use crate::firing::Then;
use crate::index::Timestamps;
use crate::index::{InstanceId, Reason, Touch};
use crate::inspect::{InstanceState, StateCounts, StateKind};
use crate::metrics::{WorkqueueDepth, WorkqueueEvent};
use crate::time::LONGEST;
use foldhash::fast::FixedState;
use rand::RngExt;
use rand::rngs::StdRng;
use remote::ReleaseWatch;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long after a release another engine's effects may take to arrive by the watch.
const RELEASE_GRACE: Duration = Duration::from_millis(5);

/// Times in a row that a lock may be refused because the condition does not hold as it was seen,
/// before the instance waits a little: keys that change all the time must not keep a slot.
const RECHECKS: u8 = 8;

/// A callback that asks to run again sooner than this would only heat the room.
const RETRY_AFTER_MIN: Duration = Duration::from_millis(10);

/// Entries of the queue that have become void, beyond as many as count, before they are cleared out.
const VOID: usize = 64;

/// Releases remembered, so that one which overtook the losing answer wakes the loser at once.
const RELEASES: usize = 4096;

type Map<K, V> = HashMap<K, V, FixedState>;

pub(crate) struct WorkQueue {
    rules: Arc<[CompiledRule]>,
    /// By number of a rule: its lane in the queue.
    lanes: Box<[u32]>,
    /// In boxes, since there may be many at once: a map that grows must not move them all.
    records: Map<InstanceId, Box<InstanceRecord>>,
    /// The places in the queue, or among those who wait for a lock, that count.
    places: Map<InstanceId, u64>,
    queue: SlotQueue,
    timers: BTreeSet<(Instant, InstanceId)>,
    /// Locks that several instances of this engine may want: who has each, and who waits.
    locks: Map<String, (InstanceId, BTreeMap<u64, InstanceId>)>,
    /// Keys in etcd whose deletion instances wait for: those that are held, or given up by others.
    held: Map<Arc<str>, BTreeSet<InstanceId>>,
    release_watch: ReleaseWatch,
    /// Those that were handed their lock within this engine while they wait for a slot.
    handed: BTreeSet<InstanceId>,
    releases: Map<String, Revision>,
    /// Oldest first; a key that was deleted again counts at its last place.
    release_order: VecDeque<(String, Revision)>,
    asked: u64,
    stopping: bool,
    /// When a rate lets something start next.
    opens: Option<Instant>,
    /// By lane: what holds it back.
    brakes: Vec<Brake>,
    /// By number of a rule: its firings, if instances are to rest between them.
    intervals: Vec<Option<Interval>>,
    /// Somebody listens: changes of states are told.
    observed: bool,
    stats: WorkqueueStats,
    /// By lane: true instances by state, callbacks started, and those that a dry run kept from it.
    counts: Vec<StateCounts>,
    fired: Vec<u64>,
    would_have_fired: Vec<u64>,
    rng: StdRng,
}

impl WorkQueue {
    pub(crate) fn new(
        rules: Arc<[CompiledRule]>,
        limit: usize,
        starvation_limit: Duration,
        rng: StdRng,
        hasher: FixedState,
    ) -> Self {
        let (lanes, limits) = lanes(&rules);
        let count = limits.len();
        let queue = SlotQueue::new(limit, limits, starvation_limit);
        Self {
            lanes,
            records: HashMap::with_hasher(hasher.clone()),
            places: HashMap::with_hasher(hasher.clone()),
            queue,
            timers: BTreeSet::new(),
            locks: HashMap::with_hasher(hasher.clone()),
            held: HashMap::with_hasher(hasher.clone()),
            release_watch: ReleaseWatch::default(),
            handed: BTreeSet::new(),
            releases: HashMap::with_hasher(hasher.clone()),
            release_order: VecDeque::new(),
            asked: 0,
            stopping: false,
            opens: None,
            brakes: vec![Brake::default(); count],
            intervals: rules.iter().map(|_| None).collect(),
            observed: false,
            stats: WorkqueueStats::new(count, hasher),
            counts: vec![StateCounts::default(); count],
            fired: vec![0; count],
            would_have_fired: vec![0; count],
            rules,
            rng,
        }
    }

    pub(crate) fn record(&self, id: InstanceId) -> Option<&InstanceRecord> {
        self.records.get(&id).map(|record| &**record)
    }

    pub(crate) fn running(&self) -> usize {
        self.queue.running()
    }

    /// What there is now, by lane.
    pub(crate) fn depths(&self, now: Instant) -> Vec<WorkqueueDepth> {
        let mut depths = self.stats.depths(now);
        for (lane, (load, counts)) in (0..).zip(depths.iter_mut().zip(&self.counts)) {
            load.states = *counts;
            let brake = &self.brakes[lane as usize];
            (load.paused, load.dry_run) = (brake.paused, brake.dry_run);
            load.throttled = counts.get(StateKind::Queued) > 0 && self.queue.is_throttled(lane, now);
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
        self.timers.first().map(|(at, _)| *at).into_iter().chain(self.opens).min()
    }

    /// An instance was decided.
    pub(crate) fn decided(&mut self, decided: Decided, now: Instant, out: &mut Vec<Action>) {
        let id = decided.instance;
        let base = self.base(decided.rule);
        let truth = matches!(decided.verdict, Verdict::True(_));
        let Some(record) = self.records.get_mut(&id) else {
            return self.found(decided, now, out);
        };
        record.orphaned = decided.orphaned;
        if let Verdict::Failed(reason) = &decided.verdict {
            record.last_error = Some(reason.as_str().into());
        }
        match (record.state, decided.reason) {
            (State::Checking(asked), Reason::Ask(number)) if asked == number => match decided.verdict {
                Verdict::True(_)
                    if self.stopping || self.queue.is_paused(self.lanes[decided.rule as usize]) =>
                {
                    self.step(id, now, out, |record, now| record.enqueue(WorkClass::Live, now));
                }
                Verdict::True(witness) => {
                    record.see(&decided.touches);
                    record.latency.decided(now);
                    self.checked(id, decided.snapshot, witness, now, out);
                }
                Verdict::False | Verdict::Failed(_) => self.step(id, now, out, |_, _| Next::Drop),
            },
            (State::Settling(asked), Reason::Ask(number)) if asked == number => {
                self.settle_down(id, truth, &decided.touches, now, out);
            }
            (_, reason) => {
                let crawl = reason == Reason::Crawl;
                let touches = &decided.touches;
                let settle = if matches!(record.state, State::Idle | State::WouldFire) {
                    self.settle(decided.rule)
                } else {
                    None
                };
                self.step(id, now, out, |record, now| {
                    match (record.decided(truth, touches, crawl, base, now), settle) {
                        (Next::Enqueue(WorkClass::Live), Some(delay)) => {
                            record.wait(delay, Wait::Settle, now)
                        }
                        (next, _) => next,
                    }
                });
            }
        }
    }

    /// An instance without a record was decided.
    fn found(&mut self, decided: Decided, now: Instant, out: &mut Vec<Action>) {
        let Decided { instance, rule, binding, verdict, snapshot, touches, reason, orphaned } = decided;
        let Verdict::True(witness) = verdict else {
            if orphaned {
                out.push(Action::Release(instance));
            }
            return;
        };
        // A change that a crawl came upon is live all the same.
        let crawled = reason == Reason::Crawl && touches.is_empty();
        let class = if crawled { WorkClass::Crawl } else { WorkClass::Live };
        let mut record = Box::new(InstanceRecord::new(rule, binding, class, orphaned, now));
        record.see(&touches);
        let lane = self.lane(rule);
        let settle = self.settle(rule).filter(|_| !crawled);
        let interval = &mut self.intervals[rule as usize];
        let wait = match settle {
            Some(delay) => Some(record.wait(delay, Wait::Settle, now)),
            None => {
                let until = interval.as_mut().and_then(|interval| interval.until(&record.binding, now));
                until.map(|until| record.rest(until))
            }
        };
        if let Some(Next::WakeAt(at)) = wait {
            *self.counts[lane as usize].at(record.state.kind()) += 1;
            self.timers.insert((at, instance));
            self.records.insert(instance, record);
            return self.tell(instance, now, out);
        }
        // What was just decided needs no second look if it can go on at once.
        let dry = self.brakes[lane as usize].dry_run;
        let at_once = !self.stopping && !dry && self.queue.is_empty(lane) && self.queue.has_slot(lane, now);
        *self.counts[lane as usize].at(record.state.kind()) += 1;
        self.stats.note(WorkqueueEvent::Added(lane));
        self.records.insert(instance, record);
        self.tell(instance, now, out);
        if at_once && self.reserve(instance, now, out) {
            self.queue.occupy(lane);
            self.stats.note(WorkqueueEvent::Taken(lane, Duration::ZERO));
            self.checked(instance, snapshot, witness, now, out);
        } else if !at_once {
            self.places.insert(instance, self.queue.push(lane, class, instance, now));
        }
    }

    /// What this decision has just made due is so since its change was received, not since it was decided.
    pub(crate) fn came(&mut self, id: InstanceId, came: Timestamps, now: Instant) {
        if let Some(record) = self.records.get_mut(&id)
            && record.latency.due == now
        {
            record.latency.came(came, now);
        }
    }

    /// True, with a slot: on to the lock.
    fn checked(
        &mut self,
        id: InstanceId,
        snapshot: Snapshot,
        witness: Witness,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        let Some(record) = self.records.get_mut(&id) else { return };
        record.give(&snapshot);
        if self.brakes[self.lanes[record.rule as usize] as usize].dry_run {
            return self.step(id, now, out, |record, _| record.would_fire());
        }
        let supersedes_backoff = record.supersedes_backoff();
        if self.rules[record.rule as usize].options().optimistic {
            self.enter(id, State::Running, now);
            out.push(Action::Run { instance: id, snapshot, supersedes_backoff });
        } else {
            self.enter(id, State::Locking, now);
            out.push(Action::Lock { instance: id, snapshot, witness, supersedes_backoff });
        }
    }

    /// Gives free slots to what is queued.
    pub(crate) fn fill(&mut self, now: Instant, out: &mut Vec<Action>) {
        if self.queue.len() > 2 * self.places.len() + VOID {
            let places = &self.places;
            self.queue.retain(|entry| places.get(&entry.instance) == Some(&entry.number));
        }
        self.opens = None;
        if self.stopping {
            return;
        }
        loop {
            self.fill_slots(now, out);
            // Until its rate lets it start, a lock is of no use to it.
            if !self.pass_lock(now, |this, lane| this.queue.is_throttled(lane, now)) {
                break;
            }
        }
        self.opens = self.queue.opens(now);
    }

    fn fill_slots(&mut self, now: Instant, out: &mut Vec<Action>) {
        loop {
            let places = &self.places;
            let valid = |entry: &QueueEntry| places.get(&entry.instance) == Some(&entry.number);
            let Some((lane, entry)) = self.queue.take(now, valid) else { return };
            let id = entry.instance;
            self.places.remove(&id);
            if !self.reserve(id, now, out) {
                self.queue.withdraw(lane);
                self.queue.vacate(lane);
                continue;
            }
            if let Some(record) = self.records.get_mut(&id) {
                let waited = record.latency.queued(now);
                self.stats.note(WorkqueueEvent::Taken(lane, waited));
            }
            self.check(id, now, out);
        }
    }

    fn check(&mut self, id: InstanceId, now: Instant, out: &mut Vec<Action>) {
        self.asked += 1;
        if self.enter(id, State::Checking(self.asked), now) {
            out.push(Action::Ask(id, self.asked));
        }
    }

    /// The attempt to take the lock has ended.
    pub(crate) fn locked(
        &mut self,
        id: InstanceId,
        outcome: LockOutcome,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        let Some(record) = self.records.get_mut(&id) else { return };
        if record.state != State::Locking {
            return;
        }
        let base = self.rules[record.rule as usize].options().backoff.base();
        record.latency.locked(now);
        match outcome {
            LockOutcome::Won => {
                record.mark = None;
                record.troubles = 0;
                record.rechecks = 0;
                let brake = self.brakes[self.lanes[record.rule as usize] as usize];
                if brake.paused || brake.dry_run {
                    self.give_up_lock(id, now, out);
                } else {
                    self.enter(id, State::Running, now);
                }
            }
            LockOutcome::Untrue { mark_gone } => {
                record.rechecks += 1;
                record.mark.take_if(|_| mark_gone);
                if record.rechecks < RECHECKS {
                    self.check(id, now, out);
                } else {
                    record.rechecks = 0;
                    self.step(id, now, out, |record, now| record.trouble(base, now));
                }
            }
            LockOutcome::Held { key, holder, at } => self.hold(id, key, holder, at, now, out),
            LockOutcome::Marked(found) => self.hold_marked(id, found, now, out),
            LockOutcome::Failed(error) => {
                record.last_error = Some(error.into());
                self.step(id, now, out, |record, now| record.trouble(base, now));
            }
        }
    }

    /// Fires an instance now that waits, is idle or was given up. False: it is none of these.
    pub(crate) fn fire_now(&mut self, id: InstanceId, now: Instant, out: &mut Vec<Action>) -> bool {
        let Some(record) = self.records.get(&id).filter(|record| record.is_at_rest()) else { return false };
        if let Some(interval) = &mut self.intervals[record.rule as usize] {
            interval.forget(&record.binding);
        }
        self.step(id, now, out, |record, now| record.fire_now(now));
        true
    }

    /// Waiting times are over.
    pub(crate) fn tick(&mut self, now: Instant, out: &mut Vec<Action>) {
        while let Some(&(at, id)) = self.timers.first()
            && at <= now
        {
            self.timers.pop_first();
            self.step(id, now, out, |record, now| record.due(now));
        }
    }

    /// How long an instance of the rule that became true waits, if at all.
    fn settle(&mut self, rule: u32) -> Option<Duration> {
        let (delay, jitter) = self.rules[rule as usize].settle();
        let longer = if jitter.is_zero() { jitter } else { jitter.mul_f64(self.rng.random_range(0.0..=1.0)) };
        Some(delay + longer).filter(|wait| !wait.is_zero())
    }

    fn lane(&self, rule: u32) -> u32 {
        self.lanes[rule as usize]
    }

    fn base(&self, rule: u32) -> Duration {
        self.rules[rule as usize].options().backoff.base()
    }
}
