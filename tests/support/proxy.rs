//! A TCP proxy in front of an etcd endpoint. It can cut, freeze and restore its connections.
//!
//! It runs on a thread of its own, so that a test that blocks its runtime doesn't stop the traffic.

use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use super::etcd::free_port;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// The proxy. Stops on drop, with all its connections.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    /// Closing it ends the thread. At most one command is queued, because each waits for its answer.
    commands: Option<mpsc::Sender<(Mode, SyncSender<usize>)>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Forward,
    Freeze,
    Cut,
    /// Changes nothing. The answer has the number of connections.
    Count,
}

impl Proxy {
    /// Starts a proxy on a free loopback port, forwarding to `target` (`127.0.0.1:PORT`).
    pub fn start(target: impl Into<String>) -> Self {
        let target = target.into();
        let (listener, port) = listen_on_free_port();
        let (commands, received) = mpsc::channel(1);
        let serve = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime for the proxy").block_on(serve(listener, port, target, received));
        };
        let thread = thread::Builder::new().name("proxy".to_owned()).spawn(serve).expect("a proxy thread");
        Self { port, commands: Some(commands), thread: Some(thread) }
    }

    /// `127.0.0.1:PORT`, where clients connect.
    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Drops all connections and refuses new ones. It is in force when this returns.
    pub fn cut(&self) {
        self.command(Mode::Cut);
    }

    /// Keeps connections and accepts new ones, but forwards nothing, not even the end of a connection. Data
    /// that is sent meanwhile arrives after [`heal`](Self::heal). It is in force when this returns.
    pub fn freeze(&self) {
        self.command(Mode::Freeze);
    }

    /// Forwards again, after [`cut`](Self::cut) or [`freeze`](Self::freeze).
    pub fn heal(&self) {
        self.command(Mode::Forward);
    }

    /// The number of connections that clients hold now.
    pub fn connections(&self) -> usize {
        self.command(Mode::Count)
    }

    fn command(&self, mode: Mode) -> usize {
        let (answer, answered) = sync_channel(1);
        let commands = self.commands.as_ref().expect("commands close only on drop");
        commands.try_send((mode, answer)).expect("the proxy takes one command at a time");
        answered.recv().expect("the proxy runs until it is dropped")
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.commands = None;
        let ended = self.thread.take().map(JoinHandle::join);
        if let Some(Err(_)) = ended
            && !thread::panicking()
        {
            panic!("the proxy thread panicked");
        }
    }
}

fn listen_on_free_port() -> (std::net::TcpListener, u16) {
    for _ in 0..5 {
        let port = free_port().expect("a free port on loopback");
        if let Ok(listener) = std::net::TcpListener::bind(("127.0.0.1", port)) {
            listener.set_nonblocking(true).expect("a non-blocking listener");
            return (listener, port);
        }
    }
    panic!("no free port on loopback");
}

async fn serve(
    listener: std::net::TcpListener,
    port: u16,
    target: String,
    mut commands: mpsc::Receiver<(Mode, SyncSender<usize>)>,
) {
    let mut listener = Some(TcpListener::from_std(listener).expect("a listener of this runtime"));
    let frozen = watch::Sender::new(false);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            command = commands.recv() => {
                let Some((mode, answer)) = command else { return };
                match mode {
                    Mode::Cut => {
                        listener = None;
                        connections.shutdown().await;
                    }
                    Mode::Forward | Mode::Freeze => {
                        frozen.send_replace(mode == Mode::Freeze);
                        if listener.is_none() {
                            listener = Some(listen_again(port).await);
                        }
                    }
                    Mode::Count => while connections.try_join_next().is_some() {},
                }
                // The caller waits for the answer, unless its test is being torn down.
                let _ = answer.send(connections.len());
            }
            accepted = accept(listener.as_ref()) => {
                if let Ok(client) = accepted {
                    connections.spawn(forward(client, target.clone(), frozen.subscribe()));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// The next connection. Without a listener it never comes.
async fn accept(listener: Option<&TcpListener>) -> io::Result<TcpStream> {
    match listener {
        Some(listener) => Ok(listener.accept().await?.0),
        None => std::future::pending().await,
    }
}

async fn listen_again(port: u16) -> TcpListener {
    TcpListener::bind(("127.0.0.1", port)).await.expect("nobody else took the proxy's port while it was cut")
}

/// Forwards one connection until either side ends it.
async fn forward(client: TcpStream, target: String, mut frozen: watch::Receiver<bool>) -> io::Result<()> {
    thaw(&mut frozen).await?;
    let server = TcpStream::connect(&target).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::try_join!(pump(from_client, to_server, frozen.clone()), pump(from_server, to_client, frozen),)?;
    Ok(())
}

/// Forwards one direction of a connection. While frozen, it holds back data, the end, and failures.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut frozen: watch::Receiver<bool>,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = from.read(&mut buffer).await;
        thaw(&mut frozen).await?;
        match read? {
            0 => return to.shutdown().await,
            length => to.write_all(&buffer[..length]).await?,
        }
    }
}

async fn thaw(frozen: &mut watch::Receiver<bool>) -> io::Result<()> {
    frozen.wait_for(|frozen| !frozen).await.map(drop).map_err(|_| io::ErrorKind::ConnectionAborted.into())
}
