//! The rows of the table, by group.

mod costs;
mod death;
mod instant;
mod join;
mod model;
mod slots;
mod slow;

use crate::Bench;
use crate::report::Row;

const GROUPS: [&str; 7] = ["costs", "instant", "slots", "slow", "death", "join", "model"];

/// The groups to run, in order: those that were named, or all.
pub fn groups(named: &[String]) -> Vec<&'static str> {
    let wanted =
        |group: &&str| named.is_empty() || named.iter().any(|named| group.starts_with(named.as_str()));
    let groups: Vec<&str> = GROUPS.into_iter().filter(wanted).collect();
    assert!(!groups.is_empty(), "no such group: {named:?}");
    groups
}

pub async fn measure(bench: Bench, group: &'static str) -> Vec<Row> {
    let bench = &bench;
    match group {
        "costs" => costs::rows(bench).await,
        "instant" => instant::rows(bench).await,
        "slots" => slots::rows(bench).await,
        "slow" => slow::rows(bench).await,
        "death" => death::rows(bench).await,
        "join" => join::rows(bench).await,
        "model" => model::rows(bench).await,
        other => unreachable!("no group `{other}`"),
    }
}

/// Job number `n`, which is to be done.
fn new_job(n: usize) -> (String, String) {
    (format!("/jobs/job-{n:07}"), "new".into())
}

/// A figure of every round.
fn each<T>(rounds: &[T], figure: impl Fn(&T) -> f64) -> Vec<f64> {
    rounds.iter().map(figure).collect()
}
