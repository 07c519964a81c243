//! Compiles a rule as it was written to rules as the engine uses them.

use super::Rule;
use super::mistakes::{check_options, check_polling, check_shape};
use super::shown::add_shown;
use crate::compiled::domain::{Domains, MAX_EXPANSIONS};
use crate::compiled::{CompiledRule, Defaults, Limits, RuleError, RuleShared, all_attributes};
use crate::condition::Slot;
use crate::firing::{Callback, layered};
use crate::pattern::Pattern;
use crate::time::LONGEST;

/// Compiles a rule to one rule for each combination of expanded values, and returns its callback beside them.
pub(crate) fn compile(
    rule: Rule,
    domains: &Domains,
    limits: Limits,
) -> Result<(Vec<CompiledRule>, Callback), Vec<RuleError>> {
    let mut errors = Vec::new();
    let condition = rule.full_condition();
    let Rule { id, condition: given, lock, callback, layers, polling, shown, mut options } = rule;
    // `Duration::MAX` is a common way to say "never", but it can't be added to a clock.
    options.time_limit = options.time_limit.map(|limit| limit.min(LONGEST));
    options.lock_ttl = options.lock_ttl.map(|ttl| ttl.min(LONGEST));
    errors.extend(check_options(&id, &options, polling.as_ref()));
    if options.optimistic && lock.is_some() {
        errors.push(RuleError::OptimisticLock);
    }
    if callback.is_none() {
        errors.push(RuleError::NoCallback);
    }
    let text = condition.as_ref().map(ToString::to_string).unwrap_or_default();
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
    let (Some(mut condition), Some(callback)) = (compiled, callback) else { return Err(errors) };
    if let (Some(polling), Some(given)) = (&polling, given) {
        errors.extend(check_polling(polling, &given));
    }
    let all = all_attributes(&condition.slots);
    let own = condition.slots.len();
    let unchecked = add_shown(&mut condition, shown, &all, &mut errors);
    let combinations = domains.combinations(&all).unwrap_or_else(|combinations| {
        errors.push(RuleError::TooManyExpansions { combinations, allowed: MAX_EXPANSIONS });
        Vec::new()
    });
    if let Some((pattern, attribute, value)) = domains.misfit(&condition.slots) {
        let (pattern, attribute, value) = (pattern.to_string(), attribute.into(), value.into());
        errors.push(RuleError::ExpandedSlash { pattern, attribute, value });
    }
    // All combinations have the same shape, so checking one of them is enough.
    if let Some(fixed) = combinations.first() {
        errors.extend(check_shape(&condition, own, &all, fixed, lock.as_ref(), limits));
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let delay = polling.and_then(|polling| {
        let written = polling.key();
        let slot = condition.slots.iter().position(|slot| *slot.as_str() == written)?;
        Some((Slot::new(slot), polling.interval))
    });
    let Defaults { time_limit, backoff, rate_limit, min_interval } = limits.defaults;
    options.controls.rate_limit = options.controls.rate_limit.or(rate_limit);
    options.controls.min_interval = options.controls.min_interval.or(min_interval);
    let defaults = Defaults {
        time_limit: options.time_limit.unwrap_or(time_limit),
        backoff: options.backoff.unwrap_or(backoff),
        ..limits.defaults
    };
    let limits = Limits {
        defaults,
        lock_ttl: options.lock_ttl.unwrap_or(limits.lock_ttl),
        concurrency: options.concurrency.unwrap_or(limits.concurrency),
        settle: options.settle.unwrap_or(limits.settle),
        instance_rate: options.instance_rate.unwrap_or(limits.instance_rate),
        ..limits
    };
    let (id, text) = (id.into(), text.into());
    let shared = RuleShared { id, condition, own, unchecked, text, lock, delay, all, options, limits };
    Ok((
        combinations.iter().map(|fixed| CompiledRule::new(&shared, domains, fixed)).collect(),
        layered(callback, &layers),
    ))
}

#[cfg(test)]
impl CompiledRule {
    /// A rule in an engine without expansions and constraints.
    pub(crate) fn alone(rule: Rule, limits: Limits) -> Result<Self, Vec<RuleError>> {
        let (mut compiled, _) = compile(rule, &Domains::default(), limits)?;
        compiled.pop().ok_or_else(Vec::new)
    }
}
