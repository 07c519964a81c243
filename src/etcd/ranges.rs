//! Reads of many keys.

use super::MAX_RESPONSE;
use super::client::{EtcdClient, Sending};
use super::connection::Connection;
use super::failure::Failure;
use super::leases::LeaseId;
use crate::change::{KeyValue, Revision};
use crate::firing::RangeRead;
use crate::pattern::{KeyRange, prefix_end};
use crate::value::Value;
use etcd_client::proto::{PbKeyValue, PbRangeResponse, PbTxnOpResponse};
use etcd_client::{GetOptions, TxnOp};
use std::sync::Arc;

/// Largest page of a range accepted; larger ones are asked for in smaller parts. A few are in memory at once.
const MAX_PAGE: usize = 16 << 20;

/// Keys without values that are read at once.
const KEYS: i64 = 10_000;

/// A page of a range.
pub(crate) struct RangePage {
    pub(crate) keys: Vec<KeyValue>,
    pub(crate) count: i64,
    /// The store's revision when it was read.
    pub(crate) revision: Revision,
}

impl EtcdClient {
    fn page(&self, response: PbRangeResponse) -> RangePage {
        let keys = response.kvs.into_iter().map(|kv| KeyValue {
            key: self.store.prefix().strip(kv.key),
            value: Value::from(kv.value),
            revision: Revision::new(kv.mod_revision),
        });
        let revision = Revision::new(response.header.map_or(0, |header| header.revision));
        RangePage { keys: keys.collect(), count: response.count, revision }
    }
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
    ) -> Result<RangePage, Failure> {
        let send = |connection: Arc<Connection>| {
            let prefix = self.store.prefix();
            let (start, end) = (prefix.key(start.clone()), prefix.end(end.clone()));
            async move {
                let mut kv = connection.client.kv_client().max_decoding_message_size(MAX_PAGE);
                let options =
                    GetOptions::new().with_range(end).with_limit(limit).with_revision(revision.get());
                kv.get(start, Some(options)).await
            }
        };
        Ok(self.page(self.call(Sending::once("range"), send).await?.0))
    }

    /// The first keys of a range, for a callback; asked for again until the request time-out.
    pub(super) async fn read_range(&self, read: RangeRead<'_>) -> Result<RangePage, Failure> {
        let RangeRead { range: KeyRange { start, end }, limit, revision, keys_only } = read;
        let prefix = self.store.prefix();
        let send = |connection: Arc<Connection>| async move {
            let mut kv = connection.client.kv_client().max_decoding_message_size(MAX_PAGE);
            let mut options = GetOptions::new().with_range(prefix.end(end.clone())).with_limit(limit);
            options = options.with_revision(revision.get());
            if keys_only {
                options = options.with_keys_only();
            }
            kv.get(prefix.key(start.clone()), Some(options)).await
        };
        Ok(self.page(self.call(Sending::repeated("range"), send).await?.0))
    }

    /// The revisions at which these keys were created, all read at once: none of a key that is not there.
    pub(crate) async fn created<'k>(
        &self,
        keys: impl Iterator<Item = &'k str>,
    ) -> Result<Vec<Revision>, Failure> {
        let prefix = self.key_prefix();
        let get = |key: &str| TxnOp::get(prefix.key(key), Some(GetOptions::new().with_keys_only()));
        let answer = self.txn(Vec::new(), keys.map(get).collect(), Vec::new()).await?;
        let created = |response| match response {
            Some(PbTxnOpResponse::ResponseRange(range)) => {
                range.kvs.first().map_or(Revision::NONE, |kv| Revision::new(kv.create_revision))
            }
            _ => Revision::NONE,
        };
        Ok(answer.responses.into_iter().map(created).collect())
    }

    /// All keys below a prefix, as the member that is asked has them, in pages.
    pub(crate) async fn keys(&self, prefix: &str) -> Result<Vec<Vec<u8>>, Failure> {
        let prefix = self.key_prefix().key(prefix);
        let (mut all, mut after) = (Vec::new(), prefix.clone());
        loop {
            let send = |connection: Arc<Connection>| {
                let (after, end) = (after.clone(), prefix_end(&prefix));
                async move {
                    let mut kv = connection.client.kv_client().max_decoding_message_size(MAX_PAGE);
                    let options = GetOptions::new().with_range(end).with_limit(KEYS);
                    kv.get(after, Some(options.with_serializable().with_keys_only())).await
                }
            };
            let response = self.call(Sending::once("range"), send).await?.0;
            let more = response.more;
            all.extend(response.kvs.into_iter().map(|kv| kv.key));
            match all.last().filter(|_| more) {
                None => break,
                Some(last) => after = [last.as_slice(), &[0]].concat(),
            }
        }
        Ok(all.into_iter().map(|key| self.store.prefix().strip(key)).collect())
    }

    /// All locks below a prefix.
    pub(crate) async fn locks(&self, prefix: &str) -> Result<Vec<LockKey>, Failure> {
        let send = |connection: Arc<Connection>| async move {
            let mut kv = connection.client.kv_client().max_decoding_message_size(MAX_RESPONSE);
            kv.get(self.store.prefix().key(prefix), Some(GetOptions::new().with_prefix())).await
        };
        let response = self.call(Sending::once("range"), send).await?.0;
        let lock = |kv: PbKeyValue| LockKey {
            key: String::from_utf8_lossy(&self.store.prefix().strip(kv.key)).into_owned(),
            value: kv.value.into(),
            lease: LeaseId::new(kv.lease),
            create_revision: Revision::new(kv.create_revision),
        };
        Ok(response.kvs.into_iter().map(lock).collect())
    }
}
