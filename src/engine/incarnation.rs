//! All actors of one start, wired together, on their threads.

use super::actor_factory::ActorFactory;
use super::config::Config;
use super::inspector::Inspector;
use crate::compiled::CompiledRule;
use crate::crawl::crawler::start_crawler;
use crate::dispatch::actor::{Attach, Dispatcher, Drain, EtcdHandles};
use crate::dispatch::controls::RuleControls;
use crate::dispatch::running::RunningCallbacks;
use crate::etcd::Connector;
use crate::fleet::announcer::start_announcer;
use crate::fleet::watcher::start_fleet_watcher;
use crate::health::status::Status;
use crate::index::actor::{EvaluatorHandle, IndexActor};
use crate::lock::lease_manager::{LeaseManager, Revoke};
use crate::lock::lock_watcher::start_lock_watcher;
use crate::metrics::Meters;
use crate::runtime::actor_thread::ActorThread;
use crate::runtime::supervised::{ActorFault, ActorFaults, spawn_guarded};
use crate::time::LONGEST;
use crate::watch::watcher::start_watcher;
use crate::watch_cell::watch_cell;
use actix::prelude::*;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

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
        let (faults, fault_receiver) = ActorFaults::new(config.env.probe.clone());
        let factory = ActorFactory::new(config, runtime, status, meters, faults.clone(), number);
        let links = factory.links();
        let (watch_etcd, watch_connector) = links.watch;
        let (lease_etcd, lease_connector) = links.lease;
        let (request_etcd, request_connector) = links.requests;

        let requests = factory.txn_sender(&request_etcd);
        let (lease_manager, leases, member_lease) = factory.lease_manager(&lease_etcd);
        let (membership, member) = member_lease.map(|lease| factory.member(lease)).unzip();
        // Leases have a thread of their own: whatever holds the others up, they are renewed.
        let lease = ActorThread::start("etcd-rules-lease", placement)?;
        connect(&lease, lease_connector, &faults).await.ok_or_else(ended)?;
        let lease_manager = lease.run(move || lease_manager.start()).await.ok_or_else(ended)?;

        // The sender of transactions shares the dispatcher's: a hop between threads costs more than what they do.
        let core = ActorThread::start("etcd-rules-core", placement)?;
        connect(&core, request_connector, &faults).await.ok_or_else(ended)?;
        let requests = core.run(move || requests.start()).await.ok_or_else(ended)?;
        let (releases, after) = watch_cell(None);
        let handles = EtcdHandles {
            client: request_etcd,
            requests,
            lease_manager: lease_manager.clone(),
            leases: leases.clone(),
        };
        let dispatcher = factory.dispatcher(handles, membership, running, controls, releases);
        let dispatcher = core.run(move || dispatcher.start()).await.ok_or_else(ended)?;

        let mut threads = vec![];
        let mut evaluators = Vec::new();
        for evaluator in 0..config.options.evaluators.max(1) {
            let own = match config.options.evaluators {
                0 => None,
                _ => Some(ActorThread::start(&format!("etcd-rules-ev{evaluator}"), placement)?),
            };
            let thread = own.as_ref().unwrap_or(&core);
            let actor = factory.evaluator(&dispatcher);
            let actor = thread.run(move || actor.start()).await.ok_or_else(ended)?;
            let (orders, reached) = (actor.clone().recipient(), actor.recipient());
            evaluators.push(EvaluatorHandle { orders, reached });
            threads.extend(own);
        }
        let index = factory.index(evaluators);
        let index = core.run(move || index.start()).await.ok_or_else(ended)?;
        dispatcher.send(Attach(index.clone())).await.map_err(|_| ended())?;
        let is_member = member.is_some();
        if let Some(member) = member {
            let (announcer, retry) = factory.announcer(lease_etcd, member, &dispatcher);
            lease.run(move || start_announcer(announcer, retry)).await.ok_or_else(ended)?;
        }
        threads.extend([core, lease]);

        let watch = ActorThread::start("etcd-rules-watch", placement)?;
        connect(&watch, watch_connector, &faults).await.ok_or_else(ended)?;
        let (count, members) = watch_cell((!is_member).then_some(1));
        if is_member {
            // Before the snapshots, so that the members are known when those are decided.
            let (watcher, retry) = factory.fleet_watcher(&watch_etcd, &dispatcher, count);
            watch.run(move || start_fleet_watcher(watcher, retry)).await.ok_or_else(ended)?;
        }
        let watched = factory.watched();
        for (watcher, retry) in factory.watchers(&watch_etcd, &index, &watched, &members) {
            watch.run(move || start_watcher(watcher, retry)).await.ok_or_else(ended)?;
        }
        let (lock_watcher, retry) = factory.lock_watcher(&watch_etcd, &dispatcher, after);
        let crawler = factory.crawler(&watch_etcd, &index, &dispatcher, &leases, watched, members);
        let start = move || {
            start_lock_watcher(lock_watcher, retry);
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
