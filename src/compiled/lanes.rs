//! Lanes: the compiled rules that an expansion makes of one rule share a lane.

use super::CompiledRule;
use crate::typed_index::typed_index;
use std::ops::{Index, IndexMut};

/// Which compiled rule, in the order of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RuleIndex(u32);
typed_index!(RuleIndex(u32));

impl RuleIndex {
    /// Those of so many rules.
    pub(crate) fn all(count: usize) -> impl Iterator<Item = Self> {
        (0..count).map(Self::new)
    }
}

/// Which rule, as it was written: what all compiled rules with its id share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Lane(u32);
typed_index!(Lane(u32));

/// One of something a lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ByLane<T>(Box<[T]>);

impl<T> ByLane<T> {
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Lane, &T)> {
        self.0.iter().enumerate().map(|(lane, item)| (Lane::new(lane), item))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (Lane, &mut T)> {
        self.0.iter_mut().enumerate().map(|(lane, item)| (Lane::new(lane), item))
    }

    /// Another thing for each lane.
    pub(crate) fn map<U>(&self, each: impl FnMut(&T) -> U) -> ByLane<U> {
        self.0.iter().map(each).collect()
    }
}

impl<T> FromIterator<T> for ByLane<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        Self(items.into_iter().collect())
    }
}

impl<T> Index<Lane> for ByLane<T> {
    type Output = T;

    fn index(&self, lane: Lane) -> &T {
        &self.0[lane.index()]
    }
}

impl<T> IndexMut<Lane> for ByLane<T> {
    fn index_mut(&mut self, lane: Lane) -> &mut T {
        &mut self.0[lane.index()]
    }
}

/// The lane of each compiled rule.
#[derive(Clone, Debug)]
pub(crate) struct Lanes(Box<[Lane]>);

impl Lanes {
    pub(crate) fn of(&self, rule: RuleIndex) -> Lane {
        self.0[rule.index()]
    }

    /// The compiled rules of a lane.
    pub(crate) fn rules_of(&self, lane: Lane) -> impl Iterator<Item = RuleIndex> {
        RuleIndex::all(self.0.len()).filter(move |rule| self.of(*rule) == lane)
    }
}

/// The lane of each rule, and how many of each lane may fire at once.
pub(crate) fn lanes(rules: &[CompiledRule]) -> (Lanes, ByLane<usize>) {
    let mut limits = Vec::new();
    let mut last = None;
    let lane = |rule: &CompiledRule| {
        if last.replace(rule.id().clone()).as_ref() != Some(rule.id()) {
            limits.push(rule.concurrency());
        }
        Lane::new(limits.len() - 1)
    };
    let lanes = Lanes(rules.iter().map(lane).collect());
    (lanes, limits.into_iter().collect())
}
