//! An etcd inside the process, for development and tests (feature `embedded`).
//!
//! [`EmbeddedEtcd`] is a server that speaks etcd's gRPC protocol, so that an unmodified [`etcd_client::Client`] talks
//! to it, over TCP on loopback or through memory. It may have several [members](EmbeddedMember). **It keeps
//! everything in memory, persists nothing, and replaces etcd nowhere but in development and tests.** Nothing is ever
//! written to disk; history grows until it is compacted.
//!
//! ```
//! use etcd_rules::embedded::EmbeddedEtcd;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let etcd = EmbeddedEtcd::start().await?;
//! let mut client = etcd_client::Client::connect([etcd.endpoint()], None).await?;
//! client.put("greeting", "hello", None).await?;
//! assert_eq!(client.get("greeting", None).await?.kvs()[0].value(), b"hello");
//! # Ok(())
//! # }
//! ```
//!
//! An engine runs on it without a network too:
//!
//! ```
//! use etcd_rules::embedded::EmbeddedEtcd;
//! use etcd_rules::{Engine, Error, Firing, Outcome, Rule, key};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let etcd = EmbeddedEtcd::in_process();
//! let greet = Rule::new("greet")
//!     .when(key("/guests/:name").exists() & key("/greeted/:name").absent())
//!     .run(|firing: Firing| async move { Ok::<Outcome, Error>(firing.commit().put("/greeted/:name", "").into()) });
//! let engine = Engine::builder_with_channel("docs", etcd.channel()).rule(greet).build()?.start().await?;
//!
//! let mut client = etcd.client().await?;
//! client.put("/guests/ada", "", None).await?;
//! while client.get("/greeted/ada", None).await?.kvs().is_empty() {
//!     tokio::task::yield_now().await;
//! }
//! engine.shutdown(std::time::Duration::from_secs(5)).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Time and trouble
//!
//! Time is tokio's: with a paused clock (`#[tokio::test(start_paused = true)]`) leases expire as the clock is
//! advanced. Use the channel for that, never TCP: a paused clock runs ahead while bytes are in the kernel.
//! [`Faults`] make requests fail before or after they take effect, lose and delay them, cut streams and
//! connections, take the leader away, and go back to older data. A [`NetworkPath`] is a way to the server that can be
//! cut and frozen by itself, for one client of several.
//!
//! Each kind of trouble is one call, which a test makes at the point that it is about:
//!
//! ```
//! use etcd_client::PutOptions;
//! use etcd_rules::embedded::{EmbeddedEtcd, Fault, RequestKind, RpcError};
//! use std::time::Duration;
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! const SECOND: Duration = Duration::from_secs(1);
//! let etcd = EmbeddedEtcd::in_process();
//! let faults = etcd.faults();
//!
//! // Requests: the next of a kind, the third from now on, several, or all.
//! faults.inject(Fault::on(RequestKind::Put).fail(RpcError::NO_LEADER)); // before it takes effect
//! faults.inject(Fault::on(RequestKind::Txn).after(2).fail_after(RpcError::TIMED_OUT)); // after it took effect
//! faults.inject(Fault::on(RequestKind::Txn).times(2).lose()); // or lose_answer()
//! faults.inject(Fault::on(RequestKind::Range).always().delay(SECOND)); // or delay_answer(…), delay_regardless(…)
//! faults.inject(Fault::on(RequestKind::LeaseGrant).duplicate());
//!
//! // Streams: cut after three messages; a message that comes late; all of them, or their connections, cut now.
//! faults.inject(Fault::on(RequestKind::WatchResponse).after(3).fail(RpcError::STOPPED));
//! faults.inject(Fault::on(RequestKind::WatchResponse).after(9).delay(SECOND));
//! faults.clear();
//! faults.cut_streams();
//! faults.cut_connections();
//!
//! // The server: without a leader, out of space, frozen, restarted, back on an older backup.
//! faults.lose_leader();
//! faults.elect_leader();
//! faults.set_no_space(true);
//! faults.set_no_space(false);
//! faults.freeze();
//! faults.thaw();
//! let backup = faults.save();
//! faults.restart();
//! faults.restore(&backup);
//!
//! // Leases end by the paused clock, or on demand; history is compacted.
//! let mut client = etcd.client().await?;
//! for (lease, key) in [(1, "by the clock"), (2, "on demand")] {
//!     client.lease_grant(60, Some(etcd_client::LeaseGrantOptions::new().with_id(lease))).await?;
//!     client.put(key, "", Some(PutOptions::new().with_lease(lease))).await?;
//! }
//! assert!(faults.expire_lease(2));
//! assert_eq!(client.get("on demand", None).await?.count(), 0);
//! tokio::time::advance(61 * SECOND).await;
//! assert_eq!(client.get("by the clock", None).await?.count(), 0);
//! faults.compact(faults.revision()).expect("it is not compacted yet");
//! # Ok(())
//! # }
//! ```
//!
//! Of several members, one gets into trouble while the others go on: see [`EmbeddedMember`]. Tokens end by the clock,
//! sooner by [`Faults::set_token_ttl`], and all at once by [`Faults::forget_tokens`].
//!
//! # A server for other programs
//!
//! [`EmbeddedEtcd::builder`] chooses the port. Clients in any language may use it: its members tell where they are, and
//! the port answers `/health`, `/version` and etcd's JSON gateway over HTTP/1.1, beside gRPC. As a program it is
//! `cargo run -p examples --example embedded -- --listen 127.0.0.1:2379` in this crate's repository.
//!
//! # What it has
//!
//! KV, watches, leases, locks, users with roles and tokens, status, alarms, the hash of all keys, snapshots, and the
//! list of its members, with etcd's error codes and messages. A test compares it with etcd 3.4.23, response by
//! response. It reports a later version ([`VERSION`]), because it answers requests for progress as later versions do.
//!
//! Known differences:
//!
//! - **Never**: data on a disk, TLS, the election service (clients elect by keys and leases, which works),
//!   the hash of a file, changes of the members, downgrades, signed tokens, `/metrics`, the API of version 2, and
//!   quotas (the alarm about space comes from [`Faults`] or from a client).
//! - **JSON** below `/v3` is as from etcd 3.4's gateway, with the fields of a message in the order of their names, and
//!   other words for what is no JSON. The body of a watch is read to its end before the first answer. `/health` asks
//!   for no key.
//! - **Users**: permissions are those of etcd 3.4.23, which does not look into nested transactions, nor at who asks
//!   for leases. A password costs nothing to check, and a token ends exactly when its time is over. Tokens are counted,
//!   so that anybody can guess them.
//! - **Snapshots** are files that etcd's own tools restore (`etcdctl snapshot save`). They have the keys with their
//!   history and the leases, and neither users nor roles: etcd keeps hashes of passwords, and none is made here.
//! - **Members** agree at once, and a majority is always there. History that is compacted is gone for one that lags
//!   too.
//! - **Leases** expire at the end of their TTL, not up to half a second later, and any number of them at once.
//!   Renewing a lease that is over answers at once. Ids chosen by the server count up.
//! - **Locks** are those of etcd 3.4.23. A client that waits doesn't learn that its own place has gone with
//!   its lease; newer versions may refuse it when its turn comes. A client that gives up while the server has
//!   no leader, or is frozen, leaves its place behind until its lease is over.
//! - **Watches**: events come at once, where etcd catches up in steps of 100 ms. Requests for progress are
//!   answered as by etcd 3.4.31 and later: never before the events they vouch for, and not while a watch has
//!   not reached its first revision. Regular notifications come every 10 minutes, without jitter. A watch from
//!   exactly the compacted revision sees all its changes. A negative start is refused, as by newer versions.
//! - **Ranges**: equal values of a sort target come in the order of their keys; etcd leaves their order open
//!   from 13 keys on.
//! - **Sizes**: the size of a database that the status tells, and its raft index, are approximations. The limit of
//!   1.5 MiB for a request may be off by a few bytes.
//! - **Transactions** that delete from a key on, and then put such a key keeping its value or lease
//!   (`ignore_value`, `ignore_lease`): etcd 3.4.23 panics; this one puts it without.
//! - **Restarts**: the server answers again at once. A restored backup keeps the ids of the cluster and its member,
//!   as etcd's does if it is restored with the same names, addresses and token.
//! - **Losing the leader** is noticed at once, where etcd takes some election time-outs.

mod allowed;
mod auth;
mod bolt;
mod check;
mod cluster;
mod connection;
mod faults;
mod gateway;
mod hash;
mod lease;
mod lock;
mod member;
mod path;
#[cfg(feature = "virtual-time")]
mod peek;
mod permissions;
mod plan;
mod range;
#[cfg(test)]
pub(crate) mod record;
mod refusal;
mod replica;
mod server;
mod service;
mod shared;
mod snapshot;
mod span;
mod store;
mod tokens;
mod txn;
mod watch;

pub use cluster::EmbeddedMember;
pub use faults::{Faults, Saved};
pub use path::NetworkPath;
pub use plan::{Fault, HistoryReader, RequestKind};
pub use refusal::RpcError;
pub use server::{EmbeddedEtcd, EmbeddedEtcdBuilder};

/// The version that the server reports. Clients take it as the promise that progress answers can be relied
/// on, as they can from 3.4.31 on. Everything else is compared with 3.4.23.
pub const VERSION: &str = "3.4.34";
