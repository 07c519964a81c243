//! A model of etcd's leases and of polls that wait for them: keys arrive, leases are granted, etcd looks for those that
//! have ended every half second, and what waited for their keys fires again.

use super::super::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// What is played. The polls begin evenly in the time of their shortest TTL.
pub(super) struct Polls {
    pub(super) polls: u32,
    /// Each key has a TTL from this one ...
    pub(super) least: Duration,
    /// ... to this one.
    pub(super) most: Duration,
    pub(super) sharing: Sharing,
    pub(super) seed: u64,
}

/// What was seen.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) firings: usize,
    pub(super) grants: usize,
    /// The most keys of a lease.
    pub(super) keys: usize,
    /// The firings of the largest quarter of a second in the last round, in times of the mean.
    pub(super) largest: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// etcd looks for leases that have ended.
    Tick,
    Ahead,
    Granted(NewLeaseAt),
    Fires(u32),
    Sends(u32),
}

type NewLeaseAt = (LeaseNumber, u64, Instant);

/// A lease in etcd.
struct Granted {
    ends: Instant,
    keys: Vec<u32>,
}

struct World {
    polls: Polls,
    leases: SharedLeases,
    rng: StdRng,
    /// What a tick of etcd is longer than half a second at most.
    drift: Duration,
    /// How long a firing takes, which others wait for.
    takes: Duration,
    queue: BinaryHeap<Reverse<(Instant, u64, Event)>>,
    queued: u64,
    etcd: BTreeMap<LeaseNumber, Granted>,
    waiting: BTreeMap<LeaseNumber, Vec<(u32, Duration)>>,
    /// When each key was sent, and its TTL.
    sent: BTreeMap<u32, (Instant, Duration)>,
    busy_until: Instant,
    fired: Vec<Instant>,
    seen: Seen,
}

const MILLI: Duration = Duration::from_millis(1);

impl Polls {
    pub(super) fn play(self, rounds: u32) -> Seen {
        let start = Instant::now();
        let round = self.most + window(self.most) + TICK / 2;
        let end = start + self.least + round * rounds;
        let mut world = World {
            leases: SharedLeases::new(self.sharing, start),
            drift: [0, 400, 1400].map(Duration::from_micros)[self.seed as usize % 3],
            takes: SECOND / [1500, 3000, 6000][self.seed as usize / 3 % 3],
            queue: BinaryHeap::new(),
            queued: 0,
            etcd: BTreeMap::new(),
            waiting: BTreeMap::new(),
            sent: BTreeMap::new(),
            busy_until: start,
            fired: Vec::new(),
            seen: Seen::default(),
            rng: StdRng::seed_from_u64(self.seed),
            polls: self,
        };
        let (tick, ahead) = (world.some(TICK), world.some(STEP));
        world.at(start + tick, Event::Tick);
        world.at(start + ahead, Event::Ahead);
        for poll in 0..world.polls.polls {
            world.at(start + world.polls.least * poll / world.polls.polls, Event::Fires(poll));
        }
        while let Some(Reverse((now, _, event))) = world.queue.pop()
            && now < end
        {
            world.happens(event, now);
        }
        world.seen.firings = world.fired.len();
        world.seen.largest = largest(&world.fired, end - round, round);
        world.seen
    }
}

/// The largest quarter of a second in times of the mean.
fn largest(fired: &[Instant], from: Instant, round: Duration) -> f64 {
    let quarters = (round.as_millis() / STEP.as_millis()) as usize;
    let mut counts = vec![0usize; quarters];
    for at in fired.iter().filter_map(|at| at.checked_duration_since(from)) {
        if let Some(count) = counts.get_mut((at.as_millis() / STEP.as_millis()) as usize) {
            *count += 1;
        }
    }
    let all: usize = counts.iter().sum();
    *counts.iter().max().unwrap_or(&0) as f64 * quarters as f64 / all as f64
}

impl World {
    fn at(&mut self, at: Instant, event: Event) {
        self.queued += 1;
        self.queue.push(Reverse((at, self.queued, event)));
    }

    fn some(&mut self, most: Duration) -> Duration {
        self.rng.random_range(Duration::ZERO..=most)
    }

    fn happens(&mut self, event: Event, now: Instant) {
        match event {
            Event::Tick => self.tick(now),
            Event::Ahead => {
                for new in self.leases.ahead(now) {
                    self.grant(new, now);
                }
                let next = now + STEP + self.some(2 * MILLI);
                self.at(next, Event::Ahead);
            }
            Event::Granted((number, seconds, sent)) => self.granted(number, seconds, sent, now),
            Event::Fires(poll) => {
                self.fired.push(now);
                let sends = now + MILLI + self.some(20 * MILLI);
                self.at(sends, Event::Sends(poll));
            }
            Event::Sends(poll) => self.sends(poll, now),
        }
    }

    fn tick(&mut self, now: Instant) {
        let ended: Vec<LeaseNumber> =
            self.etcd.iter().filter(|(_, lease)| lease.ends <= now).map(|(number, _)| *number).collect();
        let ended: Vec<Granted> = ended.iter().filter_map(|number| self.etcd.remove(number)).collect();
        for poll in ended.into_iter().flat_map(|lease| lease.keys) {
            let (sent, ttl) = self.sent[&poll];
            assert!(now >= sent + ttl, "a key of {ttl:?} ended early");
            let late = window(ttl) + SLACK + TICK + self.drift + 5 * MILLI;
            assert!(now <= sent + ttl + late, "a key of {ttl:?} ended {:?} late", now - sent - ttl);
            self.busy_until = self.busy_until.max(now + 3 * MILLI) + self.takes;
            let fires = self.busy_until + self.some(20 * MILLI);
            self.at(fires, Event::Fires(poll));
        }
        let next = now + TICK + self.some(self.drift);
        self.at(next, Event::Tick);
    }

    fn grant(&mut self, NewLease { number, seconds }: NewLease, now: Instant) {
        self.seen.grants += 1;
        self.waiting.insert(number, Vec::new());
        let answered = now + 2 * MILLI + self.some(3 * MILLI);
        self.at(answered, Event::Granted((number, seconds, now)));
    }

    fn granted(&mut self, number: LeaseNumber, seconds: u64, sent: Instant, now: Instant) {
        let ttl = Duration::from_secs(seconds.max(2));
        self.etcd.insert(number, Granted { ends: sent + MILLI + ttl, keys: Vec::new() });
        // Its number stands for its id.
        self.leases.granted(number, Grant { id: LeaseId::new(number.0 as i64), ttl, sent });
        for (poll, ttl) in self.waiting.remove(&number).unwrap() {
            assert!(self.leases.ticket(number, ttl, now).is_some(), "{ttl:?} on a lease of {seconds} s");
            self.put(poll, number, ttl, now);
        }
    }

    fn sends(&mut self, poll: u32, now: Instant) {
        let ttl = self.rng.random_range(self.polls.least..=self.polls.most);
        match self.leases.place(ttl, now).unwrap() {
            LeasePlace::Joined(ticket) => {
                assert!(now < ticket.send_before);
                self.put(poll, LeaseNumber(ticket.lease.get() as u64), ttl, now);
            }
            LeasePlace::Awaits(number) => self.waiting.get_mut(&number).unwrap().push((poll, ttl)),
            LeasePlace::Opens(new) => {
                self.grant(new, now);
                self.waiting.get_mut(&new.number).unwrap().push((poll, ttl));
            }
        }
    }

    fn put(&mut self, poll: u32, number: LeaseNumber, ttl: Duration, now: Instant) {
        self.sent.insert(poll, (now, ttl));
        let keys = &mut self.etcd.get_mut(&number).expect("it is alive").keys;
        keys.push(poll);
        self.seen.keys = self.seen.keys.max(keys.len());
    }
}
