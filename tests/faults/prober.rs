//! Who asks every endpoint of every engine, again and again, with a fresh client: could anybody have been served?

use crate::access::Access;
use crate::history::Probe;
use crate::moment::{micros, now};
use etcd_client::GetOptions;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::AbortHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

pub struct Prober {
    seen: Arc<Mutex<Vec<Probe>>>,
    task: AbortHandle,
    cluster: Arc<AtomicU64>,
}

impl Prober {
    /// `endpoints`: of each engine. Answers of clusters other than `cluster` are none.
    pub fn start(endpoints: Vec<Vec<String>>, access: Access, lock_ttl: Duration, cluster: u64) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let cluster = Arc::new(AtomicU64::new(cluster));
        let task =
            tokio::spawn(run(endpoints, access, lock_ttl, seen.clone(), cluster.clone())).abort_handle();
        Self { seen, task, cluster }
    }

    /// From now on another cluster is the one that counts.
    pub fn expect_cluster(&self, cluster: u64) {
        self.cluster.store(cluster, Ordering::SeqCst);
    }

    pub fn finish(self) -> Vec<Probe> {
        self.task.abort();
        std::mem::take(&mut *self.seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(
    endpoints: Vec<Vec<String>>,
    access: Access,
    lock_ttl: Duration,
    seen: Arc<Mutex<Vec<Probe>>>,
    cluster: Arc<AtomicU64>,
) {
    let mut rounds = interval(lock_ttl / 10);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut probes = tokio::task::JoinSet::new();
    for round in 0.. {
        rounds.tick().await;
        while probes.try_join_next().is_some() {}
        for (engine, endpoints) in endpoints.iter().enumerate() {
            for endpoint in endpoints {
                let (endpoint, access) = (endpoint.clone(), access.clone());
                let (seen, cluster) = (seen.clone(), cluster.load(Ordering::SeqCst));
                probes.spawn(async move {
                    let at = now();
                    let answered = timeout(lock_ttl / 5, ask(&endpoint, &access, cluster)).await;
                    let took = answered
                        .unwrap_or(false)
                        .then(|| now() - at)
                        .filter(|took| *took <= micros(lock_ttl / 5));
                    let mut seen = seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                    seen.push(Probe { engine, round, at, took });
                });
            }
        }
    }
}

/// One linearizable read of a fresh client.
async fn ask(endpoint: &str, access: &Access, cluster: u64) -> bool {
    let Ok(client) = access.stranger(endpoint).await else { return false };
    let options = GetOptions::new().with_count_only();
    match client.kv_client().get("\0", Some(options)).await {
        Ok(answer) => answer.header().is_some_and(|header| header.cluster_id() == cluster),
        // The read was linearized before the user was looked at. With a certificate, that is the name in it.
        Err(etcd_client::Error::GRpcStatus(status)) => {
            let who = ["user name is empty", "user name not found", "permission denied"];
            who.iter().any(|who| status.message().contains(who))
        }
        Err(_) => false,
    }
}
