//! Counts, from the engine's metrics, the transactions that it sends and the attempts that it loses.

use metrics::{
    Counter, CounterFn, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Clone, Default)]
pub struct FleetRecorder {
    batches: Arc<Batches>,
    txns: Arc<Count>,
    lost: Arc<Count>,
}

#[derive(Default)]
struct Batches {
    count: AtomicU64,
    entries: AtomicU64,
}

#[derive(Default)]
struct Count(AtomicU64);

impl FleetRecorder {
    pub fn install(&self) {
        metrics::set_global_recorder(self.clone()).expect("the first recorder");
    }

    /// Transactions, each counted by itself, though several share a request.
    pub fn nested(&self) -> u64 {
        let (count, entries) =
            (self.batches.count.load(Ordering::Relaxed), self.batches.entries.load(Ordering::Relaxed));
        // Those of the membership share no requests, and are in no batch.
        entries + self.txns.0.load(Ordering::Relaxed).saturating_sub(count)
    }

    /// Attempts to take a lock that failed.
    pub fn lost(&self) -> u64 {
        self.lost.0.load(Ordering::Relaxed)
    }
}

impl HistogramFn for Batches {
    fn record(&self, entries: f64) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.entries.fetch_add(entries as u64, Ordering::Relaxed);
    }
}

impl CounterFn for Count {
    fn increment(&self, value: u64) {
        self.0.fetch_add(value, Ordering::Relaxed);
    }

    fn absolute(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
}

impl Recorder for FleetRecorder {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let has =
            |name: &str, value: &str| key.labels().any(|label| label.key() == name && label.value() == value);
        match key.name() {
            "etcd_rules_lock_attempts_total" if !has("result", "won") => Counter::from_arc(self.lost.clone()),
            "etcd_rules_etcd_requests_total" if has("request", "txn") => Counter::from_arc(self.txns.clone()),
            _ => Counter::noop(),
        }
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        match key.name() {
            "etcd_rules_batch_entries" => Histogram::from_arc(self.batches.clone()),
            _ => Histogram::noop(),
        }
    }
}
