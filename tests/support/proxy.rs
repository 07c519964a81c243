//! A TCP proxy in front of an etcd endpoint. It can cut, freeze and restore its connections.
//!
//! It runs on a thread of its own, so that a test that blocks its runtime doesn't stop the traffic.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::etcd::free_port;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// The proxy. Stops on drop, with all its connections.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    /// Closing it ends the thread. At most one command is queued, because each waits for its answer.
    commands: Option<mpsc::Sender<(Mode, SyncSender<usize>)>>,
    thread: Option<JoinHandle<()>>,
    accepted: Arc<AtomicUsize>,
    /// Bytes a second that the server's side carries; 0: as many as there are.
    limit: Arc<AtomicUsize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Forward,
    Freeze,
    /// Connections that are open stand still for ever; new ones are forwarded.
    Silence,
    /// What the server sends comes later by so much, on connections that are made from now on.
    Delay(Duration),
    Cut,
    /// Connections that are made from now on lead to another port of this machine.
    LeadTo(u16),
    /// Changes nothing. The answer has the number of connections.
    Count,
}

impl Proxy {
    /// Starts a proxy on a free loopback port, forwarding to `target` (`127.0.0.1:PORT`).
    pub fn start(target: impl Into<String>) -> Self {
        let target = target.into();
        let (listener, port) = listen_on_free_port();
        let (commands, received) = mpsc::channel(1);
        let accepted = Arc::new(AtomicUsize::new(0));
        let counted = accepted.clone();
        let limit = Arc::new(AtomicUsize::new(0));
        let rate = limit.clone();
        let serve = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime
                .expect("a runtime for the proxy")
                .block_on(serve(listener, port, target, received, counted, rate));
        };
        let thread = thread::Builder::new().name("proxy".to_owned()).spawn(serve).expect("a proxy thread");
        Self { port, commands: Some(commands), thread: Some(thread), accepted, limit }
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

    /// Connections that are open carry nothing any more until [`heal`](Self::heal); new ones work. In force when this
    /// returns.
    pub fn silence(&self) {
        self.command(Mode::Silence);
    }

    /// What the server sends comes later by so much, on connections that are made from now on.
    pub fn delay(&self, by: Duration) {
        self.command(Mode::Delay(by));
    }

    /// Connections that are made from now on lead to another server (`127.0.0.1:PORT`).
    pub fn lead_to(&self, target: &str) {
        let port = target.rsplit(':').next().and_then(|port| port.parse().ok());
        self.command(Mode::LeadTo(port.expect("a port")));
    }

    /// What the server sends takes its time: each connection carries so many bytes a second, until
    /// [`heal`](Self::heal).
    pub fn limit(&self, bytes: usize) {
        self.limit.store(bytes, Ordering::SeqCst);
    }

    /// The number of connections that clients have made so far.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Forwards again, after [`cut`](Self::cut) or [`freeze`](Self::freeze).
    pub fn heal(&self) {
        self.limit(0);
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
    mut target: String,
    mut commands: mpsc::Receiver<(Mode, SyncSender<usize>)>,
    count: Arc<AtomicUsize>,
    limit: Arc<AtomicUsize>,
) {
    let mut listener = Some(TcpListener::from_std(listener).expect("a listener of this runtime"));
    let mut frozen = watch::Sender::new(false);
    // Of connections that were silenced.
    let mut silenced: Vec<watch::Sender<bool>> = Vec::new();
    let mut delay = Duration::ZERO;
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
                    Mode::Silence => {
                        frozen.send_replace(true);
                        silenced.push(std::mem::replace(&mut frozen, watch::Sender::new(false)));
                    }
                    Mode::Delay(by) => delay = by,
                    Mode::LeadTo(port) => target = format!("127.0.0.1:{port}"),
                    Mode::Forward | Mode::Freeze => {
                        frozen.send_replace(mode == Mode::Freeze);
                        if mode == Mode::Forward {
                            for silenced in silenced.drain(..) {
                                silenced.send_replace(false);
                            }
                            delay = Duration::ZERO;
                        }
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
                    count.fetch_add(1, Ordering::SeqCst);
                    connections.spawn(forward(client, target.clone(), frozen.subscribe(), delay, limit.clone()));
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

/// One connection, until either side ends it.
async fn forward(
    client: TcpStream,
    target: String,
    mut frozen: watch::Receiver<bool>,
    delay: Duration,
    limit: Arc<AtomicUsize>,
) -> io::Result<()> {
    thaw(&mut frozen).await?;
    let server = TcpStream::connect(&target).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let up = pump(from_client, to_server, frozen.clone(), Arc::default());
    if delay.is_zero() {
        tokio::try_join!(up, pump(from_server, to_client, frozen, limit))?;
    } else {
        tokio::try_join!(up, delayed(from_server, to_client, delay))?;
    }
    Ok(())
}

/// Forwards one direction of a connection. While frozen, it holds back data, the end, and failures.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut frozen: watch::Receiver<bool>,
    limit: Arc<AtomicUsize>,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = from.read(&mut buffer).await;
        thaw(&mut frozen).await?;
        match read? {
            0 => return to.shutdown().await,
            length => {
                to.write_all(&buffer[..length]).await?;
                let limit = limit.load(Ordering::SeqCst);
                if limit > 0 {
                    tokio::time::sleep(Duration::from_secs_f64(length as f64 / limit as f64)).await;
                }
            }
        }
    }
}

/// One direction, everything later by so much.
async fn delayed(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, by: Duration) -> io::Result<()> {
    let (sender, mut receiver) = mpsc::channel::<(Instant, Vec<u8>)>(4096);
    let reading = async move {
        loop {
            let mut buffer = vec![0; 16 * 1024];
            let length = from.read(&mut buffer).await?;
            buffer.truncate(length);
            let due = Instant::now() + by;
            if sender.send((due, buffer)).await.is_err() || length == 0 {
                return Ok::<(), io::Error>(());
            }
        }
    };
    let writing = async move {
        while let Some((due, bytes)) = receiver.recv().await {
            sleep_until(due).await;
            match bytes.len() {
                0 => return to.shutdown().await,
                _ => to.write_all(&bytes).await?,
            }
        }
        Ok(())
    };
    tokio::try_join!(reading, writing).map(drop)
}

async fn thaw(frozen: &mut watch::Receiver<bool>) -> io::Result<()> {
    frozen.wait_for(|frozen| !frozen).await.map(drop).map_err(|_| io::ErrorKind::ConnectionAborted.into())
}
