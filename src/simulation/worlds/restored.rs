//! The store goes back while an engine stands still, and is past its former revision when the engine goes on.
//!
//! What the engine's streams had brought until then waits to be read, and its links connect again meanwhile. So an
//! endpoint may be let in before the engine knows of the change that would have told that it is not the store it was.

use super::super::kinds::Kind;
use super::super::plan::{Callbacks, Plan, PlanStep};
use super::members::MEMBERS;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

impl Plan {
    pub(in super::super) fn restored_behind_a_stall(seed: u64) -> Self {
        let mut plan = Self::of(seed);
        let rng = &mut StdRng::seed_from_u64(seed);
        plan.engines = 2;
        plan.members = MEMBERS;
        plan.token_ttl = None;
        plan.kinds = vec![Kind::Stay, Kind::Gone];
        plan.callbacks = Callbacks { slow: 0, failing: 0, reading: 0 };
        // Nothing else finds out.
        plan.options.crawl_interval = 3600 * SECOND;
        let mut number = 0;
        let mut puts = |rng: &mut StdRng, count: usize, pause: Duration| {
            let put = |_| {
                number += 1;
                let key = format!("/stay/{}", ["a", "b", "c"][rng.random_range(0..3)]);
                (pause, PlanStep::Put(key, format!("v{number}")))
            };
            (0..count).map(put).collect::<Vec<_>>()
        };
        plan.steps = puts(rng, 5, 200 * MS);
        let lost = rng.random_range(1..6);
        plan.steps.push((SECOND, PlanStep::Stall(1, (lost as u32 * 50 + 3000) * MS)));
        plan.steps.push((Duration::ZERO, PlanStep::Save));
        plan.steps.extend(puts(rng, lost, 50 * MS));
        plan.steps.push((100 * MS, PlanStep::Restore));
        plan.steps.extend(puts(rng, lost + 5, 10 * MS));
        // It is awake again.
        plan.steps.extend(puts(rng, 2, 4 * SECOND));
        plan
    }
}
