//! How etcd is read: a whole prefix at one revision, in narrow ranges and throttled, and from where a watch goes on.

mod ranges;
pub(crate) mod reader;
pub(crate) mod resume;
pub(crate) mod start;
pub(crate) mod throttle;
