//! Locks, and the transactions that take, use and release them.

pub(crate) mod batch;
