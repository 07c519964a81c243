//! Notes how long crawls took, from the engine's metrics.

use metrics::{Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use std::sync::{Arc, Mutex};

#[derive(Clone, Default)]
pub struct Crawls(Arc<Mutex<Vec<f64>>>);

impl Crawls {
    pub fn install(&self) {
        metrics::set_global_recorder(self.clone()).expect("the first recorder");
    }

    /// Seconds that each took.
    pub fn take(&self) -> Vec<f64> {
        std::mem::take(&mut self.0.lock().expect("no panic"))
    }
}

impl HistogramFn for Crawls {
    fn record(&self, seconds: f64) {
        self.0.lock().expect("no panic").push(seconds);
    }
}

impl Recorder for Crawls {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        match key.name() {
            "etcd_rules_crawl_duration_seconds" => Histogram::from_arc(Arc::new(self.clone())),
            _ => Histogram::noop(),
        }
    }
}
