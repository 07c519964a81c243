//! Conditions: boolean expressions whose leaves test the values of keys.
//!
//! [`key`] and [`all_equal`] make leaves, and `&`, `|` and `!` combine them. A condition is only a
//! description: it accepts any text as a pattern. Compiling it reports all mistakes together, and returns the
//! form that is evaluated. In that form the distinct patterns are numbered. The numbers are called *slots*,
//! and the values are read from a slice indexed by slot.
//!
//! Besides the truth, an evaluation returns a *witness*: a few checks that prove the truth. An etcd
//! transaction can make these checks.
//!
//! | file | subject |
//! |---|---|
//! | `expr` | conditions as users build them, and their text |
//! | `leaf` | the tests on values, and their text |
//! | `json` | whether a field of a JSON value equals a value |
//! | `number` | comparison of numbers, exact across integers and floats |
//! | `tree` | the expression over the leaves, in one piece of memory |
//! | `compile` | slots, leaves, mistakes |
//! | `evaluate` | truth and witness |
//! | `explain` | the truth of each part, with what was seen |
//!
//! Nothing here does I/O, and revisions are only copied, never interpreted.

mod compile;
mod evaluate;
mod explain;
mod expr;
mod json;
mod leaf;
mod number;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
mod tree;

pub use compile::ConditionError;
pub(crate) use compile::{Compiled, Slot};
pub(crate) use evaluate::{Check, Evaluation, LeafNumber, Witness};
pub use explain::{EvaluateError, Explanation, SeenKey};
pub use expr::{Condition, Key, all_equal, key};
pub use number::Number;
#[cfg(test)]
pub(crate) use properties::attack;
#[cfg(test)]
use {
    compile::MAX_SLOTS,
    evaluate::MAX_VALUE_IN_CHECK,
    leaf::{Leaf, Test},
};
