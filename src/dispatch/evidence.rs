//! Whether a commit took effect whose answer was lost, when its lock is gone.
//!
//! The transaction that commits also deletes the lock. So it took effect if a key that it writes changed at exactly the
//! revision at which the lock was deleted. If none did, somebody else deleted the lock, or it ended with its lease.

use crate::change::{Change, Revision};
use crate::etcd::{EtcdClient, Failure, FailureKind, LiveWatch, Pieces, StreamEvent, WatchMessage};
use crate::firing::{Effect, Fence};
use crate::mutants::{Mutant, is_active};
use crate::pattern::KeyScope;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// How long the history of the lock may take to come.
const PATIENCE: Duration = Duration::from_secs(5);

/// What etcd's history says of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Evidence {
    /// It took effect at this revision.
    Committed(Revision),
    /// It took no effect.
    NotCommitted,
    /// So much of the history is gone that it says nothing.
    Gone,
}

/// A key that a commit changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ChangedKey<'a> {
    pub(super) key: &'a str,
    pub(super) is_put: bool,
}

impl<'a> ChangedKey<'a> {
    pub(super) fn by(effect: &'a Effect) -> Self {
        Self { key: effect.key(), is_put: matches!(effect, Effect::Put { .. }) }
    }

    /// Whether the commit was the change at this revision, by what the key was then and before. `None`: it would have
    /// changed nothing, as it deletes what was not there.
    fn was_changed(self, at: Revision, then: Option<Revision>, before: Option<Revision>) -> Option<bool> {
        match (self.is_put, then, before) {
            (true, then, _) => Some(then == Some(at)),
            (false, Some(_), _) => Some(false),
            (false, None, Some(_)) => Some(true),
            (false, None, None) => None,
        }
    }
}

/// Looks for the evidence. The lock is known to be gone.
pub(super) async fn find<'w>(
    etcd: &Arc<EtcdClient>,
    lock: &str,
    fence: Fence,
    written: impl Iterator<Item = ChangedKey<'w>>,
) -> Result<Evidence, Failure> {
    let looking = async {
        let at = deleted_at(etcd, lock, fence.create_revision).await?;
        if is_active(Mutant::Evidence) {
            return Ok(Evidence::Committed(at));
        }
        for key in written {
            let then = changed_at(etcd, key.key, at).await?;
            let before = match (key.is_put, then) {
                (false, None) => changed_at(etcd, key.key, at.previous()).await?,
                _ => None,
            };
            match key.was_changed(at, then, before) {
                Some(true) => return Ok(Evidence::Committed(at)),
                Some(false) => return Ok(Evidence::NotCommitted),
                None => {}
            }
        }
        // What it had to do is done, whoever did it.
        Ok(Evidence::Committed(at))
    };
    match looking.await {
        Err(Failure { kind: FailureKind::Compacted, .. }) => Ok(Evidence::Gone),
        looked => looked,
    }
}

/// The revision of the last change of a key, as of a revision. `None`: it was not there.
async fn changed_at(etcd: &EtcdClient, key: &str, at: Revision) -> Result<Option<Revision>, Failure> {
    let (start, mut end) = (key.as_bytes().to_vec(), key.as_bytes().to_vec());
    end.push(0);
    let page = etcd.range(start, end, 1, at).await?;
    Ok(page.keys.into_iter().next().map(|found| found.revision))
}

/// When the lock was deleted that was created at this revision.
async fn deleted_at(etcd: &Arc<EtcdClient>, lock: &str, created: Revision) -> Result<Revision, Failure> {
    let searching = async {
        let key = KeyScope::Key(lock.to_owned());
        loop {
            // From its creation on: some servers drop a deletion at the compacted revision without an error.
            let mut stream = LiveWatch::open(etcd, &key, created, true, PATIENCE, Pieces::Whole).await?;
            loop {
                let StreamEvent::Message(message) = stream.next().await? else { break };
                match message {
                    WatchMessage::Changes(_, changes) => {
                        let deleted = changes.iter().find_map(|change| match change {
                            Change::Delete { key, revision, .. } if key == lock.as_bytes() => Some(*revision),
                            _ => None,
                        });
                        if let Some(at) = deleted.filter(|at| *at > created) {
                            return Ok(at);
                        }
                    }
                    WatchMessage::Cancelled { compacted, .. } if compacted > Revision::NONE => {
                        return Err(Failure::new(FailureKind::Compacted, "watch", "history was compacted"));
                    }
                    WatchMessage::Cancelled { reason, .. } => {
                        return Err(Failure::of_reason("watch", reason));
                    }
                    WatchMessage::Created(_) | WatchMessage::Alive(..) => {}
                }
            }
        }
    };
    let late =
        || Failure::new(FailureKind::Unreachable, "watch", "the history of a lock did not come in time");
    timeout(PATIENCE, searching).await.unwrap_or_else(|_| Err(late()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_at_the_deletion_of_the_lock_is_the_commits() {
        let [before, at] = [8, 9].map(Revision::new);
        for (name, is_put, then, earlier, is) in [
            ("put then", true, Some(at), None, Some(true)),
            ("put before", true, Some(before), None, Some(false)),
            ("never put", true, None, None, Some(false)),
            ("deleted then", false, None, Some(before), Some(true)),
            ("not deleted", false, Some(before), None, Some(false)),
            ("written then by another", false, Some(at), None, Some(false)),
            ("was not there", false, None, None, None),
        ] {
            assert_eq!(ChangedKey { key: "/k", is_put }.was_changed(at, then, earlier), is, "{name}");
        }
    }
}
