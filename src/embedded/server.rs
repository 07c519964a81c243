//! The server: started, connected to, stopped.

use super::VERSION;
use super::cluster::EmbeddedMember;
use super::connection::{BACKLOG, Connector, accept};
use super::faults::Faults;
use super::path::NetworkPath;
use super::shared::Shared;
use super::{gateway, service};
use etcd_client::{Channel, Client, ConnectOptions};
use futures_util::stream::unfold;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
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
    pub(super) connectors: Vec<Connector>,
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
        Self::builder().start().await
    }

    /// A server on an address of your choice.
    pub fn builder() -> EmbeddedEtcdBuilder {
        EmbeddedEtcdBuilder { address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), advertised: None }
    }

    fn listening(listener: TcpListener, advertised: Option<String>) -> io::Result<Self> {
        let mut etcd = Self::in_process();
        let mut address = listener.local_addr()?;
        if address.ip().is_unspecified() {
            // A client can't connect to every address, and this is one of them.
            address.set_ip(if address.is_ipv4() {
                Ipv4Addr::LOCALHOST.into()
            } else {
                Ipv6Addr::LOCALHOST.into()
            });
        }
        etcd.address = Some(address);
        let url = advertised.unwrap_or_else(|| format!("http://{address}"));
        etcd.connectors[0].shared.look(|inner| inner.client_urls = vec![url]);
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
            let routes = gateway::beside(service::routes(&shared, number), &shared, number, VERSION);
            let serving =
                Server::builder().accept_http1(true).add_routes(routes).serve_with_incoming(incoming);
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

    /// Where it listens: `127.0.0.1:PORT`, unless [`builder`](Self::builder) was told otherwise.
    ///
    /// # Panics
    ///
    /// If the server was made by [`in_process`](Self::in_process): that one has no address.
    pub fn endpoint(&self) -> String {
        let address = self.address.expect("only a server that was started on a port has an endpoint");
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
    pub(super) fn accepting(&self) -> super::path::Acceptor {
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

/// Where an [`EmbeddedEtcd`] listens, and what it tells of that.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use etcd_rules::embedded::EmbeddedEtcd;
///
/// let etcd = EmbeddedEtcd::builder().port(0).start().await?; // or 2379, where clients look for one
/// let mut client = etcd_client::Client::connect([etcd.endpoint()], None).await?;
/// let members = client.member_list().await?;
/// assert_eq!(members.members()[0].client_urls(), [format!("http://{}", etcd.endpoint())]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "it listens once it is started"]
pub struct EmbeddedEtcdBuilder {
    address: SocketAddr,
    advertised: Option<String>,
}

impl EmbeddedEtcdBuilder {
    /// The TCP port; 0 takes a free one. Default: 0.
    pub fn port(mut self, port: u16) -> Self {
        self.address.set_port(port);
        self
    }

    /// The address and the port. Default: a free port of 127.0.0.1. Anybody who reaches another address may do
    /// everything there, because nothing is encrypted, and users exist only if you add them.
    pub fn address(mut self, address: impl Into<SocketAddr>) -> Self {
        self.address = address.into();
        self
    }

    /// The URL that clients are told when they ask for the members, as etcd's flag `--advertise-client-urls`. Clients
    /// that follow the list, as Go's `Sync` and `AutoSyncInterval`, connect to it and to nothing else. Default:
    /// `http://` and the address, or that of loopback if it listens on all addresses.
    pub fn advertise(mut self, url: impl Into<String>) -> Self {
        self.advertised = Some(url.into());
        self
    }

    /// Starts the server. Its [`channel`](EmbeddedEtcd::channel) works too.
    ///
    /// # Errors
    ///
    /// If the address can't be listened on, because another program does, for example.
    pub async fn start(self) -> io::Result<EmbeddedEtcd> {
        EmbeddedEtcd::listening(TcpListener::bind(self.address).await?, self.advertised)
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
