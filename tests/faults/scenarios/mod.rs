//! The table of scenarios.

mod engines;
mod keys;
mod members;
mod network;
mod proxies;
mod store;
mod users;

use crate::scenario::Scenario;

/// What does not hold yet, as `docs/reliability.md` calls it.
mod defect {
    pub const LOCK: Option<&str> = Some("a lock that is removed by hand is not noticed");
    pub const LEASE: Option<&str> = Some("a lease that is removed by hand is noticed at its next renewal");
}

/// All of them, in the order in which they run.
pub fn all() -> Vec<Scenario> {
    let all = [
        members::all(),
        network::all(),
        engines::all(),
        keys::all(),
        store::all(),
        users::all(),
        proxies::all(),
    ];
    all.into_iter().flatten().collect()
}
