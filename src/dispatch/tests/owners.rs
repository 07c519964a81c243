//! Who tries an instance, and when another engine does.

mod helping;

use super::super::messages::CallbackEnd;
use super::super::work_queue::FleetSettings;
use super::*;
use crate::change::Change;
use crate::firing::FiringOutcome;
use crate::fleet::load::LoadClass;
use crate::fleet::member::{Abilities, MemberId, MemberLoad, Unable};
use crate::fleet::view::{FleetView, MemberKey};
use std::collections::HashSet;

const ME: MemberId = MemberId::new(1);
const OTHER: MemberId = MemberId::new(2);
const THIRD: MemberId = MemberId::new(3);
const TTL: Duration = Duration::from_secs(10);
const INTERVAL: Duration = Duration::from_secs(300);
const PREFIX: &str = "members/";

/// Instances of which each of three members owns some.
fn ids() -> std::ops::Range<u32> {
    1..60
}

/// A rule of which any number may fire at once.
fn wide() -> Rule {
    rule("r").concurrency(10_000)
}

fn put(view: &mut FleetView, key: String, value: Vec<u8>) {
    view.apply(
        PREFIX,
        Change::Put { key: key.into_bytes(), value: value.into(), revision: Revision::new(1) },
    );
}

fn abilities() -> Abilities {
    Abilities::of("other".into(), &[compiled(wide())])
}

fn join(view: &mut FleetView, member: MemberId, abilities: &Abilities) {
    put(view, MemberKey::Able.of(PREFIX, member), serde_json::to_vec(abilities).unwrap());
}

/// All of them say that they see this.
fn confirm(view: &mut FleetView) {
    let load = MemberLoad { class: LoadClass::Free, view: view.digest(), ..MemberLoad::default() };
    let members: Vec<MemberId> = view.members().map(|(member, _)| member).collect();
    for member in members {
        put(view, MemberKey::Busyness.of(PREFIX, member), serde_json::to_vec(&load).unwrap());
    }
}

fn view(members: &[MemberId]) -> FleetView {
    let mut view = FleetView::default();
    members.iter().for_each(|member| join(&mut view, *member, &abilities()));
    confirm(&mut view);
    view
}

/// A bench that sees these members, and has for long.
fn bench(members: &[MemberId]) -> Bench {
    let mut b = Bench::new([wide()], 1000);
    b.work.share(FleetSettings { me: ME, interval: INTERVAL });
    b.see(view(members));
    b.advance(TTL);
    b
}

impl Bench {
    fn see(&mut self, view: FleetView) -> &mut Self {
        self.turn(|work, now, _| work.members(view, now))
    }

    /// Instances become true.
    fn decide_all(&mut self) -> &mut Self {
        for id in ids() {
            self.decide(id, true, &[5, 0], &[touch(0, 5)]);
        }
        self
    }

    fn takes(&self) -> Vec<u32> {
        ids().filter(|id| self.state(*id) == Some(LOCKING)).collect()
    }

    fn checking(&self) -> Vec<u32> {
        ids().filter(|id| matches!(self.state(*id), Some(State::Checking(_)))).collect()
    }

    /// Those that are left to this engine.
    fn left_to(&self, member: MemberId) -> Vec<u32> {
        let left = |state| matches!(state, Some(State::Yielded { owner, .. }) if owner == member);
        ids().filter(|id| left(self.state(*id))).collect()
    }

    fn looks(&mut self) -> usize {
        self.wanted().iter().filter(|action| matches!(action, Action::ReadLocks)).count()
    }
}

#[test]
fn alone_and_without_advice_everything_is_its_own() {
    for view in [None, Some(view(&[])), Some(view(&[ME]))] {
        let mut b = Bench::new([wide()], 1000);
        b.work.share(FleetSettings { me: ME, interval: INTERVAL });
        if let Some(view) = view {
            b.see(view);
        }
        assert_eq!(b.decide_all().takes().len(), ids().len());
    }
}

#[test]
fn what_others_own_takes_no_slot_and_falls_to_who_is_left() {
    let mut b = bench(&[ME, OTHER, THIRD]);
    b.decide_all();
    let (mine, theirs, third) = (b.takes(), b.left_to(OTHER), b.left_to(THIRD));
    assert_eq!(mine.len() + theirs.len() + third.len(), ids().len());
    assert!(!mine.is_empty() && !theirs.is_empty() && !third.is_empty());
    assert_eq!((b.work.running(), b.work.placed()), (mine.len(), theirs.len() + third.len()));
    b.see(view(&[ME, THIRD])).advance(Duration::ZERO);
    assert!(b.left_to(OTHER).is_empty());
    let inherited = b.checking();
    assert!(!inherited.is_empty() && inherited.iter().all(|id| theirs.contains(id)), "live work, at once");
    assert!(third.iter().all(|id| b.left_to(THIRD).contains(id)), "nothing else moves");
    b.see(view(&[ME])).advance(Duration::ZERO);
    assert_eq!((b.work.running(), b.work.placed()), (ids().len(), 0));
}

#[test]
fn one_that_can_no_longer_do_it_is_as_good_as_gone() {
    type Change = fn(&mut Abilities);
    let changes: [Change; 6] = [
        |abilities| abilities.draining = true,
        |abilities| abilities.lagging = true,
        |abilities| abilities.rules.clear(),
        |abilities| abilities.rules.values_mut().for_each(|rule| rule.unable = Some(Unable::Paused)),
        |abilities| abilities.rules.values_mut().for_each(|rule| rule.unable = Some(Unable::Throttled)),
        |abilities| drop(abilities.values.insert("id".into(), vec!["1".into()])),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let mut b = bench(&[ME, OTHER]);
        b.decide_all();
        assert!(b.left_to(OTHER).len() > 1);
        let mut theirs = abilities();
        change(&mut theirs);
        let mut now = view(&[ME]);
        join(&mut now, OTHER, &theirs);
        b.see(now).advance(Duration::ZERO);
        let left = b.left_to(OTHER);
        assert!(left.is_empty() || left == [1], "change {number}: {left:?}");
    }
}

#[test]
fn if_nobody_is_able_everything_is_its_own() {
    let mut paused = abilities();
    paused.rules.values_mut().for_each(|rule| rule.unable = Some(Unable::Paused));
    let mut all = FleetView::default();
    [ME, OTHER].iter().for_each(|member| join(&mut all, *member, &paused));
    let mut b = bench(&[]);
    b.see(all).advance(TTL);
    assert_eq!(b.decide_all().takes().len(), ids().len());
}

#[test]
fn after_a_join_it_still_tries_for_a_moment_what_it_owned() {
    let mut b = bench(&[ME]);
    b.see(view(&[ME, OTHER]));
    assert_eq!(b.decide_all().takes().len(), ids().len());
    let mut b = bench(&[ME]);
    b.see(view(&[ME, OTHER])).advance(Duration::from_secs(2));
    assert!(b.decide_all().takes().len() < ids().len());
}

#[test]
fn what_it_takes_from_one_that_goes_on_is_crawl_work_spread_over_an_interval() {
    let mut b = bench(&[OTHER]);
    b.decide_all();
    assert_eq!(b.left_to(OTHER).len(), ids().len());
    b.see(view(&[ME, OTHER])).advance(Duration::ZERO);
    assert_eq!(b.work.running(), 0);
    let until = |b: &Bench, id| match b.state(id) {
        Some(State::Yielded { until, .. }) => until,
        state => panic!("{state:?}"),
    };
    let mine: Vec<u32> = ids().filter(|id| until(&b, *id).is_some()).collect();
    assert!(mine.len() > ids().len() / 4);
    let times: Vec<Instant> = mine.iter().filter_map(|id| until(&b, *id)).collect();
    let (first, last) = (times.iter().min().unwrap(), times.iter().max().unwrap());
    assert!(*last <= b.now + INTERVAL && last.duration_since(*first) > INTERVAL / 2);
    // A change is live work.
    b.decide(mine[0], true, &[6, 0], &[touch(0, 6)]);
    assert!(matches!(b.state(mine[0]), Some(State::Checking(_) | LOCKING)));
    // And so is what its former owner leaves.
    b.see(view(&[ME])).advance(Duration::ZERO);
    assert_eq!(b.work.running(), ids().len());
    let mut b = bench(&[OTHER]);
    b.decide_all().see(view(&[ME, OTHER])).advance(Duration::ZERO).advance(INTERVAL);
    assert_eq!(b.work.running(), mine.len());
}

#[test]
fn what_it_has_dealt_with_falls_to_its_owner_at_the_next_crawl() {
    let mut b = bench(&[ME]);
    b.decide_all();
    for id in ids() {
        b.locked(id, won());
        let now = b.now;
        b.work.finished(instance(id), &CallbackEnd::of(FiringOutcome::Done), now);
        let closed = committed(10, &[], false);
        b.turn(|work, now, out| work.closed(instance(id), &closed, now, out));
        b.answer(id, true, &[5, 0]);
    }
    b.see(view(&[ME, OTHER])).advance(TTL);
    assert!(ids().all(|id| b.state(id) == Some(State::Idle)), "a join fires nothing");
    for id in ids() {
        b.crawl(id, &[5, 0]);
    }
    let left = b.left_to(OTHER).len();
    assert!(left > 0 && left < ids().len() && left + b.checking().len() == ids().len());
}

#[test]
fn it_fires_what_another_owns_if_somebody_asks_for_that() {
    let mut b = bench(&[ME, OTHER]);
    b.decide_all();
    let id = b.left_to(OTHER)[0];
    b.turn(|work, now, out| assert!(work.fire_now(instance(id), now, out)));
    b.answer(id, true, &[5, 0]);
    assert_eq!(b.state(id), Some(LOCKING));
    b.locked(id, held_by_lock("k", 9)).released("k", 10).advance(ms(100));
    assert!(matches!(b.state(id), Some(State::Checking(_))), "it has begun with it");
    b.answer(id, true, &[5, 0]).locked(id, held_by_lock("k", 11)).crawl(id, &[5, 0]);
    assert!(b.left_to(OTHER).contains(&id), "only once");
}

#[test]
fn what_it_has_begun_with_it_goes_on_with() {
    let delay = Duration::from_secs(40);
    let ends: [(CallbackEnd, Duration); 2] = [
        (CallbackEnd::of(FiringOutcome::RetryAfter(delay)), delay),
        (CallbackEnd::of(FiringOutcome::Failed("no".into())), ms(120)),
    ];
    for (finish, delay) in ends {
        let mut b = bench(&[ME]);
        b.decide_all();
        for id in ids() {
            b.locked(id, won());
            let now = b.now;
            b.work.finished(instance(id), &finish, now);
            let closed = committed(10, &[], true);
            b.turn(|work, now, out| work.closed(instance(id), &closed, now, out));
            b.answer(id, true, &[5, 0]);
        }
        b.see(view(&[ME, OTHER])).advance(Duration::from_secs(3)).advance(delay);
        assert_eq!(b.checking().len(), ids().len(), "{finish:?}: its new owner takes it to be seen to");
    }
}

#[test]
fn what_became_due_just_before_it_knew_that_it_is_the_owner_is_live_work() {
    let joined = || {
        let mut b = bench(&[OTHER]);
        b.turn(|work, now, _| work.snapshot_decided(now)).decide_all();
        b
    };
    let mut b = joined();
    b.advance(Duration::from_secs(14)).see(view(&[ME, OTHER])).advance(Duration::ZERO);
    let mine = b.checking();
    assert!(mine.len() > ids().len() / 4);
    assert_eq!(mine.len() + b.left_to(OTHER).len(), ids().len());
    // The other one has long seen to it.
    let mut b = joined();
    b.advance(Duration::from_secs(15));
    // But not to what has been changed since.
    b.decide(mine[0], true, &[6, 0], &[touch(0, 6)]);
    assert_eq!(b.left_to(OTHER).len(), ids().len());
    b.see(view(&[ME, OTHER])).advance(Duration::ZERO);
    assert_eq!(b.checking(), mine[..1]);
    // Unless it has seen other members since then.
    let mut b = joined();
    b.turn(|work, now, _| work.members_unknown(now)).decide(mine[0], true, &[6, 0], &[touch(0, 6)]);
    b.advance(Duration::from_secs(25)).see(view(&[ME, OTHER])).advance(Duration::ZERO);
    assert!(b.checking().contains(&mine[0]));
}

/// A view of which the other engine says that it sees another one.
fn contradicted() -> FleetView {
    let mut contradicted = view(&[ME, OTHER]);
    let load = MemberLoad { class: LoadClass::Free, view: "another".into(), ..MemberLoad::default() };
    put(&mut contradicted, MemberKey::Busyness.of(PREFIX, OTHER), serde_json::to_vec(&load).unwrap());
    contradicted
}

#[test]
fn what_an_owner_does_not_see_to_is_tried_within_seven_ttls() {
    let mut b = bench(&[ME, OTHER]);
    b.see(contradicted()).advance(TTL);
    b.decide_all();
    let left = b.left_to(OTHER);
    let locked = left[0];
    let key = |id: u32| {
        let mut key = String::new();
        compiled(wide()).write_lock_key("", &binding(&id.to_string()), &mut key);
        key
    };
    let began = b.now;
    let mut looks = 0;
    while b.now < began + 7 * TTL {
        b.advance(TTL / 4);
        for _ in 0..b.looks() {
            looks += 1;
            let found = HashSet::from([key(locked)]);
            b.turn(|work, now, out| work.looked(Some(found), now, out));
        }
        assert!(looks > 1 || b.checking().is_empty(), "it looks twice before it tries");
    }
    assert_eq!(b.checking(), left[1..], "but not what has a lock");
    assert!(looks <= 3, "{looks} looks");
}

#[test]
fn while_owners_see_the_same_nobody_looks_at_locks() {
    let mut b = bench(&[ME, OTHER]);
    b.decide_all();
    for _ in 0..40 {
        b.advance(TTL);
    }
    assert_eq!((b.looks(), b.checking().len()), (0, 0));
    // Nothing is heard of them any more.
    b.turn(|work, now, _| work.members_unknown(now));
    for _ in 0..7 {
        b.advance(TTL);
        for _ in 0..b.looks() {
            b.turn(|work, now, out| work.looked(Some(HashSet::new()), now, out));
        }
    }
    assert!(b.left_to(OTHER).is_empty());
    assert_eq!(b.checking().len() + b.takes().len(), ids().len());
}

#[test]
fn an_engine_that_may_not_be_a_member_tries_everything() {
    let mut b = bench(&[ME, OTHER]);
    b.decide_all();
    b.turn(|work, now, _| work.no_members(now)).advance(Duration::ZERO);
    assert_eq!((b.work.running(), b.work.placed()), (ids().len(), 0));
}

#[test]
fn many_get_their_owners_anew_in_several_turns() {
    let mut b = Bench::new([wide()], 10_000);
    b.work.share(FleetSettings { me: ME, interval: INTERVAL });
    b.see(view(&[OTHER])).advance(TTL);
    for id in 0..1000 {
        b.decide(id, true, &[5, 0], &[touch(0, 5)]);
    }
    b.see(view(&[ME]));
    assert_eq!(b.work.running(), 0);
    let mut turns = 0;
    while b.work.deadline().is_some_and(|at| at <= b.now) {
        let before = b.work.running();
        b.advance(Duration::ZERO);
        assert!(b.work.running() - before <= 256);
        turns += 1;
    }
    assert_eq!((b.work.running(), turns), (1000, 4));
}

#[test]
fn one_that_is_false_or_gone_is_forgotten() {
    let mut b = bench(&[ME, OTHER]);
    b.decide_all();
    for id in ids() {
        b.decide(id, false, &[5, 6], &[touch(1, 6)]);
    }
    assert!(b.left_to(OTHER).is_empty());
    assert_eq!(b.work.placed(), 0);
}
