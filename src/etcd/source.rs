//! etcd as callbacks read it.

use super::{Failure, Link};
use crate::firing::{FiringError, Source};
use crate::value::Value;
use etcd_client::Client;
use futures_util::future::BoxFuture;

fn failed(failure: Failure) -> FiringError {
    FiringError::Etcd(failure.to_string())
}

impl Source for Link {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Value>, FiringError>> {
        Box::pin(async move { Ok(Link::get(self, key).await.map_err(failed)?.map(|(value, _)| value)) })
    }

    fn client(&self) -> BoxFuture<'_, Result<Client, FiringError>> {
        Box::pin(async move { Ok((*Link::client(self).await.map_err(failed)?).clone()) })
    }
}
