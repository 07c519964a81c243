//! The identity of a store: a random value, under one key of the engine's namespace.
//!
//! The first engine of a namespace writes it, and nobody changes it. The outer transaction of every request compares
//! it, so that a store without it refuses whatever it is sent, and a refused one also reads it. So one answer tells
//! whether the store is another one, or what was to be done is not possible.

use super::client::{EtcdClient, Sending};
use super::connection::Connection;
use super::failure::Failure;
use super::key_prefix::KeyPrefix;
use super::requests::{TxnResponse, kv_of_reads};
use crate::change::Revision;
use crate::pattern::KeyScope;
use etcd_client::proto::PbTxnOpResponse;
use etcd_client::{Client, Compare, CompareOp, Txn, TxnOp};
use std::fmt;
use std::sync::Arc;

/// See the [module](self).
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    key: Arc<str>,
    value: Arc<[u8]>,
}

impl Identity {
    pub(crate) fn new(key: Arc<str>, value: impl Into<Arc<[u8]>>) -> Self {
        Self { key, value: value.into() }
    }

    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    pub(crate) fn value(&self) -> &[u8] {
        &self.value
    }

    /// The compare of every outer transaction.
    fn compare(&self, prefix: &KeyPrefix) -> Compare {
        Compare::value(prefix.key(self.key()), CompareOp::Equal, self.value())
    }

    /// Takes what the store said of its identity from an answer: the last thing that a refused transaction reads. An
    /// error: it is not this one.
    fn check(&self, answer: &mut TxnResponse) -> Result<(), String> {
        if answer.succeeded {
            return Ok(());
        }
        let found = match answer.responses.pop().flatten() {
            Some(PbTxnOpResponse::ResponseRange(range)) => range.kvs.into_iter().next(),
            _ => None,
        };
        match found {
            Some(kv) if kv.value == self.value() => Ok(()),
            Some(kv) => Err(another(self, &Self::new(self.key.clone(), kv.value))),
            None => Err(absent(self)),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.value))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {self}", self.key)
    }
}

pub(super) fn another(known: &Identity, found: &Identity) -> String {
    format!("wrong store: the identity `{}` was {known} and there it is {found}", known.key)
}

pub(super) fn absent(known: &Identity) -> String {
    format!("wrong store: the identity `{}` was {known} and there is none", known.key)
}

/// Writes an identity where there is none. Returns the one that is there then, and the revision of its last change.
pub(super) async fn create(
    client: &Client,
    prefix: &KeyPrefix,
    wanted: &Identity,
) -> Result<(Identity, Revision), etcd_client::Error> {
    let key = || prefix.key(wanted.key());
    let txn = Txn::new()
        .when([Compare::create_revision(key(), CompareOp::Equal, 0)])
        .and_then([TxnOp::put(key(), wanted.value(), None)])
        .or_else([TxnOp::get(key(), None)]);
    let answer = TxnResponse::from(kv_of_reads(client).txn(txn).await?.0);
    if answer.succeeded {
        return Ok((wanted.clone(), answer.revision));
    }
    match answer.responses.into_iter().next().flatten() {
        Some(PbTxnOpResponse::ResponseRange(range)) => {
            let kv = range.kvs.into_iter().next();
            let kv =
                kv.ok_or_else(|| etcd_client::Error::Internal("the answer lacks the identity".into()))?;
            Ok((Identity::new(wanted.key.clone(), kv.value), Revision::new(kv.mod_revision)))
        }
        _ => Err(etcd_client::Error::Internal("the answer lacks the identity".into())),
    }
}

impl EtcdClient {
    /// The identity of the engine's store. The connector learns it, or else it is asked for here: there was no space,
    /// or no permission, when the connection was opened.
    pub(super) async fn identity(&self) -> Result<Identity, Failure> {
        match self.store.identity() {
            Some(identity) => Ok(identity),
            None => Box::pin(self.ask_for_identity()).await,
        }
    }

    /// Transactions can be sent.
    pub(crate) fn knows_identity(&self) -> bool {
        self.store.identity().is_some()
    }

    /// Whether the store answers, and transactions can be sent.
    pub(crate) async fn probe(&self, namespace: &str) -> Result<(), Failure> {
        self.header(&KeyScope::Prefix(namespace.to_owned())).await?;
        self.identity().await.map(drop)
    }

    async fn ask_for_identity(&self) -> Result<Identity, Failure> {
        let send = |connection: Arc<Connection>| async move {
            create(&connection.client, self.store.prefix(), &self.store.wanted_identity()).await
        };
        let (identity, revision) = self.call(Sending::repeated("txn"), send).await?;
        self.store.learn(identity, revision).map_err(|text| Failure::wrong_store("txn", text))
    }

    /// Looks at the answer to a transaction that compared the identity. Where it is another one the connection is
    /// closed, and the engine's other links ask anew where theirs lead.
    pub(super) fn check_identity(
        &self,
        identity: &Identity,
        connection: &Connection,
        mut answer: TxnResponse,
    ) -> Result<TxnResponse, Failure> {
        match identity.check(&mut answer) {
            Ok(()) => Ok(answer),
            Err(text) => {
                connection.activity.close();
                self.store.doubt();
                Err(Failure::wrong_store("txn", text))
            }
        }
    }

    /// What is before every key in etcd.
    pub(crate) fn key_prefix(&self) -> &KeyPrefix {
        self.store.prefix()
    }

    /// Sends a transaction that takes effect in the engine's store only, and only if `when` holds. Its keys are as etcd
    /// has them, with the [prefix](Self::key_prefix).
    pub(crate) async fn txn(
        &self,
        mut when: Vec<Compare>,
        then: Vec<TxnOp>,
        mut or_else: Vec<TxnOp>,
    ) -> Result<TxnResponse, Failure> {
        let identity = self.identity().await?;
        let prefix = self.store.prefix();
        when.push(identity.compare(prefix));
        or_else.push(TxnOp::get(prefix.key(identity.key()), None));
        let txn = Txn::new().when(when).and_then(then).or_else(or_else);
        let send = |connection: Arc<Connection>| {
            let (txn, identity) = (txn.clone(), &identity);
            async move {
                let answer = kv_of_reads(&connection.client).txn(txn).await;
                let answer = answer.map_err(|error| Failure::of_error("txn", error))?;
                self.check_identity(identity, &connection, TxnResponse::from(answer.0))
            }
        };
        self.call_checked(Sending::once("txn"), send).await
    }
}
