//! The embedded server: compared with a real etcd, under faults, and under an engine.

mod both;
mod engine;
mod faults;
mod kv;
mod leases;
mod locks;
mod users;
mod watches;
