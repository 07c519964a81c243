//! Tests of this module.

mod controls;
mod firing;
mod owners;
mod settle;
mod status;
mod transitions;
mod work_queue;
mod world;

use super::messages::{Action, Basis};
use super::outcome::{CommitOutcome, LockOutcome};
use super::record::{AnswerState, InstanceRecord, State};
use super::slot_queue::WorkClass;
use super::stats::LaneStats;
use super::work_queue::WorkQueue;
use crate::cancellation::Cancellation;
use crate::change::{Revision, Seen, Snapshot};
use crate::compiled::{Backoff, Binding, CompiledRule, Lane, Limits, RateLimit, RuleIndex};
use crate::condition::{Slot, key};
use crate::etcd::LeaseId;
use crate::evaluate::{Decided, Verdict};
use crate::firing::Fence;
use crate::index::{DecisionReason, InstanceId, QuestionId, Touch};
use crate::lock::keys::Keys;
use crate::lock::lease_manager::LockLease;
use crate::lock::txn::{FoundMark, InstanceMark};
use crate::rule::Rule;
use crate::trace::reveal::Reveal;
use foldhash::fast::FixedState;
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The first delay after a failure, in the rules of these tests.
const BASE: Duration = Duration::from_millis(100);

/// The first rule, and its lane.
const RULE: RuleIndex = RuleIndex::new(0);
const LANE: Lane = Lane::new(0);

const LOCKING: State = State::Locking(AnswerState::Awaited);

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn backoff() -> Backoff {
    Backoff::new(BASE, Duration::from_secs(60))
}

/// A rule over two keys, `/a/:id` and `/b/:id`: slots 0 and 1.
fn rule(id: &str) -> Rule {
    Rule::new(id)
        .when(key("/a/:id").exists() & key("/b/:id").absent())
        .backoff(backoff())
        .run(|_| async { Ok::<(), crate::Error>(()) })
}

pub(crate) fn limits() -> Limits {
    Limits {
        max_txn_ops: 128,
        lock_ttl: Duration::from_secs(10),
        concurrency: 8,
        settle: Default::default(),
        instance_rate: RateLimit::OF_INSTANCES,
        defaults: Default::default(),
    }
}

fn compiled(rule: Rule) -> CompiledRule {
    CompiledRule::alone(rule, limits()).unwrap_or_else(|mistakes| panic!("{mistakes:?}"))
}

fn work_queue_of(rules: impl IntoIterator<Item = Rule>, limit: usize, seed: u64) -> WorkQueue {
    let rules: Arc<[CompiledRule]> = rules.into_iter().map(compiled).collect();
    let rng = StdRng::seed_from_u64(seed);
    WorkQueue::new(rules, limit, Duration::from_secs(10), rng, FixedState::with_seed(seed))
}

fn instance(index: u32) -> InstanceId {
    InstanceId { index, generation: 1 }
}

fn binding(value: &str) -> Binding {
    Binding::new([value].into_iter())
}

/// Keys at these revisions; 0 for one that is absent.
fn snapshot(revisions: &[i64]) -> Snapshot {
    let seen = |mod_revision| Seen { value: "".into(), mod_revision: Revision::new(mod_revision) };
    revisions.iter().map(|revision| (*revision > 0).then(|| seen(*revision))).collect()
}

const fn touch(slot: u8, revision: i64) -> Touch {
    (Slot(slot), Revision::new(revision))
}

/// A decision on an instance of rule 0.
fn decision(id: InstanceId, truth: bool, keys: &[i64], touches: &[Touch], reason: DecisionReason) -> Decided {
    Decided {
        instance: id,
        rule: RULE,
        binding: binding(&id.index.to_string()),
        verdict: if truth { Verdict::True(Default::default()) } else { Verdict::False },
        snapshot: snapshot(keys),
        coherent: true,
        touches: touches.into(),
        reason,
        orphaned: false,
    }
}

/// Another engine's mark, as a transaction found it.
fn found_mark(key: String, revision: i64, (attempt, gave_up): (u32, bool), at: i64) -> FoundMark {
    let mark = InstanceMark {
        engine: "other".into(),
        attempt,
        until: 0,
        gave_up,
        error: "theirs".into(),
        reveal: Reveal::Nothing,
        name: None,
    };
    FoundMark { key, revision: Revision::new(revision), mark: Some(mark), at: Revision::new(at) }
}

/// A record of an instance of the first rule.
fn record(now: Instant) -> InstanceRecord {
    InstanceRecord::new((RULE, LANE), binding("x"), WorkClass::Live, now)
}

fn won() -> LockOutcome {
    let lease = LockLease { id: LeaseId::new(1), lost: Cancellation::new(), grace: Duration::ZERO };
    LockOutcome::Won {
        fence: Fence { create_revision: Revision::new(1) },
        lease,
        keys: Keys::default(),
        read: None,
    }
}

/// Another engine's lock was found at this revision.
fn held_by_lock(key: &str, at: i64) -> LockOutcome {
    LockOutcome::Held {
        key: key.into(),
        create_revision: Revision::new(1),
        holder: None,
        ours: false,
        at: Revision::new(at),
    }
}

fn untrue(mark_gone: bool) -> LockOutcome {
    LockOutcome::Untrue { changes: Vec::new(), mark_gone }
}

fn failed_to_lock() -> LockOutcome {
    LockOutcome::Failed("no".into())
}

/// A commit that changed these slots.
fn committed(revision: i64, slots: &[u8], marked: bool) -> CommitOutcome {
    CommitOutcome::Committed {
        revision: Revision::new(revision),
        slots: slots.iter().map(|slot| Slot(*slot)).collect(),
        marked,
        changes: Vec::new(),
    }
}

/// Drives a [`WorkQueue`] by hand: collects what it wants, and moves the time.
struct Bench {
    work: WorkQueue,
    now: Instant,
    actions: Vec<Action>,
}

impl Bench {
    fn new(rules: impl IntoIterator<Item = Rule>, limit: usize) -> Self {
        Self { work: work_queue_of(rules, limit, 1), now: Instant::now(), actions: Vec::new() }
    }

    /// Something happens, and then free slots are given away: one turn of the actor.
    fn turn<R>(
        &mut self,
        happened: impl FnOnce(&mut WorkQueue, Instant, &mut Vec<Action>) -> R,
    ) -> &mut Self {
        happened(&mut self.work, self.now, &mut self.actions);
        self.work.fill(self.now, &mut self.actions);
        self
    }

    fn decide(&mut self, id: u32, truth: bool, keys: &[i64], touches: &[Touch]) -> &mut Self {
        let decided = decision(instance(id), truth, keys, touches, DecisionReason::Change);
        self.turn(|work, now, out| work.decided(decided, now, out))
    }

    fn crawl(&mut self, id: u32, keys: &[i64]) -> &mut Self {
        let decided = decision(instance(id), true, keys, &[], DecisionReason::Crawl);
        self.turn(|work, now, out| work.decided(decided, now, out))
    }

    /// Answers the question that is open.
    fn answer(&mut self, id: u32, truth: bool, keys: &[i64]) -> &mut Self {
        let asked = self.actions.iter().rposition(|a| matches!(a, Action::Ask(of, _) if *of == instance(id)));
        let Some(at) = asked else { panic!("nothing asked of {id}: {:?}", self.actions) };
        let Action::Ask(_, number) = self.actions.remove(at) else { unreachable!("just matched") };
        let decided = decision(instance(id), truth, keys, &[], DecisionReason::Ask(number));
        self.turn(|work, now, out| work.decided(decided, now, out))
    }

    fn locked(&mut self, id: u32, outcome: LockOutcome) -> &mut Self {
        self.turn(|work, now, out| work.locked(instance(id), &outcome, now, out))
    }

    fn released(&mut self, key: &str, revision: i64) -> &mut Self {
        self.turn(|work, now, out| work.released(key, Revision::new(revision), now, out))
    }

    fn advance(&mut self, by: Duration) -> &mut Self {
        self.now += by;
        self.turn(|work, now, out| work.tick(now, out))
    }

    fn state(&self, id: u32) -> Option<State> {
        self.work.record(instance(id)).map(|record| record.state.clone())
    }

    /// What is counted of a lane.
    fn lane(&self, lane: usize) -> LaneStats {
        self.work.lane_statuses()[Lane::new(lane)].stats
    }

    /// What was wanted since the last call.
    fn wanted(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }
}
