//! A rules engine for etcd.

mod crawl;
mod value;

pub use value::Value;
