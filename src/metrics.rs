//! Every metric, with its kind, labels and meaning, in one table; and the functions that record them.
//!
//! They go to whatever recorder of the crate [`metrics`](https://docs.rs/metrics) is installed; without one
//! they cost nothing worth mentioning. With the feature `prometheus`, `install_prometheus` installs one.
//!
//! All names begin with `etcd_rules_`, units are seconds and bytes. The label `engine` is the engine's
//! configured name, `rule` the rule's id; no label ever holds a key or an instance. A series appears when it
//! is first recorded: no series of `etcd_rules_drift_total` is as good as zero. [`METRICS`] is the table.

use crate::dispatch::end_step::EndEnd;
use crate::dispatch::lock_step::LockEnd;
use crate::dispatch::messages::{Decided, Finish, Verdict};
use crate::engine::{Health, Reason};
use crate::etcd::FailureKind;
use crate::index::Index;
use crate::inspect::{StateCounts, StateKind};
use crate::rule::CompiledRule;
use ::metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use std::collections::HashMap;
use std::time::Duration;

/// The kind of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A distribution, in seconds, or in the unit that the name ends with.
    Histogram,
}

/// One metric of this crate.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Metric {
    /// Full name.
    pub name: &'static str,
    /// Kind.
    pub kind: Kind,
    /// Names of the labels.
    pub labels: &'static [&'static str],
    /// What it tells.
    pub help: &'static str,
}

macro_rules! metrics {
    ($($constant:ident = $name:literal, $kind:ident, [$($label:literal),*], $help:literal;)*) => {
        $(const $constant: &str = $name;)*
        /// All metrics, for documentation, dashboards and their checks.
        ///
        /// | name | kind | labels | meaning |
        /// |---|---|---|---|
        $(#[doc = concat!(
            "| `", $name, "` | ", stringify!($kind), " |", $(" `", $label, "`",)* " | ", $help, " |"
        )])*
        pub const METRICS: &[Metric] = &[
            $(Metric { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help },)*
        ];
    };
}

metrics! {
    TRIGGER = "etcd_rules_trigger_latency_seconds", Histogram, ["engine", "rule"], "From when an instance was found due to the start of its callback";
    LOCK_DURATION = "etcd_rules_lock_duration_seconds", Histogram, ["engine", "rule"], "Time to take a lock, or not to get it";
    LOCKS = "etcd_rules_lock_attempts_total", Counter, ["engine", "rule", "result"], "Attempts to take a lock: won, held, backed_off, untrue, failed";
    CALLBACK = "etcd_rules_callback_duration_seconds", Histogram, ["engine", "rule"], "Run time of callbacks";
    CALLBACKS = "etcd_rules_callbacks_total", Counter, ["engine", "rule", "outcome"], "Callbacks ended: done, retry_after, gave_up, error, panic, timeout, cancelled";
    COMMIT_DURATION = "etcd_rules_commit_duration_seconds", Histogram, ["engine", "rule"], "Time of the transaction that ends a firing, repeats included";
    COMMITS = "etcd_rules_commits_total", Counter, ["engine", "rule", "result"], "Firings closed in etcd: committed, fence_lost, unexpected, backed_off, refused, failed";
    INEFFECTIVE = "etcd_rules_ineffective_firings_total", Counter, ["engine", "rule"], "Firings that succeeded and left the condition true, with nobody else changing a key";
    STUCK = "etcd_rules_stuck_callbacks", Gauge, ["engine", "rule"], "Callbacks that go on although they were told to end";
    INSTANCES_BY_STATE = "etcd_rules_instances_by_state", Gauge, ["engine", "state"], "True instances: queued, running, waiting, held, given_up, idle";
    EVALUATIONS = "etcd_rules_evaluations_total", Counter, ["engine", "rule", "result"], "Instances decided: true, false, failed";
    INSTANCES = "etcd_rules_instances", Gauge, ["engine"], "Rule instances known";
    MIRROR_KEYS = "etcd_rules_mirror_keys", Gauge, ["engine"], "Keys in memory";
    MIRROR_BYTES = "etcd_rules_mirror_bytes", Gauge, ["engine"], "Bytes of the keys and values in memory";
    TOMBSTONES = "etcd_rules_mirror_tombstones", Gauge, ["engine"], "Deleted keys remembered";
    WATCH_EVENTS = "etcd_rules_watch_events_total", Counter, ["engine"], "Changes received by watches";
    WATCH_POSITION = "etcd_rules_watch_position", Gauge, ["engine"], "Revision of the last change received";
    RECONNECTS = "etcd_rules_watch_reconnects_total", Counter, ["engine"], "Watch streams that broke";
    RESYNCS = "etcd_rules_resyncs_total", Counter, ["engine"], "Comparisons with a new snapshot after a compaction";
    SNAPSHOT = "etcd_rules_snapshot_duration_seconds", Histogram, ["engine"], "Time to read and compare a snapshot";
    CRAWL = "etcd_rules_crawl_duration_seconds", Histogram, ["engine"], "Time of a crawl";
    CRAWL_KEYS = "etcd_rules_crawl_keys", Gauge, ["engine"], "Keys read by the last crawl";
    CRAWL_FAILURES = "etcd_rules_crawl_failures_total", Counter, ["engine"], "Crawls that could not be completed";
    DRIFT = "etcd_rules_drift_total", Counter, ["engine"], "Differences between memory and etcd that no event explains; expected: none";
    REQUESTS = "etcd_rules_etcd_requests_total", Counter, ["engine", "request", "result"], "Requests to etcd: ok, unreachable, no_leader, no_space, authentication, permission, lease_gone, compacted, overloaded, rejected";
    REQUEST_DURATION = "etcd_rules_etcd_request_duration_seconds", Histogram, ["engine", "request"], "Duration of requests to etcd";
    BATCH = "etcd_rules_batch_entries", Histogram, ["engine"], "Transactions that travelled in one request";
    RENEWALS = "etcd_rules_lease_renewals_total", Counter, ["engine", "result"], "Renewals of the leases behind locks: ok, failed";
    LEASES_LOST = "etcd_rules_leases_lost_total", Counter, ["engine"], "Leases behind locks that could not be kept; their firings were cancelled";
    KEY_LEASES = "etcd_rules_key_leases_total", Counter, ["engine"], "Leases granted for keys with a TTL";
    ORPHANS = "etcd_rules_orphaned_locks_total", Counter, ["engine"], "Own locks found that nobody works under, and freed";
    RESTARTS = "etcd_rules_restarts_total", Counter, ["engine"], "Restarts of the actors after a panic or a restored backup";
    HEALTH = "etcd_rules_health", Gauge, ["engine", "state"], "1 for the state the engine is in: starting, ready, degraded, stopping, stopped, failed; and for what is wrong: lagging, disconnected, no_leader, no_space, auth, permission, lease_lost, overloaded, refused; else 0";
    BUILD = "etcd_rules_build_info", Gauge, ["version"], "Always 1; the label tells the version of this crate";
}

/// Registers descriptions of all metrics with the recorder that is installed.
pub fn describe() {
    for metric in METRICS {
        let unit = if metric.name.ends_with("_seconds") { Unit::Seconds } else { Unit::Count };
        match metric.kind {
            Kind::Counter => describe_counter!(metric.name, unit, metric.help),
            Kind::Gauge => describe_gauge!(metric.name, unit, metric.help),
            Kind::Histogram => describe_histogram!(metric.name, unit, metric.help),
        }
    }
    gauge!(BUILD, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
}

/// Bounds of the histogram buckets in seconds: from 100 µs to 5 minutes.
pub const BUCKETS: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    30.0, 60.0, 120.0, 300.0,
];

pub(crate) fn started(engine: &str, rule: &str, waited: Duration) {
    histogram!(TRIGGER, "engine" => engine.to_owned(), "rule" => rule.to_owned()).record(waited);
}

pub(crate) fn locked(engine: &str, rule: &str, end: &LockEnd, took: Duration) {
    let result = end.result();
    counter!(LOCKS, "engine" => engine.to_owned(), "rule" => rule.to_owned(), "result" => result)
        .increment(1);
    histogram!(LOCK_DURATION, "engine" => engine.to_owned(), "rule" => rule.to_owned()).record(took);
}

pub(crate) fn finished(engine: &str, rule: &str, finish: &Finish, took: Duration) {
    let outcome = finish.outcome();
    counter!(CALLBACKS, "engine" => engine.to_owned(), "rule" => rule.to_owned(), "outcome" => outcome)
        .increment(1);
    histogram!(CALLBACK, "engine" => engine.to_owned(), "rule" => rule.to_owned()).record(took);
}

pub(crate) fn ended(engine: &str, rule: &str, end: &EndEnd, took: Duration) {
    let result = end.result();
    counter!(COMMITS, "engine" => engine.to_owned(), "rule" => rule.to_owned(), "result" => result)
        .increment(1);
    histogram!(COMMIT_DURATION, "engine" => engine.to_owned(), "rule" => rule.to_owned()).record(took);
}

pub(crate) fn stuck(engine: &str, rule: &str, change: f64) {
    gauge!(STUCK, "engine" => engine.to_owned(), "rule" => rule.to_owned()).increment(change);
}

pub(crate) fn ineffective(engine: &str, rule: &str, count: u64) {
    counter!(INEFFECTIVE, "engine" => engine.to_owned(), "rule" => rule.to_owned()).increment(count);
}

pub(crate) fn tally(engine: &str, tally: &StateCounts) {
    for (kind, count) in tally.iter().filter(|(kind, _)| *kind != StateKind::Untrue) {
        gauge!(INSTANCES_BY_STATE, "engine" => engine.to_owned(), "state" => kind.name()).set(count as f64);
    }
}

pub(crate) fn evaluations(engine: &str, rules: &[CompiledRule], decisions: &[Decided]) {
    let mut counts: HashMap<(u32, &'static str), u64> = HashMap::new();
    for decided in decisions {
        if decided.snapshot.len() != rules[decided.rule as usize].slots().len() {
            // The instance is gone: nothing was evaluated.
            continue;
        }
        let result = match decided.verdict {
            Verdict::True(_) => "true",
            Verdict::False => "false",
            Verdict::Failed(_) => "failed",
        };
        *counts.entry((decided.rule, result)).or_default() += 1;
    }
    for ((rule, result), count) in counts {
        let rule = rules[rule as usize].id().to_string();
        counter!(EVALUATIONS, "engine" => engine.to_owned(), "rule" => rule, "result" => result)
            .increment(count);
    }
}

pub(crate) fn index(engine: &str, index: &Index) {
    gauge!(INSTANCES, "engine" => engine.to_owned()).set(index.instances() as f64);
    gauge!(MIRROR_KEYS, "engine" => engine.to_owned()).set(index.keys() as f64);
    gauge!(MIRROR_BYTES, "engine" => engine.to_owned()).set(index.bytes() as f64);
    gauge!(TOMBSTONES, "engine" => engine.to_owned()).set(index.tombstones() as f64);
}

pub(crate) fn watch_batch(engine: &str, changes: usize, position: i64) {
    counter!(WATCH_EVENTS, "engine" => engine.to_owned()).increment(changes as u64);
    gauge!(WATCH_POSITION, "engine" => engine.to_owned()).set(position as f64);
}

pub(crate) fn reconnect(engine: &str) {
    counter!(RECONNECTS, "engine" => engine.to_owned()).increment(1);
}

pub(crate) fn resync(engine: &str) {
    counter!(RESYNCS, "engine" => engine.to_owned()).increment(1);
}

pub(crate) fn snapshot(engine: &str, took: Duration) {
    histogram!(SNAPSHOT, "engine" => engine.to_owned()).record(took);
}

pub(crate) fn crawl(engine: &str, took: Duration, keys: usize, drift: u64) {
    histogram!(CRAWL, "engine" => engine.to_owned()).record(took);
    gauge!(CRAWL_KEYS, "engine" => engine.to_owned()).set(keys as f64);
    counter!(DRIFT, "engine" => engine.to_owned()).increment(drift);
}

pub(crate) fn crawl_failed(engine: &str) {
    counter!(CRAWL_FAILURES, "engine" => engine.to_owned()).increment(1);
}

pub(crate) fn etcd_request(
    engine: &str,
    request: &'static str,
    failure: Option<FailureKind>,
    took: Duration,
) {
    let result = match failure {
        None => "ok",
        Some(FailureKind::Unreachable) => "unreachable",
        Some(FailureKind::NoLeader) => "no_leader",
        Some(FailureKind::NoSpace) => "no_space",
        Some(FailureKind::Authentication) => "authentication",
        Some(FailureKind::Permission) => "permission",
        Some(FailureKind::LeaseGone) => "lease_gone",
        Some(FailureKind::Compacted) => "compacted",
        Some(FailureKind::Overloaded) => "overloaded",
        Some(FailureKind::Rejected) => "rejected",
    };
    counter!(REQUESTS, "engine" => engine.to_owned(), "request" => request, "result" => result).increment(1);
    histogram!(REQUEST_DURATION, "engine" => engine.to_owned(), "request" => request).record(took);
}

pub(crate) fn batch(engine: &str, entries: usize) {
    histogram!(BATCH, "engine" => engine.to_owned()).record(entries as f64);
}

pub(crate) fn lease_renewal(engine: &str, ok: bool) {
    let result = if ok { "ok" } else { "failed" };
    counter!(RENEWALS, "engine" => engine.to_owned(), "result" => result).increment(1);
}

pub(crate) fn lease_lost(engine: &str) {
    counter!(LEASES_LOST, "engine" => engine.to_owned()).increment(1);
}

pub(crate) fn key_lease(engine: &str) {
    counter!(KEY_LEASES, "engine" => engine.to_owned()).increment(1);
}

pub(crate) fn orphan(engine: &str) {
    counter!(ORPHANS, "engine" => engine.to_owned()).increment(1);
}

pub(crate) fn restart(engine: &str) {
    counter!(RESTARTS, "engine" => engine.to_owned()).increment(1);
}

pub(crate) fn health(engine: &str, health: &Health) {
    let states = Health::NAMES.iter().map(|state| (*state, *state == health.name()));
    let reasons = Reason::ALL.iter().map(|reason| (reason.name(), health.has(*reason)));
    for (state, now) in states.chain(reasons) {
        gauge!(HEALTH, "engine" => engine.to_owned(), "state" => state).set(if now { 1.0 } else { 0.0 });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_prometheus_conventions() {
        for metric in METRICS {
            assert!(metric.name.starts_with("etcd_rules_"), "{}", metric.name);
            assert_eq!(metric.kind == Kind::Counter, metric.name.ends_with("_total"), "{}", metric.name);
            assert!(!metric.help.ends_with('.'), "{}", metric.name);
        }
        let mut names: Vec<&str> = METRICS.iter().map(|metric| metric.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), METRICS.len());
    }
}
