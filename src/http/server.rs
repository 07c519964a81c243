//! Listens, on a thread of its own, and hands requests on.

use super::HttpState;
use super::connections::{Admission, ConnectionNumber, Connections};
use super::events::{EventBody, Reading};
use super::router::{self, Asked, HttpResponse, route};
use http_body_util::{Either, Full};
use hyper::body::Bytes;
use hyper::header::{self, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Notify;
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

/// Connections that wait to be accepted. They do so for moments, but many may come at once.
const BACKLOG: u32 = 1024;

/// How long the head of a request may take to come, how long until its answer is made, and how long that may take to
/// be written. A connection serves one request, so that none is idle in between.
const READ: Duration = Duration::from_secs(5);
const ANSWER: Duration = Duration::from_secs(30);
const WRITE: Duration = Duration::from_secs(30);

/// How long to wait after a connection could not be accepted.
const PAUSE: Duration = Duration::from_millis(20);

/// How long requests under way may take at the end.
const END: Duration = Duration::from_secs(1);

/// Bytes of a request's head at most.
const HEAD: usize = 16 << 10;

/// Threads that make pages and metrics, so that probes are answered in the meantime.
const MAKERS: usize = 2;

/// A listening server. Ends when it is dropped, a little later if requests are under way.
pub(super) struct Server {
    address: SocketAddr,
    stop: CancellationToken,
}

impl Server {
    pub(super) fn start(address: SocketAddr, shared: Arc<HttpState>) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(MAKERS)
            .thread_name("etcd-rules-http")
            .build()?;
        let inside = runtime.enter();
        let listening = listen(address).and_then(|listener| Ok((listener.local_addr()?, listener)));
        drop(inside);
        let (address, listener) = match listening {
            Ok(listening) => listening,
            Err(error) => {
                // A runtime that is dropped waits for its threads, which a thread of another runtime must not.
                runtime.shutdown_background();
                return Err(error);
            }
        };
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let thread = std::thread::Builder::new().name("etcd-rules-http".into());
        thread.spawn(move || {
            runtime.block_on(serve(listener, address, shared, stopped));
            runtime.shutdown_background();
        })?;
        Ok(Self { address, stop })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // As the standard library does: an endpoint that starts again takes the port of the one before. Elsewhere it would
    // take a port that another process listens on.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// All connections. The guard is never held across an `.await`.
#[derive(Clone)]
struct Table(Arc<Mutex<Connections<CancellationToken>>>);

impl Table {
    fn lock(&self) -> MutexGuard<'_, Connections<CancellationToken>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn close(closer: Option<CancellationToken>) {
    if let Some(closer) = closer {
        closer.cancel();
    }
}

async fn serve(listener: TcpListener, address: SocketAddr, shared: Arc<HttpState>, stop: CancellationToken) {
    let table = Table(Arc::new(Mutex::new(Connections::new())));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let closed = CancellationToken::new();
                    let (number, other) = table.lock().admit(closed.clone());
                    close(other);
                    let (shared, table) = (shared.clone(), table.clone());
                    connections.spawn(async move {
                        let connection = Connection { number, address, shared, table, answered: Notify::new(), reading: OnceLock::new() };
                        connection.serve(stream, closed).await;
                    });
                    // Otherwise, when many connect at once, some make room before their request was read.
                    yield_now().await;
                }
                // Out of file descriptors, for example. Those of the endpoint make room, one by one.
                Err(error) => {
                    tracing::debug!(%address, %error, "HTTP endpoint could not accept a connection");
                    close(table.lock().make_room());
                    sleep(PAUSE).await;
                }
            }
        }
    }
    drop(listener);
    // Connections that are not done by then are closed.
    let _ = timeout(END, async { while connections.join_next().await.is_some() {} }).await;
}

struct Connection {
    number: ConnectionNumber,
    address: SocketAddr,
    shared: Arc<HttpState>,
    table: Table,
    /// The answer is made.
    answered: Notify,
    /// It is told events, and has taken the last of them so.
    reading: OnceLock<Reading>,
}

impl Connection {
    /// Serves one request, unless it takes too long or the connection makes room for another one.
    async fn serve(self, stream: TcpStream, closed: CancellationToken) {
        let this = &self;
        let service =
            service_fn(move |request| async move { Ok::<_, Infallible>(this.handle(request).await) });
        let serving = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(READ)
            .max_buf_size(HEAD)
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service);
        let too_slow = async {
            if timeout(READ + ANSWER, self.answered.notified()).await.is_ok() {
                match self.reading.get() {
                    None => sleep(WRITE).await,
                    Some(reading) => nothing_is_read(reading).await,
                }
            }
        };
        tokio::select! {
            biased;
            () = closed.cancelled() => {}
            // An error is the client's: it went away, or does not speak HTTP.
            _ = serving => {}
            () = too_slow => {}
        }
        self.table.lock().remove(self.number);
    }

    async fn handle<B>(&self, request: Request<B>) -> Response<Reply> {
        let response = match self.answer(&request).await {
            Ok(answer) => response_of(answer),
            Err(events) => {
                let _ = self.reading.set(events.reading());
                let (status, kind) = (StatusCode::OK, "text/event-stream");
                response_of(HttpResponse { status, kind, body: String::new() })
                    .map(|_| Either::Right(*events))
            }
        };
        self.answered.notify_one();
        response
    }

    /// An answer, or else one that goes on.
    async fn answer<B>(&self, request: &Request<B>) -> Result<HttpResponse, Box<EventBody>> {
        let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("");
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Ok(HttpResponse::text(
                StatusCode::METHOD_NOT_ALLOWED,
                "only GET and HEAD: everything is read-only\n",
            ));
        }
        if self.address.ip().is_loopback() && !names_loopback(host) {
            return Ok(HttpResponse::text(
                StatusCode::MISDIRECTED_REQUEST,
                "the Host of the request is not a loopback address\n",
            ));
        }
        Ok(match route(request.uri().path(), request.uri().query().unwrap_or(""), &self.shared) {
            Asked::Probe(answer) => answer,
            Asked::Page(page) => {
                let admission = self.table.lock().begin_page(self.number);
                match admission {
                    Admission::Admitted { instead_of } => close(instead_of),
                    Admission::Full => {
                        return Ok(HttpResponse::text(
                            StatusCode::SERVICE_UNAVAILABLE,
                            "too many pages at once: try again\n",
                        ));
                    }
                }
                let answer = page.make(&self.shared).await;
                self.table.lock().begin_writing(self.number);
                answer
            }
            Asked::Events(parameters) => {
                let may = self.table.lock().begin_stream(self.number);
                if !may {
                    let text = "too many are told events: try again\n";
                    return Ok(HttpResponse::text(StatusCode::SERVICE_UNAVAILABLE, text));
                }
                match router::events(&parameters, &self.shared).await {
                    Ok(events) => return Err(Box::new(events)),
                    Err(refused) => {
                        self.table.lock().begin_writing(self.number);
                        refused
                    }
                }
            }
        })
    }
}

/// The body of an answer.
type Reply = Either<Full<Bytes>, EventBody>;

/// Waits until a client has taken nothing for as long as a page may take to be written.
async fn nothing_is_read(reading: &Reading) {
    while reading.since() + WRITE > Instant::now() {
        sleep_until(reading.since() + WRITE).await;
    }
}

fn response_of(answer: HttpResponse) -> Response<Reply> {
    let HttpResponse { status, kind, body } = answer;
    let mut response = Response::new(Either::Left(Full::new(body.into())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}

/// A web page whose own name was made to resolve to this machine must not read the answers.
fn names_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.split(':').next().unwrap_or(""),
    };
    let name = name.trim_end_matches('.');
    // A browser always sends a name.
    name.is_empty()
        || name.eq_ignore_ascii_case("localhost")
        || name.to_ascii_lowercase().ends_with(".localhost")
        || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_names_are_loopback() {
        for (host, expected) in [
            ("localhost", true),
            ("LocalHost:9464", true),
            ("engine.localhost:1", true),
            ("127.0.0.1:9464", true),
            ("127.9.9.9", true),
            ("[::1]:9464", true),
            ("", true),
            ("evil.example", false),
            ("localhost.evil.example:9464", false),
            ("notlocalhost", false),
            ("10.0.0.1:9464", false),
            ("[fe80::1]:9464", false),
        ] {
            assert_eq!(names_loopback(host), expected, "{host}");
        }
    }
}
