//! All actors of one start, wired together, on their stages.

use super::config::{Config, Options};
use super::inspector::Inspector;
use crate::compiled::CompiledRule;
use crate::crawl::actor as crawler;
use crate::crawl::mutex::CrawlMutex;
use crate::dispatch::actor::{Attach, Dispatcher, DispatcherConfig, Drain};
use crate::dispatch::controls::RuleControls;
use crate::dispatch::running::RunningCallbacks;
use crate::etcd::EtcdClient;
use crate::evaluate::Evaluator;
use crate::health::status::Status;
use crate::index::Index;
use crate::index::actor::{EvaluatorHandle, IndexActor};
use crate::lock::batch::BatchLimits;
use crate::lock::keeper::{Keeper, Revoke, Settings as KeeperSettings};
use crate::lock::releases::{Releases, Settings as ReleasesSettings};
use crate::lock::requests::{Requests, Settings as RequestsSettings};
use crate::metrics::Meters;
use crate::read::reader::{Following, Splits};
use crate::runtime::retry::Retry;
use crate::runtime::stage::Stage;
use crate::runtime::supervised::{Fault, Faults};
use crate::time::LONGEST;
use crate::trace::Telemetry;
use crate::trace::lines::Lines;
use crate::watch::actor::{Settings as WatcherSettings, Watcher};
use crate::watch::standing::Standings;
use crate::watch_cell::watch_cell;
use actix::prelude::*;
use rand::Rng;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

/// Messages of decisions that wait for an evaluator at most.
const EVALUATOR_MAILBOX: usize = 16;

/// How long etcd may take to free what the engine held.
const REVOKE: Duration = Duration::from_secs(5);

pub(crate) struct Generation {
    engine: Arc<str>,
    pub(crate) faults: mpsc::Receiver<Fault>,
    index: Addr<IndexActor>,
    dispatcher: Addr<Dispatcher>,
    keeper: Addr<Keeper>,
    running: RunningCallbacks,
    brakes: RuleControls,
    /// Watchers, releases and crawler: the first to end.
    watch: Stage,
    /// Everything else.
    stages: Vec<Stage>,
    /// Ends with the last stage: actors of these stages keep it full of their addresses.
    _watchers: Vec<Addr<Watcher>>,
    _releases: Addr<Releases>,
    _crawler: Addr<crawler::Crawler>,
}

impl Generation {
    /// Starts all actors. An error is one of the machine: no threads.
    pub(crate) async fn start(
        config: &Config,
        runtime: &Handle,
        status: &Status,
        meters: &Meters,
        running: &RunningCallbacks,
        brakes: &RuleControls,
        number: u64,
    ) -> std::io::Result<Self> {
        let ended = || std::io::Error::other("a thread of the engine ended at once");
        let placement = config.env.placement;
        let mut env = config.env.clone();
        env.seed = env.seed.wrapping_add(number);
        let (faults, fault_receiver) = Faults::new(config.env.probe.clone());
        let engine = config.engine.clone();
        let telemetry = Telemetry { lines: Lines::default(), reveal: config.options.reveal };
        // Engines of one cluster begin with different members.
        let first = env.rng(5).next_u64() as usize;
        let link =
            || Arc::new(EtcdClient::new(config.target.clone(), config.timeouts(), meters.clone(), first));
        let (watch_link, lease_link, request_link) = (link(), link(), link());

        let requests = Requests::new(RequestsSettings {
            meters: meters.clone(),
            link: request_link.clone(),
            status: status.clone(),
            namespace: config.namespace.clone(),
            limits: BatchLimits::new(config.options.max_txn_ops, config.options.batch_size),
            faults: faults.clone(),
        });
        let keeper = KeeperSettings {
            meters: meters.clone(),
            link: lease_link,
            status: status.clone(),
            rng: env.rng(2),
            faults: faults.clone(),
        };
        let Options { lock_ttl, crawl_mutex, .. } = config.options;
        let ttls = config.rules.iter().map(|rule| rule.lock_ttl()).chain(crawl_mutex.then_some(lock_ttl));
        let (keeper, leases) = Keeper::new(keeper, ttls);
        // Leases have a thread of their own: whatever holds the others up, they are renewed.
        let lease = Stage::start("etcd-rules-lease", placement)?;
        let keeper = lease.run(move || keeper.start()).await.ok_or_else(ended)?;

        // Requests share the dispatcher's: a hop between threads costs more than what they do.
        let core = Stage::start("etcd-rules-core", placement)?;
        let requests = core.run(move || requests.start()).await.ok_or_else(ended)?;
        let (releases_after, after) = watch_cell(None);
        let dispatcher = DispatcherConfig {
            engine: engine.clone(),
            meters: meters.clone(),
            env: env.clone(),
            rules: config.rules.clone(),
            callbacks: config.callbacks.clone(),
            namespace: config.namespace.clone(),
            reserved: config.reserved().into(),
            max_txn_ops: config.options.max_txn_ops,
            limit: config.options.concurrency,
            starvation_limit: config.options.ageing,
            link: request_link,
            requests,
            keeper: keeper.clone(),
            leases: leases.clone(),
            runtime: runtime.clone(),
            running: running.clone(),
            brakes: brakes.clone(),
            events: config.events.clone(),
            telemetry: telemetry.clone(),
            faults: faults.clone(),
        };
        let dispatcher = Dispatcher::new(dispatcher, releases_after);
        let dispatcher = core.run(move || dispatcher.start()).await.ok_or_else(ended)?;

        let mut stages = vec![];
        let mut evaluators = Vec::new();
        for evaluator in 0..config.options.evaluators.max(1) {
            let own = match config.options.evaluators {
                0 => None,
                _ => Some(Stage::start(&format!("etcd-rules-ev{evaluator}"), placement)?),
            };
            let stage = own.as_ref().unwrap_or(&core);
            let actor = Evaluator::new(
                engine.clone(),
                meters.clone(),
                config.rules.clone(),
                dispatcher.clone().recipient(),
                EVALUATOR_MAILBOX,
                telemetry.clone(),
                faults.clone(),
            );
            let actor = stage.run(move || actor.start()).await.ok_or_else(ended)?;
            let (orders, reached) = (actor.clone().recipient(), actor.recipient());
            evaluators.push(EvaluatorHandle { orders, reached });
            stages.extend(own);
        }
        let index =
            Index::new(config.rules.clone(), config.prefixes.clone(), config.reserved(), env.hasher());
        let index = IndexActor::new(meters.clone(), index, evaluators, status.clone(), faults.clone());
        let index = core.run(move || index.start()).await.ok_or_else(ended)?;
        dispatcher.send(Attach(index.clone())).await.map_err(|_| ended())?;
        stages.extend([core, lease]);

        let watch = Stage::start("etcd-rules-watch", placement)?;
        let prefix = |prefix: &String| (prefix.clone(), Splits::default(), Following::default());
        let splits: Vec<(String, Splits, Following)> = config.prefixes.iter().map(prefix).collect();
        let standings = Standings::new(splits.len(), Instant::now());
        let mut watchers = Vec::new();
        for (number, (prefix, splits, following)) in splits.iter().enumerate() {
            let watcher = WatcherSettings {
                engine: engine.clone(),
                meters: meters.clone(),
                standings: standings.clone(),
                number: number as u16,
                prefix: prefix.clone(),
                link: watch_link.clone(),
                index: index.clone(),
                status: status.clone(),
                splits: splits.clone(),
                following: following.clone(),
                silence: config.options.watch_silence,
                lag_limit: config.options.lag_limit,
                faults: faults.clone(),
            };
            let watcher = Watcher::new(watcher, Retry::new(env.rng(100 + number as u64)));
            watchers.push(watch.run(move || watcher.start()).await.ok_or_else(ended)?);
        }
        let releases = ReleasesSettings {
            link: watch_link.clone(),
            namespace: config.namespace.to_string(),
            dispatcher: dispatcher.clone().recipient(),
            after,
            status: status.clone(),
            silence: config.options.watch_silence,
            faults: faults.clone(),
        };
        let releases = Releases::new(releases, Retry::new(env.rng(3)));
        let mutex = leases.get(&lock_ttl).filter(|_| crawl_mutex).map(|lease| CrawlMutex {
            engine: engine.clone(),
            prefix: format!("{}crawl/", config.namespace),
            lease: lease.clone(),
            retry: Retry::new(env.rng(6)),
        });
        let crawler = crawler::Crawler::new(crawler::Settings {
            engine,
            meters: meters.clone(),
            link: watch_link,
            prefixes: splits,
            index: index.clone(),
            dispatcher: dispatcher.clone().recipient(),
            namespace: config.namespace.to_string(),
            interval: config.options.crawl_interval,
            jitter: config.options.crawl_jitter,
            rate: config.options.crawl_rate,
            mutex,
            rng: env.rng(4),
            faults,
        });
        let started = watch.run(move || (releases.start(), crawler.start())).await;
        let (releases, crawler) = started.ok_or_else(ended)?;
        Ok(Self {
            engine: config.engine.clone(),
            faults: fault_receiver,
            index,
            dispatcher,
            keeper,
            running: running.clone(),
            brakes: brakes.clone(),
            watch,
            stages,
            _watchers: watchers,
            _releases: releases,
            _crawler: crawler,
        })
    }

    /// For those who ask what is going on.
    pub(crate) fn inspector(&self, rules: Arc<[CompiledRule]>) -> Inspector {
        Inspector::new(rules, self.index.clone(), self.dispatcher.clone(), self.brakes.clone())
    }

    /// Ends in order; returns the number of firings that did not end.
    pub(crate) async fn shutdown(self, deadline: Duration) -> usize {
        self.watch.stop();
        let deadline = Instant::now() + deadline.min(LONGEST);
        let left = match self.dispatcher.send(Drain { deadline }).await {
            Ok(left) => left,
            // It panicked meanwhile. Its callbacks may run on, and their locks must stay until they end.
            Err(_) => self.cancel(REVOKE).await,
        };
        self.end(REVOKE, left).await;
        left
    }

    /// Ends without waiting for callbacks to finish their work, within `limit` and a little.
    pub(crate) async fn abandon(self, limit: Duration) {
        self.watch.stop();
        let started = Instant::now();
        // The dispatcher must know first: whatever ends would make room for others, whose locks would be
        // revoked under them. If it is gone, or does not answer, the callbacks are told all the same.
        let drained = timeout(limit / 2, self.dispatcher.send(Drain { deadline: started })).await;
        if !matches!(drained, Ok(Ok(_))) {
            tracing::debug!(engine = &*self.engine, "dispatcher did not end its firings in time");
        }
        let left = self.cancel((limit / 2).saturating_sub(started.elapsed())).await;
        self.end(limit / 2, left).await;
    }

    /// Tells all callbacks to end; returns the number of those that did not within `limit`.
    async fn cancel(&self, limit: Duration) -> usize {
        self.running.cancel_all();
        // Those that listen end now; the others are dropped by their runtime, or end some day.
        match timeout(limit, self.running.all_ended()).await {
            Ok(()) => 0,
            Err(_) => self.running.len(),
        }
    }

    async fn end(self, revoke: Duration, left: usize) {
        // Locks of callbacks that still run are left to their TTL: nobody else is to start their work.
        if left == 0 && timeout(revoke, self.keeper.send(Revoke)).await.is_err() {
            tracing::debug!(engine = &*self.engine, "leases not revoked; they end by themselves");
        }
        for stage in std::iter::once(self.watch).chain(self.stages) {
            if !stage.end().await {
                tracing::warn!(
                    engine = &*self.engine,
                    "a thread of the engine is blocked and was left behind"
                );
            }
        }
    }
}
