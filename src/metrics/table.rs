//! The table of all metrics, with their kinds, labels and meanings. `docs/metrics.md` is made from it.

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

// Each line has the name, kind, labels, the values that the last label can have (none if they are not known
// here), and the meaning.
metrics! {
    TRIGGER = "trigger_latency_seconds", Histogram, ["engine", "rule"], [],
        "Time from when an instance became due to the start of its callback; it becomes due when a change is received, a wait is over, or another engine's lock is gone";
    STAGES = "stage_duration_seconds", Histogram, ["engine", "rule", "stage"],
        ["delivery", "decide", "queue", "lock", "start", "callback", "commit"],
        "Time of a firing in each stage: from received to indexed, deciding, waiting for a slot, taking the lock, waiting for the application's runtime, the callback, the transaction that ends it; the stages before the callback add up to the trigger latency";
    CALLBACKS = "callbacks_total", Counter, ["engine", "rule", "outcome"],
        ["done", "retry_after", "gave_up", "error", "panic", "timeout", "cancelled"],
        "Callbacks that have ended";
    IN_FLIGHT = "callbacks_in_flight", Gauge, ["engine", "rule"], [],
        "Callbacks that are running";
    STUCK = "stuck_callbacks", Gauge, ["engine", "rule"], [],
        "Callbacks that go on although they were cancelled; each keeps its slot";
    INEFFECTIVE = "ineffective_firings_total", Counter, ["engine", "rule"], [],
        "Firings that succeeded and left the condition true, although nobody else changed a key";
    SLOWED = "slowed_firings_total", Counter, ["engine", "rule"], [],
        "Firings that were put off because their instance fires too often in this engine, whatever is true in between: rules may undo each other's work";
    TAKEN_OVER = "taken_over_total", Counter, ["engine", "rule"], [],
        "Instances that this engine took over because the engine that owned them had gone, or could not fire them any more";
    HELPED = "helped_total", Counter, ["engine", "rule"], [],
        "Instances that another engine owns which is behind, and that this engine tried while it had free slots";
    OVERDUE = "overdue_total", Counter, ["engine", "rule"], [],
        "Instances that another engine owns and had not seen to for more than three lock TTLs, so that this engine tried them; there should be none";
    LOCKS = "lock_attempts_total", Counter, ["engine", "rule", "result"],
        ["won", "held", "backed_off", "untrue", "changed", "too_large", "failed"],
        "Attempts to take a lock; held: another engine has it; backed_off: all engines wait after a failure; untrue: the condition did not hold any more; changed: a key that the callback is shown had changed, so another attempt reads all of them; too_large: it needs more bytes than etcd takes, so the instance was given up";
    LOCKS_LOST = "locks_lost_total", Counter, ["engine", "rule"], [],
        "Firings that lost their lock before they ended";
    COMMITS = "commits_total", Counter, ["engine", "rule", "result"],
        ["committed", "fence_lost", "unexpected", "backed_off", "refused", "too_large", "unknown", "failed"],
        "Firings closed in etcd; fence_lost: the lock was not this firing's any more, so nothing took effect; unexpected: an expectation of the commit did not hold; unknown: the answer was lost, the lock is gone, and nothing proves that it took effect, so the instance is decided again; too_large: it has more bytes than etcd takes, so the instance was given up";

    DEPTH = "workqueue_depth", Gauge, ["engine", "rule"], [],
        "Instances that wait for a slot, or for a lock that another instance of this engine has";
    ADDS = "workqueue_adds_total", Counter, ["engine", "rule"], [],
        "Times that an instance was added to the queue";
    QUEUE_DURATION = "workqueue_queue_duration_seconds", Histogram, ["engine", "rule"], [],
        "Time that instances wait in the queue, from when they are due to when they get a slot";
    WORK_DURATION = "workqueue_work_duration_seconds", Histogram, ["engine", "rule"], [],
        "Time that instances have a slot, from the last decision before the lock to the end of the commit";
    RETRIES = "workqueue_retries_total", Counter, ["engine", "rule"], [],
        "Times that an instance was put off: after a failure, a delay that the callback asked for, a slow-down, or trouble with etcd";
    UNFINISHED = "workqueue_unfinished_work_seconds", Gauge, ["engine", "rule"], [],
        "Sum of the times for which instances have had the slots that they have now";
    LONGEST_RUNNING = "workqueue_longest_running_processor_seconds", Gauge, ["engine", "rule"], [],
        "The longest time for which an instance has had the slot that it has now";
    SLOTS = "slots", Gauge, ["engine", "rule"], [],
        "The most slots that the rule may have in this engine; other engines have theirs";
    PAUSED = "rule_paused", Gauge, ["engine", "rule"], [],
        "1 while the rule is paused in this engine, so that nothing of it starts; else 0";
    THROTTLED = "rule_throttled", Gauge, ["engine", "rule"], [],
        "1 while the rule's rate limit makes instances wait in this engine, which counts for itself; else 0";
    DRY_RUN = "rule_dry_run", Gauge, ["engine", "rule"], [],
        "1 while the rule is in a dry run in this engine, so that no callback starts; else 0";
    WOULD_HAVE_FIRED = "would_have_fired_total", Counter, ["engine", "rule"], [],
        "Times that an instance would have fired if its rule had not been in a dry run";
    ENGINE_SLOTS = "engine_slots", Gauge, ["engine"], [],
        "Slots of all rules together in this engine; other engines have theirs";

    INSTANCES = "instances", Gauge, ["engine", "rule"], [],
        "Rule instances known, true or false";
    INSTANCES_BY_STATE = "instances_by_state", Gauge, ["engine", "rule", "state"],
        ["queued", "running", "waiting", "held", "given_up", "would_fire", "yielded", "idle"],
        "True instances; running: it has a slot; held: another engine has the lock, or holds the instance back; would_fire: the rule is in a dry run; yielded: another engine owns it, and tries it";
    FAILING = "failing_instances", Gauge, ["engine", "rule"], [],
        "Instances whose callback failed when it last ran";
    LONGEST_FAILING = "longest_failing_seconds", Gauge, ["engine", "rule"], [],
        "The longest time for which an instance has been failing without a success";
    EVALUATIONS = "evaluations_total", Counter, ["engine", "rule", "result"], ["true", "false", "failed"],
        "Instances decided; failed: a comparison panicked";

    MIRROR_KEYS = "mirror_keys", Gauge, ["engine"], [],
        "Keys in memory";
    MIRROR_BYTES = "mirror_bytes", Gauge, ["engine"], [],
        "Bytes of the keys and values in memory";
    TOMBSTONES = "mirror_tombstones", Gauge, ["engine"], [],
        "Deleted keys that are remembered until older reads are over";
    WATCH_EVENTS = "watch_events_total", Counter, ["engine"], [],
        "Changes received by watches";
    WATCH_POSITION = "watch_position", Gauge, ["engine"], [],
        "Revision of the last change received";
    WATCH_LAG = "watch_lag_seconds", Gauge, ["engine"], [],
        "How long the watch that is furthest behind has been behind: broken, catching up, or with changes that the index has not merged; 0 if no watch is behind";
    WATCH_LAG_REVISIONS = "watch_lag_revisions", Gauge, ["engine"], [],
        "Revisions that the watch had yet to deliver at its last message; 0 unless it catches up";
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
        "Differences between memory and etcd that no event explains, found and repaired by crawls; there should be none";

    REQUESTS = "etcd_requests_total", Counter, ["engine", "request", "result"],
        ["ok", "unreachable", "no_leader", "no_space", "authentication", "permission", "lease_gone", "compacted", "overloaded", "rejected",
         "wrong_store"],
        "Requests to etcd; a series appears with its first request";
    REQUEST_DURATION = "etcd_request_duration_seconds", Histogram, ["engine", "request"],
        ["connect", "range", "get", "txn", "lease_grant", "lease_renew", "lease_revoke", "watch"],
        "Duration of requests to etcd";
    BATCH = "batch_entries", Histogram, ["engine"], [],
        "Transactions that shared one request";
    RENEWALS = "lease_renewals_total", Counter, ["engine", "result"], ["ok", "failed"],
        "Renewals of the leases behind locks";
    LEASES_LOST = "leases_lost_total", Counter, ["engine"], [],
        "Leases behind locks that could not be kept; their firings were cancelled";
    KEY_LEASES = "key_leases_total", Counter, ["engine"], [],
        "Leases granted for keys with a TTL and for the marks of failures";
    ORPHANS = "orphaned_locks_total", Counter, ["engine"], [],
        "Locks of this engine under which nobody worked, found and freed";
    RESTARTS = "restarts_total", Counter, ["engine"], [],
        "Restarts of the actors after a panic or a restored backup";
    MEMBERS = "members", Gauge, ["engine"], [],
        "Engines of the application that are alive, as this engine sees them; 0 before it has seen any";
    MEMBERS_DIFFERING = "members_differing", Gauge, ["engine"], [],
        "Of these engines, those whose rules are not this engine's: other ids, conditions or locks";
    HEALTH = "health", Gauge, ["engine", "state"],
        ["starting", "ready", "degraded", "stopping", "stopped", "failed",
         "lagging", "disconnected", "no_leader", "no_space", "auth", "permission", "lease_lost", "overloaded", "refused",
          "wrong_store", "other_format"],
        "The first six values are states: 1 for the state of the engine; the others are problems: 1 for each that there is; else 0";
    BUILD = "build_info", Gauge, ["version"], [],
        "Always 1; the label has the version of this crate";
}
