//! How a due instance comes to its callback, and how long each stage takes. No clock.

use crate::index::Came;
use std::time::Duration;
use tokio::time::Instant;

/// The stages behind an instance since it became due. They follow each other without a gap.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Path {
    /// Since when the instance is due.
    pub(crate) due: Instant,
    /// The end of the last stage that is over.
    pub(crate) mark: Instant,
    /// Only of what a message of the watch made due.
    delivery: Option<Micros>,
    decide: Micros,
    queue: Micros,
    /// Not of optimistic rules.
    lock: Option<Micros>,
}

/// More than an hour is as good as an hour; small, because every true instance has a path.
type Micros = u32;

fn micros(from: Instant, to: Instant) -> Micros {
    to.saturating_duration_since(from).as_micros().try_into().unwrap_or(Micros::MAX)
}

impl Path {
    pub(crate) fn new(due: Instant) -> Self {
        Self { due, mark: due, delivery: None, decide: 0, queue: 0, lock: None }
    }

    /// What made it due was received, taken by the index, and decided at these times.
    pub(crate) fn came(&mut self, came: Came, decided: Instant) {
        self.due = came.arrived;
        self.delivery = Some(micros(came.arrived, came.indexed));
        self.decide = micros(came.indexed, decided);
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
        let took = micros(self.mark, now);
        self.mark = now;
        took
    }

    /// The stages that it went through, by name, from due to the mark.
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

impl Path {
    /// All stages, with the last one: the callback begins now.
    pub(crate) fn stages_until(&self, now: Instant) -> impl Iterator<Item = (&'static str, Duration)> {
        self.stages().chain([("start", now.saturating_duration_since(self.mark))])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stages_add_up_to_the_time_since_it_was_due() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut path = Path::new(at(5));
        path.came(Came { arrived: at(0), indexed: at(2) }, at(5));
        assert_eq!(path.queued(at(15)), Duration::from_millis(10));
        path.decided(at(16));
        path.locked(at(20));
        path.decided(at(21));
        path.locked(at(30));
        let stages: Vec<(&str, u128)> = path.stages().map(|(name, took)| (name, took.as_millis())).collect();
        assert_eq!(stages, [("delivery", 2), ("decide", 5), ("queue", 10), ("lock", 13)]);
        assert_eq!(path.stages().map(|(_, took)| took).sum::<Duration>(), path.mark - path.due);
    }

    #[test]
    fn stages_that_were_not_gone_through_are_not_there() {
        let path = Path::new(Instant::now());
        assert_eq!(path.stages().map(|(name, _)| name).collect::<Vec<_>>(), ["decide", "queue"]);
    }
}
