//! The drill-down of a rule: latency, callbacks, queue, instances, locks.

use super::model::{Dashboard, Panel, RULE, View, gauge, panel, quantile, quantiles, rate};

pub(crate) fn dashboard() -> Dashboard {
    Dashboard {
        uid: "etcd-rules-rule",
        title: "etcd-rules / Rule",
        description: "One rule, or some: how fast it fires, what its callback does, what waits, and why it does not fire.",
        by_rule: true,
        rows: vec![
            ("Latency", latency()),
            ("Callbacks", callbacks()),
            ("Work queue", queue()),
            ("Instances and locks", instances()),
        ],
    }
}

fn latency() -> Vec<Panel> {
    vec![
        panel(
            View::Latency,
            "Change to callback",
            "s",
            "From when an instance became due to the start of its callback.",
            quantiles("trigger_latency_seconds", RULE),
        )
        .thresholds(&[(0.5, "yellow"), (2.5, "red")]),
        panel(
            View::Latency,
            "Stages, p50",
            "s",
            "Half of the firings are faster than this in each stage. Compare with p99 beside it: a stage that is slow in both is slow always.",
            [(quantile(0.5, "stage", "stage_duration_seconds", RULE), "{{stage}}")],
        ),
        panel(
            View::Latency,
            "Stages, p99",
            "s",
            "The slowest of a hundred firings in each stage.",
            [(quantile(0.99, "stage", "stage_duration_seconds", RULE), "{{stage}}")],
        ),
        panel(
            View::Heatmap,
            "Trigger latency, all firings",
            "s",
            "Firings by trigger latency. The darker, the more.",
            [(rate("le", "trigger_latency_seconds_bucket", RULE), "{{le}}")],
        )
        .size(12, 8),
        panel(
            View::Heatmap,
            "Callback duration, all firings",
            "s",
            "Callbacks by run time. The darker, the more.",
            [(rate("le", "stage_duration_seconds_bucket", &format!(r#"{RULE},stage="callback""#)), "{{le}}")],
        )
        .size(12, 8),
    ]
}

fn callbacks() -> Vec<Panel> {
    vec![
        panel(
            View::Lines,
            "Outcomes",
            "ops",
            "Callbacks ended per second, by outcome. error, panic and timeout are retried with backoff.",
            [(rate("outcome", "callbacks_total", RULE), "{{outcome}}")],
        ),
        panel(
            View::Lines,
            "Share of the engines",
            "ops",
            "Callbacks ended per second, by engine: engines share the work by who takes the lock first.",
            [(rate("engine, instance", "callbacks_total", RULE), "{{engine}} {{instance}}")],
        ),
        panel(
            View::Lines,
            "Running and stuck",
            "short",
            "Callbacks that run now, and those that go on although they were told to end: they block their thread, and each keeps its slot.",
            [
                (gauge("sum", "rule", "callbacks_in_flight", RULE), "{{rule}} running"),
                (gauge("sum", "rule", "stuck_callbacks", RULE), "{{rule}} stuck"),
            ],
        ),
        panel(
            View::Lines,
            "Failing instances",
            "short",
            "Instances whose callback failed the last time.",
            [(gauge("sum", "rule", "failing_instances", RULE), "{{rule}}")],
        ),
        panel(
            View::Lines,
            "Failing for",
            "s",
            "The longest time that an instance has been failing without a success between.",
            [(gauge("max", "rule", "longest_failing_seconds", RULE), "{{rule}}")],
        )
        .thresholds(&[(600.0, "red")]),
        panel(
            View::Lines,
            "Ineffective firings",
            "ops",
            "Firings that succeeded and left the condition true: the callback should make it false, or ask to be run again. They are slowed down.",
            [(rate("rule", "ineffective_firings_total", RULE), "{{rule}}")],
        ),
        panel(
            View::Lines,
            "Slowed firings",
            "ops",
            "Firings that were put off because their instance fires too often: another rule may undo its work. The log names it.",
            [(rate("rule", "slowed_firings_total", RULE), "{{rule}}")],
        ),
    ]
}

fn queue() -> Vec<Panel> {
    vec![
        panel(
            View::Lines,
            "Depth",
            "short",
            "Instances that wait for a slot, or for a lock that another instance of the engine has.",
            [(gauge("sum", "rule", "workqueue_depth", RULE), "{{rule}}")],
        ),
        panel(
            View::Lines,
            "Adds and retries",
            "ops",
            "Instances that came to be done per second, and those that were put off after a failure, a delay asked for, a slow-down, or trouble with etcd.",
            [
                (rate("rule", "workqueue_adds_total", RULE), "{{rule}} adds"),
                (rate("rule", "workqueue_retries_total", RULE), "{{rule}} retries"),
            ],
        ),
        panel(
            View::Lines,
            "Slots",
            "short",
            "Slots that the rule has in all chosen engines, and those that it may have at most.",
            [
                (
                    gauge("sum", "rule", "instances_by_state", &format!(r#"{RULE},state="running""#)),
                    "{{rule}} in use",
                ),
                (gauge("sum", "rule", "slots", RULE), "{{rule}} limit"),
            ],
        ),
        panel(
            View::Lines,
            "Controls",
            "short",
            "In how many of the chosen engines the rule is paused or in a dry run, and in how many its rate limit makes instances wait.",
            [
                (gauge("sum", "rule", "rule_paused", RULE), "{{rule}} paused"),
                (gauge("sum", "rule", "rule_dry_run", RULE), "{{rule}} dry run"),
                (gauge("sum", "rule", "rule_throttled", RULE), "{{rule}} throttled"),
            ],
        ),
        panel(
            View::Lines,
            "Would have fired",
            "ops",
            "Times per second that an instance would have fired, had its rule not been in a dry run.",
            [(rate("rule", "would_have_fired_total", RULE), "{{rule}}")],
        ),
        panel(
            View::Latency,
            "Time in the queue",
            "s",
            "How long instances wait for a slot.",
            quantiles("workqueue_queue_duration_seconds", RULE),
        ),
        panel(
            View::Latency,
            "Time with a slot",
            "s",
            "How long instances have a slot: last look, lock, callback and commit together.",
            quantiles("workqueue_work_duration_seconds", RULE),
        ),
        panel(
            View::Lines,
            "Unfinished work",
            "s",
            "Sum, and longest, of the times that instances which have a slot now have had it. A steady rise of the longest is a callback that hangs.",
            [
                (gauge("sum", "rule", "workqueue_unfinished_work_seconds", RULE), "{{rule}} sum"),
                (
                    gauge("max", "rule", "workqueue_longest_running_processor_seconds", RULE),
                    "{{rule}} longest",
                ),
            ],
        ),
    ]
}

fn instances() -> Vec<Panel> {
    vec![
        panel(
            View::Lines,
            "Instances",
            "short",
            "Instances known to each engine, true or false. All engines that see the same keys know the same.",
            [(gauge("sum", "engine, instance", "instances", RULE), "{{engine}} {{instance}}")],
        ),
        panel(
            View::Stacked,
            "True instances by state",
            "short",
            "Over all chosen engines, each of which has its own view: held are those that another engine works on or holds back; idle those whose callback has dealt with what was there.",
            [(gauge("sum", "state", "instances_by_state", RULE), "{{state}}")],
        ),
        panel(
            View::Lines,
            "Decisions",
            "ops",
            "Instances decided per second: true, false, or failed because a comparison panicked.",
            [(rate("result", "evaluations_total", RULE), "{{result}}")],
        ),
        panel(
            View::Lines,
            "Attempts to lock",
            "ops",
            "held: another engine has the lock; backed_off: all engines wait after a failure; untrue: the condition did not hold any more, which the transaction found.",
            [(rate("result", "lock_attempts_total", RULE), "{{result}}")],
        ),
        panel(
            View::Lines,
            "Commits",
            "ops",
            "Firings closed in etcd, by result. Only committed took effect.",
            [(rate("result", "commits_total", RULE), "{{result}}")],
        ),
        panel(
            View::Lines,
            "Locks lost",
            "ops",
            "Firings that lost their lock before they had ended. Their effects on etcd did not take place; those elsewhere may have.",
            [(rate("rule", "locks_lost_total", RULE), "{{rule}}")],
        ),
    ]
}
