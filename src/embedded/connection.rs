//! Connections: over TCP or a pipe in memory, and closed when a fault says so.

use super::path::LinkState;
use super::shared::Shared;
use hyper_util::rt::TokioIo;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::codegen::Service;
use tonic::codegen::http::Uri;
use tonic::transport::server::Connected;

/// Bytes that a pipe holds in each direction.
const PIPE_BYTES: usize = 256 * 1024;
/// Connections that wait to be served; more wait where they come from.
pub(super) const BACKLOG: usize = 16;

/// The server's end of a connection.
pub(super) struct Connection {
    transport: Transport,
    /// The way to the member, and the member's process.
    ways: [Arc<LinkState>; 2],
    /// Of the server, and of the ways.
    cuts: [Cut; 3],
}

struct Cut {
    token: CancellationToken,
    waiting: Pin<Box<WaitForCancellationFutureOwned>>,
}

enum Transport {
    Tcp(TcpStream),
    Pipe(DuplexStream),
}

impl Connection {
    fn new(transport: Transport, shared: &Shared, way: &Arc<LinkState>, process: &Arc<LinkState>) -> Self {
        let cuts = [shared.connections(), way.connections(), process.connections()]
            .map(|token| Cut { waiting: Box::pin(token.clone().cancelled_owned()), token });
        Self { transport, ways: [way.clone(), process.clone()], cuts }
    }

    /// True if nothing may pass; then the task is woken when something may.
    fn is_held_up(&self, context: &Context<'_>) -> bool {
        self.ways.iter().any(|way| way.holds_up(context))
    }

    fn is_cut(&self) -> bool {
        self.cuts.iter().any(|cut| cut.token.is_cancelled())
    }
}

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "closed by a fault, or the server stopped")
}

macro_rules! transport {
    ($self:ident, $method:ident($($argument:expr),*)) => {
        match &mut $self.transport {
            Transport::Tcp(stream) => Pin::new(stream).$method($($argument),*),
            Transport::Pipe(stream) => Pin::new(stream).$method($($argument),*),
        }
    };
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // A server always reads, so that this is where it notices.
        let cut = self.cuts.iter_mut().any(|cut| cut.waiting.as_mut().poll(context).is_ready());
        if cut || self.is_cut() {
            return Poll::Ready(Err(closed()));
        }
        if self.is_held_up(context) {
            return Poll::Pending;
        }
        transport!(self, poll_read(context, buffer))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_cut() {
            return Poll::Ready(Err(closed()));
        }
        if self.is_held_up(context) {
            return Poll::Pending;
        }
        transport!(self, poll_write(context, bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        transport!(self, poll_flush(context))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        transport!(self, poll_shutdown(context))
    }
}

/// Accepts TCP connections until the server is gone.
pub(super) async fn accept(
    listener: TcpListener,
    connections: mpsc::Sender<Connection>,
    shared: Arc<Shared>,
    process: Arc<LinkState>,
) {
    let way = Arc::default();
    while let Ok(free) = connections.reserve().await {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of file handles, for example: other connections may end meanwhile.
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        if !process.is_unreachable() && !shared.look(|inner| inner.condition.unreachable) {
            free.send(Connection::new(Transport::Tcp(stream), &shared, &way, &process));
        }
    }
}

/// Connects clients in the same process.
#[derive(Clone)]
pub(super) struct Connector {
    pub(super) connections: mpsc::Sender<Connection>,
    pub(super) shared: Arc<Shared>,
    pub(super) way: Arc<LinkState>,
    /// The member's process.
    pub(super) process: Arc<LinkState>,
    /// Which of the members it leads to.
    pub(super) number: usize,
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector").finish_non_exhaustive()
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<DuplexStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self { connections, shared, way, process, .. } = self.clone();
        let (connections, shared, process) = way.elsewhere().unwrap_or((connections, shared, process));
        Box::pin(async move {
            let refused = || io::Error::new(io::ErrorKind::ConnectionRefused, "no server is there");
            let is_refused = way.is_unreachable() || process.is_unreachable();
            if is_refused || shared.look(|inner| inner.condition.unreachable) {
                return Err(refused());
            }
            let (client, server) = tokio::io::duplex(PIPE_BYTES);
            let connection = Connection::new(Transport::Pipe(server), &shared, &way, &process);
            connections.send(connection).await.map_err(|_| refused())?;
            Ok(TokioIo::new(client))
        })
    }
}
