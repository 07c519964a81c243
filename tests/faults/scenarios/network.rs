//! What happens on the way between engines and members.

use crate::history::Expect;
use crate::jobs;
use crate::proxy::{Felt, Weather};
use crate::scenario::Scenario;
use crate::world::{Settings, World};
use rand::RngExt;
use std::time::Duration;
use tokio::time::{Instant, sleep};

const SECOND: Duration = Duration::from_secs(1);

pub fn all() -> Vec<Scenario> {
    vec![
        Scenario {
            expect: strict,
            ..Scenario::new(
                "silent-connections",
                "the connections to one member after the other go silent, while new ones work",
                |world| Box::pin(silent_connections(world)),
            )
        },
        Scenario {
            expect: strict,
            ..Scenario::new(
                "silent-endpoint",
                "the ways to one member after the other go silent, for new connections too",
                |world| Box::pin(one_way(world, Weather::silent())),
            )
        },
        Scenario {
            expect: strict,
            ..Scenario::new(
                "half-open-up",
                "what engines send to one member after the other does not arrive; what comes back would",
                |world| Box::pin(one_way(world, Weather { silent_up: true, ..Weather::default() })),
            )
        },
        Scenario {
            expect: strict,
            ..Scenario::new(
                "half-open-down",
                "what engines send arrives at one member after the other, and nothing comes back",
                |world| Box::pin(one_way(world, Weather { silent_down: true, ..Weather::default() })),
            )
        },
        Scenario {
            expect: strict,
            ..Scenario::new(
                "endpoint-refuses",
                "one member after the other is cut off: connections are reset, new ones refused",
                |world| Box::pin(refused(world)),
            )
        },
        Scenario::new(
            "all-silent",
            "every way of every engine goes silent for longer than a lease lives",
            |world| Box::pin(all_silent(world)),
        ),
        Scenario {
            expect: strict,
            ..Scenario::new("resets", "all connections of all engines are reset, again and again", |world| {
                Box::pin(resets(world))
            })
        },
        Scenario {
            settings: || Settings { rate: 10, ..Settings::default() },
            expect: strict,
            ..Scenario::new("latency", "every piece of data is up to 300 ms late, each way", |world| {
                Box::pin(slow(world, Some(300), None))
            })
        },
        Scenario {
            settings: || Settings { rate: 10, ..Settings::default() },
            expect: strict,
            ..Scenario::new("bandwidth", "each connection carries 64 KiB a second", |world| {
                Box::pin(slow(world, None, Some(64 << 10)))
            })
        },
        Scenario {
            settings: || Settings { members: 1, engines: 2, ..Settings::default() },
            expect: strict,
            ..Scenario::new(
                "one-member-silent-connections",
                "the connections to the only member go silent, while new ones work",
                |world| Box::pin(silent_connections(world)),
            )
        },
    ]
}

/// With a TTL of 5 s a renewal has room for two seconds without an answer.
fn strict() -> Expect {
    Expect { tolerated_outage: Some(2 * SECOND), ..Expect::default() }
}

/// One member after the other, since an engine has several connections, each to some member: `hit` does it, and what
/// the links to the member felt is the proof.
async fn each_member(world: &mut World, text: &str, hit: impl Fn(&World, usize), figure: fn(Felt) -> u64) {
    let members = world.cluster.members.len();
    // About as long as the fault lasts.
    world.begin_long_work(jobs::LOCKED, 12, (members as u32 * 7 + 2) * SECOND).await;
    let first = world.rng.random_range(0..members);
    let before = world.sum_of_links(figure);
    for other in 0..members {
        let member = (first + other) % members;
        world.note(format!("member {member}: {text}"));
        hit(world, member);
        world.pause(5.0..7.0).await;
        world.weather(member, &Weather::default());
        world.pause(0.5..2.0).await;
    }
    let after = world.sum_of_links(figure);
    world.felt(text, after - before);
}

async fn silent_connections(world: &mut World) {
    let hit = |world: &World, member: usize| world.links.iter().for_each(|links| links[member].deafen());
    each_member(world, "open connections are silent", hit, |felt| felt.lost).await;
}

async fn one_way(world: &mut World, weather: Weather) {
    let text = format!("the weather is {weather:?}");
    let hit = |world: &World, member| world.weather(member, &weather);
    each_member(world, &text, hit, |felt| felt.kept_back).await;
}

async fn refused(world: &mut World) {
    let hit = |world: &World, member: usize| {
        world.weather(member, &Weather { refuse: true, ..Weather::default() });
        world.links.iter().for_each(|links| links[member].reset());
    };
    each_member(world, "connections are reset and refused", hit, |felt| felt.reset).await;
}

async fn all_silent(world: &mut World) {
    // Longer than its lease lives, after which it begins anew.
    world.begin_long_work(jobs::LOCKED, 12, 12 * SECOND).await;
    world.pause(0.0..2.0).await;
    world.note("all ways are silent");
    for member in 0..world.cluster.members.len() {
        world.weather(member, &Weather::silent());
    }
    world.pause(10.0..28.0).await;
    let kept_back = world.sum_of_links(|felt| felt.kept_back);
    world.felt("data was kept back", kept_back);
}

async fn resets(world: &mut World) {
    world.begin_long_work(jobs::LOCKED, 12, 20 * SECOND).await;
    let end = Instant::now() + 15 * SECOND;
    world.note("connections are reset");
    while Instant::now() < end {
        world.links.iter().flatten().for_each(crate::proxy::Proxy::reset);
        world.pause(0.3..2.0).await;
    }
    let reset = world.sum_of_links(|felt| felt.reset);
    world.felt("connections were reset", reset);
}

async fn slow(world: &mut World, latency: Option<u64>, bandwidth: Option<u64>) {
    world.begin_long_work(jobs::LOCKED, 12, 20 * SECOND).await;
    let latency = latency.map_or(0, |most| world.rng.random_range(most / 2..=most));
    let weather = Weather { latency: Duration::from_millis(latency), bandwidth, ..Weather::default() };
    world.note(format!("all ways: {weather:?}"));
    for member in 0..world.cluster.members.len() {
        world.weather(member, &weather);
    }
    let before = world.sum_of_links(|felt| felt.forwarded);
    sleep(15 * SECOND).await;
    let after = world.sum_of_links(|felt| felt.forwarded);
    world.felt("bytes went slowly", after - before);
}
