//! Limits how often a log line is written, because a hundred thousand instances may fail at once.

use crate::compiled::RuleIndex;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

/// How many lines of one kind and rule may be written at once.
const BURST: u32 = 10;

/// After that, one line may be written in each interval.
const INTERVAL: Duration = Duration::from_secs(1);

/// The kinds of lines that are limited. Each kind is limited separately for each rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Line {
    CallbackFailed,
    CallbackStuck,
    CommitRefused,
    ComparisonPanicked,
    InstanceSlowed,
    OrphanFreed,
    TooLarge,
}

/// The limits of one engine, shared by its parts. There is one entry for each kind of line and rule.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lines(Arc<Mutex<HashMap<(Line, RuleIndex), Throttle>>>);

impl Lines {
    /// `Some` if a line may be written now, with the number of lines that were suppressed since the last one.
    pub(crate) fn pass(&self, line: Line, rule: RuleIndex, now: Instant) -> Option<u64> {
        let mut throttles = self.0.lock().unwrap_or_else(|e| e.into_inner());
        throttles.entry((line, rule)).or_insert_with(|| Throttle::new(now)).pass(now)
    }
}

/// A token bucket that gains one token in each interval.
#[derive(Debug)]
struct Throttle {
    tokens: u32,
    filled: Instant,
    suppressed: u64,
}

impl Throttle {
    fn new(now: Instant) -> Self {
        Self { tokens: BURST, filled: now, suppressed: 0 }
    }

    fn pass(&mut self, now: Instant) -> Option<u64> {
        let intervals = now.saturating_duration_since(self.filled).as_secs() / INTERVAL.as_secs();
        if u64::from(self.tokens) + intervals >= u64::from(BURST) {
            (self.tokens, self.filled) = (BURST, now);
        } else {
            self.tokens += intervals as u32;
            self.filled += INTERVAL * intervals as u32;
        }
        if self.tokens == 0 {
            self.suppressed += 1;
            return None;
        }
        self.tokens -= 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_then_one_a_second_that_tells_how_many_did_not() {
        let (lines, start) = (Lines::default(), Instant::now());
        let pass = |millis| {
            lines.pass(Line::CallbackFailed, RuleIndex::new(0), start + Duration::from_millis(millis))
        };
        let passed = (0..1000).filter(|n| pass(*n).is_some()).count();
        assert_eq!(passed, 10);
        assert_eq!(pass(1000), Some(990));
        assert_eq!((pass(1001), pass(1999)), (None, None));
        assert_eq!(pass(2000), Some(2));
        assert_eq!((pass(60_000), pass(60_000)), (Some(0), Some(0)), "quiet fills the bucket");
        assert_eq!((0..100).filter(|_| pass(60_000).is_some()).count(), 8, "up to its brim");
    }

    #[test]
    fn kinds_and_rules_are_bounded_by_themselves() {
        let (lines, now) = (Lines::default(), Instant::now());
        while lines.pass(Line::CallbackFailed, RuleIndex::new(0), now).is_some() {}
        assert_eq!(lines.pass(Line::CallbackFailed, RuleIndex::new(1), now), Some(0));
        assert_eq!(lines.pass(Line::CommitRefused, RuleIndex::new(0), now), Some(0));
    }
}
