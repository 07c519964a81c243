//! Puts an engine together, and finds every mistake of the configuration at once.

use super::Engine;
use super::check::{check_application, check_endpoints, check_options, reserved, warn};
use super::config::{Config, Options};
use super::coverage::{MAX_WATCHES, covering, literal_prefixes, watched};
#[cfg(feature = "http")]
use super::observer::Observatory;
use crate::compiled::domain::{DomainMistake, Domains};
use crate::compiled::{Limits, RuleError};
use crate::error::{BuildError, Mistake};
use crate::etcd::Target;
use crate::events::Events;
use crate::rule::{Rule, compile};
use crate::runtime::env::Env;
use crate::trace::reveal::Reveal;
use etcd_client::{Channel, ConnectOptions};
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// Below this, by default, engines keep their keys.
pub(crate) const NAMESPACES: &str = "/etcd-rules/";

/// Collects the configuration of an [`Engine`]; made by [`Engine::builder`].
///
/// Every option has a default that suits most engines. Nothing is checked before
/// [`build`](EngineBuilder::build), which reports all mistakes together.
#[must_use = "a builder does nothing until `build` is called"]
pub struct EngineBuilder {
    application: String,
    name: Option<String>,
    namespace: Option<String>,
    endpoints: Vec<String>,
    channel: Option<Channel>,
    connect_options: Option<ConnectOptions>,
    rules: Vec<Rule>,
    domains: Domains,
    options: Options,
    runtime: Option<Handle>,
    #[cfg(feature = "http")]
    observatory: Option<Arc<dyn Observatory>>,
    pub(crate) env: Env,
}

impl EngineBuilder {
    pub(super) fn new(application: String, endpoints: Vec<String>, channel: Option<Channel>) -> Self {
        Self {
            application,
            name: None,
            namespace: None,
            endpoints,
            channel,
            connect_options: None,
            rules: Vec::new(),
            domains: Domains::default(),
            options: Options::default(),
            runtime: None,
            #[cfg(feature = "http")]
            observatory: None,
            env: Env::real(),
        }
    }

    /// Adds a rule. An engine needs at least one, and each needs an id of its own.
    pub fn rule(mut self, rule: Rule) -> Self {
        self.rules.push(rule);
        self
    }

    /// Adds rules, to those that are there already.
    pub fn rules(mut self, rules: impl IntoIterator<Item = Rule>) -> Self {
        self.rules.extend(rules);
        self
    }

    /// Fixes an attribute of all rules to these values: its place in every pattern is taken by each of them
    /// in turn. Default: keys bind all attributes. A second call for the same attribute replaces the first.
    ///
    /// A rule with a pattern like `/:geo/servers/:id` then has the instances below `/na/` and `/eu/` only, the
    /// engine watches only those, and no key needs to bind `:geo`. Everything else stays as it is: the
    /// attribute resolves in callbacks, commits and lock patterns, each value has locks of its own, the same
    /// as in an engine that does not expand it, and the rule keeps its id in metrics, logs and limits.
    ///
    /// Several attributes are combined: a rule may have 1000 combinations at most. Each costs some memory and
    /// each value a watch; with more than 32 prefixes wider ones are
    /// [watched](crate::Engine::watched_prefixes). That no rule has the attribute is a mistake, and so are no
    /// values, and an empty one.
    ///
    /// ```
    /// use etcd_rules::{Engine, Error, Firing, Rule, key};
    ///
    /// async fn check(firing: Firing) -> Result<(), Error> {
    ///     assert!(["na", "eu"].contains(&firing.attribute("geo")?));
    ///     Ok(())
    /// }
    ///
    /// let engine = Engine::builder("checker", ["127.0.0.1:2379"])
    ///     .rule(Rule::new("check").when(key("/:geo/servers/:id").exists()).run(check))
    ///     .expand("geo", ["na", "eu"])
    ///     .build()?;
    /// assert!(engine.watched_prefixes().eq(["/eu/servers/", "/na/servers/"]));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn expand<V: Into<String>>(
        mut self,
        attribute: impl Into<String>,
        values: impl IntoIterator<Item = V>,
    ) -> Self {
        self.domains.expand(attribute.into(), values.into_iter().map(Into::into));
        self
    }

    /// Limits an attribute of all rules to values that begin with `prefix` and then one character of each of
    /// the `sets`. Default: any value. A second call for the same attribute replaces the first.
    ///
    /// Keys with another value match no pattern: this engine does not see them, whatever it watches. It also
    /// narrows the watches, if the attribute comes first in a pattern: instead of everything below `/servers/`
    /// it watches `/servers/s0`, `/servers/s1` and so on, looking at as many characters as leave 32 watches at
    /// most. So several engines can each take a part of a large keyspace.
    ///
    /// A value for which no engine is responsible is seen by none. Constraints apply to what
    /// [`expand`](EngineBuilder::expand) leaves. A constraint of an attribute that is expanded, or that no rule
    /// has, is a mistake, and so are an empty set, and a slash.
    ///
    /// ```
    /// use etcd_rules::{Engine, Error, Firing, Rule, key};
    ///
    /// # async fn check(_: Firing) -> Result<(), Error> { Ok(()) }
    /// let engine = Engine::builder("checker", ["127.0.0.1:2379"])
    ///     .rule(Rule::new("check").when(key("/servers/:id/state").equals("new")).run(check))
    ///     .constrain("id", "s", ["01", "ab"])
    ///     .build()?;
    /// assert!(engine.watched_prefixes().eq(["/servers/s0a", "/servers/s0b", "/servers/s1a", "/servers/s1b"]));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn constrain<S: Into<String>>(
        mut self,
        attribute: impl Into<String>,
        prefix: impl Into<String>,
        sets: impl IntoIterator<Item = S>,
    ) -> Self {
        self.domains.constrain(attribute.into(), prefix.into(), sets.into_iter().map(Into::into));
        self
    }

    /// The engine's name in metrics, logs and lock keys. Default: the application's name.
    ///
    /// Give engines in one process different names: with the same name their counters are added up, and
    /// their gauges overwrite each other.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// The prefix below which the engine keeps its locks and backoff keys; a `/` at its end is added.
    /// Default: `/etcd-rules/<application>/`.
    ///
    /// Engines that run the same rules must have the same namespace: otherwise they don't see each other's
    /// locks, and two of them work on one instance. Keys below `/etcd-rules/`, and below this prefix, match
    /// no pattern, and no commit may change them: a prefix of the application's own keys makes rules blind.
    pub fn namespace(mut self, prefix: impl Into<String>) -> Self {
        self.namespace = Some(prefix.into());
        self
    }

    /// Credentials, TLS and whatever else `etcd_client` can be told. Default: none of it.
    ///
    /// The engine itself sets require-leader, HTTP/2 keep-alive and the
    /// [connect time-out](EngineBuilder::connect_timeout), whatever the options say. TLS, and endpoints that
    /// begin with `https://`, need the feature `tls`.
    pub fn connect_options(mut self, options: ConnectOptions) -> Self {
        self.connect_options = Some(options);
        self
    }

    /// How many instances may be fired at once, from taking the lock to the commit. At least 1; default:
    /// 128. A rule may have half of them, unless [`Rule::concurrency`] says otherwise. What is due beyond
    /// that waits, each instance once.
    ///
    /// Higher: more memory and load in a burst; lower: longer queues behind slow callbacks.
    pub fn concurrency(mut self, limit: usize) -> Self {
        self.options.concurrency = limit;
        self
    }

    /// Threads that evaluate conditions. An instance is always decided by the same one. Default: 0, which
    /// evaluates them on the thread that keeps the index and dispatches: a comparison that blocks then holds
    /// everything up but the watch and the leases.
    ///
    /// More are of use for costly [`compare`](crate::Key::compare) functions and regular expressions; else
    /// each costs a thread, and every change two steps between threads, for nothing.
    pub fn evaluators(mut self, threads: usize) -> Self {
        self.options.evaluators = threads;
        self
    }

    /// How long an instance that became true, or that somebody changed, waits before it fires: `delay`, and at
    /// random up to `jitter` longer. Default: not at all. A rule may have [its own](Rule::settle).
    ///
    /// Then it is decided again: what was true for a shorter time never fires, and all changes in the
    /// meantime are one. With jitter the engine that is first is another one each time, and the others often
    /// find the work done instead of trying for the lock. Every firing that follows a change comes later by so
    /// much, polls too; retries, and what a crawl fires again, do not. The latency metrics count from the end
    /// of the wait.
    pub fn settle(mut self, delay: Duration, jitter: Duration) -> Self {
        self.options.settle = (delay, jitter);
        self
    }

    /// TTL of the leases behind locks, in whole seconds (rounded up). At least 1 s; default: 10 s; a rule
    /// may have [its own](Rule::lock_ttl). etcd grants more if its least TTL is longer (2 s, with its
    /// default election time-out).
    ///
    /// A lease is renewed every third of its TTL. After three quarters without a renewal its firings are
    /// told to end; an eighth later they are dropped. Shorter: other engines take over sooner after a
    /// crash, and firings are cancelled sooner when etcd does not answer, even by a change of its leader.
    /// Longer: the work of a crashed engine lies still for longer.
    pub fn lock_ttl(mut self, ttl: Duration) -> Self {
        self.options.lock_ttl = ttl;
        self
    }

    /// The time from the end of a crawl to the next, ± the [jitter](EngineBuilder::crawl_jitter); also from the start to the first. More than
    /// zero; default: 5 minutes. A crawl reads all watched keys, repairs what the watch may have missed
    /// (expected: nothing) and fires again what is still true.
    ///
    /// Shorter: more load on etcd, and what stays true fires more often. Longer: what stays true waits
    /// longer, and a fault of the watch would stay unnoticed for longer.
    pub fn crawl_interval(mut self, interval: Duration) -> Self {
        self.options.crawl_interval = interval;
        self
    }

    /// By which part of the [interval](EngineBuilder::crawl_interval) the time between two crawls is longer or
    /// shorter, at random, so that engines which started together don't crawl together. From 0 to 1; default:
    /// 0.1.
    ///
    /// With 0 they do. With more, a crawl may come late.
    pub fn crawl_jitter(mut self, part: f64) -> Self {
        self.options.crawl_jitter = part;
        self
    }

    /// How many keys a crawl reads in a second at most, instead of its own pace. At least 1. Default: its own pace,
    /// which is a small page at a time and a rest nine times as long as the page took, of 30 s in all at most and
    /// what timers add; a million keys take about 40 s, and live work hardly notices.
    ///
    /// Lower: it spares an etcd that has other work. Too low: with many keys a crawl takes long, while deleted
    /// keys are remembered, and it is abandoned if etcd compacts the revision that it reads meanwhile. Higher:
    /// crawls end sooner, and live work is slower meanwhile. Snapshots, at the start and after a compaction, are
    /// not slowed: nothing fires before they are complete.
    pub fn crawl_rate(mut self, keys_per_second: u32) -> Self {
        self.options.crawl_rate = Some(keys_per_second);
        self
    }

    /// Of all engines of the application, only one crawls at a time; the others wait for their turn, in the order
    /// in which they came. Default: off, each at its own time.
    ///
    /// Each engine checks its own memory, so each still crawls; this only keeps the load of many engines apart.
    /// Each that waits has a key in the namespace under a lease of the [lock TTL](EngineBuilder::lock_ttl), and
    /// the oldest key is the mutex: an engine that dies holds it for no longer. With many engines and many keys, or a low
    /// [rate](EngineBuilder::crawl_rate), crawls come later than their interval says.
    pub fn crawl_mutex(mut self, on: bool) -> Self {
        self.options.crawl_mutex = on;
        self
    }

    /// After how long in the queue what a crawl brought up counts like live work, which goes before it.
    /// Default: 10 s.
    ///
    /// Shorter: a crawl that finds much delays live work (zero: always). Longer: while live work never
    /// ends, what a crawl found waits for longer.
    pub fn crawl_ageing(mut self, after: Duration) -> Self {
        self.options.ageing = after;
        self
    }

    /// With this, [`Engine::start`] waits until the engine is ready, and fails if it is not within this
    /// time. Default: `start` returns at once; the engine tries for ever, and says in
    /// [`Health`](crate::Health) and the log what it waits for.
    ///
    /// Too short for the first snapshot of many keys: the engine never starts.
    pub fn start_timeout(mut self, within: Duration) -> Self {
        self.options.start_timeout = Some(within);
        self
    }

    /// How long [`Engine::run_until`] lets callbacks finish at its end, before it cancels them. Default:
    /// 30 s.
    ///
    /// Shorter: work is broken off and done again by another engine. Longer than the patience of whoever
    /// stops the process: it is killed, and its locks end only with their TTL.
    pub fn shutdown_deadline(mut self, deadline: Duration) -> Self {
        self.options.shutdown_deadline = deadline;
        self
    }

    /// How long making a connection to etcd may take. More than zero; default: 2 s. Without effect on a
    /// [channel](Engine::builder_with_channel) of the application's.
    ///
    /// Too short: a distant etcd is never reached. Too long: the move to the next endpoint is late.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.options.connect_timeout = timeout;
        self
    }

    /// How long one request to etcd may take; also, how long the answer to a keep-alive ping. More than
    /// zero; default: 5 s.
    ///
    /// Keep it below the lock TTL: a lock or commit whose answer was lost is sent again only after this
    /// time, and by then the lock may be lost too. Too short: requests fail that a busy etcd would have
    /// answered, and the engine moves from endpoint to endpoint.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.options.request_timeout = timeout;
        self
    }

    /// The id of the cluster that the endpoints are of, as `etcdctl endpoint status -w fields` tells it. Default: the
    /// one that more than half of the endpoints name when the engine starts; without such a majority it is not
    /// [ready](crate::EngineHandle::ready), and its health names every id.
    ///
    /// An endpoint of another cluster is left before anything is written there. If no endpoint has named the known
    /// cluster for 10 s, an engine that was not told its id starts again with the other one. One that was told never
    /// does: a wrong id keeps it from starting, and so does a cluster that was made anew.
    pub fn cluster_id(mut self, id: u64) -> Self {
        self.options.cluster_id = Some(id);
        self
    }

    /// A watch that was silent for so long is asked for a sign of life, and opened anew, on the next
    /// endpoint, if none comes in the same time again. More than zero; default: 10 s.
    ///
    /// Shorter: more requests on quiet watches, and streams given up that were only slow. Longer: changes
    /// come late after a stream has died without a word. None is lost either way.
    pub fn watch_silence(mut self, silence: Duration) -> Self {
        self.options.watch_silence = silence;
        self
    }

    /// For how long changes may be late before the engine's health says [`lagging`](crate::Reason::Lagging).
    /// More than zero; default: 5 s.
    ///
    /// Late means: a change was received and the engine's index has not taken it yet; or etcd is sending
    /// history, each message less than a second after the last and none up to the newest revision; or a new
    /// snapshot is being read because history was compacted. Health stays lagging until they are less than
    /// half of this late.
    ///
    /// Shorter: an alarm for every burst. Longer: late triggers go unnoticed.
    pub fn lag_limit(mut self, limit: Duration) -> Self {
        self.options.lag_limit = limit;
        self
    }

    /// The servers' `--max-txn-ops`: operations in one transaction. At least 4; default: 128, as etcd's
    /// own. A rule may read this many keys less 2 (and never more than 128), and so many may a commit
    /// change.
    ///
    /// Larger than the servers': they refuse large commits and batches. Smaller: requests carry less.
    pub fn max_txn_ops(mut self, operations: usize) -> Self {
        self.options.max_txn_ops = operations;
        self
    }

    /// What logs, spans and the HTTP endpoint may tell of the application's data. Default:
    /// [`Reveal::Nothing`], no keys and no values.
    ///
    /// More: whoever reads the log, the traces or the page learns what is in etcd. Nothing: they tell which
    /// rule has trouble, and not which instance.
    pub fn reveal(mut self, reveal: Reveal) -> Self {
        self.options.reveal = reveal;
        self
    }

    /// How many locks, or commits, travel in one request to etcd at most. At least 1; default: 64.
    ///
    /// What has queued while the last requests were out is sent together, as nested transactions, each of which
    /// decides by itself. That is several times as fast, for less of etcd's time. With 1 every transaction is a
    /// request of its own: for servers before 3.4.42 (newer release lines: see the advisory) on which users have
    /// different permissions, since those don't check the permissions of nested operations (CVE-2026-33343).
    pub fn batch_size(mut self, transactions: usize) -> Self {
        self.options.batch_size = transactions;
        self
    }

    /// Has the running engine looked at, until its handle is dropped.
    #[cfg(feature = "http")]
    pub(crate) fn observed_by(mut self, observatory: Arc<dyn Observatory>) -> Self {
        self.observatory = Some(observatory);
        self
    }

    /// How many [events](crate::EngineHandle::events) are kept for receivers that are behind. From 1 to
    /// 16,777,216; default: 1,024. It is rounded up to a power of two. The memory is taken (some 40 bytes an
    /// event, and what the events hold) when somebody listens first.
    ///
    /// Smaller: receivers miss events in bursts. Larger: more memory while events come faster than they are
    /// received.
    pub fn event_buffer(mut self, events: usize) -> Self {
        self.options.event_buffer = events;
        self
    }

    /// The tokio runtime on which callbacks run. Default: the one from which the engine is started.
    /// Everything else runs on threads of the engine's own.
    ///
    /// It must run for as long as the engine: on a runtime that has been shut down no callback starts, and
    /// each counts as cancelled; on a current-thread runtime callbacks run only while something blocks on
    /// it.
    pub fn runtime(mut self, runtime: Handle) -> Self {
        self.runtime = Some(runtime);
        self
    }

    /// Checks everything, without a connection to etcd. What is allowed but rarely meant is logged as a
    /// warning: a pattern that makes the engine watch all of etcd, and a rule with attributes that holds
    /// when none of its keys exists.
    ///
    /// # Errors
    /// [`BuildError`] with all mistakes: of the application's name, the options, the endpoints and every
    /// rule.
    pub fn build(self) -> Result<Engine, BuildError> {
        let mut mistakes = Vec::new();
        check_application(&self.application, &mut mistakes);
        let Options { lock_ttl, concurrency, max_txn_ops, settle, .. } = self.options;
        mistakes.extend(check_options(&self.options));
        if self.channel.is_none() {
            check_endpoints(&self.endpoints, &mut mistakes);
        }
        if self.rules.is_empty() {
            mistakes.push(Mistake::NoRule);
        }
        let mut ids = HashSet::new();
        for rule in &self.rules {
            if !ids.insert(rule.id().to_owned()) {
                mistakes.push(Mistake::DuplicateRule(rule.id().to_owned()));
            }
        }
        let limits = Limits { max_txn_ops, lock_ttl, concurrency: (concurrency / 2).max(1), settle };
        let namespace = self.namespace.unwrap_or_else(|| format!("{NAMESPACES}{}/", self.application));
        let namespace = if namespace.ends_with('/') { namespace } else { format!("{namespace}/") };
        let mut used = BTreeSet::new();
        let (mut rules, mut callbacks) = (Vec::new(), Vec::new());
        for rule in self.rules {
            let id = rule.id().to_owned();
            used.extend(rule.attributes());
            let compiled = compile(rule, &self.domains, limits).and_then(|(compiled, callback)| {
                let reserved: Vec<RuleError> =
                    compiled.iter().flat_map(|rule| reserved(rule, &namespace)).collect();
                if reserved.is_empty() { Ok((compiled, callback)) } else { Err(reserved) }
            });
            match compiled {
                Ok((compiled, callback)) => {
                    warn(&compiled);
                    callbacks.extend(compiled.iter().map(|_| callback.clone()));
                    rules.extend(compiled);
                }
                Err(errors) => {
                    mistakes
                        .extend(errors.into_iter().map(|error| Mistake::Rule { rule: id.clone(), error }));
                }
            }
        }
        let domains = self.domains.mistakes(&used).into_iter();
        mistakes.extend(domains.map(|DomainMistake { option, attribute, reason }| Mistake::Attribute {
            option,
            attribute,
            reason,
        }));
        if !mistakes.is_empty() {
            return Err(BuildError { mistakes });
        }
        let prefixes = watched(&rules, MAX_WATCHES);
        let exact = covering(literal_prefixes(&rules), usize::MAX).len();
        if exact > MAX_WATCHES {
            tracing::warn!(exact, watched = ?prefixes, "the patterns have more prefixes than are watched apart: wider ones are watched");
        }
        let target = match self.channel {
            Some(channel) => Target::Channel(channel, self.connect_options),
            None => Target::Endpoints(self.endpoints, self.connect_options),
        };
        Ok(Engine {
            config: Config {
                engine: self.name.unwrap_or(self.application).into(),
                namespace: namespace.into(),
                target,
                rules: Arc::from(rules),
                callbacks: Arc::from(callbacks),
                prefixes,
                events: Events::new(self.options.event_buffer),
                options: self.options.bounded(),
                runtime: self.runtime,
                #[cfg(feature = "http")]
                observatory: self.observatory,
                env: self.env,
            },
        })
    }
}
