//! Help for an owner that is behind.

use super::*;

/// A view of these members of which one is behind, and has come up to a revision.
fn behind(members: &[MemberId], member: MemberId, from: i64) -> FleetView {
    let mut now = view(members);
    say_behind(&mut now, member, from);
    now
}

fn say_behind(view: &mut FleetView, member: MemberId, from: i64) {
    let backlog = [("r".into(), from)].into();
    let load = MemberLoad { class: LoadClass::Behind, view: view.digest(), backlog };
    put(view, MemberKey::Busyness.of(PREFIX, member), serde_json::to_vec(&load).unwrap());
}

/// What another engine owns becomes true, one after the other: what is later has the greater revision.
fn left_one_by_one(b: &mut Bench, members: &[MemberId], owner: MemberId) -> Vec<u32> {
    let left = bench(members).decide_all().left_to(owner);
    for (number, id) in left.iter().enumerate() {
        let at = 10 + number as i64;
        b.decide(*id, true, &[at, 0], &[touch(0, at)]).advance(ms(1));
    }
    left
}

#[test]
fn of_one_that_is_behind_the_youngest_are_taken_while_slots_are_free() {
    let mut b = Bench::new([wide()], 3);
    b.work.share(FleetSettings { me: ME, interval: INTERVAL });
    b.see(view(&[ME, OTHER])).advance(TTL);
    let left = left_one_by_one(&mut b, &[ME, OTHER], OTHER);
    assert!(left.len() > 10 && b.work.running() == 0);
    // The last five changed after what it has come to.
    let from = 10 + left.len() as i64 - 6;
    b.see(behind(&[ME, OTHER], OTHER, from)).advance(Duration::ZERO);
    let (rest, youngest) = left.split_at(left.len() - 3);
    assert_eq!(b.checking(), youngest);
    for id in youngest {
        b.answer(*id, true, &[5, 0]);
        b.locked(*id, won());
        let now = b.now;
        b.work.finished(instance(*id), &CallbackEnd::of(FiringOutcome::Done), now);
        let closed = committed(100, &[], false);
        b.turn(|work, now, out| work.closed(instance(*id), &closed, now, out));
        b.answer(*id, true, &[5, 0]);
    }
    b.advance(Duration::ZERO);
    assert_eq!(b.checking(), rest[rest.len() - 2..], "not what it may have dealt with");
    // It has dealt with all of them.
    b.see(view(&[ME, OTHER])).advance(Duration::from_secs(5));
    assert_eq!(b.left_to(OTHER), rest[..rest.len() - 2]);
}

#[test]
fn only_the_next_that_keeps_up_helps() {
    let members = [ME, OTHER, THIRD];
    let mut b = bench(&members);
    let left = left_one_by_one(&mut b, &members, OTHER);
    let mut now = behind(&members, OTHER, 1);
    b.see(now.clone()).advance(Duration::ZERO);
    let taken = b.checking().len();
    assert!(taken > 0 && taken < left.len(), "the third helps with the others");
    say_behind(&mut now, THIRD, 1_000_000);
    // Within a second it looks anew.
    b.see(now).advance(Duration::from_secs(1)).advance(Duration::ZERO);
    assert_eq!(b.checking().len(), left.len(), "the third is behind itself");
}

#[test]
fn nobody_helps_with_what_waits_for_a_shared_lock_or_rests() {
    for (rule, rests) in [(wide().lock("/lock/:id"), false), (wide(), true)] {
        let theirs = Abilities::of("other".into(), &[compiled(rule.clone())]);
        let mut now = FleetView::default();
        [ME, OTHER].iter().for_each(|member| join(&mut now, *member, &theirs));
        let mut b = Bench::new([rule], 1000);
        b.work.share(FleetSettings { me: ME, interval: INTERVAL });
        b.see(now.clone()).advance(TTL);
        if rests {
            b.control(0, |controls| controls.min_interval = Some(Duration::from_secs(1)));
        }
        b.decide_all();
        let left = b.left_to(OTHER);
        assert!(!left.is_empty());
        say_behind(&mut now, OTHER, 1);
        b.see(now).advance(Duration::from_secs(5));
        assert_eq!(b.left_to(OTHER), left);
    }
}

#[test]
fn an_optimistic_instance_that_was_helped_with_is_its_owners_again() {
    let rule = wide().optimistic();
    let mut now = FleetView::default();
    [ME, OTHER].iter().for_each(|member| {
        join(&mut now, *member, &Abilities::of("other".into(), &[compiled(rule.clone())]))
    });
    confirm(&mut now);
    let mut b = Bench::new([rule], 1000);
    b.work.share(FleetSettings { me: ME, interval: INTERVAL });
    b.see(now.clone()).advance(TTL);
    b.decide_all();
    let left = b.left_to(OTHER);
    let id = left[0];
    say_behind(&mut now, OTHER, 1);
    b.see(now.clone()).advance(Duration::ZERO);
    assert_eq!(b.checking(), left);
    confirm(&mut now);
    b.see(now).answer(id, true, &[5, 0]);
    assert_eq!(b.state(id), Some(State::Running));
    b.end(id, &CallbackEnd::of(FiringOutcome::Done), committed(100, &[], false));
    // What stays true after its firing waits for a while.
    b.answer(id, true, &[5, 0])
        .decide(id, true, &[200, 0], &[touch(0, 200)])
        .advance(Duration::from_secs(60));
    assert!(b.left_to(OTHER).contains(&id), "helped once: {:?}", b.state(id));
}

#[test]
fn what_is_put_back_into_the_queue_is_not_how_far_it_has_come() {
    let mut b = Bench::new([wide()], 1);
    b.work.share(FleetSettings { me: ME, interval: INTERVAL });
    b.decide(1, true, &[7, 0], &[touch(0, 7)]).locked(1, won());
    b.decide(2, true, &[8, 0], &[touch(0, 8)]).decide(3, true, &[9, 0], &[touch(0, 9)]);
    // The first fails, and is put back behind the others while the second gets the slot.
    b.end(1, &CallbackEnd::of(FiringOutcome::Failed("no".into())), committed(20, &[], true));
    b.answer(1, true, &[7, 0]).answer(2, true, &[8, 0]).locked(2, won());
    b.advance(Duration::from_secs(2));
    b.end(2, &CallbackEnd::of(FiringOutcome::Done), committed(30, &[], false));
    b.answer(2, true, &[8, 0]).answer(3, true, &[9, 0]).locked(3, won());
    b.advance(Duration::from_secs(2));
    let now = b.now;
    assert_eq!(b.work.backlog(now), [("r".into(), 9)].into(), "the first waits again, of revision 7");
}

#[test]
fn it_says_how_far_it_has_come_when_something_has_waited_for_a_second() {
    let mut b = Bench::new([wide()], 1);
    b.work.share(FleetSettings { me: ME, interval: INTERVAL });
    for (id, at) in [(1, 7), (2, 8), (3, 9)] {
        b.decide(id, true, &[at, 0], &[touch(0, at)]);
    }
    let now = b.now;
    assert!(b.work.backlog(now).is_empty());
    b.advance(Duration::from_secs(1));
    let now = b.now;
    assert_eq!(b.work.backlog(now), [("r".into(), 8)].into());
}
