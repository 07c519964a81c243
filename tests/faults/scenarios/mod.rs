//! The table of scenarios.

mod engines;
mod keys;
mod members;
mod network;

use crate::scenario::Scenario;

/// All of them, in the order in which they run.
pub fn all() -> Vec<Scenario> {
    [members::all(), network::all(), engines::all(), keys::all()].into_iter().flatten().collect()
}
