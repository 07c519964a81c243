//! Every option of an engine with its default.

#[cfg(feature = "http")]
use super::observer::Observatory;
use crate::compiled::{CompiledRule, Defaults, RateLimit, Settle};
use crate::etcd::{CredentialsOption, KeyPrefix, Target, Timeouts};
use crate::events::Events;
use crate::firing::Callback;
use crate::limits;
use crate::lock::batch::MAX_REQUEST_BYTES;
use crate::pattern::KeyScope;
use crate::runtime::env::Env;
use crate::time::Jitter;
use crate::trace::reveal::Reveal;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// Options that have a default.
#[derive(Clone, Debug)]
pub(crate) struct EngineOptions {
    pub(crate) concurrency: usize,
    pub(crate) evaluators: usize,
    pub(crate) lock_ttl: Duration,
    pub(crate) crawl_interval: Duration,
    pub(crate) crawl_jitter: Jitter,
    pub(crate) crawl_rate: Option<u32>,
    pub(crate) crawl_mutex: bool,
    /// Leave to other engines what they own.
    pub(crate) owners: bool,
    pub(crate) starvation_limit: Duration,
    pub(crate) start_timeout: Option<Duration>,
    pub(crate) shutdown_deadline: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) request_timeout: Duration,
    pub(crate) watch_silence: Duration,
    /// A link is at home again within this time.
    pub(crate) rebalance: Duration,
    /// The cluster that the endpoints are to be of.
    pub(crate) cluster_id: Option<u64>,
    pub(crate) lag_limit: Duration,
    pub(crate) max_txn_ops: usize,
    pub(crate) max_request_bytes: usize,
    pub(crate) event_buffer: usize,
    pub(crate) reveal: Reveal,
    pub(crate) batch_size: usize,
    /// How long what became true waits.
    pub(crate) settle: Settle,
    pub(crate) instance_rate: RateLimit,
    /// How many firings each rule may have at once.
    pub(crate) rule_concurrency: Option<usize>,
    pub(crate) defaults: Defaults,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            concurrency: 128,
            evaluators: 0,
            lock_ttl: Duration::from_secs(10),
            crawl_interval: Duration::from_secs(5 * 60),
            crawl_jitter: Jitter::up_to(0.1),
            crawl_rate: None,
            crawl_mutex: false,
            owners: false,
            starvation_limit: Duration::from_secs(10),
            start_timeout: None,
            shutdown_deadline: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(2),
            request_timeout: Duration::from_secs(5),
            watch_silence: Duration::from_secs(10),
            rebalance: Duration::from_secs(10 * 60),
            cluster_id: None,
            lag_limit: Duration::from_secs(5),
            max_txn_ops: 128,
            max_request_bytes: MAX_REQUEST_BYTES,
            event_buffer: 1024,
            reveal: Reveal::default(),
            batch_size: 64,
            settle: Settle::NONE,
            instance_rate: RateLimit::OF_INSTANCES,
            rule_concurrency: None,
            defaults: Defaults::default(),
        }
    }
}

impl EngineOptions {
    /// Limits the durations, so that they can be added to a clock. `Duration::MAX` is a common way to say
    /// "never".
    pub(crate) fn bounded(mut self) -> Self {
        for (option, time) in [
            ("crawl_interval", Some(&mut self.crawl_interval)),
            ("crawl_ageing", Some(&mut self.starvation_limit)),
            ("start_timeout", self.start_timeout.as_mut()),
            ("shutdown_deadline", Some(&mut self.shutdown_deadline)),
            ("connect_timeout", Some(&mut self.connect_timeout)),
            ("request_timeout", Some(&mut self.request_timeout)),
            ("watch_silence", Some(&mut self.watch_silence)),
            ("rebalance", Some(&mut self.rebalance)),
            ("lag_limit", Some(&mut self.lag_limit)),
            ("time_limit", Some(&mut self.defaults.time_limit)),
        ] {
            if let Some(time) = time {
                limits::cut(limits::ENGINE, option, time);
            }
        }
        self
    }
}

/// A configuration without mistakes.
#[derive(Clone)]
pub(crate) struct Config {
    /// The engine's name in metrics and logs.
    pub(crate) engine: Arc<str>,
    /// Before every key in etcd.
    pub(crate) key_prefix: KeyPrefix,
    pub(crate) namespace: Arc<str>,
    pub(crate) target: Target,
    pub(crate) credentials: Option<CredentialsOption>,
    pub(crate) rules: Arc<[CompiledRule]>,
    /// By number of a rule.
    pub(crate) callbacks: Arc<[Callback]>,
    /// The keys of each watch.
    pub(crate) watched: Vec<KeyScope>,
    pub(crate) options: EngineOptions,
    pub(crate) runtime: Option<Handle>,
    #[cfg(feature = "http")]
    pub(crate) observatory: Option<Arc<dyn Observatory>>,
    pub(crate) events: Events,
    pub(crate) env: Env,
}

impl Config {
    /// The namespaces of engines. Keys there match no pattern, and no commit may change them.
    pub(crate) fn reserved(&self) -> Vec<String> {
        let mut reserved = vec![super::builder::NAMESPACES.to_owned()];
        if !self.namespace.starts_with(super::builder::NAMESPACES) {
            reserved.push(self.namespace.to_string());
        }
        reserved
    }

    pub(crate) fn timeouts(&self) -> Timeouts {
        let EngineOptions { connect_timeout, request_timeout, .. } = self.options;
        Timeouts {
            connect: connect_timeout,
            request: request_timeout,
            keep_alive: (KEEP_ALIVE, request_timeout),
        }
    }
}

/// The interval of HTTP/2 pings, which find connections that were cut silently.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
