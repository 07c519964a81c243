//! What happens to the store: restored, cloned, another one, compacted, full.

use crate::history::Expect;
use crate::jobs::{self, Job};
use crate::observer::Observer;
use crate::scenario::{Scenario, Servers};
use crate::world::{Settings, World};
use etcd_client::{AlarmAction, AlarmOptions, AlarmType, CompactionOptions, DeleteOptions};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{Instant, sleep};

const SECOND: Duration = Duration::from_secs(1);

pub fn all() -> Vec<Scenario> {
    vec![
        Scenario {
            expect: || Expect { cancels: true, ..Expect::default() },
            ..Scenario::new(
                "restored-older",
                "all members are put back to what they were some seconds ago: the same cluster, an older revision",
                |world| Box::pin(restored(world)),
            )
        },
        Scenario {
            servers: Servers::Current,
            expect: || Expect { cancels: true, ..Expect::default() },
            ..Scenario::new(
                "restored-bumped",
                "all members are made anew from a snapshot some seconds old, with revisions a thousand million higher",
                |world| Box::pin(bumped(world)),
            )
        },
        Scenario {
            settings: ten_seconds,
            ..Scenario::new(
                "foreign-cluster",
                "behind one endpoint there is another cluster, with keys that look like ours",
                |world| Box::pin(other_cluster(world, false)),
            )
        },
        Scenario {
            settings: ten_seconds,
            ..Scenario::new(
                "clone",
                "behind one endpoint there is a copy of the cluster, with its id, that lives on by itself",
                |world| Box::pin(other_cluster(world, true)),
            )
        },
        Scenario::new(
            "compaction",
            "history is compacted to its end again and again, and members are defragmented, while connections are reset",
            |world| Box::pin(compaction(world)),
        ),
        Scenario {
            settings: || Settings {
                members: 1,
                flags: vec!["--quota-backend-bytes=16777216".to_owned()],
                ..Settings::default()
            },
            ..Scenario::new("no-space", "the cluster has no more space, and gets some again", |world| {
                Box::pin(no_space(world))
            })
        },
    ]
}

fn ten_seconds() -> Settings {
    Settings { lock_ttl: 10 * SECOND, ..Settings::default() }
}

async fn restored(world: &mut World) {
    world.load.ask(jobs::LOCKED, Job { work_ms: 3_000, ..Job::default() }, 10).await;
    world.pause(0.0..2.0).await;
    let saved = world.cluster.save();
    world.note("the data is saved");
    world.pause(2.0..5.0).await;
    world.begin_long_work(jobs::LOCKED, 8, 8 * SECOND).await;
    let before = world.observer.position();
    world.note("the data is put back");
    world.other_store(async |cluster| cluster.restore(&saved).await).await;
    world.note("the cluster answers again");
    let after = world.observer.position();
    world.felt("revisions went back", before.saturating_sub(after).max(0) as u64);
    world.pause(2.0..5.0).await;
}

async fn bumped(world: &mut World) {
    world.load.ask(jobs::LOCKED, Job { work_ms: 3_000, ..Job::default() }, 10).await;
    world.pause(0.0..2.0).await;
    let saved = world.cluster.save();
    world.note("the data is saved");
    world.pause(1.0..4.0).await;
    let before = world.observer.position();
    world.note("the members are made anew");
    world.other_store(async |cluster| cluster.restore_bumped(&saved, 1_000_000_000).await).await;
    world.note("the cluster answers again");
    let after = world.observer.position();
    world.felt("revisions went up by a thousand million", u64::from(after - before > 900_000_000));
    world.pause(2.0..5.0).await;
}

async fn other_cluster(world: &mut World, is_clone: bool) {
    world.begin_long_work(jobs::LOCKED, 12, 25 * SECOND).await;
    let engine = world.any_engine();
    let place = world.member_of(engine).await;
    let mut other = world.cluster.lone(is_clone.then_some(place)).await;
    let address = other.address();
    if !is_clone {
        let mut client =
            world.cluster.access.admin(&address.to_string()).await.expect("the other cluster answers");
        for key in world.observer.open() {
            client.put(key, Job::default().value(b""), None).await.expect("the other cluster takes a key");
        }
    }
    let there = Observer::start(Arc::new(Mutex::new(vec![address])), world.cluster.access.clone()).await;
    world.note(format!("behind place {place}, which engine {engine} uses, there is another cluster"));
    world.cluster.members[place].kill();
    for links in &world.links {
        links[place].retarget(address);
        links[place].reset();
    }
    let before = world.links.iter().map(|links| links[place].felt().connections).sum::<u64>();
    world.drive_to(place, 3 * SECOND).await;
    world.pause(12.0..20.0).await;
    let after = world.links.iter().map(|links| links[place].felt().connections).sum::<u64>();
    world.felt("engines connected to the other cluster", after - before);
    for epoch in there.finish() {
        world.foreign.extend(epoch.changes);
    }
    other.kill();
    world.follow_members();
}

async fn compaction(world: &mut World) {
    let end = Instant::now() + 20 * SECOND;
    let (mut compactions, mut defragmented) = (0, 0);
    world.begin_long_work(jobs::LOCKED, 12, 15 * SECOND).await;
    world.note("compaction begins");
    while Instant::now() < end {
        // No further than the observer has seen.
        let position = world.observer.position();
        let mut client = world.client().await;
        let options = CompactionOptions::new().with_physical();
        // Nothing may have happened since the last one.
        compactions += u64::from(client.compact(position, Some(options)).await.is_ok());
        if compactions % 10 == 5 {
            world.links.iter().flatten().for_each(crate::proxy::Proxy::reset);
            let member = (compactions as usize / 10) % world.cluster.members.len();
            let mut client = world.cluster.client(member).await.expect("a member answers");
            defragmented += u64::from(client.defragment().await.is_ok());
        }
        sleep(Duration::from_millis(150)).await;
    }
    world.felt("compactions", compactions);
    world.felt("defragmentations", defragmented);
}

async fn no_space(world: &mut World) {
    world.begin_long_work(jobs::LOCKED, 12, 10 * SECOND).await;
    let mut client = world.client().await;
    let mut refused = 0;
    for number in 0..64 {
        if client.put(format!("/filler/{number}"), vec![b'x'; 1 << 20], None).await.is_err() {
            refused += 1;
            break;
        }
    }
    world.felt("the cluster refused a put", refused);
    world.note("there is no space");
    world.pause(6.0..14.0).await;
    client
        .delete("/filler/", Some(DeleteOptions::new().with_prefix()))
        .await
        .expect("deletions need no space");
    let revision =
        client.get("\0", None).await.expect("a read").header().map_or(0, |header| header.revision());
    let deadline = Instant::now() + 30 * SECOND;
    while world.observer.position() < revision {
        assert!(Instant::now() < deadline, "the observer sees the deletion");
        sleep(Duration::from_millis(10)).await;
    }
    let options = CompactionOptions::new().with_physical();
    client.compact(revision, Some(options)).await.expect("etcd compacts");
    client.defragment().await.expect("etcd defragments");
    let alarms = client.alarm(AlarmAction::Get, AlarmType::None, None).await.expect("etcd tells its alarms");
    world.felt("alarms", alarms.alarms().len() as u64);
    for alarm in alarms.alarms() {
        let mut member = AlarmOptions::new();
        member.with_member(alarm.member_id());
        client
            .alarm(AlarmAction::Deactivate, AlarmType::Nospace, Some(member))
            .await
            .expect("the alarm ends");
    }
    world.note("there is space again");
}
