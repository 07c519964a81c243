//! One connection. What comes over it is noticed, and the transport never opens it again by itself.

use super::credentials::Credentials;
use super::numbers::ConnectionId;
use super::store::Counted;
use super::token_channel::TokenChannel;
use super::wire::Wire;
use etcd_client::Client;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

/// An open connection to one endpoint, with the client that uses it.
pub(crate) struct Connection {
    pub(super) number: ConnectionId,
    pub(super) client: Client,
    /// What the client sends over, for a request that the client does not know.
    pub(super) channel: TokenChannel,
    pub(super) activity: Arc<Activity>,
    /// Cancelled when it is of no use any more: nobody waits longer for an answer over it.
    pub(super) lost: CancellationToken,
    /// Cancelled when another one has taken its place: streams move there when it suits them.
    pub(super) superseded: CancellationToken,
    /// What it was opened with, if the application is asked for that.
    pub(super) credentials: Option<Arc<Credentials>>,
    /// It leads to the engine's cluster.
    pub(super) _counted: Counted,
}

impl Connection {
    /// It can still carry requests, as far as is known.
    pub(super) fn is_open(&self) -> bool {
        !self.activity.is_closed()
    }
}

/// Whether a connection is silent: a request over it has had no answer for as long as it may take, whether or
/// not somebody still waits for it, and nothing at all has come over the connection since it was sent.
///
/// A request that was sent before the last byte came proves nothing. So it is enough to know, of the requests
/// since, when the first one should have been answered.
#[derive(Debug)]
pub(super) struct Activity {
    base: Instant,
    /// When it is silent unless something comes, in microseconds after `base`; 0: nothing is waited for.
    due: AtomicU64,
    closed: AtomicBool,
    /// Whoever watches over it sleeps until a request is sent.
    idle: AtomicBool,
    busy: Notify,
    /// Whoever has found it silent sleeps until something comes.
    given_up: AtomicBool,
    spoke: Notify,
}

impl Activity {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            base: now,
            due: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            idle: AtomicBool::new(false),
            busy: Notify::new(),
            given_up: AtomicBool::new(false),
            spoke: Notify::new(),
        }
    }

    /// A request was sent, to which an answer should come in this time.
    pub(super) fn sent(&self, now: Instant, patience: Duration) {
        let due = now.saturating_duration_since(self.base).saturating_add(patience).as_micros();
        let due = u64::try_from(due).unwrap_or(u64::MAX).max(1);
        let known = self.due.load(Ordering::SeqCst);
        if known == 0 || due < known {
            self.due.store(due, Ordering::SeqCst);
            self.rouse();
        }
    }

    /// Something came.
    pub(super) fn heard(&self) {
        self.due.store(0, Ordering::SeqCst);
        if self.given_up.load(Ordering::SeqCst) && self.given_up.swap(false, Ordering::SeqCst) {
            self.spoke.notify_one();
        }
    }

    /// The connection has ended.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.rouse();
    }

    fn rouse(&self) {
        if self.idle.swap(false, Ordering::SeqCst) {
            self.busy.notify_one();
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// When it is silent unless something comes.
    pub(super) fn due(&self) -> Option<Instant> {
        match self.due.load(Ordering::SeqCst) {
            0 => None,
            micros => Some(self.base + Duration::from_micros(micros)),
        }
    }

    pub(super) fn is_silent(&self, now: Instant) -> bool {
        self.due().is_some_and(|due| due <= now)
    }

    /// Waits until it is silent or has ended. One may wait at a time.
    pub(super) async fn silent_or_closed(&self) {
        while !self.is_closed() {
            match self.due() {
                Some(due) if due <= Instant::now() => return,
                Some(due) => {
                    // A request with less patience, or the end, may come meanwhile.
                    self.idle.store(true, Ordering::SeqCst);
                    tokio::select! {
                        biased;
                        () = self.busy.notified() => {}
                        () = sleep_until(due) => {}
                    }
                }
                None => {
                    self.idle.store(true, Ordering::SeqCst);
                    if self.due().is_none() && !self.is_closed() {
                        self.busy.notified().await;
                    }
                }
            }
        }
    }

    /// Waits until something has come over a connection that was silent; for ever if it has ended. One may wait at a
    /// time.
    pub(super) async fn spoken(&self) {
        loop {
            // Before the look: what comes after that wakes.
            self.given_up.store(true, Ordering::SeqCst);
            if !self.is_closed() && !self.is_silent(Instant::now()) {
                return self.given_up.store(false, Ordering::SeqCst);
            }
            self.spoke.notified().await;
        }
    }
}

/// Opens a connection. An address that does not answer leaves time for the next one of the same name.
pub(super) async fn dial(endpoint: &str, limit: Duration) -> io::Result<Wire> {
    #[cfg(test)]
    if let Some(dialing) = super::wire::simulated::dialing(endpoint) {
        return dialing.await.map(Wire::Pipe);
    }
    let invalid = |error: String| io::Error::new(io::ErrorKind::InvalidInput, error);
    let with_scheme =
        if endpoint.contains("://") { endpoint.to_owned() } else { format!("http://{endpoint}") };
    let uri: http::Uri = with_scheme.parse().map_err(|error| invalid(format!("{endpoint}: {error}")))?;
    let host = uri.host().ok_or_else(|| invalid(format!("{endpoint} has no host")))?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
    let deadline = Instant::now() + limit;
    let late = || io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {limit:?}"));
    let found = timeout(limit, tokio::net::lookup_host((host, port))).await.map_err(|_| late())??;
    let addresses: Vec<_> = found.collect();
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"));
    for (at, address) in addresses.iter().enumerate() {
        let left = (addresses.len() - at) as u32;
        let share = deadline.saturating_duration_since(Instant::now()) / left;
        match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true)?;
                return Ok(Wire::Tcp(stream));
            }
            Ok(Err(error)) => last = error,
            Err(_) => last = late(),
        }
    }
    Err(last)
}

/// A connection that tells when something comes, and when it ends.
#[derive(Debug)]
pub(super) struct Listened {
    stream: Wire,
    activity: Arc<Activity>,
}

impl Listened {
    pub(super) fn new(stream: Wire, activity: Arc<Activity>) -> Self {
        Self { stream, activity }
    }
}

impl Drop for Listened {
    fn drop(&mut self) {
        self.activity.close();
    }
}

impl AsyncRead for Listened {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        match &read {
            Poll::Ready(Ok(())) if buffer.filled().len() > before => self.activity.heard(),
            Poll::Ready(_) => self.activity.close(),
            Poll::Pending => {}
        }
        read
    }
}

impl AsyncWrite for Listened {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// A connection that has ended is not made anew by the transport: another store may answer at the same
/// address, and must be asked who it is before it is written to.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the connection has ended")]
pub(super) struct ConnectionOver;

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_connection_is_silent_by_the_first_request_since_something_came() {
        let start = Instant::now();
        let activity = Activity::new(start);
        let silent = |seconds: u32| activity.is_silent(start + seconds * SECOND);
        assert!(!silent(100), "nothing was asked");
        activity.sent(start, SECOND);
        activity.sent(start + SECOND / 2, SECOND);
        assert!(!activity.is_silent(start + SECOND / 2));
        assert!(silent(1), "the first request counts, given up or not");
        activity.heard();
        assert!(!silent(100), "something came: what was sent before proves nothing");
        activity.sent(start + 2 * SECOND, SECOND);
        assert!(!silent(2));
        assert!(silent(3));
    }

    #[test]
    fn the_request_with_the_least_patience_decides() {
        let start = Instant::now();
        let activity = Activity::new(start);
        activity.sent(start, 3 * SECOND);
        activity.sent(start + SECOND, SECOND);
        assert_eq!(activity.due(), Some(start + 2 * SECOND));
        activity.sent(start + SECOND, 5 * SECOND);
        assert_eq!(activity.due(), Some(start + 2 * SECOND));
    }

    #[tokio::test(start_paused = true)]
    async fn who_watches_is_told_of_silence_and_of_the_end() {
        let start = Instant::now();
        let activity = Arc::new(Activity::new(start));
        let watching = |activity: &Arc<Activity>| {
            let activity = activity.clone();
            tokio::spawn(async move { activity.silent_or_closed().await })
        };
        let watched = watching(&activity);
        tokio::time::sleep(5 * SECOND).await;
        activity.sent(Instant::now(), 3 * SECOND);
        tokio::time::sleep(SECOND).await;
        activity.sent(Instant::now(), SECOND / 2);
        watched.await.unwrap();
        assert_eq!(start.elapsed().as_millis() / 100, 65, "by the request with less patience");
        activity.heard();
        let watched = watching(&activity);
        tokio::time::sleep(SECOND).await;
        activity.close();
        watched.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_sign_of_life_is_woken_by_it() {
        let start = Instant::now();
        let activity = Arc::new(Activity::new(start));
        activity.spoken().await;
        assert_eq!(start.elapsed(), Duration::ZERO, "it is not silent");
        let waiting = |activity: &Arc<Activity>| {
            let activity = activity.clone();
            tokio::spawn(async move {
                activity.spoken().await;
                Instant::now()
            })
        };
        for _ in 0..2 {
            activity.sent(Instant::now(), SECOND);
            tokio::time::sleep(SECOND).await;
            let woken = waiting(&activity);
            tokio::time::sleep(5 * SECOND).await;
            assert!(!woken.is_finished());
            activity.heard();
            assert_eq!(woken.await.unwrap(), Instant::now(), "at once");
        }
        activity.close();
        let woken = waiting(&activity);
        tokio::time::sleep(5 * SECOND).await;
        activity.heard();
        tokio::time::sleep(SECOND).await;
        assert!(!woken.is_finished(), "it has ended");
    }
}
