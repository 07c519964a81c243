//! What another engine has, or holds back: waiting for the deletion of its lock or mark.

use super::*;
use crate::lock::txn::Holder;

/// How long the watch of what is released stays open when nobody waits any more: the next may come soon.
const IDLE: Duration = Duration::from_secs(10);

/// From where on what is released must be known: not at all while nobody waits, for each firing of each engine
/// is an event of that watch.
#[derive(Default)]
pub(super) struct ReleaseWatch {
    /// What was deleted after this revision.
    after: Option<Revision>,
    needed: Option<Instant>,
}

impl ReleaseWatch {
    /// Somebody waits for the deletion of what was there at a revision.
    fn need(&mut self, at: Revision, now: Instant) {
        self.after = Some(self.after.map_or(at, |after| after.min(at)));
        self.needed = Some(now);
    }
}

impl WorkQueue {
    /// Another engine has the lock: waits until the key is deleted.
    pub(super) fn hold(
        &mut self,
        id: InstanceId,
        key: String,
        holder: Option<Holder>,
        at: Revision,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        self.step(id, now, out, |record, _| record.held());
        self.await_release(id, key, holder.map(RemoteHolder::Lock), at, now, out);
    }

    pub(super) fn hold_marked(
        &mut self,
        id: InstanceId,
        FoundMark { key, revision, mark, at }: FoundMark,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        let Some(record) = self.records.get_mut(&id) else { return };
        let (attempt, gave_up) = mark.as_ref().map_or((0, false), |mark| (mark.attempt, mark.gave_up));
        let base = self.rules[record.rule as usize].options().backoff.base();
        // Without an attempt and not given up: the other engine's callback succeeded.
        record.failures = if attempt == 0 && !gave_up { 0 } else { record.failures.max(attempt) };
        self.step(id, now, out, |record, now| record.marked(revision, gave_up, base, now));
        self.await_release(id, key, mark.map(RemoteHolder::Mark), at, now, out);
    }

    /// What is held or given up is woken when `key` is deleted; at once if it was, or may have been,
    /// deleted after `at`.
    fn await_release(
        &mut self,
        id: InstanceId,
        key: String,
        remote_holder: Option<RemoteHolder>,
        at: Revision,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        let Some(record) = self.records.get_mut(&id) else { return };
        if !matches!(record.state, State::Held | State::GivenUp) {
            return;
        }
        // Taken, so that it counts once: after older data was restored it is newer than every answer.
        let released = self.releases.get(&key).is_some_and(|&deleted| deleted > at);
        if released {
            self.releases.remove(&key);
        }
        if record.blind || released {
            return self.step(id, now, out, |record, now| record.released(Duration::ZERO, now));
        }
        let key: Arc<str> = key.into();
        self.release_watch.need(at, now);
        record.waits_for = Some(key.clone());
        record.remote_holder = remote_holder.map(Box::new);
        self.held.entry(key).or_default().insert(id);
        self.tell(id, now, out);
    }

    /// After which revision deletions must be told of with [`released`](Self::released); `None`: none need be.
    pub(crate) fn releases_after(&mut self, now: Instant) -> Option<Revision> {
        let watch = &mut self.release_watch;
        if !self.held.is_empty() {
            watch.needed = Some(now);
        } else if watch.needed.is_none_or(|needed| now >= needed + IDLE) {
            watch.after = None;
        }
        watch.after
    }

    /// A lock or backoff key of the namespace was deleted.
    pub(crate) fn released(&mut self, key: &str, revision: Revision, now: Instant, out: &mut Vec<Action>) {
        self.releases.insert(key.to_owned(), revision);
        self.release_order.push_back((key.to_owned(), revision));
        if self.release_order.len() > RELEASES
            && let Some((oldest, revision)) = self.release_order.pop_front()
            && self.releases.get(&oldest) == Some(&revision)
        {
            self.releases.remove(&oldest);
        }
        for id in self.held.remove(key).unwrap_or_default() {
            self.step(id, now, out, |record, now| record.released(RELEASE_GRACE, now));
        }
    }

    /// Deletions may have been missed: everything held looks again, and so will what is held by an
    /// answer that is still on its way.
    pub(crate) fn released_unknown(&mut self, now: Instant, out: &mut Vec<Action>) {
        for record in self.records.values_mut() {
            record.blind |= matches!(record.state, State::Locking | State::Ending);
        }
        let held = std::mem::take(&mut self.held);
        for id in held.into_values().flatten() {
            self.step(id, now, out, |record, now| record.released(RELEASE_GRACE, now));
        }
    }
}
