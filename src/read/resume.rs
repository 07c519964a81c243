//! From where a watch goes on. No I/O.

use crate::change::{Change, Revision};
use crate::etcd::{ClusterId, Header, LastEvent, RaftTerm, WatchMessage};
use crate::mutants::{Mutant, is_active};

/// Where one watcher stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resume {
    cluster: Option<ClusterId>,
    /// The newest election that a linearizable read told of.
    term: RaftTerm,
    /// The newest change that was delivered.
    seen: Option<LastEvent>,
    /// Everything up to here was delivered by a snapshot or by the stream itself.
    position: Option<Revision>,
    /// Nothing was delivered since the last snapshot.
    fresh: bool,
    /// Snapshots in a row that were compacted away before they were complete, or before the watch went on from them.
    outrun: u32,
}

/// So many snapshots may be compacted away before one is read beside the watch.
const OUTRUN: u32 = 2;

/// How to go on after a linearizable read told where the cluster stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// Take a snapshot at this revision first.
    Snapshot(Revision),
    /// Compactions leave no time for that: watch from now on, and read a snapshot beside that.
    Beside(Revision),
    /// Watch from this revision on.
    Watch(Revision),
    /// The store is another one, or an older state of it.
    Rewound(String),
}

/// What to do with something heard on the stream.
#[derive(Debug, PartialEq)]
pub(crate) enum ResumeStep {
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
    /// What the store must have in its history.
    pub(crate) fn seen(&self) -> Option<&LastEvent> {
        self.seen.as_ref().filter(|_| !is_active(Mutant::Rewind))
    }

    #[cfg(test)]
    pub(crate) fn position(&self) -> Option<Revision> {
        self.position
    }

    /// Before a stream is opened: `header` comes from a linearizable read.
    pub(crate) fn start(&mut self, header: Header) -> Start {
        if let Some(cluster) = self.cluster
            && header.cluster.is_told()
            && cluster != header.cluster
            && !is_active(Mutant::Rewind)
        {
            return Start::Rewound(format!("the cluster's id was {cluster} and is {}", header.cluster));
        }
        if header.cluster.is_told() && header.term < self.term && !is_active(Mutant::Rewind) {
            return Start::Rewound(format!("the raft term was {} and is {}", self.term, header.term));
        }
        if header.cluster.is_told() {
            self.cluster = Some(header.cluster);
            self.term = header.term;
        }
        match self.position {
            None if self.outrun >= OUTRUN => Start::Beside(header.revision),
            None => Start::Snapshot(header.revision),
            Some(position) if header.revision < position && !is_active(Mutant::Rewind) => {
                Start::Rewound(format!("the revision was {position} and is {}", header.revision))
            }
            Some(_) if is_active(Mutant::Resume) => Start::Watch(header.revision.next()),
            Some(position) if is_active(Mutant::FromPosition) => Start::Watch(position.next()),
            // Not from the one after it: before 3.4.36 and 3.5.18 etcd drops a deletion at the compacted revision,
            // and refuses nothing to who asks for changes from there on.
            Some(position) => Start::Watch(position),
        }
    }

    /// A snapshot at this revision is complete. `newest`: the latest change of what it has.
    pub(crate) fn snapshot(&mut self, revision: Revision, newest: Option<LastEvent>) {
        self.position = Some(revision.max(self.position.unwrap_or(Revision::NONE)));
        self.fresh = true;
        self.saw(newest);
    }

    /// A snapshot was compacted away.
    pub(crate) fn lost_snapshot(&mut self) {
        self.position = None;
        self.outrun = self.outrun.saturating_add(1);
    }

    /// Where the stream stands. What came before is in the snapshot.
    pub(crate) fn delivered(&self) -> Revision {
        self.position.unwrap_or(Revision::NONE)
    }

    /// The watch ended before a snapshot beside it was complete.
    pub(crate) fn lost_beside(&mut self) {
        self.position = None;
        self.outrun = OUTRUN;
    }

    /// A snapshot was read beside the watch.
    pub(crate) fn completed(&mut self, newest: Option<LastEvent>) {
        self.outrun = 0;
        self.fresh = false;
        self.saw(newest);
    }

    fn saw(&mut self, newest: Option<LastEvent>) {
        let known = self.seen.as_ref().map_or(Revision::NONE, |seen| seen.revision);
        if newest.as_ref().is_some_and(|newest| newest.revision > known) {
            self.seen = newest;
        }
    }

    pub(crate) fn heard(&mut self, heard: WatchMessage) -> ResumeStep {
        let header = match &heard {
            WatchMessage::Created(header)
            | WatchMessage::Changes(header, _)
            | WatchMessage::Alive(header, _) => Some(*header),
            WatchMessage::Cancelled { .. } => None,
        };
        // 0: a proxy answers for many watches, and does not tell.
        if let (Some(header), Some(cluster)) = (header, self.cluster)
            && header.cluster.is_told()
            && header.cluster != cluster
        {
            return ResumeStep::Doubt;
        }
        if let (Some(header), Some(position)) = (header, self.position)
            && is_active(Mutant::Position)
        {
            self.position = Some(position.max(header.revision));
        }
        match heard {
            WatchMessage::Created(_) => ResumeStep::Alive,
            WatchMessage::Changes(_, mut changes) => {
                // A stream begins with what was delivered last.
                let known = self.position.unwrap_or(Revision::NONE);
                if changes.first().is_some_and(|first| first.revision() <= known) {
                    changes.retain(|change| change.revision() > known);
                }
                // Not the header's revision: a watch that catches up stamps the store's newest on
                // every message, whatever it contains.
                let Some(last) = changes.last().map(LastEvent::of) else { return ResumeStep::Alive };
                let position = last.revision.max(self.position.unwrap_or(Revision::NONE));
                self.saw(Some(last));
                self.position = Some(position);
                (self.fresh, self.outrun) = (false, 0);
                ResumeStep::Deliver(changes, position)
            }
            WatchMessage::Alive(header, complete) => match self.position {
                Some(position) if complete && header.cluster.is_told() && header.revision > position => {
                    self.position = Some(header.revision);
                    (self.fresh, self.outrun) = (false, 0);
                    ResumeStep::Deliver(Vec::new(), header.revision)
                }
                _ => ResumeStep::Alive,
            },
            WatchMessage::Cancelled { compacted, .. } if compacted > Revision::NONE => {
                self.outrun += u32::from(self.fresh);
                self.position = None;
                ResumeStep::Resync
            }
            WatchMessage::Cancelled { reason, .. } => ResumeStep::Reopen(reason),
        }
    }

    /// What comes next need not follow on what was: history that is needed is gone, or not needed.
    pub(crate) fn forget_position(&mut self) {
        self.position = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Deletion;

    fn header(cluster: u64, revision: i64) -> Header {
        Header { cluster: ClusterId::new(cluster), revision: Revision::new(revision), term: RaftTerm::new(5) }
    }

    fn put(revision: i64) -> Change {
        Change::Put { key: b"/a".to_vec(), value: "".into(), revision: Revision::new(revision) }
    }

    fn at(position: i64) -> Resume {
        Resume {
            cluster: Some(ClusterId::new(1)),
            term: RaftTerm::new(5),
            position: Some(Revision::new(position)),
            ..Resume::default()
        }
    }

    #[test]
    fn a_watch_starts_after_its_snapshot_and_goes_on_after_what_it_delivered() {
        let mut resume = Resume::default();
        assert_eq!(resume.start(header(1, 10)), Start::Snapshot(Revision::new(10)));
        resume.snapshot(Revision::new(10), None);
        assert_eq!(resume.start(header(1, 12)), Start::Watch(Revision::new(10)));
        let step = resume.heard(WatchMessage::Changes(header(1, 99), vec![put(11), put(14)]));
        assert_eq!(
            step,
            ResumeStep::Deliver(vec![put(11), put(14)], Revision::new(14)),
            "the header's revision counts for nothing"
        );
        assert_eq!(resume.start(header(1, 99)), Start::Watch(Revision::new(14)));
        let again = resume.heard(WatchMessage::Changes(header(1, 99), vec![put(14)]));
        assert_eq!(again, ResumeStep::Alive, "what was delivered is no news");
        let more = resume.heard(WatchMessage::Changes(header(1, 99), vec![put(14), put(15)]));
        assert_eq!(more, ResumeStep::Deliver(vec![put(15)], Revision::new(15)));
    }

    #[test]
    fn only_a_notification_of_the_watch_itself_moves_the_position() {
        let mut resume = at(10);
        assert_eq!(resume.heard(WatchMessage::Created(header(1, 50))), ResumeStep::Alive);
        assert_eq!(resume.heard(WatchMessage::Alive(header(1, 50), false)), ResumeStep::Alive);
        assert_eq!(resume.position(), Some(Revision::new(10)));
        assert_eq!(
            resume.heard(WatchMessage::Alive(header(1, 50), true)),
            ResumeStep::Deliver(vec![], Revision::new(50))
        );
        assert_eq!(
            resume.heard(WatchMessage::Alive(header(1, 40), true)),
            ResumeStep::Alive,
            "never backwards"
        );
        assert_eq!(resume.position(), Some(Revision::new(50)));
    }

    #[test]
    fn a_compaction_needs_a_new_snapshot() {
        let mut resume = at(10);
        let cancelled = WatchMessage::Cancelled { compacted: Revision::new(40), reason: String::new() };
        assert_eq!(resume.heard(cancelled), ResumeStep::Resync);
        assert_eq!(resume.start(header(1, 50)), Start::Snapshot(Revision::new(50)));
    }

    #[test]
    fn after_two_snapshots_that_were_compacted_away_one_is_read_beside_the_watch() {
        let cancelled = || WatchMessage::Cancelled { compacted: Revision::new(40), reason: String::new() };
        let mut resume = at(10);
        resume.heard(cancelled());
        assert_eq!(resume.start(header(1, 50)), Start::Snapshot(Revision::new(50)), "history of long ago");
        resume.lost_snapshot();
        assert_eq!(resume.start(header(1, 60)), Start::Snapshot(Revision::new(60)));
        resume.snapshot(Revision::new(60), None);
        assert_eq!(resume.heard(cancelled()), ResumeStep::Resync);
        assert_eq!(
            resume.start(header(1, 70)),
            Start::Beside(Revision::new(70)),
            "the watch could not go on from the second"
        );
        resume.snapshot(Revision::new(70), None);
        resume.completed(None);
        assert_eq!(resume.start(header(1, 80)), Start::Watch(Revision::new(70)));
        resume.heard(cancelled());
        assert_eq!(resume.start(header(1, 90)), Start::Snapshot(Revision::new(90)), "it begins anew");
        let mut resume = at(10);
        resume.heard(cancelled());
        resume.lost_snapshot();
        resume.snapshot(Revision::new(60), None);
        resume.heard(WatchMessage::Changes(header(1, 61), vec![put(61)]));
        resume.heard(cancelled());
        resume.lost_snapshot();
        assert_eq!(resume.start(header(1, 90)), Start::Snapshot(Revision::new(90)), "one of them was good");
    }

    #[test]
    fn another_end_of_the_watch_only_reopens_it() {
        let mut resume = at(10);
        let cancelled =
            WatchMessage::Cancelled { compacted: Revision::NONE, reason: "permission denied".into() };
        assert_eq!(resume.heard(cancelled), ResumeStep::Reopen("permission denied".into()));
        assert_eq!(resume.start(header(1, 50)), Start::Watch(Revision::new(10)));
    }

    #[test]
    fn older_data_or_another_cluster_voids_what_is_known() {
        assert!(matches!(at(10).start(header(1, 9)), Start::Rewound(_)));
        assert!(matches!(at(10).start(header(2, 90)), Start::Rewound(_)));
        assert_eq!(at(10).heard(WatchMessage::Created(header(2, 90))), ResumeStep::Doubt);
        assert_eq!(at(10).heard(WatchMessage::Created(header(1, 9))), ResumeStep::Alive, "a member may lag");
        assert_eq!(at(10).start(header(1, 10)), Start::Watch(Revision::new(10)));
        assert!(matches!(
            at(10).start(Header { term: RaftTerm::new(4), ..header(1, 90) }),
            Start::Rewound(_)
        ));
        assert_eq!(
            at(10).start(Header { term: RaftTerm::new(6), ..header(1, 90) }),
            Start::Watch(Revision::new(10))
        );
    }

    #[test]
    fn the_newest_change_is_remembered_from_snapshots_and_the_stream() {
        let last_event = |key: &str, revision, deleted: bool| {
            let value = (!deleted).then(|| "v".into());
            LastEvent { key: key.into(), revision, value }
        };
        let mut resume = Resume::default();
        resume.snapshot(Revision::new(10), Some(last_event("/x", Revision::new(7), false)));
        assert_eq!(resume.seen(), Some(&last_event("/x", Revision::new(7), false)));
        resume.heard(WatchMessage::Alive(header(1, 50), true));
        assert_eq!(resume.seen().map(|seen| seen.revision), Some(Revision::new(7)), "progress is no change");
        let gone =
            Change::Delete { key: b"/b".to_vec(), revision: Revision::new(53), how: Deletion::Delivered };
        resume.heard(WatchMessage::Changes(header(1, 99), vec![put(51), gone]));
        assert_eq!(resume.seen(), Some(&last_event("/b", Revision::new(53), true)));
        resume.snapshot(Revision::new(60), Some(last_event("/x", Revision::new(7), false)));
        assert_eq!(
            resume.seen(),
            Some(&last_event("/b", Revision::new(53), true)),
            "an older one is no news"
        );
    }
}
