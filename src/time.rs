//! The longest time that anything waits, and times that are longer by chance.

use rand::{Rng, RngExt};
use std::time::Duration;

/// Stands for "never". Much longer times can't be added to a clock.
pub(crate) const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// The time to wait after so many failures in a row: the first time after one, then twice as long each time.
pub(crate) fn doubled(first: Duration, longest: Duration, failures: u32) -> Duration {
    let times = 1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
    first.saturating_mul(times).min(longest)
}

/// By how much times are longer, at random, so that many things which began together don't come back together: each
/// time by up to this part of it. With a part of 0.1, ten seconds are between ten and eleven.
///
/// ```
/// use etcd_rules::{Backoff, Jitter};
/// use std::time::Duration;
/// let steady = Backoff::new(Duration::from_secs(1), Duration::from_secs(60)).jitter(Jitter::NONE);
/// assert_ne!(steady, steady.jitter(Jitter::up_to(0.5)));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
pub struct Jitter(f64);

impl Jitter {
    /// Times are as they are given.
    pub const NONE: Jitter = Jitter(0.0);

    /// Times are longer by up to this part of them, from 0 to 10; something else is a mistake, which is reported
    /// where the jitter is used.
    pub const fn up_to(part: f64) -> Self {
        Self(part)
    }

    /// The part.
    pub const fn part(self) -> f64 {
        self.0
    }

    /// A time that is longer by chance, but not longer than what can be added to a clock.
    pub(crate) fn lengthen(self, time: Duration, rng: &mut impl Rng) -> Duration {
        if self.0 <= 0.0 || time.is_zero() {
            return time;
        }
        time.min(LONGEST).mul_f64(1.0 + rng.random_range(0.0..=self.0)).min(LONGEST)
    }
}

/// Times in JSON and the like are seconds with a fraction.
pub(crate) mod seconds {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};
    use std::time::Duration;

    pub(crate) fn serialize<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(time.as_secs_f64())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        Duration::try_from_secs_f64(f64::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// As [`seconds`], of a time that may be missing.
pub(crate) mod optional_seconds {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use std::time::Duration;

    pub(crate) fn serialize<S: Serializer>(
        time: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        time.map(|time| time.as_secs_f64()).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        let seconds = Option::<f64>::deserialize(deserializer)?;
        seconds.map(Duration::try_from_secs_f64).transpose().map_err(D::Error::custom)
    }
}

/// Moments in JSON and the like are seconds since 1970, with a fraction.
pub(crate) mod unix_seconds {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    pub(crate) fn serialize<S: Serializer>(
        moment: &Option<SystemTime>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let seconds = |moment: &SystemTime| moment.duration_since(UNIX_EPOCH).ok().map(|t| t.as_secs_f64());
        moment.as_ref().and_then(seconds).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<SystemTime>, D::Error> {
        let seconds = Option::<f64>::deserialize(deserializer)?;
        let since = seconds.map(Duration::try_from_secs_f64).transpose().map_err(D::Error::custom)?;
        Ok(since.and_then(|since| UNIX_EPOCH.checked_add(since)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    #[test]
    fn times_are_longer_by_up_to_the_part_and_never_shorter() {
        let mut rng = StdRng::seed_from_u64(7);
        let second = Duration::from_secs(1);
        for (part, least, most) in [(0.0, 1.0, 1.0), (0.1, 1.0, 1.1), (2.0, 1.0, 3.0)] {
            let times: Vec<f64> =
                (0..1000).map(|_| Jitter::up_to(part).lengthen(second, &mut rng).as_secs_f64()).collect();
            let (first, last) =
                (times.iter().copied().fold(f64::MAX, f64::min), times.iter().copied().fold(0.0, f64::max));
            assert!(first >= least && last <= most, "{part}: {first} to {last}");
            assert!(last - first >= 0.9 * (most - least), "{part}: all of it is used, {first} to {last}");
        }
        assert_eq!(Jitter::up_to(10.0).lengthen(Duration::MAX, &mut rng), LONGEST);
    }
}
