//! Help for owners that are behind. Such an owner says how far it has come: the latest change of all that it has given
//! a slot. Whatever changed later still waits there. The next able engine that is not behind takes some of that while
//! it has free slots, from the youngest, because the owner goes on from the oldest. They meet in the middle, and only
//! there an attempt for a lock may be lost.
//!
//! Instances of a shared lock wait for the lock rather than for a slot, those of a rule with a rate wait for that, and
//! those that are to rest between firings rest in one engine only: they are not helped with.

use super::*;
use crate::change::Revision;
use crate::fleet::member::MemberId;
use crate::fleet::rendezvous::LockKeyHash;
use crate::mutants::{Mutant, is_active};

/// An owner has been behind with a rule if something has waited there for so long.
const BEHIND: Duration = Duration::from_secs(1);

/// Instances of an owner that are looked at before it is looked anew from the youngest, and how often that is done.
const LOOKED_AT: usize = 4096;
const ANEW: Duration = Duration::from_secs(1);

/// Instances that are looked at in a turn.
const CHUNK: usize = 256;

/// Owners that are behind, and with which rules.
#[derive(Default)]
pub(super) struct Helping {
    behind: BTreeMap<(MemberId, Lane), Backlog>,
    /// The latest change of all that got a slot in this engine.
    taken: BTreeMap<Lane, Revision>,
    /// When there may be more to help with.
    next: Option<Instant>,
}

/// What waits in an engine that is behind.
struct Backlog {
    /// What changed later waits there.
    from: Revision,
    /// What was placed before this was not looked at yet, and how many may still be.
    below: Option<(Instant, InstanceId)>,
    left: usize,
    began: Instant,
}

impl Backlog {
    fn new(from: Revision, now: Instant) -> Self {
        Self { from, below: None, left: LOOKED_AT, began: now }
    }
}

impl Helping {
    /// Something of the lane gets a slot; its latest change.
    pub(super) fn took(&mut self, lane: Lane, newest: Revision) {
        let taken = self.taken.entry(lane).or_insert(newest);
        *taken = newest.max(*taken);
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.next
    }
}

impl WorkQueue {
    /// With which rules this engine is behind, and how far it has come: what changed later still waits.
    pub(crate) fn backlog(&mut self, now: Instant) -> BTreeMap<Arc<str>, i64> {
        let (records, rules) = (&self.records, &self.rules);
        // What is put back into the queue, such as a retry, is first in it with a change that was long ago.
        let none = BTreeMap::new();
        let taken = self.owners.as_ref().map_or(&none, |owners| &owners.helping.taken);
        let mut backlog = BTreeMap::new();
        self.queue.first_live(
            |entry| is_valid(records, entry),
            |entry| {
                let Some(record) = records.get(&entry.instance) else { return };
                let from =
                    taken.get(&record.lane).map_or(record.newest(), |taken| record.newest().max(*taken));
                if now.saturating_duration_since(entry.since) >= BEHIND && from > Revision::NONE {
                    backlog.insert(rules[record.rule.index()].id().clone(), from.get());
                }
            },
        );
        backlog
    }

    /// The members are these: some of them may be behind.
    pub(super) fn plan_help(&mut self, now: Instant) {
        let Some(owners) = &mut self.owners else { return };
        let mut behind = std::mem::take(&mut owners.helping.behind);
        for (member, waiting) in owners.view.behind() {
            if member == owners.settings.me || is_active(Mutant::Helping) {
                continue;
            }
            for (number, rule) in self.rules.iter().enumerate() {
                let number = RuleIndex::new(number);
                let rests = self.intervals[number.index()].is_some();
                if let Some(from) = waiting.get(rule.id())
                    && !rule.has_lock_pattern()
                    && !rests
                {
                    let (key, from) = ((member, self.lanes.of(number)), Revision::new(*from));
                    if owners.helping.behind.contains_key(&key) {
                        // An expanded rule is several, with one lane.
                        continue;
                    }
                    let known = behind.remove(&key).filter(|known| known.from == from);
                    let backlog = known.unwrap_or_else(|| Backlog::new(from, now));
                    owners.helping.behind.insert(key, backlog);
                }
            }
        }
        owners.helping.next = (!owners.helping.behind.is_empty()).then_some(now);
    }

    /// Takes what waits in engines that are behind, if there are free slots and nothing of this engine's own to do.
    pub(super) fn help(&mut self, now: Instant, out: &mut Vec<Action>) {
        let Some(owners) = &mut self.owners else { return };
        owners.helping.next = None;
        if owners.helping.behind.is_empty() {
            return;
        }
        let keys: Vec<(MemberId, Lane)> = owners.helping.behind.keys().copied().collect();
        let mut budget = CHUNK;
        for (owner, lane) in keys {
            while self.queue.is_empty(lane) && self.queue.has_slot(lane, now) && !self.controls[lane].dry_run
            {
                let Some(id) = self.next_to_help(owner, lane, &mut budget, now) else { break };
                self.stats.event(WorkqueueEvent::Helped(lane));
                self.transition(id, now, out, |record, now| {
                    record.insists = true;
                    record.enqueue(WorkClass::Live, now)
                });
                self.fill_slots(now, out);
            }
        }
    }

    /// The youngest instance of the lane that waits in this engine, and that this one is to help with.
    fn next_to_help(
        &mut self,
        owner: MemberId,
        lane: Lane,
        budget: &mut usize,
        now: Instant,
    ) -> Option<InstanceId> {
        let Self { owners, records, rules, .. } = self;
        let owners = owners.as_mut()?;
        let (mut helping, mut key) = (std::mem::take(&mut owners.helping), std::mem::take(&mut owners.key));
        let backlog = helping.behind.get_mut(&(owner, lane));
        let found = backlog.and_then(|backlog| {
            if now >= backlog.began + ANEW {
                *backlog = Backlog::new(backlog.from, now);
            }
            let end = backlog.below.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
            let placed = owners.placed.get(&owner)?;
            for at in placed.range((std::ops::Bound::Unbounded, end)).rev() {
                if backlog.left == 0 || *budget == 0 {
                    break;
                }
                backlog.left -= 1;
                *budget -= 1;
                backlog.below = Some(*at);
                let Some(record) = records.get(&at.1).filter(|record| record.lane == lane) else { continue };
                if record.newest() <= backlog.from {
                    continue;
                }
                let rule = &rules[record.rule.index()];
                key.clear();
                rule.write_lock_key("", &record.binding, &mut key);
                let order = owners.order.as_ref()?;
                let keeps_up = |member| owners.view.keeps_up(member);
                let helper =
                    order.helper(record.rule, rule, &record.binding, LockKeyHash::of(&key), keeps_up);
                if helper == Some(owners.settings.me) || is_active(Mutant::OneHelper) {
                    return Some(at.1);
                }
            }
            // Not all of them in one turn.
            let again = if backlog.left > 0 && *budget == 0 { now } else { backlog.began + ANEW };
            helping.next = Some(helping.next.map_or(again, |next: Instant| next.min(again)));
            None
        });
        (owners.helping, owners.key) = (helping, key);
        found
    }
}
