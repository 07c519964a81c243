//! A rules engine for etcd.

mod value;

pub use value::Value;
