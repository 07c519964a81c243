//! The least time between two firings of one instance of a rule. It is remembered beyond the instance's
//! record: one that was false in between has fired all the same. No clock.

use crate::compiled::Binding;
use foldhash::fast::FixedState;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;
use tokio::time::Instant;

/// Firings remembered of a rule at most. Beyond that the oldest are forgotten: those instances may fire again
/// sooner than they should.
const MOST: usize = 1 << 20;

/// When instances of one rule were fired, as far as that still holds them back.
#[derive(Debug)]
pub(crate) struct Interval {
    least: Duration,
    fired: HashMap<Binding, Instant, FixedState>,
    /// Oldest first. An entry is void once its instance was fired again or forgotten.
    order: VecDeque<(Instant, Binding)>,
}

impl Interval {
    pub(crate) fn new(least: Duration, hasher: FixedState) -> Self {
        Self { least, fired: HashMap::with_hasher(hasher), order: VecDeque::new() }
    }

    /// Changes the time, also for firings that were before.
    pub(crate) fn change(&mut self, least: Duration) {
        self.least = least;
    }

    /// An instance is fired.
    pub(crate) fn fired(&mut self, binding: &Binding, now: Instant) {
        self.expire(now);
        self.fired.insert(binding.clone(), now);
        self.order.push_back((now, binding.clone()));
    }

    /// Until when an instance must not fire; `None`: it may.
    pub(crate) fn until(&mut self, binding: &Binding, now: Instant) -> Option<Instant> {
        self.expire(now);
        self.fired.get(binding).map(|fired| *fired + self.least).filter(|until| *until > now)
    }

    /// An instance may fire again at once.
    pub(crate) fn forget(&mut self, binding: &Binding) {
        self.fired.remove(binding);
    }

    fn expire(&mut self, now: Instant) {
        while let Some((fired, _)) = self.order.front()
            && (*fired + self.least <= now || self.order.len() >= MOST)
            && let Some((fired, binding)) = self.order.pop_front()
        {
            if self.fired.get(&binding) == Some(&fired) {
                self.fired.remove(&binding);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(id: usize) -> Binding {
        Binding::new([id.to_string().as_str()].into_iter())
    }

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    fn interval(least: u64) -> (Interval, Instant) {
        (Interval::new(ms(least), FixedState::with_seed(1)), Instant::now())
    }

    #[test]
    fn an_instance_may_fire_again_when_its_own_time_is_over() {
        let (mut interval, start) = interval(100);
        assert_eq!(interval.until(&of(1), start), None);
        interval.fired(&of(1), start);
        interval.fired(&of(2), start + ms(50));
        assert_eq!(interval.until(&of(1), start + ms(99)), Some(start + ms(100)));
        assert_eq!(interval.until(&of(1), start + ms(100)), None);
        assert_eq!(interval.until(&of(2), start + ms(100)), Some(start + ms(150)));
        interval.fired(&of(1), start + ms(120));
        assert_eq!(interval.until(&of(1), start + ms(200)), Some(start + ms(220)), "the last one counts");
    }

    #[test]
    fn what_is_forgotten_may_fire_and_what_is_fired_again_after_that_may_not() {
        let (mut interval, start) = interval(100);
        interval.fired(&of(1), start);
        interval.forget(&of(1));
        assert_eq!(interval.until(&of(1), start), None);
        interval.fired(&of(1), start + ms(60));
        assert_eq!(interval.until(&of(1), start + ms(110)), Some(start + ms(160)));
    }

    #[test]
    fn a_change_counts_for_what_was_fired_before() {
        let (mut interval, start) = interval(100);
        interval.fired(&of(1), start);
        interval.change(ms(50));
        assert_eq!(interval.until(&of(1), start), Some(start + ms(50)));
        interval.change(ms(300));
        assert_eq!(interval.until(&of(1), start + ms(49)), Some(start + ms(300)));
    }

    #[test]
    fn what_is_over_takes_no_memory_and_what_is_not_has_a_bound() {
        let (mut interval, start) = interval(100);
        for id in 0..10_000 {
            interval.fired(&of(id % 50), start + ms(id as u64));
        }
        assert_eq!((interval.order.len(), interval.fired.len()), (100, 50));
        interval.change(ms(1_000_000_000));
        for id in 0..MOST + 10 {
            interval.fired(&of(id), start + ms(10_000));
        }
        assert_eq!((interval.order.len(), interval.fired.len()), (MOST, MOST));
        assert_eq!(interval.until(&of(9), start + ms(10_000)), None, "the oldest are forgotten");
        assert!(interval.until(&of(MOST), start + ms(10_000)).is_some());
    }
}
