//! What must hold in the little world.

use super::*;
use crate::inspect::{InstanceState, StateCounts, StateKind};

impl World {
    /// What holds at every step.
    pub(super) fn check(&self) {
        let mut running = [0; RULES as usize];
        let mut locks: Vec<String> = Vec::new();
        for (id, record) in self.work.records() {
            let id = id.index;
            if record.state.holds_slot() {
                running[rule_of(id) as usize] += 1;
                if matches!(rule_of(id), 1 | 2) {
                    locks.push(lock_of(id));
                }
            }
            let busy = matches!(record.state, State::Locking(_) | State::Running | State::Committing { .. });
            assert!(!self.is_busy(id) || busy, "{id} is out, but {:?}", record.state);
        }
        for id in self.work.idle_holders() {
            let rule = lane(rule_of(id.index));
            assert!(!self.work.is_paused(rule), "{id:?} is paused and keeps others from a lock");
            // While another engine has the lock, the rate keeps nobody from it.
            let stands = self.work.record(id).is_some_and(|record| record.state.stands_for_others());
            let throttled = self.work.is_throttled(rule, self.now);
            assert!(stands || !throttled, "{id:?} waits for its rate and keeps a lock");
        }
        for id in self.work.parked() {
            assert!(!self.work.is_paused(lane(rule_of(id.index))), "{id:?} is paused and waits for a lock");
        }
        for rule in 0..RULES {
            let of_rule = self.work.records().filter(|(_, record)| record.lane == lane(rule));
            let reserved = of_rule.filter(|(_, record)| record.state.is_reserved()).count();
            assert_eq!(self.work.reserved(lane(rule)), reserved, "permits leak");
        }
        let mut counts = [StateCounts::default(); RULES as usize];
        for (_, record) in self.work.records() {
            *counts[record.rule.index()].at(record.state.kind()) += 1;
        }
        let lanes = self.work.lane_statuses();
        let counted = lanes.iter().map(|(_, status)| status.stats.states);
        assert!(counted.eq(counts), "{lanes:?}, but {counts:?}");
        self.check_notified();
        let total: usize = running.iter().sum();
        assert_eq!(self.work.running(), total, "slots leak");
        assert!(total <= LIMIT, "{total} at once");
        assert!(running.iter().zip(LIMITS).all(|(count, limit)| *count <= limit), "{running:?} at once");
        let count = locks.len();
        locks.sort();
        locks.dedup();
        assert_eq!(locks.len(), count, "two that share a lock have slots at once");
    }

    /// A callback of a rule starts: not more than its rate allows, saved permits included, and of an
    /// instance not before its interval is over.
    pub(super) fn started(&mut self, id: u32, rule: usize) {
        if let Some(least) = self.controls[rule].min_interval {
            let last = self.rests[id as usize].replace(self.now);
            assert!(last.is_none_or(|last| self.now - last >= least), "{id} does not rest");
        }
        let starts = &mut self.starts[rule];
        starts.push(self.now);
        let Some(limit) = self.controls[rule].rate_limit else { return };
        for (number, from) in (1..).zip(starts.iter().rev()) {
            let came_due = (self.now - *from).as_nanos() * u128::from(limit.count()) / limit.per().as_nanos();
            let allowed = self.beyond[rule] as u128 + u128::from(limit.count()) + came_due;
            assert!(number <= allowed, "{number} of rule {rule} started since {from:?}");
        }
    }

    /// Whoever listens knows the state of everything that is not being fired.
    fn check_notified(&self) {
        for id in 0..INSTANCES {
            let notified = self.notified[id as usize].as_ref();
            match self.work.status(instance(id), self.now) {
                None => {
                    assert!(
                        matches!(notified, None | Some(InstanceState::Untrue)),
                        "{id} is gone, but {notified:?}"
                    )
                }
                Some(look) => {
                    let record = self.work.record(instance(id)).map(|record| record.state.clone());
                    if look.state.kind() != StateKind::Running
                        && !matches!(record, Some(State::AwaitingOwnEvent { .. }))
                    {
                        assert_eq!(
                            notified.map(InstanceState::kind),
                            Some(look.state.kind()),
                            "{id} {record:?}"
                        );
                    }
                }
            }
        }
    }

    /// What holds when nothing happens any more.
    pub(super) fn check_calm(&self) {
        let tally = self.work.tally();
        for busy in [StateKind::Queued, StateKind::Running, StateKind::Waiting, StateKind::Held] {
            assert_eq!(tally.get(busy), 0, "{tally:?}");
        }
        assert_eq!(self.work.running(), 0);
        assert_eq!(self.work.locks_taken(), 0, "a lock within the engine is left");
        assert_eq!(self.work.deadline(), None);
        for id in 0..INSTANCES {
            let at = id as usize;
            let keys = &self.etcd.keys[at];
            assert_eq!(keys.revisions(), self.mirror[at].revisions(), "the mirror of {id}");
            let record = self.work.record(instance(id));
            let Some(record) = record else {
                assert!(!keys.truth(), "{id} is true, but nobody knows");
                continue;
            };
            assert!(keys.truth(), "{id} is false, but {:?}", record.state);
            match &record.state {
                State::Idle => {
                    assert!(!self.dirty[at], "{id} changed after its last firing");
                    assert!(self.completed[at], "{id} is idle, but its last firing was not completed");
                }
                State::GivenUp(_) => {
                    // Without a mark: the answer of the commit that left one never came.
                    match record.mark.filter(|mark| !mark.mine) {
                        None => assert!(!self.dirty[at], "{id} changed after it gave up"),
                        Some(mark) => {
                            let changed = self.foreign[at];
                            assert!(changed <= mark.revision, "{id} changed at {changed} after {mark:?}");
                        }
                    }
                    assert!(self.etcd.mark_revision(id).is_some(), "{id} gave up for nothing");
                }
                state => panic!("{id} is {state:?}"),
            }
        }
    }
}
