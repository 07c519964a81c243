//! A simulation of whole engines. The real code runs on the embedded etcd: several engines in one thread,
//! under a clock that jumps from event to event, with random work and random faults. The same seed gives the
//! same run.
//!
//! | file | subject |
//! |---|---|
//! | [`plan`] | what a seed means |
//! | [`kinds`] | the rules, and what the checker knows of them |
//! | [`callbacks`] | what callbacks do |
//! | [`worlds`] | what etcd is like: several members, users, every error, compactions where they hurt |
//! | [`schedule`] | runs a schedule |
//! | [`history`] | records everything that happened |
//! | [`checker`], [`torn`] | finds the promises that were not kept |
//! | [`fleet`] | fleets of up to eight engines: who does what, and who takes over |
//! | [`other_store`] | another store comes to the engines' address |
//! | [`runner`] | many schedules, on all cores |
//! | `metrics` (feature `prometheus`) | every metric with the value that a played scenario implies |
//!
//! Run one again with `SEED=n cargo test --all-features --lib simulation::replay -- --ignored --nocapture`.

mod callbacks;
mod checker;
mod fleet;
mod history;
mod kinds;
#[cfg(feature = "prometheus")]
mod metrics;
mod other_store;
mod plan;
mod runner;
mod schedule;
mod torn;
mod worlds;

use plan::Plan;
use runner::{number, run_many};

/// How many schedules the gate runs.
const SCHEDULES: u64 = 1000;

#[test]
fn a_thousand_schedules_break_no_promise() {
    let done = run_many(0..number("SCHEDULES", SCHEDULES));
    println!("{done}");
    assert_eq!(done.violations, 0, "{done}");
}

/// Runs many schedules: `make soak SCHEDULES=100000`. The first seed is `SEED`.
#[test]
#[ignore = "runs for as long as it is told to"]
fn soak() {
    let first = number("SEED", 1_000_000);
    let done = run_many(first..first + number("SCHEDULES", 10_000));
    println!("{done}");
    assert_eq!(done.violations, 0, "{done}");
}

/// Runs one schedule, `SEED=n`, and prints everything that happened.
#[test]
#[ignore = "shows one schedule"]
fn replay() {
    let seed = number("SEED", 0);
    println!("{:#?}", Plan::of(seed));
    let outcome = schedule::run(seed, None);
    outcome.history.look(|_, events| {
        for (at, event) in events {
            println!("{at:>14?} {event:?}");
        }
    });
    for violation in &outcome.violations {
        println!("VIOLATION {violation}");
    }
    assert!(outcome.violations.is_empty());
}

/// A broken promise must be noticed within this many schedules.
const PATIENCE: u64 = 150;

#[test]
fn the_checker_notices_every_promise_that_is_broken() {
    let mut unnoticed = Vec::new();
    for (promise, noticed) in runner::break_all(PATIENCE) {
        match noticed {
            Some((schedules, violation)) => println!("{promise:?}: after {schedules} schedules, {violation}"),
            None => unnoticed.push(promise),
        }
    }
    assert!(unnoticed.is_empty(), "not noticed within {PATIENCE} schedules: {unnoticed:?}");
}

#[test]
fn nothing_that_was_meant_for_one_store_takes_effect_in_another() {
    for seed in 0..20 {
        assert_eq!(other_store::run(seed, None), [], "seed {seed}");
    }
}

#[test]
fn a_fleet_shares_the_work_and_takes_over_what_is_left() {
    for scenario in fleet::Scenario::ALL {
        for seed in 0..number("FLEETS", 6) {
            assert_eq!(fleet::run(seed, scenario, None), [], "{scenario:?}, seed {seed}");
        }
    }
}

#[test]
fn an_engine_that_slept_through_a_restore_goes_on_in_the_restored_store() {
    for seed in 0..40 {
        let violations = schedule::run_plan(Plan::restored_behind_a_stall(seed), None).violations;
        assert_eq!(violations, [], "seed {seed}");
    }
}

#[test]
fn changes_while_a_callback_runs_are_not_lost() {
    for seed in 0..40 {
        let violations = schedule::run_plan(Plan::hasty(seed), None).violations;
        assert_eq!(violations, [], "seed {seed}");
    }
}

#[test]
fn no_callback_is_cancelled_for_a_member_in_trouble() {
    use worlds::members::Trouble::*;
    for seed in 0..40 {
        let plan = Plan::one_member_after_the_other(seed, &[StandsStill, Isolated, Lags, Down]);
        let violations = schedule::run_plan(plan, None).violations;
        assert_eq!(violations, [], "seed {seed}");
    }
}

#[test]
fn no_callback_fails_for_a_token_that_ends() {
    for seed in 0..40 {
        let violations = schedule::run_plan(Plan::tokens_end(seed), None).violations;
        assert_eq!(violations, [], "seed {seed}");
    }
}

#[test]
fn no_deletion_is_lost_to_a_compaction() {
    for seed in 0..40 {
        let violations = schedule::run_plan(Plan::deletions_are_compacted(seed), None).violations;
        assert_eq!(violations, [], "seed {seed}");
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 0..40 {
        let [first, second] =
            [(); 2].map(|()| schedule::run(seed, None).history.look(|_, events| events.to_vec()));
        for (one, other) in first.iter().zip(&second) {
            assert_eq!(one, other, "seed {seed}");
        }
        assert_eq!(first.len(), second.len(), "seed {seed}");
    }
}

#[test]
fn whoever_loses_a_lock_or_a_lease_by_hand_is_told_in_time() {
    for seed in 0..20 {
        for plan in [Plan::removes(seed, false), Plan::removes(seed, true), Plan::removes_in_doubt(seed)] {
            assert_eq!(schedule::run_plan(plan, None).violations, [], "seed {seed}");
        }
    }
}
