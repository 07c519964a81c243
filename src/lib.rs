//! A rules engine for etcd.

mod pattern;
#[cfg(test)]
mod properties;
mod value;

pub use pattern::{Attributes, FormatError, Pattern, PatternError, PatternErrorKind};
pub use value::Value;
