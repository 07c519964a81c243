//! What people see of instances: every state in words, and counts that keep up.

use super::super::messages::{CallbackEnd, Closing};
use super::*;
use crate::firing::FiringOutcome;
use crate::inspect::{InstanceState, Phase, QueuedFor, StateKind, WaitReason};
use crate::lock::txn::{Holder, Nonce};
use std::time::{SystemTime, UNIX_EPOCH};

fn bench() -> Bench {
    Bench::new([rule("r").concurrency(1)], 8)
}

fn closed(marked: bool) -> CommitOutcome {
    committed(10, &[], marked)
}

impl Bench {
    fn seen(&self, id: u32) -> Option<InstanceState> {
        self.work.status(instance(id), self.now).map(|look| look.state)
    }

    /// The callback ends, its firing is closed, and the instance is still true.
    fn ends(&mut self, finish: CallbackEnd, marked: bool) {
        let now = self.now;
        let closing = self.work.finished(instance(1), &finish, now);
        assert_ne!(closing, Closing::Nothing);
        assert_eq!(self.seen(1), Some(InstanceState::Running(Phase::Committing)));
        self.turn(|work, now, out| work.closed(instance(1), &closed(marked), now, out));
        self.answer(1, true, &[5, 0]);
    }

    fn runs(&mut self) {
        self.decide(1, true, &[5, 0], &[]);
        assert_eq!(self.seen(1), Some(InstanceState::Running(Phase::Locking)));
        self.locked(1, won());
        assert_eq!(self.seen(1), Some(InstanceState::Running(Phase::Callback)));
    }
}

fn unix(millis: u64) -> Option<SystemTime> {
    Some(UNIX_EPOCH + ms(millis))
}

#[test]
fn a_firing_is_seen_in_all_its_steps() {
    let mut b = bench();
    b.runs();
    b.decide(2, true, &[6, 0], &[]);
    assert_eq!(b.seen(2), Some(InstanceState::Queued(QueuedFor::Slot)));
    b.ends(CallbackEnd::of(FiringOutcome::Done), false);
    assert_eq!(b.seen(1), Some(InstanceState::Idle));
    assert_eq!(b.seen(2), Some(InstanceState::Running(Phase::Deciding)));
    assert_eq!(b.seen(3), None, "nobody knows it");
    let stats = b.lane(0);
    assert_eq!((stats.fired, stats.states.get(StateKind::Idle), stats.states.all_true()), (1, 1, 2));
}

#[test]
fn one_that_waits_says_for_how_long_and_after_which_error() {
    for (finish, reason, error, failures) in [
        (CallbackEnd::of(FiringOutcome::Failed("no".into())), WaitReason::Backoff, Some("no"), 1),
        (CallbackEnd::of(FiringOutcome::Panicked("oh".into())), WaitReason::Backoff, Some("panicked: oh"), 1),
        (CallbackEnd::of(FiringOutcome::TimedOut), WaitReason::Backoff, Some("the time limit was over"), 1),
        (CallbackEnd::of(FiringOutcome::RetryAfter(ms(120))), WaitReason::RetryAfter, None, 0),
    ] {
        let mut b = bench();
        b.runs();
        b.ends(finish.clone(), true);
        b.now += ms(30);
        let look = b.work.status(instance(1), b.now).expect("it is known");
        let InstanceState::Waiting { reason: seen, remaining } = look.state else { panic!("{look:?}") };
        assert_eq!(
            (seen, look.failures, look.last_error.as_deref()),
            (reason, failures, error),
            "{finish:?}"
        );
        assert!((ms(50)..=ms(90)).contains(&remaining), "{finish:?}: {remaining:?}");
        assert_eq!(look.lasting, ms(30));
    }
}

#[test]
fn a_success_ends_what_went_wrong_before() {
    let mut b = bench();
    b.runs();
    b.ends(CallbackEnd::of(FiringOutcome::Failed("no".into())), true);
    b.advance(ms(200)).answer(1, true, &[5, 0]).locked(1, won());
    b.ends(CallbackEnd::of(FiringOutcome::Done), false);
    let look = b.work.status(instance(1), b.now).expect("it is known");
    assert_eq!((look.state, look.failures, look.last_error), (InstanceState::Idle, 0, None));
}

#[test]
fn what_another_engine_has_or_holds_back_is_told_with_its_name() {
    let lock = |holder| LockOutcome::Held {
        key: "lock".into(),
        create_revision: Revision::new(1),
        holder,
        ours: false,
        at: Revision::new(9),
    };
    let holder = Holder { engine: "b".into(), nonce: Nonce(1), since: 1_000, name: None };
    let mark = |gave_up| {
        let mut found = found_mark("mark".into(), 9, (2, gave_up), 9);
        if let Some(mark) = &mut found.mark {
            mark.until = if gave_up { u64::MAX } else { 5_000 };
        }
        LockOutcome::Marked(found)
    };
    let unreadable = || FoundMark { mark: None, ..found_mark("mark".into(), 9, (0, false), 9) };
    let (b, other) = (Some("b".to_owned()), Some("other".to_owned()));
    for (outcome, expected) in [
        (lock(Some(holder)), InstanceState::Locked { engine: b, since: unix(1_000) }),
        (lock(None), InstanceState::Locked { engine: None, since: None }),
        (
            mark(false),
            InstanceState::HeldBack { engine: other.clone(), until: unix(5_000), error: "theirs".into() },
        ),
        (
            LockOutcome::Marked(unreadable()),
            InstanceState::HeldBack { engine: None, until: None, error: String::new() },
        ),
        (mark(true), InstanceState::GivenUp { engine: other, reason: "theirs".into() }),
    ] {
        let mut b = bench();
        b.decide(1, true, &[5, 0], &[]).locked(1, outcome);
        assert_eq!(b.seen(1), Some(expected));
        b.released(if matches!(b.state(1), Some(State::GivenUp(_))) { "mark" } else { "lock" }, 20);
        b.released("mark", 20);
        let waits = b.work.status(instance(1), b.now).map(|look| look.state.kind());
        assert_eq!(waits, Some(StateKind::Waiting), "nothing is left of who had it");
        assert!(b.work.record(instance(1)).is_some_and(|record| record.state.remote().is_none()));
    }
}

#[test]
fn a_give_up_of_its_own_has_its_reason() {
    let mut b = bench();
    b.runs();
    b.ends(CallbackEnd::of(FiringOutcome::GaveUp("no use".into())), true);
    let expected = InstanceState::GivenUp { engine: None, reason: "no use".into() };
    assert_eq!(b.seen(1), Some(expected));
}
