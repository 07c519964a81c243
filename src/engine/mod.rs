//! The engine: configuration, start, health, shutdown.
//!
//! | file | subject |
//! |---|---|
//! | [`builder`], [`for_rules`], [`link_options`] | options; those for all rules, and those of the link to etcd, apart |
//! | [`build`], [`config`], [`check`], [`endpoints`] | defaults, mistakes, and the engine that is made of it all |
//! | [`coverage`] | which prefixes are watched |
//! | [`look_up`] | the instance that attributes name |
//! | [`offline`] | what would be decided on some keys |
//! | [`running`] | the owner of a running engine: starts it, and shuts it down |
//! | [`handle`] | asks and directs a running engine |
//! | [`inspector`] | asks the actors what they are doing |
//! | [`observer`](self) | what an HTTP endpoint holds of it (feature `http`) |
//! | [`supervisor`] | starts, restarts and ends the actors |
//! | [`incarnation`] | all actors of one start, wired together |
//! | [`actor_factory`] | what each of these actors is made of |

mod actor_factory;
mod build;
pub(crate) mod builder;
mod check;
pub(crate) mod config;
mod coverage;
mod endpoints;
mod for_rules;
mod handle;
mod incarnation;
mod inspector;
mod link_options;
mod look_up;
#[cfg(feature = "http")]
pub(crate) mod observer;
pub(crate) mod offline;
mod running;
mod supervisor;

#[cfg(test)]
mod tests;

pub use builder::EngineBuilder;
pub use handle::EngineHandle;
pub use running::RunningEngine;

use crate::error::{EngineError, Error};
use crate::events::EventStream;
use crate::pattern::KeyScope;
use config::Config;
use etcd_client::Channel;
use std::future::Future;
use tokio::runtime::Handle;

/// A rules engine, configured and not yet running.
///
/// ```no_run
/// use etcd_rules::{Engine, Error, Firing, Outcome, Rule, key};
///
/// async fn greet(firing: Firing) -> Result<Outcome, Error> {
///     Ok(firing.commit().put("/greetings/:name", "hello").into())
/// }
///
/// # async fn example() -> Result<(), Error> {
/// Engine::builder("greeter", ["127.0.0.1:2379"])
///     .rule(Rule::new("greet").when(key("/people/:name").exists() & key("/greetings/:name").absent()).run(greet))
///     .build()?
///     .run_until(tokio::signal::ctrl_c())
///     .await
/// # }
/// ```
#[must_use = "an engine does nothing until it is started"]
pub struct Engine {
    pub(crate) config: Config,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Config { engine, namespace, watched, options, .. } = &self.config;
        f.debug_struct("Engine")
            .field("name", engine)
            .field("namespace", namespace)
            .field("watched", watched)
            .field("options", options)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// Begins an engine of an application, with the endpoints of an etcd cluster.
    ///
    /// The application's name keeps the locks of different applications apart. Engines of the same
    /// application share the work. The name consists of ASCII letters, digits, `-`, `_` and `.`.
    ///
    /// An endpoint is `host:port`, optionally after `http://` or `https://` (the latter with the feature
    /// `tls`). The host is a name or an address, one of IPv6 in brackets (`[::1]:2379`). Give all members. The engine
    /// uses one at a time and begins with any of them. It moves to the next when a request gets no answer, the member
    /// has no leader, or a watch stays silent.
    pub fn builder<E: Into<String>>(
        application: impl Into<String>,
        endpoints: impl IntoIterator<Item = E>,
    ) -> EngineBuilder {
        EngineBuilder::new(application.into(), endpoints.into_iter().map(Into::into).collect(), None)
    }

    /// Begins an engine on a channel that the application made. Use it for special transports, and for layers
    /// that see every request of the engine (crates `tonic` 0.14 and `tower` 0.5):
    ///
    /// ```no_run
    /// use etcd_rules::{Channel, Engine};
    /// use tonic::{body::Body, codegen::http::Request, transport::Endpoint};
    /// use tower::{BoxError, ServiceBuilder, util::BoxCloneSyncService};
    ///
    /// let told = |request: Request<Body>| {
    ///     println!("{}", request.uri().path());
    ///     request
    /// };
    /// let transport = Endpoint::from_static("http://127.0.0.1:2379").connect_lazy();
    /// let layered = ServiceBuilder::new().map_request(told).map_err(BoxError::from).service(transport);
    /// let channel = Channel::Custom(BoxCloneSyncService::new(layered));
    /// let builder = Engine::builder_with_channel("app", channel);
    /// ```
    ///
    /// The channel does its work on the runtime where it was made. If that is blocked, leases are not
    /// renewed, and locks are lost. The channel is also responsible for keep-alive, time-outs of the
    /// connection, and fail-over.
    pub fn builder_with_channel(application: impl Into<String>, channel: Channel) -> EngineBuilder {
        EngineBuilder::new(application.into(), Vec::new(), Some(channel))
    }

    /// The prefixes that the engine will watch: the smallest set that covers all patterns. Instead of more
    /// than 32 prefixes, the engine watches what the longest ones have in common. An empty prefix is all of
    /// etcd. Of a pattern without attributes only that key is watched, and it stands here as a prefix does, unless
    /// another prefix covers it.
    pub fn watched_prefixes(&self) -> impl Iterator<Item = &str> {
        self.config.watched.iter().map(KeyScope::text)
    }

    /// The events of the engine from its start on. [`EngineHandle::events`] misses those before it is called.
    pub fn events(&self) -> EventStream {
        self.config.events.subscribe()
    }

    /// Starts the engine. Callbacks run on the tokio runtime from which this is called, or on the one
    /// [given](EngineBuilder::runtime). Everything else runs on the engine's own threads: four, plus one for
    /// each evaluator. So no lease is lost if a callback blocks the application's runtime.
    ///
    /// Returns at once, also if etcd does not answer, unless a
    /// [`start_timeout`](EngineBuilder::start_timeout) is set: then when the engine is ready. Dropping the
    /// future, or what it returns, ends the engine.
    ///
    /// # Errors
    /// [`EngineError::NoRuntime`] outside of a tokio runtime, if none was given; [`EngineError::Setup`] if the first
    /// thread can't be made (if another can't, the engine is [`Health::Failed`](crate::Health::Failed));
    /// [`EngineError::NotReady`] when the start time-out is over.
    pub async fn start(self) -> Result<RunningEngine, EngineError> {
        let mut config = self.config;
        let runtime = match config.runtime.take() {
            Some(runtime) => runtime,
            None => Handle::try_current().map_err(|_| EngineError::NoRuntime)?,
        };
        let start_timeout = config.options.start_timeout;
        let running = RunningEngine::start(config, runtime)?;
        if let Some(within) = start_timeout
            && tokio::time::timeout(within, running.ready()).await.is_err()
        {
            let health = running.health().to_string();
            return Err(EngineError::NotReady { within, health });
        }
        Ok(running)
    }

    /// Starts the engine and runs it until the future completes. Then it shuts the engine down, with the
    /// [`shutdown_deadline`](EngineBuilder::shutdown_deadline).
    ///
    /// It returns the umbrella error, which `main` usually returns too, so that it can be the last expression
    /// there.
    ///
    /// # Errors
    /// Those of [`start`](Engine::start). [`EngineError::Stopped`] if the engine
    /// [failed](crate::Health::Failed) before the future completed. [`EngineError::Unfinished`] if callbacks
    /// did not end although they were cancelled.
    pub async fn run_until<F: Future>(self, stop: F) -> Result<(), Error> {
        self.run_until_with(|_| stop).await
    }

    /// As [`run_until`](Engine::run_until), with a handle of the running engine for what it is to run beside: a web
    /// server that shows its health, for example. The function is called once the engine has started.
    ///
    /// ```no_run
    /// # async fn serve(_: etcd_rules::EngineHandle) {}
    /// # async fn example(engine: etcd_rules::Engine) -> Result<(), etcd_rules::Error> {
    /// engine
    ///     .run_until_with(|handle| async move {
    ///         tokio::select! {
    ///             () = serve(handle) => {}                         // its own, until it ends
    ///             _ = tokio::signal::ctrl_c() => {}
    ///         }
    ///     })
    ///     .await
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`run_until`](Engine::run_until).
    pub async fn run_until_with<F: Future>(self, stop: impl FnOnce(EngineHandle) -> F) -> Result<(), Error> {
        let deadline = self.config.options.shutdown_deadline;
        let running = self.start().await?;
        let stop = stop(running.handle());
        tokio::select! {
            biased;
            _ = stop => Ok(running.shutdown(deadline).await?),
            reason = running.failed() => Err(EngineError::Stopped(reason).into()),
        }
    }
}
