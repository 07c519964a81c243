//! Permits of a rule that may start so many firings in a time: the generic cell rate algorithm, with
//! reservations, because it is not known beforehand which lock will be won. No clock.

use crate::compiled::RateLimit;
use std::time::Duration;
use tokio::time::Instant;

/// See the [module](self).
///
/// Between a slot and the start of its callback a firing has a *reservation*: a permit that it alone may spend, and
/// that is free again if it does not start. The caller counts them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    count: u32,
    /// From one permit to the next.
    interval: Duration,
    /// When the next one would be due, if none had been saved.
    due: Instant,
}

impl Rate {
    /// With all permits there.
    pub(crate) fn new(limit: RateLimit, now: Instant) -> Self {
        let count = limit.count().max(1);
        let mut interval = limit.per() / count;
        if interval * count < limit.per() {
            // Rounded up: never more than allowed.
            interval += Duration::from_nanos(1);
        }
        Self { count, interval, due: now }
    }

    /// Whether there is a permit for one more, beside so many reservations.
    pub(crate) fn is_open(&self, reserved: usize, now: Instant) -> bool {
        reserved < self.count as usize && self.wait(reserved, now).is_zero()
    }

    /// When there will be, if nothing happens before; `None`: there is one, or all are reserved.
    pub(crate) fn opens(&self, reserved: usize, now: Instant) -> Option<Instant> {
        let wait = (reserved < self.count as usize).then(|| self.wait(reserved, now));
        wait.filter(|wait| !wait.is_zero()).map(|wait| now + wait)
    }

    fn wait(&self, reserved: usize, now: Instant) -> Duration {
        let due = self.due + self.interval * reserved as u32;
        let saved = self.interval * (self.count - 1);
        due.saturating_duration_since(now).saturating_sub(saved)
    }

    /// A firing starts.
    pub(crate) fn spend(&mut self, now: Instant) {
        self.due = self.due.max(now) + self.interval;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::properties::check;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn what_was_saved_goes_at_once_and_then_one_by_one() {
        let start = Instant::now();
        let mut rate = Rate::new(RateLimit::new(3, ms(300)), start);
        let mut started = Vec::new();
        for at in 0..1000 {
            let now = start + ms(at);
            while rate.is_open(0, now) {
                rate.spend(now);
                started.push(at);
            }
            assert_eq!(rate.opens(0, now), Some(start + ms(at / 100 * 100 + 100)));
        }
        assert_eq!(started, [0, 0, 0, 100, 200, 300, 400, 500, 600, 700, 800, 900]);
        let rested = start + ms(10_000);
        let count = (0..9).take_while(|_| rate.is_open(0, rested).then(|| rate.spend(rested)).is_some());
        assert_eq!(count.count(), 3, "no more than the count is saved");
    }

    #[test]
    fn a_time_that_the_count_does_not_divide_still_lets_the_whole_count_go_at_once() {
        let now = Instant::now();
        let rate = Rate::new(RateLimit::new(7, ms(1)), now);
        assert_eq!((0..9).filter(|reserved| rate.is_open(*reserved, now)).count(), 7);
    }

    #[test]
    fn reservations_hold_permits_and_only_they_can_open_what_they_have_closed() {
        let now = Instant::now();
        let mut rate = Rate::new(RateLimit::new(2, ms(100)), now);
        assert!(rate.is_open(1, now) && !rate.is_open(2, now));
        assert_eq!(rate.opens(2, now), None, "no time opens it");
        assert!(!rate.is_open(2, now + ms(1000)));
        rate.spend(now);
        assert_eq!((rate.is_open(0, now), rate.is_open(1, now)), (true, false));
        assert_eq!(rate.opens(1, now), Some(now + ms(50)));
    }

    /// What happens to firings that have a slot, in turn.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        Wait(u64),
        Reserve,
        Start,
        GiveBack,
    }

    #[test]
    fn never_more_start_than_were_saved_and_have_come_due_since() {
        let steps = prop_oneof![
            3 => (0..400u64).prop_map(Step::Wait),
            6 => Just(Step::Reserve),
            5 => Just(Step::Start),
            1 => Just(Step::GiveBack),
        ];
        check(500, &((1..6u32), (1..1000u64), vec(steps, 0..200)), |(count, per, steps)| {
            let mut now = Instant::now();
            let mut rate = Rate::new(RateLimit::new(count, ms(per)), now);
            let (mut reserved, mut started) = (0, Vec::new());
            for step in steps {
                match step {
                    Step::Wait(time) => now += ms(time),
                    Step::Reserve if rate.is_open(reserved, now) => reserved += 1,
                    Step::Start if reserved > 0 => {
                        reserved -= 1;
                        rate.spend(now);
                        started.push(now);
                    }
                    Step::GiveBack if reserved > 0 => reserved -= 1,
                    Step::Reserve | Step::Start | Step::GiveBack => {}
                }
            }
            for (at, from) in started.iter().enumerate() {
                for (number, to) in (1u32..).zip(&started[at..]) {
                    let came_due = (*to - *from).as_nanos() * u128::from(count) / u128::from(per * 1_000_000);
                    prop_assert!(u128::from(number) <= u128::from(count) + came_due, "{started:?}");
                }
            }
            Ok(())
        });
    }
}
