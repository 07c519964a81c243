//! The embedded server: compared with a real etcd, under faults, and under an engine.

#![allow(unreachable_pub, reason = "the modules of one test program")]

#[path = "../support/mod.rs"]
mod support;

mod both;
mod engine;
mod faults;
mod kv;
mod leases;
mod locks;
mod watches;
