//! What the index should know, worked out from the patterns one by one. There is a small universe of keys
//! with their readers, and a store by revision.

use super::super::*;
use crate::change::{Seen, Snapshot};
use crate::condition::LeafNumber;
use crate::pattern::Pattern;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Every key there is. One is in the namespace of an engine.
pub(super) const KEYS: [&str; 21] = [
    "/config/enabled",
    "/config/mode",
    "/config/eu/limit",
    "/config/us/limit",
    "/s/1",
    "/s/1/state",
    "/s/1/owner",
    "/s/1/1",
    "/s/2/state",
    "/s/2/owner",
    "/s/2/1",
    "/s/etcd/state",
    "/s/none/at/all",
    "/g/eu/limit",
    "/g/eu/1/state",
    "/g/eu/2/state",
    "/g/us/1/state",
    "/g/1/eu",
    "/g/eu/us",
    "/g/eu/eu",
    "/unread",
];

pub(super) const NAMESPACE: &str = "/s/etcd/";

/// What a key holds at some revision: value and modification revision.
pub(super) type KeyContent = Option<(Value, Revision)>;

/// By number of the key.
pub(super) type State = Vec<KeyContent>;

/// All instances of a rule with the same values for a kind's attributes.
pub(super) type GroupName = (RuleIndex, u8, Binding);

pub(super) struct InstanceModel {
    pub(super) rule: RuleIndex,
    pub(super) binding: Binding,
    /// By slot: the key, if the universe has it.
    pub(super) keys: Vec<Option<usize>>,
    /// The keys that bind all attributes, with their slots.
    pub(super) binders: Vec<(usize, Slot)>,
    /// By kind.
    pub(super) groups: Vec<GroupName>,
    pub(super) always: bool,
}

impl InstanceModel {
    pub(super) fn implied(&self, state: &State) -> bool {
        self.always || self.binders.iter().any(|(key, _)| state[*key].is_some())
    }

    pub(super) fn snapshot(&self, state: &State) -> Snapshot {
        self.keys.iter().map(|key| key.and_then(|key| seen(&state[key]))).collect()
    }
}

fn seen(held: &KeyContent) -> Option<Seen> {
    held.as_ref().map(|(value, mod_revision)| Seen { value: value.clone(), mod_revision: *mod_revision })
}

#[derive(Default)]
pub(super) struct KeyReaders {
    /// Instances that have it as a binder, by number.
    pub(super) instances: Vec<(usize, Slot)>,
    pub(super) groups: Vec<(GroupName, Slot)>,
}

pub(super) struct Oracle {
    pub(super) rules: Arc<[CompiledRule]>,
    pub(super) instances: Vec<InstanceModel>,
    pub(super) numbers: HashMap<(RuleIndex, Binding), usize>,
    pub(super) readers: Vec<KeyReaders>,
    group_keys: HashMap<GroupName, Vec<(Slot, usize)>>,
}

impl Oracle {
    pub(super) fn new(rules: Arc<[CompiledRule]>) -> Self {
        let mut this = Self {
            instances: Vec::new(),
            numbers: HashMap::new(),
            readers: KEYS.iter().map(|_| KeyReaders::default()).collect(),
            group_keys: HashMap::new(),
            rules: rules.clone(),
        };
        for (number, rule) in rules.iter().enumerate() {
            let slots = rule.slots().iter().enumerate();
            let matches = slots.flat_map(|(slot, pattern)| {
                let bound = KEYS.iter().enumerate().filter(|(_, key)| !key.starts_with(NAMESPACE));
                bound.filter_map(move |(key, text)| Some((slot, key, bind(rule, pattern, text)?)))
            });
            this.add(RuleIndex::new(number), rule, &matches.collect::<Vec<_>>());
        }
        this
    }

    fn add(
        &mut self,
        rule: RuleIndex,
        compiled: &CompiledRule,
        matches: &[(usize, usize, Vec<Option<String>>)],
    ) {
        // What is only shown binds nothing, whatever attributes it has.
        let binds = |slot: usize, values: &[Option<String>]| {
            let read = compiled.condition().leaves.iter().any(|leaf| leaf.slots.contains(&Slot::new(slot)));
            values.iter().all(Option::is_some) && read
        };
        let mut bindings: BTreeSet<Vec<Option<String>>> =
            matches.iter().filter(|(slot, _, v)| binds(*slot, v)).map(|(_, _, v)| v.clone()).collect();
        let always = compiled.attributes().is_empty();
        if always {
            bindings.insert(Vec::new());
        }
        for (slot, key, values) in matches.iter().filter(|(slot, _, v)| !binds(*slot, v)) {
            let name = group(compiled, rule, values);
            self.readers[*key].groups.push((name.clone(), Slot::new(*slot)));
            self.group_keys.entry(name).or_default().push((Slot::new(*slot), *key));
        }
        for values in bindings {
            let number = self.instances.len();
            let mut model = InstanceModel {
                rule,
                binding: binding(&values),
                keys: vec![None; compiled.slots().len()],
                binders: Vec::new(),
                groups: Vec::new(),
                always,
            };
            for (slot, key, other) in matches {
                if other.iter().zip(&values).all(|(other, value)| other.is_none() || other == value) {
                    model.keys[*slot] = Some(*key);
                    if binds(*slot, other) {
                        model.binders.push((*key, Slot::new(*slot)));
                        self.readers[*key].instances.push((number, Slot::new(*slot)));
                    }
                }
            }
            for kind in compiled.kinds() {
                let bound = |(at, value): (usize, &Option<String>)| {
                    if kind.attributes.contains(&(at as u8)) { value.clone() } else { None }
                };
                let values: Vec<Option<String>> = values.iter().enumerate().map(bound).collect();
                model.groups.push(group(compiled, rule, &values));
            }
            self.numbers.insert((rule, model.binding.clone()), number);
            self.instances.push(model);
        }
    }

    /// Some rule reads the key.
    pub(super) fn wants(&self, key: usize) -> bool {
        !self.readers[key].instances.is_empty() || !self.readers[key].groups.is_empty()
    }

    pub(super) fn truth(&self, rule: RuleIndex, snapshot: &Snapshot) -> bool {
        self.rules[rule.index()].condition().truth(snapshot)
    }

    /// What the keys of a group contribute to its members: truths of leaves and values of operands.
    pub(super) fn contribution(&self, name: &GroupName, state: &State) -> (Vec<bool>, Vec<Option<Value>>) {
        let rule = &self.rules[name.0.index()];
        let mut snapshot: Snapshot = vec![None; rule.slots().len()].into();
        for (slot, key) in self.group_keys.get(name).into_iter().flatten() {
            snapshot[slot.index()] = seen(&state[*key]);
        }
        let own = &rule.kinds()[name.1 as usize].slots;
        let mut truths = Vec::new();
        let mut operands = Vec::new();
        for (number, leaf) in rule.condition().leaves.iter().enumerate() {
            if leaf.slots.iter().all(|slot| own.contains(slot)) {
                truths.push(rule.condition().leaf_truth(LeafNumber::new(number), &snapshot));
            } else {
                let inside = leaf.slots.iter().filter(|slot| own.contains(slot));
                operands.extend(inside.map(|slot| snapshot[slot.index()].as_ref().map(|s| s.value.clone())));
            }
        }
        (truths, operands)
    }
}

/// The values of the rule's attributes that make the pattern this key.
fn bind(rule: &CompiledRule, pattern: &Pattern, key: &str) -> Option<Vec<Option<String>>> {
    let found = pattern.matches(key)?;
    Some(rule.attributes().iter().map(|name| found.get(name).map(str::to_owned)).collect())
}

fn group(compiled: &CompiledRule, rule: RuleIndex, values: &[Option<String>]) -> GroupName {
    let mut kinds = compiled.kinds().iter();
    let kind = kinds.position(|kind| {
        values.iter().enumerate().all(|(at, value)| value.is_some() == kind.attributes.contains(&(at as u8)))
    });
    (rule, kind.expect("every slot has a kind") as u8, binding(values))
}

fn binding(values: &[Option<String>]) -> Binding {
    Binding::new(values.iter().flatten().map(String::as_str).collect::<Vec<_>>().into_iter())
}

/// The store, by revision.
#[derive(Default)]
pub(super) struct Store {
    pub(super) revision: Revision,
    /// By key: modification revision, and the value or its deletion.
    history: Vec<BTreeMap<Revision, Option<Value>>>,
}

impl Store {
    pub(super) fn new() -> Self {
        Self { revision: Revision::new(1), history: vec![BTreeMap::new(); KEYS.len()] }
    }

    /// One transaction. Deletions of what does not exist leave no event.
    pub(super) fn write(&mut self, writes: &BTreeMap<usize, Option<&str>>) {
        self.revision = self.revision.next();
        for (key, value) in writes {
            if value.is_some() || self.at(*key, self.revision).is_some() {
                self.history[*key].insert(self.revision, value.map(Value::from));
            }
        }
    }

    /// So many revisions ago.
    pub(super) fn back(&self, revisions: i64) -> Revision {
        Revision::new(self.revision.get() - revisions)
    }

    pub(super) fn at(&self, key: usize, revision: Revision) -> KeyContent {
        let (at, value) = self.history[key].range(..=revision).next_back()?;
        Some((value.clone()?, *at))
    }

    pub(super) fn state(&self) -> State {
        (0..KEYS.len()).map(|key| self.at(key, self.revision)).collect()
    }

    /// The first revision after this one with an event under a prefix, and the events.
    pub(super) fn next(&self, prefix: &str, after: Revision) -> Option<(Revision, Vec<Change>)> {
        let keys = || (0..KEYS.len()).filter(|key| KEYS[*key].starts_with(prefix));
        let first = |key: usize| self.history[key].range(after.next()..).next().map(|(at, _)| *at);
        let revision = keys().filter_map(first).min()?;
        let event = |key: usize| {
            let value = self.history[key].get(&revision)?;
            Some(change(key, value.clone(), revision, Deletion::Delivered))
        };
        Some((revision, keys().filter_map(event).collect()))
    }
}

pub(super) fn change(key: usize, value: Option<Value>, revision: Revision, how: Deletion) -> Change {
    let key = KEYS[key].as_bytes().to_vec();
    match value {
        Some(value) => Change::Put { key, value, revision },
        None => Change::Delete { key, revision, how },
    }
}
