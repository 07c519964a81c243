//! Puts an engine together, and finds every mistake of the configuration at once.

use super::Engine;
use super::config::{Config, Options};
use super::coverage::{MAX_WATCHES, covering};
use super::env::Env;
use crate::error::{BuildError, Error, Mistake};
use crate::etcd::Target;
use crate::rule::{CompiledRule, Limits, Rule};
use etcd_client::{Channel, ConnectOptions};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// Below this, by default, engines keep their keys.
pub(crate) const NAMESPACES: &str = "/etcd-rules/";

/// Collects the configuration of an [`Engine`]; made by [`Engine::builder`].
#[must_use = "a builder does nothing until `build` is called"]
pub struct EngineBuilder {
    application: String,
    name: Option<String>,
    namespace: Option<String>,
    endpoints: Vec<String>,
    channel: Option<Channel>,
    connect_options: Option<ConnectOptions>,
    rules: Vec<Rule>,
    options: Options,
    runtime: Option<Handle>,
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
            options: Options::default(),
            runtime: None,
            env: Env::real(),
        }
    }

    /// Adds a rule.
    pub fn rule(mut self, rule: Rule) -> Self {
        self.rules.push(rule);
        self
    }

    /// Adds rules.
    pub fn rules(mut self, rules: impl IntoIterator<Item = Rule>) -> Self {
        self.rules.extend(rules);
        self
    }

    /// The engine's name in metrics and logs. Default: the application's name. Give engines in one
    /// process different names, or their metrics are added up.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Where the engine keeps locks and backoff keys. Default: `/etcd-rules/<application>/`. All engines
    /// that run the same rules must have the same. Keys below `/etcd-rules/`, and below this, match no
    /// pattern.
    pub fn namespace(mut self, prefix: impl Into<String>) -> Self {
        self.namespace = Some(prefix.into());
        self
    }

    /// Credentials, TLS and whatever else `etcd_client` can be told. The engine itself sets
    /// require-leader, HTTP/2 keep-alive and the connect time-out.
    pub fn connect_options(mut self, options: ConnectOptions) -> Self {
        self.connect_options = Some(options);
        self
    }

    /// Callbacks that may run at once. Default: 128. A rule may have half of them, unless
    /// [`Rule::concurrency`] says otherwise. Higher: more memory and load at a burst; lower: longer
    /// queues behind slow callbacks.
    pub fn concurrency(mut self, limit: usize) -> Self {
        self.options.concurrency = limit;
        self
    }

    /// Threads that evaluate conditions. Default: 1, which decides hundreds of thousands of instances
    /// a second; more are of use for costly [`compare`](crate::Key::compare) functions.
    pub fn evaluators(mut self, threads: usize) -> Self {
        self.options.evaluators = threads;
        self
    }

    /// TTL of the leases behind locks, in whole seconds (rounded up). Default: 10 s. Shorter: others
    /// take over sooner after a crash, and firings are cancelled sooner when etcd does not answer.
    /// etcd's own least TTL, with its default election time-out, is 2 s.
    pub fn lock_ttl(mut self, ttl: Duration) -> Self {
        self.options.lock_ttl = ttl;
        self
    }

    /// Between crawls, ± 10 %. Default: 5 minutes. A crawl reads all watched keys, repairs what the
    /// watch may have missed (expected: nothing) and fires again what is still true.
    pub fn crawl_interval(mut self, interval: Duration) -> Self {
        self.options.crawl_interval = interval;
        self
    }

    /// After how long in the queue work that a crawl brought up counts like live work. Default: 10 s.
    pub fn crawl_ageing(mut self, after: Duration) -> Self {
        self.options.ageing = after;
        self
    }

    /// [`Engine::start`] fails if the engine is not ready in this time. Default: it waits for ever, and
    /// says in [`Health`](crate::Health), the log and the metrics what it waits for.
    pub fn start_timeout(mut self, within: Duration) -> Self {
        self.options.start_timeout = Some(within);
        self
    }

    /// How long [`Engine::run_until`] lets callbacks finish at its end. Default: 30 s.
    pub fn shutdown_deadline(mut self, deadline: Duration) -> Self {
        self.options.shutdown_deadline = deadline;
        self
    }

    /// For a connection to etcd to be made. Default: 2 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.options.connect_timeout = timeout;
        self
    }

    /// For one request to etcd. Default: 5 s. It must be shorter than the lock TTL, or one lost answer
    /// costs the lease.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.options.request_timeout = timeout;
        self
    }

    /// A watch that was silent for so long is asked for a sign of life, and opened anew if none comes in
    /// the same time again. Default: 10 s.
    pub fn watch_silence(mut self, silence: Duration) -> Self {
        self.options.watch_silence = silence;
        self
    }

    /// The servers' `--max-txn-ops`. Default: etcd's own default, 128. Larger than the servers': large
    /// commits and batches are refused by them.
    pub fn max_txn_ops(mut self, operations: usize) -> Self {
        self.options.max_txn_ops = operations;
        self
    }

    /// The runtime on which callbacks run. Default: the one from which the engine is started.
    pub fn runtime(mut self, runtime: Handle) -> Self {
        self.runtime = Some(runtime);
        self
    }

    /// Checks everything.
    ///
    /// # Errors
    /// [`Error::Build`] with all mistakes: of the names, the endpoints, the options and every rule.
    pub fn build(self) -> Result<Engine, Error> {
        let mut mistakes = Vec::new();
        check_application(&self.application, &mut mistakes);
        let Options { lock_ttl, concurrency, max_txn_ops, .. } = self.options;
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
        let limits = Limits { max_txn_ops, lock_ttl, concurrency: (concurrency / 2).max(1) };
        let mut rules = Vec::new();
        for rule in self.rules {
            let id = rule.id().to_owned();
            match CompiledRule::new(rule, limits) {
                Ok(rule) => rules.push(rule),
                Err(errors) => {
                    mistakes
                        .extend(errors.into_iter().map(|error| Mistake::Rule { rule: id.clone(), error }));
                }
            }
        }
        let namespace = self.namespace.unwrap_or_else(|| format!("{NAMESPACES}{}/", self.application));
        let namespace = if namespace.ends_with('/') { namespace } else { format!("{namespace}/") };
        check_namespace(&namespace, &rules, &mut mistakes);
        if !mistakes.is_empty() {
            return Err(BuildError { mistakes }.into());
        }
        rules.iter().for_each(warn);
        let literal =
            rules.iter().flat_map(|rule| rule.slots().iter().map(|pattern| pattern.literal_prefix()));
        let prefixes = covering(literal, MAX_WATCHES);
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
                prefixes,
                options: self.options.bounded(),
                runtime: self.runtime,
                env: self.env,
            },
        })
    }
}

fn check_application(application: &str, mistakes: &mut Vec<Mistake>) {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if application.is_empty() {
        mistakes.push(Mistake::NoApplication);
    } else if !application.chars().all(plain) {
        mistakes.push(Mistake::Application(application.to_owned()));
    }
}

/// Keys of the namespace match no pattern: one that contains the rules' own keys would silence them.
fn check_namespace(namespace: &str, rules: &[CompiledRule], mistakes: &mut Vec<Mistake>) {
    let mut patterns = rules.iter().flat_map(|rule| rule.slots());
    if let Some(pattern) = patterns.find(|pattern| pattern.literal_prefix().starts_with(namespace)) {
        let reason = format!("the keys of `{pattern}` are in it, and keys of a namespace match no pattern");
        mistakes.push(Mistake::Option { option: "namespace", value: format!("`{namespace}`"), reason });
    }
}

fn check_endpoints(endpoints: &[String], mistakes: &mut Vec<Mistake>) {
    if endpoints.is_empty() {
        mistakes.push(Mistake::NoEndpoint);
    }
    for endpoint in endpoints {
        let bare = endpoint
            .strip_prefix("http://")
            .or_else(|| endpoint.strip_prefix("https://"))
            .unwrap_or(endpoint);
        let reason = match bare.rsplit_once(':') {
            _ if bare.contains(['/', ' ']) => Some("only a host and a port may follow the scheme"),
            None => Some("the port is missing, such as `:2379`"),
            Some(("", _)) => Some("the host is missing"),
            Some((_, port)) if port.parse::<u16>().is_err() => Some("the port is not a number below 65536"),
            Some(_) => None,
        };
        if let Some(reason) = reason {
            mistakes.push(Mistake::Endpoint { endpoint: endpoint.clone(), reason: reason.to_owned() });
        }
    }
}

fn check_options(options: &Options) -> Vec<Mistake> {
    let mut mistakes = Vec::new();
    let mut wrong = |option: &'static str, value: String, reason: &str| {
        mistakes.push(Mistake::Option { option, value, reason: reason.to_owned() });
    };
    let Options {
        concurrency,
        evaluators,
        lock_ttl,
        crawl_interval,
        connect_timeout,
        request_timeout,
        watch_silence,
        max_txn_ops,
        ..
    } = options;
    if *concurrency == 0 {
        wrong("concurrency", "0".into(), "no callback could ever run");
    }
    if *evaluators == 0 {
        wrong("evaluators", "0".into(), "nothing could ever be decided");
    }
    if *lock_ttl < Duration::from_secs(1) {
        wrong("lock_ttl", format!("{lock_ttl:?}"), "etcd grants leases of whole seconds, from 1");
    }
    if *max_txn_ops < 4 {
        wrong("max_txn_ops", max_txn_ops.to_string(), "taking a lock needs at least 4 operations");
    }
    for (option, value) in [
        ("crawl_interval", crawl_interval),
        ("connect_timeout", connect_timeout),
        ("request_timeout", request_timeout),
        ("watch_silence", watch_silence),
    ] {
        if value.is_zero() {
            wrong(option, "0s".into(), "it must be longer than nothing");
        }
    }
    mistakes
}

/// What is allowed but rarely meant.
fn warn(rule: &CompiledRule) {
    for pattern in rule.matches_everything() {
        tracing::warn!(rule = %rule.id(), %pattern, "the pattern matches every key of its depth, so that all of etcd is watched");
    }
    if rule.is_of_absences() {
        tracing::warn!(
            rule = %rule.id(),
            "the condition holds when none of its keys exists: an instance is known only by a deletion, and one that happens while no engine runs is never seen"
        );
    }
}
