//! What actors of all kinds stand on: where they run, what they take from outside, how one that panics ends,
//! when their tables give memory back, and which buffers they use again.

pub(crate) mod actor_thread;
pub(crate) mod env;
#[cfg(any(test, feature = "virtual-time"))]
pub(crate) mod process;
pub(crate) mod retry;
pub(crate) mod reuse;
pub(crate) mod spare;
pub(crate) mod supervised;
