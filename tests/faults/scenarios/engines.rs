//! What happens to engines.

use crate::history::Expect;
use crate::scenario::{Scenario, Servers};
use crate::world::{Settings, World};
use std::time::Duration;

pub fn all() -> Vec<Scenario> {
    vec![Scenario {
        name: "engines-killed",
        about: "every few seconds an engine is killed, and started again",
        servers: Servers::Both,
        quick: true,
        known_defect: None,
        settings: || Settings { members: 1, ..Settings::default() },
        expect: Expect::default,
        fault: |world| Box::pin(killed(world)),
    }]
}

async fn killed(world: &mut World) {
    let job = crate::jobs::Job { work_ms: 3_000, ..crate::jobs::Job::default() };
    for _ in 0..5 {
        world.load.ask(crate::jobs::LOCKED, job, 20).await;
        world.pause(0.2..3.0).await;
        let victim = world.any_engine();
        let running = world.running().values().filter(|engine| **engine == victim).count();
        world.note(format!("engine {victim} is killed in {running} callbacks"));
        world.engines[victim].kill();
        world.pause(0.0..2.0).await;
        world.engines[victim].start();
    }
    let killed = world.engines.iter().flat_map(|engine| &engine.processes);
    let killed = killed.filter(|process| process.killed.is_some()).count();
    world.felt("processes were killed", killed as u64);
    assert!(world.all_ready(Duration::from_secs(60)).await, "engines that were started get ready");
}
