//! The table: every metric with its kind, labels and meaning. `docs/metrics.md` is made from it.

use super::{Kind, Metric};

macro_rules! metrics {
    ($($constant:ident = $name:literal, $kind:ident, [$($label:literal),*], [$($value:literal),*], $help:literal;)*) => {
        $(pub(super) const $constant: Metric = Metric {
            name: concat!("etcd_rules_", $name),
            kind: Kind::$kind,
            labels: &[$($label),*],
            values: &[$($value),*],
            help: $help,
        };)*

        /// All metrics, for documentation, dashboards and their checks.
        ///
        /// | name | kind | labels | meaning |
        /// |---|---|---|---|
        $(#[doc = concat!(
            "| `etcd_rules_", $name, "` | ", stringify!($kind), " |", $(" `", $label, "`",)* " | ", $help, " |"
        )])*
        pub const METRICS: &[Metric] = &[$($constant),*];
    };
}

// Name, kind, labels, the values that the last label can have (none: they are not known here), meaning.
metrics! {
    TRIGGER = "trigger_latency_seconds", Histogram, ["engine", "rule"], [],
        "From when an instance became due (the change that made it so was received, a wait was over, another engine's lock was gone) to the start of its callback";
    STAGES = "stage_duration_seconds", Histogram, ["engine", "rule", "stage"],
        ["delivery", "decide", "queue", "lock", "start", "callback", "commit"],
        "Time of a firing in each stage: from received to indexed, deciding, waiting for a slot, taking the lock, waiting for the application's runtime, the callback, the transaction that ends it; all before the callback add up to the trigger latency";
    CALLBACKS = "callbacks_total", Counter, ["engine", "rule", "outcome"],
        ["done", "retry_after", "gave_up", "error", "panic", "timeout", "cancelled"],
        "Callbacks ended";
    IN_FLIGHT = "callbacks_in_flight", Gauge, ["engine", "rule"], [],
        "Callbacks that run";
    STUCK = "stuck_callbacks", Gauge, ["engine", "rule"], [],
        "Callbacks that go on although they were told to end; each keeps its slot";
    INEFFECTIVE = "ineffective_firings_total", Counter, ["engine", "rule"], [],
        "Firings that succeeded and left the condition true, with nobody else changing a key";
    LOCKS = "lock_attempts_total", Counter, ["engine", "rule", "result"],
        ["won", "held", "backed_off", "untrue", "failed"],
        "Attempts to take a lock; held: another engine has it; backed_off: all engines wait after a failure; untrue: the condition did not hold any more";
    LOCKS_LOST = "locks_lost_total", Counter, ["engine", "rule"], [],
        "Firings that lost their lock before they had ended";
    COMMITS = "commits_total", Counter, ["engine", "rule", "result"],
        ["committed", "fence_lost", "unexpected", "backed_off", "refused", "failed"],
        "Firings closed in etcd; fence_lost: the lock was not this firing's any more, nothing took effect; unexpected: an expectation of the commit did not hold";

    DEPTH = "workqueue_depth", Gauge, ["engine", "rule"], [],
        "Instances that wait for a slot, or for a lock that another instance of this engine has";
    ADDS = "workqueue_adds_total", Counter, ["engine", "rule"], [],
        "Times that an instance came to be done";
    QUEUE_DURATION = "workqueue_queue_duration_seconds", Histogram, ["engine", "rule"], [],
        "Time that instances wait in the queue, from due to a slot";
    WORK_DURATION = "workqueue_work_duration_seconds", Histogram, ["engine", "rule"], [],
        "Time that instances have a slot: from the last look before the lock to the end of the commit";
    RETRIES = "workqueue_retries_total", Counter, ["engine", "rule"], [],
        "Times that an instance was put off: after a failure, a delay that the callback asked for, a slow-down, or trouble with etcd";
    UNFINISHED = "workqueue_unfinished_work_seconds", Gauge, ["engine", "rule"], [],
        "Sum of the times that instances which have a slot now have had it";
    LONGEST_RUNNING = "workqueue_longest_running_processor_seconds", Gauge, ["engine", "rule"], [],
        "The longest time that an instance which has a slot now has had it";
    SLOTS = "slots", Gauge, ["engine", "rule"], [],
        "Slots that the rule may have at most";
    PAUSED = "rule_paused", Gauge, ["engine", "rule"], [],
        "1 while the rule is paused in this engine: nothing of it starts; else 0";
    THROTTLED = "rule_throttled", Gauge, ["engine", "rule"], [],
        "1 while the rule's rate limit makes instances wait; else 0";
    DRY_RUN = "rule_dry_run", Gauge, ["engine", "rule"], [],
        "1 while the rule is in a dry run in this engine: no callback starts; else 0";
    WOULD_HAVE_FIRED = "would_have_fired_total", Counter, ["engine", "rule"], [],
        "Times that an instance would have fired, had its rule not been in a dry run";
    ENGINE_SLOTS = "engine_slots", Gauge, ["engine"], [],
        "Slots of all rules together";

    INSTANCES = "instances", Gauge, ["engine", "rule"], [],
        "Rule instances known, true or false";
    INSTANCES_BY_STATE = "instances_by_state", Gauge, ["engine", "rule", "state"],
        ["queued", "running", "waiting", "held", "given_up", "would_fire", "idle"],
        "True instances; running: those that have a slot; held: another engine has the lock, or holds it back; would_fire: the rule is in a dry run";
    FAILING = "failing_instances", Gauge, ["engine", "rule"], [],
        "Instances whose callback failed the last time";
    LONGEST_FAILING = "longest_failing_seconds", Gauge, ["engine", "rule"], [],
        "The longest time that an instance has been failing without a success between";
    EVALUATIONS = "evaluations_total", Counter, ["engine", "rule", "result"], ["true", "false", "failed"],
        "Instances decided; failed: a comparison panicked";

    MIRROR_KEYS = "mirror_keys", Gauge, ["engine"], [],
        "Keys in memory";
    MIRROR_BYTES = "mirror_bytes", Gauge, ["engine"], [],
        "Bytes of the keys and values in memory";
    TOMBSTONES = "mirror_tombstones", Gauge, ["engine"], [],
        "Deleted keys remembered until older reads are over";
    WATCH_EVENTS = "watch_events_total", Counter, ["engine"], [],
        "Changes received by watches";
    WATCH_POSITION = "watch_position", Gauge, ["engine"], [],
        "Revision of the last change received";
    WATCH_LAG = "watch_lag_seconds", Gauge, ["engine"], [],
        "How long the watch that is furthest behind has been behind: broken, catching up, or with changes that the index has not taken; 0 if none is";
    WATCH_LAG_REVISIONS = "watch_lag_revisions", Gauge, ["engine"], [],
        "Revisions that etcd had and the watch had yet to deliver, at its last message; 0 unless it catches up";
    RECONNECTS = "watch_reconnects_total", Counter, ["engine"], [],
        "Watch streams that broke; attempts to open another one are requests";
    RESYNCS = "resyncs_total", Counter, ["engine"], [],
        "Comparisons with a new snapshot because the history that a watch needed was compacted";
    SNAPSHOT = "snapshot_duration_seconds", Histogram, ["engine"], [],
        "Time to read and compare a snapshot";
    CRAWL = "crawl_duration_seconds", Histogram, ["engine"], [],
        "Time of a crawl";
    CRAWL_KEYS = "crawl_keys", Gauge, ["engine"], [],
        "Keys read by the last crawl";
    CRAWL_FAILURES = "crawl_failures_total", Counter, ["engine"], [],
        "Crawls that could not be completed";
    DRIFT = "drift_total", Counter, ["engine"], [],
        "Differences between memory and etcd that no event explains, found and repaired by crawls; expected: none";

    REQUESTS = "etcd_requests_total", Counter, ["engine", "request", "result"],
        ["ok", "unreachable", "no_leader", "no_space", "authentication", "permission", "lease_gone", "compacted", "overloaded", "rejected",
         "wrong_store"],
        "Requests to etcd; a series appears with its first request";
    REQUEST_DURATION = "etcd_request_duration_seconds", Histogram, ["engine", "request"],
        ["connect", "range", "get", "txn", "lease_grant", "lease_renew", "lease_ttl", "lease_revoke", "watch"],
        "Duration of requests to etcd";
    BATCH = "batch_entries", Histogram, ["engine"], [],
        "Transactions that travelled in one request";
    RENEWALS = "lease_renewals_total", Counter, ["engine", "result"], ["ok", "failed"],
        "Renewals of the leases behind locks";
    LEASES_LOST = "leases_lost_total", Counter, ["engine"], [],
        "Leases behind locks that could not be kept; their firings were cancelled";
    KEY_LEASES = "key_leases_total", Counter, ["engine"], [],
        "Leases granted for keys with a TTL and for the marks of failures";
    ORPHANS = "orphaned_locks_total", Counter, ["engine"], [],
        "Own locks found that nobody works under, and freed";
    RESTARTS = "restarts_total", Counter, ["engine"], [],
        "Restarts of the actors after a panic or a restored backup";
    HEALTH = "health", Gauge, ["engine", "state"],
        ["starting", "ready", "degraded", "stopping", "stopped", "failed",
         "lagging", "disconnected", "no_leader", "no_space", "auth", "permission", "lease_lost", "overloaded", "refused",
         "wrong_store"],
        "1 for the state the engine is in, of the first six, and for each thing that is wrong, of the others; else 0";
    BUILD = "build_info", Gauge, ["version"], [],
        "Always 1; the label tells the version of this crate";
}
