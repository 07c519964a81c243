//! Engines in processes of their own, under load, on real clusters on which everything goes wrong that goes wrong
//! there; an observer from the outside, and one checker for all.
//!
//! `cargo test --test faults` runs the quick scenarios, `make faults` all of them, many times. `docs/reliability.md`
//! tells what was run and what it showed. What happens follows from the seed of a run, but for the machine's own
//! timing.

#![allow(unreachable_pub, reason = "modules of a test are reached by that test alone")]

#[path = "../support/etcd.rs"]
mod etcd;

mod access;
mod between;
#[cfg(feature = "tls")]
#[path = "../support/certificates.rs"]
mod certificates;
mod checker;
mod cluster;
mod guard;
mod history;
mod jobs;
mod load;
mod member;
mod moment;
mod observer;
mod prober;
mod process;
mod proxy;
mod report;
mod role;
mod scenario;
mod scenarios;
mod server;
mod side_by_side;
mod suite;
mod table;
mod world;
