//! Compiles a condition: parses and numbers its patterns, and collects all mistakes.

use super::evaluate::LeafNumber;
use super::expr::{Condition, Expr};
use super::leaf::{Leaf, Test};
use super::tree::{Node, Tree};
use crate::pattern::{Pattern, PatternError};
use crate::typed_index::typed_index;
use smallvec::SmallVec;
use std::collections::HashMap;
use std::sync::Arc;
use thiserror::Error;

/// The number of a distinct key pattern in a condition. Slots count from 0, in the order of first appearance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Slot(pub(crate) u8);
typed_index!(Slot(u8));

/// The most distinct patterns that a condition may have. It is etcd's default limit of operations in a
/// transaction, because one transaction checks them all.
pub(crate) const MAX_SLOTS: usize = 128;

/// A mistake in a condition. It is reported when the rule is built, or when the condition is [evaluated on
/// some keys](super::Condition::evaluate_on).
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConditionError {
    /// A key pattern is malformed.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// A regular expression, a JSON pointer or a bound is malformed.
    #[error("key {key:?}: {reason}")]
    Test {
        /// The pattern of the key that is tested.
        key: String,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// An equality of fewer than two different keys is always true.
    #[error(
        "`all_equal` or `same_as` of {patterns:?}: a key always equals itself; name two different keys at least"
    )]
    TooFewKeys {
        /// The patterns given.
        patterns: Vec<String>,
    },
    /// More keys than one transaction can check.
    #[error(
        "the condition has {count} different key patterns, but a transaction of etcd allows 128 operations by \
         default; divide it among several rules"
    )]
    TooManyKeys {
        /// The number of different patterns.
        count: usize,
    },
}

/// A condition ready for evaluation.
#[derive(Clone)]
pub(crate) struct Compiled {
    /// The distinct key patterns, indexed by slot.
    pub(crate) slots: Arc<[Pattern]>,
    /// The leaves, in the order of the text.
    pub(crate) leaves: SmallVec<[Leaf; 2]>,
    pub(super) tree: Tree,
}

impl Condition {
    /// Compiles the condition. On failure it returns every mistake, each once.
    pub(crate) fn compile(&self) -> Result<Compiled, Vec<ConditionError>> {
        let mut compiler = Compiler::default();
        compiler.add(self);
        let Compiler { slots, leaves, tree, mut errors, .. } = compiler;
        if slots.len() > MAX_SLOTS {
            errors.push(ConditionError::TooManyKeys { count: slots.len() });
        }
        if errors.is_empty() { Ok(Compiled { slots: slots.into(), leaves, tree }) } else { Err(errors) }
    }
}

#[derive(Default)]
struct Compiler {
    slots: Vec<Pattern>,
    slot_of: HashMap<Pattern, usize>,
    leaves: SmallVec<[Leaf; 2]>,
    tree: Tree,
    errors: Vec<ConditionError>,
}

impl Compiler {
    fn add(&mut self, condition: &Condition) {
        match &condition.0 {
            Expr::All(children) => self.add_above(Node::All, children),
            Expr::Any(children) => self.add_above(Node::Any, children),
            Expr::Not(child) => self.add_above(Node::Not, std::slice::from_ref(&**child)),
            Expr::Leaf { patterns, test } => {
                let mut slots = SmallVec::new();
                for pattern in patterns {
                    // A slot past the limit becomes an error at the end, so its number here does not matter.
                    let slot = self.slot(pattern).map(|slot| Slot(u8::try_from(slot).unwrap_or(u8::MAX)));
                    if let Some(slot) = slot.filter(|slot| !slots.contains(slot)) {
                        slots.push(slot);
                    }
                }
                match test {
                    Err(malformed) => {
                        let (key, reason) = (patterns.join(", "), malformed.reason.clone());
                        self.error(ConditionError::Test { key, reason });
                    }
                    Ok(test) => {
                        let distinct = patterns.iter().skip(1).any(|pattern| *pattern != patterns[0]);
                        if matches!(test, Test::AllEqual) && !distinct {
                            self.error(ConditionError::TooFewKeys { patterns: patterns.clone() });
                        }
                        self.leaves.push(Leaf { slots, test: test.clone() });
                    }
                }
                self.add_above(Node::Leaf(LeafNumber::new(self.leaves.len().saturating_sub(1))), &[]);
            }
        }
    }

    fn add_above(&mut self, node: Node, children: &[Condition]) {
        let at = self.tree.open(node);
        children.iter().for_each(|child| self.add(child));
        self.tree.close(at);
    }

    fn slot(&mut self, text: &str) -> Option<usize> {
        match Pattern::parse(text) {
            Ok(pattern) => Some(*self.slot_of.entry(pattern).or_insert_with_key(|pattern| {
                self.slots.push(pattern.clone());
                self.slots.len() - 1
            })),
            Err(error) => {
                self.error(error.into());
                None
            }
        }
    }

    fn error(&mut self, error: ConditionError) {
        if !self.errors.contains(&error) {
            self.errors.push(error);
        }
    }
}
