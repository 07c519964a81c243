//! The crawl mutex: of all engines of an application, one crawls at a time, in the order in which they came.
//!
//! Each engine that waits has a key below one prefix under its lock lease, and the oldest key has the mutex (as
//! in etcd's own lock recipe), so that none is passed over. It limits load and nothing else: a lease that is
//! lost during a crawl lets another engine begin, which does no harm.

use crate::etcd::{EtcdClient, Failure, TxnResponse};
use crate::lock::lease_manager::LockLease;
use crate::runtime::retry::Retry;
use crate::watch_cell::WatchCell;
use etcd_client::proto::PbTxnOpResponse;
use etcd_client::{Compare, CompareOp, GetOptions, PutOptions, SortOrder, SortTarget, TxnOp};
use rand::RngExt;
use rand::rngs::StdRng;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// See the [module](self).
pub(crate) struct CrawlMutex {
    pub(crate) engine: Arc<str>,
    /// All keys of the mutex begin with it, as they are in etcd.
    pub(crate) prefix: String,
    pub(crate) lease: WatchCell<Option<LockLease>>,
    pub(crate) retry: Retry,
}

/// The mutex while this engine has it.
pub(super) struct HeldMutex {
    lease: LockLease,
    key: String,
}

impl CrawlMutex {
    /// Waits for as long as other engines are before this one. It goes on after a failure, as its key may stand
    /// in the way of others.
    pub(super) async fn acquire(&mut self, etcd: &EtcdClient, rng: &mut StdRng) -> HeldMutex {
        self.retry.reset();
        loop {
            let alive = |lease: &Option<LockLease>| lease.as_ref().is_some_and(|l| !l.lost.is_cancelled());
            let Some(Some(lease)) = self.lease.wait_for(alive).await else {
                // The lease manager has ended: this actor is about to.
                std::future::pending::<()>().await;
                continue;
            };
            // No other engine has this lease.
            let key = format!("{}{:016x}", self.prefix, lease.id.get());
            match self.line_up(etcd, &lease, &key).await {
                Ok(first) if first.as_deref() == Some(key.as_bytes()) => return HeldMutex { lease, key },
                Ok(_) => {
                    self.retry.reset();
                    sleep(Duration::from_millis(rng.random_range(500..1500))).await;
                }
                Err(failure) => {
                    let engine = &*self.engine;
                    tracing::debug!(engine, %failure, "the crawl mutex could not be asked for; trying again");
                    self.retry.wait().await;
                }
            }
        }
    }

    /// Puts the key if it is not there, and returns the oldest of all.
    async fn line_up(
        &self,
        etcd: &EtcdClient,
        lease: &LockLease,
        key: &str,
    ) -> Result<Option<Vec<u8>>, Failure> {
        let put = PutOptions::new().with_lease(lease.id.get());
        let oldest = GetOptions::new()
            .with_prefix()
            .with_sort(SortTarget::Create, SortOrder::Ascend)
            .with_limit(1)
            .with_keys_only();
        let oldest = TxnOp::get(self.prefix.as_str(), Some(oldest));
        let absent = Compare::create_revision(key, CompareOp::Equal, 0);
        let put = TxnOp::put(key, &*self.engine, Some(put));
        let TxnResponse { responses, .. } =
            etcd.txn(vec![absent], vec![put, oldest.clone()], vec![oldest]).await?;
        Ok(responses.into_iter().flatten().find_map(|response| match response {
            PbTxnOpResponse::ResponseRange(range) => range.kvs.into_iter().next().map(|kv| kv.key),
            _ => None,
        }))
    }

    /// Gives it back, however long etcd takes to answer: others wait for it.
    pub(super) async fn release(&mut self, etcd: &EtcdClient, HeldMutex { lease, key }: HeldMutex) {
        self.retry.reset();
        while !lease.lost.is_cancelled() {
            match etcd.txn(vec![], vec![TxnOp::delete(key.as_str(), None)], vec![]).await {
                Ok(_) => return,
                Err(failure) => {
                    let engine = &*self.engine;
                    tracing::debug!(engine, %failure, "the crawl mutex could not be released; trying again");
                }
            }
            self.retry.wait().await;
        }
    }
}
