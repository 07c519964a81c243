//! Locks that are gone while their callbacks run: somebody deleted them. Once a second the locks that have been held
//! for longer than a second are read, all of them together, and whoever has lost its lock is told to end. Short
//! firings cost nothing, and no lock is watched.

use super::*;
use crate::etcd::Failure;
use crate::lock::txn_sender::Awaited;
use crate::mutants::{Mutant, is_active};

/// A lock that has been held for less is not looked at.
const HELD_FOR: Duration = Duration::from_secs(1);

/// The most locks in one request, if the servers take as many.
const AT_ONCE: usize = 256;

/// A lock that a callback runs under.
pub(super) struct HeldLock {
    firing: Awaited,
    key: String,
    created: Revision,
}

/// The locks among these that are gone, or are others' now.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct LocksLooked(Vec<(Awaited, Revision)>);

impl Dispatcher {
    /// Has the locks read that have been held for some time, unless that is still being done.
    pub(super) fn look_at_locks(&mut self, now: Instant, ctx: &mut Context<Self>) {
        if self.looking_at_locks || is_active(Mutant::LockLook) {
            return;
        }
        let held = self.firings.held_since(now.checked_sub(HELD_FOR));
        if held.is_empty() {
            return;
        }
        self.looking_at_locks = true;
        // The identity of the store is compared too.
        let at_once = self.config.limits.max_txn_ops.saturating_sub(1).clamp(1, AT_ONCE);
        let (etcd, me) = (self.config.etcd.client.clone(), ctx.address());
        spawn_guarded(&self.config.reports.faults, Self::NAME, async move {
            let mut gone = Vec::new();
            for held in held.chunks(at_once) {
                match missing(&etcd, held).await {
                    Ok(locks) => gone.extend(locks),
                    // It is looked at again in a second.
                    Err(failure) => tracing::debug!(%failure, "locks could not be looked at"),
                }
            }
            // Closed: the engine is stopping or restarting.
            let _ = tell(&me, LocksLooked(gone)).await;
        });
    }
}

/// Those of these locks that are gone.
async fn missing(etcd: &EtcdClient, held: &[HeldLock]) -> Result<Vec<(Awaited, Revision)>, Failure> {
    let created = etcd.created(held.iter().map(|lock| lock.key.as_str())).await?;
    let both = held.iter().zip(created);
    Ok(both.filter(|(lock, at)| lock.created != *at).map(|(lock, _)| (lock.firing, lock.created)).collect())
}

impl Handler<LocksLooked> for Dispatcher {
    type Result = ();

    fn handle(&mut self, LocksLooked(gone): LocksLooked, ctx: &mut Self::Context) {
        guarded(self, ctx, |this, _| {
            this.looking_at_locks = false;
            for (awaited, created) in gone {
                // Its firing may have ended meanwhile: that is why its lock is gone.
                if let Some(firing) = this.firings.awaited(awaited) {
                    firing.lost_lock(created);
                }
            }
        });
    }
}

impl ActiveFirings {
    /// The locks of callbacks that run, and have had their locks since then or for longer; in order.
    fn held_since(&self, then: Option<Instant>) -> Vec<HeldLock> {
        let Some(then) = then else { return Vec::new() };
        let held = |(instance, firing): (InstanceId, &ActiveFiring)| {
            let (keys, created) = firing.held_since(then)?;
            let firing = Awaited { instance, nonce: firing.nonce };
            Some(HeldLock { firing, key: keys.lock().to_owned(), created })
        };
        let mut held: Vec<HeldLock> = self.iter().filter_map(held).collect();
        held.sort_unstable_by_key(|lock| lock.firing.instance);
        held
    }
}
