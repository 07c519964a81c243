//! A rules engine for etcd.

mod condition;
mod pattern;
#[cfg(test)]
mod properties;
mod crawl;
mod lock;
mod value;

pub use condition::{
    Condition, ConditionError, EvaluateError, Explanation, Key, Number, SeenKey, all_equal, key,
};
pub use pattern::{Attributes, FormatError, Pattern, PatternError, PatternErrorKind};
pub use value::Value;
