//! Listens, on a thread of its own, and hands requests on.

use super::Shared;
use super::router::{Answer, route};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{self, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Connections at once; more wait to be accepted. Each serves one request, so that none is idle.
const CONNECTIONS: usize = 64;

/// How long the headers of a request may take to come, and how long all of a connection may take.
const HEADERS: Duration = Duration::from_secs(5);
const CONNECTION: Duration = Duration::from_secs(30);

/// How long requests under way may take at the end.
const END: Duration = Duration::from_secs(1);

/// Bytes of a request's head at most.
const HEAD: usize = 16 << 10;

/// A listening server. Ends when it is dropped, a little later if requests are under way.
pub(super) struct Server {
    address: SocketAddr,
    stop: CancellationToken,
}

impl Server {
    pub(super) fn start(address: SocketAddr, shared: Arc<Shared>) -> std::io::Result<Self> {
        let listener = StdListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let thread = std::thread::Builder::new().name("etcd-rules-http".into());
        thread.spawn(move || {
            if let Err(error) = runtime.block_on(serve(listener, address, shared, stopped)) {
                tracing::error!(%address, %error, "HTTP endpoint failed");
            }
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

async fn serve(
    listener: StdListener,
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let next = async {
            // The semaphore is never closed.
            let slot = slots.clone().acquire_owned().await;
            (slot, listener.accept().await)
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => {}
            (slot, accepted) = next => match accepted {
                Ok((stream, _)) => {
                    let shared = shared.clone();
                    connections.spawn(async move {
                        let _slot = slot;
                        // The client was too slow: the connection is closed.
                        let _ = timeout(CONNECTION, connection(stream, address, shared)).await;
                    });
                }
                // Out of file descriptors, for example.
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
        }
    }
    drop(listener);
    // Connections that are not done by then are closed.
    let _ = timeout(END, async { while connections.join_next().await.is_some() {} }).await;
    Ok(())
}

async fn connection(stream: TcpStream, address: SocketAddr, shared: Arc<Shared>) {
    let service = service_fn(move |request| {
        let shared = shared.clone();
        async move { Ok::<_, Infallible>(handle(request, address, &shared).await) }
    });
    // An error is the client's: it went away, or does not speak HTTP.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .max_buf_size(HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn handle<B>(request: Request<B>, address: SocketAddr, shared: &Shared) -> Response<Full<Bytes>> {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("");
    let answer = if !matches!(*request.method(), Method::GET | Method::HEAD) {
        Answer::text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD: everything is read-only\n")
    } else if address.ip().is_loopback() && !names_loopback(host) {
        Answer::text(StatusCode::MISDIRECTED_REQUEST, "the Host of the request is not a loopback address\n")
    } else {
        route(request.uri().path(), request.uri().query().unwrap_or(""), shared).await
    };
    let Answer { status, kind, body } = answer;
    let mut response = Response::new(Full::new(body.into()));
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
