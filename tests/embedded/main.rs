//! The embedded server: compared with a real etcd, under faults, and under an engine.

#[path = "../support/mod.rs"]
mod support;

mod both;
mod engine;
mod faults;
mod kv;
mod leases;
mod watches;
