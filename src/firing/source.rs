//! Where a firing reads keys that it was not shown: etcd, or, in a trial, keys in memory.

use super::FiringError;
use crate::value::Value;
use etcd_client::Client;
use futures_util::future::BoxFuture;

/// Reads keys for callbacks.
pub(crate) trait Source: Send + Sync {
    /// The newest value of a key.
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Value>, FiringError>>;

    /// A client for whatever else a callback wants.
    fn client(&self) -> BoxFuture<'_, Result<Client, FiringError>>;
}
