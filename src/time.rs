//! The longest time that anything waits.

use std::time::Duration;

/// What "never" comes to: longer times can't be added to a clock.
pub(crate) const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
