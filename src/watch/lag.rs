//! How far a watch is behind, and whether that counts as lagging. No I/O, no clock.
//!
//! A watch is *behind* from the moment when
//!
//! - a change was received that the index has not yet taken; until it has taken all that came before now; or
//! - etcd sent a message that ends before the newest revision: it is sending history, which it does in steps
//!   of 100 ms; until a message ends with the newest revision, or none has come for a second; or
//! - history that is needed was found compacted; until the new snapshot is compared and the watch goes on.
//!
//! It is *lagging* when it has been behind for the limit, until it is behind for less than half of that.

use std::time::Duration;
use tokio::time::Instant;

/// Who is sending history sends more within this time.
const SILENCE: Duration = Duration::from_secs(1);

/// What is news about a watch's lag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LagChange {
    /// It has been behind for the limit, for this reason.
    Began(Cause),
    /// It is behind no more, or for less than half of the limit.
    Ended,
}

/// Why a watch is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    Index,
    History,
    Snapshot,
}

impl Cause {
    pub(crate) fn message(self) -> &'static str {
        match self {
            Cause::Index => "changes wait for the index, which is busy",
            Cause::History => "etcd is sending what happened before",
            Cause::Snapshot => "history was compacted; a new snapshot is being read",
        }
    }
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Lag {
    limit: Duration,
    /// When the oldest change was received that is not yet with the index.
    waiting: Option<Instant>,
    /// Since when etcd is sending history, and when it last did.
    history: Option<(Instant, Instant)>,
    /// Since when a new snapshot is needed.
    snapshot: Option<Instant>,
    lagging: bool,
}

impl Lag {
    pub(crate) fn new(limit: Duration) -> Self {
        Self { limit, waiting: None, history: None, snapshot: None, lagging: false }
    }

    /// Received and not yet with the index: since when the oldest such change.
    pub(crate) fn waiting(&mut self, oldest: Option<Instant>) {
        self.waiting = oldest;
    }

    /// A message with changes: whether they end with the newest revision.
    pub(crate) fn heard(&mut self, newest: bool, now: Instant) {
        self.history = match self.history {
            _ if newest => None,
            None => Some((now, now)),
            Some((since, last)) if now < last + SILENCE => Some((since, now)),
            Some(_) => Some((now, now)),
        };
    }

    /// History was compacted: a snapshot is read, and what is waiting is of no account.
    pub(crate) fn compacted(&mut self, now: Instant) {
        self.history = None;
        self.snapshot.get_or_insert(now);
    }

    /// A stream was opened, after a snapshot if one was needed.
    pub(crate) fn following(&mut self) {
        self.snapshot = None;
    }

    /// The stream is broken, which is another problem than lagging. True if it was lagging.
    pub(crate) fn broken(&mut self) -> bool {
        std::mem::replace(self, Self::new(self.limit)).lagging
    }

    /// Since when it has been behind, if it is.
    pub(crate) fn since(&self, now: Instant) -> Option<Instant> {
        self.behind(now).map(|(since, _)| since)
    }

    /// For how long it has been behind, and why; the longest counts.
    fn behind(&self, now: Instant) -> Option<(Instant, Cause)> {
        let history = self.history.filter(|(_, last)| now < *last + SILENCE);
        let causes = [
            self.waiting.map(|since| (since, Cause::Index)),
            history.map(|(since, _)| (since, Cause::History)),
            self.snapshot.map(|since| (since, Cause::Snapshot)),
        ];
        causes.into_iter().flatten().min_by_key(|(since, _)| *since)
    }

    /// Whether lagging began or ended since it was asked before.
    pub(crate) fn change(&mut self, now: Instant) -> Option<LagChange> {
        let behind = self.behind(now);
        let limit = if self.lagging { self.limit / 2 } else { self.limit };
        let cause = behind.filter(|(since, _)| now.duration_since(*since) >= limit).map(|(_, cause)| cause);
        if cause.is_some() == self.lagging {
            return None;
        }
        self.lagging = cause.is_some();
        Some(cause.map_or(LagChange::Ended, LagChange::Began))
    }

    /// When to look again if nothing happens.
    pub(crate) fn deadline(&self, now: Instant) -> Option<Instant> {
        let (since, _) = self.behind(now)?;
        let silence = self.history.map(|(_, last)| last + SILENCE);
        let late = (!self.lagging).then(|| since + self.limit);
        silence.into_iter().chain(late).filter(|at| *at > now).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    fn seconds(start: Instant) -> impl Fn(f64) -> Instant {
        move |seconds| start + Duration::from_secs_f64(seconds)
    }

    #[test]
    fn changes_that_wait_for_the_index_for_the_limit_are_lagging_until_they_wait_half_of_it() {
        let at = seconds(Instant::now());
        let mut lag = Lag::new(LIMIT);
        assert_eq!(lag.deadline(at(0.0)), None, "nothing to look for");
        lag.waiting(Some(at(0.0)));
        assert_eq!(lag.change(at(4.9)), None);
        assert_eq!(lag.deadline(at(4.9)), Some(at(5.0)));
        assert_eq!(lag.change(at(5.0)), Some(LagChange::Began(Cause::Index)));
        lag.waiting(Some(at(3.0)));
        assert_eq!(lag.change(at(6.0)), None, "for 3 s");
        assert_eq!(lag.deadline(at(6.0)), None, "only news can end it");
        lag.waiting(Some(at(5.0)));
        assert_eq!(lag.change(at(7.0)), Some(LagChange::Ended), "for 2 s");
    }

    #[test]
    fn history_counts_from_its_first_message_to_one_with_the_newest_revision() {
        let at = seconds(Instant::now());
        let mut lag = Lag::new(LIMIT);
        for step in 0..=50 {
            lag.heard(false, at(f64::from(step) / 10.0));
        }
        assert_eq!(lag.change(at(5.0)), Some(LagChange::Began(Cause::History)));
        lag.heard(true, at(5.1));
        assert_eq!(lag.change(at(5.1)), Some(LagChange::Ended));
    }

    #[test]
    fn silence_ends_history() {
        let at = seconds(Instant::now());
        let mut lag = Lag::new(LIMIT);
        for step in 0..=50 {
            lag.heard(false, at(f64::from(step) / 10.0));
        }
        assert_eq!(lag.change(at(5.0)), Some(LagChange::Began(Cause::History)));
        assert_eq!(lag.deadline(at(5.0)), Some(at(6.0)));
        assert_eq!(lag.change(at(6.0)), Some(LagChange::Ended), "other keys changed after the last of ours");
    }

    #[test]
    fn one_message_that_ends_before_the_newest_revision_is_soon_over() {
        let at = seconds(Instant::now());
        let mut lag = Lag::new(LIMIT);
        lag.heard(false, at(0.0));
        assert_eq!(lag.deadline(at(0.0)), Some(at(1.0)));
        assert_eq!((lag.change(at(1.0)), lag.change(at(60.0))), (None, None));
        assert_eq!(lag.deadline(at(60.0)), None);
        lag.heard(false, at(100.0));
        assert_eq!(lag.change(at(100.9)), None, "a new beginning");
    }

    #[test]
    fn a_snapshot_after_a_compaction_counts_until_the_watch_goes_on() {
        let at = seconds(Instant::now());
        let mut lag = Lag::new(LIMIT);
        lag.compacted(at(0.0));
        lag.compacted(at(3.0));
        assert_eq!(lag.change(at(5.0)), Some(LagChange::Began(Cause::Snapshot)));
        lag.following();
        assert_eq!(lag.change(at(5.1)), Some(LagChange::Ended));
    }

    #[test]
    fn a_broken_stream_is_not_lagging() {
        let at = seconds(Instant::now());
        let mut lag = Lag::new(LIMIT);
        lag.waiting(Some(at(0.0)));
        assert_eq!(lag.change(at(5.0)), Some(LagChange::Began(Cause::Index)));
        assert!(lag.broken());
        assert_eq!((lag.change(at(9.0)), lag.deadline(at(9.0))), (None, None));
        assert!(!lag.broken());
    }
}
