//! The embedded server: compared with a real etcd 3.4, under faults, and under an engine.

mod both;
mod engine;
mod faults;
mod foreign;
mod kv;
mod leases;
mod locks;
mod snapshots;
mod users;
mod watches;
