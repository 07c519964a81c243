//! Leases that the lease manager revokes at the engine's end although nobody uses them.

use crate::etcd::{Failure, Grant, LeaseId};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

/// Leases that can't be relied on any more, or not yet, or whose grant was not answered. Etcd may still have them, and
/// the locks and give-ups under them: they, too, go with the engine.
#[derive(Clone, Default)]
pub(super) struct RetiredLeases(Arc<Mutex<Lists>>);

#[derive(Default)]
struct Lists {
    leases: VecDeque<LeaseId>,
    /// They are being granted.
    granting: Vec<LeaseId>,
}

impl RetiredLeases {
    /// Leases end by themselves; only the latest can still be alive.
    const LIMIT: usize = 64;

    fn lock(&self) -> MutexGuard<'_, Lists> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(super) fn add(&self, lease: LeaseId) {
        let leases = &mut self.lock().leases;
        if leases.len() >= Self::LIMIT {
            leases.pop_front();
        }
        leases.push_back(lease);
    }

    pub(super) fn remove(&self, lease: LeaseId) {
        self.lock().leases.retain(|other| *other != lease);
    }

    pub(super) fn grants(&self, lease: LeaseId) {
        self.lock().granting.push(lease);
    }

    /// The grant has been answered, or not in time. The lease, if there may be one, is not in use yet.
    pub(super) fn granted(&self, lease: LeaseId, grant: &Result<Grant, Failure>) {
        self.lock().granting.retain(|other| *other != lease);
        if !grant.as_ref().is_err_and(|failure| !failure.is_ambiguous()) {
            self.add(lease);
        }
    }

    pub(super) fn take(&self) -> Vec<LeaseId> {
        self.lock().leases.drain(..).collect()
    }

    pub(super) fn take_granting(&self) -> Vec<LeaseId> {
        std::mem::take(&mut self.lock().granting)
    }
}
