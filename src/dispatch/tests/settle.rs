//! What becomes true may have to wait a little, in case it does not last.

use super::super::messages::CallbackEnd;
use super::super::record::Wait;
use super::*;
use crate::compiled::Settle;
use crate::firing::FiringOutcome;
use crate::time::Jitter;

fn bench(delay: u64, jitter: u64) -> Bench {
    Bench::new(
        [rule("r").settle(Settle::new(ms(delay)).jitter(Jitter::up_to(jitter as f64 / delay as f64)))],
        8,
    )
}

fn settles(b: &Bench, id: u32) -> bool {
    matches!(b.state(id), Some(State::Waiting(_, Wait::Settle)))
}

#[test]
fn what_becomes_true_waits_and_is_then_looked_at_again() {
    let mut b = bench(100, 0);
    b.decide(1, true, &[5, 0], &[touch(0, 5)]).advance(ms(60)).decide(1, true, &[6, 0], &[touch(0, 6)]);
    assert!(settles(&b, 1), "a change does not prolong it");
    b.advance(ms(39));
    assert!(settles(&b, 1) && b.wanted().is_empty());
    b.advance(ms(1));
    assert!(matches!(b.state(1), Some(State::Checking(_))));
    b.answer(1, true, &[6, 0]);
    assert_eq!(b.state(1), Some(LOCKING));
}

#[test]
fn what_is_true_for_a_shorter_time_does_not_fire() {
    let mut b = bench(100, 0);
    b.decide(1, true, &[5, 0], &[touch(0, 5)]).advance(ms(60)).decide(1, false, &[5, 6], &[touch(1, 6)]);
    b.advance(ms(1000));
    assert_eq!((b.state(1), b.wanted().len(), b.work.leftovers()), (None, 0, 0));
}

#[test]
fn an_idle_instance_that_somebody_changes_waits_too_but_a_crawl_does_not() {
    let mut b = bench(100, 0);
    b.decide(1, true, &[5, 0], &[touch(0, 5)]).advance(ms(100)).answer(1, true, &[5, 0]);
    b.locked(1, won());
    let now = b.now;
    b.work.finished(instance(1), &CallbackEnd::of(FiringOutcome::Done), now);
    let closed = committed(10, &[0], false);
    b.turn(|work, now, out| work.closed(instance(1), &closed, now, out));
    b.answer(1, true, &[10, 0]).advance(ms(1000));
    assert_eq!(b.state(1), Some(State::Idle));
    b.decide(1, true, &[11, 0], &[touch(0, 11)]);
    assert!(settles(&b, 1));
    b.crawl(2, &[5, 0]);
    assert_eq!(b.state(2), Some(LOCKING), "what a crawl finds has lasted long enough");
}

#[test]
fn jitter_makes_the_wait_longer_and_never_shorter() {
    let mut b = bench(100, 100);
    for id in 0..40 {
        b.decide(id, true, &[5, 0], &[touch(0, 5)]);
    }
    let waits: Vec<Duration> = (0..40)
        .map(|id| match b.state(id) {
            Some(State::Waiting(until, Wait::Settle)) => until - b.now,
            other => panic!("{other:?}"),
        })
        .collect();
    let (least, most) = (waits.iter().min().unwrap(), waits.iter().max().unwrap());
    assert!(*least >= ms(100) && *most <= ms(200) && *most - *least > ms(50), "{least:?} to {most:?}");
}

#[test]
fn what_has_settled_still_rests_after_its_last_firing() {
    let mut b = bench(100, 0);
    b.control(0, |controls| controls.min_interval = Some(ms(1000)));
    b.decide(1, true, &[5, 0], &[touch(0, 5)]).advance(ms(100)).answer(1, true, &[5, 0]);
    b.locked(1, won());
    let now = b.now;
    b.work.finished(instance(1), &CallbackEnd::of(FiringOutcome::Done), now);
    let closed = committed(10, &[], false);
    b.turn(|work, now, out| work.closed(instance(1), &closed, now, out)).answer(1, false, &[0, 0]);
    b.decide(1, true, &[11, 0], &[touch(0, 11)]);
    assert!(settles(&b, 1));
    b.advance(ms(100));
    assert!(matches!(b.state(1), Some(State::Waiting(until, Wait::Interval)) if until == b.now + ms(900)));
    b.advance(ms(900));
    assert!(matches!(b.state(1), Some(State::Checking(_))));
}

#[test]
fn what_changes_in_a_dry_run_settles_as_it_would_otherwise() {
    let mut b = bench(100, 0);
    b.control(0, |controls| controls.dry_run = true);
    b.decide(1, true, &[5, 0], &[touch(0, 5)]).advance(ms(100)).answer(1, true, &[5, 0]);
    assert_eq!(b.state(1), Some(State::WouldFire));
    b.decide(1, true, &[6, 0], &[touch(0, 6)]);
    assert!(settles(&b, 1));
}
