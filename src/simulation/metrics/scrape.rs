//! A scrape as numbers by series, the changes between two scrapes, and the text that describes the expected
//! changes.
//!
//! A series is written without the prefix `etcd_rules_` and without quotes: `callbacks_total{outcome=done}`.
//! Most acts have one engine `e` and one rule `r`, and these labels are left out too.

use crate::metrics::{BUCKETS, Kind, METRICS, Metric};
use std::collections::BTreeMap;

/// All series except the buckets, which [`Scrape::wrong_buckets`] checks.
#[derive(Default)]
pub(super) struct Scrape {
    values: BTreeMap<String, f64>,
    /// The bounds and counts of each series, without the label `le`.
    buckets: BTreeMap<String, Vec<(f64, f64)>>,
}

impl Scrape {
    pub(super) fn new(text: &str) -> Self {
        let mut scrape = Self::default();
        for line in text.lines().filter_map(|line| line.strip_prefix("etcd_rules_")) {
            let (series, value) = line.rsplit_once(' ').expect("a series and a value");
            let value: f64 = value.parse().expect("a number");
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let labels = labels.trim_end_matches('}').replace('"', "");
            let labels = labels.split(',').filter(|label| !["", "engine=e", "rule=r"].contains(label));
            let (bounds, labels): (Vec<&str>, Vec<&str>) = labels.partition(|label| label.starts_with("le="));
            let series =
                if labels.is_empty() { name.to_owned() } else { format!("{name}{{{}}}", labels.join(",")) };
            match bounds.first() {
                None => {
                    scrape.values.insert(series, value);
                }
                Some(bound) => {
                    let bound = bound.trim_start_matches("le=").parse().expect("a bound");
                    let series = series.replacen("_bucket", "", 1);
                    scrape.buckets.entry(series).or_default().push((bound, value));
                }
            }
        }
        scrape
    }

    /// Counters and histograms that grew, with the increase. Gauges that have changed, with the new value.
    pub(super) fn changes(&self, before: &Self) -> BTreeMap<String, f64> {
        let changed = self.values.iter().filter_map(|(series, now)| {
            let earlier = before.values.get(series).copied().unwrap_or(0.0);
            let value = if kind(series) == Kind::Gauge { *now } else { now - earlier };
            ((now - earlier).abs() > 1e-9).then(|| (series.clone(), value))
        });
        changed.collect()
    }

    /// Histograms whose buckets don't fit their count and sum, or are not the documented ones.
    pub(super) fn wrong_buckets(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        for (series, buckets) in &self.buckets {
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let of = |suffix: &str| {
                let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}") };
                self.values.get(&format!("{name}_{suffix}{labels}")).copied().unwrap_or(f64::NAN)
            };
            let (count, sum) = (of("count"), of("sum"));
            let bounds: Vec<f64> = buckets.iter().map(|(bound, _)| *bound).collect();
            let finite = &bounds[..bounds.len() - 1];
            if name.ends_with("_seconds") && finite != BUCKETS
                || buckets.last() != Some(&(f64::INFINITY, count))
            {
                wrong.push(format!("{series} has the buckets {buckets:?}, and counts {count}"));
            }
            // Each value is above the bound of the bucket before its own, and not above the bound of its own.
            let (mut least, mut most, mut below, mut from) = (0.0, 0.0, 0.0, 0.0);
            for (bound, up_to) in buckets {
                least += from * (up_to - below);
                most += if *up_to > below { bound * (up_to - below) } else { 0.0 };
                (below, from) = (*up_to, *bound);
            }
            if sum < least - 1e-9 || sum > most + 1e-9 {
                wrong.push(format!("{series} has the sum {sum}, its buckets tell {least} to {most}"));
            }
        }
        wrong
    }
}

fn kind(series: &str) -> Kind {
    let known = METRICS.iter().find(|metric| is_of(series, metric));
    known.unwrap_or_else(|| panic!("{series} is not in the table")).kind
}

/// Whether the metric has this series.
pub(super) fn is_of(series: &str, metric: &Metric) -> bool {
    let suffixes: &[&str] = if metric.kind == Kind::Histogram { &["_count", "_sum"] } else { &[""] };
    let name = series.split('{').next().unwrap_or_default();
    let suffix = name.strip_prefix(metric.name.trim_start_matches("etcd_rules_"));
    suffix.is_some_and(|suffix| suffixes.contains(&suffix))
}

/// Words for series that change together, so that an act shows only what is particular to it.
const TOGETHER: &[(&str, &[&str])] = &[
    // One request with one transaction.
    (
        "transactions",
        &[
            "etcd_requests_total{request=txn,result=ok}",
            "etcd_request_duration_seconds_count{request=txn}",
            "batch_entries_count",
            "batch_entries_sum",
        ],
    ),
    // A slot, the lock, and the callback begins.
    (
        "started",
        &[
            "workqueue_queue_duration_seconds_count",
            "lock_attempts_total{result=won}",
            "trigger_latency_seconds_count",
            "stage_duration_seconds_count{stage=decide}",
            "stage_duration_seconds_count{stage=queue}",
            "stage_duration_seconds_count{stage=lock}",
            "stage_duration_seconds_count{stage=start}",
        ],
    ),
    // The callback ends, and its firing is closed.
    (
        "closed",
        &[
            "stage_duration_seconds_count{stage=callback}",
            "stage_duration_seconds_count{stage=commit}",
            "commits_total{result=committed}",
            "workqueue_work_duration_seconds_count",
        ],
    ),
];

/// Reads expected changes: series with their values, separated by semicolons or new lines. `started 3` means
/// three of each series that goes [`TOGETHER`] by that name. `request get 3` means three requests that were
/// answered. A series that is named twice gets the sum.
pub(super) fn lines(text: &str) -> BTreeMap<String, f64> {
    let mut expected = BTreeMap::new();
    for part in text.split([';', '\n']) {
        let Some((series, value)) = part.trim().rsplit_once(' ') else { continue };
        let value: f64 = value.parse().unwrap_or_else(|_| panic!("no number: {part}"));
        let series = series.trim();
        let together = TOGETHER.iter().find(|(word, _)| *word == series);
        let all: Vec<String> = match (together, series.strip_prefix("request ")) {
            (Some((_, all)), _) => all.iter().map(|series| (*series).to_owned()).collect(),
            (None, Some(request)) => vec![
                format!("etcd_requests_total{{request={request},result=ok}}"),
                format!("etcd_request_duration_seconds_count{{request={request}}}"),
            ],
            (None, None) => vec![series.to_owned()],
        };
        for series in all {
            *expected.entry(series).or_insert(0.0) += value;
        }
    }
    expected
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_compared_without_what_all_have() {
        let before = Scrape::new("etcd_rules_callbacks_total{engine=\"e\",rule=\"r\",outcome=\"done\"} 2\n");
        let now = Scrape::new(
            "etcd_rules_callbacks_total{engine=\"e\",rule=\"r\",outcome=\"done\"} 5\n\
             etcd_rules_restarts_total{engine=\"e\"} 0\netcd_rules_slots{engine=\"e\",rule=\"x\"} 7\n",
        );
        let expected =
            lines("callbacks_total{outcome=done} 1; callbacks_total{outcome=done} 2\nslots{rule=x} 7");
        assert_eq!(now.changes(&before), expected);
    }

    #[test]
    fn buckets_that_do_not_fit_are_found() {
        let scrape = |buckets: &str, sum: &str| {
            let name = "etcd_rules_batch_entries";
            let line = |(bound, count)| format!("{name}_bucket{{engine=\"e\",le=\"{bound}\"}} {count}\n");
            let text: String = buckets.split(' ').filter_map(|pair| pair.split_once(':')).map(line).collect();
            Scrape::new(&format!("{text}{name}_count{{engine=\"e\"}} 3\n{name}_sum{{engine=\"e\"}} {sum}\n"))
        };
        assert_eq!(scrape("1:1 2:3 +Inf:3", "5").wrong_buckets(), Vec::<String>::new());
        assert_eq!(scrape("1:1 2:3 +Inf:3", "6").wrong_buckets().len(), 1, "too much");
        assert_eq!(scrape("1:0 2:3 +Inf:3", "2").wrong_buckets().len(), 1, "too little");
        assert_eq!(scrape("1:1 2:2 +Inf:2", "2.5").wrong_buckets().len(), 1, "one is missing");
    }
}
