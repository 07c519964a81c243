//! The longest time that anything can wait.

use std::time::Duration;

/// Stands for "never". Much longer times can't be added to a clock.
pub(crate) const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
