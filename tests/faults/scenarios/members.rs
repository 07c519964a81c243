//! What happens to members of the cluster.

use crate::history::Expect;
use crate::jobs;
use crate::member::Member;
use crate::scenario::Scenario;
use crate::world::{Settings, World};
use std::time::Duration;
use tokio::time::{Instant, sleep};

const SECOND: Duration = Duration::from_secs(1);
/// Links are at home again within this time after a rolling restart.
const REBALANCE: Duration = Duration::from_secs(10);

/// The TTL at which nothing may be cancelled when the leader is lost.
fn ten_seconds() -> Settings {
    Settings { lock_ttl: 10 * SECOND, ..Settings::default() }
}

pub fn all() -> Vec<Scenario> {
    vec![
        Scenario {
            settings: ten_seconds,
            expect: strict,
            ..Scenario::new(
                "leader-killed",
                "the leader is killed while callbacks run, and started again later",
                |world| Box::pin(leader(world, Member::kill)),
            )
        },
        Scenario {
            settings: ten_seconds,
            expect: strict,
            ..Scenario::new(
                "leader-stopped",
                "the leader stands still while callbacks run, for longer than their locks live",
                |world| Box::pin(leader(world, Member::pause)),
            )
        },
        Scenario {
            settings: ten_seconds,
            expect: strict,
            ..Scenario::new(
                "leader-isolated",
                "no member hears the leader or is heard by it, while clients still reach it",
                |world| Box::pin(isolated(world)),
            )
        },
        Scenario {
            expect: strict,
            ..Scenario::new(
                "follower-stopped",
                "one follower after the other stands still for longer than a lease lives",
                |world| Box::pin(follower_stopped(world)),
            )
        },
        Scenario {
            ..Scenario::new(
                "two-of-three-lost",
                "two of three members are killed: nobody can be served until one is back",
                |world| Box::pin(two_lost(world)),
            )
        },
        Scenario {
            settings: || Settings { engines: 4, rebalance: REBALANCE, ..ten_seconds() },
            expect: strict,
            ..Scenario::new(
                "rolling-restart",
                "one member after the other is stopped in order and started again",
                |world| Box::pin(rolling_restart(world)),
            )
        },
        Scenario {
            settings: ten_seconds,
            expect: strict,
            ..Scenario::new(
                "member-replaced",
                "a member is taken out of the cluster, and another one comes at its address",
                |world| Box::pin(replaced(world)),
            )
        },
        Scenario {
            settings: ten_seconds,
            expect: strict,
            ..Scenario::new(
                "learner",
                "behind one endpoint there is a learner instead of a member that votes",
                |world| Box::pin(learner(world)),
            )
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
    world.begin_long_work(jobs::LOCKED, 12, 18 * SECOND).await;
    let (leader, members) = (world.cluster.leader().await, world.cluster.members.len());
    // One after the other: an engine has several connections, each to some member.
    for other in 1..members {
        let victim = (leader + other) % members;
        world.note(format!("member {victim} stands still, a follower"));
        world.cluster.members[victim].pause();
        world.pause(5.0..7.0).await;
        world.felt("the member stands still", u64::from(world.cluster.members[victim].is_paused()));
        let answers = world.cluster.answers(victim).await;
        world.felt("it answers nothing", u64::from(!answers));
        world.cluster.members[victim].resume();
        world.pause(0.5..2.0).await;
    }
}

async fn two_lost(world: &mut World) {
    // Longer than its lease lives, after which it begins anew.
    world.begin_long_work(jobs::LOCKED, 12, 10 * SECOND).await;
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
    // An attempt to go home may have met a member that was away.
    let deadline = Instant::now() + 2 * REBALANCE;
    let even = world.shares().iter().sum::<u64>().div_ceil(world.cluster.members.len() as u64);
    let is_even = |world: &World| world.shares().iter().all(|share| *share <= 2 * even);
    while !is_even(world) && Instant::now() < deadline {
        sleep(SECOND / 10).await;
    }
    world.note(format!("connections to each member: {:?}", world.shares()));
    world.felt("no member has more than twice its share of the links", u64::from(is_even(world)));
}

async fn replaced(world: &mut World) {
    world.begin_long_work(jobs::LOCKED, 12, 20 * SECOND).await;
    world.pause(0.0..3.0).await;
    let engine = world.any_engine();
    let place = world.member_of(engine).await;
    world.note(format!("member {place} is replaced, which engine {engine} uses"));
    let (old, new) = world.cluster.replace(place).await;
    world.follow_members();
    world.felt("the member has another id", u64::from(old != new));
    world.pause(4.0..8.0).await;
}

async fn learner(world: &mut World) {
    world.begin_long_work(jobs::LOCKED, 12, 20 * SECOND).await;
    world.pause(0.0..3.0).await;
    let engine = world.any_engine();
    let place = world.member_of(engine).await;
    world.note(format!("member {place} becomes a learner, which engine {engine} uses"));
    world.cluster.replace_by_learner(place).await;
    world.follow_members();
    world.drive_to(place, 2 * SECOND).await;
    world.pause(8.0..12.0).await;
    let answers = world.cluster.answers(place).await;
    world.felt("the learner answers no linearizable read", u64::from(!answers));
    let over = world.links.iter().map(|links| links[place].felt().connections).sum::<u64>();
    world.felt("engines made connections to it", over);
    world.cluster.promote(place).await;
}
