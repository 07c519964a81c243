//! A rule as the engine uses it: slots, attributes, groups, lock names. A rule with expanded attributes
//! becomes several of these, one for each combination of values. All of them have its id.

mod backoff;
mod binding;
mod controls;
pub(crate) mod domain;
mod error;
mod lanes;
mod lock_name;
mod options;
mod rate_limit;
mod settle;
mod usage;

pub use backoff::Backoff;
pub(crate) use binding::{Binding, Packed};
pub(crate) use controls::{Controls, check_interval};
pub use error::RuleError;
pub(crate) use lanes::{ByLane, Lane, Lanes, RuleIndex, lanes};
pub(crate) use lock_name::Beginning;
pub(crate) use options::{Defaults, Limits, RuleOptions};
pub use rate_limit::RateLimit;
pub use settle::Settle;
pub(crate) use usage::Use;

use crate::condition::{Compiled, LeafNumber, Slot};
use crate::pattern::{Attributes, Pattern, Segment};
use domain::{Constraint, Domains};
use smallvec::SmallVec;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

/// A group kind: slots that bind the same attributes, but not all attributes of the rule, unless they are only shown.
#[derive(Debug)]
pub(crate) struct GroupKind {
    /// The numbers of the bound attributes, in the rule's order.
    pub(crate) attributes: SmallVec<[u8; 4]>,
    pub(crate) slots: SmallVec<[Slot; 4]>,
    /// Leaves that read only these slots. Their truth is cached.
    pub(crate) leaves: Vec<LeafNumber>,
    /// Slots that a leaf compares with slots outside of this kind. Every change of their value counts.
    pub(crate) operands: Vec<Slot>,
}

pub(crate) struct CompiledRule {
    id: Arc<str>,
    /// The condition, with the patterns as they were written.
    condition: Compiled,
    /// The slots of which an optimistic commit expects nothing, although the callback has looked at them.
    unchecked: Vec<Slot>,
    /// The condition as text, for people.
    text: Arc<str>,
    /// The patterns with the expanded attributes fixed.
    slots: Vec<Pattern>,
    /// The attributes that keys bind: all except the fixed ones.
    attributes: Vec<Arc<str>>,
    /// By attribute.
    constraints: Vec<Option<Arc<Constraint>>>,
    /// All attributes in the order of their first appearance, with the value if it is fixed.
    all: Vec<(Arc<str>, Option<String>)>,
    /// The same by the order of their names.
    by_name: Vec<u8>,
    kinds: Vec<GroupKind>,
    /// The group kind of each slot. `None` for binders. What is only shown binds nothing, whatever attributes it has.
    roles: Vec<Option<u8>>,
    lock: Option<Pattern>,
    /// The slot of the key that delays the next poll, and for how long.
    delay: Option<(Slot, Duration)>,
    options: RuleOptions,
    limits: Limits,
}

/// What the combinations of a rule's expanded values have in common.
pub(crate) struct RuleShared {
    pub(crate) id: Arc<str>,
    pub(crate) condition: Compiled,
    /// How many slots are of the condition itself. Those behind them are only shown.
    pub(crate) own: usize,
    /// Those of which an optimistic commit expects nothing.
    pub(crate) unchecked: Vec<Slot>,
    pub(crate) text: Arc<str>,
    pub(crate) lock: Option<Pattern>,
    pub(crate) delay: Option<(Slot, Duration)>,
    /// The attributes of the condition, in the order of their first appearance.
    pub(crate) all: Vec<Arc<str>>,
    pub(crate) options: RuleOptions,
    pub(crate) limits: Limits,
}

impl CompiledRule {
    /// The rule with these attributes fixed.
    pub(crate) fn new(shared: &RuleShared, domains: &Domains, fixed: &Attributes) -> Self {
        let RuleShared { id, condition, own, unchecked, text, lock, delay, all, options, limits } = shared;
        let free = |name: &&Arc<str>| fixed.get(name).is_none();
        let attributes: Vec<Arc<str>> = all.iter().filter(free).cloned().collect();
        let slots: Vec<Pattern> = condition.slots.iter().map(|slot| slot.fix(fixed)).collect();
        let (kinds, roles) = group_kinds(condition, &slots, *own, &attributes);
        Self {
            id: id.clone(),
            condition: condition.clone(),
            unchecked: unchecked.clone(),
            text: text.clone(),
            slots,
            constraints: attributes.iter().map(|name| domains.constraint(name).cloned()).collect(),
            attributes,
            all: all.iter().map(|name| (name.clone(), fixed.get(name).map(str::to_owned))).collect(),
            by_name: lock_name::by_name(all),
            kinds,
            roles,
            lock: lock.clone(),
            delay: *delay,
            options: options.clone(),
            limits: *limits,
        }
    }

    pub(crate) fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// Reads the memory that a decision needs, so that it is in the processor's cache by then.
    pub(crate) fn touch(&self) -> u64 {
        u64::from(self.condition.touch()) ^ self.attributes.len() as u64 ^ self.slots.len() as u64
    }

    pub(crate) fn condition(&self) -> &Compiled {
        &self.condition
    }

    pub(crate) fn condition_text(&self) -> &str {
        &self.text
    }

    /// The distinct key patterns, with expanded attributes fixed: those of the condition, and behind them what is only
    /// shown.
    pub(crate) fn slots(&self) -> &[Pattern] {
        &self.slots
    }

    /// Whether an optimistic commit expects nothing of a slot that the callback has looked at.
    pub(crate) fn is_unchecked(&self, slot: Slot) -> bool {
        self.unchecked.contains(&slot)
    }

    /// The slot of a pattern, as it was written in the condition or for what is shown.
    pub(crate) fn slot(&self, written: &str) -> Option<Slot> {
        self.condition.slots.iter().position(|slot| slot.as_str() == written).map(Slot::new)
    }

    /// The attributes that keys bind, in the order of a [`Binding`]. Expanded attributes are not among them.
    pub(crate) fn attributes(&self) -> &[Arc<str>] {
        &self.attributes
    }

    pub(crate) fn kinds(&self) -> &[GroupKind] {
        &self.kinds
    }

    /// The rule has a lock pattern, so other instances may have the same lock.
    pub(crate) fn has_lock_pattern(&self) -> bool {
        self.lock.is_some()
    }

    /// The lock pattern as it was written.
    pub(crate) fn lock_pattern(&self) -> Option<&str> {
        self.lock.as_ref().map(Pattern::as_str)
    }

    /// The attributes that are constrained, with how their values must begin.
    pub(crate) fn constraints(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<Constraint>)> {
        let constrained = self.attributes.iter().zip(&self.constraints);
        constrained.filter_map(|(name, constraint)| Some((name, constraint.as_ref()?)))
    }

    pub(crate) fn options(&self) -> &RuleOptions {
        &self.options
    }

    /// The slot of the key that delays the next poll, and for how long, if the rule polls.
    pub(crate) fn delay(&self) -> Option<(Slot, Duration)> {
        self.delay
    }

    /// How long a callback may run.
    pub(crate) fn time_limit(&self) -> Duration {
        self.limits.defaults.time_limit
    }

    /// How failed firings are retried.
    pub(crate) fn backoff(&self) -> &Backoff {
        &self.limits.defaults.backoff
    }

    /// How long what became true waits.
    pub(crate) fn settle(&self) -> Settle {
        self.limits.settle
    }

    /// How often an instance may fire before it is slowed down.
    pub(crate) fn instance_rate(&self) -> RateLimit {
        self.limits.instance_rate
    }

    pub(crate) fn lock_ttl(&self) -> Duration {
        self.limits.lock_ttl
    }

    pub(crate) fn concurrency(&self) -> usize {
        self.limits.concurrency
    }

    /// The rule has attributes, and its condition holds when no key exists. Such an instance is known only
    /// from the deletion of a key.
    pub(crate) fn is_of_absences(&self) -> bool {
        let nothing = vec![None; self.slots().len()];
        !self.attributes.is_empty()
            && catch_unwind(AssertUnwindSafe(|| self.condition.truth(&nothing))).unwrap_or(false)
    }

    /// Patterns that match every key, or every key of one depth.
    pub(crate) fn matches_everything(&self) -> impl Iterator<Item = &Pattern> {
        self.slots().iter().filter(|pattern| {
            pattern.literal_prefix().trim_matches('/').is_empty()
                && !pattern.segments().iter().any(|s| matches!(s, Segment::Literal(text) if !text.is_empty()))
        })
    }

    /// Every pattern of the rule with its use, for the index.
    pub(crate) fn uses(&self, rule: RuleIndex) -> impl Iterator<Item = (&Pattern, Use)> {
        self.slots().iter().enumerate().map(move |(slot, pattern)| {
            let group = self.roles[slot];
            let bound: SmallVec<[u8; 4]> = match group {
                Some(kind) => self.kinds[kind as usize].attributes.clone(),
                None => (0..self.attributes.len() as u8).collect(),
            };
            let captured: SmallVec<[usize; 8]> = pattern
                .segments()
                .iter()
                .filter_map(|segment| match segment {
                    Segment::Literal(_) => None,
                    Segment::Attribute(at) | Segment::Rest(at) => Some(*at),
                })
                .collect();
            let first = |at: usize| captured.iter().position(|&other| other == at).unwrap_or(0) as u8;
            let order = bound
                .iter()
                .map(|&number| {
                    let name = &self.attributes[number as usize];
                    let at = pattern.attributes().iter().position(|other| other == name);
                    first(at.expect("a slot's kind lists attributes of its pattern"))
                })
                .collect();
            let equal = captured
                .iter()
                .enumerate()
                .map(|(position, &at)| (first(at), position as u8))
                .filter(|(first, position)| first != position)
                .collect();
            let limits = captured
                .iter()
                .enumerate()
                .filter_map(|(position, &at)| {
                    let name = &pattern.attributes()[at];
                    let number = self.attributes.iter().position(|other| other == name)?;
                    Some((position as u8, self.constraints[number].clone()?))
                })
                .collect();
            (pattern, Use { rule, slot: Slot::new(slot), group, order, equal, limits })
        })
    }

    /// The concrete key of a slot.
    pub(crate) fn key(&self, slot: Slot, binding: &Binding) -> String {
        // Room for all of the pattern and all values.
        let room = self.slots()[slot.index()].as_str().len() + binding.bytes().len();
        let mut key = String::with_capacity(room);
        self.write_key(slot, binding, &mut key);
        key
    }

    /// Appends the concrete key of a slot.
    pub(crate) fn write_key(&self, slot: Slot, binding: &Binding, out: &mut String) {
        let pattern = &self.slots()[slot.index()];
        pattern.write_key(|at| self.value(binding, &pattern.attributes()[at]), out);
    }

    /// The value of an attribute that keys bind.
    fn value<'b>(&self, binding: &'b Binding, name: &str) -> &'b str {
        let number = self.attributes.iter().position(|other| **other == *name);
        binding.get(number.expect("checked when the rule was compiled"), self.attributes.len())
    }

    /// The value of an attribute, of all in the order of their first appearance.
    fn value_at<'b>(&'b self, at: usize, binding: &'b Binding) -> &'b str {
        let (name, fixed) = &self.all[at];
        fixed.as_deref().unwrap_or_else(|| self.value(binding, name))
    }

    /// All attributes with their values, fixed ones too, in the order of their first appearance.
    fn values<'b>(&'b self, binding: &'b Binding) -> impl Iterator<Item = (&'b Arc<str>, &'b str)> {
        self.all.iter().enumerate().map(|(at, (name, _))| (name, self.value_at(at, binding)))
    }

    pub(crate) fn attributes_of(&self, binding: &Binding) -> Attributes {
        self.values(binding).map(|(name, value)| (name.clone(), value)).collect()
    }

    /// The binding for the given attributes, or `None` if one is missing.
    pub(crate) fn binding_of(&self, attributes: &Attributes) -> Option<Binding> {
        let values: Vec<&str> =
            self.attributes.iter().map(|name| attributes.get(name)).collect::<Option<_>>()?;
        Some(Binding::new(values.into_iter()))
    }

    /// The names of all attributes, fixed ones too.
    pub(crate) fn all_attributes(&self) -> impl Iterator<Item = &Arc<str>> {
        self.all.iter().map(|(name, _)| name)
    }

    /// The first attribute of the rule that is not given.
    pub(crate) fn missing(&self, attributes: &Attributes) -> Option<&Arc<str>> {
        self.all.iter().map(|(name, _)| name).find(|name| attributes.get(name).is_none())
    }

    /// The expanded attributes with the values that they have here.
    pub(crate) fn fixed(&self) -> impl Iterator<Item = (&str, &str)> {
        self.all.iter().filter_map(|(name, fixed)| Some((&**name, fixed.as_deref()?)))
    }

    pub(crate) fn is_fixed_to(&self, attributes: &Attributes) -> bool {
        self.fixed().all(|(name, value)| attributes.get(name) == Some(value))
    }

    /// An attribute whose value violates its constraint.
    pub(crate) fn forbidden(&self, attributes: &Attributes) -> Option<(&Arc<str>, &Constraint)> {
        let constrained = self.attributes.iter().zip(&self.constraints);
        constrained
            .filter_map(|(name, constraint)| Some((name, constraint.as_deref()?)))
            .find(|(name, constraint)| attributes.get(name).is_some_and(|value| !constraint.allows(value)))
    }

    /// The constraint of the attribute that follows a slot's literal prefix, if one does and it is
    /// constrained.
    pub(crate) fn constraint_behind(&self, slot: Slot) -> Option<&Constraint> {
        let pattern = &self.slots[slot.index()];
        let first = pattern.segments().iter().find_map(|segment| match segment {
            Segment::Literal(_) => None,
            Segment::Attribute(at) | Segment::Rest(at) => Some(&pattern.attributes()[*at]),
        })?;
        let number = self.attributes.iter().position(|name| name == first)?;
        self.constraints[number].as_deref()
    }
}

/// The attributes of some patterns, in the order of their first appearance.
pub(crate) fn all_attributes(slots: &[Pattern]) -> Vec<Arc<str>> {
    let mut all: Vec<Arc<str>> = Vec::new();
    for name in slots.iter().flat_map(|pattern| pattern.attributes()) {
        if !all.contains(name) {
            all.push(name.clone());
        }
    }
    all
}

fn group_kinds(
    condition: &Compiled,
    slots: &[Pattern],
    own: usize,
    attributes: &[Arc<str>],
) -> (Vec<GroupKind>, Vec<Option<u8>>) {
    let mut kinds: Vec<GroupKind> = Vec::new();
    let mut roles = Vec::new();
    for (slot, pattern) in slots.iter().enumerate() {
        let bound: SmallVec<[u8; 4]> = (0..attributes.len())
            .filter(|&at| pattern.attributes().contains(&attributes[at]))
            .map(|at| at as u8)
            .collect();
        if bound.len() == attributes.len() && slot < own {
            roles.push(None);
            continue;
        }
        let at = kinds.iter().position(|kind| kind.attributes == bound).unwrap_or_else(|| {
            kinds.push(GroupKind {
                attributes: bound,
                slots: SmallVec::new(),
                leaves: Vec::new(),
                operands: Vec::new(),
            });
            kinds.len() - 1
        });
        kinds[at].slots.push(Slot::new(slot));
        roles.push(Some(at as u8));
    }
    for (number, leaf) in condition.leaves.iter().enumerate() {
        for kind in &mut kinds {
            let inside = leaf.slots.iter().filter(|slot| kind.slots.contains(slot)).count();
            if inside == leaf.slots.len() {
                kind.leaves.push(LeafNumber::new(number));
            } else if inside > 0 {
                let operands = leaf.slots.iter().filter(|slot| kind.slots.contains(slot));
                kind.operands.extend(operands.copied());
            }
        }
    }
    (kinds, roles)
}
