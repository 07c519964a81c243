//! Moments that several processes can compare: microseconds of the machine's monotonic clock.

use nix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// Microseconds since some moment before everything, the same for all processes of the machine.
pub type Micros = u64;

pub const SECOND: Micros = 1_000_000;

pub fn now() -> Micros {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("the machine has a monotonic clock");
    Duration::from(time).as_micros() as Micros
}

pub fn micros(time: Duration) -> Micros {
    time.as_micros() as Micros
}

/// In seconds, for people.
pub fn seconds(time: Micros) -> f64 {
    time as f64 / SECOND as f64
}
