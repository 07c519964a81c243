//! What the steps of all firings use, shared by them.

use crate::compiled::CompiledRule;
use crate::compiled::{Binding, RuleIndex};
use crate::etcd::EtcdClient;
use crate::lock::keys::Keys;
use crate::lock::lease_manager::LeaseManager;
use crate::lock::txn_sender::TxnSender;
use crate::metrics::Meters;
use crate::runtime::env::Env;
use crate::trace::reveal::Reveal;
use actix::Addr;
use std::sync::Arc;

/// Why a step was given up at the end of a shutdown.
pub(super) const OUT_OF_TIME: &str = "the engine is stopping, and etcd did not answer in time";

pub(super) struct Tools {
    /// The engine's name.
    pub(super) engine: Arc<str>,
    pub(super) env: Env,
    pub(super) meters: Meters,
    pub(super) rules: Arc<[CompiledRule]>,
    pub(super) namespace: Arc<str>,
    pub(super) etcd: Arc<EtcdClient>,
    pub(super) requests: Addr<TxnSender>,
    pub(super) lease_manager: Addr<LeaseManager>,
    /// What may be shown of the application's data.
    pub(super) reveal: Reveal,
}

impl Tools {
    /// The keys of an instance.
    pub(super) fn keys(&self, rule: RuleIndex, binding: &Binding) -> Keys {
        Keys::of(&self.rules[rule.index()], &self.namespace, binding)
    }
}
