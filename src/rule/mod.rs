//! Rules: run a callback when a condition over keys holds for a binding of its attributes.

mod compile;
mod mistakes;
mod polling;
mod shown;

pub(crate) use compile::compile;
use mistakes::list;
pub(crate) use polling::Polling;
use shown::Shown;

use crate::compiled::{Backoff, RateLimit, RuleOptions, Settle, all_attributes};
use crate::condition::{Condition, key};
use crate::firing::{BoxError, Callback, Firing, Layer, Next, Outcome, layer};
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// A rule: an id, a condition, a callback, and how the callback is to be run.
///
/// Every binding of the attributes in the condition's patterns is an *instance* of the rule. The callback
/// runs for each instance that is true, under the instance's lock.
///
/// ```
/// use etcd_rules::{Error, Firing, Outcome, Rule, key};
/// use std::time::Duration;
///
/// let rule = Rule::new("poll")
///     .when(key("/servers/:id/state").equals("active") & key("/servers/internal/:id/poll_delay").absent())
///     .lock("/:id/poll")
///     .time_limit(Duration::from_secs(20))
///     .run(async |firing: Firing| -> Result<Outcome, Error> {
///         println!("polling {}", firing.attribute("id")?);
///         Ok(firing.commit().put_ttl("/servers/internal/:id/poll_delay", "", Duration::from_secs(5)).into())
///     });
/// assert_eq!(rule.id(), "poll");
/// ```
///
/// Mistakes (a malformed pattern, no condition, an attribute that nothing binds) are all reported
/// together by [`EngineBuilder::build`](crate::EngineBuilder::build).
#[derive(Clone)]
#[must_use = "a rule does nothing until it is given to an engine"]
pub struct Rule {
    id: String,
    condition: Option<Condition>,
    lock: Option<String>,
    callback: Option<Callback>,
    layers: Vec<Layer>,
    polling: Option<Polling>,
    shown: Vec<Shown>,
    options: RuleOptions,
}

impl Rule {
    /// Makes a rule with this id. The id has 1 to 200 bytes and is unique in its engine. It is the rule's
    /// name in metrics, logs and lock keys.
    ///
    /// Engines of one application share locks and retries by the id, so keep it across versions. If you
    /// change it, an old and a new engine may work on the same instance during an update.
    pub fn new(id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            condition: None,
            lock: None,
            callback: None,
            layers: Vec::new(),
            polling: None,
            shown: Vec::new(),
            options: RuleOptions::default(),
        }
    }

    /// The rule's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The condition. It is required, and a second call replaces the first.
    pub fn when(mut self, condition: Condition) -> Self {
        self.condition = Some(condition);
        self
    }

    /// The lock of an instance, as a pattern over attributes of the condition. By default each instance has a
    /// lock of its own.
    ///
    /// Instances whose lock patterns give the same text exclude each other, in all engines of the
    /// application, also across rules. So work waits for other work if the pattern has fewer attributes than
    /// the rule, or if another rule has the same pattern. The lock's key is below the engine's
    /// [namespace](crate::EngineBuilder::namespace). The names of the rules don't count, nor how conditions are
    /// written. An [optimistic](Rule::optimistic) rule has no lock, so giving it a lock pattern is a mistake.
    pub fn lock(mut self, pattern: impl Into<String>) -> Self {
        self.lock = Some(pattern.into());
        self
    }

    /// Fires again and again while the condition holds, each time at least `interval` after the last. The
    /// interval is more than zero and at most 365 days. By default a rule doesn't poll.
    ///
    /// This adds to the condition that the key `<namespace>/ttl` is absent. The transaction that ends a
    /// successful firing puts this key, with the interval as its TTL. So no poll is lost or doubled,
    /// whichever engine crashes and when. The namespace is a pattern with all attributes of the condition and
    /// no others. If it ends in a `*rest`, it is the key itself.
    ///
    /// - The interval is a lower bound. Keys share leases, so the TTL may be up to a fifth longer (at least a
    ///   second), and etcd may delete an expired key late.
    /// - The interval counts from the end of a successful firing, whether the callback commits anything or
    ///   not. If its commit puts the delay key itself with another TTL, that TTL counts this once.
    /// - Other firings leave no delay key. After [`retry_after`](Outcome::retry_after) the delay given there
    ///   counts, and after a failure the [backoff](Rule::backoff). After [`give_up`](Outcome::give_up) the
    ///   instance isn't polled until somebody changes a key that it reads.
    /// - To poll at once, delete the delay key.
    /// - Delays share leases, whatever their intervals are, at most 64 on one. Many polls that began evenly stay
    ///   spread: of thousands, no quarter of a second has more than three times the mean. Few polls of long intervals
    ///   come in small bunches. See `docs/decisions/0020-ends-of-shared-leases.md` in the repository.
    ///
    /// ```
    /// use etcd_rules::{Error, Firing, Outcome, Rule, key};
    /// use std::time::Duration;
    ///
    /// let rule = Rule::new("poll")
    ///     .when(key("/servers/:id/state").equals("active"))
    ///     .poll("/servers/internal/:id/poll", Duration::from_secs(5))
    ///     .run(async |firing: Firing| -> Result<Outcome, Error> {
    ///         Ok(firing.commit().put("/servers/:id/status", "ok").into())
    ///     });
    /// assert_eq!(
    ///     rule.to_string(),
    ///     r#"poll: /servers/:id/state = "active" and /servers/internal/:id/poll/ttl is absent"#,
    /// );
    /// ```
    pub fn poll(mut self, namespace: impl Into<String>, interval: Duration) -> Self {
        self.polling = Some(Polling { namespace: namespace.into(), interval });
        self
    }

    /// How long a callback may run, counted from its own start. When the time is over, its future is dropped
    /// at once, and the firing counts as failed. The limit is more than zero; the default is [the
    /// engine's](crate::EngineBuilder::time_limit), 5 minutes.
    ///
    /// If the limit is too short, work fails that would have succeeded. If it is too long, a callback that
    /// hangs keeps its slot and its lock. A future that never yields can't be dropped, and keeps both.
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.options.time_limit = Some(limit);
        self
    }

    /// The TTL of the lease behind this rule's locks. It is rounded up to whole seconds, is at least 1 s, and
    /// etcd may grant more. The default is [the engine's](crate::EngineBuilder::lock_ttl). With a short TTL,
    /// other engines take over sooner after a crash, but locks are lost sooner when etcd doesn't answer.
    /// Rules with the same TTL share a lease.
    pub fn lock_ttl(mut self, ttl: Duration) -> Self {
        self.options.lock_ttl = Some(ttl);
        self
    }

    /// How many instances of this rule one engine may fire at once. It is at least 1. The default is [the
    /// engine's](crate::EngineBuilder::rule_concurrency), which is half of its [overall
    /// limit](crate::EngineBuilder::concurrency), or all of it if the engine has no other rule. The overall limit
    /// applies as well. Other engines fire as many beside it.
    ///
    /// If the limit is as high as the overall one, one slow rule can take all slots. If it is too low, the
    /// rule's queue grows long.
    pub fn concurrency(mut self, limit: usize) -> Self {
        self.options.concurrency = Some(limit);
        self
    }

    /// How often an instance may fire in one engine before it is slowed down. Default: [the
    /// engine's](crate::EngineBuilder::instance_rate), which says more. To limit the firings of all instances together,
    /// see [`rate_limit`](Rule::rate_limit).
    pub fn instance_rate(mut self, rate: RateLimit) -> Self {
        self.options.instance_rate = Some(rate);
        self
    }

    /// How long an instance that became true waits before it fires: a time, or a [`Settle`] with jitter.
    /// Default: [the engine's](crate::EngineBuilder::settle), which says more.
    ///
    /// For conditions that flicker, and for several keys that are written one after the other.
    pub fn settle(mut self, settle: impl Into<Settle>) -> Self {
        self.options.settle = Some(settle.into());
        self
    }

    /// How many firings may start in one engine in a period. By default only the slots limit them. The rate
    /// limit can be [changed](crate::EngineHandle::set_rate_limit) while the engine runs.
    ///
    /// It counts every callback that starts, for all instances together, retries included. Instances beyond
    /// the limit wait in the queue: they count in `workqueue_depth`, and the gauge `rule_throttled` is 1.
    /// They hold no lock while they wait, and fire if they are still true when their turn comes. Each engine
    /// counts for itself, and starts counting anew when its parts restart.
    ///
    /// Use it to protect what the callback calls. If instances become true faster than the limit allows, the
    /// queue grows until it holds all of them.
    ///
    /// ```
    /// use etcd_rules::{Error, Firing, RateLimit, Rule, key};
    /// use std::time::Duration;
    ///
    /// # async fn mail(_: Firing) -> Result<(), Error> { Ok(()) }
    /// let rule = Rule::new("mail")
    ///     .when(key("/alerts/:id").exists())
    ///     .rate_limit(RateLimit::new(30, Duration::from_secs(60)))        // at once, then one every 2 s
    ///     .run(mail);
    /// # let _ = rule;
    /// ```
    pub fn rate_limit(mut self, limit: RateLimit) -> Self {
        self.options.controls.rate_limit = Some(limit);
        self
    }

    /// The least time between two firings of one instance in one engine, from the start of a callback to the
    /// start of the next. It is more than zero and at most 365 days. By default there is none. It can be
    /// [changed](crate::EngineHandle::set_min_interval) while the engine runs.
    ///
    /// It applies after every firing, whatever its outcome, and whatever makes the instance due again: a
    /// change, a crawl, a shorter delay or backoff, or a condition that was false for a while. An instance
    /// that is due sooner waits, and then fires if it is still true.
    /// [`EngineHandle::fire_now`](crate::EngineHandle::fire_now) doesn't wait.
    ///
    /// Use it for callbacks that are expensive or notify people, over keys that change often. A change within
    /// the interval is reacted to only at its end.
    ///
    /// Each engine knows only its own firings, and forgets them when it or its parts restart. For a delay
    /// that all engines keep, use [`poll`](Rule::poll) or [`retry_after`](Outcome::retry_after). An engine
    /// remembers up to a million instances of a rule that fired within the interval; beyond that it forgets
    /// the oldest.
    ///
    /// ```
    /// use etcd_rules::{Error, Firing, Rule, key};
    /// use std::time::Duration;
    ///
    /// # async fn mail(_: Firing) -> Result<(), Error> { Ok(()) }
    /// let rule = Rule::new("mail")
    ///     .when(key("/alerts/:id").exists())
    ///     .min_interval(Duration::from_secs(600))                // about one alert: a mail in ten minutes at most
    ///     .run(mail);
    /// # let _ = rule;
    /// ```
    pub fn min_interval(mut self, interval: Duration) -> Self {
        self.options.controls.min_interval = Some(interval);
        self
    }

    /// Starts the rule in a [dry run](crate::EngineHandle::begin_dry_run): everything happens except lock and
    /// callback, and what would fire is counted and listed. It lasts until the dry run [is
    /// ended](crate::EngineHandle::end_dry_run). By default the rule fires.
    ///
    /// It is a dry run in this engine only: another one that has the rule without it fires.
    ///
    /// Use it to try a new rule, or a new condition, on the data of a running system.
    pub fn dry_run(mut self) -> Self {
        self.options.controls.dry_run = true;
        self
    }

    /// Starts the rule [paused](crate::EngineHandle::pause): nothing of it fires in this engine before it is
    /// [resumed](crate::EngineHandle::resume). Other engines go on. By default it isn't paused.
    pub fn paused(mut self) -> Self {
        self.options.controls.paused = true;
        self
    }

    /// How failed firings are retried. The default is [the engine's](crate::EngineBuilder::backoff): 100 ms, doubling
    /// up to 5 minutes.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.options.backoff = Some(backoff);
        self
    }

    /// Runs without a lock. Use it for callbacks whose effects are all in their commit. By default a rule has
    /// a lock.
    ///
    /// The commit takes effect only if the condition still holds, and if the keys of the condition that the
    /// callback has looked at ([`Firing::value`](crate::Firing::value)) or changes are still as they were shown.
    /// It must change at least one key of the condition, or it fails with
    /// [`FiringError::NothingShownChanges`](crate::FiringError). So neither two engines nor a repeated
    /// request can apply it twice. Each firing needs one transaction less.
    ///
    /// If its commit is refused eight times in a row, because such keys change all the time, the instance takes its
    /// lock for the next firing, as other rules do. That commit expects only what it changes to be as it was shown,
    /// and what the callback [says](crate::Commit::expect_unchanged).
    ///
    /// Callbacks of several engines may run for an instance at the same time, even while another engine holds
    /// it back after a failure. Only one commit wins, so whatever a callback does outside of its commit may
    /// happen several times. Nothing keeps two instances or rules apart either: the rule can't have a
    /// [`lock`](Rule::lock) pattern.
    pub fn optimistic(mut self) -> Self {
        self.options.optimistic = true;
        self
    }

    /// The callback: any async function of a [`Firing`]. It is required, and a second call replaces the
    /// first.
    ///
    /// It returns `Ok(())` or an [`Outcome`]. After an error, a panic, or when its [time
    /// limit](Rule::time_limit) is over, it is retried with [backoff](Rule::backoff).
    ///
    /// It runs on the application's tokio runtime. It must not block its thread for long, because a future
    /// can be dropped only where it waits. It may be dropped at any `await`, and may run again after it
    /// succeeded, so make what it does outside of its commit repeatable.
    pub fn run<F, Fut, O, E>(mut self, callback: F) -> Self
    where
        F: Fn(Firing) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<O, E>> + Send + 'static,
        O: Into<Outcome>,
        E: Into<BoxError>,
    {
        self.callback = Some(Arc::new(move |firing| {
            let running = callback(firing);
            Box::pin(async move { running.await.map(Into::into).map_err(Into::into) })
        }));
        self
    }

    /// Something around every run of this rule's callback, such as its own time limit or context; see
    /// [`EngineBuilder::layer`](crate::EngineBuilder::layer), whose layers are around those of the rule.
    pub fn layer<F, Fut, E>(mut self, around: F) -> Self
    where
        F: Fn(Firing, Next) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Outcome, E>> + Send + 'static,
        E: Into<BoxError>,
    {
        self.layers.push(layer(around));
        self
    }

    /// The callback, with state that all of its runs share: it gets a clone of the state and the firing.
    /// Otherwise as [`run`](Rule::run).
    ///
    /// With an `Arc` as state, a callback can be a method:
    ///
    /// ```
    /// use etcd_rules::{Error, Firing, Outcome, Rule, key};
    /// use std::sync::Arc;
    ///
    /// struct Provisioner {
    ///     region: String,
    /// }
    ///
    /// impl Provisioner {
    ///     async fn provision(self: Arc<Self>, firing: Firing) -> Result<Outcome, Error> {
    ///         Ok(firing.commit().put("/servers/:id/region", &*self.region).into())
    ///     }
    /// }
    ///
    /// let provisioner = Arc::new(Provisioner { region: "eu".into() });
    /// let rule = Rule::new("provision")
    ///     .when(key("/servers/:id/state").equals("new") & key("/servers/:id/region").absent())
    ///     .run_with(provisioner, Provisioner::provision);
    /// # let _ = rule;
    /// ```
    pub fn run_with<S, F, Fut, O, E>(self, state: S, callback: F) -> Self
    where
        S: Clone + Send + Sync + 'static,
        F: Fn(S, Firing) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<O, E>> + Send + 'static,
        O: Into<Outcome>,
        E: Into<BoxError>,
    {
        self.run(move |firing| callback(state.clone(), firing))
    }
}

impl Rule {
    /// The rule on several lines: its id, its condition with what [polling](Rule::poll) adds, what it
    /// [shows](Rule::show), and its lock.
    ///
    /// ```
    /// use etcd_rules::{Rule, key};
    /// let rule = Rule::new("build")
    ///     .when(key("/jobs/:id/state").equals("new") & key("/jobs/:id/owner").absent())
    ///     .lock("/:id/work");
    /// assert_eq!(rule.indented(), "\
    /// build
    ///   when
    ///     and
    ///       /jobs/:id/state = \"new\"
    ///       /jobs/:id/owner is absent
    ///   lock /:id/work
    /// ");
    /// ```
    pub fn indented(&self) -> String {
        let mut text = format!("{}\n", self.id);
        match self.full_condition() {
            None => text.push_str("  no condition\n"),
            Some(condition) => {
                text.push_str("  when\n");
                text.extend(condition.indented().lines().map(|line| format!("    {line}\n")));
            }
        }
        for shown in &self.shown {
            text.push_str(&format!("  {shown}\n"));
        }
        if let Some(lock) = &self.lock {
            text.push_str(&format!("  lock {lock}\n"));
        }
        text
    }

    /// The attributes of its condition. Patterns with mistakes are left out.
    pub(crate) fn attributes(&self) -> Vec<Arc<str>> {
        let compiled = self.full_condition().and_then(|condition| condition.compile().ok());
        compiled.map(|compiled| all_attributes(&compiled.slots)).unwrap_or_default()
    }

    /// The condition with what polling adds to it.
    fn full_condition(&self) -> Option<Condition> {
        let condition = self.condition.clone()?;
        Some(match &self.polling {
            Some(polling) => condition & key(polling.key()).absent(),
            None => condition,
        })
    }
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rule")
            .field("id", &self.id)
            .field("condition", &self.condition)
            .field("lock", &self.lock)
            .field("polling", &self.polling)
            .field("shown", &self.shown)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// The id and the condition: `poll: /servers/:id/state = "active" and …`.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.full_condition() {
            Some(condition) => write!(f, "{}: {condition}", self.id),
            None => write!(f, "{}: no condition", self.id),
        }
    }
}
