//! What is held back.

use super::super::messages::{CallbackEnd, Closing};
use super::super::record::Wait;
use super::super::slot_queue::WorkClass;
use super::*;
use crate::compiled::{Controls, RateLimit};
use crate::firing::FiringOutcome;
use crate::inspect::{InstanceState, QueuedFor, WaitReason};
use crate::metrics::WorkqueueEvent;

const QUEUED: Option<State> = Some(State::Queued(WorkClass::Live));

impl Bench {
    pub(super) fn control(&mut self, lane: usize, change: impl FnOnce(&mut Controls)) -> &mut Self {
        self.turn(|work, now, out| {
            let lane = Lane::new(lane);
            let mut wanted = work.lane_statuses()[lane].controls;
            change(&mut wanted);
            work.set_controls(lane, wanted, now, out);
        })
    }

    fn pause(&mut self, lane: usize) -> &mut Self {
        self.control(lane, |controls| controls.paused = true)
    }

    fn resume(&mut self, lane: usize) -> &mut Self {
        self.control(lane, |controls| controls.paused = false)
    }

    fn decide_of(&mut self, rule: usize, id: u32) -> &mut Self {
        let decided = Decided {
            rule: RuleIndex::new(rule),
            ..decision(instance(id), true, &[5, 0], &[], DecisionReason::Change)
        };
        self.turn(|work, now, out| work.decided(decided, now, out))
    }

    /// Answers what was asked last.
    fn answer_of(&mut self, rule: usize, id: u32) -> &mut Self {
        let Some(State::Checking(number)) = self.state(id) else { panic!("{:?}", self.state(id)) };
        let decided = Decided {
            rule: RuleIndex::new(rule),
            ..decision(instance(id), true, &[5, 0], &[], DecisionReason::Ask(number))
        };
        self.turn(|work, now, out| work.decided(decided, now, out))
    }

    fn closed(&mut self, id: u32) -> &mut Self {
        let outcome = committed(9, &[], false);
        self.turn(|work, now, out| work.closed(instance(id), &outcome, now, out))
    }

    /// Which locks were asked for since the last call.
    fn locks(&mut self) -> Vec<u32> {
        let wanted = self.wanted().into_iter();
        wanted
            .filter_map(|a| if let Action::Lock { instance, .. } = a { Some(instance.index) } else { None })
            .collect()
    }
}

#[test]
fn nothing_of_a_paused_rule_starts_and_all_of_it_does_when_it_goes_on() {
    let mut b = Bench::new([rule("a"), rule("b")], 8);
    b.pause(0).decide_of(0, 1).decide_of(1, 2);
    assert_eq!((b.state(1), b.locks()), (QUEUED, vec![2]), "the other rule is not paused");
    let look = b.work.status(instance(1), b.now).map(|look| look.state);
    assert_eq!(look, Some(InstanceState::Queued(QueuedFor::Resume)));
    assert!(b.advance(Duration::from_secs(60)).wanted().is_empty(), "crawl work that has aged stays too");
    b.resume(0).answer(1, true, &[6, 0]);
    assert_eq!(b.locks(), [1]);
    assert!(!b.work.lane_statuses()[Lane::new(0)].controls.paused);
}

#[test]
fn what_runs_ends_as_it_would_and_what_fires_again_waits() {
    let mut b = Bench::new([rule("a")], 8);
    b.decide(1, true, &[5, 0], &[]).locked(1, won()).pause(0);
    assert_eq!(b.state(1), Some(State::Running));
    b.decide(1, true, &[7, 0], &[touch(0, 7)]);
    let closing = b.work.finished(instance(1), &CallbackEnd::of(FiringOutcome::Done), b.now);
    assert_eq!(closing, Closing::Commit(None), "with its effects");
    b.closed(1).answer(1, true, &[7, 0]).advance(Duration::from_secs(1));
    assert_eq!(b.state(1), QUEUED);
}

#[test]
fn a_look_before_the_lock_ends_in_the_queue() {
    let mut b = Bench::new([rule("a")], 1);
    b.decide(1, true, &[5, 0], &[]).decide(2, true, &[5, 0], &[]).locked(1, failed_to_lock());
    assert!(matches!(b.state(2), Some(State::Checking(_))));
    b.pause(0).locks();
    b.answer_of(0, 2);
    assert_eq!((b.state(2), b.locks(), b.work.running()), (QUEUED, vec![], 0));
}

#[test]
fn a_lock_that_is_won_after_the_pause_is_given_back_and_counts_for_nothing() {
    let mut b = Bench::new([rule("a")], 8);
    b.decide(1, true, &[5, 0], &[]);
    b.pause(0).wanted();
    b.locked(1, won());
    assert!(matches!(b.wanted()[..], [Action::Close(_, Closing::Unlock(None))]));
    b.closed(1).answer(1, true, &[5, 0]);
    assert_eq!((b.state(1), b.work.running()), (QUEUED, 0));
    assert_eq!(b.lane(0).fired, 0);
    let record = b.work.record(instance(1)).map(|record| (record.failures, record.troubles));
    assert_eq!(record, Some((0, 0)));
    b.resume(0).answer(1, true, &[5, 0]);
    assert_eq!(b.locks(), [1]);
}

#[test]
fn a_paused_rule_keeps_no_other_from_a_lock_that_they_share() {
    let share = |id: &str| rule(id).lock("/all");
    let mut b = Bench::new([share("a"), share("b")], 8);
    b.decide_of(0, 1).decide_of(0, 2).decide_of(1, 3).decide_of(0, 4);
    assert_eq!((b.locks(), b.state(2)), (vec![1], Some(State::Parked)));
    b.pause(0);
    assert_eq!((b.state(2), b.state(3), b.state(4)), (QUEUED, Some(State::Parked), QUEUED));
    b.locked(1, failed_to_lock());
    b.answer_of(1, 3);
    assert_eq!(b.locks(), [3], "though others waited before it");
    b.locked(3, failed_to_lock()).resume(0);
    b.answer_of(0, 2);
    assert_eq!((b.locks(), b.state(4)), (vec![2], Some(State::Parked)), "oldest first again");
}

#[test]
fn a_paused_rule_does_not_wait_for_another_engines_lock_in_the_name_of_others() {
    let share = |id: &str| rule(id).lock("/all");
    let held = || held_by_lock("/ns/lock/all", 10);
    for paused_first in [false, true] {
        let mut b = Bench::new([share("a"), share("b")], 8);
        b.decide_of(0, 1).decide_of(1, 2).decide_of(1, 3);
        if paused_first {
            b.pause(0).locked(1, held());
            // Nothing is known for those who have waited behind it within this engine.
            b.answer_of(1, 2).locked(2, held());
        } else {
            b.locked(1, held()).pause(0);
        }
        assert!(matches!((b.state(1), b.state(2)), (Some(State::Held(_)), Some(State::Held(_)))));
        assert_eq!(b.state(3), Some(State::Parked));
        b.locks();
        b.released("/ns/lock/all", 12).advance(ms(5)).answer_of(1, 2);
        assert_eq!((b.locks(), b.state(1)), (vec![2], QUEUED), "paused first: {paused_first}");
    }
}

#[test]
fn a_lock_handed_to_one_that_waits_for_a_slot_is_handed_on_by_a_pause() {
    let share = |id: &str| rule(id).lock("/all").concurrency(1);
    let mut b = Bench::new([share("a"), share("b"), rule("c")], 2);
    // Two slots: the first two share a lock, so that the second is parked; then others take all slots.
    b.decide_of(1, 1).decide_of(0, 2).decide_of(2, 3).decide_of(2, 4).decide_of(1, 5);
    assert_eq!((b.state(2), b.state(4)), (Some(State::Parked), QUEUED));
    b.turn(|work, now, out| {
        work.locked(instance(1), &failed_to_lock(), now, out);
        assert_eq!(work.idle_holders().collect::<Vec<_>>(), [instance(2)], "it has the lock and no slot");
        work.set_controls(LANE, Controls { paused: true, ..Controls::default() }, now, out);
        assert_eq!(work.idle_holders().count(), 0);
    });
    assert_eq!(b.state(2), QUEUED);
}

impl Bench {
    fn limit(&mut self, lane: usize, count: u32, per: u64) -> &mut Self {
        self.control(lane, |controls| controls.rate_limit = Some(RateLimit::new(count, ms(per))))
    }

    /// What the callback of a firing does not matter for: it ends, and its condition is false.
    fn done(&mut self, id: u32) -> &mut Self {
        self.work.finished(instance(id), &CallbackEnd::of(FiringOutcome::Done), self.now);
        self.closed(id).answer(id, false, &[5, 9])
    }
}

#[test]
fn of_a_limited_rule_so_many_start_and_the_others_when_their_time_comes() {
    let mut b = Bench::new([rule("a"), rule("b")], 8);
    b.limit(0, 2, 1000);
    b.decide_of(0, 0).decide_of(0, 1).decide_of(0, 2).decide_of(0, 3).decide_of(1, 9);
    assert_eq!(b.locks(), [0, 1, 9], "the other rule is not limited");
    let look = b.work.status(instance(2), b.now).map(|look| look.state);
    assert_eq!(look, Some(InstanceState::Queued(QueuedFor::Rate)));
    assert!(b.work.depths(b.now)[Lane::new(0)].throttled && !b.work.depths(b.now)[Lane::new(1)].throttled);
    b.locked(0, won()).locked(1, won());
    assert_eq!(b.work.deadline(), Some(b.now + ms(500)), "that is when it looks again");
    b.advance(ms(499)).done(0).done(1);
    assert_eq!((b.state(2), b.work.running()), (QUEUED, 1), "free slots alone are of no use");
    b.advance(ms(1)).answer(2, true, &[5, 0]);
    assert_eq!((b.locks(), b.state(3)), (vec![2], QUEUED));
    b.locked(2, won()).advance(ms(500)).answer(3, true, &[5, 0]);
    assert_eq!(b.locks(), [3]);
    b.locked(3, won()).done(2).done(3);
    assert!(!b.work.depths(b.now)[Lane::new(0)].throttled, "all of it is spent, but nothing waits");
}

#[test]
fn what_does_not_start_leaves_its_turn_to_the_next() {
    let held = |key: &str| held_by_lock(key, 9);
    let mut b = Bench::new([rule("a")], 8);
    b.limit(0, 1, 60_000).decide_of(0, 1).decide_of(0, 2).decide_of(0, 3).decide_of(0, 4);
    assert_eq!((b.locks(), b.state(2)), (vec![1], QUEUED));
    b.locked(1, held("one")).answer(2, true, &[5, 0]);
    assert_eq!((b.locks(), b.state(3)), (vec![2], QUEUED), "another engine does the first");
    b.locked(2, failed_to_lock());
    b.answer(3, false, &[0, 0]);
    assert!(matches!(b.state(4), Some(State::Checking(_))), "the third was not true any more");
    b.answer(4, true, &[5, 0]).pause(0).locked(4, won());
    b.closed(4).answer(4, true, &[5, 0]).resume(0).answer(4, true, &[5, 0]).locks();
    b.locked(4, won());
    assert_eq!(b.state(4), Some(State::Running), "a pause took its lock, and not its turn");
    b.decide_of(0, 5).advance(ms(59_000));
    assert_eq!(b.state(5), QUEUED, "now one has started");
}

#[test]
fn a_limit_may_be_changed_and_lifted() {
    let mut b = Bench::new([rule("a")], 8);
    b.limit(0, 1, 60_000).decide_of(0, 1).locked(1, won());
    b.decide_of(0, 2).decide_of(0, 3).decide_of(0, 4).decide_of(0, 5);
    assert_eq!((b.locks(), b.state(2)), (vec![1], QUEUED));
    b.limit(0, 2, 60_000).answer(2, true, &[5, 0]).answer(3, true, &[5, 0]);
    assert_eq!((b.locks(), b.state(4)), (vec![2, 3], QUEUED), "it counts anew");
    b.pause(0).resume(0);
    assert_eq!(b.state(4), QUEUED, "another control leaves it as it is");
    b.control(0, |controls| controls.rate_limit = None).answer(4, true, &[5, 0]).answer(5, true, &[5, 0]);
    assert_eq!(b.locks(), [4, 5]);
}

#[test]
fn what_waits_for_its_rate_keeps_no_other_from_a_lock_that_they_share() {
    let share = |id: &str| rule(id).lock("/all");
    let mut b = Bench::new([share("a"), share("b")], 8);
    // One of the first rule starts; then its others wait behind the second rule for their lock.
    b.limit(0, 2, 60_000).decide_of(0, 1).locked(1, won()).done(1);
    b.decide_of(1, 2).decide_of(0, 3).decide_of(0, 4).decide_of(1, 5);
    assert_eq!((b.locks(), b.state(3), b.state(4)), (vec![1, 2], Some(State::Parked), Some(State::Parked)));
    b.locked(2, won()).done(2).answer_of(0, 3);
    assert_eq!(b.locks(), [3]);
    b.locked(3, won()).done(3);
    assert_eq!(b.state(4), QUEUED, "it was its turn, but not its time");
    b.answer_of(1, 5);
    assert_eq!(b.locks(), [5]);
    b.locked(5, won()).advance(ms(30_000)).done(5).answer_of(0, 4);
    assert_eq!(b.locks(), [4]);
}

impl Bench {
    fn rest(&mut self, lane: usize, least: u64) -> &mut Self {
        self.control(lane, |controls| controls.min_interval = Some(ms(least)))
    }

    fn rests_for(&self, id: u32) -> Option<Duration> {
        match self.state(id) {
            Some(State::Waiting(until, Wait::Interval)) => Some(until - self.now),
            _ => None,
        }
    }
}

#[test]
fn an_instance_rests_between_two_firings_also_if_it_was_false_meanwhile() {
    let mut b = Bench::new([rule("a"), rule("b")], 8);
    b.rest(0, 1000).decide_of(0, 1).decide_of(0, 2).decide_of(1, 3);
    b.locked(1, won()).locked(3, won()).advance(ms(100)).done(1).done(3);
    assert_eq!(b.state(1), None);
    b.decide_of(0, 1).decide_of(1, 3);
    assert_eq!((b.rests_for(1), b.state(3)), (Some(ms(900)), Some(LOCKING)), "since it began");
    assert_eq!(b.state(2), Some(LOCKING), "others don't wait for it, and have not fired");
    let look = b.work.status(instance(1), b.now).map(|look| look.state);
    let reason = WaitReason::Interval;
    assert_eq!(look, Some(InstanceState::Waiting { reason, remaining: ms(900) }));
    let put_off =
        |b: &mut Bench| b.work.take_events().filter(|note| matches!(note, WorkqueueEvent::PutOff(_))).count();
    assert_eq!(put_off(&mut b), 0, "no retry");
    b.advance(ms(899)).decide(1, true, &[7, 0], &[touch(0, 7)]);
    assert_eq!(b.rests_for(1), Some(ms(1)), "a change is no reason to hurry");
    b.advance(ms(1));
    let due = b.work.record(instance(1)).map(|record| record.latency.due);
    assert_eq!(due, Some(b.now), "it was not due before: no latency");
    b.answer_of(0, 1);
    assert_eq!(b.state(1), Some(LOCKING));
}

#[test]
fn whatever_makes_it_due_again_waits_for_the_interval_and_a_longer_delay_goes_on() {
    let mut b = Bench::new([rule("a")], 8);
    b.rest(0, 1000).decide(1, true, &[5, 0], &[]).locked(1, won());
    b.work.finished(instance(1), &CallbackEnd::of(FiringOutcome::Failed("no".into())), b.now);
    b.closed(1).answer(1, true, &[5, 0]);
    assert!(matches!(b.state(1), Some(State::Waiting(_, Wait::Backoff))), "{:?}", b.state(1));
    b.advance(2 * BASE);
    assert_eq!(b.rests_for(1), Some(ms(800)), "the backoff is over, the interval is not");
    let put_off = b.work.take_events().filter(|note| matches!(note, WorkqueueEvent::PutOff(_))).count();
    assert_eq!(put_off, 1, "it is put off by the failure, and by nothing else");
    b.advance(ms(800)).answer(1, true, &[5, 0]).locked(1, won());
    b.work.finished(instance(1), &CallbackEnd::of(FiringOutcome::RetryAfter(ms(5000))), b.now);
    b.closed(1).answer(1, true, &[5, 0]).advance(ms(5000));
    assert!(matches!(b.state(1), Some(State::Checking(_))), "{:?}", b.state(1));
    // A lock that is not won is no firing.
    let held = held_by_lock("one", 9);
    b.answer(1, true, &[5, 0]).locked(1, held).released("one", 10).advance(ms(5));
    assert!(matches!(b.state(1), Some(State::Checking(_))), "{:?}", b.state(1));
}

#[test]
fn who_asks_for_a_firing_now_does_not_wait_for_the_interval() {
    let mut b = Bench::new([rule("a")], 8);
    b.rest(0, 60_000).decide(1, true, &[5, 0], &[]).locked(1, won()).done(1);
    b.decide(1, true, &[5, 0], &[]);
    assert_eq!(b.rests_for(1), Some(ms(60_000)));
    b.turn(|work, now, out| assert!(work.fire_now(instance(1), now, out)));
    let held = held_by_lock("one", 9);
    b.answer(1, true, &[5, 0]).locked(1, held).released("one", 10).advance(ms(5));
    b.answer(1, true, &[5, 0]).locked(1, won());
    assert_eq!(b.state(1), Some(State::Running), "not even if another engine comes in between");
    b.turn(|work, now, out| assert!(!work.fire_now(instance(1), now, out)));
    b.done(1).decide(1, true, &[5, 0], &[]);
    assert_eq!(b.rests_for(1), Some(ms(60_000)), "that was a firing too");
}

#[test]
fn what_is_queued_stays_so_if_the_interval_becomes_longer() {
    let mut b = Bench::new([rule("a")], 1);
    b.rest(0, 1000).decide(1, true, &[5, 0], &[]).locked(1, won()).done(1);
    b.advance(ms(1000)).decide(2, true, &[5, 0], &[]).crawl(1, &[5, 0]).rest(0, 60_000);
    assert_eq!(b.state(1), Some(State::Queued(WorkClass::Crawl)));
    b.decide(1, true, &[6, 0], &[touch(0, 6)]);
    assert_eq!(b.state(1), QUEUED);
}

#[test]
fn an_interval_may_be_changed_and_lifted_and_what_waits_for_it_knows() {
    let mut b = Bench::new([rule("a")], 8);
    b.rest(0, 60_000).decide(1, true, &[5, 0], &[]).locked(1, won()).done(1);
    b.decide(1, true, &[5, 0], &[]).rest(0, 1000);
    assert_eq!(b.rests_for(1), Some(ms(1000)));
    b.rest(0, 2000);
    assert_eq!(b.rests_for(1), Some(ms(2000)));
    b.pause(0).resume(0);
    assert_eq!(b.rests_for(1), Some(ms(2000)));
    b.control(0, |controls| controls.min_interval = None);
    assert!(matches!(b.state(1), Some(State::Checking(_))), "{:?}", b.state(1));
    assert_eq!(b.work.deadline(), None);
}

const WOULD: Option<State> = Some(State::WouldFire);

impl Bench {
    fn rehearse(&mut self, lane: usize, dry_run: bool) -> &mut Self {
        self.control(lane, |controls| controls.dry_run = dry_run)
    }

    fn would_have_fired(&self) -> u64 {
        self.lane(0).would_have_fired
    }
}

#[test]
fn in_a_dry_run_everything_but_lock_and_callback_is_done() {
    let mut b = Bench::new([rule("a"), rule("b").optimistic(), rule("c")], 8);
    b.rehearse(0, true).rehearse(1, true).work.observe(true);
    b.decide_of(0, 1).answer_of(0, 1).decide_of(1, 2).answer_of(1, 2).decide_of(2, 3);
    assert_eq!((b.state(1), b.state(2), b.state(3)), (WOULD, WOULD, Some(LOCKING)));
    assert_eq!(b.work.running(), 1, "they need no slot");
    assert_eq!((b.would_have_fired(), b.lane(0).fired, b.lane(1).fired), (1, 0, 0));
    let notified = b.actions.iter().filter(|action| {
        matches!(action, Action::Notify { rule, state: InstanceState::WouldFire, .. } if rule.index() < 2)
    });
    assert_eq!(notified.count(), 2);
    assert!(!b.actions.iter().any(|action| matches!(action, Action::Run { .. })));
    assert_eq!(b.locks(), [3]);
    let noted = b.work.take_events().filter(|note| *note == WorkqueueEvent::WouldHaveFired(LANE)).count();
    assert_eq!((noted, b.work.depths(b.now)[Lane::new(0)].dry_run), (1, true));
}

#[test]
fn what_would_fire_does_so_again_after_a_change_but_not_for_a_crawl_and_not_if_it_is_false() {
    let mut b = Bench::new([rule("a")], 8);
    b.rehearse(0, true).decide(1, true, &[5, 0], &[touch(0, 5)]).answer(1, true, &[5, 0]);
    b.crawl(1, &[5, 0]).decide(1, true, &[5, 0], &[touch(0, 5)]);
    b.turn(|work, now, out| assert!(!work.fire_now(instance(1), now, out)));
    assert_eq!((b.state(1), b.would_have_fired()), (WOULD, 1));
    b.decide(1, true, &[7, 0], &[touch(0, 7)]).answer(1, true, &[7, 0]);
    assert_eq!((b.state(1), b.would_have_fired()), (WOULD, 2));
    b.decide(1, false, &[7, 8], &[touch(1, 8)]);
    assert_eq!((b.state(1), b.would_have_fired()), (None, 2));
    b.decide(2, true, &[5, 0], &[]).answer(2, false, &[0, 0]);
    assert_eq!((b.state(2), b.would_have_fired()), (None, 2), "it was not true any more");
}

#[test]
fn when_a_dry_run_ends_what_would_have_fired_does() {
    let mut b = Bench::new([rule("a"), rule("b")], 8);
    b.rest(0, 60_000).rehearse(0, true).rehearse(1, true);
    b.decide_of(0, 1).answer_of(0, 1).decide_of(0, 2).answer_of(0, 2).decide_of(1, 3).answer_of(1, 3);
    b.rehearse(0, false).answer_of(0, 1).answer_of(0, 2);
    assert_eq!((b.locks(), b.state(3)), (vec![1, 2], WOULD));
    b.locked(1, won());
    assert_eq!((b.state(1), b.lane(0).fired), (Some(State::Running), 1));
}

#[test]
fn a_lock_that_is_won_after_a_dry_run_began_is_given_back_and_what_runs_ends_as_it_would() {
    let mut b = Bench::new([rule("a")], 8);
    b.decide(1, true, &[5, 0], &[]).decide(2, true, &[5, 0], &[]).locked(2, won());
    b.rehearse(0, true).wanted();
    b.locked(1, won());
    assert!(matches!(b.wanted()[..], [Action::Close(_, Closing::Unlock(None))]));
    b.closed(1).answer(1, true, &[5, 0]).answer(1, true, &[5, 0]);
    assert_eq!((b.state(1), b.would_have_fired(), b.lane(0).fired), (WOULD, 1, 1));
    let closing = b.work.finished(instance(2), &CallbackEnd::of(FiringOutcome::Done), b.now);
    assert_eq!(closing, Closing::Commit(None), "with its effects");
    b.closed(2).answer(2, true, &[5, 0]);
    assert_eq!(b.state(2), Some(State::Idle));
}

#[test]
fn a_dry_run_keeps_to_limits_and_keeps_no_lock_from_others() {
    let share = |id: &str| rule(id).lock("/all");
    let mut b = Bench::new([share("a"), share("b")], 8);
    b.limit(0, 1, 60_000).rest(0, 90_000).rehearse(0, true);
    b.decide_of(0, 1).answer_of(0, 1).decide_of(0, 2).decide_of(1, 3);
    assert_eq!((b.state(1), b.state(2), b.locks()), (WOULD, QUEUED, vec![3]));
    b.locked(3, won()).done(3).advance(ms(60_000)).answer_of(0, 2);
    assert_eq!((b.state(2), b.would_have_fired()), (WOULD, 2));
    b.decide(1, true, &[7, 0], &[touch(0, 7)]);
    assert_eq!(b.rests_for(1), Some(ms(30_000)), "as if it had fired");
}

#[test]
fn what_had_failed_does_not_count_as_failing_while_nothing_is_tried() {
    let mut b = Bench::new([rule("a")], 8);
    b.decide(1, true, &[5, 0], &[]).locked(1, won());
    b.work.finished(instance(1), &CallbackEnd::of(FiringOutcome::Failed("no".into())), b.now);
    b.closed(1).answer(1, true, &[5, 0]);
    assert_eq!(b.work.depths(b.now)[Lane::new(0)].failing, 1);
    b.rehearse(0, true).advance(2 * BASE).answer(1, true, &[5, 0]);
    assert_eq!((b.state(1), b.work.depths(b.now)[Lane::new(0)].failing), (WOULD, 0));
}
