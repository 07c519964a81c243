//! Collects the health that the parts of an engine report, publishes it, and logs its changes.

use crate::compiled::RuleIndex;
use crate::etcd::Failure;
use crate::health::{Health, Problem, Reason};
use crate::metrics::Meters;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// The least time between two log lines about health. The latest state is always logged in the end.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// Shared by all parts of one engine.
#[derive(Clone)]
pub(crate) struct Status(Arc<Shared>);

struct Shared {
    /// All that the first snapshots made true has been decided.
    snapshots_decided: AtomicBool,
    engine: Arc<str>,
    meters: Meters,
    state: Mutex<State>,
    health: watch::Sender<Health>,
}

/// The keys of the engine itself. While it can't write them, nothing fires.
pub(crate) const OWN_KEYS: &str = "the engine's own keys";

/// The part that sends transactions. While it can't, nothing fires.
pub(crate) const REQUESTS: &str = "requests";

#[derive(Default)]
struct State {
    index_ready: bool,
    /// It is not known yet whether the engine may write its own keys.
    own_keys_awaited: bool,
    /// The engine is about to begin again, and callbacks may finish before.
    draining: bool,
    end: Option<Health>,
    problems: BTreeMap<String, Problem>,
    /// The rules whose keys are all watched.
    followed: BTreeSet<RuleIndex>,
    /// The rules with keys that etcd refuses to let be read.
    unreadable: BTreeSet<RuleIndex>,
    /// The rules whose locks etcd refuses for lack of permission.
    refused: BTreeSet<RuleIndex>,
}

impl State {
    fn health(&self) -> Health {
        let problems = || self.problems.values().cloned().collect();
        match &self.end {
            Some(end) => end.clone(),
            None if !self.index_ready || self.own_keys_awaited || self.draining => {
                Health::Starting { problems: problems() }
            }
            None if self.problems.is_empty() => Health::Ready,
            None => Health::Degraded { problems: problems(), can_fire: self.can_fire() },
        }
    }

    /// Whether some rule can fire.
    fn can_fire(&self) -> bool {
        let stops_all = |problem: &Problem| {
            [REQUESTS, OWN_KEYS].contains(&&*problem.part) || problem.reason == Reason::LeaseLost
        };
        !self.problems.values().any(stops_all) && self.followed.difference(&self.refused).next().is_some()
    }
}

fn record(meters: &Meters, health: &Health) {
    let states = Health::NAMES.iter().map(|state| (*state, *state == health.name()));
    let reasons = Reason::ALL.iter().map(|reason| (reason.name(), health.has(*reason)));
    meters.health(states.chain(reasons));
    if !health.is_live() {
        meters.engine_ended();
    }
}

impl Status {
    pub(crate) fn new(engine: Arc<str>, meters: Meters) -> Self {
        let health = Health::Starting { problems: Vec::new() };
        record(&meters, &health);
        let (snapshots_decided, state, health) =
            (AtomicBool::new(false), Mutex::default(), watch::channel(health).0);
        Self(Arc::new(Shared { snapshots_decided, engine, meters, state, health }))
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Health> {
        self.0.health.subscribe()
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.0.state.lock().unwrap_or_else(|e| e.into_inner());
        change(&mut state);
        let health = state.health();
        self.0.health.send_if_modified(|current| {
            let changed = *current != health;
            if changed {
                record(&self.0.meters, &health);
                *current = health;
            }
            changed
        });
    }

    /// Every watcher's first snapshot is in.
    pub(crate) fn index_ready(&self) {
        let ready = self.0.state.lock().unwrap_or_else(|e| e.into_inner()).index_ready;
        if !ready {
            self.change(|state| state.index_ready = true);
        }
    }

    /// Whether the engine may write its own keys is being asked.
    pub(crate) fn own_keys_awaited(&self) {
        self.change(|state| state.own_keys_awaited = true);
    }

    /// It was answered, or it could not be asked for.
    pub(crate) fn own_keys_settled(&self) {
        let awaited = self.0.state.lock().unwrap_or_else(|e| e.into_inner()).own_keys_awaited;
        if awaited {
            self.change(|state| state.own_keys_awaited = false);
        }
    }

    /// All that the first snapshots made true has been decided.
    pub(crate) fn snapshots_decided(&self) {
        self.0.snapshots_decided.store(true, Ordering::Relaxed);
    }

    pub(crate) fn has_decided_snapshots(&self) -> bool {
        self.0.snapshots_decided.load(Ordering::Relaxed)
    }

    /// Whether something keeps the engine from doing its work in time.
    pub(crate) fn has_trouble(&self) -> bool {
        let state = self.0.state.lock().unwrap_or_else(|e| e.into_inner());
        state.problems.values().any(|problem| match problem.reason {
            // Of single rules, or of some prefixes: see `is_refused`.
            Reason::Permission | Reason::Refused => false,
            Reason::Lagging
            | Reason::Disconnected
            | Reason::NoLeader
            | Reason::NoSpace
            | Reason::Auth
            | Reason::LeaseLost
            | Reason::Overloaded
            | Reason::WrongStore
            | Reason::OtherFormat => true,
        })
    }

    /// Whether etcd refuses what a rule needs. That its keys are not watched just now is trouble of another kind.
    pub(crate) fn is_refused(&self, rule: RuleIndex) -> bool {
        let state = self.0.state.lock().unwrap_or_else(|e| e.into_inner());
        state.refused.contains(&rule) || state.unreadable.contains(&rule)
    }

    /// All keys of these rules are watched.
    pub(crate) fn followed(&self, rules: BTreeSet<RuleIndex>) {
        self.change(|state| state.followed = rules);
    }

    /// etcd refuses to let keys of these rules be read.
    pub(crate) fn unreadable(&self, rules: BTreeSet<RuleIndex>) {
        self.change(|state| state.unreadable = rules);
    }

    /// etcd refuses the locks of a rule for lack of permission.
    pub(crate) fn rule_refused(&self, rule: RuleIndex, part: &str, failure: &Failure) {
        self.change(|state| state.refused.extend([rule]));
        self.failure(part, failure);
    }

    /// etcd refuses them no more, as far as is known.
    pub(crate) fn rule_allowed(&self, rule: RuleIndex, part: &str) {
        self.change(|state| state.refused.retain(|refused| *refused != rule));
        self.fine(part);
    }

    /// The actors start again from a snapshot.
    pub(crate) fn restarting(&self) {
        self.begin_again(false);
    }

    /// As [`restarting`](Self::restarting), while callbacks of the old actors may finish. What those actors report
    /// meanwhile makes the engine no readier.
    pub(crate) fn draining(&self) {
        self.begin_again(true);
    }

    fn begin_again(&self, draining: bool) {
        self.0.snapshots_decided.store(false, Ordering::Relaxed);
        self.change(|state| {
            state.draining = draining;
            state.index_ready = false;
            state.own_keys_awaited = false;
            state.problems.clear();
            state.followed.clear();
            state.unreadable.clear();
            state.refused.clear();
        });
    }

    /// A part of the engine can't do its work because a request to etcd failed.
    pub(crate) fn failure(&self, part: &str, failure: &Failure) {
        self.problem(part, failure.kind.into(), failure.to_string());
    }

    /// A part of the engine can't do its work. While the reason stays the same, the message of the first
    /// problem is kept.
    pub(crate) fn problem(&self, part: &str, reason: Reason, message: String) {
        let new = {
            let state = self.0.state.lock().unwrap_or_else(|e| e.into_inner());
            state.problems.get(part).is_none_or(|known| known.reason != reason)
        };
        if new {
            let problem = Problem { part: part.to_owned(), reason, message };
            self.change(|state| {
                state.problems.insert(part.to_owned(), problem);
            });
        }
    }

    /// The part works (again).
    pub(crate) fn fine(&self, part: &str) {
        let known = self.0.state.lock().unwrap_or_else(|e| e.into_inner()).problems.contains_key(part);
        if known {
            self.change(|state| {
                state.problems.remove(part);
            });
        }
    }

    pub(crate) fn end(&self, health: Health) {
        self.change(|state| state.end = Some(health));
    }

    /// Logs every change of the state or of the reasons until the engine has ended. If they change faster
    /// than once an interval, only the state at its end is logged.
    pub(crate) async fn announce(&self) {
        let (mut health, mut ended) = (self.subscribe(), self.subscribe());
        let mut logged = (Health::NAMES[0], BTreeSet::new());
        let mut quiet_until = Instant::now();
        loop {
            let now = health.borrow_and_update().clone();
            let reasons: BTreeSet<Reason> = now.problems().iter().map(|problem| problem.reason).collect();
            let current = (now.name(), reasons);
            if current != logged {
                announce(&self.0.engine, &now);
                logged = current;
                quiet_until = Instant::now() + LOG_INTERVAL;
            }
            if !now.is_live() || health.changed().await.is_err() {
                return;
            }
            tokio::select! {
                biased;
                _ = ended.wait_for(|health| !health.is_live()) => {}
                () = sleep_until(quiet_until) => {}
            }
        }
    }
}

fn announce(engine: &str, health: &Health) {
    let state = health.name();
    match health {
        Health::Failed { reason } => tracing::error!(engine, state, reason, "engine failed"),
        _ if !health.problems().is_empty() => {
            let problems: Vec<String> = health.problems().iter().map(ToString::to_string).collect();
            let reasons: BTreeSet<Reason> = health.problems().iter().map(|problem| problem.reason).collect();
            let reasons: Vec<&str> = reasons.into_iter().map(Reason::name).collect();
            let (reasons, problems) = (reasons.join(","), problems.join("; "));
            tracing::warn!(engine, state, reasons, problems, "engine has trouble; it goes on trying");
        }
        _ => tracing::info!(engine, state, "engine changed state"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::FailureKind;

    fn failure(kind: FailureKind) -> Failure {
        Failure::new(kind, "get", "no")
    }

    #[test]
    fn problems_are_kept_by_part_until_they_are_over() {
        let status = Status::new("test".into(), Meters::new("test", &[], 0));
        let health = status.subscribe();
        let now = || health.borrow().clone();
        assert_eq!(now(), Health::Starting { problems: vec![] });
        status.failure("watch", &failure(FailureKind::Unreachable));
        assert!(matches!(now(), Health::Starting { .. }) && now().has(Reason::Disconnected));
        status.index_ready();
        assert!(matches!(now(), Health::Degraded { .. }));
        status.failure("watch", &failure(FailureKind::NoLeader));
        status.failure("requests", &failure(FailureKind::NoSpace));
        assert!(
            now().has(Reason::NoLeader) && now().has(Reason::NoSpace) && !now().has(Reason::Disconnected)
        );
        status.fine("watch");
        assert!(!now().has(Reason::NoLeader) && now().has(Reason::NoSpace));
        status.fine("requests");
        assert_eq!(now(), Health::Ready);
        // Old actors that are ready say so whenever they get something, while callbacks finish.
        status.draining();
        status.index_ready();
        assert_eq!(now(), Health::Starting { problems: vec![] });
        status.restarting();
        status.index_ready();
        assert_eq!(now(), Health::Ready);
        status.restarting();
        assert_eq!(now(), Health::Starting { problems: vec![] });
        status.end(Health::Stopped);
        status.index_ready();
        assert_eq!(now(), Health::Stopped, "the end is the end");
    }

    #[test]
    fn some_rule_can_fire_unless_all_are_refused_or_something_stops_all() {
        let status = Status::new("test".into(), Meters::new("test", &[], 0));
        let health = status.subscribe();
        let now = || (health.borrow().name(), health.borrow().can_fire());
        let rules = [RuleIndex::new(0), RuleIndex::new(1)];
        let denied = failure(FailureKind::Permission);
        assert_eq!(now(), ("starting", false));
        status.failure("watch of `/a/`", &denied);
        status.followed([rules[1]].into());
        status.index_ready();
        assert_eq!(now(), ("degraded", true));
        status.rule_refused(rules[1], "locks of rule `one`", &denied);
        assert_eq!(now(), ("degraded", false), "the other can't be read");
        status.followed(rules.into());
        assert_eq!(now(), ("degraded", true));
        status.failure(REQUESTS, &failure(FailureKind::Unreachable));
        assert_eq!(now(), ("degraded", false));
        status.fine(REQUESTS);
        status.problem("locks of 10s", Reason::LeaseLost, "gone".into());
        assert_eq!(now(), ("degraded", false));
        status.fine("locks of 10s");
        status.rule_allowed(rules[1], "locks of rule `one`");
        status.fine("watch of `/a/`");
        assert_eq!(now(), ("ready", true));
    }

    #[test]
    fn the_same_trouble_again_is_no_change() {
        let status = Status::new("test".into(), Meters::new("test", &[], 0));
        let mut health = status.subscribe();
        status.failure("watch", &failure(FailureKind::Unreachable));
        assert!(health.has_changed().unwrap());
        health.mark_unchanged();
        let again = Failure { message: "no, in other words".into(), ..failure(FailureKind::Unreachable) };
        status.failure("watch", &again);
        assert!(!health.has_changed().unwrap());
    }
}
