//! Leases are joined by whatever fits, and a model of etcd and of thousands of polls shows how evenly they end.

mod model;

use super::*;
use model::Polls;

const SEVEN: LeaseId = LeaseId::new(7);

/// A lease of so many seconds that was opened for a key with this TTL, and granted.
fn granted(leases: &mut SharedLeases, ttl: Duration, now: Instant, id: i64) -> NewLease {
    let Some(LeasePlace::Opens(new)) = leases.place(ttl, now) else { panic!("no lease fits yet") };
    let ttl = Duration::from_secs(new.seconds);
    leases.granted(new.number, Grant { id: LeaseId::new(id), ttl, sent: now });
    new
}

fn joined(leases: &mut SharedLeases, ttl: Duration, now: Instant) -> Option<LeaseId> {
    match leases.place(ttl, now)? {
        LeasePlace::Joined(ticket) => {
            assert!(now < ticket.send_before);
            Some(ticket.lease)
        }
        LeasePlace::Awaits(_) | LeasePlace::Opens(_) => None,
    }
}

#[test]
fn keys_join_a_lease_that_ends_in_their_window_whatever_it_was_granted_for() {
    let now = Instant::now();
    let half = SECOND / 2;
    for (ttl, sent, joins, why) in [
        (5 * SECOND, half, true, "the same TTL"),
        (5 * SECOND, SECOND, false, "it would expire early"),
        (5 * SECOND + half, half / 2, true, "a longer TTL that still fits"),
        (4 * SECOND, half, false, "more than a second later than its TTL"),
        (4 * SECOND, SECOND + half, true, "a shorter TTL, sent later"),
        (3 * SECOND, 2 * SECOND + half, true, "an even shorter one, sent even later"),
        (50 * SECOND, half, false, "a much longer one"),
    ] {
        let mut leases = SharedLeases::new(Sharing::DATA, now);
        assert_eq!(granted(&mut leases, 5 * SECOND, now, 7).seconds, 6);
        assert_eq!(joined(&mut leases, ttl, now + sent), joins.then_some(SEVEN), "{why}");
    }
}

#[test]
fn the_promise_is_kept_for_every_ttl_and_every_moment() {
    let start = Instant::now();
    for millis in (100..20_000).step_by(37) {
        let ttl = Duration::from_millis(millis);
        let mut leases = SharedLeases::new(Sharing::DATA, start);
        let new = granted(&mut leases, ttl, start, 7);
        let lives = Duration::from_secs(new.seconds);
        assert!(lives >= ttl + SLACK.min(Duration::from_secs(1)), "{ttl:?}: {lives:?}");
        assert!(lives <= ttl + window(ttl) + SLACK, "{ttl:?}: {lives:?}");
        for wait in (0..5000).step_by(49) {
            let now = start + Duration::from_millis(wait);
            if joined(&mut leases, ttl, now).is_some() {
                assert!(start + lives >= now + ttl, "{ttl:?} after {wait} ms: early");
                assert!(start + lives <= now + ttl + window(ttl) + SLACK, "{ttl:?} after {wait} ms: late");
            }
        }
    }
}

#[test]
fn the_mark_of_an_engine_that_is_gone_ends_within_a_lock_ttl_after_its_delay() {
    let start = Instant::now();
    for lock_ttl in [3, 4, 5, 10, 60].map(|seconds| seconds * SECOND) {
        for millis in (100..400_000).step_by(377) {
            let delay = Duration::from_millis(millis);
            let mut leases = SharedLeases::new(Sharing::DATA, start);
            let life = KeyLife::of_mark(delay, lock_ttl);
            let Some(LeasePlace::Opens(new)) = leases.place(life, start) else { panic!("no lease fits yet") };
            let lives = Duration::from_secs(new.seconds);
            leases.granted(new.number, Grant { id: SEVEN, ttl: lives, sent: start });
            let least = delay + lock_ttl.min(8 * SECOND) / 4;
            assert!(lives > least, "{delay:?}, {lock_ttl:?}: this engine is to go first, {lives:?}");
            assert!(lives + TICK < delay + lock_ttl, "{delay:?}, {lock_ttl:?}: late, {lives:?}");
            for wait in (0..10_000).step_by(493) {
                let now = start + Duration::from_millis(wait);
                if let Some(LeasePlace::Joined(_)) = leases.place(life, now) {
                    assert!(start + lives > now + least, "{delay:?} after {wait} ms: early");
                    assert!(start + lives + TICK < now + delay + lock_ttl, "{delay:?} after {wait} ms: late");
                }
            }
        }
    }
}

#[test]
fn a_lease_has_a_limited_number_of_keys() {
    let now = Instant::now();
    for (sharing, most) in [(Sharing::POLLS, 64), (Sharing::DATA, 1000)] {
        let mut leases = SharedLeases::new(sharing, now);
        granted(&mut leases, 5 * SECOND, now, 7);
        let joined = std::iter::from_fn(|| joined(&mut leases, 5 * SECOND, now)).count();
        assert_eq!(joined, most - 1);
    }
}

#[test]
fn keys_wait_for_a_lease_that_is_being_granted() {
    let now = Instant::now();
    let mut leases = SharedLeases::new(Sharing::DATA, now);
    let Some(LeasePlace::Opens(new)) = leases.place(5 * SECOND, now) else { panic!("the first opens one") };
    assert_eq!(leases.place(5 * SECOND, now), Some(LeasePlace::Awaits(new.number)));
    assert_eq!(leases.ticket(new.number, 5 * SECOND, now), None, "not granted yet");
    leases.granted(new.number, Grant { id: SEVEN, ttl: 6 * SECOND, sent: now });
    let ticket = LeaseTicket { lease: SEVEN, send_before: now + SECOND };
    assert_eq!(leases.ticket(new.number, 5 * SECOND, now), Some(ticket));
    assert_eq!(leases.ticket(new.number, 5 * SECOND, now + SECOND), None, "it came too late");
}

#[test]
fn a_lease_that_is_gone_or_was_refused_is_not_joined() {
    let now = Instant::now();
    let mut leases = SharedLeases::new(Sharing::DATA, now);
    granted(&mut leases, 5 * SECOND, now, 7);
    leases.forget(SEVEN);
    let Some(LeasePlace::Opens(new)) = leases.place(5 * SECOND, now) else { panic!("another one is needed") };
    leases.failed(new.number);
    assert!(matches!(leases.place(5 * SECOND, now), Some(LeasePlace::Opens(_))));
}

#[test]
fn a_lease_granted_too_short_is_not_used() {
    let now = Instant::now();
    let mut leases = SharedLeases::new(Sharing::DATA, now);
    let Some(LeasePlace::Opens(new)) = leases.place(5 * SECOND, now) else { panic!("the first opens one") };
    leases.granted(new.number, Grant { id: SEVEN, ttl: 4 * SECOND, sent: now });
    assert_eq!(leases.ticket(new.number, 5 * SECOND, now), None);
}

/// etcd grants at least 2 s by default.
#[test]
fn keys_with_a_shorter_ttl_than_etcd_grants_share_leases_too() {
    let now = Instant::now();
    let mut leases = SharedLeases::new(Sharing::DATA, now);
    let ttl = SECOND / 10;
    let Some(LeasePlace::Opens(new)) = leases.place(ttl, now) else { panic!("the first opens one") };
    assert_eq!(new.seconds, 1);
    leases.granted(new.number, Grant { id: SEVEN, ttl: 2 * SECOND, sent: now });
    assert_eq!(joined(&mut leases, ttl, now + SECOND / 100), Some(SEVEN));
}

#[test]
fn a_ttl_without_end_is_refused() {
    let now = Instant::now();
    let mut leases = SharedLeases::new(Sharing::DATA, now);
    assert_eq!(leases.place(Duration::MAX, now), None);
}

#[test]
fn leases_without_keys_are_known_and_what_has_ended_is_forgotten() {
    let now = Instant::now();
    let mut leases = SharedLeases::new(Sharing::DATA, now);
    let new = leases.open(6, 0, now).unwrap();
    leases.granted(new.number, Grant { id: SEVEN, ttl: 6 * SECOND, sent: now });
    assert_eq!(leases.unused().collect::<Vec<_>>(), [SEVEN]);
    assert_eq!(joined(&mut leases, 5 * SECOND, now), Some(SEVEN));
    assert_eq!(leases.unused().count(), 0);
    leases.prune(now + 7 * SECOND);
    assert!(
        leases.leases.is_empty()
            && leases.by_end.is_empty()
            && leases.open.is_empty()
            && leases.ends.is_empty()
    );
}

#[test]
fn while_etcd_does_not_answer_nothing_is_granted_ahead() {
    let start = Instant::now();
    let mut leases = SharedLeases::new(Sharing::POLLS, start);
    let mut asked = 0;
    for step in 0..40 {
        let now = start + step * STEP;
        for _ in 0..100 {
            leases.place(5 * SECOND, now);
        }
        asked += leases.ahead(now).len();
    }
    assert!((1..=20).contains(&asked), "{asked} grants, and none was answered");
}

/// `SEEDS=10` plays more.
fn seeds() -> impl Iterator<Item = u64> {
    1..=std::env::var("SEEDS").map_or(1, |text| text.parse().unwrap())
}

/// The firings that a grant must serve, and the largest part of what waits that may come in one quarter of a second, in
/// times of the mean.
#[test]
fn thousands_of_polls_take_few_leases_and_stay_spread() {
    let seconds = Duration::from_secs;
    for (polls, least, most) in [
        (2000, seconds(2), seconds(2)),
        (2000, seconds(2), seconds(3)),
        (2000, Duration::from_millis(2900), Duration::from_millis(2900)),
        (2000, seconds(5), seconds(5)),
        (2000, seconds(10), seconds(10)),
        (2000, seconds(10), seconds(12)),
        (2000, seconds(20), seconds(20)),
        (5000, seconds(60), seconds(60)),
        (5000, seconds(60), seconds(70)),
    ] {
        for seed in seeds() {
            let seen = Polls { polls, least, most, sharing: Sharing::POLLS, seed }.play(20);
            let case = format!("{polls} polls of {least:?} to {most:?}, seed {seed}: {seen:?}");
            println!("{case}");
            assert!(seen.grants * 20 <= seen.firings, "{case}");
            assert!(seen.largest <= 3.0, "{case}");
            assert!(seen.keys <= 64, "{case}");
        }
    }
}

/// 1,700 firings a second with TTLs of 2 to 3 s, from the first on.
#[test]
fn data_with_random_ttls_take_few_leases() {
    let (least, most) = (Duration::from_secs(2), Duration::from_secs(3));
    for seed in seeds() {
        let seen = Polls { polls: 5000, least, most, sharing: Sharing::DATA, seed }.play(1);
        println!("{seen:?}");
        assert!(seen.firings >= 5000 && seen.grants * 20 <= seen.firings, "{seen:?}");
    }
}

/// What few keys cost: a lease for each window, and never more than one for each key.
#[test]
fn a_trickle_opens_one_lease_a_window_at_most() {
    let start = Instant::now();
    for (ttl, a_second, most) in [(2, 1, 100), (2, 4, 55), (2, 16, 55), (60, 1, 10)] {
        let mut leases = SharedLeases::new(Sharing::POLLS, start);
        let mut grants = 0;
        for key in 0..100 * a_second {
            let now = start + SECOND / a_second * key;
            if let Some(LeasePlace::Opens(new)) = leases.place(ttl * SECOND, now) {
                grants += 1;
                let ttl = Duration::from_secs(new.seconds);
                leases.granted(new.number, Grant { id: SEVEN, ttl, sent: now });
            }
            grants += leases.ahead(now).len();
        }
        assert!(grants <= most * 2, "{grants} leases in 100 s for {a_second} keys a second of {ttl} s");
        assert!(grants <= (100 * a_second) as usize);
    }
}
