//! What expressions of Prometheus ask for: that it exists is checked against the table of metrics.

use etcd_rules::metrics::{Kind, METRICS};

/// Fails if an expression asks for a metric, a label or a value that does not exist; returns the metrics.
pub(crate) fn check(expression: &str) -> Vec<&'static str> {
    let mut asked = Vec::new();
    for (at, _) in expression.match_indices("etcd_rules_") {
        let rest = &expression[at..];
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        let (name, rest) = rest.split_at(end);
        let found = METRICS.iter().find(|metric| {
            let suffixes: &[&str] = match metric.kind {
                Kind::Histogram => &["_bucket", "_sum", "_count"],
                _ => &[""],
            };
            name.strip_prefix(metric.name).is_some_and(|suffix| suffixes.contains(&suffix))
        });
        let metric = found.unwrap_or_else(|| panic!("{name} does not exist: {expression}"));
        asked.push(metric.name);
        let selector = rest.strip_prefix('{').and_then(|rest| Some(rest.split_once('}')?.0)).unwrap_or("");
        for matcher in selector.split("\",").filter(|matcher| !matcher.trim().is_empty()) {
            let label: String =
                matcher.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            let of_target = ["job", "instance", "le"].contains(&label.as_str());
            assert!(
                of_target || metric.labels.contains(&label.as_str()),
                "{name} has no label {label}: {expression}"
            );
            let last = metric.labels.last().is_some_and(|last| *last == label);
            if last && !metric.values.is_empty() {
                let values = matcher.split_once('"').map_or("", |(_, values)| values).trim_end_matches('"');
                for value in values.split('|').filter(|value| !value.starts_with('$')) {
                    assert!(metric.values.contains(&value), "{name} never has {label} {value}: {expression}");
                }
            }
        }
    }
    asked
}

#[test]
fn expressions_that_ask_for_what_is_not_there_are_found() {
    let wrong = [
        "rate(etcd_rules_nothing_total[5m])",
        "etcd_rules_health{rule=\"x\"}",
        "etcd_rules_health{state=\"happy\"}",
        "etcd_rules_callbacks_total{job=\"a\",outcome=~\"error|exploded\"}",
        "etcd_rules_trigger_latency_seconds",
        "etcd_rules_drift_total_bucket",
    ];
    for expression in wrong {
        assert!(std::panic::catch_unwind(|| check(expression)).is_err(), "{expression}");
    }
    check("sum(rate(etcd_rules_callbacks_total{job=~\"$job\",outcome=~\"error|panic\"}[5m]))");
}
