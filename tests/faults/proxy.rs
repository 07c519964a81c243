//! A TCP proxy that does to connections what networks do: silence, silence of those that are open while new ones work,
//! resets, refusal, latency, little bandwidth, and each direction by itself. It counts what it kept back, as the proof
//! that the fault was felt.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};

/// So many pieces of data, of 64 KiB at most, are on their way in one direction; who sends more waits.
const ON_THEIR_WAY: usize = 64;

/// What the network does at present.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Weather {
    /// New connections are refused.
    pub refuse: bool,
    /// What clients send is kept back.
    pub silent_up: bool,
    /// What the server sends is kept back.
    pub silent_down: bool,
    /// Each piece of data is so much later.
    pub latency: Duration,
    /// Bytes a second in each direction of each connection.
    pub bandwidth: Option<u64>,
    /// Of a proxy between members: what comes from members with these ids is kept back, and what goes to them.
    pub without: BTreeSet<u64>,
    /// Connections with smaller numbers are silent for ever: what is sent over them is lost.
    pub deaf_below: u64,
    /// Connections with smaller numbers are reset.
    pub reset_below: u64,
}

impl Weather {
    pub fn silent() -> Self {
        Self { silent_up: true, silent_down: true, ..Self::default() }
    }
}

/// What went over the connections of clients; a prober's are not counted.
#[derive(Debug, Default)]
struct Counters {
    connections: AtomicU64,
    ended: AtomicU64,
    forwarded: AtomicU64,
    kept_back: AtomicU64,
    lost: AtomicU64,
    refused: AtomicU64,
    reset: AtomicU64,
}

/// The figures of a [`Proxy`] so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Felt {
    /// Connections that were made.
    pub connections: u64,
    /// Those of them that have ended.
    pub ended: u64,
    /// Bytes that arrived.
    pub forwarded: u64,
    /// Pieces of data that waited.
    pub kept_back: u64,
    /// Bytes that were swallowed.
    pub lost: u64,
    pub refused: u64,
    pub reset: u64,
}

struct Shared {
    target: watch::Sender<SocketAddr>,
    weather: watch::Sender<Weather>,
    counters: Counters,
    /// Numbers the connections.
    next: AtomicU64,
    /// Whether connections begin with a request that says from which member they come.
    between_members: bool,
}

/// The proxy. Its connections end with it.
pub struct Proxy {
    address: SocketAddr,
    for_probes: SocketAddr,
    shared: Arc<Shared>,
    tasks: [AbortHandle; 2],
}

impl Proxy {
    /// A proxy on a free port, in front of `target`, on the present runtime.
    pub fn start(target: SocketAddr) -> Self {
        Self::with(target, false)
    }

    /// A proxy between the members of a cluster, in front of one of them.
    pub fn between_members(target: SocketAddr) -> Self {
        Self::with(target, true)
    }

    fn with(target: SocketAddr, between_members: bool) -> Self {
        let shared = Arc::new(Shared {
            target: watch::Sender::new(target),
            weather: watch::Sender::default(),
            counters: Counters::default(),
            next: AtomicU64::new(1),
            between_members,
        });
        let serving = |counted: bool| {
            let listener = listen().expect("a free port on loopback");
            let address = listener.local_addr().expect("a listener has an address");
            (address, tokio::spawn(serve(listener, shared.clone(), counted)).abort_handle())
        };
        let (address, clients) = serving(true);
        let (for_probes, probes) = serving(false);
        Self { address, for_probes, shared, tasks: [clients, probes] }
    }

    /// Where clients connect.
    pub fn endpoint(&self) -> String {
        self.address.to_string()
    }

    /// The same way to the server, for a prober, whose connections are not counted.
    pub fn endpoint_for_probes(&self) -> String {
        self.for_probes.to_string()
    }

    /// Changes what the network does, to connections that are open too.
    pub fn set(&self, weather: Weather) {
        self.shared.weather.send_modify(|now| {
            let (deaf_below, reset_below) = (now.deaf_below, now.reset_below);
            *now = Weather { deaf_below, reset_below, ..weather };
        });
    }

    pub fn heal(&self) {
        self.set(Weather::default());
    }

    /// All connections that are open go silent, for ever; new ones work.
    pub fn deafen(&self) {
        let next = self.shared.next.load(SeqCst);
        self.shared.weather.send_modify(|now| now.deaf_below = next);
    }

    /// All connections that are open are reset; new ones work.
    pub fn reset(&self) {
        let next = self.shared.next.load(SeqCst);
        self.shared.weather.send_modify(|now| now.reset_below = next);
    }

    /// New connections lead to another server, as behind a name with a new address.
    pub fn retarget(&self, target: SocketAddr) {
        self.shared.target.send_replace(target);
    }

    pub fn felt(&self) -> Felt {
        let Counters { connections, ended, forwarded, kept_back, lost, refused, reset } =
            &self.shared.counters;
        let [connections, ended, forwarded, kept_back, lost, refused, reset] =
            [connections, ended, forwarded, kept_back, lost, refused, reset]
                .map(|counter| counter.load(SeqCst));
        Felt { connections, ended, forwarded, kept_back, lost, refused, reset }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

/// A listener on a free port, with room for many who come at once.
fn listen() -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    socket.listen(1024)
}

async fn serve(listener: TcpListener, shared: Arc<Shared>, counted: bool) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // A client that has gone again while it waited is no fault of the listener.
                let Ok((client, _)) = accepted else { continue };
                let number = shared.next.fetch_add(1, SeqCst);
                let connection = Connection { shared: shared.clone(), number, counted };
                connections.spawn(connection.run(client));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

struct Connection {
    shared: Arc<Shared>,
    number: u64,
    counted: bool,
}

/// Counts the end of a connection, whatever ends it.
struct Open<'a>(&'a Connection);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.count(|counters| &counters.ended, 1);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Up,
    Down,
}

impl Connection {
    fn count(&self, counter: impl FnOnce(&Counters) -> &AtomicU64, by: u64) {
        if self.counted {
            counter(&self.shared.counters).fetch_add(by, SeqCst);
        }
    }

    /// Until either side ends it, or it is reset. Errors of either side end it too: that is all there is to do.
    async fn run(self, client: TcpStream) {
        if self.shared.weather.borrow().refuse {
            self.count(|counters| &counters.refused, 1);
            return reset(client);
        }
        self.count(|counters| &counters.connections, 1);
        let _open = Open(&self);
        let target = *self.shared.target.borrow();
        let Ok(mut server) = TcpStream::connect(target).await else { return reset(client) };
        let mut client = client;
        if client.set_nodelay(true).and(server.set_nodelay(true)).is_err() {
            return;
        }
        let (mut first, mut from) = (Vec::new(), None);
        if self.shared.between_members {
            (first, from) = read_head(&mut client).await;
        }
        let was_reset = {
            let (mut client_reads, mut client_writes) = client.split();
            let (mut server_reads, mut server_writes) = server.split();
            let up = async {
                self.pass(Direction::Up, from, &first, &mut server_writes).await?;
                self.pump(Direction::Up, from, &mut client_reads, &mut server_writes).await
            };
            let down = self.pump(Direction::Down, from, &mut server_reads, &mut client_writes);
            let both = async { tokio::try_join!(up, down) };
            let mut weather = self.shared.weather.subscribe();
            tokio::select! {
                _ = both => false,
                reset = weather.wait_for(|weather| self.number < weather.reset_below) => reset.is_ok(),
            }
        };
        if was_reset {
            self.count(|counters| &counters.reset, 1);
            reset(client);
            reset(server);
        }
    }

    /// Reads and sends on, at the same time: what is late does not make later what comes behind it.
    async fn pump(
        &self,
        direction: Direction,
        from: Option<u64>,
        reads: &mut (impl AsyncReadExt + Unpin),
        writes: &mut (impl AsyncWriteExt + Unpin),
    ) -> io::Result<()> {
        let (on_its_way, mut arriving) = mpsc::channel::<(Instant, Vec<u8>)>(ON_THEIR_WAY);
        let read = async move {
            let mut buffer = vec![0; 64 * 1024];
            loop {
                let length = reads.read(&mut buffer).await?;
                let due = Instant::now() + self.shared.weather.borrow().latency;
                let sent = on_its_way.send((due, buffer[..length].to_vec())).await;
                if length == 0 || sent.is_err() {
                    return io::Result::Ok(());
                }
            }
        };
        let write = async {
            while let Some((due, data)) = arriving.recv().await {
                sleep_until(due).await;
                // A peer that has gone is told too, but not through silence.
                if data.is_empty() {
                    self.wait_for_passage(direction, from).await;
                    return writes.shutdown().await;
                }
                self.pass(direction, from, &data, writes).await?;
            }
            Ok(())
        };
        tokio::try_join!(read, write).map(drop)
    }

    /// Sends a piece of data on, if and when the weather lets it pass.
    async fn pass(
        &self,
        direction: Direction,
        from: Option<u64>,
        data: &[u8],
        writes: &mut (impl AsyncWriteExt + Unpin),
    ) -> io::Result<()> {
        if !self.wait_for_passage(direction, from).await {
            self.count(|counters| &counters.lost, data.len() as u64);
            return Ok(());
        }
        let bandwidth = self.shared.weather.borrow().bandwidth;
        if let Some(bandwidth) = bandwidth {
            sleep(Duration::from_secs_f64(data.len() as f64 / bandwidth as f64)).await;
        }
        writes.write_all(data).await?;
        self.count(|counters| &counters.forwarded, data.len() as u64);
        Ok(())
    }

    /// False if what is sent is lost.
    async fn wait_for_passage(&self, direction: Direction, from: Option<u64>) -> bool {
        let is_deaf = |weather: &Weather| self.number < weather.deaf_below;
        let is_silent = |weather: &Weather| {
            let by_direction = match direction {
                Direction::Up => weather.silent_up,
                Direction::Down => weather.silent_down,
            };
            by_direction || from.is_some_and(|from| weather.without.contains(&from))
        };
        let mut weather = self.shared.weather.subscribe();
        if is_silent(&weather.borrow()) {
            self.count(|counters| &counters.kept_back, 1);
        }
        let passes = weather.wait_for(|weather| is_deaf(weather) || !is_silent(weather)).await;
        // The sender lives as long as the connection.
        passes.is_ok_and(|weather| !is_deaf(&weather))
    }
}

/// Ends a connection with a reset, so that the other side notices at once.
fn reset(stream: TcpStream) {
    // What has ended already needs no reset.
    let _ = stream.set_zero_linger();
}

/// The head of the first request of a connection between members, and the id of the member that sent it.
async fn read_head(client: &mut TcpStream) -> (Vec<u8>, Option<u64>) {
    const LONGEST: usize = 16 * 1024;
    let mut head = Vec::new();
    while head.len() < LONGEST && !head.windows(4).any(|end| end == b"\r\n\r\n") {
        match client.read_buf(&mut head).await {
            Ok(length) if length > 0 => {}
            _ => break,
        }
    }
    let text = String::from_utf8_lossy(&head);
    let from = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("X-Server-From").then(|| u64::from_str_radix(value.trim(), 16).ok())?
    });
    (head, from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::timeout;

    /// A server that sends everything back, behind a proxy.
    async fn echo() -> Proxy {
        let listener = listen().unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut reads, mut writes) = client.split();
                    tokio::io::copy(&mut reads, &mut writes).await
                });
            }
        });
        Proxy::start(address)
    }

    async fn connect(proxy: &Proxy) -> TcpStream {
        TcpStream::connect(proxy.endpoint()).await.unwrap()
    }

    /// Whether a byte comes back.
    async fn answers(client: &mut TcpStream) -> bool {
        client.write_all(b"x").await.unwrap();
        returns(client).await
    }

    async fn returns(client: &mut TcpStream) -> bool {
        let mut byte = [0];
        let read = timeout(Duration::from_millis(300), client.read(&mut byte)).await;
        matches!(read, Ok(Ok(1)))
    }

    #[tokio::test]
    async fn open_connections_go_silent_for_ever_while_new_ones_work() {
        let proxy = echo().await;
        let mut old = connect(&proxy).await;
        assert!(answers(&mut old).await);
        proxy.deafen();
        assert!(!answers(&mut old).await);
        assert!(answers(&mut connect(&proxy).await).await);
        proxy.heal();
        assert!(!answers(&mut old).await);
        assert_eq!(proxy.felt().lost, 2);
    }

    #[tokio::test]
    async fn what_is_kept_back_in_either_direction_arrives_after_the_silence() {
        for (silent_up, silent_down) in [(true, false), (false, true), (true, true)] {
            let proxy = echo().await;
            let mut client = connect(&proxy).await;
            assert!(answers(&mut client).await);
            proxy.set(Weather { silent_up, silent_down, ..Weather::default() });
            assert!(!answers(&mut client).await);
            assert!(!answers(&mut connect(&proxy).await).await);
            assert!(proxy.felt().kept_back >= 2);
            proxy.heal();
            assert!(returns(&mut client).await);
        }
    }

    #[tokio::test]
    async fn what_is_late_does_not_make_later_what_comes_behind_it() {
        let proxy = echo().await;
        let mut client = connect(&proxy).await;
        assert!(answers(&mut client).await);
        proxy.set(Weather { latency: Duration::from_millis(200), ..Weather::default() });
        let begin = Instant::now();
        for _ in 0..8 {
            client.write_all(b"x").await.unwrap();
            sleep(Duration::from_millis(20)).await;
        }
        client.read_exact(&mut [0; 8]).await.unwrap();
        let took = begin.elapsed();
        assert!(took >= Duration::from_millis(540) && took < Duration::from_millis(1500), "{took:?}");
    }

    #[tokio::test]
    async fn connections_are_reset_refused_and_led_elsewhere() {
        let (proxy, other) = (echo().await, echo().await);
        let mut client = connect(&proxy).await;
        assert!(answers(&mut client).await);
        proxy.reset();
        let read = client.read(&mut [0]).await;
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        proxy.set(Weather { refuse: true, ..Weather::default() });
        let mut refused = connect(&proxy).await;
        assert!(!returns(&mut refused).await);
        assert_eq!(proxy.felt().refused, 1);
        proxy.heal();
        proxy.retarget(other.address);
        assert!(answers(&mut connect(&proxy).await).await);
        assert_eq!(other.felt().connections, 1);
        assert_eq!(proxy.felt().reset, 1);
    }

    #[tokio::test]
    async fn a_member_is_known_by_the_head_of_its_first_request() {
        let listener = listen().unwrap();
        let address = listener.local_addr().unwrap();
        let server = async { read_head(&mut listener.accept().await.unwrap().0).await };
        let client = async {
            let mut client = TcpStream::connect(address).await.unwrap();
            client.write_all(b"GET /raft/stream HTTP/1.1\r\nX-Ser").await.unwrap();
            sleep(Duration::from_millis(20)).await;
            client.write_all(b"ver-From: 1f\r\n\r\n").await.unwrap();
            client
        };
        let ((head, from), _client) = tokio::join!(server, client);
        assert_eq!(from, Some(0x1f));
        assert!(head.ends_with(b"\r\n\r\n"));
    }
}
