//! How a due instance comes to its callback, and how long each stage takes. No clock.

use crate::index::Timestamps;
use std::time::Duration;
use tokio::time::Instant;

/// The stages behind an instance since it became due. They follow each other without a gap.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TriggerLatency {
    /// Since when the instance is due.
    pub(crate) due: Instant,
    /// When the last stage ended.
    pub(crate) reached: Instant,
    /// Only of what a message of the watch made due.
    delivery: Option<Micros>,
    decide: Micros,
    queue: Micros,
    /// Not of optimistic rules.
    lock: Option<Micros>,
}

/// Times above an hour count as an hour. The type is small, because every true instance has one.
type Micros = u32;

fn micros(from: Instant, to: Instant) -> Micros {
    to.saturating_duration_since(from).as_micros().try_into().unwrap_or(Micros::MAX)
}

impl TriggerLatency {
    pub(crate) fn new(due: Instant) -> Self {
        Self { due, reached: due, delivery: None, decide: 0, queue: 0, lock: None }
    }

    /// What made it due was received, taken by the index, and decided at these times.
    pub(crate) fn came(&mut self, timestamps: Timestamps, decided: Instant) {
        self.due = timestamps.arrived;
        self.delivery = Some(micros(timestamps.arrived, timestamps.indexed));
        self.decide = micros(timestamps.indexed, decided);
    }

    /// It was decided (again).
    pub(crate) fn decided(&mut self, now: Instant) {
        self.decide = self.decide.saturating_add(self.pass(now));
    }

    /// It has a slot, or may wait for one again. Returns how long it has waited.
    pub(crate) fn queued(&mut self, now: Instant) -> Duration {
        let waited = self.pass(now);
        self.queue = self.queue.saturating_add(waited);
        Duration::from_micros(waited.into())
    }

    /// An attempt to take the lock is over.
    pub(crate) fn locked(&mut self, now: Instant) {
        let took = self.pass(now);
        self.lock = Some(self.lock.unwrap_or(0).saturating_add(took));
    }

    fn pass(&mut self, now: Instant) -> Micros {
        let took = micros(self.reached, now);
        self.reached = now;
        took
    }

    /// The stages that it went through, by name, from due to the reached.
    pub(crate) fn stages(&self) -> impl Iterator<Item = (&'static str, Duration)> {
        let stages = [
            ("delivery", self.delivery),
            ("decide", Some(self.decide)),
            ("queue", Some(self.queue)),
            ("lock", self.lock),
        ];
        stages.into_iter().filter_map(|(name, took)| Some((name, Duration::from_micros(took?.into()))))
    }
}

impl TriggerLatency {
    /// All stages, with the last one: the callback begins now.
    pub(crate) fn stages_until(&self, now: Instant) -> impl Iterator<Item = (&'static str, Duration)> {
        self.stages().chain([("start", now.saturating_duration_since(self.reached))])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stages_add_up_to_the_time_since_it_was_due() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut latency = TriggerLatency::new(at(5));
        latency.came(Timestamps { arrived: at(0), indexed: at(2) }, at(5));
        assert_eq!(latency.queued(at(15)), Duration::from_millis(10));
        latency.decided(at(16));
        latency.locked(at(20));
        latency.decided(at(21));
        latency.locked(at(30));
        let stages: Vec<(&str, u128)> =
            latency.stages().map(|(name, took)| (name, took.as_millis())).collect();
        assert_eq!(stages, [("delivery", 2), ("decide", 5), ("queue", 10), ("lock", 13)]);
        assert_eq!(latency.stages().map(|(_, took)| took).sum::<Duration>(), latency.reached - latency.due);
    }

    #[test]
    fn stages_that_were_not_gone_through_are_not_there() {
        let latency = TriggerLatency::new(Instant::now());
        assert_eq!(latency.stages().map(|(name, _)| name).collect::<Vec<_>>(), ["decide", "queue"]);
    }
}
