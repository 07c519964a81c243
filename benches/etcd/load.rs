//! Puts load on a server, and observes the effects.

use crate::clock;
pub use crate::puts::{fill, paced};
use crate::spec::Side;
use etcd_client::{Client, EventType, GetOptions, PutOptions, Txn, TxnOp, WatchOptions};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

/// Puts `/jobs/<n>` at a fixed rate, without waiting for the server to keep up. Each value is the time before
/// its put. Returns how many were put.
pub async fn jobs(client: &Client, rate: u64, length: Duration) -> usize {
    jobs_of(client, rate, length, |n| n as usize).await
}

/// The same for jobs that are put more than once.
pub async fn jobs_of(
    client: &Client,
    rate: u64,
    length: Duration,
    mut job: impl FnMut(u64) -> usize,
) -> usize {
    paced(rate, length, |n| {
        let (mut kv, job) = (client.kv_client(), job(n));
        async move { kv.put(format!("/jobs/{job}"), clock::now().to_string(), None).await.map(|_| ()) }
    })
    .await
}

/// Random numbers below a limit, small ones more often. The probability of n is proportional to 1 / (n +
/// 1)^exponent.
pub struct Zipf {
    /// The cumulative probabilities.
    sums: Vec<f64>,
    random: SmallRng,
}

impl Zipf {
    pub fn new(below: usize, exponent: f64) -> Self {
        let mut sum = 0.0;
        let mut add = |n: usize| {
            sum += (n as f64 + 1.0).powf(-exponent);
            sum
        };
        Self { sums: (0..below).map(&mut add).collect(), random: SmallRng::seed_from_u64(7) }
    }

    pub fn next(&mut self) -> usize {
        let all = self.sums.last().copied().expect("not empty");
        let at = self.random.random_range(0.0..all);
        self.sums.partition_point(|sum| *sum <= at)
    }
}

/// Waits until no key has the prefix, as long as this side may take.
pub async fn until_none(client: &Client, prefix: &str, side: Side) {
    let patience = patience_with(side);
    let count = || async {
        let options = GetOptions::new().with_prefix().with_count_only();
        client.kv_client().get(prefix, Some(options)).await.expect("a count").count()
    };
    let begin = Instant::now();
    loop {
        let left = count().await;
        if left == 0 {
            break;
        }
        assert!(begin.elapsed() < patience, "{left} keys were left below {prefix} after {patience:?}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// Key number `n` of the items, which exist but never change.
pub fn item(n: usize) -> (String, String) {
    (format!("/items/item-{n:08}"), format!("idle-{n:010}"))
}

/// Key number `n` of those that are watched beside the keys of a rule.
pub fn cold(n: usize) -> (String, String) {
    (format!("/load/{n}/cold"), "1700000000000".into())
}

/// How a flood of changes is put.
#[derive(Clone, Copy, Debug)]
pub enum Flood {
    /// This many single puts in flight.
    Puts(usize),
    /// Transactions of this many keys, four in flight.
    Txns(usize),
}

/// Floods `/load/<n>/…` for some time. One key in `every` is hot. Values are the time before the put. Returns
/// the keys per second.
pub async fn flood(client: &Client, flood: Flood, every: usize, length: Duration) -> f64 {
    let next = Arc::new(AtomicUsize::new(0));
    let (lanes, keys) = match flood {
        Flood::Puts(lanes) => (lanes, 1),
        Flood::Txns(keys) => (4, keys),
    };
    let begin = Instant::now();
    let mut out = JoinSet::new();
    for _ in 0..lanes {
        let (mut kv, next) = (client.kv_client(), next.clone());
        out.spawn(async move {
            while begin.elapsed() < length {
                let first = next.fetch_add(keys, Ordering::Relaxed);
                let now = clock::now().to_string();
                let key = |n: usize| {
                    // The same ten thousand keys are put again and again.
                    format!("/load/{}/{}", n % 10_000, if n.is_multiple_of(every) { "hot" } else { "cold" })
                };
                if keys == 1 {
                    kv.put(key(first), now, None).await.expect("a put");
                } else {
                    let puts = (first..first + keys).map(|n| TxnOp::put(key(n), now.as_str(), None));
                    kv.txn(Txn::new().and_then(puts.collect::<Vec<_>>())).await.expect("a transaction");
                }
            }
        });
    }
    while let Some(done) = out.join_next().await {
        done.expect("no panic");
    }
    next.load(Ordering::Relaxed) as f64 / begin.elapsed().as_secs_f64()
}

/// If a measurement takes longer than this, something is broken.
const PATIENCE: Duration = Duration::from_secs(60);

/// The peer takes half a minute for what the others do in a second, and minutes on a slow machine.
const PATIENCE_WITH_PEER: Duration = Duration::from_secs(600);

fn patience_with(side: Side) -> Duration {
    if matches!(side, Side::Peer(_)) { PATIENCE_WITH_PEER } else { PATIENCE }
}

/// Counts the jobs that are done, by a bare watch.
pub struct Observer {
    done: tokio::sync::watch::Receiver<usize>,
    watching: tokio::task::JoinHandle<()>,
}

impl Observer {
    /// Observes the jobs below `/jobs/`.
    pub async fn start(client: &Client) -> Self {
        Self::of(client, "/jobs/").await
    }

    pub async fn of(client: &Client, prefix: &str) -> Self {
        let mut watch = client.watch_client().max_decoding_message_size(usize::MAX >> 1);
        let mut stream = watch.watch(prefix, Some(WatchOptions::new().with_prefix())).await.expect("a watch");
        let (counted, done) = tokio::sync::watch::channel(0);
        let watching = tokio::spawn(async move {
            while let Ok(Some(response)) = stream.message().await {
                let is_done = |event: &&etcd_client::Event| {
                    event.event_type() == EventType::Put && event.kv().is_some_and(|kv| kv.value() == b"done")
                };
                let new = response.events().iter().filter(is_done).count();
                counted.send_modify(|count| *count += new);
            }
        });
        Self { done, watching }
    }

    pub fn done(&self) -> usize {
        *self.done.borrow()
    }

    /// Waits for so many, as long as this side may take.
    pub async fn until(&mut self, count: usize, side: Side) {
        let patience = patience_with(side);
        let waiting = timeout(patience, self.done.wait_for(|done| *done >= count)).await;
        let seen = waiting.map(|seen| *seen.expect("a watch"));
        seen.unwrap_or_else(|_| panic!("{} of {count} were done after {patience:?}", self.done()));
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

/// Options of a put under a lease.
pub fn leased(lease: i64) -> Option<PutOptions> {
    Some(PutOptions::new().with_lease(lease))
}
