//! Transactions and reads of single keys.

use super::client::{EtcdClient, Sending};
use super::connection::Connection;
use super::failure::{Failure, FailureKind};
use super::txn_channel::with_body;
use super::{Header, MAX_RESPONSE, first_key};
use crate::change::Revision;
use crate::mutants::{Mutant, is_active};
use crate::value::Value;
use bytes::Bytes;
use etcd_client::proto::{PbTxnOpResponse, PbTxnResponse};
use etcd_client::{Client, GetOptions, KvClient, Txn};
use std::sync::Arc;

/// A change that was seen. A store without it in its history is not the one it was seen in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LastEvent {
    pub(crate) key: Vec<u8>,
    pub(crate) revision: Revision,
    /// `None`: it was deleted.
    pub(crate) value: Option<Value>,
}

/// The answer to a transaction.
pub(crate) struct Answer {
    pub(crate) revision: Revision,
    pub(crate) succeeded: bool,
    pub(crate) responses: Vec<Option<PbTxnOpResponse>>,
}

impl From<PbTxnResponse> for Answer {
    fn from(response: PbTxnResponse) -> Self {
        Self {
            revision: Header::of(response.header.as_ref()).revision,
            succeeded: response.succeeded,
            responses: response.responses.into_iter().map(|r| r.response).collect(),
        }
    }
}

fn kv_of_txns(client: &Client) -> KvClient {
    client.kv_client().max_decoding_message_size(MAX_RESPONSE).max_encoding_message_size(MAX_RESPONSE)
}

fn kv_of_reads(client: &Client) -> KvClient {
    client.kv_client().max_decoding_message_size(MAX_RESPONSE)
}

impl EtcdClient {
    /// The newest state of one key, read linearizably; asked for again until the request time-out.
    pub(crate) async fn get(&self, key: &str) -> Result<Option<(Value, Revision)>, Failure> {
        // Linearizable reads are the default.
        let options = || is_active(Mutant::Reads).then(|| GetOptions::new().with_serializable());
        let send = |connection: Arc<Connection>| async move {
            kv_of_reads(&connection.client).get(key, options()).await
        };
        let response = self.call(Sending::repeated("get"), send).await?.0;
        Ok(response.kvs.into_iter().next().map(|kv| (kv.value.into(), Revision::new(kv.mod_revision))))
    }

    /// Where the cluster stands, by a linearizable read of the first key that a prefix may have.
    pub(crate) async fn header(&self, prefix: &str) -> Result<Header, Failure> {
        let send = |connection: Arc<Connection>| async move {
            let options = GetOptions::new().with_count_only();
            connection.client.kv_client().get(first_key(prefix), Some(options)).await
        };
        let response = self.call(Sending::once("get"), send).await?.0;
        Ok(Header::of(response.header.as_ref()))
    }

    /// Whether the store's history has the change, as far as it can be told: false only if it has not.
    pub(crate) async fn has(&self, seen: &LastEvent) -> Result<bool, Failure> {
        let get = async |revision: Revision| {
            let send = |connection: Arc<Connection>| async move {
                let options = GetOptions::new().with_revision(revision.get());
                kv_of_reads(&connection.client).get(seen.key.clone(), Some(options)).await
            };
            let answer = self.call(Sending::once("get"), send).await?;
            Ok(answer.0.kvs.into_iter().next().map(|kv| (Revision::new(kv.mod_revision), kv.value)))
        };
        let looked = async {
            let then = get(seen.revision).await?;
            match &seen.value {
                // Two histories may have changed the same key at the same revision.
                Some(value) => Ok(then
                    .is_some_and(|(revision, found)| revision == seen.revision && found == value.as_bytes())),
                None => Ok(then.is_none() && get(seen.revision.previous()).await?.is_some()),
            }
        };
        match looked.await {
            // That history is gone. What is there now can't be older.
            Err(Failure { kind: FailureKind::Compacted, .. }) => {
                Ok(get(Revision::NONE).await?.is_none_or(|(now, _)| now >= seen.revision))
            }
            looked => looked,
        }
    }

    /// Sends a transaction.
    pub(crate) async fn txn(&self, txn: Txn) -> Result<Answer, Failure> {
        let send = |connection: Arc<Connection>| {
            let txn = txn.clone();
            async move { kv_of_txns(&connection.client).txn(txn).await }
        };
        Ok(Answer::from(self.call(Sending::once("txn"), send).await?.0))
    }

    /// Sends a transaction that is the body of a request already.
    pub(crate) async fn send_txn(&self, body: Bytes) -> Result<Answer, Failure> {
        let send = |connection: Arc<Connection>| {
            let body = body.clone();
            async move {
                let not_sent = || etcd_client::Error::InvalidArgs("the channel lost the transaction".into());
                let mut kv = kv_of_txns(&connection.client);
                with_body(body, kv.txn(Txn::new())).await.unwrap_or_else(|| Err(not_sent()))
            }
        };
        Ok(Answer::from(self.call(Sending::once("txn"), send).await?.0))
    }
}
