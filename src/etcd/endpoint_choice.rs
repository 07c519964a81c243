//! Which endpoint one link of the engine uses: when it leaves one, which it tries next, when it goes home. No
//! I/O, no clock.
//!
//! An endpoint is left by who was on it: a failure of an earlier connection says nothing about the present
//! one. The present connection serves until a new one is open and checked. A round of attempts visits all
//! other endpoints in random order, and the present one last. The end of the round, good or bad, is the
//! answer to all who wait.
//!
//! Each link of an engine has a home, another one for each, and the first is random. After it had to leave,
//! it goes home within [`Spread`]: so that engines which fled from a member do not stay together on the
//! others.

use super::numbers::ConnectionId;
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use std::time::Duration;
use tokio::time::Instant;

/// Why another connection is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// There is none, or it has ended.
    Missing,
    /// Nothing comes over the present one.
    Silent,
    /// The member at its other end can't do what it is asked for.
    Left,
    /// It is not the home.
    Home,
    /// It was opened with credentials that are to be replaced.
    Renew,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConnectStep {
    /// Open a connection to this endpoint.
    Try { endpoint: usize, need: Need, last: bool },
    /// Nothing before this moment, unless something happens.
    Wait(Option<Instant>),
}

/// A silent connection is replaced at most this often, and a half more at random.
const REPLACE: Duration = Duration::from_secs(2);

/// After a connection that was taken for silent spoke in the end: it is slow, and so might a new one be.
const SLOW: Duration = Duration::from_secs(10);

/// Within this time a link is home again, and at half of it at the earliest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spread(pub(super) Duration);

/// See the [module](self).
#[derive(Debug)]
pub(super) struct EndpointChoice {
    endpoints: usize,
    home: usize,
    spread: Spread,
    rng: StdRng,
    /// The endpoint of the present connection, and that connection's number.
    present: Option<(usize, ConnectionId)>,
    need: Option<Need>,
    /// The endpoints that are still to be tried in this round, the next one last.
    round: Vec<usize>,
    /// A silent connection is not replaced before.
    not_before: Option<Instant>,
    home_at: Option<Instant>,
    /// There has been a connection.
    begun: bool,
}

impl EndpointChoice {
    /// Begins at home: endpoint number `home`, modulo their number.
    pub(super) fn new(endpoints: usize, home: usize, spread: Spread, rng: StdRng) -> Self {
        let endpoints = endpoints.max(1);
        Self {
            endpoints,
            home: home % endpoints,
            spread,
            rng,
            present: None,
            need: None,
            round: Vec::new(),
            not_before: None,
            home_at: None,
            begun: false,
        }
    }

    /// Something is wrong with the connection of this number, or (`None`) there is none.
    pub(super) fn report(&mut self, need: Need, connection: Option<ConnectionId>, now: Instant) {
        if self.present.map(|(_, number)| number) != connection {
            return;
        }
        match need {
            // A round that runs for another reason will do, but the connection that it replaces is not worth
            // keeping now.
            Need::Missing => {
                if self.need.is_none() {
                    self.begin(need);
                }
                self.present = None;
                self.need = Some(need);
            }
            Need::Silent if self.need.is_none() && self.not_before.is_none_or(|at| at <= now) => {
                self.begin(need)
            }
            Need::Left if self.need.is_none() && self.endpoints > 1 => self.begin(need),
            Need::Renew if self.need.is_none() && self.not_before.is_none_or(|at| at <= now) => {
                self.begin(need)
            }
            _ => {}
        }
    }

    /// A connection that was silent speaks again.
    pub(super) fn spoke(&mut self, now: Instant) {
        if self.need == Some(Need::Silent) {
            self.end_round();
            self.not_before = Some(now + self.jittered(SLOW));
        }
    }

    fn begin(&mut self, need: Need) {
        self.need = Some(need);
        let present = self.present.map(|(endpoint, _)| endpoint);
        let mut others: Vec<usize> = (0..self.endpoints).filter(|at| Some(*at) != present).collect();
        others.shuffle(&mut self.rng);
        match need {
            Need::Home => others = vec![self.home],
            Need::Renew => others = present.into_iter().collect(),
            Need::Missing if !self.begun => {
                others.retain(|at| *at != self.home);
                others.push(self.home);
            }
            Need::Missing | Need::Silent | Need::Left => {}
        }
        self.round = Vec::with_capacity(others.len() + 1);
        // A member that was left is worth another attempt only if the fault was in its connection.
        if matches!(need, Need::Missing | Need::Silent) {
            self.round.extend(present);
        }
        self.round.extend(others);
    }

    fn end_round(&mut self) {
        self.need = None;
        self.round.clear();
    }

    fn jittered(&mut self, time: Duration) -> Duration {
        time.mul_f64(1.0 + self.rng.random_range(0.0..0.5))
    }

    fn plan_home(&mut self, endpoint: usize, now: Instant) {
        let Spread(spread) = self.spread;
        self.home_at = (endpoint != self.home).then(|| now + spread.mul_f64(self.rng.random_range(0.5..1.0)));
    }

    pub(super) fn next(&mut self, now: Instant) -> ConnectStep {
        if self.need.is_none() && self.present.is_some() && self.home_at.is_some_and(|at| at <= now) {
            self.begin(Need::Home);
        }
        match (self.need, self.round.pop()) {
            (Some(need), Some(endpoint)) => ConnectStep::Try { endpoint, need, last: self.round.is_empty() },
            _ => ConnectStep::Wait(self.home_at.filter(|_| self.present.is_some())),
        }
    }

    /// The connection that was tried for is open and checked. Returns why it was needed.
    pub(super) fn opened(&mut self, endpoint: usize, connection: ConnectionId, now: Instant) -> Option<Need> {
        let need = self.need;
        self.end_round();
        self.present = Some((endpoint, connection));
        self.begun = true;
        self.plan_home(endpoint, now);
        self.not_before = Some(now + self.jittered(REPLACE));
        need
    }

    /// The attempt failed. True if it was the last of its round, which so has failed.
    pub(super) fn failed(&mut self, now: Instant) -> bool {
        if !self.round.is_empty() {
            return false;
        }
        match self.need {
            Some(Need::Silent | Need::Renew) => self.not_before = Some(now + self.jittered(REPLACE)),
            Some(Need::Home) => self.plan_home(self.home.wrapping_add(1), now),
            _ => {}
        }
        self.end_round();
        true
    }

    /// Where the present connection leads.
    pub(super) fn present(&self) -> Option<usize> {
        self.present.map(|(endpoint, _)| endpoint)
    }

    /// When the present connection may be replaced for its silence or its credentials.
    pub(super) fn not_before(&self) -> Option<Instant> {
        self.not_before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;

    const SECOND: Duration = Duration::from_secs(1);
    const MINUTE: Duration = Duration::from_secs(60);

    fn link(endpoints: usize, home: usize, seed: u64) -> EndpointChoice {
        EndpointChoice::new(endpoints, home, Spread(10 * MINUTE), StdRng::seed_from_u64(seed))
    }

    const fn number(number: u64) -> Option<ConnectionId> {
        Some(ConnectionId::new(number))
    }

    /// The endpoints that are tried, of which the ones in `up` answer.
    fn connect(link: &mut EndpointChoice, up: &[usize], number: u64, now: Instant) -> Vec<usize> {
        let mut tried = Vec::new();
        while let ConnectStep::Try { endpoint, .. } = link.next(now) {
            tried.push(endpoint);
            if up.contains(&endpoint) {
                link.opened(endpoint, ConnectionId::new(number), now);
            } else {
                link.failed(now);
            }
        }
        tried
    }

    #[test]
    fn a_link_begins_at_home_and_tries_every_other_endpoint_once() {
        let now = Instant::now();
        for seed in 0..20 {
            let mut link = link(3, 4, seed);
            link.report(Need::Missing, None, now);
            assert_eq!(connect(&mut link, &[1], 1, now), [1]);
            let mut link = self::link(3, 1, seed);
            link.report(Need::Missing, None, now);
            let mut tried = connect(&mut link, &[], 1, now);
            assert_eq!(tried[0], 1);
            tried.sort_unstable();
            assert_eq!(tried, [0, 1, 2]);
            assert_eq!(link.next(now), ConnectStep::Wait(None), "nobody has asked again");
        }
    }

    #[test]
    fn only_who_is_on_an_endpoint_leaves_it() {
        let now = Instant::now();
        let mut link = link(3, 0, 1);
        link.report(Need::Missing, None, now);
        connect(&mut link, &[0, 1, 2], 1, now);
        // Four streams on one connection leave at once.
        for _ in 0..4 {
            link.report(Need::Left, number(1), now);
        }
        let tried = connect(&mut link, &[1, 2], 2, now);
        assert_eq!(tried.len(), 1);
        assert_ne!(tried[0], 0);
        link.report(Need::Left, number(1), now);
        assert!(connect(&mut link, &[0, 1, 2], 3, now).is_empty(), "that one was left already");
    }

    #[test]
    fn a_silent_connection_is_replaced_by_another_members_or_a_new_one_to_the_same() {
        let now = Instant::now();
        let mut link = link(1, 0, 1);
        link.report(Need::Missing, None, now);
        connect(&mut link, &[0], 1, now);
        let later = now + 10 * SECOND;
        link.report(Need::Silent, number(1), later);
        assert_eq!(connect(&mut link, &[0], 2, later), [0]);
        link.report(Need::Silent, number(2), later + SECOND);
        assert!(connect(&mut link, &[0], 3, later + SECOND).is_empty(), "not twice in 2 s");
        link.report(Need::Silent, number(2), later + 3 * SECOND);
        assert_eq!(connect(&mut link, &[0], 3, later + 3 * SECOND), [0]);
    }

    #[test]
    fn a_slow_connection_is_not_suspected_again_for_10_s() {
        let now = Instant::now();
        let mut link = link(1, 0, 1);
        link.report(Need::Missing, None, now);
        connect(&mut link, &[0], 1, now);
        let at = |seconds: u32| now + seconds * SECOND;
        link.report(Need::Silent, number(1), at(5));
        assert!(matches!(link.next(at(5)), ConnectStep::Try { endpoint: 0, need: Need::Silent, last: true }));
        link.spoke(at(7));
        assert_eq!(link.next(at(7)), ConnectStep::Wait(None));
        link.report(Need::Silent, number(1), at(16));
        assert_eq!(link.next(at(16)), ConnectStep::Wait(None));
        link.report(Need::Silent, number(1), at(23));
        assert!(matches!(link.next(at(23)), ConnectStep::Try { .. }));
    }

    #[test]
    fn other_credentials_are_tried_with_the_same_member_and_not_twice_in_2_s() {
        let now = Instant::now();
        let mut link = link(3, 0, 1);
        link.report(Need::Missing, None, now);
        connect(&mut link, &[0, 1, 2], 1, now);
        let at = |seconds: u32| now + seconds * SECOND;
        link.report(Need::Renew, number(1), at(10));
        assert_eq!(connect(&mut link, &[], 2, at(10)), [0], "they are refused, and it stays");
        link.report(Need::Renew, number(1), at(11));
        assert!(connect(&mut link, &[0, 1, 2], 2, at(11)).is_empty());
        link.report(Need::Renew, number(1), at(14));
        assert_eq!(connect(&mut link, &[0, 1, 2], 2, at(14)), [0]);
        link.report(Need::Renew, number(1), at(20));
        assert!(connect(&mut link, &[0, 1, 2], 3, at(20)).is_empty(), "that connection is gone");
    }

    #[test]
    fn a_single_endpoint_is_not_left_for_what_its_member_says() {
        let now = Instant::now();
        let mut link = link(1, 0, 1);
        link.report(Need::Missing, None, now);
        connect(&mut link, &[0], 1, now);
        link.report(Need::Left, number(1), now);
        assert_eq!(link.next(now), ConnectStep::Wait(None));
    }

    #[test]
    fn a_link_that_had_to_leave_is_home_again_within_10_minutes_of_its_members_return() {
        let start = Instant::now();
        for seed in 0..50 {
            let mut link = link(3, 0, seed);
            link.report(Need::Missing, None, start);
            connect(&mut link, &[0, 1, 2], 1, start);
            link.report(Need::Missing, number(1), start);
            let tried = connect(&mut link, &[1, 2], 2, start);
            assert_ne!(tried.last(), Some(&0));
            // The member is away for a while: an attempt to go home fails, and changes nothing.
            let mut now = start;
            let back = start + 25 * MINUTE;
            let home = loop {
                let ConnectStep::Wait(Some(at)) = link.next(now) else { panic!("it goes home") };
                now = at;
                let up = if now < back { vec![1, 2] } else { vec![0, 1, 2] };
                if connect(&mut link, &up, 3, now) == [0] && now >= back {
                    break now;
                }
            };
            assert!(home <= back + 10 * MINUTE, "after {:?}", home - back);
            assert_eq!(link.next(now + MINUTE), ConnectStep::Wait(None), "there it stays");
        }
    }

    #[test]
    fn ten_engines_spread_evenly_after_a_rolling_restart() {
        let start = Instant::now();
        let mut links: Vec<EndpointChoice> = (0..10u64)
            .flat_map(|engine| {
                (0..3).map(move |number| link(3, (engine * 7 + number) as usize, engine * 3 + number))
            })
            .collect();
        let mut on = vec![0; links.len()];
        for (link, on) in links.iter_mut().zip(&mut on) {
            link.report(Need::Missing, None, start);
            *on = *connect(link, &[0, 1, 2], 1, start).last().unwrap();
        }
        let mut number = 1;
        for down in 0..3usize {
            number += 1;
            let up: Vec<usize> = (0..3).filter(|at| *at != down).collect();
            for (link, on) in links.iter_mut().zip(&mut on).filter(|(_, on)| **on == down) {
                let present = link.present.map(|(_, number)| number);
                link.report(Need::Missing, present, start);
                *on = *connect(link, &up, number, start).last().unwrap();
            }
        }
        let mut shares = [0; 3];
        for (link, on) in links.iter_mut().zip(&mut on) {
            if let Some(at) = connect(link, &[0, 1, 2], 9, start + 10 * MINUTE).last() {
                *on = *at;
            }
            shares[*on] += 1;
        }
        assert!(shares.iter().all(|share| *share <= 20), "{shares:?}");
    }

    proptest! {
        #[test]
        fn a_round_ends_and_what_answers_is_found(
            endpoints in 1usize..6, home in 0usize..6, up in 0usize..6, seed in any::<u64>(),
        ) {
            let now = Instant::now();
            let mut link = link(endpoints, home, seed);
            link.report(Need::Missing, None, now);
            let tried = connect(&mut link, &[up], 1, now);
            prop_assert!(tried.len() <= endpoints + 1);
            prop_assert_eq!(tried.contains(&up), up < endpoints);
        }
    }
}
