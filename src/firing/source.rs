//! Where a firing reads keys that it was not shown: etcd, or, in a trial, keys in memory.

use super::FiringError;
use crate::change::{KeyValue, Revision};
use crate::pattern::KeyRange;
use crate::value::Value;
use etcd_client::Client;
use futures_util::future::BoxFuture;

/// Which keys of a range are read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RangeRead<'a> {
    pub(crate) range: &'a KeyRange,
    /// The most keys.
    pub(crate) limit: i64,
    /// [`Revision::NONE`] is the newest, read linearizably.
    pub(crate) revision: Revision,
    /// Values are left out.
    pub(crate) keys_only: bool,
}

/// The first keys of a range.
#[derive(Debug)]
pub(crate) struct ListingPage {
    pub(crate) keys: Vec<KeyValue>,
    /// How many the range has in all.
    pub(crate) count: i64,
    /// The store's revision when it was read.
    pub(crate) revision: Revision,
}

/// Reads keys for callbacks.
pub(crate) trait Source: Send + Sync {
    /// The newest value of a key, and the revision of its last change.
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<(Value, Revision)>, FiringError>>;

    /// Some keys of a range.
    fn range<'a>(&'a self, read: RangeRead<'a>) -> BoxFuture<'a, Result<ListingPage, FiringError>>;

    /// A client for whatever else a callback wants.
    fn client(&self) -> BoxFuture<'_, Result<Client, FiringError>>;
}
