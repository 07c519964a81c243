//! What was read from a watch's stream and is not yet with the index: how much of it there may be, and in what parts it
//! is handed on. Nothing here does I/O.

use crate::change::{Change, Revision};
use tokio::time::Instant;

/// Changes read ahead while the index is busy; then the stream waits, and etcd with it.
const CHANGES: usize = 65_536;

/// The same in bytes of keys and values. The message that goes beyond them was read already.
pub(super) const BYTES: usize = 16 << 20;

/// Changes are handed on in parts of so many bytes, or of one revision. Some parts wait in mailboxes.
const PART: usize = 1 << 20;

/// A watch whose changes have been so large is sent its history in small pieces.
pub(super) const LARGE: usize = 64 << 10;

/// What is handed on at once.
#[derive(Debug, PartialEq)]
pub(super) struct ChangeBatch {
    pub(super) changes: Vec<Change>,
    /// Up to where the changes are complete.
    pub(super) position: Revision,
    /// When the first of them was received.
    pub(super) arrived: Instant,
    pub(super) bytes: usize,
}

/// Changes that wait to be handed on.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    changes: Vec<Change>,
    bytes: usize,
    /// Of the part that is being handed on.
    leaving: usize,
    /// Up to where `changes` is complete, if that is news.
    position: Option<Revision>,
    arrived: Option<Instant>,
}

impl Ahead {
    pub(super) fn add(&mut self, changes: Vec<Change>, position: Revision, heard_at: Instant) {
        self.position = Some(position);
        self.arrived.get_or_insert(heard_at);
        self.bytes += changes.iter().map(Change::bytes).sum::<usize>();
        if self.changes.is_empty() {
            self.changes = changes;
        } else {
            self.changes.extend(changes);
        }
    }

    /// Takes what is to be handed on next. [`left`](Self::left) tells when it is.
    pub(super) fn take(&mut self) -> Option<ChangeBatch> {
        let position = self.position?;
        let arrived = self.arrived?;
        let (whole, bytes) = if self.bytes <= PART { (self.changes.len(), self.bytes) } else { self.part() };
        self.leaving = bytes;
        if whole == self.changes.len() {
            self.position = None;
            self.arrived = None;
            self.bytes = 0;
            return Some(ChangeBatch {
                changes: std::mem::take(&mut self.changes),
                position,
                arrived,
                bytes,
            });
        }
        self.bytes -= bytes;
        let rest = self.changes.split_off(whole);
        let changes = std::mem::replace(&mut self.changes, rest);
        let position = changes.last().map_or(position, Change::revision);
        Some(ChangeBatch { changes, position, arrived, bytes })
    }

    /// How many of the changes fit into a part, at least those of a revision, and their bytes.
    fn part(&self) -> (usize, usize) {
        let (mut whole, mut bytes) = (0, 0);
        for revision in self.changes.chunk_by(|one, other| one.revision() == other.revision()) {
            let more: usize = revision.iter().map(Change::bytes).sum();
            if whole > 0 && bytes + more > PART {
                break;
            }
            whole += revision.len();
            bytes += more;
        }
        (whole, bytes)
    }

    /// The part that was taken has been handed on.
    pub(super) fn left(&mut self) {
        self.leaving = 0;
    }

    /// Nothing more is to be read for now.
    pub(super) fn is_full(&self) -> bool {
        self.changes.len() >= CHANGES || self.has_many_bytes()
    }

    /// Nothing more is to be read for now because of the size of the changes.
    pub(super) fn has_many_bytes(&self) -> bool {
        self.bytes + self.leaving >= BYTES
    }

    /// Nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.position.is_none()
    }

    /// When the oldest was received of what waits.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.arrived
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(revision: i64, bytes: usize) -> Change {
        Change::Put { key: Vec::new(), value: vec![0; bytes].into(), revision: Revision::new(revision) }
    }

    /// The revisions of each part, and where it ends.
    fn parts(ahead: &mut Ahead) -> Vec<(Vec<i64>, i64)> {
        let parts = std::iter::from_fn(|| ahead.take());
        let revisions =
            |part: &ChangeBatch| part.changes.iter().map(|change| change.revision().get()).collect();
        parts.map(|part| (revisions(&part), part.position.get())).collect()
    }

    #[test]
    fn small_changes_are_handed_on_together() {
        let mut ahead = Ahead::default();
        ahead.add(vec![put(1, 10), put(2, 10)], Revision::new(3), Instant::now());
        ahead.add(vec![put(4, 10)], Revision::new(4), Instant::now());
        assert_eq!(parts(&mut ahead), [(vec![1, 2, 4], 4)]);
        assert!(ahead.is_empty());
        ahead.add(Vec::new(), Revision::new(9), Instant::now());
        assert_eq!(parts(&mut ahead), [(vec![], 9)], "a position is news as well");
    }

    #[test]
    fn large_changes_are_handed_on_in_parts_and_a_revision_is_never_torn() {
        let third = PART / 3;
        let changes = [(1, third), (2, third), (3, third), (3, third), (4, 10), (5, 2 * PART), (6, 1)];
        let mut ahead = Ahead::default();
        ahead.add(changes.map(|(at, bytes)| put(at, bytes)).into(), Revision::new(7), Instant::now());
        let expected = [(vec![1, 2], 2), (vec![3, 3, 4], 4), (vec![5], 5), (vec![6], 7)];
        assert_eq!(parts(&mut ahead), expected);
    }

    #[test]
    fn what_is_read_ahead_is_bounded_in_bytes_also_while_it_is_handed_on() {
        let mut ahead = Ahead::default();
        let mut revision = 0;
        while !ahead.is_full() {
            revision += 1;
            ahead.add(vec![put(revision, PART)], Revision::new(revision), Instant::now());
        }
        assert!(ahead.has_many_bytes());
        assert_eq!(revision as usize, BYTES / PART);
        assert!(ahead.take().is_some());
        assert!(ahead.is_full(), "the index does not have it yet");
        ahead.left();
        assert!(!ahead.is_full());
    }
}
