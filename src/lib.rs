//! A rules engine for etcd.

mod crawl;
mod lock;
mod value;

pub use value::Value;
