//! The server: started, connected to, stopped.

use super::cluster::EmbeddedMember;
use super::connection::{BACKLOG, Connector, accept};
use super::faults::Faults;
use super::path::NetworkPath;
use super::service;
use super::shared::Shared;
use etcd_client::{Channel, Client, ConnectOptions};
use futures_util::stream::unfold;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Endpoint, Server};

/// An etcd inside the process: see the [module](super). It stops when this is dropped.
///
/// It runs on the tokio runtime it was made in, and ends with that at the latest.
#[derive(Debug)]
pub struct EmbeddedEtcd {
    /// Of each member.
    connectors: Vec<Connector>,
    address: Option<SocketAddr>,
    stop: CancellationToken,
}

impl EmbeddedEtcd {
    /// Starts a server on a free TCP port of loopback, [`endpoint`](Self::endpoint). Its
    /// [`channel`](Self::channel) works too.
    ///
    /// # Errors
    ///
    /// If no port can be listened on.
    pub async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let mut etcd = Self::in_process();
        etcd.address = Some(listener.local_addr()?);
        let Connector { connections, shared, process, .. } = etcd.connectors[0].clone();
        etcd.spawn(accept(listener, connections, shared, process));
        Ok(etcd)
    }

    /// Starts a server that only this process reaches, through [`channel`](Self::channel).
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn in_process() -> Self {
        Self::in_process_cluster(1)
    }

    /// Starts a cluster of so many [members](Self::member), at least one, that only this process reaches. They agree
    /// at once, and elect nobody: what one of them alone can't do, the others go on doing.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn in_process_cluster(members: usize) -> Self {
        let shared = Shared::new(members.max(1));
        let mut etcd = Self { connectors: Vec::new(), address: None, stop: CancellationToken::new() };
        for number in 0..members.max(1) {
            let (connections, incoming) = mpsc::channel(BACKLOG);
            let incoming = unfold(incoming, |mut incoming| async move {
                let connection = incoming.recv().await?;
                Some((Ok::<_, Infallible>(connection), incoming))
            });
            let routes = service::routes(&shared, number);
            let serving = Server::builder().add_routes(routes).serve_with_incoming(incoming);
            let (way, process) = (Arc::default(), Arc::default());
            etcd.connectors.push(Connector { connections, shared: shared.clone(), way, process, number });
            etcd.spawn(async move {
                // It ends when the server is stopped; a connection that fails ends by itself.
                let _ = serving.await;
            });
        }
        etcd.spawn(async move { shared.expire_leases().await });
        etcd
    }

    /// A member of a cluster, by its number from 0 on.
    ///
    /// # Panics
    ///
    /// If there are not so many.
    pub fn member(&self, number: usize) -> EmbeddedMember {
        EmbeddedMember::new(&self.connectors[number])
    }

    /// Runs a part of the server until it is stopped.
    fn spawn(&self, part: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        tokio::spawn(async move { stop.run_until_cancelled(part).await });
    }

    /// `127.0.0.1:PORT`.
    ///
    /// # Panics
    ///
    /// If the server was made by [`in_process`](Self::in_process): that one has no address.
    pub fn endpoint(&self) -> String {
        let address = self.address.expect("only a server made by `EmbeddedEtcd::start` has an endpoint");
        address.to_string()
    }

    /// A connection through memory, which is made at the first request and again whenever it is lost. For
    /// [`Client::from_channel`] and [`Engine::builder_with_channel`](crate::Engine::builder_with_channel).
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn channel(&self) -> Channel {
        channel_through(self.connectors[0].clone())
    }

    /// A way to the server of its own: cut off, it leaves the other clients alone.
    pub fn path(&self) -> NetworkPath {
        NetworkPath::new(&self.connectors[0])
    }

    /// A client with a [`channel`](Self::channel) of its own.
    ///
    /// # Errors
    ///
    /// As [`Client::from_channel`].
    pub async fn client(&self) -> Result<Client, etcd_client::Error> {
        self.client_with(ConnectOptions::new()).await
    }

    /// A client with options and a [`channel`](Self::channel) of its own.
    ///
    /// # Errors
    ///
    /// As [`Client::from_channel`].
    pub async fn client_with(&self, options: ConnectOptions) -> Result<Client, etcd_client::Error> {
        Client::from_channel(self.channel(), Some(options)).await
    }

    /// Where it takes connections through memory.
    pub(super) fn accepting(&self) -> super::path::Elsewhere {
        let Connector { connections, shared, process, .. } = self.connectors[0].clone();
        (connections, shared, process)
    }

    #[cfg(test)]
    pub(super) fn shared(&self) -> &Arc<super::shared::Shared> {
        &self.connectors[0].shared
    }

    /// The handle that makes trouble.
    pub fn faults(&self) -> Faults {
        Faults::new(self.connectors[0].shared.clone())
    }
}

/// A connection that is made at the first request and again whenever it is lost.
pub(super) fn channel_through(connector: Connector) -> Channel {
    Channel::Tonic(Endpoint::from_static("http://embedded.invalid").connect_with_connector_lazy(connector))
}

impl Drop for EmbeddedEtcd {
    fn drop(&mut self) {
        self.stop.cancel();
        self.faults().set_reachable(false);
    }
}
