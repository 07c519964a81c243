//! Runs many schedules on all cores, each in one thread.

use super::fleet::{self, Scenario};
use super::other_store;
use super::plan::{Plan, Trouble};
use super::schedule;
use super::worlds::members::Trouble::{Isolated, Lags, StandsStill};
use crate::mutants::{MUTANTS, Mutant};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// The results of many schedules.
#[derive(Debug, Default)]
pub(super) struct Summary {
    pub(super) schedules: u64,
    pub(super) violations: u64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "schedules {}, violations {}", self.schedules, self.violations)
    }
}

/// A number from the environment.
pub(super) fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// A mutant, with the number of schedules after which it was noticed, and by what.
pub(super) type Noticed = (Mutant, Option<(u64, String)>);

/// The faults in which a promise matters: only with these can a schedule notice that it is broken. Empty if
/// any will do.
fn troubles(promise: Mutant) -> &'static [Trouble] {
    use Trouble::*;
    match promise {
        Mutant::Position => &[Streams, Requests],
        Mutant::Forward => &[Requests],
        Mutant::Deletions => &[Compaction, Stalls, Paths],
        Mutant::LeaseLoss => &[Paths, Server],
        Mutant::Orphans => &[Requests],
        Mutant::Rewind => &[Backups],
        Mutant::Resume => &[Streams, Paths],
        Mutant::Token => &[Tokens],
        _ => &[],
    }
}

/// Breaks every promise in turn, and runs schedules until each is noticed.
pub(super) fn break_all(patience: u64) -> Vec<Noticed> {
    let next = AtomicUsize::new(0);
    let noticed = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    // MUTANT=name breaks that one only.
    let only = std::env::var("MUTANT").ok();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(&promise) = MUTANTS.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if only.as_ref().is_some_and(|only| *only != format!("{promise:?}")) {
                        continue;
                    }
                    let much = troubles(promise);
                    let first = (0..patience).find_map(|seed| {
                        if promise == Mutant::Identity {
                            let violations = other_store::run(seed, Some(promise));
                            return violations.first().map(|violation| (seed + 1, violation.to_string()));
                        }
                        let scenario = match promise {
                            Mutant::Yields => Some(Scenario::Steady),
                            Mutant::Keeps => Some(Scenario::Joins),
                            Mutant::StaleView => Some(Scenario::Deaths),
                            Mutant::SafetyNet => Some(Scenario::Phantom),
                            Mutant::Helping | Mutant::OneHelper => Some(Scenario::Slow),
                            Mutant::MarkEnd => Some(Scenario::Delays),
                            Mutant::CrawlParts => Some(Scenario::Drift),
                            _ => None,
                        };
                        if let Some(scenario) = scenario {
                            let violations = fleet::run(seed, scenario, Some(promise));
                            return violations.first().map(|violation| (seed + 1, violation.to_string()));
                        }
                        let plan = match promise {
                            Mutant::DirtyMark => Plan::hasty(seed),
                            // An engine must be at work when it loses its lease, and another must want the
                            // lock.
                            Mutant::LeaseLoss => Plan::with(seed, much).at_work(),
                            Mutant::Forward => Plan::with(seed, much).answered_late(),
                            Mutant::Silence => Plan::one_member_after_the_other(seed, &[StandsStill]),
                            Mutant::Leave => Plan::one_member_after_the_other(seed, &[Isolated]),
                            Mutant::Reads => Plan::one_member_after_the_other(seed, &[Lags]),
                            Mutant::SecondLook => Plan::restored_behind_a_stall(seed),
                            Mutant::LockLook => Plan::removes(seed, false),
                            Mutant::LeaseWatch => Plan::removes(seed, true),
                            Mutant::Evidence => Plan::removes_in_doubt(seed),
                            Mutant::FromPosition => Plan::deletions_are_compacted(seed),
                            Mutant::TokenRate => Plan::tokens_end(seed),
                            _ => Plan::with(seed, much),
                        };
                        let violations = schedule::run_plan(plan.clone(), Some(promise)).violations;
                        // A seed counts only if it has no violations without the mutant.
                        let first = violations
                            .first()
                            .filter(|_| schedule::run_plan(plan, None).violations.is_empty());
                        first.map(|violation| (seed + 1, violation.to_string()))
                    });
                    noticed.lock().unwrap_or_else(|e| e.into_inner()).push((promise, first));
                }
            });
        }
    });
    let mut noticed = noticed.into_inner().unwrap_or_else(|e| e.into_inner());
    noticed.sort_by_key(|(promise, _)| MUTANTS.iter().position(|other| other == promise));
    noticed
}

/// The command that runs a seed again.
fn again(seed: u64) -> String {
    format!("again: SEED={seed} cargo test --all-features --lib simulation::replay -- --ignored --nocapture")
}

/// A schedule that takes longer than this hangs, because its clock doesn't move.
const HANGS: Duration = Duration::from_secs(120);

/// The schedules that are running, so that one that hangs can be named.
#[derive(Default)]
struct Watchdog {
    running: Mutex<BTreeMap<u64, Instant>>,
    over: AtomicBool,
}

impl Watchdog {
    fn run(&self, seed: u64, broken: Option<Mutant>) -> schedule::Outcome {
        let running = || self.running.lock().unwrap_or_else(|e| e.into_inner());
        running().insert(seed, Instant::now());
        let outcome = schedule::run(seed, broken);
        running().remove(&seed);
        outcome
    }

    /// Ends the process if a schedule hangs, because nothing else would.
    fn watch(&self) {
        while !self.over.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(100));
            let running = self.running.lock().unwrap_or_else(|e| e.into_inner());
            if let Some((seed, _)) = running.iter().find(|(_, since)| since.elapsed() > HANGS) {
                println!("seed {seed} does not end; {}", again(*seed));
                std::process::exit(101);
            }
        }
    }
}

pub(super) fn run_many(seeds: Range<u64>) -> Summary {
    let watchdog = Watchdog::default();
    let (next, violations) = (AtomicU64::new(seeds.start), AtomicU64::new(0));
    let started = Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        scope.spawn(|| watchdog.watch());
        let working = (0..threads).map(|_| {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let outcome = watchdog.run(seed, None);
                    if !outcome.violations.is_empty() {
                        violations.fetch_add(1, Ordering::Relaxed);
                        println!("seed {seed} broke promises:");
                        for violation in outcome.violations.iter().take(5) {
                            println!("  {violation}");
                        }
                        println!("  {}", again(seed));
                    }
                }
            })
        });
        let working: Vec<_> = working.collect();
        let ended = working.into_iter().map(|thread| thread.join());
        let ended: Vec<_> = ended.collect();
        watchdog.over.store(true, Ordering::Relaxed);
        ended.into_iter().for_each(|ended| ended.expect("no schedule panics"));
    });
    let took = started.elapsed();
    let schedules = seeds.end - seeds.start;
    println!(
        "{schedules} schedules in {took:?}, {:.0} a minute",
        schedules as f64 / took.as_secs_f64() * 60.0
    );
    Summary { schedules, violations: violations.into_inner() }
}
