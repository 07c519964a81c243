//! Who gets the next slot: rules, each with a lane of its own, in turn; live work before crawl work, and crawl work that has
//! waited long as if it were live.

use super::rate::Rate;
use super::record::WorkClass;
use crate::broken::{Promise, is_broken};
use crate::compiled::RateLimit;
use crate::index::InstanceId;
use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;
use tokio::time::Instant;

/// An entry of the queue. It counts only while its number is the last one given to its instance:
/// leaving the queue early needs no search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QueueEntry {
    pub(crate) instance: InstanceId,
    pub(crate) number: u64,
    since: Instant,
}

#[derive(Default)]
struct Lane {
    live: VecDeque<QueueEntry>,
    crawl: VecDeque<QueueEntry>,
    running: usize,
    limit: usize,
    paused: bool,
    rate: Option<Rate>,
    /// Of those that have a slot, those that have not started yet: each has a permit of the rate.
    reserved: usize,
}

impl Lane {
    fn is_throttled(&self, now: Instant) -> bool {
        self.rate.is_some_and(|rate| !rate.is_open(self.reserved, now))
    }

    fn len(&self) -> usize {
        self.live.len() + self.crawl.len()
    }

    /// Takes its next valid entry, if it may run now; `entries` counts down with what is removed.
    fn pick(
        &mut self,
        class: WorkClass,
        now: Instant,
        starvation_limit: Duration,
        valid: &impl Fn(&QueueEntry) -> bool,
        entries: &mut usize,
    ) -> Option<QueueEntry> {
        let before = self.len();
        for queue in [&mut self.live, &mut self.crawl] {
            while queue.front().is_some_and(|entry| !valid(entry)) {
                queue.pop_front();
            }
        }
        let aged = |entry: &QueueEntry| now.duration_since(entry.since) >= starvation_limit;
        let entry = match class {
            _ if self.paused || self.is_throttled(now) => None,
            _ if self.running >= self.limit && !is_broken(Promise::Slots) => None,
            WorkClass::Live => match (self.live.front(), self.crawl.front()) {
                // Crawl work that has aged goes by its age among the live.
                (Some(live), Some(crawl)) if aged(crawl) && crawl.since < live.since => {
                    self.crawl.pop_front()
                }
                (None, Some(crawl)) if aged(crawl) => self.crawl.pop_front(),
                _ => self.live.pop_front(),
            },
            WorkClass::Crawl => self.crawl.pop_front(),
        };
        *entries -= before - self.len();
        entry
    }
}

/// Queues and slots of all rules.
pub(crate) struct SlotQueue {
    lanes: Vec<Lane>,
    /// The lanes with entries, stale ones included: what is asked next does not depend on how many rules
    /// there are.
    waiting: BTreeSet<usize>,
    entries: usize,
    limit: usize,
    running: usize,
    starvation_limit: Duration,
    /// The rule that is asked first for each class.
    turn: [usize; 2],
    numbers: u64,
}

impl SlotQueue {
    /// `limit`: slots of all rules together; `limits`: of each rule. `starvation_limit`: after how long crawl
    /// work counts as live.
    pub(crate) fn new(
        limit: usize,
        limits: impl IntoIterator<Item = usize>,
        starvation_limit: Duration,
    ) -> Self {
        let lanes = limits.into_iter().map(|limit| Lane { limit, ..Lane::default() }).collect();
        Self {
            lanes,
            waiting: BTreeSet::new(),
            entries: 0,
            limit,
            running: 0,
            starvation_limit,
            turn: [0; 2],
            numbers: 0,
        }
    }

    /// A number that no entry has.
    pub(crate) fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// Removes entries that are not valid any more, wherever they stand.
    pub(crate) fn retain(&mut self, valid: impl Fn(&QueueEntry) -> bool) {
        let Self { lanes, waiting, entries, .. } = self;
        waiting.retain(|&rule| {
            let lane = &mut lanes[rule];
            *entries -= lane.len();
            lane.live.retain(&valid);
            lane.crawl.retain(&valid);
            *entries += lane.len();
            lane.len() > 0
        });
    }

    /// Adds an instance; returns the number that keeps its place valid.
    pub(crate) fn push(&mut self, rule: u32, class: WorkClass, instance: InstanceId, now: Instant) -> u64 {
        let number = self.number();
        let entry = QueueEntry { instance, number, since: now };
        let lane = self.lane_of_one_more(rule);
        match class {
            WorkClass::Live => lane.live.push_back(entry),
            WorkClass::Crawl => lane.crawl.push_back(entry),
        }
        number
    }

    /// Puts an instance before all others of its rule.
    pub(crate) fn push_front(&mut self, rule: u32, instance: InstanceId, now: Instant) -> u64 {
        let number = self.number();
        let entry = QueueEntry { instance, number, since: now };
        self.lane_of_one_more(rule).live.push_front(entry);
        number
    }

    fn lane_of_one_more(&mut self, rule: u32) -> &mut Lane {
        self.entries += 1;
        self.waiting.insert(rule as usize);
        &mut self.lanes[rule as usize]
    }

    pub(crate) fn has_slot(&self, rule: u32, now: Instant) -> bool {
        let lane = &self.lanes[rule as usize];
        self.running < self.limit && lane.running < lane.limit && !lane.paused && !lane.is_throttled(now)
    }

    /// Whether the rule's entries stay where they are.
    pub(crate) fn pause(&mut self, rule: u32, paused: bool) {
        self.lanes[rule as usize].paused = paused;
    }

    pub(crate) fn is_paused(&self, rule: u32) -> bool {
        self.lanes[rule as usize].paused
    }

    /// How many of the rule may start from now on in which time.
    pub(crate) fn limit_rate(&mut self, rule: u32, limit: Option<RateLimit>, now: Instant) {
        self.lanes[rule as usize].rate = limit.map(|limit| Rate::new(limit, now));
    }

    /// None of the rule may start now, because of its rate.
    pub(crate) fn is_throttled(&self, rule: u32, now: Instant) -> bool {
        self.lanes[rule as usize].is_throttled(now)
    }

    /// When an entry that only its rate keeps may start, if nothing happens before.
    pub(crate) fn opens(&self, now: Instant) -> Option<Instant> {
        let lanes = self.waiting.iter().map(|rule| &self.lanes[*rule]);
        let kept = lanes.filter(|lane| !lane.paused && lane.running < lane.limit);
        kept.filter_map(|lane| lane.rate?.opens(lane.reserved, now)).min()
    }

    /// Nothing of this rule is queued before a newcomer.
    pub(crate) fn is_empty(&self, rule: u32) -> bool {
        self.lanes[rule as usize].len() == 0
    }

    /// Something of the rule has a slot, and is to start.
    pub(crate) fn occupy(&mut self, rule: u32) {
        self.running += 1;
        self.lanes[rule as usize].running += 1;
        self.lanes[rule as usize].reserved += 1;
    }

    /// It starts.
    pub(crate) fn start(&mut self, rule: u32, now: Instant) {
        let lane = &mut self.lanes[rule as usize];
        lane.reserved -= 1;
        if let Some(rate) = &mut lane.rate {
            rate.spend(now);
        }
    }

    /// It does not start after all.
    pub(crate) fn withdraw(&mut self, rule: u32) {
        self.lanes[rule as usize].reserved -= 1;
    }

    /// It has started, or was withdrawn, and has its slot no more.
    pub(crate) fn vacate(&mut self, rule: u32) {
        self.running -= 1;
        self.lanes[rule as usize].running -= 1;
    }

    #[cfg(test)]
    pub(crate) fn reserved(&self, rule: u32) -> usize {
        self.lanes[rule as usize].reserved
    }

    pub(crate) fn running(&self) -> usize {
        self.running
    }

    /// Entries, stale ones included.
    pub(crate) fn len(&self) -> usize {
        self.entries
    }

    /// Takes the next valid entry that may run now and occupies a slot for it.
    pub(crate) fn take(
        &mut self,
        now: Instant,
        valid: impl Fn(&QueueEntry) -> bool,
    ) -> Option<(u32, QueueEntry)> {
        if self.running >= self.limit && !is_broken(Promise::Slots) {
            return None;
        }
        let (rule, entry) =
            self.pick(WorkClass::Live, now, &valid).or_else(|| self.pick(WorkClass::Crawl, now, &valid))?;
        self.occupy(rule);
        Some((rule, entry))
    }

    fn pick(
        &mut self,
        class: WorkClass,
        now: Instant,
        valid: &impl Fn(&QueueEntry) -> bool,
    ) -> Option<(u32, QueueEntry)> {
        let first = self.turn[class as usize];
        let mut from = first;
        let mut wrapped = false;
        loop {
            // Those from the first on, then those before it.
            let next = match self.waiting.range(from..).next() {
                Some(&rule) if !wrapped || rule < first => rule,
                None if !wrapped => {
                    (from, wrapped) = (0, true);
                    continue;
                }
                _ => return None,
            };
            let entry = self.lanes[next].pick(class, now, self.starvation_limit, valid, &mut self.entries);
            if self.lanes[next].len() == 0 {
                self.waiting.remove(&next);
            }
            if let Some(entry) = entry {
                self.turn[class as usize] = (next + 1) % self.lanes.len();
                return Some((next as u32, entry));
            }
            from = next + 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(index: u32) -> InstanceId {
        InstanceId { index, generation: 0 }
    }

    fn order(queue: &mut SlotQueue, now: Instant) -> Vec<u32> {
        std::iter::from_fn(|| queue.take(now, |_| true)).map(|(_, entry)| entry.instance.index).collect()
    }

    #[test]
    fn rules_take_turns() {
        let now = Instant::now();
        let mut queue = SlotQueue::new(10, [10, 10], Duration::from_secs(10));
        for index in 0..3 {
            queue.push(0, WorkClass::Live, instance(index), now);
        }
        queue.push(1, WorkClass::Live, instance(10), now);
        assert_eq!(order(&mut queue, now), [0, 10, 1, 2]);
    }

    #[test]
    fn one_rule_cannot_take_all_slots() {
        let now = Instant::now();
        let mut queue = SlotQueue::new(4, [2, 4], Duration::from_secs(10));
        for index in 0..5 {
            queue.push(0, WorkClass::Live, instance(index), now);
        }
        assert_eq!(order(&mut queue, now), [0, 1]);
        queue.push(1, WorkClass::Live, instance(9), now);
        assert_eq!(order(&mut queue, now), [9]);
        queue.vacate(0);
        assert_eq!(order(&mut queue, now), [2]);
    }

    #[test]
    fn the_overall_limit_holds() {
        let now = Instant::now();
        let mut queue = SlotQueue::new(3, [3, 3], Duration::from_secs(10));
        for index in 0..4 {
            queue.push(index % 2, WorkClass::Live, instance(index), now);
        }
        assert_eq!(order(&mut queue, now).len(), 3);
    }

    #[test]
    fn crawl_work_yields_to_live_work_until_it_has_aged() {
        let now = Instant::now();
        let mut queue = SlotQueue::new(1, [1, 1], Duration::from_secs(10));
        queue.push(0, WorkClass::Crawl, instance(0), now);
        queue.push(1, WorkClass::Live, instance(1), now + Duration::from_secs(1));
        assert_eq!(order(&mut queue, now + Duration::from_secs(2)), [1]);
        queue.vacate(1);
        queue.push(0, WorkClass::Live, instance(2), now + Duration::from_secs(3));
        assert_eq!(order(&mut queue, now + Duration::from_secs(11)), [0], "it is older than the live one");
    }

    #[test]
    fn entries_that_are_not_valid_any_more_are_skipped() {
        let now = Instant::now();
        let mut queue = SlotQueue::new(4, [4], Duration::from_secs(10));
        let stale = queue.push(0, WorkClass::Live, instance(0), now);
        let fresh = queue.push(0, WorkClass::Live, instance(0), now);
        let taken = queue.take(now, |entry| entry.number != stale).map(|(_, entry)| entry.number);
        assert_eq!(taken, Some(fresh));
        assert_eq!((queue.len(), queue.running()), (0, 1));
    }
}
