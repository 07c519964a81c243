//! The keys with their history: revisions, versions, compaction. Pure: no clock, no I/O.

use super::refusal::RpcError;
use super::span::Span;
use etcd_client::proto::PbKeyValue;
use prost::Message;
use prost::bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, OnceLock};

/// Revisions before a compaction that watches which are up to date may still fetch: etcd has queued these
/// events already when it compacts.
const KEPT_FOR_WATCHES: i64 = 1024;

/// Revisions whose events are kept as bytes for the watches that are still to be told.
const KEPT_AS_BYTES: usize = 256;

/// A put, or a deletion (then `kv` has only the key and the revision).
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) kv: Arc<PbKeyValue>,
    pub(super) deleted: bool,
    /// Its event without the previous value, once a watch has asked for it.
    event: OnceLock<Bytes>,
}

impl Change {
    fn new(kv: Arc<PbKeyValue>, deleted: bool) -> Self {
        Self { kv, deleted, event: OnceLock::new() }
    }

    /// The event in the protocol's bytes, which all watches share.
    pub(super) fn event(&self) -> Bytes {
        self.event.get_or_init(|| encode_event(self.deleted, &self.kv, None)).clone()
    }

    /// The event with the value before it, in bytes of its own.
    pub(super) fn event_after(&self, previous: &PbKeyValue) -> Bytes {
        encode_event(self.deleted, &self.kv, Some(previous))
    }
}

/// The message `Event` of the protocol: its type, the key, and the key before.
fn encode_event(deleted: bool, kv: &PbKeyValue, previous: Option<&PbKeyValue>) -> Bytes {
    let mut bytes = Vec::with_capacity(kv.encoded_len() + previous.map_or(0, PbKeyValue::encoded_len) + 16);
    if deleted {
        prost::encoding::int32::encode(1, &1, &mut bytes);
    }
    prost::encoding::message::encode(2, kv, &mut bytes);
    if let Some(previous) = previous {
        prost::encoding::message::encode(3, previous, &mut bytes);
    }
    bytes.into()
}

/// What a key was from a revision on; `None` is "absent".
#[derive(Clone, Debug)]
struct Version {
    revision: i64,
    /// Which change of its transaction this is, from 0 on.
    sub: i64,
    kv: Option<Arc<PbKeyValue>>,
}

/// The revision of a version, which change of it, the key, and what it was unless it was deleted.
pub(super) type StoredVersion<'a> = (i64, i64, &'a [u8], Option<&'a PbKeyValue>);

/// The keys and their history. A copy is cheap in values: they are shared.
#[derive(Clone, Debug)]
pub(super) struct Store {
    keys: BTreeMap<Vec<u8>, Vec<Version>>,
    /// The changes of revision `log_start`, of the next one, and so on.
    log: VecDeque<Vec<Change>>,
    log_start: i64,
    revision: i64,
    compacted: i64,
    /// The changes of the transaction that is being applied.
    open: Vec<Change>,
    size: Size,
}

/// About how large etcd's database would be.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Size {
    /// Of all versions of all keys.
    in_use: usize,
    /// The most that was in use since the last defragmentation.
    allocated: usize,
}

impl Size {
    fn grow(&mut self, bytes: usize) {
        self.in_use += bytes;
        self.allocated = self.allocated.max(self.in_use);
    }

    /// Of an empty database, and of the pages that these bytes fill beyond it.
    fn file(empty: usize, bytes: usize) -> i64 {
        const PAGE: usize = 4096;
        (empty + bytes.div_ceil(PAGE) * PAGE) as i64
    }

    /// Bytes of the file.
    pub(super) fn allocated(self) -> i64 {
        Self::file(20_480, self.allocated)
    }

    /// Bytes of the file that something is in.
    pub(super) fn in_use(self) -> i64 {
        Self::file(16_384, self.in_use)
    }
}

/// What a version of a key takes, with its revision and the numbers beside it.
fn stored_bytes(kv: &PbKeyValue) -> usize {
    const NUMBERS: usize = 40;
    NUMBERS + kv.key.len() + kv.value.len()
}

impl Store {
    pub(super) fn new() -> Self {
        Self {
            keys: BTreeMap::new(),
            log: VecDeque::new(),
            log_start: 2,
            revision: 1,
            compacted: -1,
            open: Vec::new(),
            size: Size::default(),
        }
    }

    /// The revision of the last transaction that changed something.
    pub(super) fn revision(&self) -> i64 {
        self.revision
    }

    /// The revision of the last compaction; -1 if there was none.
    pub(super) fn compacted(&self) -> i64 {
        self.compacted
    }

    /// The first revision whose changes can still be listed.
    pub(super) fn log_start(&self) -> i64 {
        self.log_start
    }

    /// How many keys have a history.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// What a read inside the transaction being applied sees, and its writes are stamped with if it has any.
    pub(super) fn reading_revision(&self) -> i64 {
        self.revision + i64::from(!self.open.is_empty())
    }

    fn next_revision(&self) -> i64 {
        self.revision + 1
    }

    /// Refuses revisions that can't be read. A revision of 0 or less means "now".
    pub(super) fn check_readable(&self, revision: i64) -> Result<i64, RpcError> {
        let now = self.reading_revision();
        match revision {
            revision if revision > now => Err(RpcError::FUTURE_REVISION),
            revision if revision <= 0 => Ok(now),
            revision if revision < self.compacted => Err(RpcError::COMPACTED),
            revision => Ok(revision),
        }
    }

    /// The key as of a readable revision.
    pub(super) fn get_at(&self, key: &[u8], revision: i64) -> Option<&Arc<PbKeyValue>> {
        at(self.keys.get(key)?, revision)
    }

    /// The key now, the writes of the transaction being applied included.
    pub(super) fn get(&self, key: &[u8]) -> Option<&Arc<PbKeyValue>> {
        self.keys.get(key)?.last()?.kv.as_ref()
    }

    /// The keys of a span as of a readable revision, in order.
    pub(super) fn range<'a>(
        &'a self,
        span: &'a Span,
        revision: i64,
    ) -> impl Iterator<Item = &'a Arc<PbKeyValue>> {
        let histories = span.bounds().map(|bounds| self.keys.range::<[u8], _>(bounds));
        histories.into_iter().flatten().filter_map(move |(_, history)| at(history, revision))
    }

    /// All keys now, in order.
    #[cfg(test)]
    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<PbKeyValue>> {
        self.keys.values().filter_map(|history| history.last()?.kv.as_ref())
    }

    /// Puts a key, as part of the transaction being applied.
    pub(super) fn put(&mut self, key: &[u8], value: Vec<u8>, lease: i64) {
        let revision = self.next_revision();
        let history = self.keys.entry(key.to_vec()).or_default();
        let previous = history.last().and_then(|version| version.kv.as_ref());
        let kv = Arc::new(PbKeyValue {
            key: key.to_vec(),
            value,
            create_revision: previous.map_or(revision, |kv| kv.create_revision),
            mod_revision: revision,
            version: previous.map_or(1, |kv| kv.version + 1),
            lease,
        });
        self.size.grow(stored_bytes(&kv));
        history.push(Version { revision, sub: self.open.len() as i64, kv: Some(kv.clone()) });
        self.open.push(Change::new(kv, false));
    }

    /// Deletes a key that exists, as part of the transaction being applied.
    pub(super) fn delete(&mut self, key: &[u8]) {
        let revision = self.next_revision();
        if let Some(history) = self.keys.get_mut(key) {
            history.push(Version { revision, sub: self.open.len() as i64, kv: None });
            let kv = PbKeyValue { key: key.to_vec(), mod_revision: revision, ..PbKeyValue::default() };
            self.size.grow(stored_bytes(&kv));
            self.open.push(Change::new(Arc::new(kv), true));
        }
    }

    /// Ends the transaction: a new revision, if it changed anything. Says whether it did.
    pub(super) fn commit(&mut self) -> bool {
        if self.open.is_empty() {
            return false;
        }
        self.revision += 1;
        self.log.push_back(std::mem::take(&mut self.open));
        if let Some(late) = self.log.len().checked_sub(KEPT_AS_BYTES + 1) {
            self.log[late].iter_mut().for_each(|change| drop(change.event.take()));
        }
        true
    }

    /// The changes of one revision, in order; none if it is not in the log.
    pub(super) fn changes(&self, revision: i64) -> &[Change] {
        let index = usize::try_from(revision - self.log_start).ok();
        index.and_then(|index| self.log.get(index)).map_or(&[], Vec::as_slice)
    }

    /// The versions of all keys that etcd would have in its file, oldest first.
    pub(super) fn versions(&self) -> Vec<StoredVersion<'_>> {
        self.versions_of(|history| history)
    }

    /// The versions that etcd's hash is of, up to a readable revision.
    pub(super) fn hashed_versions(&self, revision: i64) -> Vec<StoredVersion<'_>> {
        self.versions_of(|history| {
            let history = &history[..history.partition_point(|version| version.revision <= revision)];
            // What is from before the last compaction belongs to it only as long as nothing came after it.
            let old = history.partition_point(|version| version.revision <= self.compacted);
            &history[old.min(history.len().saturating_sub(1))..]
        })
    }

    fn versions_of<'a>(&'a self, wanted: impl Fn(&'a [Version]) -> &'a [Version]) -> Vec<StoredVersion<'a>> {
        let all = self.keys.iter().flat_map(|(key, history)| {
            let stored =
                |version: &'a Version| (version.revision, version.sub, key.as_slice(), version.kv.as_deref());
            wanted(history).iter().map(stored)
        });
        let mut all: Vec<_> = all.collect();
        all.sort_unstable_by_key(|&(revision, sub, ..)| (revision, sub));
        all
    }

    /// About how large etcd's database would be.
    pub(super) fn size(&self) -> Size {
        self.size
    }

    /// Gives back what is not in use.
    pub(super) fn defragment(&mut self) {
        self.size.allocated = self.size.in_use;
    }

    /// Forgets what was overwritten or deleted before `revision`.
    pub(super) fn compact(&mut self, revision: i64) -> Result<(), RpcError> {
        if revision <= self.compacted {
            return Err(RpcError::COMPACTED);
        }
        if revision > self.revision {
            return Err(RpcError::FUTURE_REVISION);
        }
        self.compacted = revision;
        let (deletion, mut freed) = (PbKeyValue::default(), 0);
        self.keys.retain(|_, history| {
            let later = history.partition_point(|version| version.revision <= revision);
            // The last version up to there stays, unless it says "absent", which no version says as well.
            let absent = later > 0 && history[later - 1].kv.is_none();
            let gone = history.drain(..if absent { later } else { later.saturating_sub(1) });
            freed +=
                gone.map(|version| stored_bytes(version.kv.as_deref().unwrap_or(&deletion))).sum::<usize>();
            !history.is_empty()
        });
        self.size.in_use = self.size.in_use.saturating_sub(freed);
        let keep_from = revision - KEPT_FOR_WATCHES;
        while self.log_start < keep_from && self.log.pop_front().is_some() {
            self.log_start += 1;
        }
        Ok(())
    }
}

fn at(history: &[Version], revision: i64) -> Option<&Arc<PbKeyValue>> {
    let later = history.partition_point(|version| version.revision <= revision);
    history[..later].last()?.kv.as_ref()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(store: &mut Store, key: &str, value: &str) {
        store.put(key.as_bytes(), value.into(), 0);
        store.commit();
    }

    fn delete(store: &mut Store, key: &str) {
        store.delete(key.as_bytes());
        store.commit();
    }

    fn seen(store: &Store, key: &str, revision: i64) -> Option<(String, i64, i64)> {
        let kv = store.get_at(key.as_bytes(), revision)?;
        Some((String::from_utf8(kv.value.clone()).unwrap(), kv.create_revision, kv.version))
    }

    #[test]
    fn every_revision_can_be_read_until_it_is_compacted() {
        let mut store = Store::new();
        put(&mut store, "a", "1");
        put(&mut store, "a", "2");
        delete(&mut store, "a");
        put(&mut store, "a", "3");
        let history = |store: &Store| (1..=5).map(|r| seen(store, "a", r)).collect::<Vec<_>>();
        let value = |value: &str, created, version| Some((value.to_owned(), created, version));
        assert_eq!(history(&store), [None, value("1", 2, 1), value("2", 2, 2), None, value("3", 5, 1)]);
        store.compact(3).unwrap();
        assert_eq!(history(&store)[2..], [value("2", 2, 2), None, value("3", 5, 1)]);
        assert_eq!(store.check_readable(2), Err(RpcError::COMPACTED));
        assert_eq!(store.check_readable(3), Ok(3));
        assert_eq!(store.check_readable(6), Err(RpcError::FUTURE_REVISION));
        assert_eq!(store.compact(3), Err(RpcError::COMPACTED));
        assert_eq!(store.compact(6), Err(RpcError::FUTURE_REVISION));
    }

    #[test]
    fn a_transaction_without_effect_makes_no_revision() {
        let mut store = Store::new();
        store.delete(b"absent");
        assert!(!store.commit());
        assert_eq!(store.revision(), 1);
    }

    #[test]
    fn a_deleted_key_is_forgotten_at_compaction() {
        let mut store = Store::new();
        put(&mut store, "a", "1");
        delete(&mut store, "a");
        store.compact(3).unwrap();
        assert_eq!(store.len(), 0);
    }
}
