//! Options of an engine for all of its rules: layers around callbacks, and what counts for a rule that says nothing
//! else.

use super::builder::EngineBuilder;
use crate::compiled::{Backoff, RateLimit};
use crate::firing::{BoxError, Firing, Next, Outcome, layer};
use std::time::Duration;

#[cfg(doc)]
use crate::rule::Rule;

impl EngineBuilder {
    /// Something around every run of every callback: an async function of the [`Firing`] and the
    /// [`Next`], which it runs or not. For what is the same everywhere, such as a tracing context, measurements, a
    /// permit, or another limit of time. By default there is none.
    ///
    /// Several layers are around each other, and the first is the outermost. Those of a [rule](Rule::layer) are inside.
    /// A layer is a part of the callback: the time limit and the cancellation count for both together, a panic is a
    /// failure of the firing, and an error that it returns instead of the callback's is retried with backoff. A
    /// [trial](crate::testing::Trial) on this engine has it too.
    ///
    /// ```
    /// use etcd_rules::firing::Next;
    /// use etcd_rules::{BoxError, Engine, Error, Firing, Outcome, Rule, key};
    /// use std::time::{Duration, Instant};
    ///
    /// /// Whoever is asked answers within 10 s, or the firing fails.
    /// async fn impatient(firing: Firing, next: Next) -> Result<Outcome, BoxError> {
    ///     tokio::time::timeout(Duration::from_secs(10), next.run(firing)).await?
    /// }
    ///
    /// async fn measured(firing: Firing, next: Next) -> Result<Outcome, BoxError> {
    ///     let (rule, began) = (firing.rule().to_owned(), Instant::now());
    ///     let result = next.run(firing).await;
    ///     let outcome = result.as_ref().map_or("error", Outcome::name);
    ///     println!("{rule}: {outcome} after {:?}", began.elapsed());
    ///     result
    /// }
    ///
    /// # async fn check(_: Firing) -> Result<(), Error> { Ok(()) }
    /// let engine = Engine::builder("checker", ["127.0.0.1:2379"])
    ///     .rule(Rule::new("check").when(key("/servers/:id").exists()).run(check))
    ///     .layer(measured)                                        // it sees what the next one makes of it
    ///     .layer(impatient)
    ///     .build()?;
    /// # Ok::<(), Error>(())
    /// ```
    pub fn layer<F, Fut, E>(mut self, around: F) -> Self
    where
        F: Fn(Firing, Next) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Outcome, E>> + Send + 'static,
        E: Into<BoxError>,
    {
        self.layers.push(layer(around));
        self
    }

    /// How long a callback may run, if its rule has no [time limit](Rule::time_limit) of its own, which says more. More
    /// than zero; default: 5 minutes.
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.options.defaults.time_limit = limit;
        self
    }

    /// How failed firings are retried, if their rule has no [backoff](Rule::backoff) of its own. The default is
    /// [`Backoff::default`]: 100 ms, doubling up to 5 minutes.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.options.defaults.backoff = backoff;
        self
    }

    /// How many instances of each rule may fire at once in this engine, if the rule has no
    /// [limit](Rule::concurrency) of its own. It is at least 1. The default is half of the [overall
    /// limit](EngineBuilder::concurrency), or all of it if there is one rule only.
    pub fn rule_concurrency(mut self, limit: usize) -> Self {
        self.options.rule_concurrency = Some(limit);
        self
    }

    /// How many firings of each rule may start in this engine in a period, if the rule has no [rate
    /// limit](Rule::rate_limit) of its own, which says more. Each rule and each engine counts for itself. By default
    /// there is none.
    pub fn rule_rate_limit(mut self, limit: RateLimit) -> Self {
        self.options.defaults.rate_limit = Some(limit);
        self
    }

    /// The least time between two firings of an instance in this engine, if its rule has no [least
    /// interval](Rule::min_interval) of its own, which says more. More than zero, and at most 365 days. By default
    /// there is none.
    pub fn min_interval(mut self, interval: Duration) -> Self {
        self.options.defaults.min_interval = Some(interval);
        self
    }
}
