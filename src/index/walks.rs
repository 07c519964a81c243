//! Walks: work that concerns many instances, done in chunks behind live changes.

use super::groups::Walk;
use super::places::MemberIndex;
use super::{DecisionReason, Index};

/// A walk over all instances.
pub(super) struct FullWalk {
    next: usize,
    /// The walk goes to the last place, and then from the first place up to this one.
    then: usize,
    /// It has passed the last place.
    around: bool,
    /// More than a crawl waits for it.
    urgent: bool,
    reason: DecisionReason,
}

impl Index {
    /// Whether there is work to be done in chunks behind live changes.
    pub(crate) fn has_backlog(&self) -> bool {
        !self.walks.is_empty() || self.full_walk.is_some() || self.views.sweeping()
    }

    /// Whether only a crawl waits for the backlog.
    pub(crate) fn has_time(&self) -> bool {
        let urgent = self.full_walk.as_ref().is_some_and(|walk| walk.urgent);
        !urgent && self.walks.is_empty() && !self.views.sweeping_snapshot()
    }

    /// Does up to `budget` units of the backlog. [`Index::take_closed`] returns the views whose sweeps are
    /// complete.
    pub(crate) fn work(&mut self, budget: usize) {
        let budget = self.sweep(budget);
        let budget = self.walk_groups(budget);
        self.walk_all(budget);
    }

    fn walk_groups(&mut self, mut budget: usize) -> usize {
        while budget > 0
            && let Some(&index) = self.walks.front()
        {
            let Some(Walk { next, touches }) = self.groups.walk(index) else {
                self.walks.pop_front();
                continue;
            };
            let step = budget.min(next);
            for at in (next - step..next).rev() {
                let Some(member) = self.groups.member(index, MemberIndex::new(at)) else { continue };
                self.mark_dirty(member, None, DecisionReason::Change);
                if let Some(at) = self.instances.get(member).dirty_at() {
                    self.dirty[at].touches.extend(touches.iter().copied());
                }
            }
            budget -= step;
            self.groups.walked_to(index, next - step);
            if next == step {
                self.walks.pop_front();
            }
        }
        budget
    }

    fn walk_all(&mut self, budget: usize) {
        let Some(mut walk) = self.full_walk.take() else { return };
        let last = if walk.around { walk.then } else { self.instances.capacity() };
        let end = last.min(walk.next.saturating_add(budget));
        for at in walk.next..end {
            if let Some(index) = self.instances.at(at) {
                self.mark_dirty(index, None, walk.reason);
            }
        }
        walk.next = end;
        if end == last && !walk.around {
            walk = FullWalk { next: 0, around: true, ..walk };
        }
        if !walk.around || walk.next < walk.then {
            self.full_walk = Some(walk);
        }
    }

    /// Requests a decision on every instance, which is done in chunks (see [`Index::work`]). A walk that is
    /// under way continues from where it is, and then goes all the way round. So a walk always comes to its
    /// end, however often this is called.
    pub(crate) fn decide_all(&mut self, reason: DecisionReason) {
        let under_way = self.full_walk.take();
        let urgent = reason == DecisionReason::Change || under_way.as_ref().is_some_and(|walk| walk.urgent);
        let next = under_way.map_or(0, |walk| walk.next);
        self.full_walk = Some(FullWalk { next, then: next, around: false, urgent, reason });
    }
}
