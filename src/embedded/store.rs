//! The keys with their history: revisions, versions, compaction. Pure: no clock, no I/O.

use super::refusal::RpcError;
use super::span::Span;
use etcd_client::proto::PbKeyValue;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Revisions before a compaction that watches which are up to date may still fetch: etcd has queued these
/// events already when it compacts.
const KEPT_FOR_WATCHES: i64 = 1024;

/// A put, or a deletion (then `kv` has only the key and the revision).
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) kv: Arc<PbKeyValue>,
    pub(super) deleted: bool,
}

/// What a key was from a revision on; `None` is "absent".
#[derive(Clone, Debug)]
struct Version {
    revision: i64,
    kv: Option<Arc<PbKeyValue>>,
}

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
        history.push(Version { revision, kv: Some(kv.clone()) });
        self.open.push(Change { kv, deleted: false });
    }

    /// Deletes a key that exists, as part of the transaction being applied.
    pub(super) fn delete(&mut self, key: &[u8]) {
        let revision = self.next_revision();
        if let Some(history) = self.keys.get_mut(key) {
            history.push(Version { revision, kv: None });
            let kv = PbKeyValue { key: key.to_vec(), mod_revision: revision, ..PbKeyValue::default() };
            self.open.push(Change { kv: Arc::new(kv), deleted: true });
        }
    }

    /// Ends the transaction: a new revision, if it changed anything. Says whether it did.
    pub(super) fn commit(&mut self) -> bool {
        if self.open.is_empty() {
            return false;
        }
        self.revision += 1;
        self.log.push_back(std::mem::take(&mut self.open));
        true
    }

    /// The changes of one revision, in order; none if it is not in the log.
    pub(super) fn changes(&self, revision: i64) -> &[Change] {
        let index = usize::try_from(revision - self.log_start).ok();
        index.and_then(|index| self.log.get(index)).map_or(&[], Vec::as_slice)
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
        self.keys.retain(|_, history| {
            let later = history.partition_point(|version| version.revision <= revision);
            // The last version up to there stays, unless it says "absent", which no version says as well.
            let absent = later > 0 && history[later - 1].kv.is_none();
            history.drain(..if absent { later } else { later.saturating_sub(1) });
            !history.is_empty()
        });
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
