//! Which rules can be decided: those of which all keys can be read.

use super::{DecisionReason, Index, WatcherIndex};
use crate::compiled::RuleIndex;
use std::collections::BTreeSet;

/// How a watcher is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum WatchState {
    /// It has not come so far yet.
    #[default]
    Starting,
    /// Its stream tells what happens.
    Follows,
    /// It has no stream, and will have one again.
    Broken,
    /// Etcd refuses to let its prefix be read. It goes on trying.
    Refused,
}

pub(super) struct Readable {
    /// By rule: all of its watchers have read their prefixes, and etcd refuses none of them.
    rules: Vec<bool>,
    watchers: Vec<WatchState>,
    /// How often something changed.
    version: u64,
}

impl Readable {
    pub(super) fn new(rules: usize, watchers: usize) -> Self {
        Self { rules: vec![false; rules], watchers: vec![WatchState::Starting; watchers], version: 0 }
    }

    pub(super) fn has(&self, rule: RuleIndex) -> bool {
        self.rules[rule.index()]
    }

    fn is_refused(&self, watcher: WatcherIndex) -> bool {
        self.watchers[watcher.index()] == WatchState::Refused
    }
}

impl Index {
    /// How a watcher is now. Rules with keys that etcd refuses to let be read are not decided.
    pub(crate) fn set_watch_state(&mut self, watcher: WatcherIndex, state: WatchState) {
        self.readable.watchers[watcher.index()] = state;
        self.readable.version += 1;
        self.find_readable();
    }

    /// The rules of which all keys are followed, if something changed since this version.
    pub(crate) fn followed_since(&self, version: &mut u64) -> Option<BTreeSet<RuleIndex>> {
        let Readable { watchers, version: now, .. } = &self.readable;
        if std::mem::replace(version, *now) == *now {
            return None;
        }
        let follows = |watcher: &WatcherIndex| {
            self.views.is_complete(*watcher) && watchers[watcher.index()] == WatchState::Follows
        };
        let rules = RuleIndex::all(self.rules.len());
        Some(rules.filter(|rule| self.coherence.watchers_of(*rule).iter().all(follows)).collect())
    }

    /// The rules with keys that etcd refuses to let be read.
    pub(crate) fn unreadable(&self) -> BTreeSet<RuleIndex> {
        let refused = |watcher: &WatcherIndex| self.readable.is_refused(*watcher);
        let rules = RuleIndex::all(self.rules.len());
        rules.filter(|rule| self.coherence.watchers_of(*rule).iter().any(refused)).collect()
    }

    /// Looks which rules can be decided. If there are more than before, all of their instances are.
    pub(super) fn find_readable(&mut self) {
        let Self { readable, views, coherence, .. } = self;
        let settled = |watcher| views.is_complete(watcher) || readable.is_refused(watcher);
        if !self.ready && !WatcherIndex::all(readable.watchers.len()).all(settled) {
            return;
        }
        let is_read = |watcher: &WatcherIndex| views.is_complete(*watcher) && !readable.is_refused(*watcher);
        let rules: Vec<bool> = RuleIndex::all(readable.rules.len())
            .map(|rule| coherence.watchers_of(rule).iter().all(is_read))
            .collect();
        let more = rules.iter().zip(&readable.rules).any(|(now, before)| *now && !before);
        readable.version += u64::from(rules != readable.rules);
        readable.rules = rules;
        self.ready = true;
        if more {
            self.decide_all(DecisionReason::Change);
        }
    }
}
