//! History is compacted at a revision that somebody is about to need: where a watch goes on, one after that, or what a
//! snapshot is read at.
//!
//! Promised beyond what always holds: where nothing else goes wrong than that, and that engines lose their connections,
//! a deletion is seen, whatever it was compacted with.

use super::super::checker::Violation;
use super::super::history::Event;
use super::super::kinds::Kind;
use super::super::plan::{Callbacks, Plan, PlanStep};
use crate::embedded::{Faults, HistoryReader};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// Within this time of a deletion its instance fires: the connection is back by then, and the engine's own.
const SEEN: Duration = Duration::from_secs(20);

/// A compaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Step {
    /// Now, so many revisions before the newest.
    Behind(i64),
    /// When one of so many readers of the past comes: at the revision that it asks for, or so many after that.
    Before(HistoryReader, i64, u32),
}

pub(in super::super) fn choose(rng: &mut StdRng) -> Step {
    let behind = rng.random_range(0..4);
    match rng.random_range(0..4) {
        0 => Step::Behind(behind),
        1 => Step::Before(HistoryReader::Range, behind, rng.random_range(1..4)),
        _ => Step::Before(HistoryReader::Watch, behind - 1, rng.random_range(1..5)),
    }
}

impl Step {
    pub(in super::super) fn act(self, faults: &Faults) {
        match self {
            // Refused if it is compacted already.
            Step::Behind(behind) => drop(faults.compact(faults.revision() - behind)),
            Step::Before(reader, offset, times) => {
                (0..times).for_each(|_| faults.compact_before(reader, offset));
            }
        }
    }
}

impl Plan {
    /// Keys are deleted while the engine has no connection, and history is compacted just before its watches go on.
    pub(in super::super) fn deletions_are_compacted(seed: u64) -> Self {
        let mut plan = Self::of(seed);
        let rng = &mut StdRng::seed_from_u64(seed);
        plan.engines = 1;
        plan.members = 0;
        plan.token_ttl = None;
        plan.kinds = vec![Kind::Gone];
        plan.callbacks = Callbacks { slow: 0, failing: 0, reading: 0 };
        plan.options.lock_ttl = 5 * SECOND;
        plan.options.time_limit = 60 * SECOND;
        plan.options.crawl_interval = 3600 * SECOND;
        plan.steps.clear();
        for number in 0..6 {
            let key = format!("/gone/{number}");
            let offset = *[0, 0, 1, -1, 2].choose(rng).expect("offsets");
            let compaction = match rng.random_bool(0.8) {
                true => Step::Before(HistoryReader::Watch, offset, 4),
                false => Step::Before(HistoryReader::Range, offset, 2),
            };
            plan.steps.extend([
                (3 * SECOND, PlanStep::Put(key.clone(), "there".into())),
                (3 * SECOND, PlanStep::CompactAt(compaction)),
                (Duration::ZERO, PlanStep::BlockPath(0, MS * rng.random_range(300..3000))),
                (MS * 100, PlanStep::Delete(key)),
                (15 * SECOND, PlanStep::UnwatchedKeys(1)),
            ]);
        }
        plan
    }

    /// Nothing goes wrong but what [`Plan::deletions_are_compacted`] does.
    fn only_compacts_deletions(&self) -> bool {
        let fits = |step: &PlanStep| match step {
            PlanStep::CompactAt(Step::Before(..)) | PlanStep::BlockPath(..) | PlanStep::UnwatchedKeys(_) => {
                true
            }
            PlanStep::Put(key, _) | PlanStep::Delete(key) => key.starts_with("/gone/"),
            _ => false,
        };
        self.kinds == [Kind::Gone]
            && self.engines == 1
            && self.callbacks.failing == 0
            && self.steps.iter().all(|(_, step)| fits(step))
    }
}

pub(in super::super) fn check(plan: &Plan, events: &[(Duration, Event)]) -> Vec<Violation> {
    if !plan.only_compacts_deletions() {
        return Vec::new();
    }
    let mut violations = Vec::new();
    for (at, event) in events {
        let Event::Did(PlanStep::Delete(key)) = event else { continue };
        let id = Kind::Gone.implied_by(key);
        let fires = |(began, event): &(Duration, Event)| match event {
            Event::Began(run) => *began >= *at && *began <= *at + SEEN && Some(&run.id) == id.as_ref(),
            _ => false,
        };
        if !events.iter().any(fires) {
            let text = format!("{key} was deleted at {at:?}, and nobody fired within {SEEN:?}");
            violations.push(Violation { at: *at, text });
        }
    }
    violations
}
