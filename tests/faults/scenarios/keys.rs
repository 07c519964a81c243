//! What happens to keys and values.

use crate::history::{ByHand, Expect};
use crate::jobs::{self, Job};
use crate::moment::now;
use crate::scenario::Scenario;
use crate::world::{Settings, World};
use etcd_client::Client;
use rand::RngExt;
use std::collections::BTreeSet;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

pub fn all() -> Vec<Scenario> {
    vec![
        Scenario {
            settings: long_locks,
            ..Scenario::new(
                "locks-removed",
                "somebody deletes locks by hand, in the middle of their callbacks",
                |world| Box::pin(locks_removed(world, false)),
            )
        },
        Scenario {
            // Nothing else tells the engine: it takes no other lock under the lease meanwhile.
            settings: || Settings { rate: 0, ..long_locks() },
            ..Scenario::new(
                "leases-removed",
                "somebody revokes leases of locks by hand, in the middle of their callbacks",
                |world| Box::pin(locks_removed(world, true)),
            )
        },
        Scenario {
            settings: || Settings { members: 1, ..Settings::default() },
            expect: || Expect { memory: 1024, ..Expect::default() },
            ..Scenario::new("large-values", "values of 1 MiB, while connections are reset", |world| {
                Box::pin(large_values(world))
            })
        },
        Scenario {
            settings: || Settings { members: 1, ..Settings::default() },
            ..Scenario::new(
                "random-bytes",
                "values of random bytes, names of odd characters, and keys that are no text at all",
                |world| Box::pin(random_bytes(world)),
            )
        },
    ]
}

fn long_locks() -> Settings {
    Settings { members: 1, lock_ttl: 60 * SECOND, ..Settings::default() }
}

async fn locks_removed(world: &mut World, with_lease: bool) {
    // Much longer after the removal than it may take to be noticed.
    world.begin_long_work(jobs::LOCKED, 12, 15 * SECOND).await;
    world.pause(1.5..8.0).await;
    let running = world.running();
    let locks = world.locks().await;
    let mut client = world.client().await;
    let removed = match with_lease {
        true => {
            let (victim, _) = world.busiest();
            let of_victim = locks.iter().filter(|(_, token, _)| running.get(token) == Some(&victim));
            let leases: BTreeSet<i64> = of_victim.map(|(_, _, lease)| *lease).collect();
            for lease in &leases {
                client.lease_revoke(*lease).await.expect("a lease is revoked");
                let gone = locks.iter().filter(|(.., its_lease)| its_lease == lease);
                world.by_hand.extend(gone.map(|(_, token, _)| ByHand { at: now(), token: *token }));
            }
            leases.len() as u64
        }
        false => {
            // Locks that were taken together have one token: all of them go, or none.
            let tokens: BTreeSet<i64> = running.into_keys().take(4).collect();
            let mut removed = 0;
            for (key, token, _) in locks.into_iter().filter(|(_, token, _)| tokens.contains(token)) {
                removed += delete(&mut client, key).await;
                world.by_hand.push(ByHand { at: now(), token });
            }
            removed
        }
    };
    world.felt("locks or leases were removed", removed);
    world.pause(6.0..10.0).await;
}

async fn delete(client: &mut Client, key: Vec<u8>) -> u64 {
    client.delete(key, None).await.expect("a lock is deleted").deleted() as u64
}

async fn large_values(world: &mut World) {
    let mut ballast = vec![0; 1 << 20];
    for number in 0..30 {
        world.rng.fill(&mut ballast[..]);
        let job = Job { work_ms: 100, reads: 1, ..Job::default() };
        let kind = if number % 2 == 0 { jobs::LOCKED } else { jobs::OPTIMISTIC };
        world.load.ask_each(kind, [(format!("large{number}"), job.value(&ballast))]).await;
        if number % 10 == 5 {
            world.links.iter().flatten().for_each(crate::proxy::Proxy::reset);
        }
    }
    let forwarded = world.sum_of_links(|felt| felt.forwarded);
    world.felt("more than 30 MiB went to engines", u64::from(forwarded > 30 << 20));
}

async fn random_bytes(world: &mut World) {
    const ODD: [char; 16] =
        ['%', ' ', '\0', '\n', 'ü', '∞', '😀', ':', '*', '?', '.', '"', '\\', '\u{7f}', '\u{feff}', 'a'];
    let mut client = world.client().await;
    for number in 0..200 {
        let length = world.rng.random_range(1..20);
        let odd: String = (0..length).map(|_| ODD[world.rng.random_range(0..ODD.len())]).collect();
        let size = world.rng.random_range(0..300);
        let ballast: Vec<u8> = (0..size).map(|_| world.rng.random()).collect();
        let job = Job { work_ms: 5, reads: 1, ..Job::default() };
        for kind in jobs::KINDS {
            world.load.ask_each(kind, [(format!("{odd}{number}"), job.value(&ballast))]).await;
        }
        // Nobody's business: not text, or too deep, or empty.
        let mut strange = b"/todo/locked/".to_vec();
        strange.extend_from_slice([&b"\xff\xfe"[..], b"a/b", b""][number % 3]);
        client.put(strange, ballast, None).await.expect("etcd takes any key");
    }
    for strange in [&b"/todo/locked/\xff\xfe"[..], b"/todo/locked/a/b", b"/todo/locked/"] {
        client.delete(strange, None).await.expect("etcd deletes any key");
    }
    world.felt("strange keys were put", 600);
}
