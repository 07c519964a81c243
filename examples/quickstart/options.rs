//! The surroundings of the example: its options, the etcd it runs on, and the signals that end it.

use clap::Parser;
use etcd_rules::embedded::EmbeddedEtcd;
use etcd_rules::etcd_client::{Client, Error, GetOptions};
use futures_util::future::select_all;
use std::future::Future;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;
use tokio::time::{sleep, timeout};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How long your etcd may take to answer.
const ANSWER: Duration = Duration::from_secs(5);

/// Polls a few servers with one rule, and shows what fires and how long after the change.
///
/// The servers are listeners that this program opens and closes. Keys below /servers/ describe them, and you
/// may change these keys with etcdctl while it runs. Without --endpoints the keys are in an etcd inside this
/// program, in memory and on loopback, which is gone at its end.
#[derive(Debug, Parser)]
pub(crate) struct Options {
    /// Run on your etcd, such as 127.0.0.1:2379 (several: a,b,c). The keys that the program puts there
    /// are deleted at its end. Default: the embedded etcd, inside this program.
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    endpoints: Vec<String>,

    /// Also poll servers that are below /servers/ in your etcd already, and write their status.
    #[arg(long, requires = "endpoints")]
    existing: bool,

    /// End after a time such as 20s, 500ms or 1m. Default: end on Ctrl-C.
    #[arg(long = "for", value_name = "TIME", value_parser = parse_duration)]
    time: Option<Duration>,
}

impl Options {
    /// Completes when the time is up. Without a time it never completes.
    pub(crate) fn end(&self) -> impl Future<Output = ()> + use<> {
        let time = self.time;
        async move {
            match time {
                Some(time) => sleep(time).await,
                None => std::future::pending().await,
            }
        }
    }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let units = [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    let parsed = units.into_iter().find_map(|(unit, seconds)| {
        let number: f64 = text.strip_suffix(unit)?.trim().parse().ok()?;
        Duration::try_from_secs_f64(number * seconds).ok()
    });
    parsed.ok_or_else(|| "a number and a unit are expected: 20s, 500ms, 1m or 1h".to_owned())
}

/// The etcd that the example runs on.
pub(crate) struct Server {
    pub(crate) endpoints: Vec<String>,
    pub(crate) version: String,
    pub(crate) client: Client,
    /// It ends with this value.
    embedded: Option<EmbeddedEtcd>,
}

impl Server {
    /// The etcd that was given, or a new one inside this program.
    pub(crate) async fn find(options: &Options) -> Result<Self, BoxError> {
        if options.endpoints.is_empty() {
            let etcd = EmbeddedEtcd::start().await?;
            return Self::connect(vec![etcd.endpoint()], Some(etcd)).await;
        }
        let server = Self::connect(options.endpoints.clone(), None).await?;
        if !options.existing {
            server.refuse_existing().await?;
        }
        Ok(server)
    }

    pub(crate) fn is_embedded(&self) -> bool {
        self.embedded.is_some()
    }

    /// The engine uses all endpoints; for the example's own requests the first that answers will do.
    async fn connect(endpoints: Vec<String>, embedded: Option<EmbeddedEtcd>) -> Result<Self, BoxError> {
        let mut problems = String::new();
        for endpoint in &endpoints {
            let ask = async {
                let mut client = Client::connect([endpoint], None).await?;
                let version = client.status().await?.version().to_owned();
                Ok((client, version))
            };
            let why = match timeout(ANSWER, ask).await {
                Ok(Ok((client, version))) => return Ok(Self { endpoints, version, client, embedded }),
                Ok(Err(Error::GRpcStatus(status))) => status.message().to_owned(),
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("nothing came within {ANSWER:?}"),
            };
            problems += &format!("\n  {endpoint}: {why}");
        }
        Err(format!("no etcd answers:{problems}").into())
    }

    /// The rule matches every server below /servers/. It must not touch the servers of somebody else.
    async fn refuse_existing(&self) -> Result<(), BoxError> {
        let first = GetOptions::new().with_prefix().with_keys_only().with_limit(1000);
        let found = self.client.clone().get("/servers/", Some(first)).await?;
        let mut keys = found.kvs().iter().filter_map(|kv| kv.key_str().ok());
        match keys.find(|key| !crate::servers::is_of_the_example(key)) {
            None => Ok(()),
            Some(key) => Err(format!(
                "this etcd has servers already ({key}), and the rule would poll them and write their status; \
                 if that is what you want: --existing"
            )
            .into()),
        }
    }
}

#[cfg(unix)]
type Signal = tokio::signal::unix::Signal;
#[cfg(windows)]
type Signal = tokio::signal::windows::CtrlC;

/// Ctrl-C, and the other ways in which Unix asks a program to end.
#[cfg(unix)]
fn signals() -> std::io::Result<Vec<Signal>> {
    use tokio::signal::unix::{SignalKind, signal};
    [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()].map(signal).into_iter().collect()
}

#[cfg(windows)]
fn signals() -> std::io::Result<Vec<Signal>> {
    Ok(vec![tokio::signal::windows::ctrl_c()?])
}

/// Signals that ask the program to end. They are noticed from [`listen`](Stop::listen) on.
pub(crate) struct Stop(Vec<Signal>);

impl Stop {
    pub(crate) fn listen() -> std::io::Result<Self> {
        Ok(Self(signals()?))
    }

    pub(crate) async fn wanted(&mut self) {
        select_all(self.0.iter_mut().map(|signal| Box::pin(signal.recv()))).await;
    }
}

/// Logs the engine's warnings to standard error. `RUST_LOG=etcd_rules=debug` shows more.
pub(crate) fn log_warnings() {
    let wanted = std::env::var("RUST_LOG").ok().and_then(|text| text.parse().ok());
    let filter = wanted.unwrap_or_else(|| Targets::new().with_default(LevelFilter::WARN));
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .without_time()
        .with_target(false);
    tracing_subscriber::registry().with(lines.with_filter(filter)).init();
}

pub(crate) fn fail(error: &BoxError) -> ExitCode {
    eprintln!("quickstart: {error}");
    ExitCode::FAILURE
}
