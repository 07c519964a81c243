//! Puts many keys on a server: quickly, or at a rate.

#![allow(dead_code, unreachable_pub, reason = "every benchmark is a crate of its own and takes a part")]

use etcd_client::{Client, Txn, TxnOp};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// Calls `put` with consecutive numbers at a rate.
pub async fn paced<F>(rate: u64, length: Duration, mut put: impl FnMut(u64) -> F) -> usize
where
    F: Future<Output = Result<(), etcd_client::Error>> + Send + 'static,
{
    let begin = Instant::now();
    let mut puts = JoinSet::new();
    let all = rate * length.as_secs();
    for n in 0..all {
        sleep_until(begin + Duration::from_nanos(1_000_000_000 / rate * n)).await;
        puts.spawn(put(n));
        while let Some(done) = puts.try_join_next() {
            done.expect("no panic").expect("a put");
        }
    }
    while let Some(done) = puts.join_next().await {
        done.expect("no panic").expect("a put");
    }
    all as usize
}

/// Puts many keys quickly, 120 in a transaction. Returns the number of transactions.
pub async fn fill(client: &Client, count: usize, key: fn(usize) -> (String, String)) -> usize {
    const TXN: usize = 120;
    let free = Arc::new(Semaphore::new(6));
    let mut out = JoinSet::new();
    for first in (0..count).step_by(TXN) {
        let permit = free.clone().acquire_owned().await.expect("open");
        let puts = (first..count.min(first + TXN)).map(key).map(|(key, value)| TxnOp::put(key, value, None));
        let txn = Txn::new().and_then(puts.collect::<Vec<_>>());
        let mut kv = client.kv_client();
        out.spawn(async move {
            kv.txn(txn).await.expect("a transaction");
            drop(permit);
        });
        while let Some(done) = out.try_join_next() {
            done.expect("no panic");
        }
    }
    while let Some(done) = out.join_next().await {
        done.expect("no panic");
    }
    count.div_ceil(TXN)
}
