//! All actors of one start, wired together, on their threads.

use super::config::{Config, EngineOptions};
use super::coverage::splits_up;
use super::inspector::Inspector;
use crate::compiled::CompiledRule;
use crate::crawl::crawler::{CrawlerSettings, WatchedKeys, start_crawler};
use crate::crawl::mutex::CrawlMutex;
use crate::dispatch::actor::{
    Attach, CallbackHost, DispatchLimits, Dispatcher, DispatcherConfig, Drain, EtcdHandles, KeySpace,
    Membership, Reports,
};
use crate::dispatch::controls::RuleControls;
use crate::dispatch::running::RunningCallbacks;
use crate::etcd::{Connector, CredentialSource, EtcdClient, LinkSettings, Store, Target, Token};
use crate::evaluate::Evaluator;
use crate::fleet::announcer::{Announcement, AnnouncerSettings, start_announcer};
use crate::fleet::member::MemberId;
use crate::fleet::view::prefix_of_members;
use crate::fleet::watcher::{FleetWatcherSettings, start_fleet_watcher};
use crate::health::Reason;
use crate::health::status::Status;
use crate::index::actor::{EvaluatorHandle, IndexActor};
use crate::index::{Index, WatcherIndex};
use crate::lock::batch::BatchLimits;
use crate::lock::lease_manager::{LeaseManager, LeaseManagerSettings, Revoke};
use crate::lock::lock_watcher::{LockWatcherSettings, start_lock_watcher};
use crate::lock::sentinel::Sentinels;
use crate::lock::txn_sender::{TxnSender, TxnSenderSettings};
use crate::metrics::Meters;
use crate::pattern::KeyScope;
use crate::read::reader::{SharedSplitPoints, StreamGeneration};
use crate::runtime::actor_thread::ActorThread;
use crate::runtime::env::RandomStream;
use crate::runtime::retry::Retry;
use crate::runtime::supervised::{ActorFault, ActorFaults, spawn_guarded};
use crate::time::LONGEST;
use crate::trace::Telemetry;
use crate::trace::lines::Lines;
use crate::watch::progress::WatchProgress;
use crate::watch::watcher::{WatcherSettings, start_watcher};
use crate::watch_cell::watch_cell;
use actix::prelude::*;
use rand::Rng;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

/// The most messages that wait for an evaluator.
const EVALUATOR_MAILBOX: usize = 16;

/// How long etcd may take to free the engine's leases.
const REVOKE: Duration = Duration::from_secs(5);

pub(crate) struct Incarnation {
    engine: Arc<str>,
    pub(crate) faults: mpsc::Receiver<ActorFault>,
    index: Addr<IndexActor>,
    dispatcher: Addr<Dispatcher>,
    lease_manager: Addr<LeaseManager>,
    running: RunningCallbacks,
    controls: RuleControls,
    /// Watchers, lock watcher and crawler: the first to end.
    watch: ActorThread,
    /// Everything else.
    threads: Vec<ActorThread>,
}

/// Endpoints are counted on from a random one: of more than anybody has.
const FIRSTS: usize = 1 << 30;

/// The longest TTL of an engine's keys as a member of the fleet.
const MEMBER_TTL: Duration = Duration::from_secs(10);

/// The name of a part in health: what the application is asked for.
const CREDENTIALS: &str = "credentials";

/// Starts a link's connector. Connections are made where it runs.
async fn connect(thread: &ActorThread, connector: Connector, faults: &ActorFaults) -> Option<()> {
    let faults = faults.clone();
    // It ends with the thread.
    thread.run(move || drop(spawn_guarded(&faults, "connector", connector.run()))).await
}

impl Incarnation {
    /// Starts all actors. An error means that the system could not start a thread.
    pub(crate) async fn start(
        config: &Config,
        runtime: &Handle,
        status: &Status,
        meters: &Meters,
        running: &RunningCallbacks,
        controls: &RuleControls,
        number: u64,
    ) -> std::io::Result<Self> {
        let ended = || std::io::Error::other("a thread of the engine ended at once");
        let placement = config.env.placement;
        let mut env = config.env.clone();
        env.seed = env.seed.wrapping_add(number);
        let (faults, fault_receiver) = ActorFaults::new(config.env.probe.clone());
        let engine = config.engine.clone();
        let telemetry = Telemetry { lines: Lines::default(), reveal: config.options.reveal };
        // Engines of one cluster begin with different members.
        let first = env.rng(RandomStream::Home).next_u64() as usize;
        let token = Arc::new(Token::default());
        let endpoints = match &config.target {
            Target::Endpoints(endpoints, _) => endpoints.clone(),
            Target::Channel(..) => Vec::new(),
        };
        let rewound = faults.clone();
        let EngineOptions { cluster_id, .. } = config.options;
        let under = (config.key_prefix.clone(), &*config.namespace);
        let store = Store::new(endpoints, cluster_id, under, env.identity(), move |reason| {
            rewound.report(ActorFault::Rewound(reason));
        });
        let (told, timeouts) = (status.clone(), config.timeouts());
        let credentials =
            config.credentials.clone().map(|credentials| {
                CredentialSource::new(credentials, runtime.clone(), timeouts.request, move |trouble| {
                    match trouble {
                        Some(trouble) => told.problem(CREDENTIALS, Reason::Auth, trouble.to_owned()),
                        None => told.fine(CREDENTIALS),
                    }
                })
            });
        // Three links, each at home with another member.
        let etcd = |number: u8| {
            let (client, connector) = EtcdClient::new(LinkSettings {
                target: config.target.clone(),
                timeouts,
                meters: meters.clone(),
                home: (first % FIRSTS) + usize::from(number),
                token: token.clone(),
                credentials: credentials.clone(),
                rebalance: config.options.rebalance,
                store: store.clone(),
                rng: env.rng(RandomStream::EtcdClient(number)),
            });
            (Arc::new(client), connector)
        };
        let (watch_etcd, watch_connector) = etcd(0);
        let (lease_etcd, lease_connector) = etcd(1);
        let (request_etcd, request_connector) = etcd(2);

        let requests = TxnSender::new(TxnSenderSettings {
            meters: meters.clone(),
            etcd: request_etcd.clone(),
            status: status.clone(),
            rules: config.rules.clone(),
            namespace: config.namespace.clone(),
            limits: BatchLimits::new(
                config.options.max_txn_ops,
                config.options.batch_size,
                config.options.max_request_bytes,
            ),
            faults: faults.clone(),
        });
        let lease_manager = LeaseManagerSettings {
            meters: meters.clone(),
            etcd: lease_etcd.clone(),
            status: status.clone(),
            sentinels: Sentinels::new(&config.namespace, engine.clone()),
            silence: config.options.watch_silence,
            rng: env.rng(RandomStream::LeaseManager),
            faults: faults.clone(),
        };
        let EngineOptions { lock_ttl, crawl_mutex, .. } = config.options;
        let ttls = config.rules.iter().map(|rule| rule.lock_ttl()).chain(crawl_mutex.then_some(lock_ttl));
        let least = config.rules.iter().map(CompiledRule::lock_ttl).min();
        let member_ttl = least.map_or(MEMBER_TTL, |least| least.min(MEMBER_TTL));
        let (mut lease_manager, leases) = LeaseManager::new(lease_manager, ttls);
        let member_lease = config.options.owners.then(|| lease_manager.keep_member(member_ttl));
        // Leases have a thread of their own: whatever holds the others up, they are renewed.
        let lease = ActorThread::start("etcd-rules-lease", placement)?;
        connect(&lease, lease_connector, &faults).await.ok_or_else(ended)?;
        let lease_manager = lease.run(move || lease_manager.start()).await.ok_or_else(ended)?;

        // The sender of transactions shares the dispatcher's: a hop between threads costs more than what they do.
        let core = ActorThread::start("etcd-rules-core", placement)?;
        connect(&core, request_connector, &faults).await.ok_or_else(ended)?;
        let requests = core.run(move || requests.start()).await.ok_or_else(ended)?;
        let (releases_after, after) = watch_cell(None);
        let members = prefix_of_members(&config.namespace);
        let me = MemberId::new(env.rng(RandomStream::Member).next_u64());
        let (announced, wanted) = watch_cell(Announcement::default());
        let dispatcher = DispatcherConfig {
            engine: engine.clone(),
            env: env.clone(),
            rules: config.rules.clone(),
            keys: KeySpace {
                namespace: config.namespace.clone(),
                key_prefix: config.key_prefix.text(),
                reserved: config.reserved().into(),
            },
            limits: DispatchLimits {
                concurrency: config.options.concurrency,
                starvation_limit: config.options.starvation_limit,
                max_txn_ops: config.options.max_txn_ops,
            },
            etcd: EtcdHandles {
                client: request_etcd,
                requests,
                lease_manager: lease_manager.clone(),
                leases: leases.clone(),
            },
            callbacks: CallbackHost {
                by_rule: config.callbacks.clone(),
                runtime: runtime.clone(),
                running: running.clone(),
            },
            controls: controls.clone(),
            reports: Reports {
                events: config.events.clone(),
                meters: meters.clone(),
                telemetry: telemetry.clone(),
                faults: faults.clone(),
            },
            membership: member_lease.is_some().then(|| Membership {
                me,
                status: status.clone(),
                announced,
                interval: config.options.crawl_interval,
            }),
        };
        let dispatcher = Dispatcher::new(dispatcher, releases_after);
        let dispatcher = core.run(move || dispatcher.start()).await.ok_or_else(ended)?;

        let mut threads = vec![];
        let mut evaluators = Vec::new();
        for evaluator in 0..config.options.evaluators.max(1) {
            let own = match config.options.evaluators {
                0 => None,
                _ => Some(ActorThread::start(&format!("etcd-rules-ev{evaluator}"), placement)?),
            };
            let thread = own.as_ref().unwrap_or(&core);
            let actor = Evaluator::new(
                engine.clone(),
                meters.clone(),
                config.rules.clone(),
                dispatcher.clone().recipient(),
                EVALUATOR_MAILBOX,
                telemetry.clone(),
                faults.clone(),
            );
            let actor = thread.run(move || actor.start()).await.ok_or_else(ended)?;
            let (orders, reached) = (actor.clone().recipient(), actor.recipient());
            evaluators.push(EvaluatorHandle { orders, reached });
            threads.extend(own);
        }
        let index = Index::new(config.rules.clone(), config.watched.clone(), config.reserved(), env.hasher());
        let index = IndexActor::new(meters.clone(), index, evaluators, status.clone(), faults.clone());
        let index = core.run(move || index.start()).await.ok_or_else(ended)?;
        dispatcher.send(Attach(index.clone())).await.map_err(|_| ended())?;
        if let Some(member_lease) = member_lease.clone() {
            let announcer = AnnouncerSettings {
                etcd: lease_etcd,
                prefix: members.clone(),
                me,
                lease: member_lease,
                wanted,
                refused: dispatcher.clone().recipient(),
                status: status.clone(),
                faults: faults.clone(),
            };
            let retry = Retry::new(env.rng(RandomStream::Announcer));
            lease.run(move || start_announcer(announcer, retry)).await.ok_or_else(ended)?;
        }
        threads.extend([core, lease]);

        let watch = ActorThread::start("etcd-rules-watch", placement)?;
        connect(&watch, watch_connector, &faults).await.ok_or_else(ended)?;
        if member_lease.is_some() {
            // Before the snapshots, so that the members are known when those are decided.
            let watcher = FleetWatcherSettings {
                etcd: watch_etcd.clone(),
                prefix: members,
                dispatcher: dispatcher.clone().recipient(),
                status: status.clone(),
                silence: config.options.watch_silence,
                faults: faults.clone(),
            };
            let retry = Retry::new(env.rng(RandomStream::FleetWatcher));
            watch.run(move || start_fleet_watcher(watcher, retry)).await.ok_or_else(ended)?;
        }
        let watch_of = |keys: &KeyScope| WatchedKeys {
            keys: keys.clone(),
            splits: SharedSplitPoints::default(),
            generation: StreamGeneration::default(),
            splits_up: splits_up(&config.rules, &config.watched, keys),
        };
        let watched: Vec<WatchedKeys> = config.watched.iter().map(watch_of).collect();
        let progress = WatchProgress::new(watched.len(), Instant::now());
        for (number, WatchedKeys { keys, splits, generation, splits_up }) in watched.iter().enumerate() {
            let watcher = WatcherSettings {
                engine: engine.clone(),
                meters: meters.clone(),
                progress: progress.clone(),
                number: WatcherIndex::new(number),
                keys: keys.clone(),
                etcd: watch_etcd.clone(),
                index: index.clone(),
                status: status.clone(),
                splits: splits.clone(),
                generation: generation.clone(),
                splits_up: *splits_up,
                silence: config.options.watch_silence,
                lag_limit: config.options.lag_limit,
                faults: faults.clone(),
            };
            let retry = Retry::new(env.rng(RandomStream::Watcher(number as u16)));
            watch.run(move || start_watcher(watcher, retry)).await.ok_or_else(ended)?;
        }
        let releases = LockWatcherSettings {
            etcd: watch_etcd.clone(),
            namespace: config.namespace.to_string(),
            dispatcher: dispatcher.clone().recipient(),
            after,
            status: status.clone(),
            silence: config.options.watch_silence,
            faults: faults.clone(),
        };
        let retry = Retry::new(env.rng(RandomStream::LockWatcher));
        let mutex = leases.get(&lock_ttl).filter(|_| crawl_mutex).map(|lease| CrawlMutex {
            engine: engine.clone(),
            prefix: format!("{}{}crawl/", config.key_prefix.as_str(), config.namespace),
            lease: lease.clone(),
            retry: Retry::new(env.rng(RandomStream::CrawlMutex)),
        });
        let crawler = CrawlerSettings {
            engine,
            meters: meters.clone(),
            etcd: watch_etcd,
            watched,
            index: index.clone(),
            dispatcher: dispatcher.clone().recipient(),
            namespace: config.namespace.to_string(),
            interval: config.options.crawl_interval,
            jitter: config.options.crawl_jitter,
            rate: config.options.crawl_rate,
            mutex,
            rng: env.rng(RandomStream::Crawler),
            faults,
        };
        let start = move || {
            start_lock_watcher(releases, retry);
            start_crawler(crawler);
        };
        watch.run(start).await.ok_or_else(ended)?;
        Ok(Self {
            engine: config.engine.clone(),
            faults: fault_receiver,
            index,
            dispatcher,
            lease_manager,
            running: running.clone(),
            controls: controls.clone(),
            watch,
            threads,
        })
    }

    /// An inspector of these actors.
    pub(crate) fn inspector(&self, rules: Arc<[CompiledRule]>) -> Inspector {
        Inspector::new(rules, self.index.clone(), self.dispatcher.clone(), self.controls.clone())
    }

    /// Starts nothing more, and waits until the callbacks that run have finished, or for `limit`. The end of the actors
    /// is still to come.
    pub(crate) fn drain(&self, limit: Duration) -> impl Future<Output = ()> + use<> {
        self.watch.stop();
        // Whoever ends the actors says how long callbacks have.
        let drained = self.dispatcher.send(Drain { deadline: Instant::now() + LONGEST });
        async move {
            // Late, or gone after a panic: then there is nothing more to wait for.
            let _ = timeout(limit, drained).await;
        }
    }

    /// Ends in an orderly way. Returns the number of firings that did not end.
    pub(crate) async fn shutdown(self, deadline: Duration) -> usize {
        self.watch.stop();
        let deadline = Instant::now() + deadline.min(LONGEST);
        let left = match self.dispatcher.send(Drain { deadline }).await {
            Ok(left) => left,
            // The dispatcher panicked meanwhile. Its callbacks may still run, and their locks must stay until
            // they end.
            Err(_) => self.cancel(REVOKE).await,
        };
        self.end(REVOKE, left).await;
        left
    }

    /// Ends without waiting for callbacks to finish their work. Takes little longer than `limit`.
    pub(crate) async fn abandon(self, limit: Duration) {
        self.watch.stop();
        let started = Instant::now();
        // The dispatcher must know first. Otherwise each firing that ends would make room for another, whose
        // lock would then be revoked. If the dispatcher is gone, or doesn't answer, the callbacks are
        // cancelled nevertheless.
        let drained = timeout(limit / 2, self.dispatcher.send(Drain { deadline: started })).await;
        if !matches!(drained, Ok(Ok(_))) {
            tracing::debug!(engine = &*self.engine, "dispatcher did not end its firings in time");
        }
        let left = self.cancel((limit / 2).saturating_sub(started.elapsed())).await;
        self.end(limit / 2, left).await;
    }

    /// Cancels all callbacks. Returns the number of those that did not end within `limit`.
    async fn cancel(&self, limit: Duration) -> usize {
        self.running.cancel_all();
        // Callbacks that heed the cancellation end now. Their runtime drops the others where they wait.
        match timeout(limit, self.running.all_ended()).await {
            Ok(()) => 0,
            Err(_) => self.running.len(),
        }
    }

    async fn end(self, limit: Duration, left: usize) {
        // Locks of callbacks that still run are left to their TTL: nobody else is to start their work.
        if left == 0 && timeout(limit, self.lease_manager.send(Revoke { limit })).await.is_err() {
            tracing::debug!(engine = &*self.engine, "leases not revoked; they end by themselves");
        }
        for thread in std::iter::once(self.watch).chain(self.threads) {
            if !thread.end().await {
                tracing::warn!(
                    engine = &*self.engine,
                    "a thread of the engine is blocked and was left behind"
                );
            }
        }
    }
}
