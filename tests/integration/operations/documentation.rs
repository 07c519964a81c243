//! `docs/metrics.md` is made from the table of metrics.

use etcd_rules::metrics::{BUCKETS, Kind, METRICS};
use std::fmt::Write;

#[test]
fn the_documentation_of_the_metrics_is_that_of_the_table() {
    super::assert_generated("docs/metrics.md", &metrics());
}

fn metrics() -> String {
    let bounds = |bounds: &[f64]| bounds.iter().map(|b| format!("{b}")).collect::<Vec<_>>().join(", ");
    let mut text = format!(
        "# Metrics

<!-- Made from the table in src/metrics/table.rs: REGENERATE=1 cargo test --test integration operations:: -->

An engine records these through the crate [metrics](https://docs.rs/metrics); the feature `prometheus` serves them.
Install the recorder before the engine starts. Almost all series are there, at zero, from then on.

Labels: `engine` is the engine's name ([`EngineBuilder::name`](https://docs.rs/etcd-rules)), `rule` a rule's id; the
others have the values given here. No label holds a key or an instance. A rule has {per_rule} series (with the
exporter's buckets), an engine {per_engine} and more.

Histograms in seconds have the buckets {seconds}. They are no summaries: quantiles are
`histogram_quantile(0.99, sum by (le) (rate(NAME_bucket[5m])))`, over any number of engines. The exporter writes the
text format without exemplars, which the crate `metrics-exporter-prometheus` does not carry; the
spans of a firing lead from a rule to a trace.

`etcd_rules_workqueue_*` have the meaning of client-go's `workqueue_*`: replace the label `name` by `rule`. An
instance is an item, a slot is a worker. What is added while it is worked on counts when it is queued again.

## Stages

`etcd_rules_stage_duration_seconds` splits what `etcd_rules_trigger_latency_seconds` adds up, and goes on after it:

| stage | from | to | slow because |
|---|---|---|---|
| `delivery` | a message of the watch was received | the index has taken its changes | more changes than the index can take; no CPU |
| `decide` | the index has taken it | decided, looks before the lock included | slow comparisons; a change that concerns very many instances |
| `queue` | due | a slot is free | the limits of the engine or the rule, its rate limit too; callbacks that take long; the slow-down of ineffective firings |
| `lock` | a slot is free | the lock is taken | etcd is slow; no lease; attempts that failed and were repeated |
| `start` | the lock is taken | the application's runtime takes the callback up | that runtime is blocked or overloaded |
| `callback` | the callback starts | it has ended | your code |
| `commit` | it has ended | its effects and the unlock are in etcd | etcd is slow; repeats after failures |

`delivery` is there only for what the index told: a change that the watch delivered, or what a snapshot or a crawl found,
which is 0; not after a wait. `lock` is not there for optimistic rules. How long etcd took to send a message is in none of
them: the message does not say when its change was made.

## Table

| name | kind | labels | meaning |
|---|---|---|---|
",
        seconds = bounds(BUCKETS),
        per_rule = series(true),
        per_engine = series(false),
    );
    for metric in METRICS {
        let kind = format!("{:?}", metric.kind).to_lowercase();
        let mut labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        if !metric.values.is_empty() {
            let last = labels.last_mut().expect("values belong to a label");
            let values: Vec<String> = metric.values.iter().map(|value| format!("`{value}`")).collect();
            let _ = write!(last, " ({})", values.join(", "));
        }
        let _ = writeln!(text, "| `{}` | {kind} | {} | {} |", metric.name, labels.join(", "), metric.help);
    }
    text
}

/// Series of one rule, or of an engine beside its rules.
fn series(of_rule: bool) -> usize {
    let of = METRICS.iter().filter(|metric| metric.labels.contains(&"rule") == of_rule);
    of.map(|metric| {
        let one = if metric.kind == Kind::Histogram { BUCKETS.len() + 3 } else { 1 };
        one * metric.values.len().max(1)
    })
    .sum()
}
