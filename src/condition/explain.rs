//! Explains why a condition is true or false, by the truth of each part and what was seen.

use super::compile::{Compiled, ConditionError, Slot};
use super::evaluate::{LeafNumber, seen_at};
use super::expr::Condition;
use super::tree::{Node, Tree};
use crate::change::{Revision, Seen};
use crate::pattern::{Attributes, FormatError};
use crate::value::Value;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fmt;
use thiserror::Error;

/// A condition, or a part of one, with its truth and what was seen. Its text shows the whole tree, a line for
/// each part:
///
/// ```
/// use etcd_rules::{Attributes, key};
/// let condition = key("/servers/:id/state").equals("active") & key("/servers/:id/ip").exists();
/// let explanation = condition
///     .evaluate_on(&Attributes::from([("id", "7")]), [("/servers/7/state", "active")])
///     .unwrap();
/// assert_eq!(explanation.to_string(), "\
/// ✗ and
///   ✓ /servers/7/state = \"active\"  (it is \"active\")
///   ✗ /servers/7/ip exists  (it is absent)
/// ");
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Explanation {
    /// The truth of this part.
    pub truth: bool,
    /// What this part is: `and`, `or`, `not`, a leaf, or the negation of a leaf. A leaf is shown with the
    /// keys it reads.
    pub text: String,
    /// What a leaf saw. Empty for `and`, `or` and `not`.
    pub seen: Vec<SeenKey>,
    /// The parts of `and`, `or` and `not`.
    pub children: Vec<Explanation>,
}

/// What was seen of a key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SeenKey {
    /// The key.
    pub key: String,
    /// Its value; `None` if the key is absent.
    pub value: Option<Value>,
    /// The revision of its last modification, if known.
    pub mod_revision: Option<i64>,
    /// Why the leaf could not compare the value, so that it is false: the value is no number, or no JSON, or has
    /// no such field.
    pub obstacle: Option<String>,
}

/// A condition could not be evaluated.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EvaluateError {
    /// The condition has mistakes. All of them are listed.
    #[error("the condition has mistakes: {}", list(.0))]
    Condition(Vec<ConditionError>),
    /// A key could not be formatted, because an attribute is missing or its value doesn't fit.
    #[error(transparent)]
    Key(#[from] FormatError),
}

fn list(errors: &[ConditionError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl Condition {
    /// Evaluates the condition on the given keys and values, for tests. All other keys are absent. The
    /// patterns become keys by the given attributes.
    ///
    /// ```
    /// use etcd_rules::{Attributes, key};
    /// use std::collections::HashMap;
    ///
    /// let idle = key("/servers/:id/state").not_equals("busy");
    /// let seven = Attributes::from([("id", "7")]);
    /// assert!(!idle.evaluate_on(&seven, [("/servers/7/state", "busy")])?.truth);
    /// assert!(idle.evaluate_on(&seven, &HashMap::from([("/servers/8/state", "busy")]))?.truth);
    /// # Ok::<(), etcd_rules::condition::EvaluateError>(())
    /// ```
    pub fn evaluate_on<K: AsRef<str>, V: AsRef<[u8]>>(
        &self,
        attributes: &Attributes,
        keys: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Explanation, EvaluateError> {
        let compiled = self.compile().map_err(EvaluateError::Condition)?;
        let names: Vec<String> =
            compiled.slots.iter().map(|pattern| pattern.format(attributes)).collect::<Result<_, _>>()?;
        let mut values = HashMap::new();
        for (key, value) in keys {
            values.insert(key.as_ref().to_owned(), Value::from(value.as_ref()));
        }
        let seen = |name: &String| {
            values.get(name).map(|value| Seen { value: value.clone(), mod_revision: Revision::NONE })
        };
        let seen: Vec<Option<Seen>> = names.iter().map(seen).collect();
        Ok(compiled.explain(&seen, |slot| names[slot.index()].clone()))
    }
}

impl Compiled {
    /// The truth of every part. `key_of` names the key of a slot, and a revision of 0 means that it is not
    /// known. Every leaf runs, and a panic of a closure is not caught.
    pub(crate) fn explain(&self, seen: &[Option<Seen>], key_of: impl Fn(Slot) -> String) -> Explanation {
        self.explain_node(Tree::ROOT, seen, &key_of)
    }

    fn explain_node(
        &self,
        at: usize,
        seen: &[Option<Seen>],
        key_of: &impl Fn(Slot) -> String,
    ) -> Explanation {
        let children = || -> Vec<Explanation> {
            self.tree.children(at).map(|child| self.explain_node(child, seen, key_of)).collect()
        };
        let inner = |truth, text: &str, children| Explanation {
            truth,
            text: text.to_owned(),
            seen: Vec::new(),
            children,
        };
        match self.tree.node(at) {
            Node::Leaf(leaf) => self.explain_leaf(leaf, false, seen, key_of),
            Node::All => {
                let children = children();
                let text = if children.is_empty() { "true" } else { "and" };
                inner(children.iter().all(|child| child.truth), text, children)
            }
            Node::Any => {
                let children = children();
                let text = if children.is_empty() { "false" } else { "or" };
                inner(children.iter().any(|child| child.truth), text, children)
            }
            Node::Not => match self.tree.children(at).next().map(|child| self.tree.node(child)) {
                Some(Node::Leaf(leaf)) => self.explain_leaf(leaf, true, seen, key_of),
                _ => {
                    let children = children();
                    inner(!children.iter().any(|child| child.truth), "not", children)
                }
            },
        }
    }

    fn explain_leaf(
        &self,
        leaf: LeafNumber,
        negated: bool,
        seen: &[Option<Seen>],
        key_of: &impl Fn(Slot) -> String,
    ) -> Explanation {
        let truth = self.leaf_truth(leaf, seen) != negated;
        let leaf = &self.leaves[leaf.index()];
        let names: Vec<String> = leaf.slots.iter().map(|slot| key_of(*slot)).collect();
        let text = leaf.test.render(&names, negated);
        let seen = leaf.slots.iter().zip(names).map(|(slot, key)| {
            let seen = seen_at(seen, *slot);
            let mod_revision =
                seen.map(|seen| seen.mod_revision).filter(|revision| *revision > Revision::NONE);
            let obstacle = seen.and_then(|seen| leaf.test.obstacle(seen.value.as_bytes()));
            SeenKey {
                key,
                value: seen.map(|seen| seen.value.clone()),
                mod_revision: mod_revision.map(Revision::get),
                obstacle,
            }
        });
        Explanation { truth, text, seen: seen.collect(), children: Vec::new() }
    }
}

impl Explanation {
    /// The explanation of an instance that the engine excludes by its configuration.
    pub(crate) fn excluded(reason: String) -> Self {
        Self { truth: false, text: reason, seen: Vec::new(), children: Vec::new() }
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, depth: usize) -> fmt::Result {
        let mark = if self.truth { '✓' } else { '✗' };
        write!(f, "{:1$}{mark} {2}", "", depth * 2, self.text)?;
        for (at, seen) in self.seen.iter().enumerate() {
            f.write_str(if at == 0 { "  (" } else { ", " })?;
            f.write_str(if self.seen.len() == 1 { "it" } else { &seen.key })?;
            match &seen.value {
                Some(value) => write!(f, " is {value:?}")?,
                None => f.write_str(" is absent")?,
            }
            if let Some(revision) = seen.mod_revision {
                write!(f, " since revision {revision}")?;
            }
            if let Some(obstacle) = &seen.obstacle {
                write!(f, ", {obstacle}")?;
            }
        }
        f.write_str(if self.seen.is_empty() { "\n" } else { ")\n" })?;
        self.children.iter().try_for_each(|child| child.write(f, depth + 1))
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, 0)
    }
}
