//! What is held back of each rule, as an operator wants it now. Outlives the actors, so that their restart
//! lifts no brake.

use crate::compiled::{Brake, CompiledRule, lanes};
use std::sync::{Arc, Mutex};

/// The brake of each lane. Read by the dispatcher when it is told that something changed: whoever changes what
/// and in which order, in the end it has what is here. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct RuleControls(Arc<[Mutex<Brake>]>);

impl RuleControls {
    /// As the rules begin.
    pub(crate) fn new(rules: &[CompiledRule]) -> Self {
        let (lanes, limits) = lanes(rules);
        let mut brakes = vec![Brake::default(); limits.len()];
        for (rule, lane) in rules.iter().zip(&lanes) {
            brakes[*lane as usize] = rule.options().brake;
        }
        Self(brakes.into_iter().map(Mutex::new).collect())
    }

    pub(crate) fn change(&self, lane: u32, change: impl FnOnce(&mut Brake)) {
        change(&mut self.0[lane as usize].lock().unwrap_or_else(|e| e.into_inner()));
    }

    /// Every lane, as it is wanted now.
    pub(crate) fn wanted(&self) -> impl Iterator<Item = (u32, Brake)> + '_ {
        (0..).zip(self.0.iter().map(|brake| *brake.lock().unwrap_or_else(|e| e.into_inner())))
    }
}
