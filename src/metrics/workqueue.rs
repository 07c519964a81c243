//! What a work queue reports to the metrics: events, and its current load.

use crate::inspect::StateCounts;
use std::time::Duration;
use tokio::time::Instant;

/// Something that happened in a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Note {
    /// An instance was added to the queue.
    Added(u32),
    /// An instance got a slot after waiting for this time.
    Taken(u32, Duration),
    /// An instance gave its slot back after this time.
    Worked(u32, Duration),
    /// An instance must wait for some time before it is done, or done again.
    PutOff(u32),
    /// An instance would have fired if its rule were not in a dry run.
    WouldHaveFired(u32),
    /// A firing succeeded, but left its condition true.
    Ineffective(u32),
}

/// The load of one lane at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Load {
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
