//! A watch: opened by a request, heard over its stream.

use super::Header;
use super::client::{EtcdClient, Sending};
use super::connection::Connection;
use super::failure::{Failure, FailureKind};
use super::numbers::WatchId;
use super::requests::LastEvent;
use super::store::Store;
use super::watch_call::{WatchCall, WatchCreateRequest};
use crate::change::{Change, Revision};
use crate::pattern::KeyScope;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// How etcd is to send what it has for a watch that is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pieces {
    /// Up to 1000 revisions at once, however large their values are.
    Whole,
    /// In messages of about 2 MiB. etcd takes far longer to make those of many small changes.
    Small,
}

/// How long the answer to a heartbeat may take before the connection counts as silent.
const HEARTBEAT: Duration = Duration::from_secs(1);

impl EtcdClient {
    /// Opens a watch on keys from `from` on. With `deletions_only`, puts are filtered out.
    async fn watch(
        &self,
        keys: &KeyScope,
        from: Revision,
        deletions_only: bool,
        pieces: Pieces,
    ) -> Result<Watch, Failure> {
        let send = |connection: Arc<Connection>| async move {
            let prefix = self.store.prefix();
            let (first, end) = (prefix.key(keys.first_key()), prefix.end(keys.end()));
            let mut watched = WatchCreateRequest::range(first, end, from, deletions_only);
            if pieces == Pieces::Small {
                watched = watched.in_pieces();
            }
            Ok((WatchCall::open(connection.channel.clone(), watched).await?, connection))
        };
        let (stream, connection) = self.call(Sending::once("watch"), send).await?;
        let (held, store) = (Vec::new(), self.store.clone());
        Ok(Watch { stream, id: None, connection, store, pieces, held })
    }
}

/// An open watch stream, which is asked for a sign of life when it is silent.
pub(crate) struct LiveWatch {
    client: Arc<EtcdClient>,
    watch: Watch,
    keys: KeyScope,
    silence: Duration,
    heard_at: Instant,
    /// When it was asked, if it has not answered.
    asked_at: Option<Instant>,
}

/// What came of waiting for a stream.
#[derive(Debug)]
pub(crate) enum StreamEvent {
    Message(WatchMessage),
    /// Another connection has taken the place of the stream's: the watch goes on there.
    Moved,
}

impl LiveWatch {
    /// Opens a watch as [`EtcdClient::watch`]. A stream that was silent for `silence` is asked, and given up after as
    /// long again.
    pub(crate) async fn open(
        client: &Arc<EtcdClient>,
        keys: &KeyScope,
        from: Revision,
        deletions_only: bool,
        silence: Duration,
        pieces: Pieces,
    ) -> Result<Self, Failure> {
        let watch = client.watch(keys, from, deletions_only, pieces).await?;
        let (client, keys, heard_at) = (client.clone(), keys.clone(), Instant::now());
        Ok(Self { client, watch, keys, silence, heard_at, asked_at: None })
    }

    /// What happens next. Nothing is lost if it is not waited for to its end.
    pub(crate) async fn next(&mut self) -> Result<StreamEvent, Failure> {
        let moved = self.watch.connection.superseded.clone();
        loop {
            let patience = self.asked_at.unwrap_or(self.heard_at) + self.silence;
            tokio::select! {
                biased;
                message = self.watch.next() => {
                    self.heard_at = Instant::now();
                    self.asked_at = None;
                    return message.map(StreamEvent::Message);
                }
                () = moved.cancelled() => return Ok(StreamEvent::Moved),
                () = sleep_until(patience) => {
                    if self.asked_at.is_some() {
                        // Its member answers requests, or the connection would be silent too.
                        self.client.leave(&self.watch.connection);
                        let message = format!("silent for {:?}", 2 * self.silence);
                        return Err(Failure::new(FailureKind::Unreachable, "watch", message));
                    }
                    self.asked_at = Some(Instant::now());
                    self.watch.heartbeat(&self.keys).await?;
                }
            }
        }
    }

    /// How it was asked to send what it has.
    pub(crate) fn pieces(&self) -> Pieces {
        self.watch.pieces
    }

    /// When it was last heard of, if it was asked and has not answered.
    pub(crate) fn silent_since(&self) -> Option<Instant> {
        self.asked_at.map(|_| self.heard_at)
    }
}

/// An open watch stream.
struct Watch {
    stream: WatchCall,
    /// The id of the watch itself, known from its first answer; others are heartbeats.
    id: Option<WatchId>,
    connection: Arc<Connection>,
    /// Told of the newest change.
    store: Arc<Store>,
    pieces: Pieces,
    /// The last revision of a message that etcd sends in pieces. More of it may come with the next.
    held: Vec<Change>,
}

/// What a watch stream said.
#[derive(Debug)]
pub(crate) enum WatchMessage {
    /// The watch is registered; `header` is where the server stands.
    Created(Header),
    /// Changes in order of revision, whole revisions only.
    Changes(Header, Vec<Change>),
    /// No changes; the stream is alive. `complete`: everything up to the header's revision was sent.
    Alive(Header, bool),
    /// The server ended the watch. `compacted` > 0: the oldest revision it still has.
    Cancelled { compacted: Revision, reason: String },
}

impl WatchMessage {
    /// Where the store stood when this was sent.
    pub(crate) fn store(&self) -> Revision {
        match self {
            WatchMessage::Created(header)
            | WatchMessage::Changes(header, _)
            | WatchMessage::Alive(header, _) => header.revision,
            WatchMessage::Cancelled { .. } => Revision::NONE,
        }
    }
}

impl Watch {
    /// The next message; an error also when the stream ended.
    async fn next(&mut self) -> Result<WatchMessage, Failure> {
        let lost = self.connection.lost.clone();
        let message = tokio::select! {
            biased;
            message = self.stream.message() => message,
            () = lost.cancelled() => {
                return Err(Failure::new(FailureKind::Unreachable, "watch", "the connection was replaced"));
            }
        };
        let response = message.map_err(|error| Failure::of_error("watch", error))?;
        let header = response.header;
        let ours = *self.id.get_or_insert(response.watch_id) == response.watch_id;
        if !ours && response.watch_id != WatchId::WHOLE_STREAM {
            // The answer to a heartbeat. Ending that watch needs no answer.
            if response.created && !response.canceled {
                let _ = self.stream.cancel(response.watch_id).await;
            }
            return Ok(WatchMessage::Alive(header, false));
        }
        if response.canceled {
            return Ok(WatchMessage::Cancelled {
                compacted: response.compact_revision,
                reason: response.cancel_reason,
            });
        }
        if response.created {
            return Ok(WatchMessage::Created(header));
        }
        if response.changes.is_empty() {
            // Only the periodic notification of the watch itself is safe on every version:
            // before 3.4.25 and 3.5.8 the answer to a progress request could overtake events.
            return Ok(WatchMessage::Alive(header, response.watch_id != WatchId::WHOLE_STREAM));
        }
        let mut came = response.changes;
        self.strip(&mut came);
        let changes = whole_revisions(&mut self.held, came, response.fragment);
        if changes.is_empty() {
            return Ok(WatchMessage::Alive(header, false));
        }
        if let Some(last) = changes.last() {
            self.store.saw(LastEvent::of(last));
        }
        Ok(WatchMessage::Changes(header, changes))
    }

    /// Takes off the prefix that only etcd sees.
    fn strip(&self, changes: &mut [Change]) {
        let prefix = self.store.prefix();
        if prefix.as_str().is_empty() {
            return;
        }
        for change in changes {
            let (Change::Put { key, .. } | Change::Delete { key, .. }) = change;
            *key = prefix.strip(std::mem::take(key));
        }
    }

    /// Asks for a sign of life that every version gives, also on a quiet watch: the registration of
    /// another watch on the same stream, on a key within the range of the first. An error also if the first
    /// was never registered: the answer would be taken for its own, and nothing would be watched.
    async fn heartbeat(&mut self, keys: &KeyScope) -> Result<(), Failure> {
        if self.id.is_none() {
            return Err(Failure::new(FailureKind::Unreachable, "watch", "the watch was not registered"));
        }
        self.connection.activity.sent(Instant::now(), HEARTBEAT);
        let beside = WatchCreateRequest::key(self.store.prefix().key(keys.first_key()));
        self.stream.watch(beside).await.map_err(|error| Failure::of_error("watch", error))
    }
}

/// Of what was held back and what has come, the changes whose revisions are whole. `more`: another piece follows.
fn whole_revisions(held: &mut Vec<Change>, came: Vec<Change>, more: bool) -> Vec<Change> {
    let mut changes = std::mem::take(held);
    if changes.is_empty() {
        // The usual case, without another copy.
        changes = came;
    } else {
        changes.extend(came);
    }
    if more && let Some(last) = changes.last().map(Change::revision) {
        let whole = changes.partition_point(|change| change.revision() < last);
        *held = changes.split_off(whole);
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Deletion;

    #[test]
    fn a_revision_is_told_when_all_of_it_has_come() {
        let change = |revision| Change::Delete {
            key: b"k".to_vec(),
            revision: Revision::new(revision),
            how: Deletion::Delivered,
        };
        let mut held = Vec::new();
        let mut delivered = |came: &[i64], more| -> Vec<i64> {
            let came = came.iter().copied().map(change).collect();
            let changes = whole_revisions(&mut held, came, more);
            changes.iter().map(|change| change.revision().get()).collect()
        };
        assert_eq!(delivered(&[1, 2, 2], true), [1]);
        assert_eq!(delivered(&[2, 2], true), [0; 0], "it may still go on");
        assert_eq!(delivered(&[2, 3], true), [2, 2, 2, 2, 2]);
        assert_eq!(delivered(&[4], false), [3, 4]);
        assert_eq!(delivered(&[5, 5], false), [5, 5]);
    }
}
