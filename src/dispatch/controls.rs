//! How an operator holds each rule back at present. This outlives the actors, so that a restart of them
//! releases no rule.

use crate::compiled::{ByLane, CompiledRule, Controls, Lane, RuleIndex, lanes};
use std::sync::{Arc, Mutex};

/// The controls of each lane. Read by the dispatcher when it is told that something changed: whoever changes
/// what and in which order, in the end it has what is here. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct RuleControls(Arc<ByLane<Mutex<Controls>>>);

impl RuleControls {
    /// As the rules begin.
    pub(crate) fn new(rules: &[CompiledRule]) -> Self {
        let (lanes, limits) = lanes(rules);
        let mut controls = limits.map(|_| Controls::default());
        for (rule, index) in rules.iter().zip(RuleIndex::all(rules.len())) {
            controls[lanes.of(index)] = rule.options().controls;
        }
        Self(Arc::new(controls.map(|wanted| Mutex::new(*wanted))))
    }

    pub(crate) fn change(&self, lane: Lane, change: impl FnOnce(&mut Controls)) {
        change(&mut self.0[lane].lock().unwrap_or_else(|e| e.into_inner()));
    }

    /// Every lane, as it is wanted now.
    pub(crate) fn wanted(&self) -> impl Iterator<Item = (Lane, Controls)> + '_ {
        self.0.iter().map(|(lane, wanted)| (lane, *wanted.lock().unwrap_or_else(|e| e.into_inner())))
    }
}
