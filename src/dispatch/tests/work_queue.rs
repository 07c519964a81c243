//! All instances together, one story each: slots, locks, wake-ups, marks, ends.

mod local_locks;
mod releases;

use super::super::messages::{CallbackEnd, Closing, Hold};
use super::super::record::Wait;
use super::super::slot_queue::WorkClass;
use super::super::work_queue::AfterCommit;
use super::*;
use crate::firing::FiringOutcome;

const LOCK: &str = "/ns/lock/x";
const MARK: &str = "/ns/backoff/x";

fn bench() -> Bench {
    Bench::new([rule("r")], 8)
}

fn held(at: i64) -> LockOutcome {
    held_by_lock(LOCK, at)
}

fn marked(revision: i64, attempt: u32, gave_up: bool) -> LockOutcome {
    LockOutcome::Marked(found_mark(MARK.into(), revision, (attempt, gave_up), revision + 1))
}

fn closed(revision: i64, marked: bool) -> CommitOutcome {
    committed(revision, &[0], marked)
}

impl Bench {
    /// The callback of an instance that has the lock ends, and the firing is closed.
    pub(super) fn end(&mut self, id: u32, finish: &CallbackEnd, outcome: CommitOutcome) -> Closing {
        let closing = self.work.finished(instance(id), finish, self.now);
        self.turn(|work, now, out| work.closed(instance(id), &outcome, now, out));
        closing
    }

    /// Fires a new instance, which stays true.
    fn fire(&mut self, id: u32, finish: &CallbackEnd, outcome: CommitOutcome) -> &mut Self {
        self.decide(id, true, &[5, 0], &[]).locked(id, won());
        self.end(id, finish, outcome);
        self.answer(id, true, &[10, 0])
    }

    fn is_quiet(&self) -> bool {
        self.work.running() == 0 && self.work.locks_taken() == 0 && self.work.leftovers() == 0
    }

    /// The instances whose locks were asked for since the last call, with the marks they replace.
    fn locking(&mut self) -> Vec<(u32, Option<i64>)> {
        let lock = |action: &Action| match action {
            Action::Lock { instance, supersedes_backoff, .. } => {
                Some((instance.index, supersedes_backoff.map(Revision::get)))
            }
            _ => None,
        };
        let found = self.actions.iter().filter_map(lock).collect();
        self.actions.retain(|action| lock(action).is_none());
        found
    }
}

#[test]
fn a_new_true_instance_goes_for_its_lock_without_a_second_look() {
    let mut b = bench();
    b.decide(1, true, &[5, 0], &[touch(0, 5)]);
    assert_eq!(b.locking(), [(1, None)]);
    assert!(b.wanted().is_empty());
    b.locked(1, won());
    assert_eq!(b.state(1), Some(State::Running));
}

#[test]
fn a_false_instance_that_nothing_implies_is_released() {
    let mut b = bench();
    let orphan =
        Decided { orphaned: true, ..decision(instance(1), false, &[0, 0], &[], DecisionReason::Change) };
    b.turn(|work, now, out| work.decided(orphan, now, out));
    assert!(matches!(b.wanted()[..], [Action::Release(_)]));
    assert_eq!(b.state(1), None);
}

#[test]
fn what_a_queued_instance_is_given_is_decided_anew_when_it_gets_a_slot() {
    let mut b = Bench::new([rule("r")], 1);
    b.decide(1, true, &[5, 0], &[]).decide(2, true, &[6, 0], &[]);
    assert_eq!(b.locking(), [(1, None)]);
    b.locked(1, LockOutcome::Failed("no answer".into()));
    assert!(matches!(b.state(2), Some(State::Checking(_))));
    b.answer(2, true, &[8, 0]);
    let actions = b.wanted();
    let [Action::Lock { basis: Basis { snapshot: given, .. }, .. }] = &actions[..] else {
        panic!("{actions:?}")
    };
    assert_eq!(*given, snapshot(&[8, 0]));
}

#[test]
fn a_failed_firing_holds_all_engines_back_and_a_change_cuts_the_wait() {
    let mut b = bench();
    b.decide(1, true, &[5, 0], &[]).locked(1, won());
    for attempt in 1..=6 {
        let closing = b.end(
            1,
            &CallbackEnd::of(FiringOutcome::Failed("no".into())),
            closed(10 * i64::from(attempt), true),
        );
        let Closing::Unlock(Some(Hold { attempt: written, delay: Some(delay), .. })) = closing else {
            panic!("{closing:?}")
        };
        assert_eq!(written, attempt);
        b.answer(1, true, &[5, 0]);
        assert_eq!(b.state(1), Some(State::Waiting(b.now + delay, Wait::Backoff)));
        b.locking();
        b.advance(delay).answer(1, true, &[5, 0]);
        assert_eq!(b.locking(), [(1, Some(10 * i64::from(attempt)))], "its own mark is replaced");
        b.locked(1, won());
    }
    b.end(1, &CallbackEnd::of(FiringOutcome::TimedOut), closed(70, true));
    b.answer(1, true, &[5, 0]).decide(1, true, &[71, 0], &[touch(0, 71)]);
    assert_eq!(b.state(1), Some(State::Waiting(b.now + BASE, Wait::Backoff)));
    assert_eq!(b.work.leftovers(), 1, "the timer that was cut short is gone");
    b.advance(BASE).answer(1, true, &[71, 0]).locked(1, won());
    b.end(1, &CallbackEnd::of(FiringOutcome::Done), closed(80, false));
    b.answer(1, true, &[80, 0]);
    assert_eq!(b.work.record(instance(1)).map(|r| r.failures), Some(0), "success resets attempts");
    assert!(b.is_quiet());
}

#[test]
fn a_callback_that_failed_for_the_link_is_tried_again_soon_and_that_is_no_attempt() {
    let mut b = bench();
    b.fire(1, &CallbackEnd::of(FiringOutcome::Failed("no".into())), closed(10, true));
    b.advance(ms(120)).answer(1, true, &[10, 0]).locked(1, won());
    for time in 1..=8 {
        for failed in [
            CallbackEnd::of(FiringOutcome::Failed("no".into())),
            CallbackEnd::of(FiringOutcome::Panicked("no".into())),
        ] {
            let closing = b.end(1, &failed.after_link_errors(), closed(10 + 10 * time, false));
            assert_eq!(closing, Closing::Unlock(None), "no mark holds it back");
            b.answer(1, true, &[10, 0]);
            assert_eq!(b.state(1), Some(State::Waiting(b.now + ms(500), Wait::Trouble)), "however often");
            b.locking();
            b.advance(ms(500)).answer(1, true, &[10, 0]);
            b.locked(1, won());
            assert_eq!(b.work.record(instance(1)).map(|r| r.failures), Some(1));
        }
    }
    for other in [
        CallbackEnd::of(FiringOutcome::TimedOut),
        CallbackEnd::of(FiringOutcome::Cancelled),
        CallbackEnd::of(FiringOutcome::Done),
    ] {
        assert_eq!(other.clone().after_link_errors(), other);
    }
}

#[test]
fn retry_after_is_no_failure_even_after_failures() {
    let mut b = bench();
    b.fire(1, &CallbackEnd::of(FiringOutcome::Failed("no".into())), closed(10, true));
    b.advance(ms(120)).answer(1, true, &[10, 0]).locked(1, won());
    let closing = b.end(1, &CallbackEnd::of(FiringOutcome::RetryAfter(ms(500))), closed(20, true));
    let hold = Hold { attempt: 0, delay: Some(ms(500)), error: String::new() };
    assert_eq!(closing, Closing::Commit(Some(hold)));
    b.answer(1, true, &[20, 0]);
    assert_eq!(b.work.record(instance(1)).map(|r| r.failures), Some(0));
    b.locking();
    b.advance(ms(500)).answer(1, true, &[20, 0]);
    assert_eq!(b.locking(), [(1, Some(20))]);
}

#[test]
fn a_wait_of_any_length_can_be_asked_for() {
    for (asked, waits) in
        [(Duration::ZERO, ms(10)), (ms(20), ms(20)), (Duration::MAX, Duration::from_secs(365 * 24 * 3600))]
    {
        let mut b = bench();
        b.decide(1, true, &[5, 0], &[]).locked(1, won());
        let closing = b.end(1, &CallbackEnd::of(FiringOutcome::RetryAfter(asked)), closed(10, true));
        let Closing::Commit(Some(Hold { delay, .. })) = closing else { panic!("{closing:?}") };
        assert_eq!(delay, Some(waits));
        b.answer(1, true, &[5, 0]);
        assert_eq!(b.state(1), Some(State::Waiting(b.now + waits, Wait::RetryAfter)));
    }
}

#[test]
fn the_mark_of_an_instance_that_turned_false_is_removed() {
    for finish in [
        CallbackEnd::of(FiringOutcome::RetryAfter(ms(50))),
        CallbackEnd::of(FiringOutcome::GaveUp("x".into())),
        CallbackEnd::of(FiringOutcome::TimedOut),
    ] {
        let mut b = bench();
        b.fire(1, &finish, closed(10, true));
        b.wanted();
        b.decide(1, false, &[10, 11], &[touch(1, 11)]);
        let actions = b.wanted();
        assert!(
            matches!(actions[..], [Action::ClearMark { rule: RULE, revision, .. }] if revision == Revision::new(10)),
            "{actions:?}"
        );
        assert!(b.is_quiet(), "{finish:?}");
    }
}

#[test]
fn a_mark_of_another_engine_is_left_alone_when_the_instance_turns_false() {
    for gave_up in [true, false] {
        let mut b = bench();
        b.decide(1, true, &[5, 0], &[]).locked(1, marked(10, 3, gave_up));
        b.wanted();
        b.decide(1, false, &[5, 11], &[touch(1, 11)]);
        assert!(b.wanted().is_empty());
        assert!(b.is_quiet());
    }
}

#[test]
fn a_lock_that_is_refused_again_and_again_gives_its_slot_away() {
    let mut b = bench();
    b.decide(1, true, &[5, 0], &[]);
    for _ in 0..7 {
        b.locked(1, untrue(false));
        assert_eq!(b.work.running(), 1);
        b.answer(1, true, &[5, 0]);
    }
    b.locked(1, untrue(false));
    assert_eq!(b.state(1), Some(State::Waiting(b.now + BASE, Wait::Trouble)));
    assert!(b.work.running() == 0);
}

#[test]
fn an_instance_whose_lock_is_too_large_is_given_up_until_a_key_changes() {
    let mut b = bench();
    let too_large = || LockOutcome::TooLarge("too large".into());
    b.decide(1, true, &[5, 0], &[]).locked(1, too_large());
    assert_eq!((b.state(1), b.work.running()), (Some(State::GivenUp(None)), 0));
    let error = b.work.record(instance(1)).and_then(|record| record.last_error.clone());
    assert_eq!(error.as_deref(), Some("too large"));
    // A crawl does not try it again, nor does time.
    b.advance(ms(600_000));
    assert_eq!(b.state(1), Some(State::GivenUp(None)));
    b.crawl(1, &[5, 0]);
    assert_eq!(b.state(1), Some(State::GivenUp(None)));
    b.decide(1, true, &[9, 0], &[touch(0, 9)]);
    assert_eq!(b.state(1), Some(State::Waiting(b.now + BASE, Wait::Backoff)));
}

#[test]
fn a_commit_that_is_too_large_is_given_up_with_a_mark_that_is_small() {
    let mut b = bench();
    b.decide(1, true, &[5, 0], &[]).locked(1, won());
    b.work.finished(instance(1), &CallbackEnd::of(FiringOutcome::Done), b.now);
    let too_large = || CommitOutcome::TooLarge("too large".into());
    let hold = Hold { attempt: 0, delay: None, error: "too large".into() };
    assert_eq!(tried_after(&mut b, 1, too_large()), Closing::Unlock(Some(hold)));
    b.turn(|work, now, out| work.closed(instance(1), &closed(10, true), now, out));
    b.answer(1, true, &[5, 0]);
    assert_eq!((b.state(1), b.work.running()), (Some(State::GivenUp(None)), 0));
}

#[test]
fn a_commit_that_is_too_large_even_with_nothing_but_a_mark_ends_with_the_unlock() {
    let mut b = bench();
    b.decide(1, true, &[5, 0], &[]).locked(1, won());
    b.work.finished(instance(1), &CallbackEnd::of(FiringOutcome::Done), b.now);
    let too_large = || CommitOutcome::TooLarge("too large".into());
    assert!(matches!(tried_after(&mut b, 1, too_large()), Closing::Unlock(Some(_))));
    assert_eq!(tried_after(&mut b, 1, too_large()), Closing::Unlock(None));
    b.turn(|work, now, out| work.closed(instance(1), &closed(10, false), now, out));
    b.answer(1, true, &[5, 0]);
    assert_eq!((b.state(1), b.work.running()), (Some(State::GivenUp(None)), 0));
}

/// What is tried after the transaction of an instance was refused.
fn tried_next(b: &mut Bench, id: u32) -> Closing {
    tried_after(b, id, CommitOutcome::Refused("permission denied".into()))
}

/// What is tried after the transaction of an instance came out so.
fn tried_after(b: &mut Bench, id: u32, refused: CommitOutcome) -> Closing {
    let mut after = AfterCommit::Over;
    b.turn(|work, now, out| after = work.closed(instance(id), &refused, now, out));
    let wanted = b.wanted().into_iter().rev();
    let closing = wanted.filter_map(|a| if let Action::Close(_, closing) = a { Some(closing) } else { None });
    let closing = closing.last().unwrap_or(Closing::Nothing);
    assert_eq!(after == AfterCommit::Over, closing == Closing::Nothing);
    closing
}

#[test]
fn a_refused_end_is_tried_with_less_each_time_and_then_left() {
    let mut b = bench();
    b.decide(1, true, &[5, 0], &[]).locked(1, won());
    b.work.finished(instance(1), &CallbackEnd::of(FiringOutcome::Done), b.now);
    assert!(matches!(tried_next(&mut b, 1), Closing::Unlock(Some(Hold { attempt: 1, .. }))));
    assert_eq!(tried_next(&mut b, 1), Closing::Unlock(None));
    let refused = CommitOutcome::Refused("permission denied".into());
    b.turn(|work, now, out| work.closed(instance(1), &refused, now, out)).answer(1, true, &[5, 0]);
    assert_eq!(b.state(1), Some(State::Waiting(b.now + BASE, Wait::Trouble)));
    assert_eq!(b.work.running(), 0);
}

#[test]
fn a_callback_that_failed_counts_once_also_if_its_mark_is_refused() {
    let mut b = bench();
    b.decide(1, true, &[5, 0], &[]).locked(1, won());
    b.work.finished(instance(1), &CallbackEnd::of(FiringOutcome::Panicked("x".into())), b.now);
    assert_eq!(tried_next(&mut b, 1), Closing::Unlock(None));
    b.turn(|work, now, out| work.closed(instance(1), &closed(10, false), now, out));
    b.answer(1, true, &[5, 0]);
    assert!(matches!(b.state(1), Some(State::Waiting(_, Wait::Backoff))));
    assert_eq!(b.work.record(instance(1)).map(|r| (r.failures, r.mark)), Some((1, None)));
}

#[test]
fn what_is_decided_with_the_commit_before_its_answer_needs_no_other_decision() {
    let mut b = Bench::new([rule("r")], 8);
    for (id, truth, seen, closed_slots, expected) in [
        (1, false, vec![touch(0, 10)], vec![0], Some(None)),
        (2, true, vec![touch(0, 10)], vec![0], Some(Some(State::Idle))),
        (3, true, vec![touch(1, 10), touch(0, 10)], vec![0, 1], Some(Some(State::Idle))),
        // One of two keys is another view; so is an older change, and there is none of no keys.
        (4, true, vec![touch(0, 10)], vec![0, 1], None),
        (5, true, vec![touch(0, 9)], vec![0], None),
        (6, true, vec![], vec![0], None),
        (7, true, vec![touch(0, 10)], vec![], None),
    ] {
        b.decide(id, true, &[5, 0], &[]).locked(id, won());
        b.decide(id, truth, &[10, 0], &seen);
        b.wanted();
        let outcome = committed(10, &closed_slots, false);
        b.end(id, &CallbackEnd::of(FiringOutcome::Done), outcome);
        let asks = b.wanted().iter().filter(|action| matches!(action, Action::Ask(..))).count();
        match expected {
            Some(state) => assert_eq!((b.state(id), asks), (state, 0), "{id}"),
            None => {
                assert!(
                    matches!(b.state(id), Some(State::AwaitingOwnEvent { .. })),
                    "{id}: {:?}",
                    b.state(id)
                );
                assert_eq!(asks, 1, "{id}");
            }
        }
    }
}

#[test]
fn a_change_that_comes_with_an_answer_outdates_an_older_mark() {
    let mut b = bench();
    b.decide(1, true, &[5, 0], &[]).locked(1, untrue(false));
    let Some(&Action::Ask(_, number)) = b.wanted().last() else { panic!("it asks again") };
    // The key of slot 1 was deleted at revision 50, which its values do not tell.
    let answer = decision(instance(1), true, &[5, 0], &[touch(1, 50)], DecisionReason::Ask(number));
    b.turn(|work, now, out| work.decided(answer, now, out));
    b.locked(1, marked(40, 1, false));
    assert_eq!(b.state(1), Some(State::Waiting(b.now + BASE, Wait::Backoff)));
}

#[test]
fn one_that_turns_false_and_true_again_has_lost_its_place() {
    let mut b = Bench::new([rule("r")], 1);
    b.decide(1, true, &[5, 0], &[]).decide(2, true, &[5, 0], &[]).decide(3, true, &[5, 0], &[]);
    b.decide(2, false, &[0, 0], &[]).decide(2, true, &[6, 0], &[]);
    b.locked(1, failed_to_lock());
    assert!(matches!(b.state(3), Some(State::Checking(_))), "{:?}", b.state(3));
    assert_eq!(b.state(2), Some(State::Queued(WorkClass::Live)));
}

#[test]
fn one_who_stops_gives_no_slot_and_starts_no_callback() {
    let mut b = Bench::new([rule("r")], 1);
    b.decide(1, true, &[5, 0], &[]).decide(2, true, &[5, 0], &[]);
    b.locked(1, LockOutcome::Failed("x".into()));
    b.locking();
    b.work.stop();
    b.answer(2, true, &[5, 0]).decide(3, true, &[5, 0], &[]).advance(Duration::from_secs(1));
    assert_eq!((b.work.running(), b.locking()), (0, vec![]));
}

#[test]
fn an_instance_of_an_optimistic_rule_takes_its_lock_after_eight_refusals_in_a_row() {
    let mut b = Bench::new([rule("r").optimistic()], 8);
    let runs = |b: &mut Bench| {
        let count = b.actions.iter().filter(|action| matches!(action, Action::Run { .. })).count();
        b.actions.retain(|action| !matches!(action, Action::Run { .. }));
        count
    };
    b.decide(1, true, &[5, 0], &[]);
    for refusal in 1..=8 {
        assert_eq!((runs(&mut b), b.locking()), (1, vec![]), "{refusal}");
        b.end(
            1,
            &CallbackEnd::of(FiringOutcome::Done),
            CommitOutcome::Unexpected { changes: vec![], mark_gone: false },
        );
        let now = b.now;
        b.answer(1, true, &[5 + refusal, 0]).answer(1, true, &[5 + refusal, 0]);
        assert_eq!(b.now, now, "at once");
    }
    assert_eq!((runs(&mut b), b.locking()), (0, vec![(1, None)]));
    b.locked(1, won());
    b.end(1, &CallbackEnd::of(FiringOutcome::Done), closed(20, false));
    b.answer(1, false, &[0, 20]).decide(1, true, &[30, 0], &[]);
    assert_eq!((runs(&mut b), b.locking()), (1, vec![]), "it began anew");
}

#[test]
fn an_optimistic_rule_runs_without_a_lock_and_is_held_back_by_marks() {
    let mut b = Bench::new([rule("r").optimistic()], 8);
    b.decide(1, true, &[5, 0], &[]).decide(2, true, &[5, 0], &[]);
    assert_eq!(b.wanted().iter().filter(|action| matches!(action, Action::Run { .. })).count(), 2);
    b.end(1, &CallbackEnd::of(FiringOutcome::Done), CommitOutcome::FenceLost);
    b.answer(1, true, &[5, 0]);
    assert_eq!(b.state(1), Some(State::Waiting(b.now + BASE, Wait::Trouble)));
    let outcome = CommitOutcome::Marked(found_mark(MARK.into(), 9, (4, true), 9));
    b.end(2, &CallbackEnd::of(FiringOutcome::Done), outcome);
    assert!(matches!(b.state(2), Some(State::GivenUp(Some(_)))));
    assert_eq!(b.work.running(), 0);
    b.decide(2, true, &[10, 0], &[touch(0, 10)]).advance(BASE).answer(2, true, &[10, 0]);
    assert!(b.wanted().iter().any(
        |action| matches!(action, Action::Run { supersedes_backoff: Some(mark), .. } if mark.get() == 9)
    ));
}

#[test]
fn a_comparison_that_panics_leaves_its_instance_alone() {
    let mut b = bench();
    let broken = |reason| Decided {
        verdict: Verdict::Failed("panicked".into()),
        ..decision(instance(1), true, &[5, 0], &[], reason)
    };
    b.turn(|work, now, out| work.decided(broken(DecisionReason::Change), now, out));
    assert_eq!(b.state(1), None);
    b.fire(1, &CallbackEnd::of(FiringOutcome::Done), closed(10, false));
    b.turn(|work, now, out| work.decided(broken(DecisionReason::Change), now, out));
    assert_eq!(b.state(1), None);
    assert!(b.is_quiet());
}

#[test]
fn an_instance_that_the_index_has_forgotten_is_forgotten() {
    let mut b = bench();
    b.decide(1, true, &[5, 0], &[]).locked(1, won());
    b.end(1, &CallbackEnd::of(FiringOutcome::Done), closed(10, false));
    let number =
        b.wanted().iter().find_map(|a| if let Action::Ask(_, number) = a { Some(*number) } else { None });
    let gone = Decided {
        snapshot: Box::default(),
        binding: Binding::new([].into_iter()),
        ..decision(instance(1), false, &[], &[], DecisionReason::Ask(number.unwrap_or_default()))
    };
    b.turn(|work, now, out| work.decided(gone, now, out));
    assert_eq!(b.state(1), None);
    assert!(b.is_quiet());
}

#[test]
fn a_run_that_has_to_wait_for_an_older_one_frees_its_slot_and_lock() {
    let mut b = Bench::new([rule("r").lock("/one")], 8);
    b.decide(1, true, &[5, 0], &[]).decide(2, true, &[5, 0], &[]);
    b.turn(|work, now, out| work.postpone(instance(1), ms(100), now, out));
    assert!(matches!(b.state(2), Some(State::Checking(_))));
    b.answer(2, false, &[0, 0]).advance(ms(100));
    assert!(matches!(b.state(1), Some(State::Checking(_))));
}
