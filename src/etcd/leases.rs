//! Leases: granted, renewed, looked at, revoked.

use super::client::{EtcdClient, Sending};
use super::connection::Connection;
use super::failure::{Failure, FailureKind};
use etcd_client::{LeaseGrantOptions, LeaseKeepAliveStream, LeaseKeeper};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The number by which etcd knows a lease. Keys without a lease have the number 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LeaseId(i64);

impl LeaseId {
    pub(crate) const fn new(id: i64) -> Self {
        Self(id)
    }

    /// As etcd is told it.
    pub(crate) const fn get(self) -> i64 {
        self.0
    }
}

/// A lease that was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) id: LeaseId,
    pub(crate) ttl: Duration,
    /// When the request was sent: the lease lives at least from then on.
    pub(crate) sent: Instant,
}

/// An open stream of renewals of one lease.
pub(crate) struct Renewals {
    keeper: LeaseKeeper,
    stream: LeaseKeepAliveStream,
    connection: Arc<Connection>,
}

impl Renewals {
    /// Another connection has taken the place of the stream's.
    pub(crate) fn is_superseded(&self) -> bool {
        self.connection.superseded.is_cancelled()
    }
}

impl EtcdClient {
    /// Grants a lease under an id of the caller's, so that a request sent again is not a second lease.
    pub(crate) async fn grant(&self, id: LeaseId, ttl: Duration) -> Result<Grant, Failure> {
        let sent = Instant::now();
        // What is too long for etcd is refused by it.
        let seconds = ttl.as_secs().saturating_add(u64::from(ttl.subsec_nanos() > 0)).min(i64::MAX as u64);
        let send = |connection: Arc<Connection>| async move {
            let options = LeaseGrantOptions::new().with_id(id.get());
            connection.client.lease_client().grant(seconds as i64, Some(options)).await
        };
        let grant = self.call(Sending::once("lease_grant"), send).await?;
        Ok(Grant { id: LeaseId::new(grant.id()), ttl: Duration::from_secs(grant.ttl().max(0) as u64), sent })
    }

    /// Opens a stream over which a lease is renewed, which renews it once. `patience`: for an answer to a renewal.
    pub(crate) async fn renewals(&self, id: LeaseId, patience: Duration) -> Result<Renewals, Failure> {
        let sending = Sending { patience, ..Sending::once("lease_renew") };
        let send = |connection: Arc<Connection>| async move {
            let (keeper, stream) = connection.client.lease_client().keep_alive(id.get()).await?;
            Ok(Renewals { keeper, stream, connection })
        };
        self.call(sending, send).await
    }

    /// Renews a lease once over its stream; the new life counts from the moment this is called.
    pub(crate) async fn renew(
        &self,
        renewals: &mut Renewals,
        patience: Duration,
    ) -> Result<Duration, Failure> {
        let Renewals { keeper, stream, connection } = renewals;
        let sending = Sending { patience, ..Sending::once("lease_renew") };
        let limit = self.timeouts.request;
        let renewing = async {
            let failed = |error| Failure::of_error(sending.name, error);
            keeper.keep_alive().await.map_err(failed)?;
            let ended = || failed(etcd_client::Error::WatchError("the stream ended".into()));
            Ok(stream.message().await.map_err(failed)?.ok_or_else(ended)?.ttl())
        };
        let connection = connection.clone();
        let renewed = self.send_once(sending, limit, Instant::now() + limit, &connection, renewing).await;
        match self.heed(&connection, renewed)? {
            ttl if ttl > 0 => Ok(Duration::from_secs(ttl as u64)),
            _ => {
                let message = "the lease does not exist any more";
                Err(Failure::new(FailureKind::LeaseGone, "lease_renew", message))
            }
        }
    }

    /// Ends a lease. It may take so long as other requests, unless it has a limit of its own.
    pub(crate) async fn revoke(&self, id: LeaseId, limit: Option<Duration>) -> Result<(), Failure> {
        let send = |connection: Arc<Connection>| async move {
            connection.client.lease_client().revoke(id.get()).await
        };
        let sending = Sending { limit, ..Sending::once("lease_revoke") };
        match self.call(sending, send).await {
            Err(failure) if failure.kind == FailureKind::LeaseGone => Ok(()),
            result => result.map(|_| ()),
        }
    }
}
