#![doc = include_str!("../README.md")]
//!
//! # Where to start
//!
//! - [`Engine::builder`] puts an engine together; [`EngineBuilder`] has every option with its default.
//! - [`key`] begins a condition; [`Condition`] combines them with `&`, `|` and `!`.
//! - [`Rule`] joins a condition and a callback; [`Firing`] is what the callback gets, [`Outcome`] and
//!   [`Commit`] what it returns.
//! - [`RunningEngine`] is a running engine, which ends with it; [`EngineHandle`] asks and directs it: [`Health`], lists
//!   of instances, explanations, controls. What it answers is in [`health`], [`inspect`] and [`events`].
//! - [`testing`] tries conditions and callbacks without an etcd, and awaits firings of a running engine.
//! - [`metrics`] lists every metric. `install_prometheus` (feature `prometheus`) serves them.
//!
//! # When a rule fires
//!
//! An *instance* of a rule exists for every binding of its attributes that an existing key implies. A rule
//! without attributes always has one instance. An instance fires when its condition is true and it is idle.
//! After that it fires again in these cases:
//!
//! - The condition is still true, or true again, *and* somebody else has changed one of its keys since the
//!   values that the callback was given. The firing's own commit doesn't count.
//! - It is still true at the next crawl.
//! - A delay that the callback asked for, or the backoff after a failure, is over.
//!
//! Changes are not counted. Several changes may cause one firing, and a change that was undone before the
//! engine looked may cause none.
//!
//! A callback should make its condition false, or ask to be run again later. If it succeeds but leaves the
//! condition true, it is slowed down while changes keep coming. The first delay is the rule's backoff base.
//! It doubles each time, up to one firing in 5 seconds. Such firings are counted
//! (`etcd_rules_ineffective_firings_total`).
//!
//! # Cancellation
//!
//! A callback is cancelled ([`Firing::cancelled`]) when its lock may be lost, or when the engine ends and the
//! deadline for callbacks is over. An eighth of the lock TTL later its future is dropped. When its time limit
//! is over, it is dropped at once. Effects that it has not committed by then never reach etcd.
//!
//! # Several engines
//!
//! Engines of one application work together only by their locks. There is no leader among them. A failure, a
//! delay that a callback asked for, and a give-up leave a *mark* beside the locks, which holds the instance
//! back in all engines. The mark is removed in these cases:
//!
//! - The engine that wrote it tries again, or finds the condition false.
//! - That engine shuts down. Then the others try again at once.
//! - That engine dies. Then the mark of a give-up ends with the lock TTL, or after more than an hour if the
//!   rule is [optimistic](Rule::optimistic). Any other mark ends some time after its delay: at most about two
//!   and a half times the delay and a few seconds.
//!
//! If somebody else changes a key of the instance after the mark was written, every engine tries again after
//! the rule's backoff base.
//!
//! # Pace
//!
//! The engine decides changes in memory, so nothing needs to be held back to spare etcd reads. An instance is
//! queued once, so it doesn't try for its lock again and again. You can slow the engine down by these
//! options:
//!
//! - [`EngineBuilder::crawl_interval`], its [jitter](EngineBuilder::crawl_jitter), the
//!   [rate](EngineBuilder::crawl_rate) of a crawl, and crawling [one engine at a
//!   time](EngineBuilder::crawl_mutex): how much load crawls put on etcd.
//! - [`EngineBuilder::settle`] and [`Rule::settle`]: how long a change waits before it fires something.
//! - [`EngineBuilder::concurrency`] and [`Rule::concurrency`]: how many callbacks run at once.
//! - [`Rule::rate_limit`]: how many callbacks of a rule start in a period.
//! - [`Rule::min_interval`]: how long an instance rests between two firings.
//! - [`EngineBuilder::batch_size`]: how many transactions share a request.
//!
//! The sizes of queues are not options. Each queue is bounded. When it is full, whoever fills it waits, all
//! the way back to the watch. Nothing is dropped.
//!
//! # Observation
//!
//! - [`EngineHandle::health`] tells whether the engine works, and if not, what is wrong and [why](health::Reason):
//!   lagging, disconnected, without a leader, and so on. [`Health::is_live`] and [`Health::can_fire`] are for
//!   probes, [`Health::is_ready`] is for alerts. Health is about the engine and etcd. Callbacks that fail don't
//!   change it.
//! - [`EngineHandle::instances`] lists instances, and what the engine is doing about each. It may be queued,
//!   running, waiting, held by another engine, or given up. The reasons and times are listed too.
//! - [`EngineHandle::explain`] says why one instance is true or false, by what the engine has in memory, and
//!   what is being done about it.
//! - [`EngineHandle::events`] is a stream of what happens: instances that become due, locks, callbacks with
//!   their outcomes, commits.
//! - [`EngineHandle::rules`] and [`EngineHandle::stats`] count what the instances are doing. [`metrics`] has
//!   the rest.
//! - With the feature `http`, `http::Endpoint` serves probes, metrics, and pages that show all of this.
//! - The log (crate `tracing`) has a line for every change of health (at most one a second) and for failed
//!   callbacks.
//!
//! # Intervention
//!
//! Each of these applies to one engine, and needs no restart:
//!
//! - [`EngineHandle::pause`] and [`EngineHandle::resume`]: while a rule is paused, nothing of it starts.
//!   Firings that run end normally. A rule may start paused ([`Rule::paused`]).
//! - [`EngineHandle::begin_dry_run`] and [`EngineHandle::end_dry_run`]: in a dry run everything happens
//!   except lock and callback, and what would fire is counted and listed. A rule may start in a dry run
//!   ([`Rule::dry_run`]).
//! - [`EngineHandle::set_rate_limit`] and [`EngineHandle::set_min_interval`]: how many firings of a rule may
//!   start in a period, and how long an instance rests between two. A rule may start with both.
//! - [`EngineHandle::fire_now`] fires an instance that waits, is idle or was given up.
//!   [`EngineHandle::retry_given_up`] retries all instances of a rule that were given up.
//!
//! # Tracing
//!
//! The engine makes spans through the crate [`tracing`](https://docs.rs/tracing), with the target
//! `etcd_rules` and the level `INFO`. The example in `examples/traces` exports them to OpenTelemetry.
//!
//! | span | fields |
//! |---|---|
//! | `firing`, from the attempt to take the lock to the end of the commit | `engine`, `rule`, `attempt` as in [`Firing::attempt`], `revision` (the newest among the values shown), `queued_us` (how long the instance had been due), `fencing_token`, `outcome`: that of the callback if it was committed; else the result of the lock or of the commit; `instance` if it may be [revealed](Reveal) |
//! | `lock` in `firing` (not without a lock) | `result`: `won`, `held`, `backed_off`, `untrue`, `too_large`, `failed` |
//! | `callback` in `firing`; what the callback logs is inside of it | `outcome`: `done`, `retry_after`, `gave_up`, `error`, `panic`, `timeout`, `cancelled` |
//! | `commit` in `firing`: the transaction that ends it, with effects or not | `result`: `committed`, `fence_lost`, `unexpected`, `backed_off`, `refused`, `too_large`, `unknown`, `failed`; `revision` at which it took effect |
//!
//! Spans of failures have `otel.status_code` = `ERROR`. A task that a callback spawns is outside of its span,
//! unless the callback passes the span on.
//!
//! Log lines have constant messages. What varies is in fields: `engine`, `rule`, `instance` (if it may be
//! revealed), `error`, `suppressed` and others. At `INFO` and above they report changes of state, and
//! failures of callbacks, commits and comparisons. For each kind of failure and each rule there are ten lines
//! at once, and then one a second. `suppressed` says how many were left out since the last line. No line and
//! no span shows a key or a value, unless [`Reveal`] allows it.
//!
//! # Guarantees and their limits
//!
//! - The effects of a commit take place together, at most once, and only while the lock is held. Everything
//!   else that a callback does happens at least once.
//! - The engine's own threads (`etcd-rules-main`, `-watch`, `-lease`, `-core` and so on) keep leases and
//!   watches going while the application's runtime is blocked. Callbacks need that runtime. While it is
//!   blocked, none starts, and none can be dropped.
//! - The engine has three connections, each to one of the endpoints at a time. It moves a connection to another
//!   endpoint when it is silent, or when the member can't do what it is asked for. Requests that were in flight
//!   are sent again. A callback is cancelled for this only if the lease could not be renewed meanwhile.
//! - Nothing is written to an endpoint of another cluster, or of an older state of the engine's own. See
//!   [`EngineBuilder::cluster_id`].
//! - If a part of the engine panics, callbacks are cancelled, and all parts start again from a new snapshot.
//!   After more than five panics within a minute the engine has [failed](Health::Failed).
//! - `README.md` lists what the engine can't do.
//!
//! # More
//!
//! This example has a switch that all instances share, a lock that two rules share, delays, give-up, backoff,
//! and a rule without a lock:
//!
//! ```no_run
//! use etcd_rules::{Backoff, Engine, Error, Firing, Outcome, Rule, key};
//! use std::time::Duration;
//!
//! # async fn start_build(_: &str) -> Result<bool, std::io::Error> { Ok(true) }
//! /// Works outside of etcd, so that it needs the lock.
//! async fn build(firing: Firing) -> Result<Outcome, Box<dyn std::error::Error + Send + Sync>> {
//!     let source = firing.value("/jobs/:id/source")?.to_string_lossy();
//!     if source.is_empty() {
//!         return Ok(Outcome::give_up("the job has no source"));        // until a key changes
//!     }
//!     if !start_build(&source).await? {                                // an error: retried with backoff
//!         return Ok(Outcome::retry_after(Duration::from_secs(2)));     // no slot free: no failure
//!     }
//!     Ok(firing
//!         .commit()
//!         .expect_unchanged("/jobs/:id/source")                        // not replaced meanwhile
//!         .put("/jobs/:id/state", "built")
//!         .into())
//! }
//!
//! /// All its effects are in its commit, so that it needs no lock.
//! async fn archive(firing: Firing) -> Result<Outcome, Error> {
//!     Ok(firing.commit().put("/archive/:id", "").delete("/jobs/:id/state").into())
//! }
//!
//! # async fn example() -> Result<(), Error> {
//! // This key binds no attribute: when it changes, all instances are decided again.
//! let enabled = key("/config/enabled").equals("yes");
//! let new = key("/jobs/:id/state").equals("new") & key("/jobs/:id/source").exists();
//!
//! let engine = Engine::builder("builder", ["10.0.0.1:2379", "10.0.0.2:2379", "10.0.0.3:2379"])
//!     .rule(
//!         Rule::new("build")
//!             .when(enabled.clone() & new)
//!             .lock("/:id/work")                                       // shared with other rules on this job
//!             .backoff(Backoff::new(Duration::from_secs(1), Duration::from_secs(60)))
//!             .time_limit(Duration::from_secs(600))
//!             .concurrency(8)
//!             .run(build),
//!     )
//!     .rule(
//!         Rule::new("archive")
//!             .when(enabled & key("/jobs/:id/state").equals("built"))
//!             .optimistic()
//!             .run(archive),
//!     )
//!     .build()?
//!     .start()
//!     .await?;
//! println!("{}", engine.health());
//! println!("{}", engine.explain("build", &[("id", "7")].into()).await?);
//! engine.shutdown(Duration::from_secs(30)).await?;
//! # Ok(())
//! # }
//! ```

// The futures of requests are moved often, so they should be small. Those of tests don't matter.
#![cfg_attr(not(test), warn(clippy::large_futures))]

#[cfg(feature = "bench")]
#[doc(hidden)]
pub mod bench;
pub mod condition;
#[cfg(feature = "embedded")]
pub mod embedded;
pub mod events;
pub mod firing;
pub mod health;
#[cfg(feature = "http")]
pub mod http;
pub mod inspect;
pub mod metrics;
pub mod pattern;
pub mod testing;

mod cancellation;
mod change;
mod compiled;
mod crawl;
mod dispatch;
mod engine;
mod error;
mod etcd;
mod evaluate;
mod fleet;
#[cfg(test)]
mod fuzz;
mod index;
mod limits;
mod lock;
mod mutants;
#[cfg(feature = "prometheus")]
mod prometheus;
#[cfg(test)]
mod properties;
mod raw_codec;
mod read;
mod rule;
mod runtime;
#[cfg(all(test, feature = "virtual-time"))]
mod simulation;
mod time;
mod trace;
mod typed_index;
mod value;
mod watch;
mod watch_cell;

/// What must not pass quietly, as it would do nothing: each warns, and the way that it is meant does not.
///
/// ```compile_fail
/// #![deny(unused_must_use)]
/// etcd_rules::key("/a").exists();
/// ```
/// ```compile_fail
/// #![deny(unused_must_use)]
/// etcd_rules::key("/a");
/// ```
/// ```compile_fail
/// #![deny(unused_must_use)]
/// etcd_rules::Rule::new("a").when(etcd_rules::key("/a").exists());
/// ```
/// ```compile_fail
/// #![deny(unused_must_use)]
/// etcd_rules::Engine::builder("a", ["127.0.0.1:2379"]);
/// ```
/// ```compile_fail
/// #![deny(unused_must_use)]
/// # fn example(builder: etcd_rules::EngineBuilder) -> Result<(), etcd_rules::Error> {
/// builder.build()?;
/// # Ok(())
/// # }
/// ```
/// ```compile_fail
/// #![deny(unused_must_use)]
/// # fn example(firing: etcd_rules::Firing) {
/// firing.commit();
/// # }
/// ```
/// ```compile_fail
/// #![deny(unused_must_use)]
/// etcd_rules::Outcome::give_up("no use");
/// ```
/// ```compile_fail
/// #![deny(unused_must_use)]
/// etcd_rules::Backoff::default();
/// ```
/// ```compile_fail
/// #![deny(unused_must_use)]
/// # fn example(engine: &etcd_rules::EngineHandle) {
/// engine.events();
/// # }
/// ```
/// ```compile_fail
/// #![deny(unused_must_use)]
/// etcd_rules::inspect::InstanceQuery::new();
/// ```
///
/// Nothing else is wrong with them: where the warning is allowed, each of them compiles.
///
/// ```no_run
/// #![allow(unused_must_use)]
/// # fn example(builder: etcd_rules::EngineBuilder, firing: etcd_rules::Firing, engine: &etcd_rules::EngineHandle) -> Result<(), etcd_rules::Error> {
/// etcd_rules::key("/a").exists();
/// etcd_rules::key("/a");
/// etcd_rules::Rule::new("a").when(etcd_rules::key("/a").exists());
/// etcd_rules::Engine::builder("a", ["127.0.0.1:2379"]);
/// builder.build()?;
/// firing.commit();
/// etcd_rules::Outcome::give_up("no use");
/// etcd_rules::Backoff::default();
/// engine.events();
/// etcd_rules::inspect::InstanceQuery::new();
/// # Ok(())
/// # }
/// ```
#[cfg(doctest)]
mod must_use {}

/// Callbacks of every shape compile.
///
/// ```
/// use etcd_rules::{Condition, Error, ErrorKind, Firing, FiringError, Outcome, Rule, key};
/// use std::sync::Arc;
///
/// /// An error of the application's own, with `?` on what the crate hands out, and its source kept.
/// #[derive(Debug, thiserror::Error)]
/// enum Failed {
///     #[error("the order is not complete")]
///     Incomplete,
///     #[error(transparent)]
///     Firing(#[from] FiringError),
///     #[error("etcd")]
///     Etcd(#[from] etcd_rules::etcd_client::Error),
/// }
///
/// async fn own_error(firing: Firing) -> Result<Outcome, Failed> {
///     match firing.get("/orders/:id/items").await {
///         Err(error) if error.kind() == ErrorKind::NotFound => return Err(Failed::Incomplete),
///         items => drop(items?),
///     }
///     firing.client().await?.get("/else", None).await?;
///     Ok(firing.commit().put("/orders/:id/done", "").into())
/// }
///
/// async fn anyhows(firing: Firing) -> anyhow::Result<Outcome> {
///     let number: u64 = firing.value("/orders/:id")?.to_string_lossy().parse()?;
///     anyhow::ensure!(number > 0, "no order has this number");
///     Ok(Outcome::done())
/// }
///
/// struct Shop {
///     name: String,
/// }
///
/// impl Shop {
///     async fn method(self: Arc<Self>, firing: Firing) -> Result<(), Error> {
///         println!("{} in {}", firing.attribute("id")?, self.name);
///         Ok(())
///     }
///     async fn commit(self: Arc<Self>, firing: Firing) -> Result<etcd_rules::Commit, Error> {
///         Ok(firing.commit().put("/shops/:id", &*self.name))
///     }
/// }
///
/// let shop = Arc::new(Shop { name: "corner".into() });
/// let order = || Rule::new("order").when(key("/orders/:id").exists());
/// let moved = shop.clone();
/// for rule in [
///     order().run(own_error),
///     order().run(anyhows),
///     order().run_with(shop.clone(), Shop::method),
///     order().run_with(shop.clone(), Shop::commit),
///     // A closure that moves what it captures, and clones it for each run.
///     order().run(move |firing| moved.clone().method(firing)),
///     order().run_with(shop, async |shop: Arc<Shop>, firing: Firing| -> Result<Outcome, Failed> {
///         Ok(firing.commit().put("/shops/:id", &*shop.name).into())
///     }),
///     order().run(async |_: Firing| -> Result<(), Error> { Ok(()) }),
/// ] {
///     etcd_rules::Engine::builder("shop", ["127.0.0.1:2379"]).rule(rule).build().unwrap();
/// }
/// ```
///
/// What is held across an `await` must be `Send`. The compiler names the callback, the value and the `await`: "future
/// cannot be sent between threads safely", "has type `Rc<i32>` which is not `Send`", "await occurs here, with `counted`
/// maybe used later".
///
/// ```compile_fail
/// use etcd_rules::{Error, Firing, Outcome, Rule, key};
/// use std::rc::Rc;
///
/// async fn callback(firing: Firing) -> Result<Outcome, Error> {
///     let counted = Rc::new(1);
///     firing.get("/orders/:id").await?;
///     println!("{counted}");
///     Ok(Outcome::done())
/// }
///
/// let rule = Rule::new("order").when(key("/orders/:id").exists()).run(callback);
/// ```
///
/// The same without it:
///
/// ```
/// use etcd_rules::{Error, Firing, Outcome, Rule, key};
/// use std::rc::Rc;
///
/// async fn callback(firing: Firing) -> Result<Outcome, Error> {
///     {
///         let counted = Rc::new(1);
///         println!("{counted}");
///     }
///     firing.get("/orders/:id").await?;
///     Ok(Outcome::done())
/// }
///
/// let rule = Rule::new("order").when(key("/orders/:id").exists()).run(callback);
/// # let _ = rule;
/// ```
#[cfg(doctest)]
mod callbacks {}

/// A handle is the state of a web server, and what is told can be sent as JSON.
///
/// ```
/// use etcd_rules::health::Health;
/// use etcd_rules::inspect::{Instance, InstanceExplanation, InstancePage, RuleStatus, Stats};
/// use etcd_rules::{EngineHandle, events::Event};
///
/// // What axum asks of the state of a router, and of an answer.
/// fn is_state<T: Clone + Send + Sync + 'static>() {}
/// fn is_answer<T: serde::Serialize + Send + 'static>() {}
/// is_state::<EngineHandle>();
/// is_answer::<(Health, Stats, RuleStatus, Instance, InstancePage, InstanceExplanation, Event)>();
///
/// /// As a handler of axum is: it takes the state and answers with JSON.
/// async fn stats(engine: EngineHandle) -> Result<String, etcd_rules::Error> {
///     Ok(serde_json::to_string(&(engine.health(), engine.stats().await?)).unwrap_or_default())
/// }
/// fn is_future<F: Future + Send>(_: impl Fn(EngineHandle) -> F) {}
/// is_future(stats);
/// ```
#[cfg(doctest)]
mod handles {}

/// The code in the guides is compiled, and run where possible.
#[cfg(doctest)]
#[doc = include_str!("../docs/migrating-from-go-etcd-rules.md")]
#[doc = include_str!("../docs/guides/credentials.md")]
#[doc = include_str!("../docs/guides/testing.md")]
mod guides {}

pub use compiled::{Backoff, RateLimit, RuleError, Settle};
pub use condition::{Condition, Key, all_equal, key};
pub use engine::{Engine, EngineBuilder, EngineHandle, RunningEngine};
pub use error::{BuildError, ConfigError, EngineError, Error};
pub use etcd::Credentials;
pub use etcd_client::{self, Channel, ConnectOptions};
pub use firing::{BoxError, Commit, ErrorKind, EtcdError, Firing, FiringError, Outcome};
pub use health::Health;
pub use pattern::{Attributes, Pattern};
#[cfg(feature = "prometheus")]
pub use prometheus::{install_prometheus, install_prometheus_recorder};
pub use rule::Rule;
pub use time::Jitter;
pub use trace::reveal::Reveal;
pub use value::Value;
