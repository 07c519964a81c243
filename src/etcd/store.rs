//! Whose store it is that answers: the engine's cluster, told by its id, the identity of its namespace, and its
//! history.
//!
//! - The engine's cluster is the one that it was told, or else the one that more than half of its endpoints name at the
//!   start. Where the others don't answer at all, one that is named alone for [`PATIENCE`] will do.
//! - An endpoint that names another one is left before anything is written there. So is one under the same id that
//!   tells of an older state, has another [identity](super::identity), or lacks a change that was seen.
//! - An endpoint may be let in before a change is read that it lacks, from a stream of the old store. So when one turns
//!   out to lack what was seen, all open connections are asked again.
//! - If no endpoint has told of the known store for [`PATIENCE`], and no connection to it is open, the engine starts
//!   again with what there is. One that was told which cluster to use never takes another.
//! - An id of 0 means that it was not told.
//! - An identity that is gone, although the newest change that was seen is still in the history, was deleted by hand:
//!   it is written again.

use super::Header;
use super::identity::{Identity, absent, another};
use super::key_prefix::KeyPrefix;
use super::numbers::{ClusterId, RaftTerm};
use super::requests::{History, LastEvent};
use crate::change::Revision;
use crate::watch_cell::{WatchCell, WatchCellSender, watch_cell};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::time::Instant;

/// How long an engine waits for its own cluster.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is to be done with an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum StoreVerdict {
    /// It is a member of the engine's cluster.
    Ours,
    /// It is one too, but the store has no identity yet, or not any more: this one is to be written.
    Nameless(Identity),
    /// More endpoints must be asked.
    Undecided(String),
    /// It is to be left.
    Foreign(String),
    /// It is to be left, and the engine is to start again.
    Rewound(String),
}

/// What was known before an endpoint was asked. Its answer may be older than what comes to be known meanwhile.
#[derive(Clone, Debug, Default)]
pub(super) struct Before {
    revision: Revision,
    term: RaftTerm,
    /// The identity was known.
    named: bool,
    pub(super) seen: Option<LastEvent>,
}

/// What an endpoint told of its store, by linearizable reads.
#[derive(Clone, Debug)]
pub(super) struct Testimony {
    pub(super) header: Header,
    pub(super) identity: IdentityAnswer,
    /// Whether it has the newest change that was seen before; `None`: it was not asked, or does not tell.
    pub(super) history: Option<History>,
}

/// What an endpoint tells of the identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum IdentityAnswer {
    /// Nothing: the engine may not read it.
    Nothing,
    Absent,
    /// With the revision of its last change.
    Is(Identity, Revision),
}

/// Shared by all links of an engine.
pub(crate) struct Store {
    endpoints: Vec<String>,
    /// Before every key in etcd.
    prefix: KeyPrefix,
    identity_key: Arc<str>,
    /// The identity that the store is given if it has none.
    offered: Identity,
    known: Mutex<Known>,
    /// Connections to the engine's cluster.
    open: AtomicUsize,
    /// How often it was doubted that the connections lead to the engine's store.
    doubts: WatchCell<u64>,
    doubt: WatchCellSender<u64>,
    /// Called when the engine is to start again.
    rewound: Box<dyn Fn(String) + Send + Sync>,
}

/// What is known of the clusters that answer. No I/O, no clock.
#[derive(Debug)]
struct Known {
    endpoints: usize,
    /// The engine was told which.
    given: bool,
    cluster: Option<ClusterId>,
    identity: Option<Identity>,
    /// The newest state that a connection began with.
    revision: Revision,
    term: RaftTerm,
    /// The newest change that a watch has brought, or the writing of the identity.
    seen: Option<LastEvent>,
    /// What each endpoint has named.
    named: BTreeMap<usize, ClusterId>,
    /// Since when the engine has asked without finding its own.
    since: Option<Instant>,
}

impl Known {
    fn new(endpoints: usize, given: Option<ClusterId>) -> Self {
        Self {
            endpoints,
            given: given.is_some(),
            cluster: given,
            identity: None,
            revision: Revision::NONE,
            term: RaftTerm::default(),
            seen: None,
            named: BTreeMap::new(),
            since: None,
        }
    }

    /// `open`: whether there is a connection to the engine's cluster. `offered`: the identity that a store is given
    /// that has none.
    fn judge(
        &mut self,
        endpoint: usize,
        testimony: &Testimony,
        before: &Before,
        open: bool,
        offered: &Identity,
        now: Instant,
    ) -> StoreVerdict {
        let Testimony { header, identity, .. } = testimony;
        let waited = now.saturating_duration_since(*self.since.get_or_insert(now));
        if header.cluster.is_told() {
            self.named.insert(endpoint, header.cluster);
            if self.cluster.is_none() {
                self.cluster = self.decide(waited);
            }
            if self.cluster.is_none() {
                return StoreVerdict::Undecided(format!(
                    "no cluster has most of the endpoints: {}",
                    self.all()
                ));
            }
        }
        let Some(wrong) = self.wrong(testimony, before) else {
            if header.cluster.is_told() {
                self.revision = self.revision.max(header.revision);
                self.term = self.term.max(header.term);
                self.since = None;
            }
            return match identity {
                IdentityAnswer::Is(identity, revision) => {
                    self.learn(identity, *revision);
                    StoreVerdict::Ours
                }
                IdentityAnswer::Absent => {
                    StoreVerdict::Nameless(self.identity.as_ref().unwrap_or(offered).clone())
                }
                IdentityAnswer::Nothing => StoreVerdict::Ours,
            };
        };
        let same = !header.cluster.is_told() || self.cluster == Some(header.cluster);
        // A single member has no other copy that might come back.
        let alone = self.endpoints == 1 && same;
        let own = same || !self.given;
        if own && !open && (alone || waited >= PATIENCE) {
            StoreVerdict::Rewound(wrong)
        } else {
            StoreVerdict::Foreign(wrong)
        }
    }

    /// Why it is not the known store.
    fn wrong(&self, testimony: &Testimony, before: &Before) -> Option<String> {
        let Testimony { header, identity, history } = testimony;
        if let Some(cluster) =
            self.cluster.filter(|cluster| header.cluster.is_told() && *cluster != header.cluster)
        {
            let found = header.cluster;
            return Some(format!("wrong store: the cluster's id is {cluster} and there it is {found}"));
        }
        match (&self.identity, identity) {
            (Some(known), IdentityAnswer::Is(found, _)) if known != found => {
                return Some(another(known, found));
            }
            // One that was deleted by hand is missed in its own store only.
            (Some(known), IdentityAnswer::Absent) if before.named && *history != Some(History::Ours) => {
                return Some(absent(known));
            }
            _ => {}
        }
        if header.cluster.is_told() && header.term < before.term {
            let (known, found) = (before.term, header.term);
            return Some(format!("wrong store: the raft term was {known} and there it is {found}"));
        }
        if header.cluster.is_told() && header.revision < before.revision {
            let (known, found) = (before.revision, header.revision);
            return Some(format!("wrong store: the revision was {known} and there it is {found}"));
        }
        match (history, &before.seen) {
            (Some(History::Other), Some(seen)) => {
                let revision = seen.revision;
                Some(format!("wrong store: what came at revision {revision} is not in the history there"))
            }
            _ => None,
        }
    }

    fn learn(&mut self, identity: &Identity, revision: Revision) {
        if self.identity.is_none() {
            self.identity = Some(identity.clone());
        }
        let key = identity.key().as_bytes().to_vec();
        self.saw(LastEvent { key, revision, value: Some(identity.value().to_vec().into()) });
    }

    fn saw(&mut self, event: LastEvent) {
        if self.seen.as_ref().is_none_or(|seen| seen.revision < event.revision) {
            self.seen = Some(event);
        }
    }

    /// The cluster that the endpoints agree on.
    fn decide(&self, waited: Duration) -> Option<ClusterId> {
        let ids: BTreeSet<ClusterId> = self.named.values().copied().collect();
        let count = |id: ClusterId| self.named.values().filter(|named| **named == id).count();
        match ids.iter().find(|id| count(**id) * 2 > self.endpoints) {
            Some(id) => Some(*id),
            None if ids.len() == 1 && waited >= PATIENCE => ids.first().copied(),
            None => None,
        }
    }

    fn all(&self) -> String {
        let named = self.named.iter().map(|(endpoint, id)| format!("endpoint {endpoint} names {id}"));
        named.collect::<Vec<_>>().join(", ")
    }
}

impl Store {
    /// `given`: the cluster's id, if the engine was told it. `offered`: a random number, of which a store gets its
    /// identity if it has none.
    pub(crate) fn new(
        endpoints: Vec<String>,
        given: Option<u64>,
        (prefix, namespace): (KeyPrefix, &str),
        offered: u128,
        rewound: impl Fn(String) + Send + Sync + 'static,
    ) -> Arc<Self> {
        let known = Mutex::new(Known::new(endpoints.len().max(1), given.map(ClusterId::new)));
        let identity_key: Arc<str> = format!("{namespace}identity").into();
        let offered = Identity::new(identity_key.clone(), format!("{offered:032x}").into_bytes());
        let (doubt, doubts) = watch_cell(0);
        Arc::new(Self {
            endpoints,
            prefix,
            identity_key,
            offered,
            known,
            open: AtomicUsize::new(0),
            doubts,
            doubt,
            rewound: Box::new(rewound),
        })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// What is before every key in etcd.
    pub(super) fn prefix(&self) -> &KeyPrefix {
        &self.prefix
    }

    pub(super) fn identity_key(&self) -> &Arc<str> {
        &self.identity_key
    }

    /// The identity of the engine's store, once it is known.
    pub(super) fn identity(&self) -> Option<Identity> {
        self.known().identity.clone()
    }

    /// The identity that the store is to have: the one that it had, or else the one that it is offered.
    pub(super) fn wanted_identity(&self) -> Identity {
        self.identity().unwrap_or_else(|| self.offered.clone())
    }

    /// What the store has for an identity after it was offered one. An error: it is another one than it was known by.
    pub(super) fn learn(&self, identity: Identity, revision: Revision) -> Result<Identity, String> {
        let mut known = self.known();
        match &known.identity {
            Some(before) if *before != identity => Err(another(before, &identity)),
            _ => {
                known.learn(&identity, revision);
                Ok(identity)
            }
        }
    }

    /// A watch has brought a change.
    pub(super) fn saw(&self, event: LastEvent) {
        self.known().saw(event);
    }

    /// What is known before an endpoint is asked.
    pub(super) fn before(&self) -> Before {
        let known = self.known();
        let Known { revision, term, identity, seen, .. } = &*known;
        Before { revision: *revision, term: *term, named: identity.is_some(), seen: seen.clone() }
    }

    pub(super) fn judge(
        &self,
        endpoint: usize,
        testimony: &Testimony,
        before: &Before,
        now: Instant,
    ) -> StoreVerdict {
        let open = self.open.load(Ordering::SeqCst) > 0;
        let mut verdict = self.known().judge(endpoint, testimony, before, open, &self.offered, now);
        if let StoreVerdict::Undecided(text) | StoreVerdict::Foreign(text) | StoreVerdict::Rewound(text) =
            &mut verdict
        {
            for (number, endpoint) in self.endpoints.iter().enumerate() {
                *text = text.replace(&format!("endpoint {number} "), &format!("{endpoint} "));
            }
        }
        if let StoreVerdict::Rewound(reason) = &verdict {
            (self.rewound)(reason.clone());
        }
        verdict
    }

    /// A connection that was found to be right may lead to another store: all links look anew where theirs lead.
    pub(super) fn doubt(&self) {
        // Nobody else counts meanwhile.
        let _known = self.known();
        self.doubt.set(self.doubts.get() + 1);
    }

    /// Counts the doubts.
    pub(super) fn doubts(&self) -> WatchCell<u64> {
        self.doubts.clone()
    }

    /// Counts a connection to the engine's cluster until this is dropped.
    pub(super) fn count(self: &Arc<Self>) -> Counted {
        self.open.fetch_add(1, Ordering::SeqCst);
        Counted(self.clone())
    }
}

/// A connection to the engine's cluster.
pub(super) struct Counted(Arc<Store>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests;
