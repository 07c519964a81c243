//! What a dispatcher is made of, by subject; and what the steps of firings and callbacks are given of it.

use super::super::run::CallbackTelemetry;
use super::super::tools::Tools;
use super::fleet::Membership;
use crate::compiled::CompiledRule;
use crate::dispatch::controls::RuleControls;
use crate::dispatch::running::RunningCallbacks;
use crate::etcd::EtcdClient;
use crate::events::Events;
use crate::firing::{Callback, Surroundings};
use crate::lock::lease_manager::{LeaseManager, LockLeases};
use crate::lock::txn_sender::TxnSender;
use crate::metrics::Meters;
use crate::runtime::env::Env;
use crate::runtime::supervised::ActorFaults;
use crate::trace::Telemetry;
use actix::Addr;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// What a dispatcher is made of.
pub(crate) struct DispatcherConfig {
    /// The engine's name.
    pub(crate) engine: Arc<str>,
    pub(crate) env: Env,
    pub(crate) rules: Arc<[CompiledRule]>,
    pub(crate) keys: KeySpace,
    pub(crate) limits: DispatchLimits,
    pub(crate) etcd: EtcdHandles,
    pub(crate) callbacks: CallbackHost,
    pub(crate) controls: RuleControls,
    pub(crate) reports: Reports,
    /// `None`: every engine tries everything.
    pub(crate) membership: Option<Membership>,
}

/// Which keys are the engine's own, and where the application's are.
pub(crate) struct KeySpace {
    /// Before the engine's own keys.
    pub(crate) namespace: Arc<str>,
    /// Before every key in etcd.
    pub(crate) key_prefix: Arc<str>,
    pub(crate) reserved: Arc<[String]>,
}

/// How much at once, and how late.
pub(crate) struct DispatchLimits {
    pub(crate) concurrency: usize,
    pub(crate) starvation_limit: Duration,
    pub(crate) max_txn_ops: usize,
}

/// Whom to ask for what of etcd.
pub(crate) struct EtcdHandles {
    pub(crate) client: Arc<EtcdClient>,
    pub(crate) requests: Addr<TxnSender>,
    pub(crate) lease_manager: Addr<LeaseManager>,
    pub(crate) leases: LockLeases,
}

/// The callbacks, and where they run.
pub(crate) struct CallbackHost {
    /// The callback of each rule.
    pub(crate) by_rule: Arc<[Callback]>,
    pub(crate) runtime: Handle,
    pub(crate) running: RunningCallbacks,
}

/// Where what happens is reported.
pub(crate) struct Reports {
    pub(crate) events: Events,
    pub(crate) meters: Meters,
    pub(crate) telemetry: Telemetry,
    pub(crate) faults: ActorFaults,
}

impl DispatcherConfig {
    /// What the steps of all firings use.
    pub(super) fn tools(&self) -> Tools {
        Tools {
            engine: self.engine.clone(),
            env: self.env.clone(),
            meters: self.reports.meters.clone(),
            rules: self.rules.clone(),
            namespace: self.keys.namespace.clone(),
            etcd: self.etcd.client.clone(),
            requests: self.etcd.requests.clone(),
            lease_manager: self.etcd.lease_manager.clone(),
            reveal: self.reports.telemetry.reveal,
        }
    }

    /// What all callbacks are given.
    pub(super) fn surroundings(&self) -> Surroundings {
        Surroundings {
            engine: self.engine.clone(),
            key_prefix: self.keys.key_prefix.clone(),
            rules: self.rules.clone(),
            callbacks: self.callbacks.by_rule.clone(),
            source: self.etcd.client.clone(),
            reserved: self.keys.reserved.clone(),
            max_txn_ops: self.limits.max_txn_ops,
            reveal: self.reports.telemetry.reveal,
        }
    }

    /// Where the runs of callbacks are reported.
    pub(super) fn callback_telemetry(&self) -> CallbackTelemetry {
        CallbackTelemetry {
            engine: self.engine.clone(),
            telemetry: self.reports.telemetry.clone(),
            meters: self.reports.meters.clone(),
        }
    }
}
