//! Collects the configuration of an engine.

use super::config::EngineOptions;
#[cfg(feature = "http")]
use super::observer::Observatory;
use crate::compiled::domain::Domains;
use crate::compiled::{RateLimit, Settle};
use crate::etcd::CredentialsOption;
use crate::firing::Layer;
use crate::rule::Rule;
use crate::runtime::env::Env;
use crate::time::Jitter;
use crate::trace::reveal::Reveal;
use etcd_client::{Channel, ConnectOptions};
use std::time::Duration;
use tokio::runtime::Handle;

/// The default prefix of the keys of engines.
pub(crate) const NAMESPACES: &str = "/etcd-rules/";

/// Collects the configuration of an [`Engine`](crate::Engine). [`Engine::builder`](crate::Engine::builder) makes it.
///
/// Every option has a default that suits most engines. Nothing is checked before
/// [`build`](EngineBuilder::build), which reports all mistakes together.
#[must_use = "a builder does nothing until `build` is called"]
pub struct EngineBuilder {
    pub(super) application: String,
    pub(super) name: Option<String>,
    pub(super) namespace: Option<String>,
    pub(super) key_prefix: String,
    pub(super) endpoints: Vec<String>,
    pub(super) channel: Option<Channel>,
    pub(super) connect_options: Option<ConnectOptions>,
    pub(super) credentials: Option<CredentialsOption>,
    pub(super) rules: Vec<Rule>,
    pub(super) domains: Domains,
    pub(super) options: EngineOptions,
    pub(super) layers: Vec<Layer>,
    pub(super) runtime: Option<Handle>,
    #[cfg(feature = "http")]
    pub(super) observatory: Option<std::sync::Arc<dyn Observatory>>,
    pub(crate) env: Env,
}

impl EngineBuilder {
    pub(super) fn new(application: String, endpoints: Vec<String>, channel: Option<Channel>) -> Self {
        Self {
            application,
            name: None,
            namespace: None,
            key_prefix: String::new(),
            endpoints,
            channel,
            connect_options: None,
            credentials: None,
            rules: Vec::new(),
            domains: Domains::default(),
            options: EngineOptions::default(),
            layers: Vec::new(),
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

    /// Adds several rules.
    pub fn rules(mut self, rules: impl IntoIterator<Item = Rule>) -> Self {
        self.rules.extend(rules);
        self
    }

    /// Fixes an attribute of all rules to these values. In every pattern, each value takes the place of the
    /// attribute in turn. By default keys bind all attributes. A second call for the same attribute replaces
    /// the first.
    ///
    /// In the example below, the rule only has instances below `/na/` and `/eu/`, the engine only watches
    /// those prefixes, and no key needs to bind `:geo`. Everything else stays the same. The attribute
    /// resolves in callbacks, commits and lock patterns. Each value has locks of its own, and they are those
    /// of an engine that doesn't expand the attribute. The rule keeps its id in metrics, logs and limits.
    ///
    /// Several attributes are combined, and a rule may have at most 1000 combinations. Each combination costs
    /// some memory, and each value a watch. Instead of more than 32 prefixes, wider ones are
    /// [watched](crate::Engine::watched_prefixes). It is a mistake if no rule has the attribute, if there are
    /// no values, or if a value is empty.
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

    /// Limits an attribute of all rules to values that begin with `prefix`, followed by one character of each
    /// of the `sets`. By default any value is allowed. A second call for the same attribute replaces the
    /// first.
    ///
    /// Keys with other values match no pattern, so this engine doesn't see them. If the attribute is the
    /// first one in a pattern, the watches are narrowed too. Instead of everything below `/servers/`, the
    /// engine watches `/servers/s0`, `/servers/s1` and so on. It uses as many characters as lead to at most
    /// 32 watches. So several engines can each take a part of a large keyspace.
    ///
    /// If no engine is responsible for a value, no engine sees it. It is a mistake to constrain an attribute
    /// that is [expanded](EngineBuilder::expand) or that no rule has. An empty set and a slash are mistakes
    /// too.
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

    /// The engine's name in metrics and logs, and in the values of its locks and marks. The default is the
    /// application's name.
    ///
    /// Give engines in one process different names. With the same name, their counters are added up and their
    /// gauges overwrite each other.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// The prefix below which the engine keeps its locks and backoff keys, and the identity of the store. If it doesn't
    /// end in `/`, one is added. The default is `/etcd-rules/<application>/`.
    ///
    /// The identity, `<prefix>identity`, is a random value that tells this store from others. The first engine writes
    /// it, and it stays. Another store refuses what an engine sends, even if its cluster has the same id.
    ///
    /// Engines that run the same rules must have the same namespace. Otherwise they don't see each other's
    /// locks, and two of them work on one instance.
    ///
    /// Keys below `/etcd-rules/` and below this prefix match no pattern, and no commit may change them. So
    /// don't choose a prefix of the application's own keys, because rules would not see them.
    pub fn namespace(mut self, prefix: impl Into<String>) -> Self {
        self.namespace = Some(prefix.into());
        self
    }

    /// How many instances may fire at once in this engine, from taking the lock to the commit. Each engine has slots
    /// of its own, so that the fleet has as many as all engines together. It is at least 1; the default is 128. One of
    /// several rules may use half of them, and a rule alone all of them, unless
    /// [`rule_concurrency`](EngineBuilder::rule_concurrency) or [`Rule::concurrency`] says otherwise. Other instances
    /// that are due wait in a queue, each once.
    ///
    /// A higher limit means more memory and load in a burst. A lower one means longer queues behind slow
    /// callbacks.
    pub fn concurrency(mut self, limit: usize) -> Self {
        self.options.concurrency = limit;
        self
    }

    /// The number of threads that evaluate conditions. An instance is always decided by the same one. The
    /// default is 0: conditions are evaluated on the thread of the index and the dispatcher. Then a
    /// comparison that blocks holds up everything except the watch and the leases.
    ///
    /// Threads are useful for expensive [`compare`](crate::Key::compare) functions and regular expressions.
    /// Otherwise they only cost: each is a thread, and every change goes from thread to thread twice.
    pub fn evaluators(mut self, threads: usize) -> Self {
        self.options.evaluators = threads;
        self
    }

    /// How long an instance that became true, or that somebody changed, waits before it fires: a time, or a
    /// [`Settle`] with jitter. Default: not at all. A rule may have [its own](Rule::settle).
    ///
    /// Then it is decided again: what was true for a shorter time never fires, and all changes in the
    /// meantime are one. With jitter the engine that is first is another one each time, and the others often
    /// find the work done instead of trying for the lock. Every firing that follows a change comes later by
    /// so much, polls too; retries, and what a crawl fires again, do not. The latency metrics count from the
    /// end of the wait.
    pub fn settle(mut self, settle: impl Into<Settle>) -> Self {
        self.options.settle = settle.into();
        self
    }

    /// How often an instance may fire in this engine before it is slowed down, whatever becomes of its condition in
    /// between. Each engine counts for itself. The default is [`RateLimit::new(300,
    /// Duration::from_secs(60))`](RateLimit::new): five times a second, and 300 times more at once. A rule may have
    /// [its own](Rule::instance_rate).
    ///
    /// This is about rules that undo each other's work: each makes the other true again, without an end. An instance
    /// that fires more often, and is due again within `per / count` after it has fired, fires after a delay that begins
    /// at the [base](crate::Backoff) of its backoff, and doubles up to 5 seconds. It halves when there is more time
    /// between. A line of the log names the rule that made it true again, and
    /// `etcd_rules_slowed_firings_total` counts its firings. What fires at the same time for other instances is not
    /// slowed.
    ///
    /// If the rate is low, an instance whose keys really change so often lags behind by up to 5 seconds, though each
    /// time it sees the newest values. If it is high, rules that undo each other are a load for etcd.
    pub fn instance_rate(mut self, rate: RateLimit) -> Self {
        self.options.instance_rate = rate;
        self
    }

    /// The TTL of the leases behind locks, rounded up to whole seconds. It is at least 1 s; the default is 10
    /// s. A rule may have [its own](Rule::lock_ttl). etcd grants more if its least TTL is longer, which is 2
    /// s with its default election time-out.
    ///
    /// A lease is renewed every quarter of its TTL. After three quarters without a renewal its firings are
    /// cancelled, and an eighth later they are dropped. With a shorter TTL, other engines take over sooner
    /// after a crash, but firings are cancelled sooner when etcd doesn't answer, even during a change of its
    /// leader. With a longer TTL, the work of a crashed engine is interrupted for longer.
    pub fn lock_ttl(mut self, ttl: Duration) -> Self {
        self.options.lock_ttl = ttl;
        self
    }

    /// The time from the end of a crawl to the next, and from the start to the first; longer by the
    /// [jitter](EngineBuilder::crawl_jitter). More than zero; default: 5 minutes. A crawl reads all watched
    /// keys, repairs what the watch may have missed (expected: nothing) and fires again what is still true.
    ///
    /// Engines that [share the work](EngineBuilder::owners) read a share of the keys each, so that all of them together
    /// read about as much an interval as one would. Each has read everything within as many intervals as there are
    /// engines, and one more: at most nine.
    ///
    /// A shorter interval means more load on etcd, and instances that stay true fire more often. With a
    /// longer one they wait longer, and a fault of the watch would stay unnoticed for longer.
    pub fn crawl_interval(mut self, interval: Duration) -> Self {
        self.options.crawl_interval = interval;
        self
    }

    /// By how much the time between two crawls is longer than the [interval](EngineBuilder::crawl_interval),
    /// at random, so that engines which started together don't crawl together. Default: up to a tenth.
    ///
    /// Without jitter they do. With much, a crawl may come late.
    pub fn crawl_jitter(mut self, jitter: Jitter) -> Self {
        self.options.crawl_jitter = jitter;
        self
    }

    /// The most keys that a crawl reads in a second. It is at least 1. By default a crawl has a pace of its
    /// own: it reads a small page, and then rests nine times as long as the page took. All rests together are
    /// at most 30 s, plus what timers add. A million keys take about 40 s, and live work hardly notices.
    ///
    /// A low rate spares an etcd that has other work. If it is too low, a crawl of many keys takes long.
    /// Deleted keys are remembered for that time, and the crawl is abandoned if etcd compacts the revision
    /// that it reads. With a high rate crawls end sooner, but slow live work down.
    ///
    /// Snapshots, at the start and after a compaction, are never slowed, because nothing fires before they
    /// are complete.
    pub fn crawl_rate(mut self, keys_per_second: u32) -> Self {
        self.options.crawl_rate = Some(keys_per_second);
        self
    }

    /// Lets only one engine of the application crawl at a time. The others wait for their turn, in the order
    /// in which they came. By default this is off, and each engine crawls at its own time.
    ///
    /// Each engine checks its own memory, so each still crawls. This only spreads the load of many engines.
    /// An engine that waits has a key in the namespace, under a lease of the [lock
    /// TTL](EngineBuilder::lock_ttl). The oldest key is the mutex, so an engine that dies holds it only until
    /// its lease ends. With many engines and many keys, or a low [rate](EngineBuilder::crawl_rate), crawls
    /// come later than their interval says.
    pub fn crawl_mutex(mut self, on: bool) -> Self {
        self.options.crawl_mutex = on;
        self
    }

    /// Whether this engine is a member of the fleet, and leaves instances to their owners. By default it is not: it
    /// tries everything at once, as if it were alone, and the locks sort that out.
    ///
    /// A member registers itself in the namespace, with what it can do, and sees which others are alive. From that
    /// each of them derives which engine tries an instance first: its *owner*. The others leave it alone for as
    /// long as the owner is alive and able to fire it. So engines hardly ever compete for a lock, and what stays
    /// true fires once an interval of the [crawl](EngineBuilder::crawl_interval) and not once an engine. This is
    /// advice: the lock alone excludes. An instance whose owner is gone, can't fire it any more, or sees other members
    /// than this engine, is tried by the others. `docs/scaling.md` says when, and what this does not cover: an owner
    /// whose callbacks fail keeps its instances, for example.
    ///
    /// Turn it on for all engines of an application, or for none: members compete with those that are none. Leave
    /// it off for a single engine, which saves its keys and a lease, and where engines with the same rules and
    /// constraints can't do the same. For example, only one of them reaches a certain network. After a crash, what
    /// the engine owned waits until its lease as a member ends: for the least lock TTL, or 10 s if that is shorter.
    /// A member that may not write below `<namespace>members/` goes on as if it were none, and its health says so.
    pub fn owners(mut self, on: bool) -> Self {
        self.options.owners = on;
        self
    }

    /// Live work goes before instances that a crawl found. After this time in the queue, they count as live
    /// work. The default is 10 s.
    ///
    /// With a shorter time, a crawl that finds much delays live work; with zero it always does. With a longer
    /// time, instances that a crawl found wait longer while live work never ends.
    pub fn crawl_ageing(mut self, after: Duration) -> Self {
        self.options.starvation_limit = after;
        self
    }

    /// With this option [`Engine::start`](crate::Engine::start) waits until the engine is ready, and fails if that
    /// takes longer than this time. By default `start` returns at once. Then the engine tries forever, and its
    /// [`Health`](crate::Health) and the log say what it waits for.
    ///
    /// If the time is too short for the first snapshot of many keys, the engine never starts.
    pub fn start_timeout(mut self, within: Duration) -> Self {
        self.options.start_timeout = Some(within);
        self
    }

    /// How long [`Engine::run_until`](crate::Engine::run_until) lets callbacks finish at its end, before it cancels
    /// them. The default is 30 s.
    ///
    /// So long, but at most 30 s, callbacks may also finish when etcd refuses to let a prefix be read and the engine
    /// begins again with the parts of it that it needs. Nothing is started meanwhile.
    ///
    /// If it is too short, work is broken off, and another engine does it again. If it is longer than whoever
    /// stops the process waits, the process is killed, and its locks end only with their TTL.
    pub fn shutdown_deadline(mut self, deadline: Duration) -> Self {
        self.options.shutdown_deadline = deadline;
        self
    }

    /// For how long changes may be late before the engine's health says
    /// [`lagging`](crate::health::Reason::Lagging). More than zero; default: 5 s.
    ///
    /// Changes are late in three cases. A change was received, and the engine's index has not merged it yet.
    /// Or etcd is sending history: each message comes less than a second after the last, and none reaches the
    /// newest revision. Or a new snapshot is being read because history was compacted. Health stays lagging
    /// until changes are late by less than half of this time.
    ///
    /// With a short limit every burst causes an alarm. With a long one, late callbacks go unnoticed.
    pub fn lag_limit(mut self, limit: Duration) -> Self {
        self.options.lag_limit = limit;
        self
    }

    /// The servers' `--max-txn-ops`, which is the most operations in one transaction. It is at least 4; the
    /// default is 128, which is etcd's own. A rule may read this many keys less 3, and never more than 128. A
    /// commit may change this many keys less 2.
    ///
    /// If it is larger than the servers' limit, they refuse large commits and batches. If it is smaller,
    /// requests carry less.
    pub fn max_txn_ops(mut self, operations: usize) -> Self {
        self.options.max_txn_ops = operations;
        self
    }

    /// The servers' `--max-request-bytes`, which is the most bytes in one request. It is at least 16 KiB; the default
    /// is 1.5 MiB, which is etcd's own.
    ///
    /// What is larger is not sent: a commit, or the transaction that takes the lock of an instance with very long keys.
    /// The instance is given up with the reason until one of its keys changes, and the log and the metrics say so. The
    /// transaction that takes a lock has each key of the condition twice, and that of a commit each key and value
    /// that it writes once, and each key that it expects something of twice.
    ///
    /// If it is larger than the servers' limit, they refuse what is too large, with the same consequence. If it is
    /// smaller, what they would take is given up.
    pub fn max_request_bytes(mut self, bytes: usize) -> Self {
        self.options.max_request_bytes = bytes;
        self
    }

    /// What logs, spans and the HTTP endpoint may show of the application's data. The default is
    /// [`Reveal::Nothing`]: no keys and no values.
    ///
    /// If you reveal more, whoever reads the log, the traces or the pages learns what is in etcd. If you
    /// reveal nothing, they show which rule has trouble, but not which instance.
    pub fn reveal(mut self, reveal: Reveal) -> Self {
        self.options.reveal = reveal;
        self
    }

    /// The most locks or commits in one request to etcd. It is at least 1; the default is 64.
    ///
    /// Transactions that queue up while earlier requests are in flight are sent together, as nested
    /// transactions. Each of them decides by itself. That is several times as fast, and costs etcd less time.
    ///
    /// With 1, every transaction is a request of its own. Use that for servers before 3.4.42 (for newer
    /// release lines see the advisory) on which users have different permissions. Those servers don't check
    /// the permissions of nested operations (CVE-2026-33343).
    pub fn batch_size(mut self, transactions: usize) -> Self {
        self.options.batch_size = transactions;
        self
    }

    /// Sets what observes the running engine until its handle is dropped.
    #[cfg(feature = "http")]
    pub(crate) fn observed_by(mut self, observatory: std::sync::Arc<dyn Observatory>) -> Self {
        self.observatory = Some(observatory);
        self
    }

    /// How many [events](crate::EngineHandle::events) are kept for receivers that are behind, from 1 to
    /// 16,777,216. The default is 1,024. It is rounded up to a power of two. The memory is allocated when
    /// somebody first listens: some 40 bytes an event, plus what the events hold.
    ///
    /// With a small buffer, receivers miss events in bursts. A large one takes more memory while events come
    /// faster than they are received.
    pub fn event_buffer(mut self, events: usize) -> Self {
        self.options.event_buffer = events;
        self
    }

    /// The tokio runtime on which callbacks run. The default is the one from which the engine is started.
    /// Everything else runs on the engine's own threads.
    ///
    /// It must run for as long as the engine does. On a runtime that has been shut down no callback starts,
    /// and each counts as cancelled. On a current-thread runtime, callbacks run only while something blocks
    /// on it.
    pub fn runtime(mut self, runtime: Handle) -> Self {
        self.runtime = Some(runtime);
        self
    }
}
