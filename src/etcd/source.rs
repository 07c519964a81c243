//! etcd as callbacks read it.

use super::{EtcdClient, Failure};
use crate::firing::{FiringError, Source};
use crate::value::Value;
use etcd_client::Client;
use futures_util::future::BoxFuture;

fn failed(failure: Failure) -> FiringError {
    FiringError::Etcd(failure.to_string())
}

impl Source for EtcdClient {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Value>, FiringError>> {
        Box::pin(async move { Ok(EtcdClient::get(self, key).await.map_err(failed)?.map(|(value, _)| value)) })
    }

    fn client(&self) -> BoxFuture<'_, Result<Client, FiringError>> {
        Box::pin(async move { EtcdClient::client(self).await.map_err(failed) })
    }
}
