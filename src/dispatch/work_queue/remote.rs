//! What another engine has, or holds back: waiting for the deletion of its lock or mark.

use super::*;
use crate::dispatch::record::{AnswerState, Remote, RemoteHolder, RemoteKind};
use crate::lock::txn::FoundMark;

/// How long the watch of what is released stays open when nobody waits any more: the next may come soon.
const IDLE: Duration = Duration::from_secs(10);

/// Releases that are remembered, so that one which overtook the losing answer wakes the loser at once.
const RELEASES: usize = 4096;

/// Who waits for the deletion of which keys in etcd, and which were deleted lately.
pub(super) struct RemoteReleases {
    waiting: HashMap<Arc<str>, BTreeSet<InstanceId>, FixedState>,
    watch: ReleaseWatch,
    recent: HashMap<String, Revision, FixedState>,
    /// Oldest first; a key that was deleted again counts at its last place.
    order: VecDeque<(String, Revision)>,
}

/// From which revision on releases must be known. While nobody waits they need not be: each firing of each
/// engine is an event of that watch.
#[derive(Default)]
struct ReleaseWatch {
    /// What was deleted after this revision.
    after: Option<Revision>,
    needed: Option<Instant>,
}

impl RemoteReleases {
    pub(super) fn new(hasher: FixedState) -> Self {
        Self {
            waiting: HashMap::with_hasher(hasher.clone()),
            watch: ReleaseWatch::default(),
            recent: HashMap::with_hasher(hasher),
            order: VecDeque::new(),
        }
    }

    /// An instance waits for the deletion of what was there.
    pub(super) fn wait(&mut self, id: InstanceId, remote: &Remote, now: Instant) {
        self.watch.after = Some(self.watch.after.map_or(remote.at, |after| after.min(remote.at)));
        self.watch.needed = Some(now);
        self.waiting.entry(remote.key.clone()).or_default().insert(id);
    }

    /// It waits no more.
    pub(super) fn leave(&mut self, id: InstanceId, remote: &Remote) {
        if let Some(waiting) = self.waiting.get_mut(&remote.key) {
            waiting.remove(&id);
            if waiting.is_empty() {
                self.waiting.remove(&remote.key);
            }
        }
    }

    /// After which revision deletions must be told of.
    fn after(&mut self, now: Instant) -> Option<Revision> {
        if !self.waiting.is_empty() {
            self.watch.needed = Some(now);
        } else if self.watch.needed.is_none_or(|needed| now >= needed + IDLE) {
            self.watch.after = None;
        }
        self.watch.after
    }

    /// A key was deleted. Returns who has waited for that.
    fn deleted(&mut self, key: &str, revision: Revision) -> BTreeSet<InstanceId> {
        self.recent.insert(key.to_owned(), revision);
        self.order.push_back((key.to_owned(), revision));
        if self.order.len() > RELEASES
            && let Some((oldest, revision)) = self.order.pop_front()
            && self.recent.get(&oldest) == Some(&revision)
        {
            self.recent.remove(&oldest);
        }
        self.waiting.remove(key).unwrap_or_default()
    }

    fn was_deleted_after(&self, key: &str, at: Revision) -> bool {
        self.recent.get(key).is_some_and(|&deleted| deleted > at)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.waiting.values().map(BTreeSet::len).sum()
    }
}

impl WorkQueue {
    /// Another engine has the lock: waits until the key is deleted.
    pub(super) fn hold(&mut self, id: InstanceId, remote: Remote, now: Instant, out: &mut Vec<Action>) {
        self.wait_for_release(id, remote, now, out, |record, remote, _| record.held(remote));
    }

    /// The mark of another engine holds the instance back.
    pub(super) fn hold_marked(
        &mut self,
        id: InstanceId,
        found: &FoundMark,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        let Some(record) = self.records.get(&id) else { return };
        let (base, kind, revision) = (self.base(record.rule), found.kind(), found.revision);
        let attempt = found.mark.as_ref().map_or(0, |mark| mark.attempt);
        let holder = found.mark.clone().map(RemoteHolder::Mark);
        let remote = Remote { key: found.key.as_str().into(), kind: RemoteKind::Mark, at: found.at, holder };
        self.wait_for_release(id, remote, now, out, |record, remote, now| {
            record.failures = match kind {
                // The other engine's callback succeeded.
                MarkKind::RetryAfter => 0,
                MarkKind::Backoff | MarkKind::GivenUp => record.failures.max(attempt),
            };
            record.marked(revision, kind, remote, base, now)
        });
    }

    /// What is held or given up is woken when the key is deleted; at once if it was, or may have been,
    /// deleted after it was seen.
    fn wait_for_release(
        &mut self,
        id: InstanceId,
        remote: Remote,
        now: Instant,
        out: &mut Vec<Action>,
        change: impl FnOnce(&mut InstanceRecord, Remote, Instant) -> QueueAction,
    ) {
        let key = remote.key.clone();
        let released = self.releases.was_deleted_after(&key, remote.at);
        let mut woken = false;
        self.transition(id, now, out, |record, now| {
            let outdated = record.state.answer().is_some_and(|answer| *answer == AnswerState::Outdated);
            let next = change(record, remote, now);
            woken = record.state.remote().is_some() && (released || outdated);
            if woken { record.released(Duration::ZERO, now) } else { next }
        });
        if released && woken {
            // It is taken out, so that it counts once: after a restore of older data it would be newer than
            // every answer.
            self.releases.recent.remove(&*key);
        }
    }

    /// After which revision deletions must be told of with [`released`](Self::released); `None`: none need
    /// be.
    pub(crate) fn releases_after(&mut self, now: Instant) -> Option<Revision> {
        self.releases.after(now)
    }

    /// A lock or backoff key of the namespace was deleted.
    pub(crate) fn released(&mut self, key: &str, revision: Revision, now: Instant, out: &mut Vec<Action>) {
        for id in self.releases.deleted(key, revision) {
            self.transition(id, now, out, |record, now| record.released(RELEASE_GRACE, now));
        }
    }

    /// Deletions may have been missed: every held instance looks again, and so does one that is held by an
    /// answer that is still on its way.
    pub(crate) fn released_unknown(&mut self, now: Instant, out: &mut Vec<Action>) {
        for answer in self.records.values_mut().filter_map(|record| record.state.answer()) {
            *answer = AnswerState::Outdated;
        }
        let waiting = std::mem::take(&mut self.releases.waiting);
        for id in waiting.into_values().flatten() {
            self.transition(id, now, out, |record, now| record.released(RELEASE_GRACE, now));
        }
    }
}
