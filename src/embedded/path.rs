//! A way to the server of its own, on which one client's trouble is made while others have none.

use super::connection::{Connection, Connector};
use super::server::{EmbeddedEtcd, channel_through};
use super::shared::Shared;
use etcd_client::Channel;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Waker};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// A way through memory to an [`EmbeddedEtcd`](super::EmbeddedEtcd), made by its
/// [`path`](super::EmbeddedEtcd::path). What happens to it concerns its own connections only, so that one of
/// several engines is cut off. Cheap to clone.
///
/// ```
/// # use etcd_rules::embedded::*;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let etcd = EmbeddedEtcd::in_process();
/// let path = etcd.path();
/// let mut cut_off = etcd_client::Client::from_channel(path.channel(), None).await?;
/// path.set_reachable(false);
/// assert!(cut_off.put("key", "value", None).await.is_err());
/// assert!(etcd.client().await?.put("key", "value", None).await.is_ok());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct NetworkPath {
    connector: Connector,
}

impl std::fmt::Debug for NetworkPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NetworkPath").finish_non_exhaustive()
    }
}

impl NetworkPath {
    pub(super) fn new(connector: &Connector) -> Self {
        Self { connector: Connector { way: Arc::default(), ..connector.clone() } }
    }

    /// A connection along this path, as [`EmbeddedEtcd::channel`](super::EmbeddedEtcd::channel).
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn channel(&self) -> Channel {
        channel_through(self.connector.clone())
    }

    /// Stops carrying anything: connections stay open, and bytes wait.
    pub fn freeze(&self) {
        self.connector.way.freeze();
    }

    /// Ends a [`freeze`](Self::freeze): what has waited arrives.
    pub fn thaw(&self) {
        self.connector.way.thaw();
    }

    /// Closes the connections along this path. Clients can connect again at once.
    pub fn cut(&self) {
        self.connector.way.cut();
    }

    /// Connections that are made from now on lead to another server, as if that had come to the address;
    /// [`cut`](Self::cut) ends those that are open.
    pub fn lead_to(&self, etcd: &EmbeddedEtcd) {
        self.connector.way.with_state(|state| state.elsewhere = Some(etcd.accepting()));
    }

    /// Closes the connections along this path and refuses new ones, or, with `true`, takes them again.
    pub fn set_reachable(&self, reachable: bool) {
        self.connector.way.set_reachable(reachable);
    }

    /// Opens a connection, for who brings a client of its own.
    #[cfg(test)]
    pub(crate) async fn dial(&self) -> std::io::Result<tokio::io::DuplexStream> {
        use tonic::codegen::Service;
        let mut connector = self.connector.clone();
        connector
            .call(tonic::codegen::http::Uri::from_static("http://embedded.invalid"))
            .await
            .map(|io| io.into_inner())
    }
}

/// The state of a path, or of a member's process, shared with its connections.
#[derive(Default)]
pub(super) struct LinkState(Mutex<State>);

/// Another server, to which new connections lead: where it takes them, and its process.
pub(super) type Acceptor = (mpsc::Sender<Connection>, Arc<Shared>, Arc<LinkState>);

#[derive(Default)]
struct State {
    frozen: bool,
    unreachable: bool,
    /// Closes the connections that are open now.
    connections: CancellationToken,
    elsewhere: Option<Acceptor>,
    /// Connections that go on once nothing is frozen; each is here once.
    waiting: Vec<Waker>,
}

impl LinkState {
    fn with_state<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state: MutexGuard<'_, State> = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        change(&mut state)
    }

    /// Where new connections lead, if not to the server that the path was made for.
    pub(super) fn elsewhere(&self) -> Option<Acceptor> {
        self.with_state(|state| state.elsewhere.clone())
    }

    pub(super) fn freeze(&self) {
        self.with_state(|state| state.frozen = true);
    }

    pub(super) fn thaw(&self) {
        let waiting = self.with_state(|state| {
            state.frozen = false;
            std::mem::take(&mut state.waiting)
        });
        waiting.into_iter().for_each(Waker::wake);
    }

    pub(super) fn cut(&self) {
        self.with_state(|state| std::mem::take(&mut state.connections)).cancel();
    }

    pub(super) fn set_reachable(&self, reachable: bool) {
        self.with_state(|state| state.unreachable = !reachable);
        if !reachable {
            self.cut();
        }
    }

    pub(super) fn is_unreachable(&self) -> bool {
        self.with_state(|state| state.unreachable)
    }

    pub(super) fn connections(&self) -> CancellationToken {
        self.with_state(|state| state.connections.clone())
    }

    /// True if nothing may pass; then the task is woken when something may.
    pub(super) fn holds_up(&self, context: &Context<'_>) -> bool {
        self.with_state(|state| {
            if state.frozen && !state.waiting.iter().any(|waker| waker.will_wake(context.waker())) {
                state.waiting.push(context.waker().clone());
            }
            state.frozen
        })
    }
}
