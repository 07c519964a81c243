//! Where a firing reads keys that it was not shown: etcd, or, in a trial, keys in memory.

use crate::error::Error;
use crate::etcd::Link;
use crate::value::Value;
use etcd_client::Client;
use std::collections::BTreeMap;
use std::sync::Arc;

pub(crate) enum Source {
    Etcd(Arc<Link>),
    Keys(BTreeMap<String, Value>),
}

impl Source {
    pub(super) async fn get(&self, key: &str) -> Result<Option<Value>, Error> {
        match self {
            Source::Etcd(link) => {
                let found = link.get(key).await.map_err(|failure| Error::Etcd(failure.to_string()))?;
                Ok(found.map(|(value, _)| value))
            }
            Source::Keys(keys) => Ok(keys.get(key).cloned()),
        }
    }

    pub(super) async fn client(&self) -> Result<Client, Error> {
        match self {
            Source::Etcd(link) => {
                let client = link.client().await;
                client.map(|client| (*client).clone()).map_err(|failure| Error::Etcd(failure.to_string()))
            }
            Source::Keys(_) => Err(Error::Etcd(
                "a trial has no etcd, and so no client: run an engine on the embedded etcd instead".into(),
            )),
        }
    }
}
