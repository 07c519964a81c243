//! A probe: can a TCP connection be made?

use std::io::ErrorKind;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

/// How long a server may take to accept.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a probe found, and how long that took.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) result: Result<(), &'static str>,
    pub(crate) took: Duration,
}

impl Found {
    pub(crate) fn is_ok(&self) -> bool {
        self.result.is_ok()
    }
}

/// Connects to an address such as `127.0.0.1:8080`.
pub(crate) async fn probe(address: &str) -> Found {
    let started = Instant::now();
    let result = match timeout(PATIENCE, TcpStream::connect(address)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => Err("refused"),
        Ok(Err(_)) => Err("unreachable"),
        Err(_) => Err("timed out"),
    };
    Found { result, took: started.elapsed() }
}
