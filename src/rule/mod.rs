//! A rule: when a condition over keys holds for a binding of its attributes, run a callback.

mod compile;
mod mistakes;
mod polling;

pub(crate) use compile::compile;
pub(crate) use polling::Polling;

use crate::compiled::{Backoff, Options, RateLimit, Settle, all_attributes};
use crate::condition::{Condition, key};
use crate::firing::{BoxError, Callback, Firing, Outcome};
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// A rule: an id, a condition, a callback, and how the callback is to be run.
///
/// Every binding of the attributes in the condition's patterns is an *instance* of the rule; the
/// callback runs for each instance that is true, under the instance's lock.
///
/// ```
/// use etcd_rules::{Firing, Outcome, Rule, key};
/// use std::time::Duration;
///
/// let rule = Rule::new("poll")
///     .when(key("/servers/:id/state").equals("active") & key("/servers/internal/:id/poll_delay").absent())
///     .lock("/:id/poll")
///     .time_limit(Duration::from_secs(20))
///     .run(|firing: Firing| async move {
///         println!("polling {}", firing.attribute("id")?);
///         Ok::<Outcome, etcd_rules::Error>(
///             firing.commit().put_ttl("/servers/internal/:id/poll_delay", "", Duration::from_secs(5)).into(),
///         )
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
    polling: Option<Polling>,
    options: Options,
}

impl Rule {
    /// A rule with an id: unique in its engine, 1 to 200 bytes, the name in metrics, logs and lock keys.
    /// Engines of one application share locks and retries by it, so it should stay the same across
    /// versions: with another id, an old and a new engine work on the same instance during an update.
    pub fn new(id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            condition: None,
            lock: None,
            callback: None,
            polling: None,
            options: Options::default(),
        }
    }

    /// The rule's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The condition. Required; a second call replaces the first.
    pub fn when(mut self, condition: Condition) -> Self {
        self.condition = Some(condition);
        self
    }

    /// The lock of an instance, as a pattern over attributes of the condition. Default: one lock for each
    /// instance.
    ///
    /// Rules (and instances) whose patterns give the same text exclude each other, in all engines of the
    /// application. So a pattern with fewer attributes than the rule has, or one that another rule has too,
    /// makes work wait for other work. The lock's key lies in the engine's
    /// [namespace](crate::EngineBuilder::namespace). Without effect on an [optimistic](Rule::optimistic)
    /// rule.
    pub fn lock(mut self, pattern: impl Into<String>) -> Self {
        self.lock = Some(pattern.into());
        self
    }

    /// Fires again and again while the condition holds: not before `interval` after the last time. Default:
    /// no polling. More than zero, at most 365 days.
    ///
    /// It adds to the condition that the key `<namespace>/ttl` is absent, and a firing that is done puts this
    /// key, with the interval as its TTL, in the very transaction that ends it. So no poll is lost, and none
    /// is doubled by another engine, whoever crashes when. The namespace is a pattern with all attributes of
    /// the condition, and no others. (If it ends in a `*rest`, it is the key itself.)
    ///
    /// - It promises "not before": keys share leases, so that the TTL is up to a fifth, at least a second,
    ///   longer; and etcd may delete an expired key late.
    /// - It counts from the end of the firing that was done, with or without a commit of its own. A commit
    ///   that puts the delay key itself, with another TTL, decides for this time.
    /// - A firing that is not done leaves no delay: after [`retry_after`](Outcome::retry_after) that delay
    ///   counts, after a failure the [backoff](Rule::backoff), and after [`give_up`](Outcome::give_up) it polls
    ///   no more until somebody changes a key that the instance reads.
    /// - To poll at once, delete the delay key.
    /// - Keys of one interval share leases: a thousand polls of 200 instances took five
    ///   (`cargo test --test polling -- --nocapture`).
    ///
    /// ```
    /// use etcd_rules::{Error, Firing, Outcome, Rule, key};
    /// use std::time::Duration;
    ///
    /// let rule = Rule::new("poll")
    ///     .when(key("/servers/:id/state").equals("active"))
    ///     .poll("/servers/internal/:id/poll", Duration::from_secs(5))
    ///     .run(|firing: Firing| async move {
    ///         Ok::<Outcome, Error>(firing.commit().put("/servers/:id/status", "ok").into())
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

    /// How long a callback may run, from its own start. More than zero; default: 5 minutes. Then its future
    /// is dropped at once, and the end counts as an error.
    ///
    /// Too short a limit makes work fail that would have succeeded. Too long a one lets work that hangs keep
    /// its slot and its lock. A future that never yields can't be dropped, and keeps both.
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.options.time_limit = limit;
        self
    }

    /// The TTL of the lease behind this rule's locks, in whole seconds (rounded up; etcd may grant
    /// more). At least 1 s; default: [the engine's](crate::EngineBuilder::lock_ttl). A short TTL lets other
    /// engines take over sooner after a crash, and loses locks sooner when etcd does not answer. Rules with
    /// the same TTL share a lease.
    pub fn lock_ttl(mut self, ttl: Duration) -> Self {
        self.options.lock_ttl = Some(ttl);
        self
    }

    /// How many instances of this rule may be fired at once in one engine. At least 1; default: half of the
    /// engine's [overall limit](crate::EngineBuilder::concurrency), which holds besides.
    ///
    /// With as many as that, one slow rule can take all slots; too few make the rule's queue long.
    pub fn concurrency(mut self, limit: usize) -> Self {
        self.options.concurrency = Some(limit);
        self
    }

    /// How long an instance that became true waits before it fires: a time, or a [`Settle`] with jitter. Default: [the engine's](crate::EngineBuilder::settle), which says more.
    ///
    /// For conditions that flicker, and for several keys that are written one after the other.
    pub fn settle(mut self, settle: impl Into<Settle>) -> Self {
        self.options.settle = Some(settle.into());
        self
    }

    /// How many firings may start in one engine in a time. Default: as many as there are slots for. It can be
    /// [changed](crate::EngineHandle::set_rate_limit) while the engine runs.
    ///
    /// It counts callbacks that start, of all instances together and for whatever reason: a retry counts as any
    /// other. What is due beyond that waits in the queue (`workqueue_depth`, and the gauge `rule_throttled` is 1),
    /// shares no lock with others meanwhile, and fires if it is still true when its turn comes. Each engine has a
    /// rate of its own, and it begins anew when the engine's parts restart.
    ///
    /// For what the callback calls and must not overload. A lower rate than that at which instances become true
    /// lets the queue grow up to all of them.
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
        self.options.brake.rate_limit = Some(limit);
        self
    }

    /// The least time between two firings of one instance in one engine, from the start of a callback to the start
    /// of the next. More than zero, at most 365 days; default: none. It can be
    /// [changed](crate::EngineHandle::set_min_interval) while the engine runs.
    ///
    /// It counts every firing, whatever became of it, and whatever makes the instance due again: a change, a
    /// crawl, a delay or backoff that is shorter; also if the condition was false meanwhile. What is due sooner
    /// waits, and fires then if it is still true. [`EngineHandle::fire_now`](crate::EngineHandle::fire_now) does
    /// not wait.
    ///
    /// For callbacks that cost much or tell people something, over keys that change often. Too long an interval
    /// makes the reaction to a change late by as much. Each engine knows its own firings only, and forgets them
    /// when it or its parts restart: a delay that all engines keep is [`poll`](Rule::poll), or
    /// [`retry_after`](Outcome::retry_after). It remembers a million instances of a rule that fired within the
    /// interval, and forgets the oldest beyond that.
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
        self.options.brake.min_interval = Some(interval);
        self
    }

    /// Begins in a [dry run](crate::EngineHandle::begin_dry_run): everything but lock and callback, counted and
    /// listed, until the dry run [is ended](crate::EngineHandle::end_dry_run). Default: it fires.
    ///
    /// For a new rule, or a new condition, beside the data of a system that works.
    pub fn dry_run(mut self) -> Self {
        self.options.brake.dry_run = true;
        self
    }

    /// Begins [paused](crate::EngineHandle::pause): nothing of it starts before it is
    /// [resumed](crate::EngineHandle::resume). Default: it begins at once.
    pub fn paused(mut self) -> Self {
        self.options.brake.paused = true;
        self
    }

    /// How failed firings are retried. Default: [`Backoff::default`], 100 ms doubled up to 5 minutes.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.options.backoff = backoff;
        self
    }

    /// Runs without a lock: for callbacks whose effects are all in their commit. Default: with a lock.
    ///
    /// The commit takes effect only if every key of the condition is as it was shown to the callback, and it
    /// must change at least one of those keys ([`FiringError::NothingShownChanges`](crate::FiringError) otherwise); so
    /// neither two engines nor a repeated request can apply it twice. It saves a transaction a firing.
    ///
    /// Callbacks of several engines may run at the same time, also while another engine holds the instance
    /// back after a failure, and only one commit wins: whatever the callback does outside of its commit
    /// happens several times. Nothing excludes two instances or rules from each other: a
    /// [`lock`](Rule::lock) pattern has no effect.
    pub fn optimistic(mut self) -> Self {
        self.options.optimistic = true;
        self
    }

    /// The callback: any async function of a [`Firing`]. Required; a second call replaces the first.
    ///
    /// It returns `Ok(())` or an [`Outcome`]; an error, a panic or running into the
    /// [time limit](Rule::time_limit) is retried with [backoff](Rule::backoff). It runs on the
    /// application's tokio runtime and must not block its thread for long: a future can be dropped only
    /// where it waits. It may be dropped at any `await`, and it may run again after it succeeded: make what
    /// it does outside of its commit repeatable.
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
}

impl Rule {
    /// The rule on several lines: its id, its condition with what [polling](Rule::poll) adds, and its lock.
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
        if let Some(lock) = &self.lock {
            text.push_str(&format!("  lock {lock}\n"));
        }
        text
    }

    /// The attributes of its condition, as far as that has no mistakes.
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
