//! What actors of all kinds stand on: where they run, what they take from outside, and how one that panics ends.

pub(crate) mod actor_thread;
pub(crate) mod env;
#[cfg(any(test, feature = "virtual-time"))]
pub(crate) mod process;
pub(crate) mod retry;
pub(crate) mod supervised;
