//! Who gets the next slot. Rules, each with a lane of its own, take turns. Live work goes before crawl work;
//! crawl work that has waited long counts as live.

use super::rate::Rate;
use crate::compiled::{ByLane, Lane, RateLimit};
use crate::index::InstanceId;
use crate::mutants::{Mutant, is_active};
use crate::runtime::spare::Spare;
use std::collections::{BTreeSet, VecDeque};
use std::ops::Bound;
use std::time::Duration;
use tokio::time::Instant;

/// Live work goes before work that only a crawl found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum WorkClass {
    Live,
    Crawl,
}

/// A place in the queue, or among those that wait for a lock within the engine: never given twice, and later
/// ones are greater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct QueuePlace(u64);

/// An entry of the queue. It counts only while its place is the last one given to its instance: leaving the
/// queue early needs no search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QueueEntry {
    pub(crate) instance: InstanceId,
    pub(crate) place: QueuePlace,
    pub(crate) since: Instant,
}

/// The entries and slots of one lane.
#[derive(Default)]
struct LaneQueue {
    live: VecDeque<QueueEntry>,
    crawl: VecDeque<QueueEntry>,
    spare: Spare,
    running: usize,
    limit: usize,
    paused: bool,
    rate: Option<Rate>,
    /// Of those that have a slot, those that have not started yet: each has a permit of the rate.
    reserved: usize,
}

impl LaneQueue {
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
        let starves = |entry: &QueueEntry| now.duration_since(entry.since) >= starvation_limit;
        let entry = match class {
            _ if self.paused || self.is_throttled(now) => None,
            _ if self.running >= self.limit && !is_active(Mutant::Slots) => None,
            WorkClass::Live => match (self.live.front(), self.crawl.front()) {
                // Crawl work that has waited too long goes by its age among the live.
                (Some(live), Some(crawl)) if starves(crawl) && crawl.since < live.since => {
                    self.crawl.pop_front()
                }
                (None, Some(crawl)) if starves(crawl) => self.crawl.pop_front(),
                _ => self.live.pop_front(),
            },
            WorkClass::Crawl => self.crawl.pop_front(),
        };
        *entries -= before - self.len();
        if self.spare.is_far_too_much(self.len(), self.live.capacity() + self.crawl.capacity()) {
            self.live.shrink_to_fit();
            self.crawl.shrink_to_fit();
        }
        entry
    }
}

/// Queues and slots of all rules.
pub(crate) struct SlotQueue {
    lanes: ByLane<LaneQueue>,
    /// The lanes with entries, stale ones included, so that the cost of the next slot does not depend on how
    /// many rules there are.
    waiting: BTreeSet<Lane>,
    entries: usize,
    limit: usize,
    running: usize,
    starvation_limit: Duration,
    /// By class: the lane that had the last turn.
    turn: [Option<Lane>; 2],
    places: u64,
}

impl SlotQueue {
    /// `limit`: slots of all rules together; `limits`: of each rule. `starvation_limit`: after how long crawl
    /// work counts as live.
    pub(crate) fn new(limit: usize, limits: &ByLane<usize>, starvation_limit: Duration) -> Self {
        Self {
            lanes: limits.map(|limit| LaneQueue { limit: *limit, ..LaneQueue::default() }),
            waiting: BTreeSet::new(),
            entries: 0,
            limit,
            running: 0,
            starvation_limit,
            turn: [None; 2],
            places: 0,
        }
    }

    /// A place that nothing has had.
    pub(crate) fn new_place(&mut self) -> QueuePlace {
        self.places += 1;
        QueuePlace(self.places)
    }

    /// Removes entries that are not valid any more, wherever they stand.
    pub(crate) fn retain(&mut self, valid: impl Fn(&QueueEntry) -> bool) {
        let Self { lanes, waiting, entries, .. } = self;
        waiting.retain(|&lane| {
            let queue = &mut lanes[lane];
            *entries -= queue.len();
            queue.live.retain(&valid);
            queue.crawl.retain(&valid);
            *entries += queue.len();
            queue.len() > 0
        });
    }

    /// Adds an instance; returns the place that keeps its entry valid.
    pub(crate) fn push(
        &mut self,
        lane: Lane,
        class: WorkClass,
        instance: InstanceId,
        now: Instant,
    ) -> QueuePlace {
        let place = self.new_place();
        let entry = QueueEntry { instance, place, since: now };
        let queue = self.queue_of_one_more(lane);
        match class {
            WorkClass::Live => queue.live.push_back(entry),
            WorkClass::Crawl => queue.crawl.push_back(entry),
        }
        place
    }

    /// Puts an instance before all others of its lane.
    pub(crate) fn push_front(&mut self, lane: Lane, instance: InstanceId, now: Instant) -> QueuePlace {
        let place = self.new_place();
        let entry = QueueEntry { instance, place, since: now };
        self.queue_of_one_more(lane).live.push_front(entry);
        place
    }

    fn queue_of_one_more(&mut self, lane: Lane) -> &mut LaneQueue {
        self.entries += 1;
        self.waiting.insert(lane);
        &mut self.lanes[lane]
    }

    pub(crate) fn has_slot(&self, lane: Lane, now: Instant) -> bool {
        let queue = &self.lanes[lane];
        self.running < self.limit && queue.running < queue.limit && !queue.paused && !queue.is_throttled(now)
    }

    /// Whether the lane's entries stay where they are.
    pub(crate) fn pause(&mut self, lane: Lane, paused: bool) {
        self.lanes[lane].paused = paused;
    }

    pub(crate) fn is_paused(&self, lane: Lane) -> bool {
        self.lanes[lane].paused
    }

    /// How many of the lane may start from now on in which time.
    pub(crate) fn limit_rate(&mut self, lane: Lane, limit: Option<RateLimit>, now: Instant) {
        self.lanes[lane].rate = limit.map(|limit| Rate::new(limit, now));
    }

    /// None of the lane may start now, because of its rate.
    pub(crate) fn is_throttled(&self, lane: Lane, now: Instant) -> bool {
        self.lanes[lane].is_throttled(now)
    }

    /// When an entry that only its rate keeps may start, if nothing happens before.
    pub(crate) fn opens(&self, now: Instant) -> Option<Instant> {
        let queues = self.waiting.iter().map(|lane| &self.lanes[*lane]);
        let kept = queues.filter(|queue| !queue.paused && queue.running < queue.limit);
        kept.filter_map(|queue| queue.rate?.opens(queue.reserved, now)).min()
    }

    /// A newcomer would be the first of this lane's queue.
    pub(crate) fn is_empty(&self, lane: Lane) -> bool {
        self.lanes[lane].len() == 0
    }

    /// Slots of all rules together.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// The oldest live entry of each lane that nothing but the lack of a slot keeps.
    pub(crate) fn first_live(
        &mut self,
        valid: impl Fn(&QueueEntry) -> bool,
        mut each: impl FnMut(&QueueEntry),
    ) {
        for &lane in &self.waiting {
            let queue = &mut self.lanes[lane];
            while queue.live.front().is_some_and(|entry| !valid(entry)) {
                queue.live.pop_front();
                self.entries -= 1;
            }
            if let Some(first) = queue.live.front().filter(|_| !queue.paused && queue.rate.is_none()) {
                each(first);
            }
        }
    }

    /// Something of the lane gets a slot, and is to start.
    pub(crate) fn occupy(&mut self, lane: Lane) {
        self.running += 1;
        self.lanes[lane].running += 1;
        self.lanes[lane].reserved += 1;
    }

    /// It starts.
    pub(crate) fn start(&mut self, lane: Lane, now: Instant) {
        let queue = &mut self.lanes[lane];
        queue.reserved -= 1;
        if let Some(rate) = &mut queue.rate {
            rate.spend(now);
        }
    }

    /// It does not start after all.
    pub(crate) fn withdraw(&mut self, lane: Lane) {
        self.lanes[lane].reserved -= 1;
    }

    /// It has started, or was withdrawn, and has its slot no more.
    pub(crate) fn vacate(&mut self, lane: Lane) {
        self.running -= 1;
        self.lanes[lane].running -= 1;
    }

    #[cfg(test)]
    pub(crate) fn reserved(&self, lane: Lane) -> usize {
        self.lanes[lane].reserved
    }

    pub(crate) fn running(&self) -> usize {
        self.running
    }

    /// Entries, stale ones included.
    pub(crate) fn len(&self) -> usize {
        self.entries
    }

    /// Takes the next valid entry that may run now. It has no slot before it [occupies](Self::occupy) one.
    pub(crate) fn take(&mut self, now: Instant, valid: impl Fn(&QueueEntry) -> bool) -> Option<QueueEntry> {
        if self.running >= self.limit && !is_active(Mutant::Slots) {
            return None;
        }
        self.pick(WorkClass::Live, now, &valid).or_else(|| self.pick(WorkClass::Crawl, now, &valid))
    }

    fn pick(
        &mut self,
        class: WorkClass,
        now: Instant,
        valid: &impl Fn(&QueueEntry) -> bool,
    ) -> Option<QueueEntry> {
        let last = self.turn[class as usize];
        // Those after the last one, then those up to it.
        let mut from = last.map_or(Bound::Unbounded, Bound::Excluded);
        let mut wrapped = last.is_none();
        loop {
            let lane = match self.waiting.range((from, Bound::Unbounded)).next() {
                Some(&lane) if !wrapped || last.is_none_or(|last| lane <= last) => lane,
                None if !wrapped => {
                    (from, wrapped) = (Bound::Unbounded, true);
                    continue;
                }
                _ => return None,
            };
            let entry = self.lanes[lane].pick(class, now, self.starvation_limit, valid, &mut self.entries);
            if self.lanes[lane].len() == 0 {
                self.waiting.remove(&lane);
            }
            if entry.is_some() {
                self.turn[class as usize] = Some(lane);
                return entry;
            }
            from = Bound::Excluded(lane);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(index: u32) -> InstanceId {
        InstanceId { index, generation: 0 }
    }

    const A: Lane = Lane::new(0);
    const B: Lane = Lane::new(1);

    fn queue<const LANES: usize>(limit: usize, limits: [usize; LANES]) -> SlotQueue {
        SlotQueue::new(limit, &limits.into_iter().collect(), Duration::from_secs(10))
    }

    /// Gives slots away for as long as there are any. Instances from 10 on are of the second lane.
    fn order(queue: &mut SlotQueue, now: Instant) -> Vec<u32> {
        let mut order = Vec::new();
        while let Some(entry) = queue.take(now, |_| true) {
            queue.occupy(if entry.instance.index < 10 { A } else { B });
            order.push(entry.instance.index);
        }
        order
    }

    #[test]
    fn rules_take_turns() {
        let now = Instant::now();
        let mut queue = queue(10, [10, 10]);
        for index in 0..3 {
            queue.push(A, WorkClass::Live, instance(index), now);
        }
        queue.push(B, WorkClass::Live, instance(10), now);
        assert_eq!(order(&mut queue, now), [0, 10, 1, 2]);
    }

    #[test]
    fn one_rule_cannot_take_all_slots() {
        let now = Instant::now();
        let mut queue = queue(4, [2, 4]);
        for index in 0..5 {
            queue.push(A, WorkClass::Live, instance(index), now);
        }
        assert_eq!(order(&mut queue, now), [0, 1]);
        queue.push(B, WorkClass::Live, instance(19), now);
        assert_eq!(order(&mut queue, now), [19]);
        queue.vacate(A);
        assert_eq!(order(&mut queue, now), [2]);
    }

    #[test]
    fn the_overall_limit_holds() {
        let now = Instant::now();
        let mut queue = queue(3, [3, 3]);
        for index in 0..4 {
            let (lane, index) = if index % 2 == 0 { (A, index) } else { (B, 10 + index) };
            queue.push(lane, WorkClass::Live, instance(index), now);
        }
        assert_eq!(order(&mut queue, now).len(), 3);
    }

    #[test]
    fn crawl_work_yields_to_live_work_until_it_starves() {
        let now = Instant::now();
        let mut queue = queue(1, [1, 1]);
        queue.push(A, WorkClass::Crawl, instance(0), now);
        queue.push(B, WorkClass::Live, instance(11), now + Duration::from_secs(1));
        assert_eq!(order(&mut queue, now + Duration::from_secs(2)), [11]);
        queue.vacate(B);
        queue.push(A, WorkClass::Live, instance(2), now + Duration::from_secs(3));
        assert_eq!(order(&mut queue, now + Duration::from_secs(11)), [0], "it is older than the live one");
    }

    #[test]
    fn entries_that_are_not_valid_any_more_are_skipped() {
        let now = Instant::now();
        let mut queue = queue(4, [4]);
        let stale = queue.push(A, WorkClass::Live, instance(0), now);
        let fresh = queue.push(A, WorkClass::Live, instance(0), now);
        let taken = queue.take(now, |entry| entry.place != stale).map(|entry| entry.place);
        assert_eq!(taken, Some(fresh));
        assert_eq!((queue.len(), queue.running()), (0, 0));
    }
}
