//! What happens on the way between engines and members.

use crate::history::Expect;
use crate::jobs;
use crate::scenario::{Scenario, Servers};
use crate::world::{Settings, World};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

pub fn all() -> Vec<Scenario> {
    vec![Scenario {
        name: "silent-connections",
        about: "the connections that an engine has to its member go silent, while new ones work",
        servers: Servers::Both,
        quick: true,
        known_defect: None,
        settings: Settings::default,
        expect: strict,
        fault: |world| Box::pin(silent_connections(world)),
    }]
}

fn strict() -> Expect {
    Expect { tolerated_outage: Some(2 * SECOND), ..Expect::default() }
}

async fn silent_connections(world: &mut World) {
    world.begin_long_work(jobs::LOCKED, 12, 15 * SECOND).await;
    let engine = world.any_engine();
    let member = world.member_of(engine).await;
    world.note(format!("what engine {engine} has open to member {member} goes silent"));
    world.links[engine][member].deafen();
    world.pause(8.0..11.0).await;
    let lost = world.links[engine][member].felt().lost;
    world.felt("bytes were lost on silent connections", lost);
}
