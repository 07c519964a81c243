//! An HTTP endpoint for operators (feature `http`): probes, metrics, and pages that tell what the rules and
//! their instances are doing. Everything is read-only.
//!
//! | path | tells |
//! |---|---|
//! | `/livez`, `/readyz` | 200 or 503, by [`Health::is_live`](crate::Health::is_live) and [`Health::can_fire`](crate::Health::can_fire) of all engines; with `/readyz?strict` by [`Health::is_ready`](crate::Health::is_ready); with `?verbose` each check, with `?exclude=lagging` (or `?exclude=ENGINE/lagging`) all but this one, as Kubernetes' own probes do |
//! | `/metrics` | what the application's exporter [renders](EndpointBuilder::metrics), in the text format of Prometheus |
//! | `/` | the engines with their health, and their rules with the number of instances in each state |
//! | `/instances` | instances, by engine, rule, state and attributes, page by page |
//! | `/explain` | why an instance is true or false, and what the engine does about it |
//! | `/api/engines`, `/api/instances`, `/api/explain` | the same as JSON, with the same parameters |
//! | `/api/events` | what happens to instances from now on, as server-sent events |
//!
//! Parameters of `/instances`: `engine` (a name; default: the first), `rule` (an id), `state` (a
//! [name](crate::inspect::StateKind::name); may be repeated), `attr.NAME` (a value; needs [`Reveal::Keys`]), `limit`
//! (1 to 1000; default 100), `after` (where the page before ended). Of `/explain`: `engine`, `rule` and `attr.NAME`
//! for each of the rule's attributes.
//!
//! `/api/events` tells one engine's [events](crate::events), each as one line of JSON under its
//! [name](crate::events::EventKind::name), so that a test in another process can await a firing: `curl -N
//! 'http://127.0.0.1:9464/api/events?rule=poll&kind=closed&outcome=done'`. The first is `listening`: nothing that
//! happens after it is missed. Parameters: `engine` (a name; default: the first), `rule` (an id), `kind` and
//! `outcome` (names; only `ended` and `closed` have an outcome), each of which may be repeated, and `attr.NAME` (a
//! value; needs [`Reveal::Keys`]). Who reads too slowly misses the oldest, beyond the engine's
//! [buffer](crate::EngineBuilder::event_buffer), and is told how many by an event `lagged`. A comment is sent at
//! least every 10 s. The stream ends with the engine.
//!
//! No key and no value is shown unless the engine [reveals](crate::EngineBuilder::reveal) it: without
//! [`Reveal::Keys`] a page tells how many instances are in which state and for how long, but not which,
//! and events don't tell which instance; explanations need `Keys`, and show values with [`Reveal::Values`]. What an
//! error of a callback says is the same as in the log.
//!
//! A page holds a hundred instances, however many there are. Of 100,000 each was on the screen of a browser within
//! 0.3 s, also with a filter (two shared cores: `cargo test --test integration browser -- --nocapture`).
//!
//! # Who connects
//!
//! Probes are answered whatever others do who can connect. A connection serves one request. Its head is at most 16 KiB,
//! and comes within 5 s. There are at most 256 connections. A new one is always taken, and if there are too many, the
//! one that has waited longest for its request is closed. At most 16 pages (or JSON, or metrics) are made or written
//! at once. If there are more, the page that has been written for longest is closed, and if none is being written, 503
//! is the answer. At most 16 connections may be told events; another one is answered with 503, and one whose client
//! takes nothing for 30 s is closed. Within 30 s a page must be made, and within 30 s more it must be read. Pages are
//! made by other threads than the one that answers probes.
//!
//! The pages need no script, and whatever they show is escaped. There is no encryption and no authentication:
//! see [`EndpointBuilder::address`].
//!
//! ```no_run
//! # use etcd_rules::{Engine, Error, Rule};
//! # async fn example(rule: Rule) -> Result<(), Error> {
//! use etcd_rules::http::Endpoint;
//!
//! let endpoint = Endpoint::builder().listen()?;                // http://127.0.0.1:9464/
//! Engine::builder("poller", ["127.0.0.1:2379"])
//!     .rule(rule)
//!     .endpoint(&endpoint)                                     // several engines may share it
//!     .build()?
//!     .run_until(tokio::signal::ctrl_c())
//!     .await
//! # }
//! ```

#[cfg(test)]
mod attack;
mod connections;
mod events;
mod handler;
mod page;
mod probes;
mod query;
mod router;
mod server;
mod view;

#[cfg(test)]
pub(crate) use attack::attack;

use crate::engine::EngineBuilder;
use crate::engine::observer::{Observatory, Observed, Observer};
use crate::error::EngineError;
use server::Server;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, RwLock};

#[cfg(doc)]
use crate::Reveal;

/// Where it listens unless it is told otherwise.
const DEFAULT_ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9464);

/// An HTTP endpoint that engines are shown on; see the [module](self). Clones are the same endpoint.
///
/// It has threads of its own, `etcd-rules-http`, so that probes are answered whatever the application's runtime
/// does: one for all connections and probes, and up to two while pages or metrics are made. It ends when the last
/// clone is dropped and the last engine that is shown on it; so one that has failed is still shown until it is
/// dropped. Requests under way get a second to be answered.
#[derive(Clone)]
pub struct Endpoint {
    shared: Arc<HttpState>,
    server: Arc<Server>,
}

/// What the server's thread knows.
pub(crate) struct HttpState {
    engines: RwLock<Vec<(u64, Observer)>>,
    metrics: Option<Render>,
    /// Whether pages and JSON are served too.
    page: bool,
}

type Render = Box<dyn Fn() -> String + Send + Sync>;

/// Configures an [`Endpoint`]; made by [`Endpoint::builder`].
#[must_use = "a builder does nothing until `listen` is called"]
pub struct EndpointBuilder {
    address: SocketAddr,
    metrics: Option<Render>,
    page: Option<bool>,
}

impl Endpoint {
    /// Begins an endpoint.
    pub fn builder() -> EndpointBuilder {
        EndpointBuilder { address: DEFAULT_ADDRESS, metrics: None, page: None }
    }

    /// Where it listens: with the port that was found if 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }
}

impl Observatory for Endpoint {
    fn show(&self, engine: Observer) -> Observed {
        let mut engines = self.shared.engines.write().unwrap_or_else(|e| e.into_inner());
        let number = engines.last().map_or(0, |(number, _)| number + 1);
        engines.push((number, engine));
        Box::new(Place { endpoint: self.clone(), number })
    }
}

impl EngineBuilder {
    /// Shows the engine on an HTTP [endpoint](crate::http::Endpoint), from its start until it is
    /// dropped. Several engines may be shown on one: give them different [names](EngineBuilder::name).
    /// Default: none. Needs the feature `http`.
    pub fn endpoint(mut self, endpoint: &Endpoint) -> Self {
        self = self.observed_by(Arc::new(endpoint.clone()));
        self
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("address", &self.address()).finish_non_exhaustive()
    }
}

/// An engine's place on an endpoint, which it keeps alive.
struct Place {
    endpoint: Endpoint,
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut engines = self.endpoint.shared.engines.write().unwrap_or_else(|e| e.into_inner());
        engines.retain(|(number, _)| *number != self.number);
    }
}

impl HttpState {
    fn engines(&self) -> Vec<Observer> {
        let engines = self.engines.read().unwrap_or_else(|e| e.into_inner());
        engines.iter().map(|(_, engine)| engine.clone()).collect()
    }
}

impl EndpointBuilder {
    /// Where to listen. Default: `127.0.0.1:9464`, which only this machine reaches. With port 0 a free one is
    /// taken, which [`Endpoint::address`] tells.
    ///
    /// Whoever reaches it may read everything it tells. Kubernetes' probes and a Prometheus elsewhere need an
    /// address that others reach, such as `0.0.0.0:9464`: then it serves probes and metrics, and pages only if
    /// [told](EndpointBuilder::page) to. On a loopback address it answers only requests that name one in their
    /// `Host`, so that no web page can read it through the browser of somebody on this machine.
    pub fn address(mut self, address: SocketAddr) -> Self {
        self.address = address;
        self
    }

    /// What `/metrics` answers, such as the text that a Prometheus exporter's handle renders. Default: nothing
    /// (404). With the feature `prometheus`, `install_prometheus_recorder` gives such a function.
    ///
    /// It is called in a thread of the endpoint, for each scrape. Probes are answered meanwhile.
    pub fn metrics(mut self, render: impl Fn() -> String + Send + Sync + 'static) -> Self {
        self.metrics = Some(Box::new(render));
        self
    }

    /// Whether to serve the pages and the JSON of rules and instances, besides probes and metrics. Default: on a
    /// loopback address yes, on any other no.
    ///
    /// Yes on an address that others reach: they see what runs, and what the engines
    /// [reveal](crate::EngineBuilder::reveal).
    pub fn page(mut self, serve: bool) -> Self {
        self.page = Some(serve);
        self
    }

    /// Begins to listen. Needs no runtime.
    ///
    /// # Errors
    /// [`EngineError::Setup`] if the address can't be listened on, or the thread can't be made.
    pub fn listen(self) -> Result<Endpoint, EngineError> {
        let Self { address, metrics, page } = self;
        let page = page.unwrap_or(address.ip().is_loopback());
        let shared = Arc::new(HttpState { engines: RwLock::default(), metrics, page });
        let server = Server::start(address, shared.clone()).map_err(|error| EngineError::Setup {
            what: format!("the HTTP endpoint on {address}"),
            source: error.into(),
        })?;
        Ok(Endpoint { shared, server: Arc::new(server) })
    }
}

impl fmt::Debug for EndpointBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, metrics, page } = self;
        let (metrics, page) = (metrics.is_some(), page);
        f.debug_struct("EndpointBuilder")
            .field("address", address)
            .field("metrics", &metrics)
            .field("page", page)
            .finish()
    }
}
