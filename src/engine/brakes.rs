//! What is held back of each rule, as an operator wants it now. Outlives the actors, so that their restart
//! lifts no brake.

use crate::rule::{CompiledRule, lanes};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Read by the dispatcher when it is told that something changed: whoever changes what and in which order, in
/// the end it has what is here. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Brakes(Arc<[OfLane]>);

#[derive(Debug, Default)]
struct OfLane {
    paused: AtomicBool,
}

impl Brakes {
    /// As the rules begin.
    pub(crate) fn new(rules: &[CompiledRule]) -> Self {
        let (lanes, limits) = lanes(rules);
        let mut brakes: Vec<OfLane> = Vec::new();
        brakes.resize_with(limits.len(), OfLane::default);
        for (rule, lane) in rules.iter().zip(&lanes) {
            *brakes[*lane as usize].paused.get_mut() = rule.options().paused;
        }
        Self(brakes.into())
    }

    pub(crate) fn is_paused(&self, lane: u32) -> bool {
        self.0[lane as usize].paused.load(Ordering::Acquire)
    }

    pub(crate) fn pause(&self, lane: u32, paused: bool) {
        self.0[lane as usize].paused.store(paused, Ordering::Release);
    }

    pub(crate) fn lanes(&self) -> impl Iterator<Item = u32> + use<> {
        0..self.0.len() as u32
    }
}
