//! Who waits for a lock or a mark of another engine, and what wakes it.

use super::*;

#[test]
fn a_release_wakes_what_its_key_held() {
    for outcome in [held(10), marked(9, 3, false), marked(9, 3, true)] {
        let key = if matches!(outcome, LockOutcome::Held { .. }) { LOCK } else { MARK };
        let mut b = bench();
        b.decide(1, true, &[5, 0], &[]).locked(1, outcome);
        b.released("/ns/lock/other", 11).advance(ms(100));
        assert!(matches!(b.state(1), Some(State::Held(_) | State::GivenUp(_))));
        b.wanted();
        b.released(key, 12).advance(ms(5)).answer(1, true, &[5, 0]);
        assert_eq!(b.locking(), [(1, None)]);
    }
}

#[test]
fn a_release_that_overtook_the_losing_answer_wakes_at_once() {
    for (name, deleted, waits) in [("before it was seen", 10, true), ("after it was seen", 11, false)] {
        let mut b = bench();
        b.decide(1, true, &[5, 0], &[]).released(LOCK, deleted).locked(1, held(10)).advance(Duration::ZERO);
        assert_eq!(matches!(b.state(1), Some(State::Held(_))), waits, "{name}");
    }
}

/// After older data was restored, a release from before is newer than every answer: it must not wake again
/// and again, without a pause.
#[test]
fn a_release_that_overtook_an_answer_wakes_once() {
    let mut b = bench();
    b.decide(1, true, &[5, 0], &[]).released(LOCK, 25).locked(1, held(23)).advance(Duration::ZERO);
    assert!(matches!(b.state(1), Some(State::Checking(_))), "{:?}", b.state(1));
    b.answer(1, true, &[5, 0]).locked(1, held(23)).advance(ms(100));
    assert!(matches!(b.state(1), Some(State::Held(_))));
}

#[test]
fn a_release_of_a_busy_lock_is_remembered_as_the_newest() {
    let mut b = bench();
    b.decide(1, true, &[5, 0], &[]).released(LOCK, 6);
    for number in 0..4095 {
        b.released(&format!("/ns/lock/{number}"), 7 + number);
    }
    // The lock was the oldest; it is deleted again, and then another one is.
    b.released(LOCK, 5000).released("/ns/lock/one-more", 5001);
    b.locked(1, held(4000)).advance(Duration::ZERO);
    assert!(matches!(b.state(1), Some(State::Checking(_))), "{:?}", b.state(1));
}

#[test]
fn releases_that_may_have_been_missed_wake_all_also_those_whose_answer_is_on_its_way() {
    let mut b = bench();
    b.decide(1, true, &[5, 0], &[]).decide(2, true, &[5, 0], &[]).decide(3, true, &[5, 0], &[]);
    b.locked(1, held(10)).locked(3, marked(10, 1, true));
    b.turn(|work, now, out| work.released_unknown(now, out));
    b.locked(2, held(10));
    b.advance(ms(5));
    for id in 1..=3 {
        assert!(matches!(b.state(id), Some(State::Checking(_))), "{id}: {:?}", b.state(id));
    }
    b.answer(2, true, &[5, 0]).locked(2, held(11));
    assert!(matches!(b.state(2), Some(State::Held(_))), "its next attempt is on firm ground");
}

#[test]
fn who_waits_for_a_lock_is_listed_once() {
    let mut b = bench();
    b.decide(1, true, &[5, 0], &[]).locked(1, held(10));
    for at in 11..100 {
        b.crawl(1, &[5, 0]).answer(1, true, &[5, 0]).locked(1, held(at));
    }
    assert_eq!(b.work.leftovers(), 1);
    b.crawl(1, &[5, 0]).answer(1, false, &[5, 0]);
    assert!(b.is_quiet());
}

#[test]
fn giving_up_is_not_undone_by_a_release_that_comes_late() {
    let mut b = bench();
    b.decide(1, true, &[5, 0], &[]).locked(1, held(10));
    // A crawl finds the lock free before its release is told.
    b.crawl(1, &[5, 0]).answer(1, true, &[5, 0]).locked(1, won());
    b.end(1, &CallbackEnd::of(FiringOutcome::GaveUp("enough".into())), closed(20, true));
    b.answer(1, true, &[5, 0]).released(LOCK, 15).released(LOCK, 20).advance(Duration::from_secs(1));
    assert_eq!(b.state(1), Some(State::GivenUp(None)));
    b.wanted();
    b.decide(1, false, &[21, 0], &[touch(0, 21)]);
    assert!(matches!(b.wanted()[..], [Action::ClearMark { revision, .. }] if revision == Revision::new(20)));
}

#[test]
fn a_change_that_came_before_the_answer_overrules_the_mark() {
    let mut b = bench();
    // The change at 12 is seen while the answer of a mark at 10 is on its way.
    b.decide(1, true, &[5, 0], &[]).decide(1, true, &[12, 0], &[touch(0, 12)]).locked(1, marked(10, 2, true));
    assert_eq!(b.state(1), Some(State::Waiting(b.now + BASE, Wait::Backoff)));
    b.locking();
    b.advance(BASE).answer(1, true, &[12, 0]);
    assert_eq!(b.locking(), [(1, Some(10))]);
    b.locked(1, untrue(true)).answer(1, true, &[12, 0]);
    assert_eq!(b.locking(), [(1, None)], "another engine was quicker");
}

#[test]
fn a_mark_of_a_success_elsewhere_resets_the_attempts() {
    let mut b = bench();
    b.fire(1, &CallbackEnd::of(FiringOutcome::TimedOut), closed(10, true));
    for (outcome, failures) in
        [(marked(20, 7, false), 7), (marked(30, 2, false), 7), (marked(40, 0, false), 0)]
    {
        b.advance(Duration::from_secs(1)).answer(1, true, &[5, 0]).locked(1, outcome);
        assert_eq!(b.work.record(instance(1)).map(|r| r.failures), Some(failures));
        b.released(MARK, 100);
    }
}

#[test]
fn what_turned_false_while_its_answer_was_on_its_way_is_not_held() {
    for outcome in [held(10), marked(9, 3, false), marked(9, 3, true), marked(20, 3, true)] {
        let mut b = bench();
        b.decide(1, true, &[5, 0], &[]);
        b.wanted();
        let orphan = Decided {
            orphaned: true,
            ..decision(instance(1), false, &[0, 0], &[touch(0, 12)], DecisionReason::Change)
        };
        b.turn(|work, now, out| work.decided(orphan, now, out)).locked(1, outcome);
        assert_eq!(b.state(1), None);
        assert!(matches!(b.wanted()[..], [Action::Release(_)]), "nothing implies it any more");
        assert!(b.is_quiet());
    }
}

#[test]
fn what_turned_false_and_true_again_meanwhile_is_held() {
    let mut b = bench();
    b.decide(1, true, &[5, 0], &[]).decide(1, false, &[5, 6], &[touch(1, 6)]).decide(
        1,
        true,
        &[5, 0],
        &[touch(1, 7)],
    );
    b.locked(1, held(10));
    assert!(matches!(b.state(1), Some(State::Held(_))));
}

#[test]
fn releases_are_wanted_from_the_oldest_answer_on_while_somebody_waits_and_a_little_longer() {
    let mut b = bench();
    let after = |b: &mut Bench| {
        let now = b.now;
        b.work.releases_after(now).map(Revision::get)
    };
    b.decide(1, true, &[5, 0], &[]).decide(2, true, &[5, 0], &[]).decide(3, true, &[5, 0], &[]);
    assert_eq!(after(&mut b), None, "nobody waits");
    b.locked(1, held(12));
    assert_eq!(after(&mut b), Some(12));
    b.locked(2, marked(9, 3, true)).locked(3, held(14));
    assert_eq!(after(&mut b), Some(10), "an answer that overtook another one may be newer");
    b.advance(Duration::from_secs(60));
    assert_eq!(after(&mut b), Some(10), "they wait");
    b.released(LOCK, 20).released(MARK, 21);
    assert_eq!(after(&mut b), Some(10));
    b.advance(Duration::from_millis(9_990));
    assert_eq!(after(&mut b), Some(10), "the next may come soon");
    b.advance(ms(10));
    assert_eq!(after(&mut b), None);
    b.answer(1, true, &[5, 0]).locked(1, held(30));
    assert_eq!(after(&mut b), Some(30), "what was released in the meantime is past");
}

/// The others would only find the same, and the release would wake them all.
#[test]
fn a_shared_lock_that_another_engine_has_is_tried_once_a_release() {
    const SHARED: &str = "/ns/lock/one";
    let mut b = Bench::new([rule("r").lock("/one")], 8);
    for id in 1..=5 {
        b.decide(id, true, &[5, 0], &[]);
    }
    assert_eq!(b.locking(), [(1, None)]);
    for at in [10, 20, 30] {
        b.locked(1, held_by_lock(SHARED, at)).advance(Duration::from_secs(1));
        assert!(matches!(b.state(1), Some(State::Held(_))));
        assert!((2..=5).all(|id| b.state(id) == Some(State::Parked)));
        assert_eq!((b.locking(), b.work.running()), (vec![], 0), "nobody else tries");
        b.released(SHARED, at + 5).advance(ms(5)).answer(1, true, &[5, 0]);
        assert_eq!(b.locking(), [(1, None)]);
    }
    // The next one takes its turn when it is over.
    b.locked(1, won());
    b.end(1, &CallbackEnd::of(FiringOutcome::Done), closed(40, false));
    b.answer(1, false, &[0, 0]).answer(2, true, &[5, 0]);
    assert_eq!(b.locking(), [(2, None)]);
}

#[test]
fn whoever_stood_for_the_others_and_is_true_no_more_hands_the_waiting_on() {
    const SHARED: &str = "/ns/lock/one";
    let mut b = Bench::new([rule("r").lock("/one")], 8);
    b.decide(1, true, &[5, 0], &[]).decide(2, true, &[5, 0], &[]).decide(3, true, &[5, 0], &[]);
    b.locked(1, held_by_lock(SHARED, 10)).decide(1, false, &[0, 0], &[]);
    assert!(matches!(b.state(2), Some(State::Held(_))), "it needs no attempt to know");
    assert_eq!((b.state(3), b.locking()), (Some(State::Parked), vec![(1, None)]));
    // Also while it waits for what was done under the lock to be seen.
    b.released(SHARED, 15).decide(2, false, &[0, 0], &[]);
    b.answer(3, true, &[5, 0]);
    assert_eq!(b.locking(), [(3, None)]);
    b.locked(3, held_by_lock(SHARED, 20)).decide(3, false, &[0, 0], &[]);
    assert!(b.is_quiet());
}

#[test]
fn a_mark_holds_back_one_instance_and_nobody_who_shares_its_lock() {
    let mut b = Bench::new([rule("r").lock("/one")], 8);
    b.decide(1, true, &[5, 0], &[]).decide(2, true, &[5, 0], &[]);
    b.locked(1, marked(9, 1, false)).answer(2, true, &[5, 0]);
    assert!(matches!(b.state(1), Some(State::Held(_))));
    assert_eq!(b.locking(), [(1, None), (2, None)]);
}
