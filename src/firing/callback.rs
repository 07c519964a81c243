//! A callback, as rules hold it.

use super::{Firing, Outcome};
use std::pin::Pin;
use std::sync::Arc;

/// Any error a callback may end with.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

pub(crate) type CallbackFuture = Pin<Box<dyn Future<Output = Result<Outcome, BoxError>> + Send>>;
pub(crate) type Callback = Arc<dyn Fn(Firing) -> CallbackFuture + Send + Sync>;
