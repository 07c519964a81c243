//! The overview: is it healthy, does it keep up, how long from change to callback, what fails.

use super::model::{Dashboard, ENGINE, RULE, View, gauge, panel, quantile, quantiles, rate};

const FAILED: &str = r#"outcome=~"error|panic|timeout""#;

pub(crate) fn dashboard() -> Dashboard {
    Dashboard {
        uid: "etcd-rules-overview",
        title: "etcd-rules / Overview",
        description: "Engines of etcd-rules: are they healthy, do they keep up, how long from change to callback, what fails.",
        by_rule: true,
        rows: vec![
            ("Is it healthy?", healthy()),
            ("How long from change to callback?", latency()),
            ("Does it keep up?", keeps_up()),
            ("What fails?", fails()),
            ("Details", details()),
        ],
    }
}

fn healthy() -> Vec<super::model::Panel> {
    let failures = format!(
        "sum(rate(etcd_rules_callbacks_total{{{RULE},{FAILED}}}[$__rate_interval])) / sum(rate(etcd_rules_callbacks_total{{{RULE}}}[$__rate_interval]))"
    );
    vec![
        panel(View::Number, "Engines not ready", "short",
            "Engines that are starting, degraded, stopping or failed. The row below shows which; the alert EtcdRulesEngineNotReady tells what to do.",
            [(format!(r#"count(etcd_rules_health{{{ENGINE},state="ready"}}) - sum(etcd_rules_health{{{ENGINE},state="ready"}})"#), "")])
            .thresholds(&[(1.0, "red")]),
        panel(View::Number, "Trigger latency, p99", "s",
            "From when an instance became due to the start of its callback, for 99 of 100 firings of the chosen rules.",
            [(quantile(0.99, "", "trigger_latency_seconds", RULE), "")])
            .thresholds(&[(0.5, "yellow"), (2.5, "red")]),
        panel(View::Number, "Watch lag", "s",
            "How long the watch that is furthest behind has been behind: broken, catching up, or with changes that the index has not taken. Expected: 0.",
            [(format!("max(etcd_rules_watch_lag_seconds{{{ENGINE}}})"), "")])
            .thresholds(&[(1.0, "yellow"), (10.0, "red")]),
        panel(View::Number, "Callbacks that fail", "percentunit",
            "Share of callbacks that ended with an error, a panic or a time-out. They are retried with backoff.",
            [(failures, "")])
            .thresholds(&[(0.01, "yellow"), (0.1, "red")]),
        panel(View::Number, "Longest failing", "s",
            "The longest time that an instance has been failing without a success between. It is retried with a growing delay.",
            [(format!("max(etcd_rules_longest_failing_seconds{{{RULE}}})"), "")])
            .thresholds(&[(60.0, "yellow"), (600.0, "red")]),
        panel(View::Number, "Drift, last hour", "short",
            "Differences between memory and etcd that no event explains. Expected: none, ever; anything else is a defect of the engine, of etcd, or of what is between.",
            [(format!("round(sum(increase(etcd_rules_drift_total{{{ENGINE}}}[1h])))"), "")])
            .thresholds(&[(0.5, "red")]),
        panel(View::States, "Ready", "short",
            "Each engine over time: green while it is ready. The engine dashboard tells what is wrong with one that is not.",
            [(gauge("max", "instance, engine", "health", &format!(r#"{ENGINE},state="ready""#)), "{{engine}} {{instance}}")])
            .thresholds(&[(1.0, "green")]),
    ]
}

fn latency() -> Vec<super::model::Panel> {
    let mean = format!(
        r#"{} / on () group_left () sum(rate(etcd_rules_trigger_latency_seconds_count{{{RULE}}}[$__rate_interval]))"#,
        rate("stage", "stage_duration_seconds_sum", &format!(r#"{RULE},stage!~"callback|commit""#)),
    );
    vec![
        panel(View::Latency, "Change to callback", "s",
            "From when an instance became due (its change was received, its wait was over) to the start of its callback. Callbacks that wait for a slot count with their wait.",
            quantiles("trigger_latency_seconds", RULE))
            .thresholds(&[(0.5, "yellow"), (2.5, "red")]),
        panel(View::Stacked, "Where the time goes", "s",
            "Mean time of a firing in each stage before its callback; together they are the mean trigger latency. delivery and decide: the engine's CPU; queue: slots; lock: etcd; start: the application's runtime.",
            [(mean, "{{stage}}")]),
        panel(View::Latency, "Stages, p99", "s",
            "The slowest of a hundred firings in each stage, also of callback and commit, which come after the trigger latency.",
            [(quantile(0.99, "stage", "stage_duration_seconds", RULE), "{{stage}}")]),
        panel(View::Heatmap, "Trigger latency, all firings", "s",
            "Firings by trigger latency: two bands are two kinds of firings, a spread is contention. The darker, the more.",
            [(rate("le", "trigger_latency_seconds_bucket", RULE), "{{le}}")])
            .size(12, 8),
        panel(View::Lines, "Firings", "ops",
            "Callbacks that ended per second, whatever their outcome, by rule.",
            [(rate("rule", "callbacks_total", RULE), "{{rule}}")])
            .size(12, 8),
    ]
}

fn keeps_up() -> Vec<super::model::Panel> {
    let slots = format!(
        r#"sum by (instance, engine) (etcd_rules_instances_by_state{{{ENGINE},state="running"}}) / sum by (instance, engine) (etcd_rules_engine_slots{{{ENGINE}}})"#
    );
    vec![
        panel(View::Lines, "Queue", "short",
            "Instances that wait for a slot, by rule. What grows for long is not kept up with: more concurrency, more engines, or faster callbacks.",
            [(gauge("sum", "rule", "workqueue_depth", RULE), "{{rule}}")]),
        panel(View::Lines, "Slots in use", "percentunit",
            "Share of an engine's slots that firings have. At 100 % new work waits.",
            [(slots, "{{engine}} {{instance}}")])
            .thresholds(&[(0.9, "red")]),
        panel(View::Lines, "Watch lag by engine", "s",
            "How long each engine's furthest watch has been behind etcd. While it grows, changes are not seen.",
            [(gauge("max", "instance, engine", "watch_lag_seconds", ENGINE), "{{engine}} {{instance}}")])
            .thresholds(&[(10.0, "red")]),
    ]
}

fn fails() -> Vec<super::model::Panel> {
    vec![
        panel(
            View::Lines,
            "Callbacks that did not succeed",
            "ops",
            "Callbacks by outcome. error, panic and timeout are retried with backoff; retry_after and gave_up are answers of the callback; cancelled: the lock was lost or the engine stopped.",
            [(rate("outcome", "callbacks_total", &format!(r#"{RULE},outcome!="done""#)), "{{outcome}}")],
        ),
        panel(
            View::Lines,
            "Failing and given up",
            "short",
            "Instances whose callback failed the last time, and instances that are left alone until a key changes.",
            [
                (gauge("sum", "rule", "failing_instances", RULE), "{{rule}} failing"),
                (
                    gauge("sum", "rule", "instances_by_state", &format!(r#"{RULE},state="given_up""#)),
                    "{{rule}} given up",
                ),
            ],
        ),
        panel(
            View::Lines,
            "Locks and leases lost",
            "ops",
            "Firings that lost their lock before they ended, leases that could not be kept, and renewals that failed: etcd or the network was away for too long, or the process stood still.",
            [
                (format!("sum(rate(etcd_rules_locks_lost_total{{{RULE}}}[$__rate_interval]))"), "locks lost"),
                (
                    format!("sum(rate(etcd_rules_leases_lost_total{{{ENGINE}}}[$__rate_interval]))"),
                    "leases lost",
                ),
                (
                    format!(
                        r#"sum(rate(etcd_rules_lease_renewals_total{{{ENGINE},result="failed"}}[$__rate_interval]))"#
                    ),
                    "renewals failed",
                ),
            ],
        ),
        panel(
            View::Lines,
            "Commits that did not take effect",
            "ops",
            "fence_lost: another engine may have the lock by now; unexpected: an expectation of the commit did not hold; refused: etcd refused the transaction itself; failed: not sent, or its outcome is not known.",
            [(rate("result", "commits_total", &format!(r#"{RULE},result!="committed""#)), "{{result}}")],
        ),
        panel(
            View::Lines,
            "Requests to etcd that fail",
            "reqps",
            "By reason, all engines. Empty while every request succeeds.",
            [(rate("result", "etcd_requests_total", &format!(r#"{ENGINE},result!="ok""#)), "{{result}}")],
        ),
        panel(
            View::Lines,
            "Interruptions",
            "short",
            "In the last five minutes: streams that broke and were resumed, comparisons with a new snapshot after a compaction, restarts of the engine's parts. None of them loses a change.",
            [
                (format!("sum(increase(etcd_rules_watch_reconnects_total{{{ENGINE}}}[5m]))"), "reconnects"),
                (format!("sum(increase(etcd_rules_resyncs_total{{{ENGINE}}}[5m]))"), "resyncs"),
                (format!("sum(increase(etcd_rules_restarts_total{{{ENGINE}}}[5m]))"), "restarts"),
            ],
        ),
    ]
}

fn details() -> Vec<super::model::Panel> {
    const RULES: &[super::model::Column] = &[
        ("rule", "string", Some("etcd-rules-rule")),
        ("instances", "short", None),
        ("firings", "ops", None),
        ("failures", "ops", None),
        ("p99", "s", None),
        ("queue", "short", None),
        ("failing", "short", None),
    ];
    const ENGINES: &[super::model::Column] = &[
        ("engine", "string", Some("etcd-rules-engine")),
        ("instance", "string", Some("etcd-rules-engine")),
        ("ready", "short", None),
        ("firings", "ops", None),
        ("p99", "s", None),
        ("watch lag", "s", None),
        ("keys", "short", None),
    ];
    vec![
        panel(
            View::Table(RULES),
            "Rules",
            "short",
            "All chosen rules over all chosen engines; click a rule for its dashboard. instances: the largest number that an engine knows, since all engines know all.",
            [
                (
                    format!(
                        "max by (rule) (sum by (rule, instance, engine) (etcd_rules_instances{{{RULE}}}))"
                    ),
                    "instances",
                ),
                (rate("rule", "callbacks_total", RULE), "firings"),
                (rate("rule", "callbacks_total", &format!("{RULE},{FAILED}")), "failures"),
                (quantile(0.99, "rule", "trigger_latency_seconds", RULE), "p99"),
                (gauge("sum", "rule", "workqueue_depth", RULE), "queue"),
                (gauge("sum", "rule", "failing_instances", RULE), "failing"),
            ],
        ),
        panel(
            View::Table(ENGINES),
            "Engines",
            "short",
            "All chosen engines; click an engine or its instance for its dashboard.",
            [
                (gauge("max", "engine, instance", "health", &format!(r#"{ENGINE},state="ready""#)), "ready"),
                (rate("engine, instance", "callbacks_total", ENGINE), "firings"),
                (quantile(0.99, "engine, instance", "trigger_latency_seconds", ENGINE), "p99"),
                (gauge("max", "engine, instance", "watch_lag_seconds", ENGINE), "watch lag"),
                (gauge("max", "engine, instance", "mirror_keys", ENGINE), "keys"),
            ],
        ),
    ]
}
