//! Finds the instance that attributes name, among the rules of an engine.

use crate::compiled::{Binding, CompiledRule, RuleIndex};
use crate::error::EngineError;
use crate::pattern::Attributes;

/// The instance that attributes name.
#[derive(Debug)]
pub(crate) enum NamedInstance {
    /// The number of the compiled rule, and the binding.
    Of(RuleIndex, Binding),
    /// Expansion or a constraint excludes it: why.
    Excluded(String),
}

/// Finds the instance of the rule with this id for these attributes. Attributes that the rule doesn't have
/// are ignored.
pub(crate) fn find(
    rules: &[CompiledRule],
    id: &str,
    attributes: &Attributes,
) -> Result<NamedInstance, EngineError> {
    let of_rule = || rules.iter().zip(RuleIndex::all(rules.len())).filter(|(rule, _)| **rule.id() == *id);
    let (any, _) = of_rule().next().ok_or_else(|| EngineError::UnknownRule(id.to_owned()))?;
    if let Some(name) = any.missing(attributes) {
        return Err(EngineError::UnknownAttribute(name.to_string()));
    }
    for (rule, number) in of_rule() {
        if let (true, Some(binding)) = (rule.is_fixed_to(attributes), rule.binding_of(attributes)) {
            return Ok(match rule.forbidden(attributes) {
                None => NamedInstance::Of(number, binding),
                Some((name, constraint)) => NamedInstance::Excluded(format!(
                    "the value of :{name} {constraint} (the engine constrains it)"
                )),
            });
        }
    }
    let unknown = any.fixed().filter(|(name, _)| {
        let known = |rule: &CompiledRule| {
            rule.fixed().any(|fixed| attributes.get(name) == Some(fixed.1) && fixed.0 == *name)
        };
        !of_rule().any(|(rule, _)| known(rule))
    });
    let names: Vec<String> = unknown.map(|(name, _)| format!(":{name}")).collect();
    let names = names.join(" and ");
    Ok(NamedInstance::Excluded(format!("the value of {names} is one that the engine expands it to")))
}
