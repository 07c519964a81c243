//! Locks and leases: how a firing is kept to itself across engines, and how its end takes effect.
//!
//! | file | subject | I/O |
//! |---|---|---|
//! | [`txn`] | the transactions of a firing and their answers | no |
//! | [`keys`] | the keys that a firing is about | no |
//! | [`encode`] | transactions as the bytes that etcd reads | no |
//! | [`batch`] | which transactions travel in one request | no |
//! | [`lease`] | how long a lease can be relied on, which keys share one | no |
//! | [`txn_sender`] | the actor that sends transactions | yes |
//! | [`lease_manager`] | the actor that grants and renews leases | yes |
//! | [`lock_watcher`] | the actor that watches for locks becoming free | yes |

pub(crate) mod batch;
pub(crate) mod encode;
pub(crate) mod keys;
pub(crate) mod lease;
pub(crate) mod lease_manager;
pub(crate) mod lock_watcher;
pub(crate) mod txn;
pub(crate) mod txn_sender;
