//! The crawl mutex: of all engines of an application, one crawls at a time.
//!
//! It is a key under the engine's lock lease. It limits load and nothing else: a lease that is lost during a
//! crawl lets another engine begin, which does no harm.

use crate::engine::env::Retry;
use crate::etcd::{Failure, Link};
use crate::index::Revision;
use crate::latest::Latest;
use crate::lock::keeper::LockLease;
use etcd_client::proto::PbTxnOpResponse;
use etcd_client::{Compare, CompareOp, PutOptions, Txn, TxnOp};
use rand::RngExt;
use rand::rngs::StdRng;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// See the [module](self).
pub(crate) struct CrawlMutex {
    pub(crate) engine: Arc<str>,
    pub(crate) key: String,
    pub(crate) lease: Latest<Option<LockLease>>,
    pub(crate) retry: Retry,
}

/// The mutex while this engine has it.
pub(super) struct Held {
    lease: LockLease,
    create_revision: Revision,
}

impl CrawlMutex {
    /// Waits for as long as another engine has it.
    pub(super) async fn acquire(&mut self, link: &Link, rng: &mut StdRng) -> Result<Held, Failure> {
        loop {
            let alive = |lease: &Option<LockLease>| lease.as_ref().is_some_and(|l| !l.lost.is_cancelled());
            let Some(Some(lease)) = self.lease.wait_for(alive).await else {
                // The keeper has ended: this actor is about to.
                std::future::pending::<()>().await;
                continue;
            };
            let put = PutOptions::new().with_lease(lease.id);
            let txn = Txn::new()
                .when([Compare::create_revision(self.key.as_str(), CompareOp::Equal, 0)])
                .and_then([TxnOp::put(self.key.as_str(), &*self.engine, Some(put))])
                .or_else([TxnOp::get(self.key.as_str(), None)]);
            let answer = link.txn(txn).await?;
            if answer.succeeded {
                return Ok(Held { lease, create_revision: answer.revision });
            }
            let holder = match answer.responses.into_iter().next().flatten() {
                Some(PbTxnOpResponse::ResponseRange(range)) => range.kvs.into_iter().next(),
                _ => None,
            };
            match holder {
                // Taken by a request whose answer never came.
                Some(kv) if kv.lease == lease.id => {
                    return Ok(Held { lease, create_revision: kv.create_revision });
                }
                _ => sleep(Duration::from_millis(rng.random_range(500..1500))).await,
            }
        }
    }

    /// Gives it back, however long etcd takes to answer: others wait for it.
    pub(super) async fn release(&mut self, link: &Link, Held { lease, create_revision }: Held) {
        self.retry.reset();
        while !lease.lost.is_cancelled() {
            let ours = Compare::create_revision(self.key.as_str(), CompareOp::Equal, create_revision);
            let txn = Txn::new().when([ours]).and_then([TxnOp::delete(self.key.as_str(), None)]);
            match link.txn(txn).await {
                Ok(_) => return,
                Err(failure) => {
                    tracing::debug!(%failure, "the crawl mutex could not be released; trying again")
                }
            }
            self.retry.wait().await;
        }
    }
}
