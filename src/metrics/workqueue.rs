//! What a work queue reports to the metrics: events, and its depth.

use crate::compiled::Lane;
use crate::inspect::StateCounts;
use std::time::Duration;
use tokio::time::Instant;

/// Something that happened in a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WorkqueueEvent {
    /// An instance came to be done.
    Added(Lane),
    /// It has waited so long for its slot.
    Taken(Lane, Duration),
    /// It has had its slot for so long.
    Worked(Lane, Duration),
    /// It waits for a time before it is done (again).
    PutOff(Lane),
    /// It would have fired, but for a dry run.
    WouldHaveFired(Lane),
    /// Its firing succeeded and left it as true as it was.
    Ineffective(Lane),
    /// It was slowed down, because it fires too often.
    Slowed(Lane),
    /// It was another engine's, which is gone or can't any more.
    TakenOver(Lane),
    /// It is another engine's, which is behind.
    Helped(Lane),
    /// It was another engine's, which has not seen to it.
    Overdue(Lane),
}

/// The load of one lane at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct WorkqueueDepth {
    pub(crate) states: StateCounts,
    pub(crate) paused: bool,
    pub(crate) dry_run: bool,
    /// Whether something waits for the rate limit.
    pub(crate) throttled: bool,
    /// The sum of the times for which the current slots have been held.
    pub(crate) working: Duration,
    pub(crate) longest_working: Option<Instant>,
    pub(crate) failing: usize,
    pub(crate) longest_failing: Option<Instant>,
}
