//! Worlds: what the etcd of a schedule is like, beyond one server that everybody may use. Each has a file of its own:
//! what its steps are, how they are chosen and carried out, and what is promised there beyond what always holds.

pub(super) mod compactions;
pub(super) mod errors;
pub(super) mod members;
pub(super) mod removed;
pub(super) mod restored;
pub(super) mod users;

use super::checker::Violation;
use super::history::Event;
use super::plan::Plan;
use std::time::Duration;

/// What is wrong by the promises of the worlds.
pub(super) fn check(plan: &Plan, events: &[(Duration, Event)]) -> Vec<Violation> {
    let all = [
        members::check(plan, events),
        removed::check(plan, events),
        users::check(plan, events),
        compactions::check(plan, events),
    ];
    all.concat()
}
