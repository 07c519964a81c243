//! Transactions and reads of single keys.

use super::client::{EtcdClient, Sending};
use super::connection::Connection;
use super::failure::{Failure, FailureKind};
use super::identity::Identity;
use super::key_prefix::KeyPrefix;
use super::txn_call;
use super::{Header, MAX_RESPONSE};
use crate::change::{Change, Revision};
use crate::mutants::{Mutant, is_active};
use crate::pattern::KeyScope;
use crate::value::Value;
use bytes::Bytes;
use etcd_client::proto::{PbTxnOpResponse, PbTxnResponse};
use etcd_client::{Client, GetOptions, KvClient};
use std::sync::Arc;

/// A change that was seen. A store without it in its history is not the one it was seen in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LastEvent {
    pub(crate) key: Vec<u8>,
    pub(crate) revision: Revision,
    /// `None`: it was deleted.
    pub(crate) value: Option<Value>,
}

impl LastEvent {
    /// The one that this change is.
    pub(crate) fn of(change: &Change) -> Self {
        let (key, value) = match change {
            Change::Put { key, value, .. } => (key, Some(value.clone())),
            Change::Delete { key, .. } => (key, None),
        };
        Self { key: key.clone(), revision: change.revision(), value }
    }

    /// Looks for it in a history. `read` reads its key at a revision; 0 is the newest.
    pub(super) async fn find(&self, read: impl AsyncFn(Revision) -> ReadAt) -> Result<History, Failure> {
        // Two histories may have changed the same key at the same revision.
        let is_it = |found: &Option<(Revision, Vec<u8>)>| {
            let value = self.value.as_ref().map(|value| value.as_bytes());
            found
                .as_ref()
                .is_some_and(|(revision, found)| *revision == self.revision && Some(&found[..]) == value)
        };
        let looked = async {
            let has = match &self.value {
                Some(_) => is_it(&read(self.revision).await?),
                None => {
                    let reads = (read(self.revision), read(self.revision.previous()));
                    let (then, before) = tokio::try_join!(reads.0, reads.1)?;
                    then.is_none() && before.is_some()
                }
            };
            Ok(if has { History::Ours } else { History::Other })
        };
        match looked.await {
            // What is there now can't be older.
            Err(Failure { kind: FailureKind::Compacted, .. }) => Ok(match read(Revision::NONE).await? {
                now if is_it(&now) => History::Ours,
                Some((revision, _)) if revision <= self.revision => History::Other,
                _ => History::Gone,
            }),
            // The store has not come so far.
            Err(Failure { kind: FailureKind::Rejected, .. }) => Ok(History::Other),
            looked => looked,
        }
    }
}

/// A key as it was at a revision: the revision of its last change, and its value.
pub(super) type ReadAt = Result<Option<(Revision, Vec<u8>)>, Failure>;

/// What a store's history says of a change that was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum History {
    /// It has the change.
    Ours,
    /// It has not.
    Other,
    /// So much of it is gone that it says nothing.
    Gone,
}

/// Reads the key of a change at a revision.
pub(super) async fn read_at(
    client: &Client,
    prefix: &KeyPrefix,
    seen: &LastEvent,
    revision: Revision,
) -> Result<Option<(Revision, Vec<u8>)>, etcd_client::Error> {
    let options = GetOptions::new().with_revision(revision.get());
    let answer = kv_of_reads(client).get(prefix.key(seen.key.clone()), Some(options)).await?;
    Ok(answer.0.kvs.into_iter().next().map(|kv| (Revision::new(kv.mod_revision), kv.value)))
}

/// The answer to a transaction.
#[derive(Debug, Default)]
pub(crate) struct TxnResponse {
    pub(crate) revision: Revision,
    pub(crate) succeeded: bool,
    pub(crate) responses: Vec<Option<PbTxnOpResponse>>,
}

impl From<PbTxnResponse> for TxnResponse {
    fn from(response: PbTxnResponse) -> Self {
        Self {
            revision: Header::of(response.header.as_ref()).revision,
            succeeded: response.succeeded,
            responses: response.responses.into_iter().map(|r| r.response).collect(),
        }
    }
}

pub(super) fn kv_of_reads(client: &Client) -> KvClient {
    client.kv_client().max_decoding_message_size(MAX_RESPONSE)
}

impl EtcdClient {
    /// The newest state of one key, read linearizably; asked for again until the request time-out.
    pub(crate) async fn get(&self, key: &str) -> Result<Option<(Value, Revision)>, Failure> {
        // Linearizable reads are the default.
        let options = || is_active(Mutant::Reads).then(|| GetOptions::new().with_serializable());
        let send = |connection: Arc<Connection>| async move {
            kv_of_reads(&connection.client).get(self.store.prefix().key(key), options()).await
        };
        let response = self.call(Sending::repeated("get"), send).await?.0;
        Ok(response.kvs.into_iter().next().map(|kv| (kv.value.into(), Revision::new(kv.mod_revision))))
    }

    /// Where the cluster stands, by a linearizable read of the first of these keys.
    pub(crate) async fn header(&self, keys: &KeyScope) -> Result<Header, Failure> {
        let send = |connection: Arc<Connection>| async move {
            let options = GetOptions::new().with_count_only();
            let key = self.store.prefix().key(keys.first_key());
            connection.client.kv_client().get(key, Some(options)).await
        };
        let response = self.call(Sending::once("get"), send).await?.0;
        Ok(Header::of(response.header.as_ref()))
    }

    /// Whether the store's history has the change, as far as it can be told: false only if it has not.
    pub(crate) async fn has(&self, seen: &LastEvent) -> Result<bool, Failure> {
        let history = seen.find(async |revision| {
            let send = |connection: Arc<Connection>| async move {
                read_at(&connection.client, self.store.prefix(), seen, revision).await
            };
            self.call(Sending::once("get"), send).await
        });
        // Rare, and large.
        Ok(Box::pin(history).await? != History::Other)
    }

    /// Sends a transaction that is encoded already. It compares the identity that `txn` is given, and if it is
    /// refused it reads the identity last.
    pub(crate) async fn send_txn(
        &self,
        txn: impl FnOnce(&Identity) -> Bytes,
    ) -> Result<TxnResponse, Failure> {
        let identity = self.identity().await?;
        let txn = self
            .store
            .prefix()
            .txn(txn(&identity))
            .ok_or_else(|| Failure::new(FailureKind::Rejected, "txn", "the transaction is malformed"))?;
        let send = |connection: Arc<Connection>| {
            let (txn, identity) = (txn.clone(), &identity);
            async move {
                let answer = txn_call::send(connection.channel.clone(), txn).await;
                let answer = answer.map_err(|status| Failure::of_error("txn", status.into()))?;
                self.check_identity(identity, &connection, answer)
            }
        };
        self.call_checked(Sending::once("txn"), send).await
    }
}
