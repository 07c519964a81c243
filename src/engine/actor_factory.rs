//! What each actor of an incarnation is made of: a constructor an actor. [`Incarnation`](super::incarnation) starts
//! them in their order, on their threads.

use super::config::{Config, EngineOptions};
use super::coverage::splits_up;
use crate::change::Revision;
use crate::compiled::CompiledRule;
use crate::crawl::crawler::{CrawlerSettings, WatchedKeys};
use crate::crawl::mutex::CrawlMutex;
use crate::dispatch::actor::{
    CallbackHost, DispatchLimits, Dispatcher, DispatcherConfig, EtcdHandles, KeySpace, Membership, Reports,
};
use crate::dispatch::controls::RuleControls;
use crate::dispatch::running::RunningCallbacks;
use crate::etcd::{Connector, CredentialSource, EtcdClient, LinkSettings, Store, Target, Token};
use crate::evaluate::Evaluator;
use crate::fleet::announcer::{Announcement, AnnouncerSettings};
use crate::fleet::member::MemberId;
use crate::fleet::view::prefix_of_members;
use crate::fleet::watcher::FleetWatcherSettings;
use crate::health::Reason;
use crate::health::status::Status;
use crate::index::actor::{EvaluatorHandle, IndexActor};
use crate::index::{Index, WatcherIndex};
use crate::lock::batch::BatchLimits;
use crate::lock::lease_manager::{LeaseManager, LeaseManagerSettings, LockLease, LockLeases};
use crate::lock::lock_watcher::LockWatcherSettings;
use crate::lock::sentinel::Sentinels;
use crate::lock::txn_sender::{TxnSender, TxnSenderSettings};
use crate::metrics::Meters;
use crate::pattern::KeyScope;
use crate::read::reader::{SharedSplitPoints, StreamGeneration};
use crate::runtime::env::{Env, RandomStream};
use crate::runtime::retry::Retry;
use crate::runtime::supervised::{ActorFault, ActorFaults};
use crate::trace::Telemetry;
use crate::trace::lines::Lines;
use crate::watch::progress::WatchProgress;
use crate::watch::watcher::WatcherSettings;
use crate::watch_cell::{WatchCell, WatchCellSender, watch_cell};
use actix::Addr;
use rand::Rng;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::Instant;

/// The most messages that wait for an evaluator.
const EVALUATOR_MAILBOX: usize = 16;

/// Endpoints are counted on from a random one: of more than anybody has.
const FIRSTS: usize = 1 << 30;

/// The longest TTL of an engine's keys as a member of the fleet.
const MEMBER_TTL: Duration = Duration::from_secs(10);

/// The name of a part in health: what the application is asked for.
const CREDENTIALS: &str = "credentials";

/// What all actors of one incarnation have in common.
pub(super) struct ActorFactory<'a> {
    config: &'a Config,
    runtime: &'a Handle,
    status: &'a Status,
    meters: &'a Meters,
    env: Env,
    telemetry: Telemetry,
    faults: ActorFaults,
}

/// The client of a link to etcd, and what connects it.
pub(super) type LinkParts = (Arc<EtcdClient>, Connector);

/// Three links, each at home with another member.
pub(super) struct Links {
    pub(super) watch: LinkParts,
    pub(super) lease: LinkParts,
    pub(super) requests: LinkParts,
}

/// What this engine is in the fleet, and what the dispatcher wants to be said of it.
pub(super) struct FleetMember {
    me: MemberId,
    lease: WatchCell<Option<LockLease>>,
    wanted: WatchCell<Announcement>,
}

impl<'a> ActorFactory<'a> {
    /// Of the incarnation of this number.
    pub(super) fn new(
        config: &'a Config,
        runtime: &'a Handle,
        status: &'a Status,
        meters: &'a Meters,
        faults: ActorFaults,
        number: u64,
    ) -> Self {
        let mut env = config.env.clone();
        env.seed = env.seed.wrapping_add(number);
        let telemetry = Telemetry { lines: Lines::default(), reveal: config.options.reveal };
        Self { config, runtime, status, meters, env, telemetry, faults }
    }

    pub(super) fn links(&self) -> Links {
        let Self { config, env, .. } = self;
        // Engines of one cluster begin with different members.
        let first = env.rng(RandomStream::Home).next_u64() as usize;
        let (token, store, credentials) = (Arc::new(Token::default()), self.store(), self.credentials());
        let link = |number: u8| {
            let (client, connector) = EtcdClient::new(LinkSettings {
                target: config.target.clone(),
                timeouts: config.timeouts(),
                meters: self.meters.clone(),
                home: (first % FIRSTS) + usize::from(number),
                token: token.clone(),
                credentials: credentials.clone(),
                rebalance: config.options.rebalance,
                store: store.clone(),
                rng: env.rng(RandomStream::EtcdClient(number)),
            });
            (Arc::new(client), connector)
        };
        Links { watch: link(0), lease: link(1), requests: link(2) }
    }

    fn store(&self) -> Arc<Store> {
        let Self { config, faults, .. } = self;
        let endpoints = match &config.target {
            Target::Endpoints(endpoints, _) => endpoints.clone(),
            Target::Channel(..) => Vec::new(),
        };
        let under = (config.key_prefix.clone(), &*config.namespace);
        let rewound = faults.clone();
        Store::new(endpoints, config.options.cluster_id, under, self.env.identity(), move |reason| {
            rewound.report(ActorFault::Rewound(reason));
        })
    }

    fn credentials(&self) -> Option<Arc<CredentialSource>> {
        let option = self.config.credentials.clone()?;
        let (status, limit) = (self.status.clone(), self.config.timeouts().request);
        Some(CredentialSource::new(option, self.runtime.clone(), limit, move |trouble| match trouble {
            Some(trouble) => status.problem(CREDENTIALS, Reason::Auth, trouble.to_owned()),
            None => status.fine(CREDENTIALS),
        }))
    }

    pub(super) fn txn_sender(&self, etcd: &Arc<EtcdClient>) -> TxnSender {
        let Config { rules, namespace, options, .. } = self.config;
        TxnSender::new(TxnSenderSettings {
            meters: self.meters.clone(),
            etcd: etcd.clone(),
            status: self.status.clone(),
            rules: rules.clone(),
            namespace: namespace.clone(),
            limits: BatchLimits::new(options.max_txn_ops, options.batch_size, options.max_request_bytes),
            faults: self.faults.clone(),
        })
    }

    /// With the leases that it keeps: those of locks, and that of a member of the fleet, if the engine is to be one.
    pub(super) fn lease_manager(
        &self,
        etcd: &Arc<EtcdClient>,
    ) -> (LeaseManager, LockLeases, Option<WatchCell<Option<LockLease>>>) {
        let Self { config, env, .. } = self;
        let settings = LeaseManagerSettings {
            meters: self.meters.clone(),
            etcd: etcd.clone(),
            status: self.status.clone(),
            sentinels: Sentinels::new(&config.namespace, config.engine.clone()),
            silence: config.options.watch_silence,
            rng: env.rng(RandomStream::LeaseManager),
            faults: self.faults.clone(),
        };
        let EngineOptions { lock_ttl, crawl_mutex, owners, .. } = config.options;
        let ttls = config.rules.iter().map(|rule| rule.lock_ttl()).chain(crawl_mutex.then_some(lock_ttl));
        let (mut lease_manager, leases) = LeaseManager::new(settings, ttls);
        let least = config.rules.iter().map(CompiledRule::lock_ttl).min();
        let member_ttl = least.map_or(MEMBER_TTL, |least| least.min(MEMBER_TTL));
        let member = owners.then(|| lease_manager.keep_member(member_ttl));
        (lease_manager, leases, member)
    }

    /// What makes the engine a member of the fleet, for its dispatcher and for its announcer.
    pub(super) fn member(&self, lease: WatchCell<Option<LockLease>>) -> (Membership, FleetMember) {
        let me = MemberId::new(self.env.rng(RandomStream::Member).next_u64());
        let (announced, wanted) = watch_cell(Announcement::default());
        let (status, interval) = (self.status.clone(), self.config.options.crawl_interval);
        (Membership { me, status, announced, interval }, FleetMember { me, lease, wanted })
    }

    /// `releases`: from where the lock watcher is to watch.
    pub(super) fn dispatcher(
        &self,
        etcd: EtcdHandles,
        membership: Option<Membership>,
        running: &RunningCallbacks,
        controls: &RuleControls,
        releases: WatchCellSender<Option<Revision>>,
    ) -> Dispatcher {
        let Self { config, .. } = self;
        let config = DispatcherConfig {
            engine: config.engine.clone(),
            env: self.env.clone(),
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
            etcd,
            callbacks: CallbackHost {
                by_rule: config.callbacks.clone(),
                runtime: self.runtime.clone(),
                running: running.clone(),
            },
            controls: controls.clone(),
            reports: Reports {
                events: config.events.clone(),
                meters: self.meters.clone(),
                telemetry: self.telemetry.clone(),
                faults: self.faults.clone(),
            },
            membership,
        };
        Dispatcher::new(config, releases)
    }

    pub(super) fn evaluator(&self, dispatcher: &Addr<Dispatcher>) -> Evaluator {
        Evaluator::new(
            self.config.engine.clone(),
            self.meters.clone(),
            self.config.rules.clone(),
            dispatcher.clone().recipient(),
            EVALUATOR_MAILBOX,
            self.telemetry.clone(),
            self.faults.clone(),
        )
    }

    pub(super) fn index(&self, evaluators: Vec<EvaluatorHandle>) -> IndexActor {
        let Self { config, .. } = self;
        let index =
            Index::new(config.rules.clone(), config.watched.clone(), config.reserved(), self.env.hasher());
        IndexActor::new(self.meters.clone(), index, evaluators, self.status.clone(), self.faults.clone())
    }

    pub(super) fn announcer(
        &self,
        etcd: Arc<EtcdClient>,
        member: FleetMember,
        dispatcher: &Addr<Dispatcher>,
    ) -> (AnnouncerSettings, Retry) {
        let settings = AnnouncerSettings {
            etcd,
            prefix: prefix_of_members(&self.config.namespace),
            me: member.me,
            lease: member.lease,
            wanted: member.wanted,
            refused: dispatcher.clone().recipient(),
            status: self.status.clone(),
            faults: self.faults.clone(),
        };
        (settings, self.retry(RandomStream::Announcer))
    }

    pub(super) fn fleet_watcher(
        &self,
        etcd: &Arc<EtcdClient>,
        dispatcher: &Addr<Dispatcher>,
        count: WatchCellSender<Option<usize>>,
    ) -> (FleetWatcherSettings, Retry) {
        let settings = FleetWatcherSettings {
            etcd: etcd.clone(),
            prefix: prefix_of_members(&self.config.namespace),
            dispatcher: dispatcher.clone().recipient(),
            count,
            status: self.status.clone(),
            silence: self.config.options.watch_silence,
            faults: self.faults.clone(),
        };
        (settings, self.retry(RandomStream::FleetWatcher))
    }

    /// The keys of each watch.
    pub(super) fn watched(&self) -> Vec<WatchedKeys> {
        let Config { rules, watched, .. } = self.config;
        let watch_of = |keys: &KeyScope| WatchedKeys {
            keys: keys.clone(),
            splits: SharedSplitPoints::default(),
            generation: StreamGeneration::default(),
            splits_up: splits_up(rules, watched, keys),
        };
        watched.iter().map(watch_of).collect()
    }

    /// One for each of these watches. `members`: how many engines share the work, once that is known.
    pub(super) fn watchers(
        &self,
        etcd: &Arc<EtcdClient>,
        index: &Addr<IndexActor>,
        watched: &[WatchedKeys],
        members: &WatchCell<Option<usize>>,
    ) -> Vec<(WatcherSettings, Retry)> {
        let Self { config, .. } = self;
        let progress = WatchProgress::new(watched.len(), Instant::now());
        let watcher =
            |(number, WatchedKeys { keys, splits, generation, splits_up }): (usize, &WatchedKeys)| {
                let settings = WatcherSettings {
                    engine: config.engine.clone(),
                    meters: self.meters.clone(),
                    progress: progress.clone(),
                    number: WatcherIndex::new(number),
                    keys: keys.clone(),
                    etcd: etcd.clone(),
                    index: index.clone(),
                    status: self.status.clone(),
                    splits: splits.clone(),
                    members: members.clone(),
                    generation: generation.clone(),
                    splits_up: *splits_up,
                    silence: config.options.watch_silence,
                    lag_limit: config.options.lag_limit,
                    faults: self.faults.clone(),
                };
                (settings, self.retry(RandomStream::Watcher(number as u16)))
            };
        watched.iter().enumerate().map(watcher).collect()
    }

    /// `after`: from where it is to watch.
    pub(super) fn lock_watcher(
        &self,
        etcd: &Arc<EtcdClient>,
        dispatcher: &Addr<Dispatcher>,
        after: WatchCell<Option<Revision>>,
    ) -> (LockWatcherSettings, Retry) {
        let settings = LockWatcherSettings {
            etcd: etcd.clone(),
            namespace: self.config.namespace.to_string(),
            dispatcher: dispatcher.clone().recipient(),
            after,
            status: self.status.clone(),
            silence: self.config.options.watch_silence,
            faults: self.faults.clone(),
        };
        (settings, self.retry(RandomStream::LockWatcher))
    }

    pub(super) fn crawler(
        &self,
        etcd: &Arc<EtcdClient>,
        index: &Addr<IndexActor>,
        dispatcher: &Addr<Dispatcher>,
        leases: &LockLeases,
        watched: Vec<WatchedKeys>,
        members: WatchCell<Option<usize>>,
    ) -> CrawlerSettings {
        let Self { config, env, .. } = self;
        let EngineOptions { lock_ttl, crawl_mutex, .. } = config.options;
        let mutex = leases.get(&lock_ttl).filter(|_| crawl_mutex).map(|lease| CrawlMutex {
            engine: config.engine.clone(),
            prefix: format!("{}{}crawl/", config.key_prefix.as_str(), config.namespace),
            lease: lease.clone(),
            retry: self.retry(RandomStream::CrawlMutex),
        });
        CrawlerSettings {
            engine: config.engine.clone(),
            meters: self.meters.clone(),
            etcd: etcd.clone(),
            watched,
            index: index.clone(),
            dispatcher: dispatcher.clone().recipient(),
            namespace: config.namespace.to_string(),
            members,
            interval: config.options.crawl_interval,
            jitter: config.options.crawl_jitter,
            rate: config.options.crawl_rate,
            mutex,
            rng: env.rng(RandomStream::Crawler),
            faults: self.faults.clone(),
        }
    }

    fn retry(&self, stream: RandomStream) -> Retry {
        Retry::new(self.env.rng(stream))
    }
}
