//! Instances that share a lock within the engine: turns, and who is handed it.

use super::*;

#[test]
fn what_shares_a_lock_takes_turns_in_the_order_of_asking() {
    let mut b = Bench::new([rule("r").lock("/one")], 8);
    for id in 1..=4 {
        b.decide(id, true, &[5, 0], &[]);
    }
    assert_eq!(b.locking(), [(1, None)]);
    assert_eq!((b.state(2), b.work.running()), (Some(State::Parked), 1));
    // Parked and false: no turn. Parked and again true: the last turn.
    b.decide(2, false, &[5, 6], &[touch(1, 6)]).decide(2, true, &[5, 0], &[touch(1, 7)]);
    b.locked(1, LockOutcome::Failed("no lease".into()));
    b.answer(3, true, &[5, 0]).locked(3, won());
    // Handed over, not yet looked at, and false: the next one gets it.
    b.end(3, &CallbackEnd::of(FiringOutcome::Done), closed(10, false));
    assert!(matches!(b.state(4), Some(State::Checking(_))));
    b.answer(4, false, &[0, 0]);
    b.answer(2, true, &[5, 0]).answer(3, true, &[10, 0]);
    assert_eq!(b.locking(), [(3, None), (2, None)]);
    b.locked(2, won());
    b.end(2, &CallbackEnd::of(FiringOutcome::Done), closed(11, false));
    b.answer(2, true, &[5, 0]).decide(1, false, &[0, 0], &[]);
    assert!(b.is_quiet());
}

#[test]
fn a_lock_handed_over_to_one_that_has_no_slot_yet_is_handed_on_when_it_turns_false() {
    // One slot for two rules: the first to wait for the shared lock finds no slot.
    let mut b = Bench::new([rule("r").lock("/one"), rule("s")], 2);
    b.decide(1, true, &[5, 0], &[]).decide(2, true, &[5, 0], &[]).decide(3, true, &[5, 0], &[]);
    let other = |id| Decided {
        rule: RuleIndex::new(1),
        ..decision(instance(id), true, &[5, 0], &[], DecisionReason::Change)
    };
    b.turn(|work, now, out| {
        work.decided(other(11), now, out);
        work.decided(other(12), now, out);
    });
    let turns = b.work.running();
    assert_eq!(turns, 2);
    // Rule `s` takes the slot that becomes free, while instance 2 is handed the lock.
    b.locked(1, LockOutcome::Failed("no lease".into()));
    let waiting =
        [2, 3].into_iter().filter(|&id| b.state(id) == Some(State::Queued(WorkClass::Live))).count();
    let asked = [2, 3].into_iter().filter(|&id| matches!(b.state(id), Some(State::Checking(_)))).count();
    assert_eq!(waiting + asked, 1, "one wake a release");
    b.decide(2, false, &[0, 0], &[]);
    if asked == 1 {
        b.answer(2, false, &[0, 0]);
    }
    b.locked(11, LockOutcome::Failed("no lease".into()));
    assert!(matches!(b.state(3), Some(State::Checking(_))), "{:?}", b.state(3));
}

#[test]
fn who_is_handed_a_lock_goes_before_what_is_queued() {
    let mut b = Bench::new([rule("r").lock("/one"), rule("s")], 2);
    let other = Decided {
        rule: RuleIndex::new(1),
        ..decision(instance(9), true, &[5, 0], &[], DecisionReason::Change)
    };
    b.decide(1, true, &[5, 0], &[]).decide(2, true, &[5, 0], &[]);
    b.turn(|work, now, out| work.decided(other, now, out)).decide(3, true, &[5, 0], &[]);
    assert_eq!((b.state(2), b.state(3)), (Some(State::Parked), Some(State::Queued(WorkClass::Live))));
    b.locked(1, failed_to_lock());
    assert!(matches!(b.state(2), Some(State::Checking(_))), "{:?}", b.state(2));
    assert_eq!(b.state(3), Some(State::Queued(WorkClass::Live)), "it was not asked in vain");
}

#[test]
fn those_who_turn_false_and_true_while_all_slots_are_stuck_take_no_memory() {
    let mut b = Bench::new([rule("r"), rule("shared").lock("/one")], 2);
    b.decide(1, true, &[5, 0], &[]);
    let shared = |id: u32, truth| Decided {
        rule: RuleIndex::new(1),
        ..decision(instance(id), truth, &[5, 0], &[], DecisionReason::Change)
    };
    b.turn(|work, now, out| work.decided(shared(11, true), now, out));
    assert_eq!(b.work.running(), 2);
    b.decide(2, true, &[5, 0], &[]);
    b.turn(|work, now, out| work.decided(shared(12, true), now, out));
    for _ in 0..1000 {
        b.decide(3, true, &[5, 0], &[]).decide(3, false, &[5, 0], &[]);
        b.turn(|work, now, out| {
            work.decided(shared(13, true), now, out);
            work.decided(shared(13, false), now, out);
        });
    }
    assert!(b.work.leftovers() < 200, "{}", b.work.leftovers());
}
