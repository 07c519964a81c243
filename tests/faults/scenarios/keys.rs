//! What happens to keys and values.

use crate::history::{ByHand, Expect};
use crate::jobs;
use crate::moment::now;
use crate::scenario::{Scenario, Servers};
use crate::world::{Settings, World};
use std::collections::BTreeSet;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

pub fn all() -> Vec<Scenario> {
    vec![Scenario {
        name: "locks-removed",
        about: "somebody deletes locks by hand, in the middle of their callbacks",
        servers: Servers::Both,
        quick: true,
        known_defect: None,
        settings: || Settings { members: 1, lock_ttl: 30 * SECOND, ..Settings::default() },
        expect: Expect::default,
        fault: |world| Box::pin(locks_removed(world)),
    }]
}

async fn locks_removed(world: &mut World) {
    world.begin_long_work(jobs::LOCKED, 12, 12 * SECOND).await;
    world.pause(1.5..4.0).await;
    // Locks that were taken together have one token: all of them go, or none.
    let tokens: BTreeSet<i64> = world.running().into_keys().take(4).collect();
    let locks = world.locks().await;
    let mut client = world.client().await;
    let mut removed = 0;
    for (key, token, _) in locks.into_iter().filter(|(_, token, _)| tokens.contains(token)) {
        let deleted = client.delete(key, None).await.expect("a lock is deleted").deleted();
        world.by_hand.push(ByHand { at: now(), token });
        removed += deleted as u64;
    }
    world.felt("locks were deleted", removed);
    world.pause(8.0..10.0).await;
}
