//! Who asks for work: jobs at a rate, directly at the members, each put once whatever happens on the way.

use crate::access::Access;
use crate::jobs::{self, Job};
use crate::observer::{Addresses, addresses};
use etcd_client::{Client, Compare, CompareOp, Txn, TxnOp};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;
use tokio::sync::{Mutex, Semaphore};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(2);
/// So many puts are under way at most.
const AT_ONCE: usize = 32;

#[derive(Clone)]
pub struct Load(Arc<Shared>);

struct Shared {
    addresses: Addresses,
    access: Access,
    /// Counts the clients, and has the last one while it answers.
    client: Mutex<(u64, Option<Client>)>,
    next: AtomicU64,
    asked: AtomicU64,
    under_way: Semaphore,
    on: AtomicBool,
}

/// Ends the load.
pub struct Running(AbortHandle);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Load {
    pub fn new(addresses: Addresses, access: Access) -> Self {
        Self(Arc::new(Shared {
            addresses,
            access,
            client: Mutex::default(),
            next: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            under_way: Semaphore::new(AT_ONCE),
            on: AtomicBool::new(true),
        }))
    }

    /// Short jobs of all kinds, so many a second, until [`stop`](Self::stop).
    pub fn run(&self, a_second: u32, seed: u64) -> Running {
        let load = self.clone();
        let task = tokio::spawn(async move {
            let mut rng = StdRng::seed_from_u64(seed);
            while load.0.on.load(SeqCst) {
                sleep(Duration::from_secs(1) / a_second).await;
                let work_ms =
                    if rng.random_bool(0.9) { rng.random_range(0..60) } else { rng.random_range(500..1500) };
                let reads = u32::from(rng.random_bool(0.5));
                let failures = u32::from(rng.random_bool(0.03));
                let job = Job { work_ms, reads, failures, stubborn: rng.random_bool(0.05) };
                let id = load.id();
                match rng.random_range(0..10) {
                    0..4 => load.spawn(jobs::LOCKED, &id, job.value(b"")),
                    4..8 => load.spawn(jobs::OPTIMISTIC, &id, job.value(b"")),
                    _ => {
                        load.spawn(jobs::LEFT, &id, job.value(b""));
                        load.spawn(jobs::RIGHT, &id, job.value(b""));
                    }
                }
            }
        });
        Running(task.abort_handle())
    }

    pub fn stop(&self) {
        self.0.on.store(false, SeqCst);
    }

    fn id(&self) -> String {
        format!("n{}", self.0.next.fetch_add(1, SeqCst))
    }

    fn spawn(&self, kind: &'static str, id: &str, value: Vec<u8>) {
        let (load, id) = (self.clone(), id.to_owned());
        tokio::spawn(async move { load.put(kind, &id, value).await });
    }

    /// So many equal jobs, put when this returns.
    pub async fn ask(&self, kind: &'static str, job: Job, jobs: usize) -> Vec<String> {
        let ids: Vec<String> = (0..jobs).map(|_| self.id()).collect();
        self.ask_each(kind, ids.iter().map(|id| (id.clone(), job.value(b"")))).await;
        ids
    }

    /// Jobs with these ids and values, put when this returns.
    pub async fn ask_each(&self, kind: &'static str, each: impl IntoIterator<Item = (String, Vec<u8>)>) {
        let puts = each.into_iter().map(|(id, value)| async move { self.put(kind, &id, value).await });
        futures_util::future::join_all(puts).await;
    }

    /// Puts a job unless it was put or done already, however often that has to be tried.
    async fn put(&self, kind: &'static str, id: &str, value: Vec<u8>) {
        let Ok(_permit) = self.0.under_way.acquire().await else { return };
        let (todo, done) = (jobs::todo(kind, id), jobs::done(kind, id));
        let absent = |key: &str| Compare::version(key, CompareOp::Equal, 0);
        loop {
            let txn = Txn::new().when([absent(&todo), absent(&done)]).and_then([TxnOp::put(
                todo.as_str(),
                value.clone(),
                None,
            )]);
            if let Some((number, mut client)) = self.client().await {
                match timeout(PATIENCE, client.txn(txn)).await {
                    Ok(Ok(_)) => {
                        self.0.asked.fetch_add(1, SeqCst);
                        return;
                    }
                    _ => self.forget(number).await,
                }
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// A client, with its number. One is made at a time, for all who need one: to check passwords costs servers a lot.
    async fn client(&self) -> Option<(u64, Client)> {
        let mut known = self.0.client.lock().await;
        if let (number, Some(client)) = &*known {
            return Some((*number, client.clone()));
        }
        for address in addresses(&self.0.addresses) {
            let look = async {
                let mut client = self.0.access.admin(&address.to_string()).await?;
                client.get("\0", None).await?;
                Ok::<_, etcd_client::Error>(client)
            };
            if let Ok(Ok(client)) = timeout(PATIENCE, look).await {
                *known = (known.0 + 1, Some(client.clone()));
                return Some((known.0, client));
            }
        }
        None
    }

    /// The client with this number is of no use any more.
    async fn forget(&self, number: u64) {
        let mut known = self.0.client.lock().await;
        if known.0 == number {
            known.1 = None;
        }
    }

    /// Waits until nothing that was asked is still on its way; false if that does not come.
    pub async fn settled(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while self.0.under_way.available_permits() < AT_ONCE {
            if Instant::now() > deadline {
                return false;
            }
            sleep(Duration::from_millis(20)).await;
        }
        true
    }

    /// How many jobs were put.
    pub fn asked(&self) -> u64 {
        self.0.asked.load(SeqCst)
    }
}
