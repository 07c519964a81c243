//! What a firing leaves behind: the exact meaning of "fires again", "slowed down" and "given up".

use super::super::record::{AfterFiring, EndTxn, OwnCommit, QueueAction, SeenMark, Wait};
use super::*;

const GIVEN: [i64; 2] = [5, 0];

/// A record whose callback runs, with the values at [`GIVEN`].
fn running(now: Instant) -> InstanceRecord {
    let mut record = record(now);
    record.give(&snapshot(&GIVEN));
    record.state = State::Running;
    record
}

/// Its commit took effect at revision 10 and changed these slots.
fn own(slots: &[u8]) -> OwnCommit {
    OwnCommit { revision: Revision::new(10), slots: slots.iter().map(|slot| Slot(*slot)).collect() }
}

/// What happens during a firing, in order.
enum Event {
    /// A decision: the touches it brings.
    Seen(Vec<Touch>),
    /// The answer to the commit, which changed these slots.
    Committed(Vec<u8>),
}
use Event::{Committed, Seen};

fn after(events: Vec<Event>, end: AfterFiring, settling: &[Touch], now: Instant) -> (State, QueueAction) {
    let mut record = running(now);
    for event in events {
        match event {
            Seen(touches) => assert_eq!(record.decided(true, &touches, false, BASE, now), QueueAction::Stay),
            Committed(slots) => record.committed(own(&slots)),
        }
    }
    let next = record.after_firing(end, true, settling, BASE, now);
    (record.state, next)
}

#[test]
fn only_somebody_elses_later_change_makes_it_fire_again() {
    let now = Instant::now();
    // Slot 0 held revision 5, slot 1 was absent; our commit has revision 10.
    for (name, events, settling, fires_again) in [
        ("nothing changed", vec![Committed(vec![])], vec![], false),
        (
            "the answer of its commit, then the event",
            vec![Committed(vec![0]), Seen(vec![touch(0, 10)])],
            vec![],
            false,
        ),
        (
            "the event of its commit, then the answer",
            vec![Seen(vec![touch(0, 10)]), Committed(vec![0])],
            vec![],
            false,
        ),
        ("the event of its commit while it settles", vec![Committed(vec![0])], vec![touch(0, 10)], false),
        (
            "the same event twice",
            vec![Seen(vec![touch(0, 10), touch(0, 10)]), Committed(vec![0]), Seen(vec![touch(0, 10)])],
            vec![],
            false,
        ),
        (
            "its commit changed both keys",
            vec![Seen(vec![touch(1, 10), touch(0, 10)]), Committed(vec![0, 1])],
            vec![],
            false,
        ),
        (
            "it deleted a key that was given",
            vec![Seen(vec![touch(0, 10)]), Committed(vec![0])],
            vec![touch(0, 10)],
            false,
        ),
        (
            "values as they were given arrive late",
            vec![Seen(vec![touch(0, 5)]), Committed(vec![])],
            vec![touch(0, 3)],
            false,
        ),
        (
            "a foreign change before its commit",
            vec![Seen(vec![touch(0, 7)]), Committed(vec![])],
            vec![],
            true,
        ),
        ("a foreign change while it settles", vec![Committed(vec![0])], vec![touch(1, 12)], true),
        (
            "a foreign change of a key that was absent",
            vec![Seen(vec![touch(1, 7)]), Committed(vec![0])],
            vec![],
            true,
        ),
        (
            "a change, then its commit, of one key",
            vec![Seen(vec![touch(0, 7), touch(0, 10)]), Committed(vec![0])],
            vec![],
            true,
        ),
        (
            "its commit, then a change, of one key",
            vec![Seen(vec![touch(0, 10)]), Seen(vec![touch(0, 11)]), Committed(vec![0])],
            vec![],
            true,
        ),
        (
            "a change, the answer, its event, of one key",
            vec![Seen(vec![touch(0, 7)]), Committed(vec![0]), Seen(vec![touch(0, 10)])],
            vec![],
            true,
        ),
        (
            "an old value and its commit, of one key",
            vec![Seen(vec![touch(0, 5), touch(0, 10)]), Committed(vec![0])],
            vec![],
            false,
        ),
        (
            "another key in the transaction's batch",
            vec![Seen(vec![touch(0, 10), touch(1, 10)]), Committed(vec![0])],
            vec![],
            true,
        ),
        (
            "it wrote beside its commit",
            vec![Seen(vec![touch(0, 8)]), Committed(vec![1])],
            vec![touch(1, 10)],
            true,
        ),
        ("its commit's revision is not known", vec![Seen(vec![touch(0, 10)])], vec![], true),
    ] {
        let (state, next) = after(events, AfterFiring::Done, &settling, now);
        let again = State::Waiting(now + BASE, Wait::Ineffective);
        let expected = if fires_again {
            (again, QueueAction::WakeAt(now + BASE))
        } else {
            (State::Idle, QueueAction::Stay)
        };
        assert_eq!((state, next), expected, "{name}");
    }
}

#[test]
fn a_commit_of_many_keys_is_its_own_as_a_whole() {
    let now = Instant::now();
    let mut record = record(now);
    record.give(&snapshot(&[5; 100]));
    record.state = State::Running;
    let touches: Vec<Touch> = (0..100).map(|slot| touch(slot, 10)).collect();
    record.decided(true, &touches, false, BASE, now);
    record.committed(OwnCommit { revision: Revision::new(10), slots: (0..100).map(Slot).collect() });
    assert_eq!(record.after_firing(AfterFiring::Done, true, &[], BASE, now), QueueAction::Stay);
    assert_eq!(record.state, State::Idle);
}

#[test]
fn what_changed_before_the_values_were_taken_is_no_change() {
    let now = Instant::now();
    let mut record = running(now);
    record.state = State::Checking(QuestionId::new(1));
    record.decided(true, &[touch(0, 8), touch(0, 9)], false, BASE, now);
    record.give(&snapshot(&[9, 0]));
    assert_eq!(record.after_firing(AfterFiring::Done, true, &[], BASE, now), QueueAction::Stay);
    assert_eq!(record.state, State::Idle);
}

#[test]
fn every_end_leads_on() {
    let now = Instant::now();
    let waiting = |delay, why| (State::Waiting(now + delay, why), QueueAction::WakeAt(now + delay));
    let long = Duration::from_secs(7);
    for (name, end, foreign, expected) in [
        ("done", AfterFiring::Done, false, (State::Idle, QueueAction::Stay)),
        ("done, and a change", AfterFiring::Done, true, waiting(BASE, Wait::Ineffective)),
        ("retry later", AfterFiring::RetryAfter(long), false, waiting(long, Wait::RetryAfter)),
        ("retry later, and a change", AfterFiring::RetryAfter(long), true, waiting(BASE, Wait::Ineffective)),
        (
            "retry soon, and a change",
            AfterFiring::RetryAfter(ms(30)),
            true,
            waiting(ms(30), Wait::Ineffective),
        ),
        (
            "retry never",
            AfterFiring::RetryAfter(Duration::MAX),
            false,
            waiting(crate::time::LONGEST, Wait::RetryAfter),
        ),
        ("given up", AfterFiring::GaveUp, false, (State::GivenUp(None), QueueAction::Stay)),
        ("given up, and a change", AfterFiring::GaveUp, true, waiting(BASE, Wait::Backoff)),
        ("failed", AfterFiring::Failed(long), false, waiting(long, Wait::Backoff)),
        ("failed, and a change", AfterFiring::Failed(long), true, waiting(BASE, Wait::Backoff)),
        (
            "failed, a change, and the delay is short",
            AfterFiring::Failed(ms(80)),
            true,
            waiting(ms(80), Wait::Backoff),
        ),
        ("interrupted", AfterFiring::Interrupted, false, waiting(BASE, Wait::Trouble)),
        ("interrupted, and a change", AfterFiring::Interrupted, true, waiting(BASE, Wait::Trouble)),
    ] {
        let touches: &[Touch] = if foreign { &[touch(1, 12)] } else { &[] };
        assert_eq!(after(vec![], end, touches, now), expected, "{name}");
        // False: forgotten, however it ended; attempts start anew.
        let mut record = running(now);
        record.mark = Some(SeenMark { revision: Revision::new(10), mine: true, outdated: false });
        assert_eq!(record.after_firing(end, false, touches, BASE, now), QueueAction::Drop, "{name}, false");
    }
}

#[test]
fn an_instance_that_no_key_implies_ends_when_it_is_dealt_with() {
    let now = Instant::now();
    for (name, end, foreign, dropped) in [
        ("done", AfterFiring::Done, false, true),
        ("given up", AfterFiring::GaveUp, false, true),
        ("done, but a key changed", AfterFiring::Done, true, false),
        ("given up, but a key changed", AfterFiring::GaveUp, true, false),
        ("to be run again", AfterFiring::RetryAfter(ms(10)), false, false),
        ("failed", AfterFiring::Failed(ms(10)), false, false),
        ("interrupted", AfterFiring::Interrupted, false, false),
    ] {
        let mut record = running(now);
        record.orphaned = true;
        let touches: &[Touch] = if foreign { &[touch(1, 12)] } else { &[] };
        assert_eq!(
            record.after_firing(end, true, touches, BASE, now) == QueueAction::Drop,
            dropped,
            "{name}"
        );
    }
}

/// Fires once more at `now`, and is done although it is still true; `foreign`: and a key changed.
fn fire(record: &mut InstanceRecord, end: AfterFiring, foreign: bool, now: Instant) -> QueueAction {
    record.give(&snapshot(&GIVEN));
    let touches: &[Touch] = if foreign { &[touch(0, 12)] } else { &[] };
    record.after_firing(end, true, touches, BASE, now)
}

#[test]
fn what_stays_true_is_slowed_down_more_and_more() {
    for end in [AfterFiring::Done, AfterFiring::RetryAfter(Duration::from_secs(60))] {
        let mut now = Instant::now();
        let mut record = running(now);
        for expected in [100, 200, 400, 800, 1600, 3200, 5000, 5000] {
            let next = fire(&mut record, end, true, now);
            assert_eq!(next, QueueAction::WakeAt(now + ms(expected)), "{end:?}");
            now += ms(expected);
            assert_eq!(record.due(now), QueueAction::Enqueue(WorkClass::Live));
        }
        assert_eq!(record.ineffective, 8, "{end:?}");
    }
}

#[test]
fn a_change_after_a_long_time_fires_at_once_and_the_slowing_starts_anew() {
    let now = Instant::now();
    let mut record = running(now);
    for _ in 0..3 {
        fire(&mut record, AfterFiring::Done, false, now);
    }
    // Slowed down to one in 400 ms by now.
    for (name, wait, expected, ineffective) in [
        ("at once", 0, QueueAction::WakeAt(now + ms(400)), 3),
        ("a little later", 399, QueueAction::WakeAt(now + ms(400)), 3),
        ("when its time has come", 400, QueueAction::Enqueue(WorkClass::Live), 3),
        ("after twice the time", 800, QueueAction::Enqueue(WorkClass::Live), 3),
        ("after more than twice the time", 801, QueueAction::Enqueue(WorkClass::Live), 0),
    ] {
        let mut record = running(now);
        for _ in 0..3 {
            fire(&mut record, AfterFiring::Done, false, now);
        }
        assert_eq!(record.decided(true, &[touch(0, 12)], false, BASE, now + ms(wait)), expected, "{name}");
        assert_eq!(record.ineffective, ineffective, "{name}");
    }
}

#[test]
fn a_change_during_retry_after_is_slowed_down_only_if_it_comes_again_and_again() {
    let mut now = Instant::now();
    let mut record = running(now);
    let hour = Duration::from_secs(3600);
    for expected in [100, 200, 400] {
        fire(&mut record, AfterFiring::RetryAfter(hour), false, now);
        let next = record.decided(true, &[touch(0, 12)], false, BASE, now + ms(1));
        assert_eq!(next, QueueAction::WakeAt(now + ms(expected)));
        now += ms(expected);
        record.due(now);
    }
    fire(&mut record, AfterFiring::RetryAfter(ms(600)), false, now);
    assert_eq!(
        record.decided(true, &[touch(0, 12)], false, BASE, now),
        QueueAction::WakeAt(now + ms(600)),
        "never later than asked"
    );
    fire(&mut record, AfterFiring::RetryAfter(ms(600)), false, now);
    now += ms(600);
    record.due(now);
    assert_eq!(record.ineffective, 0, "it ran when it wanted to");
}

#[test]
fn a_crawl_fires_what_is_idle_again_but_not_more_often_than_a_change_would() {
    let now = Instant::now();
    let mut record = running(now);
    fire(&mut record, AfterFiring::Done, false, now);
    assert_eq!(record.decided(true, &[], true, BASE, now + ms(10)), QueueAction::WakeAt(now + BASE));
    assert_eq!(record.due(now + BASE), QueueAction::Enqueue(WorkClass::Live));
}

#[test]
fn trouble_waits_longer_each_time_up_to_a_limit() {
    let now = Instant::now();
    let mut record = running(now);
    for expected in [100, 200, 400, 800, 1600, 3200, 6400, 6400, 6400] {
        assert_eq!(record.trouble(BASE, now), QueueAction::WakeAt(now + ms(expected)));
    }
    let mut record = running(now);
    assert_eq!(record.trouble(Duration::MAX, now), QueueAction::WakeAt(now + crate::time::LONGEST));
}

#[test]
fn an_unfinished_firing_is_interrupted_whatever_it_returned() {
    let now = Instant::now();
    for outcome in [
        CommitOutcome::FenceLost,
        CommitOutcome::Unexpected { changes: Vec::new(), mark_gone: false },
        CommitOutcome::Refused("no".into()),
        CommitOutcome::Unknown,
        CommitOutcome::Failed("no answer".into()),
    ] {
        let mut record = running(now);
        record.state =
            State::Committing { end: AfterFiring::Done, tried: EndTxn::Unlock, answer: AnswerState::Awaited };
        let end = record.closed(&outcome);
        assert_eq!(end, AfterFiring::Interrupted, "{outcome:?}");
        assert_eq!(
            record.after_firing(end, true, &[], BASE, now),
            QueueAction::WakeAt(now + BASE),
            "{outcome:?}"
        );
        assert_eq!(record.state, State::Waiting(now + BASE, Wait::Trouble), "{outcome:?}");
    }
}
