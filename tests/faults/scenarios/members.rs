//! What happens to members of the cluster.

use crate::history::Expect;
use crate::jobs;
use crate::member::Member;
use crate::scenario::{Scenario, Servers};
use crate::world::{Settings, World};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

/// The TTL at which nothing may be cancelled when the leader is lost.
fn ten_seconds() -> Settings {
    Settings { lock_ttl: 10 * SECOND, ..Settings::default() }
}

pub fn all() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "leader-killed",
            about: "the leader is killed while callbacks run, and started again later",
            servers: Servers::Both,
            quick: true,
            known_defect: None,
            settings: ten_seconds,
            expect: strict,
            fault: |world| Box::pin(leader(world, Member::kill)),
        },
        Scenario {
            name: "leader-stopped",
            about: "the leader stands still while callbacks run, for longer than their locks live",
            servers: Servers::Both,
            quick: false,
            known_defect: None,
            settings: ten_seconds,
            expect: strict,
            fault: |world| Box::pin(leader(world, Member::pause)),
        },
        Scenario {
            name: "leader-isolated",
            about: "no member hears the leader or is heard by it, while clients still reach it",
            servers: Servers::Both,
            quick: false,
            known_defect: None,
            settings: ten_seconds,
            expect: strict,
            fault: |world| Box::pin(isolated(world)),
        },
        Scenario {
            name: "follower-stopped",
            about: "a follower that an engine is connected to stands still",
            servers: Servers::Both,
            quick: true,
            known_defect: None,
            settings: Settings::default,
            expect: strict,
            fault: |world| Box::pin(follower_stopped(world)),
        },
        Scenario {
            name: "two-of-three-lost",
            about: "two of three members are killed: nobody can be served until one is back",
            servers: Servers::Both,
            quick: false,
            known_defect: None,
            settings: Settings::default,
            expect: Expect::default,
            fault: |world| Box::pin(two_lost(world)),
        },
        Scenario {
            name: "rolling-restart",
            about: "one member after the other is stopped in order and started again",
            servers: Servers::Both,
            quick: true,
            known_defect: None,
            settings: ten_seconds,
            expect: strict,
            fault: |world| Box::pin(rolling_restart(world)),
        },
    ]
}

/// Nothing is cancelled for an outage that a renewal in time could have outlived.
fn strict() -> Expect {
    Expect { tolerated_outage: Some(4 * SECOND), ..Expect::default() }
}

async fn leader(world: &mut World, lose: fn(&mut Member)) {
    world.begin_long_work(jobs::LOCKED, 12, 25 * SECOND).await;
    world.pause(0.0..4.0).await;
    let leader = world.cluster.leader().await;
    let old = world.cluster.id(leader).await;
    world.note(format!("member {leader} is lost, the leader"));
    lose(&mut world.cluster.members[leader]);
    world.pause(12.0..16.0).await;
    let now = world.cluster.leader().await;
    world.felt("another member leads", u64::from(old != world.cluster.id(now).await));
}

async fn isolated(world: &mut World) {
    world.begin_long_work(jobs::LOCKED, 12, 25 * SECOND).await;
    world.pause(0.0..4.0).await;
    let leader = world.cluster.leader().await;
    world.note(format!("member {leader} is isolated, the leader"));
    world.cluster.isolate(leader).await;
    world.pause(12.0..16.0).await;
    world.felt("the isolated member answers no read", u64::from(!world.cluster.answers(leader).await));
}

async fn follower_stopped(world: &mut World) {
    world.begin_long_work(jobs::LOCKED, 12, 15 * SECOND).await;
    // The engine whose member it is; some engine is on a follower, since they begin with different ones.
    let leader = world.cluster.leader().await;
    let mut victim = None;
    for engine in 0..world.engines.len() {
        let member = world.member_of(engine).await;
        if member != leader {
            victim = Some(member);
        }
    }
    let victim = victim.unwrap_or((leader + 1) % world.cluster.members.len());
    world.note(format!("member {victim} stands still, a follower"));
    world.cluster.members[victim].pause();
    world.pause(8.0..11.0).await;
    world.felt("the member stands still", u64::from(world.cluster.members[victim].is_paused()));
    let answers = world.cluster.answers(victim).await;
    world.felt("it answers nothing", u64::from(!answers));
}

async fn two_lost(world: &mut World) {
    world.begin_long_work(jobs::LOCKED, 12, 15 * SECOND).await;
    world.pause(0.0..2.0).await;
    let first = world.any_engine() % world.cluster.members.len();
    let second = (first + 1) % world.cluster.members.len();
    world.note(format!("members {first} and {second} are killed"));
    world.cluster.members[first].kill();
    world.cluster.members[second].kill();
    world.pause(5.0..25.0).await;
    let third = (first + 2) % world.cluster.members.len();
    let answers = world.cluster.answers(third).await;
    world.felt("the third member answers no read", u64::from(!answers));
    // One comes back before the other.
    world.cluster.members[first].start();
    world.pause(1.0..4.0).await;
}

async fn rolling_restart(world: &mut World) {
    world.begin_long_work(jobs::LOCKED, 12, 25 * SECOND).await;
    for member in 0..world.cluster.members.len() {
        world.note(format!("member {member} is stopped"));
        world.cluster.members[member].stop().await;
        world.pause(0.0..3.0).await;
        world.cluster.members[member].start();
        world.cluster.wait().await;
        world.felt("a member was stopped and started again", 1);
        world.pause(1.0..3.0).await;
    }
}
