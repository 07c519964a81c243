//! Checks a rule for mistakes that its patterns and its condition don't show by themselves.

use super::Polling;
use crate::compiled::{Limits, RuleError, RuleOptions, all_attributes};
use crate::condition::{Compiled, Condition};
use crate::limits::{self, Amount};
use crate::pattern::{Attributes, Pattern, Segment};
use std::sync::Arc;

/// Checks the id and the options.
pub(super) fn check_options(id: &str, options: &RuleOptions, polling: Option<&Polling>) -> Vec<RuleError> {
    let mut errors = Vec::new();
    match id.len() {
        0 => errors.push(RuleError::EmptyId),
        length if limits::mistake(limits::RULE, "id", Amount::Bytes(length as u64)).is_some() => {
            errors.push(RuleError::LongId(length));
        }
        _ if id.chars().any(char::is_control) => errors.push(RuleError::ControlCharacter),
        _ => {}
    }
    let mut check = |option: &'static str, value: Amount, text: String| {
        if let Some(reason) = limits::mistake(limits::RULE, option, value) {
            errors.push(RuleError::Option { option, value: text, reason });
        }
    };
    let RuleOptions {
        time_limit,
        lock_ttl,
        concurrency,
        backoff,
        optimistic: _,
        settle,
        instance_rate,
        controls,
    } = options;
    for (option, time) in [
        ("poll", polling.map(|polling| polling.interval)),
        ("time_limit", *time_limit),
        ("lock_ttl", *lock_ttl),
        ("settle", settle.map(|settle| settle.delay())),
        ("the time of instance_rate", instance_rate.map(|rate| rate.per())),
        ("the base of backoff", backoff.map(|backoff| backoff.base())),
    ] {
        if let Some(time) = time {
            check(option, Amount::Time(time), format!("{time:?}"));
        }
    }
    for (option, count) in [
        ("concurrency", *concurrency),
        ("the count of instance_rate", instance_rate.map(|rate| rate.count() as usize)),
    ] {
        if let Some(count) = count {
            check(option, Amount::Count(count as u64), count.to_string());
        }
    }
    for (option, jitter) in [
        ("the jitter of backoff", backoff.map(|b| b.part())),
        ("the jitter of settle", settle.map(|s| s.part())),
    ] {
        if let Some(jitter) = jitter {
            check(option, Amount::Ratio(jitter.part()), jitter.part().to_string());
        }
    }
    errors.extend(controls.mistakes());
    errors
}

/// The namespace must have exactly the attributes of the condition, so that every instance has a delay of its
/// own.
pub(super) fn check_polling(polling: &Polling, given: &Condition) -> Option<RuleError> {
    // If the namespace is not a pattern, the condition has already reported that.
    let delay = Pattern::parse(&polling.key()).ok()?;
    let attributes = all_attributes(&given.compile().ok()?.slots);
    let has = |names: &[Arc<str>], of: &[Arc<str>]| names.iter().all(|name| of.contains(name));
    if has(&attributes, delay.attributes()) && has(delay.attributes(), &attributes) {
        return None;
    }
    Some(RuleError::PollAttributes {
        namespace: polling.namespace.clone(),
        namespace_attributes: list(delay.attributes()),
        attributes: list(&attributes),
    })
}

pub(super) fn list<'a>(names: impl IntoIterator<Item = &'a Arc<str>>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| format!(":{name}")).collect();
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

/// Attributes, and keys with those that are shown, are numbered in bytes.
const MOST_ATTRIBUTES: usize = u8::MAX as usize;
const MOST_KEYS: usize = u8::MAX as usize;

/// Checks that the patterns fit each other and the lock pattern. `fixed` holds the expanded attributes; their
/// values don't matter here.
pub(super) fn check_shape(
    condition: &Compiled,
    own: usize,
    all: &[Arc<str>],
    fixed: &Attributes,
    lock: Option<&Pattern>,
    limits: Limits,
) -> Vec<RuleError> {
    let mut errors = Vec::new();
    // What is shown stands behind the condition's own keys, and binds nothing.
    let slots = &condition.slots;
    let own = &slots[..own];
    let free = |name: &&Arc<str>| fixed.get(name).is_none();
    let bound = |pattern: &Pattern| pattern.attributes().iter().filter(free).count();
    let count = all.iter().filter(free).count();
    if let Some(closest) = own.iter().max_by_key(|pattern| bound(pattern))
        && bound(closest) < count
    {
        let missing = |name: &&Arc<str>| !closest.attributes().contains(name);
        errors.push(RuleError::NoBinder {
            attributes: list(all.iter().filter(free)),
            closest: closest.to_string(),
            missing: list(all.iter().filter(free).filter(missing)),
        });
    }
    errors.extend(mixed_attribute(slots));
    if own.is_empty() && !condition.truth(&[]) {
        errors.push(RuleError::NeverTrue);
    }
    // The transaction that takes the lock compares every key, the lock, the backoff key and the identity of the store.
    // If it fails, it reads them.
    let allowed = limits.max_txn_ops.saturating_sub(3).min(MOST_KEYS);
    if all.len() > MOST_ATTRIBUTES {
        errors.push(RuleError::TooManyAttributes(all.len()));
    }
    if slots.len() > allowed {
        let max_txn_ops = limits.max_txn_ops;
        errors.push(RuleError::TooManyKeys { keys: slots.len(), allowed, max_txn_ops });
    }
    for name in lock.iter().flat_map(|pattern| pattern.attributes()) {
        if !all.contains(name) {
            errors.push(RuleError::LockAttribute {
                pattern: lock.map(ToString::to_string).unwrap_or_default(),
                attribute: name.to_string(),
                bound: list(all),
            });
        }
    }
    errors
}

/// A value with a `/` can't be one segment, so such an instance could never have all of its keys.
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
