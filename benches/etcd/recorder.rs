//! Records from the engine's metrics how long crawls took, and how many attempts to take a lock failed.

use metrics::{
    Counter, CounterFn, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

#[derive(Clone, Default)]
pub struct BenchRecorder {
    crawls: Arc<Crawls>,
    lost: Arc<Lost>,
}

#[derive(Default)]
struct Crawls(Mutex<Vec<f64>>);

#[derive(Default)]
struct Lost(AtomicUsize);

impl BenchRecorder {
    pub fn install(&self) {
        metrics::set_global_recorder(self.clone()).expect("the first recorder");
    }

    /// The duration of each crawl in seconds.
    pub fn crawls(&self) -> Vec<f64> {
        self.crawls.0.lock().expect("no panic").clone()
    }

    /// The attempts to take a lock that failed.
    pub fn lost(&self) -> usize {
        self.lost.0.load(Ordering::Relaxed)
    }
}

impl HistogramFn for Crawls {
    fn record(&self, seconds: f64) {
        self.0.lock().expect("no panic").push(seconds);
    }
}

impl CounterFn for Lost {
    fn increment(&self, value: u64) {
        self.0.fetch_add(value as usize, Ordering::Relaxed);
    }

    fn absolute(&self, value: u64) {
        self.0.store(value as usize, Ordering::Relaxed);
    }
}

impl Recorder for BenchRecorder {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let won = key.labels().any(|label| label.key() == "result" && label.value() == "won");
        match key.name() {
            "etcd_rules_lock_attempts_total" if !won => Counter::from_arc(self.lost.clone()),
            _ => Counter::noop(),
        }
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        match key.name() {
            "etcd_rules_crawl_duration_seconds" => Histogram::from_arc(self.crawls.clone()),
            _ => Histogram::noop(),
        }
    }
}
