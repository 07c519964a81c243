//! The harness of the black-box tests: a real etcd, a proxy that breaks connections, waiting, leftovers.
//!
//! The test programs take it with `mod support;`, and so do the tests of whole engines in `src/engine`.

#![allow(dead_code, unreachable_pub, unused_imports, reason = "each program takes a part")]

mod browser;
#[cfg(feature = "tls")]
mod certificates;
mod cluster;
pub mod etcd;
mod etcd_proxy;
mod held;
mod leftovers;
mod proxy;
mod server;
mod wait;

pub use browser::Browser;
#[cfg(feature = "tls")]
pub use certificates::Certificates;
pub use cluster::Cluster;
pub use etcd::{Saved, free_port};
pub use etcd_proxy::{EtcdProxy, Kind};
pub use held::Held;
pub use leftovers::{assert_nothing_left, assert_threads_gone, is_identity, threads_named};
pub use proxy::Proxy;
pub use server::{Etcd, EtcdBuilder};
pub use wait::{Seen, eventually};
