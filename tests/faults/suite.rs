//! The quick scenarios as tests, and all of them, many times, with a table.

use crate::checker::Promise;
use crate::moment::{Micros, now, seconds};
use crate::scenario::{Scenario, Verdict};
use crate::scenarios;
use crate::server::Server;
use crate::side_by_side::{self, Lateness};
use crate::table::Table;
use crate::world::Settings;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Condvar, Mutex};

/// So many runs at a time, each with its own servers: most of a run is waiting, and more would wait for the machine.
const AT_ONCE: usize = 2;
static FREE: Mutex<usize> = Mutex::new(AT_ONCE);
static ENDED: Condvar = Condvar::new();

/// One of the runs that are under way.
struct Turn;

impl Turn {
    fn take() -> Self {
        let free = FREE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut free =
            ENDED.wait_while(free, |free| *free == 0).unwrap_or_else(|poisoned| poisoned.into_inner());
        *free -= 1;
        Self
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *FREE.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) += 1;
        ENDED.notify_one();
    }
}

fn in_turn<T>(running: impl Future<Output = T>) -> T {
    let _turn = Turn::take();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.expect("a runtime").block_on(running)
}

fn scenario(name: &str) -> Scenario {
    scenarios::all().into_iter().find(|scenario| scenario.name == name).expect("a scenario of that name")
}

fn number(variable: &str, otherwise: u64) -> u64 {
    let text = std::env::var(variable).ok().filter(|text| !text.is_empty());
    text.map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

/// One run of a quick scenario.
fn quick(name: &str) {
    let scenario = scenario(name);
    let seed = number("SEED", 1);
    println!("SEED={seed}");
    let late = Lateness::measure();
    let mut verdict = in_turn(scenario.run(Server::usual(), seed));
    verdict.late = late.most();
    println!("{}", row(&verdict));
    assert!(verdict.violations.is_empty(), "{}", told(&verdict));
}

fn told(verdict: &Verdict) -> String {
    let violations: Vec<String> =
        verdict.violations.iter().map(|violation| format!("  {violation}")).collect();
    format!(
        "{} on {} with SEED={}:\n{}{}\n  what happened:\n    {}",
        verdict.scenario,
        verdict.server,
        verdict.seed,
        violations.join("\n"),
        side_by_side::doubt(verdict).map(|doubt| format!("\n  doubtful: {doubt}")).unwrap_or_default(),
        verdict.notes.join("\n    ")
    )
}

fn row(verdict: &Verdict) -> String {
    let Verdict { scenario, server, seed, jobs, runs, cancelled, epochs, .. } = verdict;
    let (recovery, took, wrong) =
        (seconds(verdict.recovery), seconds(verdict.took), verdict.violations.len());
    let (cpu, late) = (seconds(verdict.cpu), seconds(verdict.late));
    format!(
        "{scenario:<30} {server:<8} {seed:>6} {jobs:>7} {runs:>7} {cancelled:>6} {epochs:>3} {recovery:>7.1} s {took:>6.0} s {cpu:>6.1} s {late:>6.2} s {wrong:>4}"
    )
}

/// `ROUNDS`, `SEED`, `JOBS`, `ONLY` (parts of names, with commas between them). Fails if a promise was not kept. Each
/// verdict is kept in a file as soon as it is there, and a table of all is left in `target/faults.md`. With
/// `RESUME=1` the runs that the file has are not run again.
#[test]
#[ignore = "all scenarios, many times: `make faults`"]
fn every_scenario() {
    let (rounds, first, jobs) = (number("ROUNDS", 1), number("SEED", 1), number("JOBS", 1));
    let only = std::env::var("ONLY").unwrap_or_default();
    let wanted: Vec<&str> = only.split(',').filter(|part| !part.is_empty()).collect();
    let mut all = scenarios::all();
    all.retain(|scenario| wanted.is_empty() || wanted.iter().any(|part| scenario.name.contains(part)));
    assert!(!all.is_empty(), "no scenario is called {only}");
    let began = now();
    let mut table = Table::open();
    let seeds = first..first + rounds;
    // One seed after the other, so that whoever breaks it off has an equal number of all scenarios.
    let runs: Vec<(&Scenario, u64)> =
        seeds.flat_map(|seed| all.iter().map(move |scenario| (scenario, seed))).collect();
    let to_do: Vec<_> =
        runs.iter().copied().filter(|(scenario, seed)| !table.has(scenario.name, *seed)).collect();
    // Without one that is needed it ends here, and not after some hours.
    to_do.iter().for_each(|(scenario, seed)| drop(scenario.server(*seed)));
    println!("{} of {} runs, {jobs} at a time", to_do.len(), runs.len());
    println!("{}", heading());
    side_by_side::run(&to_do, jobs as usize, |verdict, output| {
        println!("{}", row(&verdict));
        if !verdict.violations.is_empty() {
            println!("{}\n  its process wrote:\n{output}", told(&verdict));
            let scenario = all.iter().find(|scenario| scenario.name == verdict.scenario);
            if let Some(defect) = scenario.and_then(|scenario| scenario.known_defect) {
                println!("  known: {defect}");
            }
        }
        table.add(verdict);
    });
    let asked = |verdict: &&Verdict| {
        runs.iter().any(|(scenario, seed)| scenario.name == verdict.scenario && *seed == verdict.seed)
    };
    let verdicts: Vec<&Verdict> = table.verdicts().iter().filter(asked).collect();
    let violations: usize = verdicts.iter().map(|verdict| verdict.violations.len()).sum();
    let cpu: Micros = verdicts.iter().map(|verdict| verdict.cpu).sum();
    println!("{:.0} s, of processors {:.0} s in all runs", seconds(now() - began), seconds(cpu));
    println!("scenarios {}, runs {}, violations {violations}", all.len(), verdicts.len());
    assert_eq!(violations, 0, "promises were not kept");
}

fn heading() -> String {
    format!(
        "{:<30} {:<8} {:>6} {:>7} {:>7} {:>6} {:>3} {:>9} {:>8} {:>8} {:>8} {:>4}",
        "scenario", "etcd", "seed", "jobs", "runs", "told", "ep", "recovery", "took", "cpu", "late", "bad"
    )
}

/// Those of the table that are known to fail are listed for people, with the reason.
#[test]
fn the_documentation_lists_the_known_defects() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reliability.md");
    let text = std::fs::read_to_string(path).expect("docs/reliability.md");
    let lines: Vec<&str> = text.lines().collect();
    for scenario in scenarios::all() {
        let name = format!("`{}`", scenario.name);
        let listed = scenario
            .known_defect
            .is_none_or(|defect| lines.iter().any(|line| line.contains(&name) && line.contains(defect)));
        assert!(listed, "docs/reliability.md does not say of {name}: {:?}", scenario.known_defect);
    }
}

#[test]
fn names_of_scenarios_are_unique() {
    let all = scenarios::all();
    let names: BTreeSet<&str> = all.iter().map(|scenario| scenario.name).collect();
    assert_eq!(names.len(), all.len());
}

/// The whole way from an engine that breaks promises, over the observer and the reports, to the checker.
#[test]
fn engines_that_are_broken_on_purpose_are_found() {
    let scenario = Scenario {
        settings: || Settings { members: 1, broken: true, ..Settings::default() },
        ..Scenario::new("broken", "the engines break promises on purpose", |world| {
            Box::pin(async { world.felt("nothing else is wrong", 1) })
        })
    };
    let verdict = in_turn(scenario.run(Server::usual(), 1));
    let found: BTreeSet<Promise> = verdict.violations.iter().map(|violation| violation.promise).collect();
    let broken = [
        Promise::Once,
        Promise::Commit,
        Promise::Lock,
        Promise::Alone,
        Promise::Attempt,
        Promise::Cancelled,
        Promise::Left,
        Promise::Drift,
        Promise::Memory,
    ];
    for promise in broken {
        assert!(found.contains(&promise), "{promise:?} was kept: {}", told(&verdict));
    }
}

#[test]
fn a_killed_leader() {
    quick("leader-killed");
}

#[test]
fn a_rolling_restart() {
    quick("rolling-restart");
}

#[test]
fn connections_that_are_reset() {
    quick("resets");
}

#[test]
fn engines_that_are_killed() {
    quick("engines-killed");
}

#[test]
fn an_engine_that_stands_still() {
    quick("engine-stopped");
}

#[test]
fn a_store_that_is_put_back() {
    quick("restored-older");
}

#[test]
fn odd_keys_and_values() {
    quick("random-bytes");
}

#[test]
fn followers_that_stand_still() {
    quick("follower-stopped");
}

#[test]
fn connections_that_go_silent() {
    quick("silent-connections");
}

#[test]
fn locks_that_are_removed_by_hand() {
    quick("locks-removed");
}
