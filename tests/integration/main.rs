//! What the engine promises, tested from outside on etcd servers of the tests' own: a module a behaviour.
//!
//! One program, so that the harness is compiled and the whole is linked once. Its tests share a process, several at a
//! time. One that counts or sets what belongs to the process, such as its threads, is a program of its own beside this
//! folder.

#![allow(unreachable_pub, reason = "the modules of one test program")]

#[path = "../support/mod.rs"]
mod support;

mod browser;
mod channel;
mod chaos;
mod cluster;
mod compile_errors;
mod configuration;
mod controls;
mod crawl;
mod credentials;
mod embedded;
mod embedding;
mod engines;
mod errors;
mod event_stream;
mod events;
mod examples;
mod expansion;
mod firing;
mod fleet;
mod guide;
mod harness;
mod health;
mod hostile;
mod http;
mod identity;
mod inspection;
mod key_prefix;
mod large;
mod layers;
mod link;
mod listing;
mod locks;
mod operations;
mod options;
mod own_keys;
mod permissions;
mod polling;
mod proxies;
mod readme;
mod removed;
mod retry;
mod scenario;
mod seen;
mod semantics;
mod shown;
mod spread;
mod testing_kit;
mod tokens;
mod trouble;
mod values;
mod watch;
mod world;
