//! Who is able to fire an instance, in order. Made anew whenever the members change, so that asking is quick.

use super::member::{Abilities, Fingerprint, MemberId, Unable};
use super::rendezvous::{LockKeyHash, score};
use super::view::FleetView;
use crate::compiled::domain::Constraint;
use crate::compiled::{Binding, CompiledRule, RuleIndex};
use std::sync::Arc;

/// The order among the members, as one of them sees it.
#[derive(Debug, Default)]
pub(crate) struct MemberOrder {
    /// Nobody but this engine is a member.
    alone: bool,
    /// By rule: who can fire it.
    rules: Vec<Vec<Candidate>>,
}

/// A member that can fire instances of a rule.
#[derive(Debug)]
struct Candidate {
    member: MemberId,
    /// It is asked only if nobody else can.
    last: bool,
    /// What the values of some attributes must be.
    checks: Vec<(usize, Check)>,
}

#[derive(Debug)]
enum Check {
    Begins(Arc<Constraint>),
    /// Sorted.
    OneOf(Vec<String>),
}

impl Check {
    fn admits(&self, value: &str) -> bool {
        match self {
            Self::Begins(constraint) => constraint.allows(value),
            Self::OneOf(values) => values.binary_search_by(|known| known.as_str().cmp(value)).is_ok(),
        }
    }
}

impl Candidate {
    /// `None`: it can't fire any instance of this rule.
    fn of(member: MemberId, abilities: &Abilities, rule: &CompiledRule) -> Option<Self> {
        let ability = abilities.rules.get(rule.id())?;
        let last = match ability.unable {
            None => abilities.lagging,
            Some(Unable::Throttled) => true,
            Some(Unable::Paused | Unable::DryRun | Unable::Refused) => return None,
        };
        if abilities.draining || ability.fingerprint != Fingerprint::of(rule) {
            return None;
        }
        // Values that are the same for all instances of the rule here.
        for (name, value) in rule.fixed() {
            let begins = abilities.constraints.get(name).is_none_or(|constraint| constraint.allows(value));
            let listed = |values: &Vec<String>| values.iter().any(|known| known == value);
            if !begins || !abilities.values.get(name).is_none_or(listed) {
                return None;
            }
        }
        let mut checks = Vec::new();
        for (number, name) in rule.attributes().iter().enumerate() {
            let constraint = abilities.constraints.get(name);
            let ours = rule.constraints().find(|(constrained, _)| *constrained == name);
            // What this engine's own constraint admits needs no look.
            if let Some(constraint) = constraint.filter(|theirs| ours.is_none_or(|(_, ours)| ours != *theirs))
            {
                checks.push((number, Check::Begins(constraint.clone())));
            }
            if let Some(values) = abilities.values.get(name) {
                checks.push((number, Check::OneOf(values.clone())));
            }
        }
        Some(Self { member, last, checks })
    }

    fn admits(&self, rule: &CompiledRule, binding: &Binding) -> bool {
        let count = rule.attributes().len();
        self.checks.iter().all(|(number, check)| check.admits(binding.get(*number, count)))
    }
}

impl MemberOrder {
    /// The order among these members for `me`, which has these rules.
    pub(crate) fn new(view: &FleetView, me: MemberId, rules: &[CompiledRule]) -> Self {
        let alone = view.members().all(|(member, _)| member == me);
        let able = |rule: &CompiledRule| {
            let candidate = |(id, member): (_, &super::view::Member)| {
                member.abilities.as_ref().and_then(|abilities| Candidate::of(id, abilities, rule))
            };
            view.members().filter_map(candidate).collect()
        };
        let rules = if alone { Vec::new() } else { rules.iter().map(able).collect() };
        Self { alone, rules }
    }

    /// Nobody but this engine is a member: everything is its own.
    pub(crate) fn is_alone(&self) -> bool {
        self.alone
    }

    fn able<'o>(
        &'o self,
        rule: RuleIndex,
        compiled: &'o CompiledRule,
        binding: &'o Binding,
    ) -> impl Iterator<Item = &'o Candidate> {
        let candidates = self.rules.get(rule.index()).into_iter().flatten();
        candidates.filter(move |candidate| candidate.admits(compiled, binding))
    }

    /// Who tries an instance first; `None`: nobody is able.
    pub(crate) fn owner(
        &self,
        rule: RuleIndex,
        compiled: &CompiledRule,
        binding: &Binding,
        key: LockKeyHash,
    ) -> Option<MemberId> {
        let able = self.able(rule, compiled, binding);
        able.max_by_key(|candidate| (!candidate.last, score(key, candidate.member))).map(|owner| owner.member)
    }

    /// Who helps the owner of an instance: the first of those that keep up and are not asked last.
    pub(crate) fn helper(
        &self,
        rule: RuleIndex,
        compiled: &CompiledRule,
        binding: &Binding,
        key: LockKeyHash,
        keeps_up: impl Fn(MemberId) -> bool,
    ) -> Option<MemberId> {
        let able = self.able(rule, compiled, binding);
        let free = able.filter(|candidate| !candidate.last && keeps_up(candidate.member));
        free.map(|candidate| score(key, candidate.member)).max().map(|(_, member)| member)
    }

    /// All who are able, in order.
    pub(crate) fn ranked(
        &self,
        rule: RuleIndex,
        compiled: &CompiledRule,
        binding: &Binding,
        key: LockKeyHash,
    ) -> Vec<MemberId> {
        let mut able: Vec<&Candidate> = self.able(rule, compiled, binding).collect();
        able.sort_by_key(|candidate| std::cmp::Reverse((!candidate.last, score(key, candidate.member))));
        able.into_iter().map(|candidate| candidate.member).collect()
    }

    /// Whether a member is able to fire an instance, and is not asked last.
    pub(crate) fn is_able(
        &self,
        member: MemberId,
        rule: RuleIndex,
        compiled: &CompiledRule,
        binding: &Binding,
    ) -> bool {
        self.able(rule, compiled, binding).any(|candidate| candidate.member == member && !candidate.last)
    }
}
