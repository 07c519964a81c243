//! Every metric, in one table ([`METRICS`]), and how an engine records them.
//!
//! They go to the recorder of the crate [`metrics`](https://docs.rs/metrics) that is installed *when an
//! engine starts*, so install one before. Without a recorder they cost almost nothing. With the feature
//! `prometheus`, `install_prometheus` installs one.
//!
//! All names begin with `etcd_rules_`. Units are seconds and bytes. The label `engine` is the engine's
//! configured name, and `rule` is the rule's id. No label ever holds a key or an instance. Almost all series
//! exist from the start of the engine, with the value zero.
//!
//! The metrics `workqueue_*` mean the same as those of client-go with the same names, with the label `rule`
//! instead of `name`. An instance is an item, and a slot is a worker.

mod family;
mod meters;
mod table;
mod workqueue;

pub(crate) use meters::Meters;
pub use table::METRICS;
pub(crate) use workqueue::{WorkqueueDepth, WorkqueueEvent};

use ::metrics::{Unit, describe_counter, describe_gauge, describe_histogram, gauge};

/// The kind of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A value that only grows.
    Counter,
    /// A value that goes up and down.
    Gauge,
    /// A distribution, in the unit that the name ends with.
    Histogram,
}

/// One metric of this crate.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Metric {
    /// The full name.
    pub name: &'static str,
    /// The kind.
    pub kind: Kind,
    /// The names of the labels.
    pub labels: &'static [&'static str],
    /// The values that the last label can have. Empty if the application chooses them.
    pub values: &'static [&'static str],
    /// What it means.
    pub help: &'static str,
}

/// Registers descriptions of all metrics with the recorder that is installed.
pub fn describe() {
    for metric in METRICS {
        let unit = match metric.name {
            name if name.ends_with("_seconds") => Unit::Seconds,
            name if name.ends_with("_bytes") => Unit::Bytes,
            _ => Unit::Count,
        };
        match metric.kind {
            Kind::Counter => describe_counter!(metric.name, unit, metric.help),
            Kind::Gauge => describe_gauge!(metric.name, unit, metric.help),
            Kind::Histogram => describe_histogram!(metric.name, unit, metric.help),
        }
    }
    gauge!(table::BUILD.name, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
}

/// Bounds of the histogram buckets in seconds: from 100 µs to 5 minutes.
pub const BUCKETS: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    30.0, 60.0, 120.0, 300.0,
];

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
