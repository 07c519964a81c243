//! A rules engine for etcd.

#[cfg(feature = "embedded")]
pub mod embedded;
pub mod metrics;

mod condition;
mod crawl;
mod dispatch;
mod engine;
mod error;
mod etcd;
mod evaluate;
mod firing;
mod index;
mod lock;
mod pattern;
#[cfg(test)]
mod properties;
mod rule;
mod value;
mod watch;

pub use condition::{
    Condition, ConditionError, EvaluateError, Explanation, Key, Number, SeenKey, all_equal, key,
};
pub use engine::{Engine, EngineBuilder, EngineHandle, Health, Stats};
pub use error::{BuildError, Error, Mistake};
pub use etcd_client::{self, Channel, ConnectOptions};
pub use firing::{Commit, Firing, Outcome};
pub use pattern::{Attributes, FormatError, Pattern, PatternError, PatternErrorKind};
pub use rule::{Backoff, BoxError, Rule, RuleError};
pub use value::Value;
