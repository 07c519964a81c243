//! Several members, each with its own state: one stands still, has lost its leader, lags behind, or is down, while the
//! others go on.
//!
//! Promised beyond what always holds: while at most one member at a time is in trouble, and for no longer than an
//! engine can bear, no callback is told to end, and none of its reads fails unless the member lags. And wherever a
//! callback reads, it is told what etcd had at some moment of the read.

use super::super::checker::Violation;
use super::super::history::{Event, How};
use super::super::kinds::Kind;
use super::super::plan::{Plan, PlanStep};
use crate::embedded::EmbeddedMember;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;
use std::time::Duration;

/// How many there are, if there are several.
pub(in super::super) const MEMBERS: usize = 3;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// Something that happens to one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) enum Trouble {
    /// Connections stay open, new ones too, and nothing comes over them.
    StandsStill,
    /// It hears nothing of the others.
    Isolated,
    /// It applies nothing.
    Lags,
    Down,
}

const TROUBLES: [Trouble; 4] = [Trouble::StandsStill, Trouble::Isolated, Trouble::Lags, Trouble::Down];

/// A member that gets into trouble for a while.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in super::super) struct Step {
    pub(in super::super) member: usize,
    pub(in super::super) trouble: Trouble,
    pub(in super::super) time: Duration,
}

/// Whether a schedule that does not need several members has them. It has random numbers of its own, so that the rest
/// of a seed's plan means what it meant.
pub(in super::super) fn are_several(seed: u64) -> bool {
    StdRng::seed_from_u64(seed ^ 0x6d65_6d62_6572_7300).random_bool(0.4)
}

pub(in super::super) fn choose(rng: &mut StdRng) -> Step {
    Step {
        member: rng.random_range(0..MEMBERS),
        trouble: *TROUBLES.choose(rng).expect("there are some"),
        time: MS * rng.random_range(10..9000),
    }
}

impl Trouble {
    pub(in super::super) fn begin(self, member: &EmbeddedMember) {
        match self {
            Self::StandsStill => member.stand_still(),
            Self::Isolated => member.isolate(),
            Self::Lags => member.fall_behind(),
            Self::Down => member.set_running(false),
        }
    }

    pub(in super::super) fn end(self, member: &EmbeddedMember) {
        match self {
            Self::StandsStill => member.go_on(),
            Self::Isolated => member.rejoin(),
            Self::Lags => member.catch_up(),
            Self::Down => member.set_running(true),
        }
    }
}

impl Plan {
    /// A plan in which one member after the other is in trouble, while callbacks run that nothing else ends.
    pub(in super::super) fn one_member_after_the_other(seed: u64, kinds: &[Trouble]) -> Self {
        let mut plan = Self::of(seed);
        let rng = &mut StdRng::seed_from_u64(seed);
        plan.members = MEMBERS;
        plan.token_ttl = None;
        plan.kinds = vec![Kind::Stay, Kind::Single, Kind::Assign];
        plan.options.lock_ttl = 10 * SECOND;
        plan.options.request_timeout = 5 * SECOND;
        plan.options.watch_silence = SECOND;
        plan.options.crawl_interval = 3600 * SECOND;
        plan.options.time_limit = 3600 * SECOND;
        plan.options.concurrency = 16;
        plan.callbacks = super::super::plan::Callbacks { slow: 60, failing: 0, reading: 60 };
        plan.steps.clear();
        let mut number = 0;
        for _ in 0..6 {
            let time = MS * rng.random_range(3000..9000);
            let trouble = *kinds.choose(rng).expect("there are some");
            let step = Step { member: rng.random_range(0..MEMBERS), trouble, time };
            plan.steps.push((MS * rng.random_range(300..1500), PlanStep::Member(step)));
            let mut pause = time + 2 * SECOND;
            for _ in 0..6 {
                number += 1;
                let key =
                    *["/stay/a", "/stay/b", "/single", "/jobs/x/a", "/zones/x"].choose(rng).expect("keys");
                let value = if key == "/zones/x" { format!("open-{number}") } else { format!("v{number}") };
                let before = MS * rng.random_range(0..800);
                pause = pause.saturating_sub(before);
                plan.steps.push((before, PlanStep::Put(key.into(), value)));
            }
            plan.steps.push((pause, PlanStep::Put("/stay/c".into(), format!("v{number}"))));
        }
        plan
    }

    /// Nothing goes wrong but with one member at a time.
    fn spares_callbacks(&self) -> bool {
        let is_spared = |step: &PlanStep| matches!(step, PlanStep::Put(..) | PlanStep::Member(_));
        let mut free_at = Duration::ZERO;
        let mut now = Duration::ZERO;
        let mut one_at_a_time = true;
        for (pause, step) in &self.steps {
            now += *pause;
            if let PlanStep::Member(Step { time, .. }) = step {
                one_at_a_time &= free_at <= now;
                free_at = now + *time + SECOND;
            }
        }
        self.members == MEMBERS
            && self.token_ttl.is_none()
            && self.callbacks.failing == 0
            && self.options.lock_ttl >= 10 * SECOND
            && self.options.request_timeout >= 5 * SECOND
            && self.options.time_limit >= 3600 * SECOND
            && !self.kinds.contains(&Kind::Flaky)
            && one_at_a_time
            && self.steps.iter().all(|(_, step)| is_spared(step))
    }
}

fn is_cut_short(how: How) -> bool {
    matches!(how, How::Cancelled | How::Dropped)
}

pub(in super::super) fn check(plan: &Plan, events: &[(Duration, Event)]) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut violate = |at: Duration, text: String| violations.push(Violation { at, text });
    let spared = plan.spares_callbacks();
    // A member that lags answers a read when it has caught up, which may be too late for the read.
    let lags = plan.does(|step| matches!(step, PlanStep::Member(Step { trouble: Trouble::Lags, .. })));
    // What each key was, from when on.
    let mut values: BTreeMap<&str, Vec<(Duration, Option<&str>)>> = BTreeMap::new();
    let replaced = plan.does(|step| matches!(step, PlanStep::Restore | PlanStep::RestartEmpty));
    for (at, event) in events {
        match event {
            Event::Ended { run, how }
                if spared && (is_cut_short(*how) || *how == How::ReadFailed && !lags) =>
            {
                violate(*at, format!("run {run} ended as {how:?} while two of three members served"));
            }
            Event::Server(crate::embedded::record::Done::Committed { changes, .. }) => {
                for change in changes {
                    values.entry(&change.key).or_default().push((*at, change.value.as_deref()));
                }
            }
            Event::Read { run, key, asked, value } if !replaced => {
                let history = values.get(key.as_str()).map_or(&[][..], Vec::as_slice);
                // At the moment of the question itself there may have been several.
                let before = history.iter().rposition(|(since, _)| since < asked);
                let possible = history[before.unwrap_or(0)..].iter().map(|(_, value)| *value);
                let absent_before = before.is_none().then_some(None);
                if !possible.chain(absent_before).any(|possible| possible == value.as_deref()) {
                    violate(*at, format!("run {run} read {value:?} of {key}, which it was not any more"));
                }
            }
            _ => {}
        }
    }
    violations
}
