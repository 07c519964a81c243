//! Views: a watcher's whole prefix as it was at one revision, compared with the mirror.
//!
//! A snapshot is read at the first start or after a compaction. It turns every difference into a change at
//! once. If compactions leave no time for that, its pages are newer than the view: each was read at a revision of its
//! own, while the watch already told what has changed since the view's. Then a page may have a key before the watch
//! tells of it, or lack one that the watch deletes later. What is told twice is known the second time.
//!
//! A crawl runs beside a live watch, and the event that explains a difference may still be on its way. So
//! differences are held until the crawl closes the view. Those that are still unexplained then are drift.
//!
//! Keys that a view lacks were deleted. A sweep in chunks finds them. A crawl may compare only some ranges of the keys:
//! then the sweep passes over the others.

use super::mirror::Content;
use super::places::{EntryId, ViewId};
use super::{AHEAD, Index, Matched, WatcherIndex};
use crate::change::{Change, Deletion, KeyValue, Revision};
use crate::mutants::{Mutant, is_active};
use crate::pattern::KeyRange;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ViewPurpose {
    /// The watch starts from this view, so differences are changes.
    Snapshot,
    /// A check beside the live watch. Differences are drift.
    Crawl,
}

/// What is known of a key that a view contains.
struct ViewedKey {
    hash: u64,
    entry: Option<EntryId>,
    /// The watcher that covers it, if a pattern may match it.
    watcher: Option<WatcherIndex>,
    /// How many uses of patterns were found for it.
    uses: usize,
}

/// A view that was compared to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Closed {
    pub(crate) id: ViewId,
    pub(crate) watcher: WatcherIndex,
    pub(crate) purpose: ViewPurpose,
    /// Differences that a crawl had to repair.
    pub(crate) drift: u64,
}

struct View {
    id: ViewId,
    watcher: WatcherIndex,
    revision: Revision,
    purpose: ViewPurpose,
    /// Only these ranges are compared; empty: the whole prefix.
    within: Vec<KeyRange>,
    mismatches: Vec<KeyValue>,
    /// Keys were deleted after the view's revision, and their tombstones were collected before it was opened.
    /// So a key in the view that the mirror lacks may have been deleted since.
    blind: bool,
    /// The latest revision at which a part of it was read.
    read_at: Revision,
    /// Once all pages are in: the next entry that the sweep looks at.
    sweep: Option<usize>,
    drift: u64,
}

impl View {
    /// Whether a key is one of those that are compared.
    fn has(&self, key: impl FnOnce() -> String) -> bool {
        if self.within.is_empty() {
            return true;
        }
        let key = key().into_bytes();
        let at = self.within.partition_point(|range| range.start <= key);
        at > 0 && self.within[at - 1].has(&key)
    }
}

/// The most differences that a crawl holds back. Any more are repaired at once.
const MISMATCHES: usize = 65_536;

pub(crate) struct Views {
    open: Vec<View>,
    last: ViewId,
    closed: Vec<Closed>,
    /// Watchers whose first snapshot is complete.
    complete: Vec<WatcherIndex>,
    contradiction: Option<Contradiction>,
}

/// Revisions of a key that can't belong to one history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Contradiction {
    /// The key was changed here, as the mirror knows.
    pub(crate) changed: Revision,
    /// Its last change as the view has it, which is earlier.
    pub(crate) found: Revision,
    /// The revision of the view, which is not earlier than the change.
    pub(crate) as_of: Revision,
}

impl Views {
    pub(super) fn new() -> Self {
        Self {
            open: Vec::new(),
            last: ViewId::NONE,
            closed: Vec::new(),
            complete: Vec::new(),
            contradiction: None,
        }
    }

    /// Whether an open view of an older revision might still show a key that was deleted at `revision`.
    pub(crate) fn any_older(&self, watcher: WatcherIndex, revision: Revision) -> bool {
        self.open.iter().any(|view| view.watcher == watcher && view.revision < revision)
    }

    /// Whether anything is being compared.
    pub(super) fn is_any_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// The revision of the oldest open view.
    pub(crate) fn oldest(&self, watcher: WatcherIndex) -> Option<Revision> {
        self.open.iter().filter(|view| view.watcher == watcher).map(|view| view.revision).min()
    }

    /// The revision of a snapshot whose pages are all in.
    pub(crate) fn told_by_snapshot(&self, watcher: WatcherIndex) -> Option<Revision> {
        let is_whole = |view: &&View| {
            view.watcher == watcher && view.purpose == ViewPurpose::Snapshot && view.sweep.is_some()
        };
        self.open.iter().find(is_whole).map(|view| view.revision)
    }

    /// Whether the watcher's first snapshot is complete.
    pub(super) fn is_complete(&self, watcher: WatcherIndex) -> bool {
        self.complete.contains(&watcher)
    }

    /// Whether a snapshot of the watcher is under way.
    pub(crate) fn has_snapshot(&self, watcher: WatcherIndex) -> bool {
        self.open.iter().any(|view| view.watcher == watcher && view.purpose == ViewPurpose::Snapshot)
    }

    pub(crate) fn sweeping(&self) -> bool {
        self.open.iter().any(|view| view.sweep.is_some())
    }

    pub(super) fn sweeping_snapshot(&self) -> bool {
        self.open.iter().any(|view| view.sweep.is_some() && view.purpose == ViewPurpose::Snapshot)
    }
}

impl Index {
    /// Begins to compare a watcher's prefix at `revision`. A watcher has one view at a time: a snapshot ends
    /// the view of a crawl, and a crawl is refused (`None`) while a snapshot is under way.
    pub(crate) fn open_view(
        &mut self,
        watcher: WatcherIndex,
        revision: Revision,
        purpose: ViewPurpose,
    ) -> Option<ViewId> {
        self.open_view_within(watcher, revision, purpose, Vec::new())
    }

    /// The same for these ranges alone, ascending and apart from each other, unless there are none.
    pub(crate) fn open_view_within(
        &mut self,
        watcher: WatcherIndex,
        revision: Revision,
        purpose: ViewPurpose,
        within: Vec<KeyRange>,
    ) -> Option<ViewId> {
        if purpose == ViewPurpose::Crawl
            && (!self.views.is_complete(watcher) || self.views.has_snapshot(watcher))
        {
            return None;
        }
        self.views.open.retain(|view| view.watcher != watcher);
        let id = self.views.last.next();
        self.views.last = id;
        self.views.open.push(View {
            id,
            watcher,
            revision,
            purpose,
            within,
            mismatches: Vec::new(),
            blind: self.forgotten[watcher.index()] > revision,
            read_at: revision,
            sweep: None,
            drift: 0,
        });
        if purpose == ViewPurpose::Snapshot {
            self.coherence.snapshot_begins(watcher);
        }
        Some(id)
    }

    /// Compares keys that the view contains. False if the view has ended meanwhile.
    pub(crate) fn view_page(&mut self, id: ViewId, page: Vec<KeyValue>) -> bool {
        let Some(at) = self.views.open.iter().position(|view| view.id == id) else { return false };
        let mut page = page.into_iter();
        let (mut viewed_keys, mut uses) = (Vec::new(), Vec::new());
        while !page.as_slice().is_empty() {
            self.look_ahead(at, page.as_slice(), &mut viewed_keys, &mut uses);
            let mut uses = uses.drain(..);
            for (viewed, found) in viewed_keys.drain(..).zip(&mut page) {
                self.view_key(at, viewed, found, &mut uses);
            }
        }
        true
    }

    /// Makes room for `rest` more keys, if they are so many that the tables would grow again and again. It
    /// expects patterns to match the same share of them as of the last `read` keys, before which the index
    /// had the given numbers of keys and instances.
    pub(crate) fn make_room(&mut self, rest: usize, read: usize, (keys, instances): (usize, usize)) {
        if rest > self.mirror.keys() {
            let share = |now: usize, had: usize| rest.min(now.saturating_sub(had) * rest / read.max(1));
            self.mirror.reserve(share(self.keys(), keys));
            self.instances.reserve(share(self.instances(), instances));
        }
    }

    /// Looks up the first keys of a page, and matches those that have no entry. The lookups don't depend on
    /// each other, so their waits for memory overlap; see [`Index::apply_all`].
    fn look_ahead(
        &mut self,
        at: usize,
        page: &[KeyValue],
        viewed_keys: &mut Vec<ViewedKey>,
        uses: &mut Vec<Matched>,
    ) {
        let snapshot = self.views.open[at].purpose == ViewPurpose::Snapshot;
        let mut touched = 0;
        for KeyValue { key, .. } in page.iter().take(AHEAD) {
            let hash = self.mirror.hash(key);
            touched ^= self.mirror.touch(hash);
            viewed_keys.push(ViewedKey { hash, entry: None, watcher: None, uses: 0 });
        }
        for (viewed, KeyValue { key, .. }) in viewed_keys.iter_mut().zip(page) {
            viewed.entry = self.entry_hashed(viewed.hash, key);
            let Some((key, watcher)) = self.wanted(key) else { continue };
            // Another watcher may have a part of the prefix.
            if watcher != self.views.open[at].watcher {
                continue;
            }
            viewed.watcher = Some(watcher);
            if snapshot && viewed.entry.is_none() {
                self.counters.matched += 1;
                let before = uses.len();
                self.add_uses(key, uses);
                viewed.uses = uses.len() - before;
            }
        }
        for matched in uses {
            touched ^= self.instances.touch(matched.hash);
        }
        std::hint::black_box(touched);
    }

    fn view_key(
        &mut self,
        at: usize,
        ViewedKey { hash, entry: known, watcher, uses }: ViewedKey,
        found: KeyValue,
        matched: &mut impl Iterator<Item = Matched>,
    ) {
        let View { id, purpose, revision: seen_at, .. } = self.views.open[at];
        let Some(watcher) = watcher else { return };
        if let Some(entry) = known {
            self.mirror.entry_mut(entry).stamp = id;
            let known = self.revision_of(entry);
            // The mirror has a change of the key from before the view, and the view does not have it.
            if found.revision < known && known <= seen_at && !is_active(Mutant::Rewind) {
                let contradiction = Contradiction { changed: known, found: found.revision, as_of: seen_at };
                self.views.contradiction.get_or_insert(contradiction);
            }
            if known >= found.revision {
                return;
            }
        }
        if let (ViewPurpose::Snapshot, None) = (purpose, known) {
            if let Some(entry) = self.put_new(hash, found, watcher, matched.take(uses)) {
                self.mirror.entry_mut(entry).stamp = id;
            }
        } else if purpose == ViewPurpose::Snapshot {
            self.repair(id, found);
        } else if known.is_some()
            || std::str::from_utf8(&found.key).is_ok_and(|key| !self.uses(key).is_empty())
        {
            let view = &mut self.views.open[at];
            if view.mismatches.len() < MISMATCHES {
                view.mismatches.push(found);
            } else {
                self.clear_up(at, found);
            }
        }
    }

    pub(super) fn revision_of(&self, entry: EntryId) -> Revision {
        match self.mirror.entry(entry).content {
            Content::Present { revision, .. } | Content::Gone { revision } => revision,
        }
    }

    /// Settles a mismatch: if the mirror still doesn't know the key as it was found, that is drift.
    fn clear_up(&mut self, at: usize, found: KeyValue) {
        let View { id, blind, .. } = self.views.open[at];
        let known = std::str::from_utf8(&found.key).ok().and_then(|key| self.entry_of(key));
        match known {
            // An event has explained it meanwhile.
            Some(entry) if self.revision_of(entry) >= found.revision => {
                self.mirror.entry_mut(entry).stamp = id;
            }
            // It may have been deleted since. The next crawl will tell.
            None if blind => {}
            _ => {
                self.views.open[at].drift += 1;
                self.repair(id, found);
            }
        }
    }

    fn repair(&mut self, id: ViewId, found: KeyValue) {
        let Some((key, watcher)) = self.wanted(&found.key) else { return };
        let entry = match self.entry_of(key) {
            Some(entry) => {
                self.put_known(entry, found.value, found.revision);
                Some(entry)
            }
            None => {
                let uses = self.match_new(key);
                self.put_new(self.mirror.hash(&found.key), found, watcher, uses)
            }
        };
        if let Some(entry) = entry {
            self.mirror.entry_mut(entry).stamp = id;
        }
    }

    /// A part of the view was read at this later revision.
    pub(crate) fn read_later(&mut self, id: ViewId, read_at: Revision) {
        if let Some(view) = self.views.open.iter_mut().find(|view| view.id == id) {
            view.read_at = read_at.max(view.read_at);
        }
    }

    /// Closes a view when all of its pages are in. The rest of the comparison becomes backlog. When that is
    /// done, [`Index::take_closed`] returns the view. False if the view has ended meanwhile.
    pub(crate) fn close_view(&mut self, id: ViewId) -> bool {
        let Some(at) = self.views.open.iter().position(|view| view.id == id) else { return false };
        let mismatches = std::mem::take(&mut self.views.open[at].mismatches);
        for found in mismatches {
            self.clear_up(at, found);
        }
        self.views.open[at].sweep = Some(0);
        true
    }

    /// Drops a view that will not be completed.
    pub(crate) fn cancel_view(&mut self, id: ViewId) {
        let Some(at) = self.views.open.iter().position(|view| view.id == id) else { return };
        let View { watcher, .. } = self.views.open.remove(at);
        self.collect_tombstones(watcher);
    }

    /// Looks for keys that closed views lack. Returns what is left of the budget.
    pub(super) fn sweep(&mut self, mut budget: usize) -> usize {
        while budget > 0
            && let Some(at) = self.views.open.iter().position(|view| view.sweep.is_some())
        {
            let View { id, watcher, revision, sweep, .. } = self.views.open[at];
            let start = sweep.unwrap_or(0);
            let end = self.mirror.capacity().min(start + budget);
            budget -= end - start;
            let mut missing: Vec<EntryId> = (start..end)
                .filter_map(|index| self.mirror.at(index))
                .filter(|(_, entry)| {
                    entry.watcher == watcher
                        && entry.stamp != id
                        && matches!(entry.content, Content::Present { revision: known, .. } if known <= revision)
                })
                .map(|(entry, _)| entry)
                .filter(|&entry| self.views.open[at].has(|| self.key_of(entry)))
                .collect();
            if is_active(Mutant::Deletions) {
                missing.clear();
            }
            self.views.open[at].drift += missing.len() as u64;
            // To delete a key removes no entry.
            for entry in missing {
                let key = self.key_of(entry).into_bytes();
                self.apply(Change::Delete { key, revision, how: Deletion::SeenAbsent });
            }
            if end < self.mirror.capacity() {
                self.views.open[at].sweep = Some(end);
            } else {
                self.finish(at);
            }
        }
        budget
    }

    fn finish(&mut self, at: usize) {
        let View { id, watcher, revision, purpose, read_at, mut drift, .. } = self.views.open.remove(at);
        match purpose {
            ViewPurpose::Snapshot => {
                drift = 0;
                self.coherence.snapshot_ends(watcher, read_at);
                self.advance(watcher, revision);
                self.coherence.delivered(watcher, self.position(watcher));
                // Keys that were deleted before may never have been known.
                self.forget(watcher, read_at);
                if !self.views.complete.contains(&watcher) {
                    self.views.complete.push(watcher);
                }
                self.find_readable();
            }
            ViewPurpose::Crawl => self.counters.drift += drift,
        }
        self.collect_tombstones(watcher);
        self.views.closed.push(Closed { id, watcher, purpose, drift });
    }

    /// A contradiction between a view and the mirror, which shows that they are of different stores.
    pub(crate) fn take_contradiction(&mut self) -> Option<Contradiction> {
        self.views.contradiction.take()
    }

    /// Views whose comparison has ended since the last call.
    pub(crate) fn take_closed(&mut self) -> Vec<Closed> {
        std::mem::take(&mut self.views.closed)
    }
}
