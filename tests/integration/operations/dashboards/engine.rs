//! The drill-down of an engine: health, watch, memory, crawl, etcd, leases.

use super::model::{Dashboard, ENGINE, Panel, View, gauge, panel, quantile, quantiles, rate};

const BY: &str = "engine, instance";
const NAME: &str = "{{engine}} {{instance}}";

pub(crate) fn dashboard() -> Dashboard {
    Dashboard {
        uid: "etcd-rules-engine",
        title: "etcd-rules / Engine",
        description: "One engine, or some: what state it is in, what it holds in memory, and how etcd serves it.",
        by_rule: false,
        rows: vec![
            ("Health", health()),
            ("Fleet", wide(fleet())),
            ("Watch and memory", watch()),
            ("Crawl", crawl()),
            ("etcd", wide(etcd())),
            ("Leases and locks", wide(leases())),
        ],
    }
}

/// Two in a row.
fn wide(panels: Vec<Panel>) -> Vec<Panel> {
    panels.into_iter().map(|panel| panel.size(12, 8)).collect()
}

fn health() -> Vec<Panel> {
    let slots = format!(
        r#"sum by ({BY}) (etcd_rules_instances_by_state{{{ENGINE},state="running"}}) / sum by ({BY}) (etcd_rules_engine_slots{{{ENGINE}}})"#
    );
    let version =
        r#"count by (version) (etcd_rules_build_info{job=~"$job",instance=~"$instance"})"#.to_owned();
    vec![
        panel(View::States, "Ready", "short",
            "Green while the engine is ready. What is wrong otherwise is in the panel below.",
            [(gauge("max", BY, "health", &format!(r#"{ENGINE},state="ready""#)), NAME)])
            .thresholds(&[(1.0, "green")]),
        panel(View::Lines, "States and troubles", "short",
            "Engines in each state, and engines with each kind of trouble: lagging, disconnected, no_leader, no_space, auth, permission, lease_lost, overloaded, refused, wrong_store, other_format.",
            [(format!("{} > 0", gauge("sum", "state", "health", ENGINE)), "{{state}}")])
            .size(12, 8),
        panel(View::Latency, "Change to callback", "s",
            "From when an instance became due to the start of its callback, all rules of the chosen engines.",
            quantiles("trigger_latency_seconds", ENGINE))
            .thresholds(&[(0.5, "yellow"), (2.5, "red")])
            .size(12, 8),
        panel(View::Lines, "Slots in use", "percentunit",
            "Share of the engine's slots that firings have. At 100 % new work waits.",
            [(slots, NAME)])
            .thresholds(&[(0.9, "red")]),
        panel(View::Lines, "Restarts", "short",
            "In the last hour: the engine's parts were started again, after a panic of one of them or because etcd was restored from a backup. The log has the reason.",
            [(format!("sum by ({BY}) (increase(etcd_rules_restarts_total{{{ENGINE}}}[1h]))"), NAME)]),
        panel(View::Number, "Versions", "short",
            "Targets by the version of etcd-rules that they run.",
            [(version, "{{version}}")])
            .size(8, 8),
    ]
}

fn fleet() -> Vec<Panel> {
    vec![
        panel(
            View::Lines,
            "Engines alive",
            "short",
            "Engines of the application that are alive, as each engine sees them, and those of them whose rules differ from its own. During a rolling upgrade they differ.",
            [
                (gauge("max", BY, "members", ENGINE), "{{engine}} {{instance}} alive"),
                (gauge("max", BY, "members_differing", ENGINE), "{{engine}} {{instance}} differ"),
            ],
        ),
        panel(
            View::Lines,
            "Share of the callbacks",
            "percentunit",
            "Which part of all callbacks each engine has run. Shares are even if the engines can do the same, and there are many more instances than engines.",
            [(
                format!(
                    "{} / on () group_left () sum (rate(etcd_rules_callbacks_total{{{ENGINE}}}[$__rate_interval]))",
                    rate(BY, "callbacks_total", ENGINE)
                ),
                NAME,
            )],
        ),
        panel(
            View::Lines,
            "Attempts that were lost",
            "ops",
            "Attempts for a lock that another engine had. There are hardly any, unless engines are no members, or the members have just changed.",
            [(rate(BY, "lock_attempts_total", &format!(r#"{ENGINE},result="held""#)), NAME)],
        ),
        panel(
            View::Lines,
            "Taken over, helped with, and overdue",
            "short",
            "In the last five minutes: instances that were another engine's which had gone or could not fire them any more, those of an engine that was behind, and those that another engine had not seen to (expected: none).",
            [
                (
                    format!("sum by ({BY}) (increase(etcd_rules_taken_over_total{{{ENGINE}}}[5m]))"),
                    "{{engine}} {{instance}} taken over",
                ),
                (
                    format!("sum by ({BY}) (increase(etcd_rules_helped_total{{{ENGINE}}}[5m]))"),
                    "{{engine}} {{instance}} helped with",
                ),
                (
                    format!("sum by ({BY}) (increase(etcd_rules_overdue_total{{{ENGINE}}}[5m]))"),
                    "{{engine}} {{instance}} overdue",
                ),
            ],
        ),
    ]
}

fn watch() -> Vec<Panel> {
    vec![
        panel(View::Lines, "Changes received", "ops",
            "Changes that watches delivered per second. Keys that no rule reads count if a watched prefix has them.",
            [(rate(BY, "watch_events_total", ENGINE), NAME)]),
        panel(View::Lines, "Watch lag", "s",
            "How long the engine's furthest watch has been behind: broken, catching up, or with changes that the index has not taken.",
            [(gauge("max", BY, "watch_lag_seconds", ENGINE), NAME)])
            .thresholds(&[(10.0, "red")]),
        panel(View::Lines, "Watch lag in revisions", "short",
            "Revisions that etcd had and the watch had yet to deliver, while it catches up. etcd sends about 1,000 in 100 ms.",
            [(gauge("max", BY, "watch_lag_revisions", ENGINE), NAME)]),
        panel(View::Lines, "Position", "none",
            "Revision of the last change received. It stands still while no watched key changes.",
            [(gauge("max", BY, "watch_position", ENGINE), NAME)]),
        panel(View::Lines, "Reconnects and resyncs", "short",
            "In the last five minutes: streams that broke and were resumed, and comparisons with a new snapshot because history was compacted.",
            [(format!("sum by ({BY}) (increase(etcd_rules_watch_reconnects_total{{{ENGINE}}}[5m]))"), "{{engine}} {{instance}} reconnects"),
             (format!("sum by ({BY}) (increase(etcd_rules_resyncs_total{{{ENGINE}}}[5m]))"), "{{engine}} {{instance}} resyncs")]),
        panel(View::Latency, "Snapshots, p99", "s",
            "Time to read and compare everything watched, at the start, after a compaction, or after a restored backup. No line while there is none.",
            [(quantile(0.99, BY, "snapshot_duration_seconds", ENGINE), NAME)]),
        panel(View::Lines, "Keys in memory", "short",
            "Keys that some rule may read, and deleted keys that are remembered until older reads are over.",
            [(gauge("max", BY, "mirror_keys", ENGINE), "{{engine}} {{instance}} keys"),
             (gauge("max", BY, "mirror_tombstones", ENGINE), "{{engine}} {{instance}} tombstones")]),
        panel(View::Lines, "Memory of keys and values", "bytes",
            "Bytes of the keys and values in memory. What the index needs beside them is not in it.",
            [(gauge("max", BY, "mirror_bytes", ENGINE), NAME)]),
        panel(View::Lines, "Rule instances", "short",
            "Instances known, true or false, of all rules.",
            [(gauge("sum", BY, "instances", ENGINE), NAME)]),
    ]
}

fn crawl() -> Vec<Panel> {
    vec![
        panel(
            View::Lines,
            "Crawl, mean duration",
            "s",
            "Mean time of the crawls of the last 15 minutes; each reads everything and compares. No line while there was none.",
            [(
                format!(
                    "sum by ({BY}) (increase(etcd_rules_crawl_duration_seconds_sum{{{ENGINE}}}[15m])) / sum by ({BY}) (increase(etcd_rules_crawl_duration_seconds_count{{{ENGINE}}}[15m]))"
                ),
                NAME,
            )],
        ),
        panel(
            View::Lines,
            "Keys read by the last crawl",
            "short",
            "Keys below the watched prefixes, of rules or not.",
            [(gauge("max", BY, "crawl_keys", ENGINE), NAME)],
        ),
        panel(
            View::Lines,
            "Drift and failures",
            "short",
            "In the last hour: differences that no event explains, which a crawl repaired (expected: none), and crawls that could not be completed.",
            [
                (
                    format!("sum by ({BY}) (increase(etcd_rules_drift_total{{{ENGINE}}}[1h]))"),
                    "{{engine}} {{instance}} drift",
                ),
                (
                    format!("sum by ({BY}) (increase(etcd_rules_crawl_failures_total{{{ENGINE}}}[1h]))"),
                    "{{engine}} {{instance}} failures",
                ),
            ],
        ),
    ]
}

fn etcd() -> Vec<Panel> {
    vec![
        panel(
            View::Lines,
            "Requests",
            "reqps",
            "Requests to etcd per second, by kind. A txn carries up to 64 locks and commits.",
            [(rate("request", "etcd_requests_total", ENGINE), "{{request}}")],
        ),
        panel(
            View::Lines,
            "Requests that fail",
            "reqps",
            "By kind and reason. Empty while every request succeeds.",
            [(
                rate("request, result", "etcd_requests_total", &format!(r#"{ENGINE},result!="ok""#)),
                "{{request}} {{result}}",
            )],
        ),
        panel(
            View::Latency,
            "Request duration, p99",
            "s",
            "The slowest of a hundred requests of each kind.",
            [(quantile(0.99, "request", "etcd_request_duration_seconds", ENGINE), "{{request}}")],
        ),
        panel(
            View::Lines,
            "Transactions in a request, mean",
            "short",
            "Locks and commits that travel together. More than one: they come faster than etcd answers.",
            [(
                format!(
                    "{} / {}",
                    rate(BY, "batch_entries_sum", ENGINE),
                    rate(BY, "batch_entries_count", ENGINE)
                ),
                NAME,
            )],
        ),
    ]
}

fn leases() -> Vec<Panel> {
    vec![
        panel(
            View::Lines,
            "Lease renewals",
            "ops",
            "Renewals of the leases behind locks, by result. After failures for three quarters of the lock TTL the lease is given up, and its callbacks are cancelled.",
            [(rate("result", "lease_renewals_total", ENGINE), "{{result}}")],
        ),
        panel(
            View::Lines,
            "Leases lost",
            "short",
            "In the last five minutes: leases behind locks that could not be kept; their firings were cancelled.",
            [(format!("sum by ({BY}) (increase(etcd_rules_leases_lost_total{{{ENGINE}}}[5m]))"), NAME)],
        ),
        panel(
            View::Lines,
            "Leases of keys",
            "ops",
            "Leases granted for keys with a TTL and for the marks of failures. Keys share them.",
            [(rate(BY, "key_leases_total", ENGINE), NAME)],
        ),
        panel(
            View::Lines,
            "Orphaned locks",
            "short",
            "In the last hour: own locks that nobody worked under, from requests whose answer never came. They were freed.",
            [(format!("sum by ({BY}) (increase(etcd_rules_orphaned_locks_total{{{ENGINE}}}[1h]))"), NAME)],
        ),
    ]
}
