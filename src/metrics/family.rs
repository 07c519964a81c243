//! Handles of metrics. They are made once, so that recording is an atomic operation without a look-up or an
//! allocation.

use super::Metric;
use ::metrics::{Counter, Gauge, Histogram, Label, counter, gauge, histogram};

/// The labels that a group of handles shares.
#[derive(Clone)]
pub(super) struct Labels(Vec<Label>);

/// A handle that can be made from a metric and its labels.
pub(super) trait Handle {
    fn make(metric: &Metric, labels: Vec<Label>) -> Self;
}

impl Handle for Counter {
    fn make(metric: &Metric, labels: Vec<Label>) -> Self {
        let counter = counter!(metric.name, labels);
        // The series exists before anything happens, so that a rate includes the first increment.
        counter.increment(0);
        counter
    }
}

impl Handle for Gauge {
    fn make(metric: &Metric, labels: Vec<Label>) -> Self {
        let gauge = gauge!(metric.name, labels);
        gauge.set(0.0);
        gauge
    }
}

impl Handle for Histogram {
    fn make(metric: &Metric, labels: Vec<Label>) -> Self {
        histogram!(metric.name, labels)
    }
}

impl Labels {
    pub(super) fn engine(engine: &str) -> Self {
        Self(vec![Label::new("engine", engine.to_owned())])
    }

    pub(super) fn and(&self, name: &'static str, value: &str) -> Self {
        let mut labels = self.0.clone();
        labels.push(Label::new(name, value.to_owned()));
        Self(labels)
    }

    pub(super) fn one<H: Handle>(&self, metric: &Metric) -> H {
        debug_assert!(
            self.0.iter().map(Label::key).eq(metric.labels.iter().copied()),
            "{} has other labels",
            metric.name
        );
        H::make(metric, self.0.clone())
    }

    /// A handle for each value of the last label.
    pub(super) fn each<H: Handle>(&self, metric: &'static Metric) -> Family<H> {
        let label = metric.labels[metric.labels.len() - 1];
        let handles = metric.values.iter().map(|value| self.and(label, value).one(metric)).collect();
        Family { values: metric.values, handles }
    }
}

/// The handles of one metric, by the value of its last label.
pub(super) struct Family<H> {
    values: &'static [&'static str],
    handles: Box<[H]>,
}

impl<H> Family<H> {
    /// The handle for a value that the table lists. There are few values, so a linear search is quick.
    pub(super) fn get(&self, value: &str) -> Option<&H> {
        let found = self.values.iter().position(|known| *known == value);
        debug_assert!(found.is_some(), "`{value}` is not in the table, which has {:?}", self.values);
        found.map(|at| &self.handles[at])
    }
}

impl Family<Counter> {
    pub(super) fn count(&self, value: &str) {
        if let Some(counter) = self.get(value) {
            counter.increment(1);
        }
    }
}

impl Family<Gauge> {
    pub(super) fn set(&self, value: &str, to: f64) {
        if let Some(gauge) = self.get(value) {
            gauge.set(to);
        }
    }
}

impl Family<Histogram> {
    pub(super) fn record(&self, value: &str, took: std::time::Duration) {
        if let Some(histogram) = self.get(value) {
            histogram.record(took);
        }
    }
}
