//! Which instances are slowed down for firing too often, and which are not.

use super::*;
use crate::condition::key;
use crate::dispatch::tests::limits;
use crate::firing::{FiringError, Outcome};
use crate::properties::check;
use crate::rule::Rule;
use proptest::collection::vec;
use proptest::prop_assert;

const BASE: Duration = Duration::from_millis(100);

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn of(id: usize) -> Binding {
    Binding::new([id.to_string().as_str()].into_iter())
}

const RULE: RuleIndex = RuleIndex::new(0);

/// So many firings in a second.
fn rates(count: u32) -> InstanceRates {
    let rule = Rule::new("r")
        .when(key("/a/:id").exists())
        .instance_rate(RateLimit::new(count, Duration::from_secs(1)))
        .run(|_| async { Ok::<Outcome, FiringError>(Outcome::done()) });
    let rule = CompiledRule::alone(rule, limits()).unwrap_or_else(|mistakes| panic!("{mistakes:?}"));
    assert_eq!(rule.backoff().base(), BASE);
    InstanceRates::new(&[rule], FixedState::with_seed(1))
}

/// Fires an instance that is due again so long after it has fired, for so many times. How long each had to wait.
fn waits(
    rates: &mut InstanceRates,
    id: usize,
    after: Duration,
    times: usize,
    now: &mut Instant,
) -> Vec<u128> {
    let mut all = Vec::new();
    for _ in 0..times {
        rates.fired(RULE, &of(id), *now);
        *now += after;
        let until = rates.due(RULE, &of(id), *now);
        assert_eq!(rates.due(RULE, &of(id), *now), until, "asking again changes nothing");
        all.push(until.map_or(0, |until| (until - *now).as_millis()));
        *now = until.unwrap_or(*now);
    }
    all
}

#[test]
fn what_is_due_again_at_once_is_slowed_down_more_and_more_and_recovers_when_it_is_not() {
    let (mut rates, mut now) = (rates(10), Instant::now());
    let first = waits(&mut rates, 1, ms(1), 60, &mut now);
    let free = first.iter().take_while(|wait| **wait == 0).count();
    assert!((10..=25).contains(&free), "{first:?}");
    let slowed: Vec<u128> = first[free..].iter().map(|wait| wait + 1).collect();
    assert_eq!(slowed[..6], [200, 400, 800, 1600, 3200, 5000], "from the base of its backoff on");
    assert!(slowed[6..].iter().all(|wait| *wait == 5000));
    // A cause that comes later than the rate allows is none of a circle.
    let seldom = waits(&mut rates, 1, ms(150), 20, &mut now);
    assert_eq!(seldom[..3], [5000 - 150, 5000 - 150, 5000 - 150]);
    assert_eq!(seldom[19], 0, "{seldom:?}");
    let again = waits(&mut rates, 1, ms(1), 1, &mut now);
    assert_eq!(again, [0], "what was is forgotten");
}

#[test]
fn by_default_rules_that_undo_each_other_a_hundred_times_a_second_are_slowed_down_within_seconds() {
    let rule = Rule::new("r")
        .when(key("/a/:id").exists())
        .run(|_| async { Ok::<Outcome, FiringError>(Outcome::done()) });
    let rule = CompiledRule::alone(rule, limits()).unwrap_or_else(|mistakes| panic!("{mistakes:?}"));
    let mut rates = InstanceRates::new(&[rule], FixedState::with_seed(1));
    let (start, mut now) = (Instant::now(), Instant::now());
    let all = waits(&mut rates, 1, ms(10), 500, &mut now);
    let free = all.iter().take_while(|wait| **wait == 0).count();
    assert!((300..450).contains(&free), "{free} of them at once");
    assert!(all[free + 6..].iter().all(|wait| *wait == 4990), "{all:?}");
    assert!(now > start);
}

#[test]
fn what_keeps_the_rate_is_never_slowed_down_nor_is_another_instance() {
    for (after, times) in [(100, 3000), (150, 1000), (5000, 100)] {
        let (mut rates, mut now) = (rates(10), Instant::now());
        let all = waits(&mut rates, 1, ms(after), times, &mut now);
        assert!(all.iter().all(|wait| *wait == 0), "{after}: {all:?}");
    }
    let (mut rates, mut now) = (rates(10), Instant::now());
    assert!(waits(&mut rates, 1, ms(1), 60, &mut now).last() > Some(&0));
    let mut other = now;
    assert_eq!(waits(&mut rates, 2, ms(1), 1, &mut other), [0]);
}

#[test]
fn many_instances_that_fire_once_cost_nothing() {
    let (mut rates, now) = (rates(600), Instant::now());
    for id in 0..200_000 {
        rates.fired(RULE, &of(id), now + ms(id as u64 / 20));
    }
    assert_eq!(rates.frequent.len(), 0);
    assert_eq!(rates.due(RULE, &of(1), now), None);
    // Those that do fire often are bounded, and forgotten when they don't any more.
    for id in 0..2 * FREQUENT {
        (0..600).for_each(|_| rates.fired(RULE, &of(id), now + ms(20_000)));
    }
    assert_eq!(rates.frequent.len(), FREQUENT);
    rates.fired(RULE, &of(0), now + ms(20_000) + FORGOTTEN + PERIOD);
    assert!(rates.frequent.len() < 2);
}

#[test]
fn the_rule_that_wrote_what_made_an_instance_due_is_known() {
    let (mut rates, mut now) = (rates(10), Instant::now());
    waits(&mut rates, 1, ms(1), 60, &mut now);
    let (other, at) = (RuleIndex::new(1), Revision::new(7));
    rates.caused(RULE, &of(1), [("/a/1", at)].into_iter());
    assert_eq!(rates.cause(RULE, &of(1)), None, "it was somebody else");
    // The watch may have been quicker than the answer to the commit.
    rates.wrote(other, b"/a/1", at);
    rates.wrote(RULE, b"/a/2", at);
    assert_eq!(rates.cause(RULE, &of(1)), Some(other));
    (0..WRITES).for_each(|n| rates.wrote(RULE, b"/a/2", Revision::new(n as i64)));
    assert_eq!(rates.cause(RULE, &of(1)), None, "so many are remembered");
    rates.forget(RULE, &of(1));
    assert_eq!(rates.due(RULE, &of(1), now), None);
}

/// However its causes come, an instance fires no more often than the rate and what it may save allow, plus once for
/// each cause that came late enough; and it never waits longer than the slowest.
#[test]
fn no_sequence_of_causes_fires_more_often_than_is_allowed() {
    check(200, &vec((0u64..300, 0u64..3), 1..400), |causes| {
        let (mut rates, start) = (rates(10), Instant::now());
        let (mut now, mut quick, mut free) = (start, 0, 0);
        for (after, kind) in causes {
            rates.fired(RULE, &of(1), now);
            let after = if kind == 0 { ms(after) } else { ms(1) };
            now += after;
            let until = rates.due(RULE, &of(1), now).unwrap_or(now);
            prop_assert!(until <= now + SLOWEST);
            if after < ms(100) {
                quick += 1;
                free += usize::from(until == now);
            }
            now = until;
        }
        let allowed = 25.0 + 10.0 * (now - start).as_secs_f64();
        prop_assert!(free as f64 <= allowed, "{free} of {quick} at once in {:?}", now - start);
        Ok(())
    });
}
