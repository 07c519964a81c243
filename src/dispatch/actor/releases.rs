//! Locks and marks that are gone, and locks that nobody works under.

use super::*;
use crate::etcd::LeaseId;
use crate::lock::lock_watcher::{LocksSeen, Released};
use crate::lock::txn::{Holder, free_orphan};
use crate::mutants::{Mutant, is_active};
use std::collections::HashSet;

impl Dispatcher {
    /// Has what is released watched from where it is needed, or not at all.
    pub(super) fn watch_releases(&mut self, now: Instant) {
        let after = self.work.releases_after(now);
        if after != self.releases.after {
            self.releases.after = after;
            self.releases.watcher.set(after);
        }
    }
}

impl Handler<Released> for Dispatcher {
    type Result = ();

    fn handle(&mut self, Released(keys): Released, ctx: &mut Self::Context) {
        self.turn(ctx, |this, now, out| match keys {
            _ if is_active(Mutant::WakeUps) => {}
            None => this.work.released_unknown(now, out),
            Some(keys) => {
                for (key, revision) in keys {
                    this.work.released(&key, revision, now, out);
                }
            }
        });
    }
}

impl Handler<LocksSeen> for Dispatcher {
    type Result = ();

    fn handle(&mut self, LocksSeen(locks): LocksSeen, ctx: &mut Self::Context) {
        guarded(self, ctx, |this, _| {
            let leases = this.config.etcd.leases.values();
            let ours: Vec<LeaseId> = leases.filter_map(|l| l.get().map(|lease| lease.id)).collect();
            let active: HashSet<Nonce> = this.firings.nonces().collect();
            for lock in locks {
                let holder: Option<Holder> = serde_json::from_slice(lock.value.as_bytes()).ok();
                let busy = holder.is_some_and(|holder| active.contains(&holder.nonce));
                if ours.contains(&lock.lease) && !busy && !is_active(Mutant::Orphans) {
                    this.log_orphan(RuleIndex::default(), None, &lock.key, lock.create_revision);
                    this.config.reports.meters.orphan();
                    this.send(RuleIndex::default(), free_orphan(&lock.key, lock.create_revision));
                }
            }
        });
    }
}
