//! Somebody removes locks and leases of locks by hand, in the middle of callbacks.
//!
//! Promised beyond what always holds: where nothing else goes wrong, a callback whose lock or lease is removed is
//! told so within 2.5 s.

use super::super::checker::Violation;
use super::super::history::{Event, Store};
use super::super::kinds::Kind;
use super::super::plan::{Callbacks, Plan, PlanStep};
use super::super::schedule::NAMESPACE;
use crate::embedded::record::Done;
use crate::embedded::{Fault, RequestKind};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// Something that somebody removes: of all that there are, the one at this place modulo their number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Step {
    Lock(usize),
    /// A lease under which locks are taken.
    Lease(usize),
}

/// A lease is renewed after a quarter of it, which is later than its loss must be told.
const LOCK_TTL: Duration = Duration::from_secs(15);

/// When a callback must be told that its lock is gone.
const TOLD: Duration = Duration::from_millis(2500);

/// And when, if its lease is gone: that is watched. Those who look at locks once a second would take longer.
const TOLD_OF_LEASE: Duration = Duration::from_millis(500);

/// One that does not listen is dropped so long after it was told, an eighth of the TTL, and a moment more.
const DROPPED: Duration = Duration::from_millis(1975);

impl Step {
    /// The key that is to be deleted, or the number of the lease that is to be revoked.
    pub(in super::super) fn choose(self, now: &Store) -> Option<Removed> {
        let below = |name: &str| {
            let prefix = format!("{NAMESPACE}{name}");
            let keys = now.keys.keys().filter(|key| key.starts_with(&prefix));
            keys.cloned().collect::<Vec<_>>()
        };
        let pick = |keys: Vec<String>, at: usize| {
            let at = at % keys.len().max(1);
            keys.into_iter().nth(at)
        };
        match self {
            Self::Lock(at) => pick(below("lock/"), at).map(Removed::Lock),
            Self::Lease(at) => {
                let key = pick(below("format/"), at)?;
                let number = key.rsplit('/').next().and_then(|hex| i64::from_str_radix(hex, 16).ok());
                number.map(Removed::Lease)
            }
        }
    }
}

pub(in super::super) enum Removed {
    Lock(String),
    Lease(i64),
}

impl Plan {
    /// A plan in which locks, or leases, are removed while long callbacks run, and nothing else goes wrong.
    pub(in super::super) fn removes(seed: u64, leases: bool) -> Self {
        let mut plan = Self::of(seed);
        let rng = &mut StdRng::seed_from_u64(seed);
        plan.engines = 2;
        plan.members = 0;
        plan.token_ttl = None;
        plan.kinds = vec![Kind::Stay, Kind::Single];
        plan.options.lock_ttl = LOCK_TTL;
        plan.options.request_timeout = 5 * SECOND;
        plan.options.crawl_interval = 3600 * SECOND;
        plan.options.time_limit = 3600 * SECOND;
        plan.options.concurrency = 16;
        plan.callbacks = Callbacks { slow: 70, failing: 0, reading: 0 };
        plan.steps.clear();
        for number in 0..8 {
            for key in ["/stay/a", "/stay/b", "/stay/c", "/single"] {
                plan.steps.push((Duration::ZERO, PlanStep::Put(key.into(), format!("v{number}"))));
            }
            let at = rng.random_range(0..8);
            let step = if leases { Step::Lease(at) } else { Step::Lock(at) };
            plan.steps.push((MS * rng.random_range(1200..3000), PlanStep::Remove(step)));
            plan.steps.push((MS * rng.random_range(3000..6000), PlanStep::Put("/stay/d".into(), "x".into())));
        }
        plan
    }

    /// A plan in which a transaction has no effect and no answer, and then its lock is removed.
    pub(in super::super) fn removes_in_doubt(seed: u64) -> Self {
        let mut plan = Self::removes(seed, false);
        let rng = &mut StdRng::seed_from_u64(seed);
        // Another engine would do what this one left undone.
        plan.engines = 1;
        plan.kinds = vec![Kind::Single];
        // Nearly all take less than 80 ms, in which the commit is yet to come.
        plan.callbacks = Callbacks { slow: 0, failing: 0, reading: 0 };
        plan.options.request_timeout = SECOND;
        plan.steps.clear();
        for number in 0..8 {
            plan.steps.push((Duration::ZERO, PlanStep::Put("/single".into(), format!("v{number}"))));
            let lost = Fault::on(RequestKind::Txn).lose();
            plan.steps.push((MS * rng.random_range(1..40), PlanStep::Inject(lost)));
            plan.steps.push((MS * rng.random_range(50..900), PlanStep::Remove(Step::Lock(0))));
            plan.steps.push((4 * SECOND, PlanStep::Put("/other".into(), format!("w{number}"))));
        }
        plan
    }

    /// Nothing goes wrong but that something is removed.
    fn only_removes(&self) -> bool {
        let is_it = |step: &PlanStep| matches!(step, PlanStep::Put(..) | PlanStep::Remove(_));
        self.does(|step| matches!(step, PlanStep::Remove(_)))
            && self.members == 0
            && self.token_ttl.is_none()
            && self.options.lock_ttl == LOCK_TTL
            && self.steps.iter().all(|(_, step)| is_it(step))
    }
}

pub(in super::super) fn check(plan: &Plan, events: &[(Duration, Event)]) -> Vec<Violation> {
    let mut violations = Vec::new();
    if !plan.only_removes() {
        return violations;
    }
    let leases = plan.does(|step| matches!(step, PlanStep::Remove(Step::Lease(_))));
    let told = if leases { TOLD_OF_LEASE } else { TOLD };
    let mut store = Store::default();
    // By key and fencing token, when the lock was removed. Locks that are taken in one request share the token.
    let mut removed: BTreeMap<(String, i64), Duration> = BTreeMap::new();
    let mut locks_of: BTreeMap<u64, (String, i64)> = BTreeMap::new();
    // Since when something is being removed: what is deleted at that moment.
    let mut removing = None;
    for (at, event) in events {
        match event {
            Event::Did(step) => removing = matches!(step, PlanStep::Remove(_)).then_some(*at),
            Event::Server(done) => {
                if let Done::Committed { changes, .. } = done
                    && removing == Some(*at)
                {
                    let deleted = changes.iter().filter(|change| change.value.is_none());
                    let locks = deleted.filter_map(|change| store.keys.get(&change.key));
                    let locks = locks.filter(|lock| lock.key[NAMESPACE.len()..].starts_with("lock/"));
                    removed.extend(locks.map(|lock| ((lock.key.clone(), lock.create_revision), *at)));
                }
                store.apply(done);
            }
            Event::Began(began) => {
                let name = [began.kind.name()].into_iter().chain(began.id.iter().map(String::as_str));
                let key = format!("{NAMESPACE}lock/{}", name.collect::<Vec<_>>().join("/"));
                locks_of.insert(began.run, (key, began.token));
            }
            Event::Ended { run, how } => {
                let gone = locks_of.get(run).and_then(|lock| removed.get(lock));
                if let Some(gone) = gone.filter(|gone| *at > **gone + told + DROPPED) {
                    let text =
                        format!("run {run} ended as {how:?}, long after its lock was removed at {gone:?}");
                    violations.push(Violation { at: *at, text });
                }
            }
            _ => {}
        }
    }
    violations
}
