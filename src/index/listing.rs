//! Lists instances in pages. Each page takes a bounded time.

use super::places::InstanceIndex;
use super::{Binding, Index, InstanceId, RuleIndex};

/// The most places of the table that one page looks at.
const PLACES: usize = 4096;

/// Which instances are wanted. For each rule, the attributes (by number) that must have the given values, or
/// `None` if none of its instances is wanted.
#[derive(Clone, Debug)]
pub(crate) struct Wanted(pub(crate) Vec<Option<Vec<(usize, String)>>>);

/// An instance in a page.
#[derive(Clone, Debug)]
pub(crate) struct ListedInstance {
    pub(crate) id: InstanceId,
    pub(crate) rule: RuleIndex,
    pub(crate) binding: Binding,
}

impl Index {
    /// At most `limit` wanted instances from a place on, and the place where the next page starts. An
    /// instance keeps its place for as long as it exists.
    pub(crate) fn list(
        &self,
        from: InstanceIndex,
        wanted: &Wanted,
        limit: usize,
    ) -> (Vec<ListedInstance>, Option<InstanceIndex>) {
        let mut found = Vec::new();
        let end = self.instances.capacity();
        let mut place = from.index();
        let stop = end.min(place.saturating_add(PLACES));
        while place < stop && found.len() < limit {
            if let Some(listed) = self.instances.at(place).and_then(|index| self.listed(index, wanted)) {
                found.push(listed);
            }
            place += 1;
        }
        (found, (place < end).then_some(InstanceIndex::new(place)))
    }

    fn listed(&self, index: InstanceIndex, wanted: &Wanted) -> Option<ListedInstance> {
        let instance = self.instances.get(index);
        let values = wanted.0.get(instance.rule.index())?.as_ref()?;
        let count = self.rules[instance.rule.index()].attributes().len();
        let fits = values.iter().all(|(number, value)| instance.binding.get(*number, count) == value);
        fits.then(|| ListedInstance {
            id: self.instances.id(index),
            rule: instance.rule,
            binding: instance.binding.clone(),
        })
    }

    /// The instance with this binding, if there is one.
    pub(crate) fn find(&self, rule: RuleIndex, binding: &Binding) -> Option<InstanceId> {
        self.instances.find(rule, binding).map(|index| self.instances.id(index))
    }

    /// The number of instances of each rule, true or not.
    pub(crate) fn instances_by_rule(&self) -> &[usize] {
        self.instances.by_rule()
    }
}
