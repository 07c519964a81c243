//! From where a watch goes on. No I/O.

use crate::broken::{Promise, is_broken};
use crate::etcd::{Header, Heard};
use crate::index::{Change, Revision};

/// Where one watcher stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resume {
    cluster: Option<u64>,
    /// Everything up to here was delivered by a snapshot or by the stream itself.
    position: Option<Revision>,
}

/// How to go on after a linearizable read told where the cluster stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// Take a snapshot at this revision first.
    Snapshot(Revision),
    /// Watch from this revision on.
    Watch(Revision),
    /// The store is another one, or an older state of it.
    Rewound(String),
}

/// What to do with something heard on the stream.
#[derive(Debug, PartialEq)]
pub(crate) enum Step {
    /// Hand these on; complete up to the revision.
    Deliver(Vec<Change>, Revision),
    /// Nothing but a sign of life.
    Alive,
    /// History that is needed is gone: compare with a new snapshot.
    Resync,
    /// The stream is of no use any more: open another.
    Reopen(String),
    /// Ask the cluster where it stands before believing anything.
    Doubt,
}

impl Resume {
    #[cfg(test)]
    pub(crate) fn position(&self) -> Option<Revision> {
        self.position
    }

    /// Before a stream is opened: `header` comes from a linearizable read.
    pub(crate) fn start(&mut self, header: Header) -> Start {
        if let Some(cluster) = self.cluster
            && cluster != header.cluster
            && !is_broken(Promise::Rewind)
        {
            return Start::Rewound(format!("the cluster's id was {cluster:x} and is {:x}", header.cluster));
        }
        self.cluster = Some(header.cluster);
        match self.position {
            None => Start::Snapshot(header.revision),
            Some(position) if header.revision < position && !is_broken(Promise::Rewind) => {
                Start::Rewound(format!("the revision was {position} and is {}", header.revision))
            }
            Some(_) if is_broken(Promise::Resume) => Start::Watch(header.revision + 1),
            Some(position) => Start::Watch(position + 1),
        }
    }

    /// A snapshot at this revision is complete.
    pub(crate) fn snapshot(&mut self, revision: Revision) {
        self.position = Some(revision.max(self.position.unwrap_or(0)));
    }

    pub(crate) fn heard(&mut self, heard: Heard) -> Step {
        let header = match &heard {
            Heard::Created(header) | Heard::Changes(header, _) | Heard::Alive(header, _) => Some(*header),
            Heard::Cancelled { .. } => None,
        };
        if let (Some(header), Some(cluster)) = (header, self.cluster)
            && header.cluster != cluster
        {
            return Step::Doubt;
        }
        match heard {
            Heard::Created(_) => Step::Alive,
            Heard::Changes(_, changes) => {
                // Not the header's revision: a watch that catches up stamps the store's newest on
                // every message, whatever it contains.
                let Some(last) = changes.last().map(Change::revision) else { return Step::Alive };
                let position = last.max(self.position.unwrap_or(0));
                self.position = Some(position);
                Step::Deliver(changes, position)
            }
            Heard::Alive(header, complete) => match self.position {
                Some(position) if complete && header.revision > position => {
                    self.position = Some(header.revision);
                    Step::Deliver(Vec::new(), header.revision)
                }
                _ => Step::Alive,
            },
            Heard::Cancelled { compacted, .. } if compacted > 0 => {
                self.position = None;
                Step::Resync
            }
            Heard::Cancelled { reason, .. } => Step::Reopen(reason),
        }
    }

    /// History that is needed is gone.
    pub(crate) fn compacted(&mut self) {
        self.position = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(cluster: u64, revision: Revision) -> Header {
        Header { cluster, revision }
    }

    fn put(revision: Revision) -> Change {
        Change::Put { key: b"/a".to_vec(), value: "".into(), revision }
    }

    fn at(position: Revision) -> Resume {
        Resume { cluster: Some(1), position: Some(position) }
    }

    #[test]
    fn a_watch_starts_after_its_snapshot_and_goes_on_after_what_it_delivered() {
        let mut resume = Resume::default();
        assert_eq!(resume.start(header(1, 10)), Start::Snapshot(10));
        resume.snapshot(10);
        assert_eq!(resume.start(header(1, 12)), Start::Watch(11));
        let step = resume.heard(Heard::Changes(header(1, 99), vec![put(11), put(14)]));
        assert_eq!(
            step,
            Step::Deliver(vec![put(11), put(14)], 14),
            "the header's revision counts for nothing"
        );
        assert_eq!(resume.start(header(1, 99)), Start::Watch(15));
    }

    #[test]
    fn only_a_notification_of_the_watch_itself_moves_the_position() {
        let mut resume = at(10);
        assert_eq!(resume.heard(Heard::Created(header(1, 50))), Step::Alive);
        assert_eq!(resume.heard(Heard::Alive(header(1, 50), false)), Step::Alive);
        assert_eq!(resume.position(), Some(10));
        assert_eq!(resume.heard(Heard::Alive(header(1, 50), true)), Step::Deliver(vec![], 50));
        assert_eq!(resume.heard(Heard::Alive(header(1, 40), true)), Step::Alive, "never backwards");
        assert_eq!(resume.position(), Some(50));
    }

    #[test]
    fn a_compaction_needs_a_new_snapshot() {
        let mut resume = at(10);
        let cancelled = Heard::Cancelled { compacted: 40, reason: String::new() };
        assert_eq!(resume.heard(cancelled), Step::Resync);
        assert_eq!(resume.start(header(1, 50)), Start::Snapshot(50));
    }

    #[test]
    fn another_end_of_the_watch_only_reopens_it() {
        let mut resume = at(10);
        let cancelled = Heard::Cancelled { compacted: 0, reason: "permission denied".into() };
        assert_eq!(resume.heard(cancelled), Step::Reopen("permission denied".into()));
        assert_eq!(resume.start(header(1, 50)), Start::Watch(11));
    }

    #[test]
    fn older_data_or_another_cluster_voids_what_is_known() {
        assert!(matches!(at(10).start(header(1, 9)), Start::Rewound(_)));
        assert!(matches!(at(10).start(header(2, 90)), Start::Rewound(_)));
        assert_eq!(at(10).heard(Heard::Created(header(2, 90))), Step::Doubt);
        assert_eq!(at(10).heard(Heard::Created(header(1, 9))), Step::Alive, "a member may lag");
        assert_eq!(at(10).start(header(1, 10)), Start::Watch(11));
    }
}
