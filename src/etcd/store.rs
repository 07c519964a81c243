//! Whose store it is that answers: the engine's cluster, told by its id and its history.
//!
//! - The engine's cluster is the one that it was told, or else the one that more than half of its endpoints name at the
//!   start. Where the others don't answer at all, one that is named alone for [`PATIENCE`] will do.
//! - An endpoint that names another one, or tells of an older state under the same id, is left before anything is
//!   written there.
//! - If no endpoint has named the known cluster for [`PATIENCE`], and no connection to it is open, the engine starts
//!   again with what there is. One that was told which cluster to use never does.
//! - An id of 0 means that it was not told.

use super::Header;
use crate::change::Revision;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

/// How long an engine waits for its own cluster.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is to be done with an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is a member of the engine's cluster.
    Ours,
    /// More endpoints must be asked.
    Undecided(String),
    /// It is to be left.
    Foreign(String),
    /// It is to be left, and the engine is to start again.
    Rewound(String),
}

/// Shared by all links of an engine.
pub(crate) struct Store {
    endpoints: Vec<String>,
    known: Mutex<Known>,
    /// Connections to the engine's cluster.
    open: AtomicUsize,
    /// Called when the engine is to start again.
    rewound: Box<dyn Fn(String) + Send + Sync>,
}

/// What is known of the clusters that answer. No I/O, no clock.
#[derive(Debug)]
struct Known {
    endpoints: usize,
    /// The engine was told which.
    given: bool,
    cluster: Option<u64>,
    /// The newest state that a connection began with.
    revision: Revision,
    term: u64,
    /// What each endpoint has named.
    named: BTreeMap<usize, u64>,
    /// Since when the engine has asked without finding its own.
    since: Option<Instant>,
}

impl Known {
    fn new(endpoints: usize, given: Option<u64>) -> Self {
        Self {
            endpoints,
            given: given.is_some(),
            cluster: given,
            revision: Revision::NONE,
            term: 0,
            named: BTreeMap::new(),
            since: None,
        }
    }

    /// `open`: whether there is a connection to the engine's cluster.
    fn judge(&mut self, endpoint: usize, header: Header, open: bool, now: Instant) -> Verdict {
        if header.cluster == 0 {
            return Verdict::Ours;
        }
        self.named.insert(endpoint, header.cluster);
        let waited = now.saturating_duration_since(*self.since.get_or_insert(now));
        let cluster = match self.cluster {
            Some(cluster) => cluster,
            None => match self.decide(waited) {
                Some(cluster) => *self.cluster.insert(cluster),
                None => {
                    return Verdict::Undecided(format!(
                        "no cluster has most of the endpoints: {}",
                        self.all()
                    ));
                }
            },
        };
        let wrong = if header.cluster != cluster {
            format!("wrong store: the cluster's id is {cluster:x} and there it is {:x}", header.cluster)
        } else if header.term < self.term {
            format!("wrong store: the raft term was {} and there it is {}", self.term, header.term)
        } else if header.revision < self.revision {
            format!("wrong store: the revision was {} and there it is {}", self.revision, header.revision)
        } else {
            self.revision = header.revision;
            self.term = header.term;
            self.since = None;
            return Verdict::Ours;
        };
        // A single member has no other copy that might come back.
        let alone = self.endpoints == 1 && header.cluster == cluster;
        let own = header.cluster == cluster || !self.given;
        if own && !open && (alone || waited >= PATIENCE) {
            Verdict::Rewound(wrong)
        } else {
            Verdict::Foreign(wrong)
        }
    }

    /// The cluster that the endpoints agree on.
    fn decide(&self, waited: Duration) -> Option<u64> {
        let ids: BTreeSet<u64> = self.named.values().copied().collect();
        let count = |id: u64| self.named.values().filter(|named| **named == id).count();
        match ids.iter().find(|id| count(**id) * 2 > self.endpoints) {
            Some(id) => Some(*id),
            None if ids.len() == 1 && waited >= PATIENCE => ids.first().copied(),
            None => None,
        }
    }

    fn all(&self) -> String {
        let named = self.named.iter().map(|(endpoint, id)| format!("endpoint {endpoint} names {id:x}"));
        named.collect::<Vec<_>>().join(", ")
    }
}

impl Store {
    /// `given`: the cluster's id, if the engine was told it.
    pub(crate) fn new(
        endpoints: Vec<String>,
        given: Option<u64>,
        rewound: impl Fn(String) + Send + Sync + 'static,
    ) -> Arc<Self> {
        let known = Mutex::new(Known::new(endpoints.len().max(1), given));
        Arc::new(Self { endpoints, known, open: AtomicUsize::new(0), rewound: Box::new(rewound) })
    }

    pub(super) fn judge(&self, endpoint: usize, header: Header, now: Instant) -> Verdict {
        let open = self.open.load(Ordering::SeqCst) > 0;
        let mut known = self.known.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut verdict = known.judge(endpoint, header, open, now);
        drop(known);
        if let Verdict::Undecided(text) | Verdict::Foreign(text) | Verdict::Rewound(text) = &mut verdict {
            for (number, endpoint) in self.endpoints.iter().enumerate() {
                *text = text.replace(&format!("endpoint {number} "), &format!("{endpoint} "));
            }
        }
        if let Verdict::Rewound(reason) = &verdict {
            (self.rewound)(reason.clone());
        }
        verdict
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
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn header(cluster: u64, revision: i64) -> Header {
        Header { cluster, revision: Revision::new(revision), term: 5 }
    }

    fn is_foreign(verdict: &Verdict) -> bool {
        matches!(verdict, Verdict::Foreign(_))
    }

    #[test]
    fn the_cluster_is_the_one_that_most_endpoints_name() {
        let now = Instant::now();
        let mut known = Known::new(3, None);
        assert!(matches!(known.judge(2, header(9, 1), false, now), Verdict::Undecided(_)));
        assert!(matches!(known.judge(0, header(1, 1), false, now), Verdict::Undecided(_)));
        assert_eq!(known.judge(1, header(1, 1), false, now), Verdict::Ours);
        assert!(is_foreign(&known.judge(2, header(9, 1), true, now)));
        assert_eq!(known.judge(0, header(0, 0), true, now), Verdict::Ours, "it was not told");
    }

    #[test]
    fn without_a_majority_every_id_is_named_with_its_endpoints() {
        let store = Store::new(vec!["a:1".into(), "b:2".into()], None, |_| {});
        let now = Instant::now();
        store.judge(0, header(0xaa, 1), now);
        let Verdict::Undecided(text) = store.judge(1, header(0xbb, 1), now) else {
            panic!("it is undecided")
        };
        assert!(text.contains("a:1 names aa") && text.contains("b:2 names bb"), "{text}");
        assert!(
            matches!(store.judge(1, header(0xbb, 1), now + 60 * SECOND), Verdict::Undecided(_)),
            "for ever"
        );
    }

    #[test]
    fn one_that_is_named_alone_will_do_after_a_while() {
        let now = Instant::now();
        let mut known = Known::new(2, None);
        assert!(matches!(known.judge(0, header(1, 1), false, now), Verdict::Undecided(_)));
        assert!(matches!(known.judge(0, header(1, 1), false, now + 9 * SECOND), Verdict::Undecided(_)));
        assert_eq!(known.judge(0, header(1, 1), false, now + 10 * SECOND), Verdict::Ours);
    }

    #[test]
    fn another_cluster_is_used_only_when_the_known_one_is_gone_for_10_s() {
        let now = Instant::now();
        let mut known = Known::new(1, None);
        assert_eq!(known.judge(0, header(1, 9), false, now), Verdict::Ours);
        assert!(is_foreign(&known.judge(0, header(2, 1), true, now)));
        assert!(is_foreign(&known.judge(0, header(2, 1), true, now + 60 * SECOND)), "one is open");
        assert_eq!(known.judge(0, header(1, 9), true, now + 61 * SECOND), Verdict::Ours);
        assert!(is_foreign(&known.judge(0, header(2, 1), false, now + 62 * SECOND)), "it counts anew");
        let verdict = known.judge(0, header(2, 1), false, now + 72 * SECOND);
        assert!(matches!(verdict, Verdict::Rewound(_)), "{verdict:?}");
    }

    #[test]
    fn an_engine_that_was_told_its_cluster_never_takes_another() {
        let now = Instant::now();
        let mut known = Known::new(3, Some(1));
        assert!(is_foreign(&known.judge(0, header(2, 9), false, now)));
        assert!(is_foreign(&known.judge(0, header(2, 9), false, now + 60 * SECOND)));
        assert_eq!(known.judge(1, header(1, 9), false, now + 60 * SECOND), Verdict::Ours);
    }

    #[test]
    fn an_older_state_is_another_store() {
        let now = Instant::now();
        let mut known = Known::new(3, Some(1));
        known.judge(0, header(1, 9), false, now);
        assert!(is_foreign(&known.judge(1, header(1, 8), true, now)));
        assert!(is_foreign(&known.judge(1, Header { term: 4, ..header(1, 20) }, true, now)));
        let mut known = Known::new(1, None);
        known.judge(0, header(1, 9), false, now);
        let verdict = known.judge(0, header(1, 8), false, now);
        assert!(matches!(verdict, Verdict::Rewound(_)), "there is no other member: {verdict:?}");
    }
}
