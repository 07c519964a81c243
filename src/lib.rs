#![doc = include_str!("../README.md")]
//!
//! # Where to start
//!
//! - [`Engine::builder`] puts an engine together; [`EngineBuilder`] has every option with its default.
//! - [`key`] begins a condition; [`Condition`] combines them with `&`, `|` and `!`.
//! - [`Rule`] joins a condition and a callback; [`Firing`] is what the callback gets, [`Outcome`] and
//!   [`Commit`] what it returns.
//! - [`EngineHandle`] is a running engine: [`Health`], [`Stats`], explanations, shutdown.
//! - [`metrics`] lists every metric.
//!
//! # When a rule fires
//!
//! An *instance* of a rule exists for every binding of its attributes that some existing key implies (a
//! rule without attributes has one instance, always). It fires when its condition is true and it is
//! idle. After that it fires again
//!
//! - when the condition is still, or again, true *and* somebody else changed one of its keys after the
//!   values that the callback was given (the firing's own commit does not count);
//! - at the next crawl, if it is still true;
//! - when a delay is over that the callback asked for, or the backoff after a failure.
//!
//! A rule whose condition stays true after its callback succeeded should change something: it is
//! slowed down, up to one firing in 5 seconds while changes keep coming.
//!
//! # Cancellation
//!
//! A callback is told to end ([`Firing::cancelled`]) when its lock may be lost, its time limit is over, or
//! the engine stops; shortly after, its future is dropped. Whatever it then has not committed has no effect.

// The futures of requests are moved about; those of the application's own are its affair.
#![cfg_attr(not(test), warn(clippy::large_futures))]

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
#[cfg(feature = "prometheus")]
mod prometheus;
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
#[cfg(feature = "prometheus")]
pub use prometheus::install_prometheus;
pub use rule::{Backoff, BoxError, Rule, RuleError};
pub use value::Value;
