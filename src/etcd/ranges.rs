//! Reads of many keys.

use super::MAX_RESPONSE;
use super::client::{EtcdClient, Sending};
use super::connection::Connection;
use super::failure::Failure;
use super::leases::LeaseId;
use crate::change::{KeyValue, Revision};
use crate::value::Value;
use etcd_client::GetOptions;
use etcd_client::proto::PbKeyValue;
use std::sync::Arc;

/// Largest page of a range accepted; larger ones are asked for in smaller parts. A few are in memory at once.
const MAX_PAGE: usize = 16 << 20;

/// A page of a range.
pub(crate) struct Page {
    pub(crate) keys: Vec<KeyValue>,
    pub(crate) count: i64,
    /// The store's revision when it was read.
    pub(crate) revision: Revision,
}

/// A lock in etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LockKey {
    pub(crate) key: String,
    pub(crate) value: Value,
    pub(crate) lease: LeaseId,
    pub(crate) create_revision: Revision,
}

impl EtcdClient {
    /// Keys in `[start, end)`; `revision` 0 reads the newest state, linearizably.
    pub(crate) async fn range(
        &self,
        start: Vec<u8>,
        end: Vec<u8>,
        limit: i64,
        revision: Revision,
    ) -> Result<Page, Failure> {
        let send = |connection: Arc<Connection>| {
            let (start, end) = (start.clone(), end.clone());
            async move {
                let mut kv = connection.client.kv_client().max_decoding_message_size(MAX_PAGE);
                let options =
                    GetOptions::new().with_range(end).with_limit(limit).with_revision(revision.get());
                kv.get(start, Some(options)).await
            }
        };
        let response = self.call(Sending::once("range"), send).await?.0;
        let keys = response.kvs.into_iter().map(|kv| KeyValue {
            key: kv.key,
            value: Value::from(kv.value),
            revision: Revision::new(kv.mod_revision),
        });
        let revision = Revision::new(response.header.map_or(0, |header| header.revision));
        Ok(Page { keys: keys.collect(), count: response.count, revision })
    }

    /// All locks below a prefix.
    pub(crate) async fn locks(&self, prefix: &str) -> Result<Vec<LockKey>, Failure> {
        let send = |connection: Arc<Connection>| async move {
            let mut kv = connection.client.kv_client().max_decoding_message_size(MAX_RESPONSE);
            kv.get(prefix, Some(GetOptions::new().with_prefix())).await
        };
        let response = self.call(Sending::once("range"), send).await?.0;
        let lock = |kv: PbKeyValue| LockKey {
            key: String::from_utf8_lossy(&kv.key).into_owned(),
            value: kv.value.into(),
            lease: LeaseId::new(kv.lease),
            create_revision: Revision::new(kv.create_revision),
        };
        Ok(response.kvs.into_iter().map(lock).collect())
    }
}
