//! The metric handles of an engine and of each of its rules, and how they are recorded.

use super::family::{Family, Labels};
use super::table::*;
use super::workqueue::{WorkqueueDepth, WorkqueueEvent};
use crate::change::Revision;
use crate::compiled::{ByLane, CompiledRule, Lane, Lanes, RuleIndex, lanes};
use crate::inspect::StateKind;
use ::metrics::{Counter, Gauge, Histogram, gauge};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The handles of everything that an engine records. They are made when it starts, and are cheap to clone.
#[derive(Clone)]
pub(crate) struct Meters(Arc<EngineMeters>);

impl std::ops::Deref for Meters {
    type Target = EngineMeters;

    fn deref(&self) -> &EngineMeters {
        &self.0
    }
}

/// The handles of an engine as a whole.
pub(crate) struct EngineMeters {
    /// The lane of each compiled rule. All combinations of one rule share their handles, just as they share
    /// slots.
    lanes: Lanes,
    rules: ByLane<RuleMeters>,
    mirror_keys: Gauge,
    mirror_bytes: Gauge,
    tombstones: Gauge,
    watch_events: Counter,
    watch_position: Gauge,
    watch_lag: Gauge,
    watch_lag_revisions: Gauge,
    reconnects: Counter,
    resyncs: Counter,
    snapshot: Histogram,
    crawl: Histogram,
    crawl_keys: Gauge,
    crawl_failures: Counter,
    drift: Counter,
    requests: Vec<(&'static str, Labels, Counter)>,
    request_duration: Family<Histogram>,
    batch: Histogram,
    renewals: Family<Counter>,
    leases_lost: Counter,
    key_leases: Counter,
    orphans: Counter,
    restarts: Counter,
    members: Gauge,
    members_differing: Gauge,
    health: Family<Gauge>,
}

/// The handles of one rule.
pub(crate) struct RuleMeters {
    trigger: Histogram,
    stages: Family<Histogram>,
    callbacks: Family<Counter>,
    in_flight: Gauge,
    stuck: Gauge,
    ineffective: Counter,
    slowed: Counter,
    taken_over: Counter,
    helped: Counter,
    overdue: Counter,
    locks: Family<Counter>,
    locks_lost: Counter,
    commits: Family<Counter>,
    depth: Gauge,
    adds: Counter,
    queue_duration: Histogram,
    work_duration: Histogram,
    retries: Counter,
    unfinished: Gauge,
    longest_running: Gauge,
    instances: Gauge,
    by_state: Family<Gauge>,
    paused: Gauge,
    throttled: Gauge,
    dry_run: Gauge,
    would_have_fired: Counter,
    failing: Gauge,
    longest_failing: Gauge,
    evaluations: Family<Counter>,
}

impl Meters {
    /// Makes all handles with the recorder that is installed now. `slots` is the number of the engine's
    /// slots.
    pub(crate) fn new(engine: &str, rules: &[CompiledRule], slots: usize) -> Self {
        gauge!(BUILD.name, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        let labels = Labels::engine(engine);
        labels.one::<Gauge>(&ENGINE_SLOTS).set(slots as f64);
        let (lanes, _) = lanes(rules);
        let mut of_lanes: Vec<RuleMeters> = Vec::new();
        for (rule, index) in rules.iter().zip(RuleIndex::all(rules.len())) {
            if lanes.of(index).index() == of_lanes.len() {
                let labels = labels.and("rule", rule.id());
                labels.one::<Gauge>(&SLOTS).set(rule.concurrency() as f64);
                of_lanes.push(RuleMeters::new(&labels));
            }
        }
        let requests = REQUEST_DURATION.values.iter().map(|request| {
            let labels = labels.and("request", request);
            let ok = labels.and("result", "ok").one(&REQUESTS);
            (*request, labels, ok)
        });
        Self(Arc::new(EngineMeters {
            lanes,
            rules: of_lanes.into_iter().collect(),
            mirror_keys: labels.one(&MIRROR_KEYS),
            mirror_bytes: labels.one(&MIRROR_BYTES),
            tombstones: labels.one(&TOMBSTONES),
            watch_events: labels.one(&WATCH_EVENTS),
            watch_position: labels.one(&WATCH_POSITION),
            watch_lag: labels.one(&WATCH_LAG),
            watch_lag_revisions: labels.one(&WATCH_LAG_REVISIONS),
            reconnects: labels.one(&RECONNECTS),
            resyncs: labels.one(&RESYNCS),
            snapshot: labels.one(&SNAPSHOT),
            crawl: labels.one(&CRAWL),
            crawl_keys: labels.one(&CRAWL_KEYS),
            crawl_failures: labels.one(&CRAWL_FAILURES),
            drift: labels.one(&DRIFT),
            requests: requests.collect(),
            request_duration: labels.each(&REQUEST_DURATION),
            batch: labels.one(&BATCH),
            renewals: labels.each(&RENEWALS),
            leases_lost: labels.one(&LEASES_LOST),
            key_leases: labels.one(&KEY_LEASES),
            orphans: labels.one(&ORPHANS),
            restarts: labels.one(&RESTARTS),
            members: labels.one(&MEMBERS),
            members_differing: labels.one(&MEMBERS_DIFFERING),
            health: labels.each(&HEALTH),
        }))
    }
}

impl EngineMeters {
    pub(crate) fn rule(&self, rule: RuleIndex) -> &RuleMeters {
        self.lane(self.lanes.of(rule))
    }

    fn lane(&self, lane: Lane) -> &RuleMeters {
        &self.rules[lane]
    }

    /// Records the number of instances of each compiled rule. Rules past the end of `counts` have none.
    pub(crate) fn instances(&self, counts: &[usize]) {
        for (lane, meters) in self.rules.iter() {
            let of_rules = self.lanes.rules_of(lane).filter_map(|rule| counts.get(rule.index()));
            meters.instances.set(of_rules.sum::<usize>() as f64);
        }
    }

    /// Records the current load of each lane.
    pub(crate) fn workqueue_depths(&self, depths: &ByLane<WorkqueueDepth>, now: Instant) {
        for (lane, meters) in self.rules.iter() {
            meters.workqueue_depth(&depths[lane], now);
        }
    }

    pub(crate) fn workqueue_event(&self, event: WorkqueueEvent) {
        match event {
            WorkqueueEvent::Added(lane) => self.lane(lane).adds.increment(1),
            WorkqueueEvent::PutOff(lane) => self.lane(lane).retries.increment(1),
            WorkqueueEvent::Taken(lane, waited) => self.lane(lane).queue_duration.record(waited),
            WorkqueueEvent::Worked(lane, took) => self.lane(lane).work_duration.record(took),
            WorkqueueEvent::WouldHaveFired(lane) => self.lane(lane).would_have_fired.increment(1),
            WorkqueueEvent::Ineffective(lane) => self.lane(lane).ineffective.increment(1),
            WorkqueueEvent::Slowed(lane) => self.lane(lane).slowed.increment(1),
            WorkqueueEvent::TakenOver(lane) => self.lane(lane).taken_over.increment(1),
            WorkqueueEvent::Helped(lane) => self.lane(lane).helped.increment(1),
            WorkqueueEvent::Overdue(lane) => self.lane(lane).overdue.increment(1),
        }
    }

    pub(crate) fn mirror(&self, keys: usize, bytes: usize, tombstones: usize) {
        self.mirror_keys.set(keys as f64);
        self.mirror_bytes.set(bytes as f64);
        self.tombstones.set(tombstones as f64);
    }

    pub(crate) fn watch_events(&self, changes: usize) {
        self.watch_events.increment(changes as u64);
    }

    /// Records the watch that is furthest behind: the latest revision it received, and how far it is behind
    /// in time and in revisions.
    pub(crate) fn watch(&self, position: Revision, lag: Duration, revisions: u64) {
        self.watch_position.set(position.get() as f64);
        self.watch_lag.set(lag.as_secs_f64());
        self.watch_lag_revisions.set(revisions as f64);
    }

    pub(crate) fn stream_broke(&self) {
        self.reconnects.increment(1);
    }

    pub(crate) fn resync(&self) {
        self.resyncs.increment(1);
    }

    pub(crate) fn snapshot(&self, took: Duration) {
        self.snapshot.record(took);
    }

    pub(crate) fn crawl(&self, took: Duration, keys: usize, drift: u64) {
        self.crawl.record(took);
        self.crawl_keys.set(keys as f64);
        self.drift.increment(drift);
    }

    pub(crate) fn crawl_failed(&self) {
        self.crawl_failures.increment(1);
    }

    pub(crate) fn etcd_request(&self, request: &'static str, failure: Option<&'static str>, took: Duration) {
        self.request_duration.record(request, took);
        let Some((_, labels, ok)) = self.requests.iter().find(|(known, ..)| *known == request) else {
            return;
        };
        let Some(result) = failure else { return ok.increment(1) };
        // Failures are rare, so this handle is made when it is needed. Otherwise there would be dozens of
        // series that stay at zero.
        labels.and("result", result).one::<Counter>(&REQUESTS).increment(1);
    }

    pub(crate) fn batch(&self, entries: usize) {
        self.batch.record(entries as f64);
    }

    pub(crate) fn lease_renewal(&self, ok: bool) {
        self.renewals.count(if ok { "ok" } else { "failed" });
    }

    pub(crate) fn lease_lost(&self) {
        self.leases_lost.increment(1);
    }

    pub(crate) fn key_lease(&self) {
        self.key_leases.increment(1);
    }

    pub(crate) fn orphan(&self) {
        self.orphans.increment(1);
    }

    /// The engines that are alive as this one sees it, and those of them whose rules differ from its own.
    pub(crate) fn fleet(&self, members: usize, differing: usize) {
        self.members.set(members as f64);
        self.members_differing.set(differing as f64);
    }

    pub(crate) fn restart(&self) {
        self.restarts.increment(1);
    }

    /// Records for each state and reason whether it holds now.
    pub(crate) fn health(&self, names: impl Iterator<Item = (&'static str, bool)>) {
        for (name, holds) in names {
            self.health.set(name, if holds { 1.0 } else { 0.0 });
        }
    }

    /// Sets the gauges of memory to zero when the engine has ended. Callbacks that it left behind still
    /// count.
    pub(crate) fn engine_ended(&self) {
        let rules = &self.rules;
        rules.iter().for_each(|(_, rule)| rule.workqueue_depth(&WorkqueueDepth::default(), Instant::now()));
        rules.iter().for_each(|(_, rule)| rule.instances.set(0.0));
        for gauge in [
            &self.mirror_keys,
            &self.mirror_bytes,
            &self.tombstones,
            &self.watch_lag,
            &self.watch_lag_revisions,
            &self.members,
            &self.members_differing,
        ] {
            gauge.set(0.0);
        }
    }
}

impl RuleMeters {
    fn new(labels: &Labels) -> Self {
        Self {
            trigger: labels.one(&TRIGGER),
            stages: labels.each(&STAGES),
            callbacks: labels.each(&CALLBACKS),
            in_flight: labels.one(&IN_FLIGHT),
            stuck: labels.one(&STUCK),
            ineffective: labels.one(&INEFFECTIVE),
            slowed: labels.one(&SLOWED),
            taken_over: labels.one(&TAKEN_OVER),
            helped: labels.one(&HELPED),
            overdue: labels.one(&OVERDUE),
            locks: labels.each(&LOCKS),
            locks_lost: labels.one(&LOCKS_LOST),
            commits: labels.each(&COMMITS),
            depth: labels.one(&DEPTH),
            adds: labels.one(&ADDS),
            queue_duration: labels.one(&QUEUE_DURATION),
            work_duration: labels.one(&WORK_DURATION),
            retries: labels.one(&RETRIES),
            unfinished: labels.one(&UNFINISHED),
            longest_running: labels.one(&LONGEST_RUNNING),
            instances: labels.one(&INSTANCES),
            by_state: labels.each(&INSTANCES_BY_STATE),
            paused: labels.one(&PAUSED),
            throttled: labels.one(&THROTTLED),
            dry_run: labels.one(&DRY_RUN),
            would_have_fired: labels.one(&WOULD_HAVE_FIRED),
            failing: labels.one(&FAILING),
            longest_failing: labels.one(&LONGEST_FAILING),
            evaluations: labels.each(&EVALUATIONS),
        }
    }

    fn workqueue_depth(&self, depth: &WorkqueueDepth, now: Instant) {
        let states = &depth.states;
        self.depth.set(states.get(StateKind::Queued) as f64);
        for (kind, count) in states.iter().filter(|(kind, _)| *kind != StateKind::Untrue) {
            self.by_state.set(kind.name(), count as f64);
        }
        self.paused.set(if depth.paused { 1.0 } else { 0.0 });
        self.dry_run.set(if depth.dry_run { 1.0 } else { 0.0 });
        self.throttled.set(if depth.throttled { 1.0 } else { 0.0 });
        self.unfinished.set(depth.working.as_secs_f64());
        self.longest_running.set(age(depth.longest_working, now));
        self.failing.set(depth.failing as f64);
        self.longest_failing.set(age(depth.longest_failing, now));
    }

    /// The callback begins to run.
    pub(crate) fn started(
        &self,
        since_due: Duration,
        stages: impl Iterator<Item = (&'static str, Duration)>,
    ) {
        self.in_flight.increment(1.0);
        self.trigger.record(since_due);
        for (stage, took) in stages {
            self.stages.record(stage, took);
        }
    }

    /// A callback that had begun has ended.
    pub(crate) fn ran(&self, took: Duration) {
        self.in_flight.decrement(1.0);
        self.stages.record("callback", took);
    }

    pub(crate) fn finished(&self, outcome: &'static str) {
        self.callbacks.count(outcome);
    }

    pub(crate) fn locked(&self, result: &'static str) {
        self.locks.count(result);
    }

    pub(crate) fn lock_lost(&self) {
        self.locks_lost.increment(1);
    }

    pub(crate) fn ended(&self, result: &'static str, took: Duration) {
        self.commits.count(result);
        self.stages.record("commit", took);
    }

    pub(crate) fn stuck(&self, change: f64) {
        self.stuck.increment(change);
    }

    pub(crate) fn evaluated(&self, result: &'static str) {
        self.evaluations.count(result);
    }
}

fn age(since: Option<Instant>, now: Instant) -> f64 {
    since.map_or(0.0, |since| now.saturating_duration_since(since).as_secs_f64())
}
