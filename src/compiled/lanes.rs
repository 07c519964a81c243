//! Lanes: the compiled rules that an expansion makes of one rule share a lane.

use super::CompiledRule;

/// The lane of each compiled rule, and the limit of each lane. All combinations of one rule share a lane.
pub(crate) fn lanes(rules: &[CompiledRule]) -> (Box<[u32]>, Vec<usize>) {
    let mut limits = Vec::new();
    let mut last = None;
    let lane = |rule: &CompiledRule| {
        if last.replace(rule.id().clone()).as_ref() != Some(rule.id()) {
            limits.push(rule.concurrency());
        }
        limits.len() as u32 - 1
    };
    let lanes = rules.iter().map(lane).collect();
    (lanes, limits)
}
