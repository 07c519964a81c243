//! Random events in the little world.

use super::*;
use crate::properties::check;
use proptest::collection::vec;
use proptest::prelude::*;

fn ops() -> impl Strategy<Value = Op> {
    let id = 0..INSTANCES;
    prop_oneof![
        8 => (id.clone(), 0..2u8).prop_map(|(id, slot)| Op::Put(id, Slot(slot))),
        8 => id.clone().prop_map(|id| Op::Put(id, Slot(0))),
        8 => (id.clone(), 0..2u8).prop_map(|(id, slot)| Op::Delete(id, Slot(slot))),
        4 => (id.clone(), 1..400u64).prop_map(|(id, takes)| Op::Lock(id, takes)),
        2 => id.clone().prop_map(Op::GiveUp),
        4 => id.clone().prop_map(Op::FireNow),
        2 => (0..RULES).prop_map(Op::Pause),
        2 => (0..RULES).prop_map(Op::Resume),
        2 => (0..RULES).prop_map(Op::Rehearse),
        2 => (0..RULES).prop_map(Op::Perform),
        2 => (0..RULES, 0..4u32).prop_map(|(rule, count)| Op::Limit(rule, count)),
        2 => (0..RULES, 0..4u64).prop_map(|(rule, count)| Op::Rest(rule, count * 150)),
        2 => (id, 1..1000u64).prop_map(|(id, takes)| Op::HoldBack(id, takes)),
        1 => Just(Op::LoseLocks),
        2 => Just(Op::Crawl),
        2 => Just(Op::MissReleases),
    ]
}

/// Runs a script of (wait in ms, event) and lets all calm down.
fn play(seed: u64, script: &[(u64, Op)]) -> World {
    let mut world = World::new(seed);
    for id in 0..INSTANCES {
        world.outside(Op::Put(id, Slot(0)));
    }
    for (wait, op) in script {
        world.run(world.now + ms(*wait));
        world.outside(*op);
    }
    for rule in 0..RULES {
        world.outside(Op::Resume(rule));
        world.outside(Op::Perform(rule));
    }
    world.calm = true;
    world.run(world.now + Duration::from_secs(3600));
    world
}

#[test]
fn every_true_instance_fires_after_its_last_change_and_nothing_leaks() {
    let inputs = (any::<u64>(), vec((0..80u64, ops()), 0..40));
    check(2000, &inputs, |(seed, script)| {
        let world = play(seed, &script);
        assert!(world.agenda.is_empty(), "it does not calm down: {:?}", world.agenda.first_key_value());
        world.check_calm();
        let (second, most) = world.busy.iter().max_by_key(|(_, count)| **count).unwrap_or((&0, &0));
        assert!(*most < 100 * u64::from(INSTANCES), "it spins: {most} actions in second {second}");
        Ok(())
    });
}
