//! Snapshots and crawls: they are opened, filled page by page, and closed or cancelled.

use super::super::super::*;
use super::super::oracle::KEYS;
use super::{ViewModel, Watcher, World};
use crate::pattern::KeyRange;

impl World {
    pub(super) fn open(&mut self, at: usize, purpose: ViewPurpose, revision: Revision) {
        self.open_within(at, purpose, revision, Vec::new());
    }

    /// Of these ranges alone, if there are any.
    pub(super) fn open_within(
        &mut self,
        at: usize,
        purpose: ViewPurpose,
        revision: Revision,
        within: Vec<KeyRange>,
    ) {
        let snapshot = |view: &ViewModel| view.purpose == ViewPurpose::Snapshot;
        let watcher = &self.watchers[at];
        let refused = purpose == ViewPurpose::Crawl
            && (!watcher.complete || watcher.view.as_ref().is_some_and(snapshot));
        let opened = self.index.open_view_within(WatcherIndex::new(at), revision, purpose, within.clone());
        assert_eq!(opened.is_none(), refused);
        let Some(id) = opened else { return };
        let watcher = &mut self.watchers[at];
        if let Some(ended) = &watcher.view {
            assert!(!self.index.view_page(ended.id, Vec::new()) && !self.index.close_view(ended.id));
        }
        let found = |key: usize| {
            let (value, revision) = self.store.at(key, revision)?;
            Some(KeyValue { key: KEYS[key].into(), value, revision })
        };
        let is_read = |key: &str| within.is_empty() || within.iter().any(|range| range.has(key.as_bytes()));
        let covered =
            (0..KEYS.len()).filter(|key| KEYS[*key].starts_with(watcher.prefix) && is_read(KEYS[*key]));
        let pages = covered.filter_map(found).collect();
        watcher.view =
            Some(ViewModel { id, purpose, revision, pages, moving: None, closed: false, settled: false });
        if purpose == ViewPurpose::Snapshot {
            watcher.heard = watcher.heard.max(revision);
        }
    }

    pub(super) fn page(&mut self, at: usize, count: usize) {
        let Watcher { prefix, view: Some(view), .. } = &mut self.watchers[at] else { return };
        if !view.closed {
            if let Some(moving) = &mut view.moving {
                // One range, as it is now.
                let rest = moving.unread.split_off(count.min(moving.unread.len()));
                let range = std::mem::replace(&mut moving.unread, rest);
                moving.read_at = self.store.revision;
                let found =
                    range.into_iter().filter(|key| KEYS[*key].starts_with(*prefix)).filter_map(|key| {
                        let (value, revision) = self.store.at(key, moving.read_at)?;
                        Some(KeyValue { key: KEYS[key].into(), value, revision })
                    });
                view.pages.extend(found);
            }
            let rest = view.pages.split_off(count.min(view.pages.len()));
            let page = std::mem::replace(&mut view.pages, rest);
            assert!(self.index.view_page(view.id, page));
            self.look_all();
        }
    }

    pub(super) fn close(&mut self, at: usize) {
        let Some(view) = &self.watchers[at].view else { return };
        if !view.closed {
            self.page(at, usize::MAX);
            self.catch_up(at);
            let position = self.index.position(WatcherIndex::new(at));
            let Some(view) = &mut self.watchers[at].view else { return };
            view.closed = true;
            view.settled = position >= view.revision;
            assert!(self.index.close_view(view.id));
            self.look_all();
        }
    }

    /// What was read at several revisions is complete when the watch has told of the latest change that was found.
    fn catch_up(&mut self, at: usize) {
        let Some(ViewModel { id, moving: Some(moving), .. }) = &self.watchers[at].view else { return };
        let (id, read_at) = (*id, moving.read_at);
        let covered = |key: &usize| KEYS[*key].starts_with(self.watchers[at].prefix);
        let latest = (0..KEYS.len()).filter(covered).filter_map(|key| self.store.at(key, read_at));
        let latest = latest.map(|(_, revision)| revision).max().unwrap_or(Revision::NONE);
        while self.watchers[at].heard < latest && self.deliver(at, true, true) {}
        self.index.read_later(id, read_at);
    }

    pub(super) fn cancel(&mut self, at: usize) {
        let Some(view) = self.watchers[at].view.take() else { return };
        self.index.cancel_view(view.id);
        assert!(!self.index.view_page(view.id, Vec::new()));
        self.look_all();
        if view.purpose == ViewPurpose::Snapshot {
            // The watch can't go on without a snapshot.
            self.open(at, ViewPurpose::Snapshot, self.store.revision);
        }
    }
}
