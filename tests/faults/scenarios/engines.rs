//! What happens to engines.

use crate::history::Expect;
use crate::jobs::{self, Job};
use crate::process::EngineProcess;
use crate::scenario::Scenario;
use crate::world::{Settings, World};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

pub fn all() -> Vec<Scenario> {
    vec![
        Scenario {
            settings: || Settings { members: 1, ..Settings::default() },
            ..Scenario::new(
                "engines-killed",
                "every few seconds an engine is killed, and started again",
                |world| Box::pin(killed(world, 5)),
            )
        },
        Scenario {
            settings: || Settings { members: 1, ..Settings::default() },
            ..Scenario::new(
                "engine-stopped",
                "an engine stands still in its callbacks for three times as long as its locks live",
                |world| Box::pin(stopped(world)),
            )
        },
        Scenario {
            settings: || Settings { engines: 10, rate: 40, ..Settings::default() },
            ..Scenario::new("ten-engines", "ten engines at once, of which some are killed", |world| {
                Box::pin(killed(world, 8))
            })
        },
        Scenario {
            settings: || Settings { members: 1, rate: 0, concurrency: 128, ..Settings::default() },
            expect: || Expect { memory: 1024, recovery: 600 * SECOND, ..Expect::default() },
            ..Scenario::new(
                "burst",
                "100,000 jobs as fast as they can be put, and an engine is killed meanwhile",
                |world| Box::pin(burst(world)),
            )
        },
    ]
}

async fn killed(world: &mut World, times: u32) {
    let job = Job { work_ms: 3_000, ..Job::default() };
    for _ in 0..times {
        world.load.ask(jobs::LOCKED, job, 20).await;
        world.pause(0.2..3.0).await;
        let victim = world.any_engine();
        let running = world.running().values().filter(|engine| **engine == victim).count();
        world.note(format!("engine {victim} is killed in {running} callbacks"));
        world.engines[victim].kill();
        world.pause(0.0..2.0).await;
        world.engines[victim].start();
    }
    prove_killed(world);
    assert!(world.all_ready(60 * SECOND).await, "engines that were started get ready");
}

fn prove_killed(world: &mut World) {
    let killed = world.engines.iter().flat_map(|engine| &engine.processes);
    let killed = killed.filter(|process| process.killed.is_some()).count();
    world.felt("processes were killed", killed as u64);
}

async fn stopped(world: &mut World) {
    world.begin_long_work(jobs::LOCKED, 30, 4 * SECOND).await;
    let (victim, running) = world.busiest();
    world.note(format!("engine {victim} stands still in {running} callbacks"));
    world.engines[victim].freeze();
    world.pause(15.0..17.0).await;
    world.engines[victim].thaw();
    world.note(format!("engine {victim} goes on"));
    world.felt("callbacks stood still", running as u64);
    world.pause(1.0..3.0).await;
}

/// How many jobs a burst has; `FAULTS_BURST` says another number.
fn jobs_of_a_burst() -> usize {
    let text = std::env::var("FAULTS_BURST").unwrap_or_else(|_| "100000".to_owned());
    text.parse().expect("FAULTS_BURST is a number")
}

async fn burst(world: &mut World) {
    let all = jobs_of_a_burst();
    let load = world.load.clone();
    let putting = tokio::spawn(async move {
        load.ask(jobs::LOCKED, Job::default(), all / 2).await;
        load.ask(jobs::OPTIMISTIC, Job::default(), all / 2).await;
    });
    world.pause(1.0..4.0).await;
    let victim = world.any_engine();
    world.note(format!("engine {victim} is killed"));
    world.engines[victim].kill();
    world.pause(0.0..2.0).await;
    world.engines.iter_mut().for_each(EngineProcess::start);
    putting.await.expect("the load goes on");
    world.note("all jobs are put");
    prove_killed(world);
}
