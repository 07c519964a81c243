//! How etcd is read: a whole prefix at one revision, in narrow ranges and at a pace, and from where a watch goes on.

pub(crate) mod pace;
mod ranges;
pub(crate) mod reader;
pub(crate) mod resume;
pub(crate) mod start;
