//! How busy a member says it is: one of four classes. A class is left upward at once and downward only after a
//! while, so that a member writes rarely, and its helpers don't come and go.

use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio::time::Instant;

/// From the least to the most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LoadClass {
    /// At least half of its slots are free, and nothing waits.
    #[default]
    Free,
    /// More than half of its slots are taken.
    Busy,
    /// Something has waited for a slot for a second.
    Behind,
    /// Something has waited for a slot for ten seconds.
    FarBehind,
}

/// What is measured of a member.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    pub(crate) slots: usize,
    pub(crate) taken: usize,
    /// For how long the oldest of what could have a slot has waited for one.
    pub(crate) waits: Duration,
}

impl Measured {
    fn class(self) -> LoadClass {
        match self {
            _ if self.waits >= Duration::from_secs(10) => LoadClass::FarBehind,
            _ if self.waits >= Duration::from_secs(1) => LoadClass::Behind,
            _ if 2 * self.taken > self.slots => LoadClass::Busy,
            _ => LoadClass::Free,
        }
    }
}

/// How long less must be measured before less is said.
const CALM: Duration = Duration::from_secs(3);

/// The class that is said.
#[derive(Debug, Default)]
pub(crate) struct LoadGauge {
    class: LoadClass,
    /// Since when less was measured, and the most of that.
    lower: Option<(Instant, LoadClass)>,
}

impl LoadGauge {
    pub(crate) fn measure(&mut self, measured: Measured, now: Instant) -> LoadClass {
        let class = measured.class();
        if class >= self.class {
            (self.class, self.lower) = (class, None);
            return class;
        }
        let (since, most) = self.lower.map_or((now, class), |(since, most)| (since, most.max(class)));
        self.lower = Some((since, most));
        if now >= since + CALM {
            (self.class, self.lower) = (most, None);
        }
        self.class
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_is_said_at_once_and_less_after_a_while() {
        let start = Instant::now();
        let mut gauge = LoadGauge::default();
        let mut at = |seconds: u64, taken: usize, waits: u64| {
            let measured = Measured { slots: 10, taken, waits: Duration::from_secs(waits) };
            gauge.measure(measured, start + Duration::from_secs(seconds))
        };
        assert_eq!(at(0, 5, 0), LoadClass::Free);
        assert_eq!(at(1, 6, 0), LoadClass::Busy);
        assert_eq!(at(2, 10, 1), LoadClass::Behind);
        assert_eq!(at(3, 10, 12), LoadClass::FarBehind);
        assert_eq!(at(4, 0, 0), LoadClass::FarBehind);
        assert_eq!(at(6, 10, 0), LoadClass::FarBehind);
        assert_eq!(at(7, 0, 0), LoadClass::Busy, "the most of what was measured meanwhile");
        assert_eq!(at(8, 0, 0), LoadClass::Busy);
        assert_eq!(at(9, 10, 0), LoadClass::Busy);
        assert_eq!(at(10, 0, 0), LoadClass::Busy, "counted anew");
        assert_eq!(at(13, 0, 0), LoadClass::Free);
    }
}
