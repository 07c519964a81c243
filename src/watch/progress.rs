//! Where all watches of an engine stand: told by the watchers, read for the metrics. No clock.

use crate::change::Revision;
use crate::index::WatcherIndex;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

/// Shared by the watchers of an engine.
#[derive(Clone)]
pub(crate) struct WatchProgress(Arc<Mutex<Vec<Progress>>>);

#[derive(Clone, Debug)]
struct Progress {
    position: Revision,
    /// Since when there is no stream, if there is none.
    broken: Option<Instant>,
    /// Since when it has been behind, if it is.
    behind: Option<Instant>,
    /// Revisions that etcd had and had yet to deliver, at the last message.
    revisions: u64,
}

/// The watch that is furthest behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Furthest {
    /// The latest revision that any of them has received.
    pub(crate) position: Revision,
    pub(crate) lag: Duration,
    pub(crate) revisions: u64,
}

impl WatchProgress {
    /// Of so many watches. None has begun.
    pub(crate) fn new(watches: usize, now: Instant) -> Self {
        let standing = Progress { position: Revision::NONE, broken: Some(now), behind: None, revisions: 0 };
        Self(Arc::new(Mutex::new(vec![standing; watches])))
    }

    fn change(&self, watch: WatcherIndex, change: impl FnOnce(&mut Progress)) {
        let mut progress = self.0.lock().unwrap_or_else(|e| e.into_inner());
        change(&mut progress[watch.index()]);
    }

    /// Changes up to `position` were received, when etcd was at `store`.
    pub(crate) fn received(&self, watch: WatcherIndex, position: Revision, store: Revision) {
        self.change(watch, |standing| {
            standing.position = standing.position.max(position);
            standing.revisions = store.since(position);
        });
    }

    /// A stream was opened.
    pub(crate) fn following(&self, watch: WatcherIndex) {
        self.change(watch, |standing| standing.broken = None);
    }

    /// There is no stream since then.
    pub(crate) fn broken(&self, watch: WatcherIndex, since: Instant) {
        self.change(watch, |standing| {
            standing.broken.get_or_insert(since);
        });
    }

    /// It is behind since then, or not.
    pub(crate) fn behind(&self, watch: WatcherIndex, since: Option<Instant>) {
        self.change(watch, |standing| standing.behind = since);
    }

    pub(crate) fn furthest(&self, now: Instant) -> Furthest {
        let progress = self.0.lock().unwrap_or_else(|e| e.into_inner());
        let since = progress.iter().flat_map(|standing| [standing.broken, standing.behind]).flatten().min();
        let behind = progress.iter().filter(|standing| standing.behind.is_some());
        Furthest {
            position: progress.iter().map(|standing| standing.position).max().unwrap_or(Revision::NONE),
            lag: since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since)),
            revisions: behind.map(|standing| standing.revisions).max().unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: WatcherIndex = WatcherIndex::FIRST;
    const SECOND: WatcherIndex = WatcherIndex::new(1);

    #[test]
    fn the_watch_that_is_furthest_behind_counts() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let progress = WatchProgress::new(2, start);
        let lag = |now| progress.furthest(at(now)).lag.as_secs();
        assert_eq!(lag(3), 3, "nothing has begun");
        progress.following(FIRST);
        assert_eq!(lag(4), 4, "the other has not");
        progress.following(SECOND);
        assert_eq!(lag(9), 0);
        progress.broken(FIRST, at(10));
        progress.broken(FIRST, at(12));
        assert_eq!(lag(15), 5, "since the first time");
        progress.behind(SECOND, Some(at(8)));
        assert_eq!(lag(15), 7, "the other is further behind");
        progress.following(FIRST);
        progress.behind(SECOND, None);
        assert_eq!(lag(16), 0);
    }

    #[test]
    fn revisions_count_only_of_a_watch_that_is_behind() {
        let start = Instant::now();
        let progress = WatchProgress::new(1, start);
        progress.following(FIRST);
        progress.received(FIRST, Revision::new(10), Revision::new(50));
        assert_eq!(progress.furthest(start).revisions, 0, "the others may be of keys that nobody watches");
        progress.behind(FIRST, Some(start));
        assert_eq!(
            progress.furthest(start),
            Furthest { position: Revision::new(10), lag: Duration::ZERO, revisions: 40 }
        );
        progress.received(FIRST, Revision::new(50), Revision::new(50));
        assert_eq!(progress.furthest(start).revisions, 0);
    }
}
