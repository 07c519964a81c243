//! Locks and leases: how a firing is kept to itself across engines, and how its end takes effect.
//!
//! | file | subject | I/O |
//! |---|---|---|
//! | [`txn`] | the transactions of a firing and their answers | no |
//! | [`keys`] | the keys that a firing is about | no |
//! | [`encode`] | transactions as the bytes that etcd reads | no |
//! | [`batch`] | which transactions travel in one request | no |
//! | [`lease`] | how long a lease can be relied on | no |
//! | [`shared_leases`] | which keys share a lease | no |
//! | [`lease_demand`] | which shared leases are granted ahead | no |
//! | [`retired`] | leases that nobody uses, to be revoked at the end | no |
//! | [`txn_sender`] | the actor that sends transactions, several in a request | yes |
//! | [`sentinel`] | a key under each lock lease, which tells the form of all keys | yes |
//! | [`lease_manager`] | the actor that grants and renews leases | yes |
//! | [`key_leases`] | the lease manager's leases for keys | yes |
//! | [`lock_watcher`] | the task that watches for locks becoming free | yes |

pub(crate) mod batch;
pub(crate) mod encode;
pub(crate) mod key_leases;
pub(crate) mod keys;
pub(crate) mod lease;
mod lease_demand;
pub(crate) mod lease_manager;
pub(crate) mod lock_watcher;
mod retired;
pub(crate) mod sentinel;
pub(crate) mod shared_leases;
pub(crate) mod txn;
pub(crate) mod txn_sender;
