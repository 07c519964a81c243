//! A rule as the engine uses it: slots, attributes, groups, lock names; and the mistakes found on
//! the way there.

use super::{Callback, Options, Rule};
use crate::condition::{Compiled, ConditionError, Slot};
use crate::engine::config::LONGEST;
use crate::index::Binding;
use crate::index::patterns::Use;
use crate::pattern::{Attributes, Pattern, PatternError, Segment};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use smallvec::SmallVec;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

/// A mistake in a rule, told by [`EngineBuilder::build`](crate::EngineBuilder::build).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RuleError {
    /// The id is empty.
    #[error("the id is empty: give every rule a name that stays the same across versions")]
    EmptyId,
    /// The id has more bytes (this many) than a label of a metric or a lock key should have.
    #[error("the id has {0} bytes: at most 200 are allowed")]
    LongId(usize),
    /// No condition was given.
    #[error("there is no condition: call `when` on the rule")]
    NoCondition,
    /// No callback was given.
    #[error("there is no callback: call `run` on the rule")]
    NoCallback,
    /// A pattern or comparison of the condition is malformed.
    #[error("{0}")]
    Condition(#[from] ConditionError),
    /// The lock pattern is malformed.
    #[error("lock pattern: {0}")]
    Lock(#[from] PatternError),
    /// The lock pattern uses an attribute that the condition does not have.
    #[error(
        "lock pattern `{pattern}` uses `:{attribute}`, which the condition does not bind; it binds {bound}"
    )]
    LockAttribute {
        /// The lock pattern.
        pattern: String,
        /// The attribute nothing binds.
        attribute: String,
        /// The attributes that are bound.
        bound: String,
    },
    /// No key of the rule binds all of its attributes, so that no key can imply an instance.
    #[error(
        "it can never fire: no pattern binds all of its attributes ({attributes}); the closest is `{closest}`, without {missing}: add a key that has all of them"
    )]
    NoBinder {
        /// All attributes of the rule.
        attributes: String,
        /// The pattern that binds most of them.
        closest: String,
        /// What that pattern lacks.
        missing: String,
    },
    /// The pattern is below a namespace of engines, whose keys match no pattern.
    #[error(
        "it can never fire: the keys of `{pattern}` are below `{namespace}`, where engines keep their own"
    )]
    ReservedPattern {
        /// The pattern.
        pattern: String,
        /// The namespace.
        namespace: String,
    },
    /// A rule without a lock has a lock pattern.
    #[error("it is optimistic, which is without a lock, and has a lock pattern: leave one of them out")]
    OptimisticLock,
    /// An attribute is one segment in one pattern and the rest of a key in another.
    #[error(
        "`{segment}` and `{rest}` use `{attribute}` as one segment and as the rest of a key: give them different names"
    )]
    MixedAttribute {
        /// The attribute.
        attribute: String,
        /// A pattern where it is one segment.
        segment: String,
        /// A pattern where it is the rest.
        rest: String,
    },
    /// The condition is false whatever the keys hold.
    #[error("it can never fire: its condition reads no key and is always false, like `any` of nothing")]
    NeverTrue,
    /// The transaction that takes the lock would have more operations than etcd allows.
    #[error(
        "it reads {keys} keys; the transaction that takes its lock allows {allowed} (etcd's --max-txn-ops of {max_txn_ops}, less 2); divide it among several rules"
    )]
    TooManyKeys {
        /// Distinct keys of the rule.
        keys: usize,
        /// What fits.
        allowed: usize,
        /// The limit of the server, as configured.
        max_txn_ops: usize,
    },
    /// A duration or number that makes no sense.
    #[error("{option} is {value}: {reason}")]
    Option {
        /// The option.
        option: &'static str,
        /// Its value.
        value: String,
        /// Why that can't be.
        reason: &'static str,
    },
}

/// Bounds a rule is checked against.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) max_txn_ops: usize,
    pub(crate) lock_ttl: Duration,
    pub(crate) concurrency: usize,
}

/// Slots that bind the same attributes, fewer than the rule has.
#[derive(Debug)]
pub(crate) struct Kind {
    /// Numbers of the bound attributes, in the rule's order.
    pub(crate) attributes: SmallVec<[u8; 4]>,
    pub(crate) slots: SmallVec<[Slot; 4]>,
    /// Leaves that read nothing but these slots: their truth is cached.
    pub(crate) leaves: Vec<usize>,
    /// Slots that are compared with slots outside: every change of their value counts.
    pub(crate) operands: Vec<Slot>,
}

pub(crate) struct CompiledRule {
    id: Arc<str>,
    condition: Compiled,
    attributes: Vec<Arc<str>>,
    kinds: Vec<Kind>,
    /// By slot: the group kind, `None` for binders.
    roles: Vec<Option<u8>>,
    lock: Option<Pattern>,
    callback: Callback,
    options: Options,
    limits: Limits,
}

/// What may stand unescaped in a part of a lock key: anything but what separates parts.
const PART: &AsciiSet = &CONTROLS.add(b'/').add(b'%');

impl CompiledRule {
    pub(crate) fn new(rule: Rule, limits: Limits) -> Result<Self, Vec<RuleError>> {
        let Rule { id, condition, lock, callback, mut options } = rule;
        // `Duration::MAX` is a way to say never; it can't be added to a clock.
        options.time_limit = options.time_limit.min(LONGEST);
        options.lock_ttl = options.lock_ttl.map(|ttl| ttl.min(LONGEST));
        let mut errors = check_options(&id, &options);
        if options.optimistic && lock.is_some() {
            errors.push(RuleError::OptimisticLock);
        }
        if callback.is_none() {
            errors.push(RuleError::NoCallback);
        }
        let compiled = match condition {
            None => {
                errors.push(RuleError::NoCondition);
                None
            }
            Some(condition) => match condition.compile() {
                Ok(compiled) => Some(compiled),
                Err(mistakes) => {
                    errors.extend(mistakes.into_iter().map(RuleError::Condition));
                    None
                }
            },
        };
        let lock = match lock.map(|text| Pattern::parse(&text)).transpose() {
            Ok(lock) => lock,
            Err(mistake) => {
                errors.push(RuleError::Lock(mistake));
                None
            }
        };
        let (Some(condition), Some(callback)) = (compiled, callback) else { return Err(errors) };
        let attributes = all_attributes(&condition.slots);
        errors.extend(check_shape(&condition, &attributes, lock.as_ref(), limits));
        if !errors.is_empty() {
            return Err(errors);
        }
        let (kinds, roles) = group_kinds(&condition, &attributes);
        let limits = Limits {
            lock_ttl: options.lock_ttl.unwrap_or(limits.lock_ttl),
            concurrency: options.concurrency.unwrap_or(limits.concurrency),
            ..limits
        };
        Ok(Self { id: id.into(), condition, attributes, kinds, roles, lock, callback, options, limits })
    }

    pub(crate) fn id(&self) -> &Arc<str> {
        &self.id
    }

    pub(crate) fn condition(&self) -> &Compiled {
        &self.condition
    }

    /// The distinct key patterns.
    pub(crate) fn slots(&self) -> &[Pattern] {
        &self.condition.slots
    }

    pub(crate) fn attributes(&self) -> &[Arc<str>] {
        &self.attributes
    }

    pub(crate) fn kinds(&self) -> &[Kind] {
        &self.kinds
    }

    pub(crate) fn callback(&self) -> &Callback {
        &self.callback
    }

    /// Other instances may have the same lock.
    pub(crate) fn has_lock_pattern(&self) -> bool {
        self.lock.is_some()
    }

    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    pub(crate) fn lock_ttl(&self) -> Duration {
        self.limits.lock_ttl
    }

    pub(crate) fn concurrency(&self) -> usize {
        self.limits.concurrency
    }

    /// The condition holds when no key exists at all, and there are attributes: an instance is
    /// known only from the deletion of a key.
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
    pub(crate) fn uses(&self, rule: u32) -> impl Iterator<Item = (&Pattern, Use)> {
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
            (pattern, Use { rule, slot: slot as Slot, group, order, equal })
        })
    }

    /// The concrete key of a slot.
    pub(crate) fn key(&self, slot: Slot, binding: &Binding) -> String {
        let pattern = &self.slots()[slot as usize];
        let mut key = String::new();
        pattern.write_key(|at| self.value(binding, &pattern.attributes()[at]), &mut key);
        key
    }

    fn value<'b>(&self, binding: &'b Binding, name: &str) -> &'b str {
        let number = self.attributes.iter().position(|other| **other == *name);
        binding.get(number.expect("checked when the rule was compiled"), self.attributes.len())
    }

    pub(crate) fn attributes_of(&self, binding: &Binding) -> Attributes {
        let count = self.attributes.len();
        self.attributes.iter().enumerate().map(|(at, name)| (name.clone(), binding.get(at, count))).collect()
    }

    /// The binding for given attributes; `None` if one is missing.
    pub(crate) fn binding_of(&self, attributes: &Attributes) -> Option<Binding> {
        let values: Vec<&str> =
            self.attributes.iter().map(|name| attributes.get(name)).collect::<Option<_>>()?;
        Some(Binding::new(values.into_iter()))
    }

    /// The key of an instance's lock. Values are percent-encoded, so that none can forge another's.
    pub(crate) fn lock_key(&self, namespace: &str, binding: &Binding) -> String {
        let mut key = format!("{namespace}lock/");
        match &self.lock {
            None => self.write_instance(binding, &mut key),
            Some(pattern) => {
                let values: Vec<String> = pattern
                    .attributes()
                    .iter()
                    .map(|name| utf8_percent_encode(self.value(binding, name), PART).to_string())
                    .collect();
                let mut text = String::new();
                pattern.write_key(|at| values[at].as_str(), &mut text);
                key.push_str(text.trim_start_matches('/'));
            }
        }
        key
    }

    /// The key that holds other engines back after a failure of the instance.
    pub(crate) fn backoff_key(&self, namespace: &str, binding: &Binding) -> String {
        let mut key = format!("{namespace}backoff/");
        self.write_instance(binding, &mut key);
        key
    }

    fn write_instance(&self, binding: &Binding, key: &mut String) {
        key.extend(utf8_percent_encode(&self.id, PART));
        for at in 0..self.attributes.len() {
            key.push('/');
            key.extend(utf8_percent_encode(binding.get(at, self.attributes.len()), PART));
        }
    }
}

fn check_options(id: &str, options: &Options) -> Vec<RuleError> {
    let mut errors = Vec::new();
    match id.len() {
        0 => errors.push(RuleError::EmptyId),
        1..=200 => {}
        length => errors.push(RuleError::LongId(length)),
    }
    let mut wrong = |option, value: String, reason| errors.push(RuleError::Option { option, value, reason });
    if options.time_limit.is_zero() {
        wrong("time_limit", "0s".into(), "a callback needs some time");
    }
    if options.concurrency == Some(0) {
        wrong("concurrency", "0".into(), "no callback could ever run");
    }
    if let Some(ttl) = options.lock_ttl
        && ttl < Duration::from_secs(1)
    {
        wrong("lock_ttl", format!("{ttl:?}"), "etcd grants leases of whole seconds, from 1");
    }
    errors
}

fn all_attributes(slots: &[Pattern]) -> Vec<Arc<str>> {
    let mut all: Vec<Arc<str>> = Vec::new();
    for name in slots.iter().flat_map(|pattern| pattern.attributes()) {
        if !all.contains(name) {
            all.push(name.clone());
        }
    }
    all
}

fn check_shape(
    condition: &Compiled,
    attributes: &[Arc<str>],
    lock: Option<&Pattern>,
    limits: Limits,
) -> Vec<RuleError> {
    let mut errors = Vec::new();
    let slots = &condition.slots;
    let names = |names: &mut dyn Iterator<Item = &Arc<str>>| {
        names.map(|name| format!(":{name}")).collect::<Vec<_>>().join(", ")
    };
    if let Some(closest) = slots.iter().max_by_key(|pattern| pattern.attributes().len())
        && closest.attributes().len() < attributes.len()
    {
        errors.push(RuleError::NoBinder {
            attributes: names(&mut attributes.iter()),
            closest: closest.to_string(),
            missing: names(&mut attributes.iter().filter(|name| !closest.attributes().contains(name))),
        });
    }
    errors.extend(mixed_attribute(slots));
    if slots.is_empty() && !condition.truth(&[]) {
        errors.push(RuleError::NeverTrue);
    }
    // Taking the lock compares, and on failure reads, every key, the lock and the backoff key.
    let allowed = limits.max_txn_ops.saturating_sub(2);
    if slots.len() > allowed {
        let max_txn_ops = limits.max_txn_ops;
        errors.push(RuleError::TooManyKeys { keys: slots.len(), allowed, max_txn_ops });
    }
    for name in lock.iter().flat_map(|pattern| pattern.attributes()) {
        if !attributes.contains(name) {
            errors.push(RuleError::LockAttribute {
                pattern: lock.map(ToString::to_string).unwrap_or_default(),
                attribute: name.to_string(),
                bound: if attributes.is_empty() { "none".into() } else { names(&mut attributes.iter()) },
            });
        }
    }
    errors
}

/// A value with a `/` can't be one segment: such an instance could never be read whole.
fn mixed_attribute(slots: &[Pattern]) -> Option<RuleError> {
    let names = |rest: bool| {
        slots.iter().flat_map(move |pattern| {
            pattern.segments().iter().filter_map(move |segment| match segment {
                Segment::Rest(at) if rest => Some((&pattern.attributes()[*at], pattern)),
                Segment::Attribute(at) if !rest => Some((&pattern.attributes()[*at], pattern)),
                _ => None,
            })
        })
    };
    let (attribute, rest) = names(true).find(|(name, _)| names(false).any(|(other, _)| other == *name))?;
    let (_, segment) = names(false).find(|(name, _)| *name == attribute)?;
    Some(RuleError::MixedAttribute {
        attribute: attribute.to_string(),
        segment: segment.to_string(),
        rest: rest.to_string(),
    })
}

fn group_kinds(condition: &Compiled, attributes: &[Arc<str>]) -> (Vec<Kind>, Vec<Option<u8>>) {
    let mut kinds: Vec<Kind> = Vec::new();
    let mut roles = Vec::new();
    for (slot, pattern) in condition.slots.iter().enumerate() {
        let bound: SmallVec<[u8; 4]> = (0..attributes.len())
            .filter(|&at| pattern.attributes().contains(&attributes[at]))
            .map(|at| at as u8)
            .collect();
        if bound.len() == attributes.len() {
            roles.push(None);
            continue;
        }
        let at = kinds.iter().position(|kind| kind.attributes == bound).unwrap_or_else(|| {
            kinds.push(Kind {
                attributes: bound,
                slots: SmallVec::new(),
                leaves: Vec::new(),
                operands: Vec::new(),
            });
            kinds.len() - 1
        });
        kinds[at].slots.push(slot as Slot);
        roles.push(Some(at as u8));
    }
    for (number, leaf) in condition.leaves.iter().enumerate() {
        for kind in &mut kinds {
            let inside = leaf.slots.iter().filter(|slot| kind.slots.contains(slot)).count();
            if inside == leaf.slots.len() {
                kind.leaves.push(number);
            } else if inside > 0 {
                let operands = leaf.slots.iter().filter(|slot| kind.slots.contains(slot));
                kind.operands.extend(operands.copied());
            }
        }
    }
    (kinds, roles)
}
