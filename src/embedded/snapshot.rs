//! A snapshot: the file that etcd would have, which its tools restore into real members. Pure.

use super::bolt::{Bucket, database};
use super::hash::{entry, version_key};
use super::member::Member;
use prost::Message;

/// A lease in etcd's file (`lease/leasepb/lease.proto`).
#[derive(Clone, PartialEq, Message)]
struct LeaseInFile {
    #[prost(int64, tag = "1")]
    id: i64,
    #[prost(int64, tag = "2")]
    ttl: i64,
}

impl Member {
    /// All keys with their history, and all leases. There are no users and roles in it, because nothing here makes the
    /// hashes in which etcd keeps passwords.
    pub(super) fn snapshot(&self) -> Vec<u8> {
        let versions = self.store.versions().into_iter().map(entry);
        let leases = self
            .leases
            .all()
            .map(|(id, ttl)| (id.to_be_bytes().to_vec(), LeaseInFile { id, ttl }.encode_to_vec()));
        let compacted = version_key(self.store.compacted(), 0, false);
        let compactions = ["finishedCompactRev", "scheduledCompactRev"];
        let compactions = compactions.map(|name| (name.as_bytes().to_vec(), compacted.clone()));
        let bucket = |name, entries| Bucket { name, entries };
        database(&[
            bucket("alarm", Vec::new()),
            bucket("auth", Vec::new()),
            bucket("authRoles", Vec::new()),
            bucket("authUsers", Vec::new()),
            bucket("cluster", Vec::new()),
            bucket("key", versions.collect()),
            bucket("lease", leases.collect()),
            bucket("members", Vec::new()),
            bucket("members_removed", Vec::new()),
            bucket("meta", if self.store.compacted() > 0 { compactions.into() } else { Vec::new() }),
        ])
    }
}
