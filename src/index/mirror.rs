//! The watched keys in memory. The revision of a key only moves forward: news that is older than what is
//! known of a key is refused. So it doesn't matter in which order the watch, crawls, own commits and the
//! reads of lock transactions arrive.

use super::places::{EntryId, GroupIndex, InstanceIndex, ViewId};
use super::table::Table;
use super::watchers::WatcherIndex;
use crate::change::Revision;
use crate::condition::Slot;
use crate::mutants::{Mutant, is_active};
use crate::runtime::spare::Spare;
use crate::value::Value;
use foldhash::fast::FixedState;
use slab::Slab;
use smallvec::SmallVec;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hash::BuildHasher;

/// Who reads a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subscriber {
    /// The instance at this index of the instance table reads it as this slot of its rule.
    Instance(InstanceIndex, Slot),
    /// All members of the group at this index read it as this slot of their rule.
    Group(GroupIndex, Slot),
}

#[derive(Debug)]
pub(crate) enum Content {
    Present {
        value: Value,
        revision: Revision,
    },
    /// A tombstone: the key was absent at `revision`. It stays until the watch has passed that revision,
    /// because older puts of the key may still arrive.
    Gone {
        revision: Revision,
    },
}

/// Who reads a key, and its text.
#[derive(Debug)]
pub(crate) enum Readers {
    /// The instance at this index reads it as this slot. Nobody else does. The key exists, and its text follows
    /// from the instance: see [`Forms`](super::forms::Forms). So most keys are stored once, as what their
    /// instance binds.
    One(InstanceIndex, Slot),
    Listed(Box<ListedKey>),
}

/// A key with its text. It may be read by many or by nobody, and may be a tombstone.
#[derive(Debug)]
pub(crate) struct ListedKey {
    pub(crate) key: Box<str>,
    pub(crate) readers: SmallVec<[Subscriber; 1]>,
}

impl Readers {
    /// Of a key that exists.
    pub(crate) fn new(readers: SmallVec<[Subscriber; 1]>, key: impl FnOnce() -> Box<str>) -> Self {
        match readers[..] {
            [Subscriber::Instance(index, slot)] => Self::One(index, slot),
            _ => Self::Listed(Box::new(ListedKey { key: key(), readers })),
        }
    }

    pub(crate) fn first(&self) -> Option<Subscriber> {
        match self {
            Self::One(index, slot) => Some(Subscriber::Instance(*index, *slot)),
            Self::Listed(listed) => listed.readers.first().copied(),
        }
    }

    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        match self {
            Self::One(..) => 1,
            Self::Listed(listed) => listed.readers.len(),
        }
    }

    pub(crate) fn get(&self, at: usize) -> Option<Subscriber> {
        match self {
            Self::One(..) => self.first().filter(|_| at == 0),
            Self::Listed(listed) => listed.readers.get(at).copied(),
        }
    }

    /// Takes all of them. The text of the key stays, which is given because it may follow from one of them.
    pub(crate) fn take(&mut self, key: &str) -> SmallVec<[Subscriber; 1]> {
        match self {
            Self::One(index, slot) => {
                let readers = smallvec::smallvec![Subscriber::Instance(*index, *slot)];
                *self = Self::Listed(Box::new(ListedKey { key: key.into(), readers: SmallVec::new() }));
                readers
            }
            Self::Listed(listed) => std::mem::take(&mut listed.readers),
        }
    }
}

#[derive(Debug)]
pub(crate) struct MirrorEntry {
    pub(crate) content: Content,
    pub(crate) readers: Readers,
    /// The watcher whose prefix covers the key.
    pub(crate) watcher: WatcherIndex,
    /// The last view (snapshot or crawl) that contained the key.
    pub(crate) stamp: ViewId,
    /// Whether the entry is in the list of tombstones. It is listed at most once.
    buried: bool,
}

/// What a change did to the mirror.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Merge {
    /// The key did not exist, and exists now.
    Created(EntryId),
    /// The key has another value or revision now.
    Changed(EntryId),
    /// The key existed and is a tombstone now.
    Deleted(EntryId),
    /// The change is older than what is known. The mirror has not changed.
    Stale(EntryId),
    /// The change was known already, or has no effect.
    Known,
}

pub(crate) struct Mirror {
    entries: Slab<MirrorEntry>,
    by_key: Table<EntryId>,
    hasher: FixedState,
    /// For each watcher, the entries that became tombstones, ordered by a revision that is at most theirs. A
    /// key that has been put again since is noticed when its entry comes up.
    tombstones: Vec<BinaryHeap<Reverse<(Revision, EntryId)>>>,
    /// For each watcher, the newest revision at which a key was found to be deleted.
    newest_deletions: Vec<Revision>,
    gone: usize,
    present: usize,
    bytes: usize,
    spare: Spare,
}

impl Mirror {
    pub(crate) fn new(hasher: FixedState) -> Self {
        Self {
            entries: Slab::new(),
            by_key: Table::default(),
            hasher,
            tombstones: Vec::new(),
            newest_deletions: Vec::new(),
            gone: 0,
            present: 0,
            bytes: 0,
            spare: Spare::default(),
        }
    }

    /// Gives memory back if there were far more keys than there are. Entries keep their numbers, so that memory below
    /// the highest number is kept for new ones.
    pub(crate) fn shrink(&mut self) {
        let used = self.entries.len();
        if self.spare.is_far_too_much(used, self.entries.capacity()) {
            self.entries.shrink_to_fit();
            self.by_key.shrink();
            self.tombstones.iter_mut().for_each(BinaryHeap::shrink_to_fit);
        }
    }

    #[cfg(test)]
    pub(crate) fn room(&self) -> usize {
        self.entries.capacity()
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

    /// The hash of a key, for callers that look it up more than once.
    pub(crate) fn hash(&self, key: &[u8]) -> u64 {
        self.hasher.hash_one(key)
    }

    /// Reads the memory where a key would be found, so that it is in the processor's cache by then.
    pub(crate) fn touch(&self, hash: u64) -> u64 {
        self.by_key.touch(hash)
    }

    /// The entry of a key. `is_of` tells whether it is the key of an instance's slot.
    pub(crate) fn find(
        &self,
        hash: u64,
        key: &[u8],
        is_of: impl Fn(InstanceIndex, Slot) -> bool,
    ) -> Option<EntryId> {
        self.by_key.find(hash, |id| match &self.entries[id.index()].readers {
            Readers::One(index, slot) => is_of(*index, *slot),
            Readers::Listed(listed) => listed.key.as_bytes() == key,
        })
    }

    /// What is most likely the entry of a key. Nothing is compared but a part of the hash.
    pub(crate) fn guess(&self, hash: u64) -> Option<EntryId> {
        self.by_key.find(hash, |_| true)
    }

    pub(crate) fn entry(&self, id: EntryId) -> &MirrorEntry {
        &self.entries[id.index()]
    }

    pub(crate) fn entry_mut(&mut self, id: EntryId) -> &mut MirrorEntry {
        &mut self.entries[id.index()]
    }

    /// The value and revision behind an entry, if its key exists.
    pub(crate) fn present(&self, id: EntryId) -> Option<(&Value, Revision)> {
        if id == EntryId::NONE {
            return None;
        }
        match &self.entries[id.index()].content {
            Content::Present { value, revision } => Some((value, *revision)),
            Content::Gone { .. } => None,
        }
    }

    /// Makes room for `more` entries.
    pub(crate) fn reserve(&mut self, more: usize) {
        self.entries.reserve_exact(more);
        self.by_key.reserve(more);
    }

    /// One past the highest index an entry may have, for sweeps.
    pub(crate) fn capacity(&self) -> usize {
        self.entries.capacity()
    }

    pub(crate) fn at(&self, index: usize) -> Option<(EntryId, &MirrorEntry)> {
        self.entries.get(index).map(|entry| (EntryId::new(index), entry))
    }

    /// Puts a key that has no entry and is so long. `hash` is that of [`Mirror::hash`].
    pub(crate) fn put_new(
        &mut self,
        hash: u64,
        length: usize,
        (value, revision): (Value, Revision),
        watcher: WatcherIndex,
        readers: Readers,
    ) -> EntryId {
        self.bytes += length + value.len();
        self.present += 1;
        self.insert(hash, readers, Content::Present { value, revision }, watcher)
    }

    /// Puts the key of an entry.
    pub(crate) fn put_at(&mut self, id: EntryId, value: Value, revision: Revision) -> Merge {
        let entry = &mut self.entries[id.index()];
        match &mut entry.content {
            Content::Present { revision: known, .. } if revision == *known => Merge::Known,
            Content::Present { revision: known, .. } if revision < *known && !is_active(Mutant::Forward) => {
                Merge::Stale(id)
            }
            Content::Present { value: old, revision: known } => {
                self.bytes = self.bytes - old.len() + value.len();
                (*old, *known) = (value, revision);
                Merge::Changed(id)
            }
            Content::Gone { revision: gone } if revision <= *gone && !is_active(Mutant::Forward) => {
                Merge::Stale(id)
            }
            Content::Gone { .. } => {
                let Readers::Listed(listed) = &entry.readers else { unreachable!("it is a tombstone") };
                self.bytes += listed.key.len() + value.len();
                self.present += 1;
                self.gone -= 1;
                entry.content = Content::Present { value, revision };
                Merge::Created(id)
            }
        }
    }

    /// Makes a tombstone of a key that has no entry, because an open view of an older revision may still contain it.
    pub(crate) fn delete_unknown(&mut self, hash: u64, key: &str, revision: Revision, watcher: WatcherIndex) {
        let readers = Readers::Listed(Box::new(ListedKey { key: key.into(), readers: SmallVec::new() }));
        let id = self.insert(hash, readers, Content::Gone { revision }, watcher);
        self.tombstone(id, revision);
    }

    /// Deletes the key of an entry. It is so long. Its readers must be taken if it is a tombstone now.
    pub(crate) fn delete_at(&mut self, id: EntryId, length: usize, revision: Revision) -> Merge {
        let entry = &mut self.entries[id.index()];
        match &mut entry.content {
            Content::Present { revision: known, .. } if revision <= *known && !is_active(Mutant::Forward) => {
                Merge::Stale(id)
            }
            Content::Present { value, .. } => {
                self.bytes -= length + value.len();
                self.present -= 1;
                entry.content = Content::Gone { revision };
                self.tombstone(id, revision);
                Merge::Deleted(id)
            }
            Content::Gone { revision: gone } => {
                *gone = revision.max(*gone);
                let watcher = entry.watcher;
                self.note_deletion(watcher, revision);
                Merge::Known
            }
        }
    }

    fn insert(&mut self, hash: u64, readers: Readers, content: Content, watcher: WatcherIndex) -> EntryId {
        let entry = MirrorEntry { content, readers, watcher, stamp: ViewId::NONE, buried: false };
        let id = EntryId::new(self.entries.insert(entry));
        self.by_key.insert(hash, id);
        id
    }

    /// The newest revision at which a key of this watcher was found to be deleted.
    pub(crate) fn newest_deletion(&self, watcher: WatcherIndex) -> Revision {
        self.newest_deletions.get(watcher.index()).copied().unwrap_or_default()
    }

    fn note_deletion(&mut self, watcher: WatcherIndex, revision: Revision) {
        let at = watcher.index();
        if self.newest_deletions.len() <= at {
            self.newest_deletions.resize(at + 1, Revision::NONE);
        }
        self.newest_deletions[at] = revision.max(self.newest_deletions[at]);
    }

    fn tombstone(&mut self, id: EntryId, revision: Revision) {
        self.gone += 1;
        self.note_deletion(self.entries[id.index()].watcher, revision);
        let entry = &mut self.entries[id.index()];
        if !std::mem::replace(&mut entry.buried, true) {
            let watcher = entry.watcher.index();
            if self.tombstones.len() <= watcher {
                self.tombstones.resize_with(watcher + 1, BinaryHeap::new);
            }
            self.tombstones[watcher].push(Reverse((revision, id)));
        }
    }

    /// Removes a watcher's tombstones up to `horizon`. Returns the revision of the newest of them.
    pub(crate) fn collect_tombstones(
        &mut self,
        watcher: WatcherIndex,
        horizon: Revision,
    ) -> Option<Revision> {
        let Self { tombstones, entries, by_key, hasher, gone, .. } = self;
        let tombstones = tombstones.get_mut(watcher.index())?;
        let mut newest = None;
        while let Some(Reverse((listed, id))) = tombstones.peek().copied()
            && listed <= horizon
        {
            tombstones.pop();
            let entry = &mut entries[id.index()];
            match entry.content {
                Content::Present { .. } => entry.buried = false,
                Content::Gone { revision } if revision > horizon => tombstones.push(Reverse((revision, id))),
                Content::Gone { revision } => {
                    newest = newest.max(Some(revision));
                    *gone -= 1;
                    let Readers::Listed(listed) = &entry.readers else { unreachable!("it is a tombstone") };
                    by_key.remove(hasher.hash_one(listed.key.as_bytes()), id);
                    entries.remove(id.index());
                }
            }
        }
        newest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: WatcherIndex = WatcherIndex::FIRST;

    fn mirror() -> Mirror {
        Mirror::new(FixedState::with_seed(1))
    }

    impl Mirror {
        fn find_text(&self, key: &str) -> Option<EntryId> {
            self.find(self.hash(key.as_bytes()), key.as_bytes(), |_, _| false)
        }

        /// Puts a key that nobody reads.
        fn put(&mut self, key: &str, value: Value, revision: Revision, watcher: WatcherIndex) -> Merge {
            if let Some(id) = self.find_text(key) {
                return self.put_at(id, value, revision);
            }
            let readers = Readers::new(SmallVec::new(), || key.into());
            let hash = self.hash(key.as_bytes());
            Merge::Created(self.put_new(hash, key.len(), (value, revision), watcher, readers))
        }

        fn delete(&mut self, key: &str, revision: Revision, guard: bool, watcher: WatcherIndex) -> Merge {
            match self.find_text(key) {
                Some(id) => self.delete_at(id, key.len(), revision),
                None if guard => {
                    self.delete_unknown(self.hash(key.as_bytes()), key, revision, watcher);
                    Merge::Known
                }
                None => Merge::Known,
            }
        }
    }

    #[test]
    fn an_entry_is_smaller_than_a_cache_line() {
        let sizes = (size_of::<MirrorEntry>(), size_of::<Option<MirrorEntry>>());
        assert_eq!(sizes, (56, 56), "a slab has room for `None`");
    }

    const fn rev(revision: i64) -> Revision {
        Revision::new(revision)
    }

    #[test]
    fn revisions_of_a_key_only_move_forward() {
        let mut m = mirror();
        let Merge::Created(id) = m.put("/a", "1".into(), rev(5), FIRST) else { panic!("new key") };
        assert_eq!(m.put("/a", "1".into(), rev(5), FIRST), Merge::Known, "the same event twice");
        assert_eq!(m.put("/a", "0".into(), rev(4), FIRST), Merge::Stale(id), "an older put");
        assert_eq!(m.delete("/a", rev(4), false, FIRST), Merge::Stale(id), "an older delete");
        assert_eq!(m.put("/a", "2".into(), rev(6), FIRST), Merge::Changed(id));
        assert_eq!(m.delete("/a", rev(7), false, FIRST), Merge::Deleted(id));
        assert_eq!(
            m.put("/a", "2".into(), rev(6), FIRST),
            Merge::Stale(id),
            "a put older than the tombstone"
        );
        assert_eq!(m.put("/a", "3".into(), rev(8), FIRST), Merge::Created(id), "a put after the tombstone");
        assert_eq!(m.tombstones(), 0);
        assert_eq!((m.keys(), m.bytes()), (1, 3));
    }

    #[test]
    fn a_tombstone_stays_until_its_revision_is_below_the_horizon() {
        let mut m = mirror();
        m.put("/a", "1".into(), rev(5), FIRST);
        m.put("/b", "1".into(), rev(6), FIRST);
        m.delete("/a", rev(7), false, FIRST);
        m.delete("/b", rev(8), false, FIRST);
        assert_eq!(m.collect_tombstones(FIRST, rev(6)), None);
        assert_eq!(m.collect_tombstones(WatcherIndex::new(1), rev(9)), None, "another watcher's");
        assert_eq!(
            (m.collect_tombstones(FIRST, rev(7)), m.tombstones(), m.find_text("/a")),
            (Some(rev(7)), 1, None)
        );
        assert_eq!(
            (m.collect_tombstones(FIRST, rev(9)), m.tombstones(), m.find_text("/b")),
            (Some(rev(8)), 0, None)
        );
    }

    #[test]
    fn a_tombstone_moves_on_with_what_is_known() {
        let mut m = mirror();
        m.put("/a", "1".into(), rev(5), FIRST);
        m.delete("/a", rev(7), false, FIRST);
        m.delete("/a", rev(9), false, FIRST);
        m.delete("/a", rev(6), false, FIRST);
        assert_eq!(
            (m.collect_tombstones(FIRST, rev(8)), m.tombstones()),
            (None, 1),
            "absent at 9: a put at 8 would be stale"
        );
        m.put("/a", "2".into(), rev(10), FIRST);
        assert_eq!((m.collect_tombstones(FIRST, rev(9)), m.keys()), (None, 1), "it came back");
        m.delete("/a", rev(11), false, FIRST);
        assert_eq!((m.collect_tombstones(FIRST, rev(11)), m.tombstones()), (Some(rev(11)), 0));
    }

    #[test]
    fn an_unknown_key_gets_a_tombstone_only_when_a_view_is_open() {
        let mut m = mirror();
        assert_eq!(m.delete("/a", rev(7), false, FIRST), Merge::Known);
        assert_eq!(m.find_text("/a"), None);
        m.delete("/a", rev(7), true, FIRST);
        assert!(
            matches!(m.put("/a", "1".into(), rev(6), FIRST), Merge::Stale(_)),
            "an old page must not resurrect it"
        );
    }
}
