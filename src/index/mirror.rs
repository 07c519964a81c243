//! The watched keys in memory. Revisions of a key only move forward: what is older than what is
//! known is refused, whatever order watch, crawl, own commits and reads of a lock transaction
//! arrive in.

use crate::value::Value;
use foldhash::fast::FixedState;
use hashbrown::HashTable;
use slab::Slab;
use smallvec::SmallVec;
use std::hash::BuildHasher;

pub(crate) type Revision = i64;

/// A slot of [`Mirror`]; valid until the entry is removed.
pub(crate) type EntryId = u32;

/// No entry: the key is absent and has no tombstone.
pub(crate) const NO_ENTRY: EntryId = u32::MAX;

/// Who is concerned by a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    /// The instance at this index of the instance table reads it as this slot of its rule.
    Instance(u32, u8),
    /// All members of the group at this index read it as this slot of their rule.
    Group(u32, u8),
}

#[derive(Debug)]
pub(crate) enum Content {
    Present {
        value: Value,
        revision: Revision,
    },
    /// A tombstone: the key was absent at `revision`. Unconfirmed until the watch has delivered the
    /// deletion, since older puts of the key may still come before it.
    Gone {
        revision: Revision,
        confirmed: bool,
    },
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) key: Box<str>,
    pub(crate) content: Content,
    pub(crate) readers: SmallVec<[Reader; 1]>,
    /// The watcher whose prefix covers the key.
    pub(crate) watcher: u16,
    /// The last view (snapshot or crawl) that contained the key.
    pub(crate) stamp: u32,
    /// Listed among the graves.
    buried: bool,
}

/// What became of something told to the mirror.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Merge {
    /// The key did not exist and exists now.
    Appeared(EntryId),
    /// The key has another value or revision now.
    Changed(EntryId),
    /// The key existed and is a tombstone now.
    Vanished(EntryId),
    /// Older than what is known: the mirror is as it was.
    Stale(EntryId),
    /// Known already, or without effect.
    Known,
}

/// How sure a deletion's revision is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deletion {
    /// The watch delivered the event: nothing older of this key can follow it.
    Delivered,
    /// Our own commit deleted it at this revision; the event is still to come.
    Committed,
    /// A read found it absent at this revision; it was deleted at or before it.
    SeenAbsent,
}

pub(crate) struct Mirror {
    entries: Slab<Entry>,
    by_key: HashTable<EntryId>,
    hasher: FixedState,
    /// Entries that are, or were since the last look, tombstones.
    graves: Vec<EntryId>,
    gone: usize,
    present: usize,
    bytes: usize,
}

impl Mirror {
    pub(crate) fn new(hasher: FixedState) -> Self {
        Self {
            entries: Slab::new(),
            by_key: HashTable::new(),
            hasher,
            graves: Vec::new(),
            gone: 0,
            present: 0,
            bytes: 0,
        }
    }

    /// Number of keys that exist.
    pub(crate) fn keys(&self) -> usize {
        self.present
    }

    /// Bytes of the keys and values that exist.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn tombstones(&self) -> usize {
        self.gone
    }

    pub(crate) fn find(&self, key: &str) -> Option<EntryId> {
        let hash = self.hasher.hash_one(key);
        self.by_key.find(hash, |&id| &*self.entries[id as usize].key == key).copied()
    }

    pub(crate) fn entry(&self, id: EntryId) -> &Entry {
        &self.entries[id as usize]
    }

    pub(crate) fn entry_mut(&mut self, id: EntryId) -> &mut Entry {
        &mut self.entries[id as usize]
    }

    /// The value and revision behind an entry, if its key exists.
    pub(crate) fn present(&self, id: EntryId) -> Option<(&Value, Revision)> {
        if id == NO_ENTRY {
            return None;
        }
        match &self.entries[id as usize].content {
            Content::Present { value, revision } => Some((value, *revision)),
            Content::Gone { .. } => None,
        }
    }

    /// One past the highest index an entry may have, for sweeps.
    pub(crate) fn capacity(&self) -> usize {
        self.entries.capacity()
    }

    pub(crate) fn at(&self, index: usize) -> Option<(EntryId, &Entry)> {
        self.entries.get(index).map(|entry| (index as EntryId, entry))
    }

    pub(crate) fn put(&mut self, key: &str, value: Value, revision: Revision, watcher: u16) -> Merge {
        let Some(id) = self.find(key) else {
            self.bytes += key.len() + value.len();
            self.present += 1;
            return Merge::Appeared(self.insert(key, Content::Present { value, revision }, watcher));
        };
        let entry = &mut self.entries[id as usize];
        match &mut entry.content {
            Content::Present { revision: known, .. } if revision == *known => Merge::Known,
            Content::Present { revision: known, .. } if revision < *known => Merge::Stale(id),
            Content::Present { value: old, revision: known } => {
                self.bytes = self.bytes - old.len() + value.len();
                (*old, *known) = (value, revision);
                Merge::Changed(id)
            }
            Content::Gone { revision: gone, .. } if revision <= *gone => Merge::Stale(id),
            Content::Gone { .. } => {
                self.bytes += key.len() + value.len();
                self.present += 1;
                self.gone -= 1;
                entry.content = Content::Present { value, revision };
                Merge::Appeared(id)
            }
        }
    }

    /// `guard_unknown`: leave a tombstone even for a key that was not known, because an open view
    /// of an older revision may still contain it.
    pub(crate) fn delete(
        &mut self,
        key: &str,
        revision: Revision,
        how: Deletion,
        guard_unknown: bool,
        watcher: u16,
    ) -> Merge {
        let confirmed = how == Deletion::Delivered;
        let Some(id) = self.find(key) else {
            if guard_unknown {
                let id = self.insert(key, Content::Gone { revision, confirmed }, watcher);
                self.dig(id);
            }
            return Merge::Known;
        };
        let entry = &mut self.entries[id as usize];
        match &mut entry.content {
            Content::Present { revision: known, .. } if revision <= *known => Merge::Stale(id),
            Content::Present { value, .. } => {
                self.bytes -= entry.key.len() + value.len();
                self.present -= 1;
                entry.content = Content::Gone { revision, confirmed };
                self.dig(id);
                Merge::Vanished(id)
            }
            Content::Gone { revision: gone, confirmed: sure } => {
                *gone = revision.max(*gone);
                *sure |= confirmed;
                Merge::Known
            }
        }
    }

    fn insert(&mut self, key: &str, content: Content, watcher: u16) -> EntryId {
        let id = self.entries.insert(Entry {
            key: key.into(),
            content,
            readers: SmallVec::new(),
            watcher,
            stamp: 0,
            buried: false,
        }) as EntryId;
        let hash = self.hasher.hash_one(key);
        let (entries, hasher) = (&self.entries, &self.hasher);
        self.by_key.insert_unique(hash, id, |&id| hasher.hash_one(&*entries[id as usize].key));
        id
    }

    fn dig(&mut self, id: EntryId) {
        self.gone += 1;
        if !std::mem::replace(&mut self.entries[id as usize].buried, true) {
            self.graves.push(id);
        }
    }

    /// Removes the tombstones that `keep(revision, confirmed, watcher)` no longer wants.
    pub(crate) fn bury(&mut self, keep: impl Fn(Revision, bool, u16) -> bool) {
        if self.graves.is_empty() {
            return;
        }
        let mut graves = std::mem::take(&mut self.graves);
        graves.retain(|&id| {
            let entry = &mut self.entries[id as usize];
            let Content::Gone { revision, confirmed } = entry.content else {
                entry.buried = false;
                return false;
            };
            if keep(revision, confirmed, entry.watcher) {
                return true;
            }
            self.gone -= 1;
            let hash = self.hasher.hash_one(&*entry.key);
            if let Ok(found) = self.by_key.find_entry(hash, |&other| other == id) {
                found.remove();
            }
            self.entries.remove(id as usize);
            false
        });
        self.graves = graves;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mirror() -> Mirror {
        Mirror::new(FixedState::with_seed(1))
    }

    #[test]
    fn revisions_of_a_key_only_move_forward() {
        let mut m = mirror();
        let Merge::Appeared(id) = m.put("/a", "1".into(), 5, 0) else { panic!("new key") };
        assert_eq!(m.put("/a", "1".into(), 5, 0), Merge::Known, "the same event twice");
        assert_eq!(m.put("/a", "0".into(), 4, 0), Merge::Stale(id), "an older put");
        assert_eq!(m.delete("/a", 4, Deletion::Delivered, false, 0), Merge::Stale(id), "an older delete");
        assert_eq!(m.put("/a", "2".into(), 6, 0), Merge::Changed(id));
        assert_eq!(m.delete("/a", 7, Deletion::Committed, false, 0), Merge::Vanished(id));
        assert_eq!(m.put("/a", "2".into(), 6, 0), Merge::Stale(id), "a put older than the tombstone");
        assert_eq!(m.put("/a", "3".into(), 8, 0), Merge::Appeared(id), "a put after the tombstone");
        assert_eq!(m.tombstones(), 0);
        assert_eq!((m.keys(), m.bytes()), (1, 3));
    }

    #[test]
    fn a_tombstone_stays_until_it_is_confirmed_and_unwanted() {
        let mut m = mirror();
        m.put("/a", "1".into(), 5, 0);
        m.delete("/a", 7, Deletion::Committed, false, 0);
        m.bury(|_, confirmed, _| !confirmed);
        assert_eq!(m.tombstones(), 1);
        m.delete("/a", 7, Deletion::Delivered, false, 0);
        m.bury(|_, confirmed, _| !confirmed);
        assert_eq!((m.tombstones(), m.find("/a")), (0, None));
    }

    #[test]
    fn an_unknown_key_gets_a_tombstone_only_when_a_view_is_open() {
        let mut m = mirror();
        assert_eq!(m.delete("/a", 7, Deletion::Delivered, false, 0), Merge::Known);
        assert_eq!(m.find("/a"), None);
        m.delete("/a", 7, Deletion::Delivered, true, 0);
        assert!(
            matches!(m.put("/a", "1".into(), 6, 0), Merge::Stale(_)),
            "an old page must not resurrect it"
        );
    }
}
