//! The table of scenarios.

mod engines;
mod keys;
mod members;
mod network;
mod proxies;
mod store;
mod users;

use crate::scenario::Scenario;

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
