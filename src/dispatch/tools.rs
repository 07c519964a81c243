//! What the steps of all firings use, shared by them.

use crate::compiled::CompiledRule;
use crate::compiled::{Binding, RuleIndex};
use crate::etcd::EtcdClient;
use crate::lock::keeper::Keeper;
use crate::lock::keys::Keys;
use crate::lock::requests::Requests;
use crate::runtime::env::Env;
use actix::Addr;
use std::sync::Arc;

pub(super) struct Tools {
    /// The engine's name.
    pub(super) engine: Arc<str>,
    pub(super) env: Env,
    pub(super) rules: Arc<[CompiledRule]>,
    pub(super) namespace: Arc<str>,
    pub(super) link: Arc<EtcdClient>,
    pub(super) requests: Addr<Requests>,
    pub(super) keeper: Addr<Keeper>,
}

impl Tools {
    /// The keys of an instance.
    pub(super) fn keys(&self, rule: RuleIndex, binding: &Binding) -> Keys {
        Keys::of(&self.rules[rule.index()], &self.namespace, binding)
    }
}
