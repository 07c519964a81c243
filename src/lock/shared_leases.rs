//! Which keys with a TTL share a lease. Nothing here does I/O or reads a clock.
//!
//! A key that is to live for a TTL may end in the *window* after it. It joins any lease that ends there, whatever TTL
//! that lease was granted for. etcd deletes all keys of a lease at once, and all leases that end within the same half
//! second together. So among the leases that fit, a key takes one around whose end the fewest keys end.
//! `docs/decisions` has the reasons.
//!
//! | type | what it decides |
//! |---|---|
//! | [`SharedLeases`] | which lease a key takes |
//! | [`Demand`] | which leases are granted before there is a key for them |

use super::lease_demand::{Demand, STEP, Upcoming};
use crate::etcd::{Grant, LeaseId};
use crate::mutants::{Mutant, is_active};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);

/// How keys of one kind share leases.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sharing {
    /// The most keys on one lease. etcd deletes them all at once when it ends.
    pub(crate) most: u32,
    /// Leases are granted ahead only if so many keys are expected on each.
    pub(crate) least: u32,
}

impl Sharing {
    /// Keys that their own rule reads: what waits for them happens when the lease ends, all at once.
    pub(crate) const POLLS: Self = Self { most: 64, least: 21 };
    /// Other keys.
    pub(crate) const DATA: Self = Self { most: 1000, least: 100 };
}

/// etcd looks for leases that have ended so often.
const TICK: Duration = Duration::from_millis(500);

/// Ends are counted in parts of a tick.
const BIN: Duration = Duration::from_millis(125);
const BINS: i64 = (TICK.as_millis() / BIN.as_millis()) as i64;

/// A lease is not joined if less than this remains to send the key.
const MARGIN: Duration = Duration::from_millis(50);

/// A lease is granted for so much longer than the key's TTL at least, or hardly any other key could join it.
const SLACK: Duration = Duration::from_millis(200);

/// Ends that are looked at for a key. With one, chance would decide. A few even out nearly everything.
const PROBES: u64 = 8;

/// A lease for a key, and the time by which the key must be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LeaseTicket {
    pub(crate) lease: LeaseId,
    pub(crate) send_before: Instant,
}

/// Tells leases apart, also those that are still being granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LeaseNumber(u64);

/// What is to be done for a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LeasePlace {
    /// It has a lease.
    Joined(LeaseTicket),
    /// It is on a lease that is being granted.
    Awaits(LeaseNumber),
    /// This lease is to be granted, and the key is on it.
    Opens(NewLease),
}

/// A lease that is to be granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NewLease {
    pub(crate) number: LeaseNumber,
    /// Its TTL.
    pub(crate) seconds: u64,
}

type ByEnd = BTreeSet<(Instant, LeaseNumber)>;

/// The leases that keys of one kind share.
#[derive(Debug)]
pub(crate) struct SharedLeases {
    sharing: Sharing,
    leases: BTreeMap<LeaseNumber, Shared>,
    by_end: ByEnd,
    /// Those that can be joined.
    open: ByEnd,
    /// Those that are being granted, and since when.
    pending: BTreeMap<LeaseNumber, Instant>,
    /// How many keys end in each part of a tick, counted from `origin`.
    ends: BTreeMap<u64, u32>,
    origin: Instant,
    demand: Demand,
    /// The shortest TTL that etcd grants, as far as it is known.
    shortest: Duration,
    numbers: u64,
    /// Keys that were placed. Where the next one looks for ends follows from it.
    placed: u64,
}

#[derive(Clone, Copy, Debug)]
struct Shared {
    id: Option<LeaseId>,
    seconds: u64,
    end: Instant,
    keys: u32,
}

/// How much later than its TTL a key may end: a fifth of it, at least a second.
pub(crate) fn window(ttl: Duration) -> Duration {
    (ttl / 5).max(SECOND)
}

/// How long a key is to live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeyLife {
    pub(crate) ttl: Duration,
    /// How much later it may end.
    pub(crate) window: Duration,
}

impl From<Duration> for KeyLife {
    fn from(ttl: Duration) -> Self {
        Self { ttl, window: window(ttl) }
    }
}

/// For so long after its delay a mark stands at most, while the engine that wrote it goes first.
const LEAD: Duration = Duration::from_secs(2);

impl KeyLife {
    /// Of the mark of an instance that is to be tried again after this delay. The engine that wrote it removes it then.
    /// If it can't any more, the mark ends by itself, and the others have until a lock TTL after the delay to start.
    pub(crate) fn of_mark(delay: Duration, lock_ttl: Duration) -> Self {
        if is_active(Mutant::MarkEnd) {
            return Duration::from_secs((delay + LEAD).as_secs().next_power_of_two()).into();
        }
        let lead = LEAD.min(lock_ttl / 4);
        // etcd ends it up to a tick late, and then it is to be told and tried.
        let most = lock_ttl.saturating_sub(lead + 2 * TICK).max(SECOND);
        let ttl = delay.saturating_add(lead);
        Self { ttl, window: window(ttl).min(most) }
    }
}

/// The longest TTL of a lease for keys that are to live for this long. A lease has whole seconds. If the last whole
/// second of the window leaves no time to send the key, it is the next one.
fn longest(KeyLife { ttl, window }: KeyLife) -> Duration {
    let longest = ttl.saturating_add(window);
    let seconds = Duration::from_secs(longest.as_secs());
    if seconds < ttl.saturating_add(SLACK) { seconds.saturating_add(SECOND) } else { longest }
}

impl SharedLeases {
    pub(crate) fn new(sharing: Sharing, now: Instant) -> Self {
        Self {
            sharing,
            leases: BTreeMap::new(),
            by_end: ByEnd::new(),
            open: ByEnd::new(),
            pending: BTreeMap::new(),
            ends: BTreeMap::new(),
            origin: now,
            demand: Demand::default(),
            shortest: Duration::ZERO,
            numbers: 0,
            placed: 0,
        }
    }

    /// Finds a lease for a key that is sent about now. `None`: the TTL is longer than time can be counted.
    pub(crate) fn place(&mut self, life: impl Into<KeyLife>, now: Instant) -> Option<LeasePlace> {
        self.prune(now);
        self.placed += 1;
        let life = life.into();
        let (ttl, longest) = (life.ttl, longest(life));
        self.demand.count(longest.as_secs(), life.window, now);
        let to = now.checked_add(longest.max(self.shortest))?;
        let from = if is_active(Mutant::KeyTtl) { now + MARGIN } else { now + ttl + MARGIN };
        if let Some((end, number)) = self.emptiest(from, to) {
            return Some(self.join(end, number, ttl));
        }
        let seconds = self.emptiest_end(ttl, longest, now);
        Some(LeasePlace::Opens(self.open(seconds, 1, now)?))
    }

    /// The lease was granted, so that its end is known.
    pub(crate) fn granted(&mut self, number: LeaseNumber, grant: Grant) {
        self.pending.remove(&number);
        let Some(lease) = self.leases.get(&number).copied() else { return };
        if grant.ttl > Duration::from_secs(lease.seconds) {
            self.shortest = self.shortest.max(grant.ttl);
        }
        let Some(end) = grant.sent.checked_add(grant.ttl) else { return self.failed(number) };
        let was_open = self.open.remove(&(lease.end, number)) || lease.keys == 0;
        self.by_end.remove(&(lease.end, number));
        self.by_end.insert((end, number));
        if was_open {
            self.open.insert((end, number));
        }
        let before = self.bin(lease.end);
        if let Some(keys) = self.ends.get_mut(&before) {
            *keys = keys.saturating_sub(lease.keys);
        }
        self.add(end, lease.keys);
        self.leases.insert(number, Shared { id: Some(grant.id), end, ..lease });
    }

    /// The lease was not granted.
    pub(crate) fn failed(&mut self, number: LeaseNumber) {
        self.pending.remove(&number);
        if let Some(lease) = self.leases.remove(&number) {
            self.by_end.remove(&(lease.end, number));
            self.open.remove(&(lease.end, number));
        }
    }

    /// The lease for a key that waited for it to be granted. `None` if the key can't be sent in time any more.
    pub(crate) fn ticket(&self, number: LeaseNumber, ttl: Duration, now: Instant) -> Option<LeaseTicket> {
        let Shared { id, end, .. } = self.leases.get(&number)?;
        Some(ticket((*id)?, *end, ttl)).filter(|ticket| now < ticket.send_before)
    }

    /// Removes a lease that does not exist any more, so that no key joins it.
    pub(crate) fn forget(&mut self, lease: LeaseId) {
        let leases = &self.leases;
        self.open.retain(|(_, number)| leases.get(number).is_none_or(|shared| shared.id != Some(lease)));
    }

    /// Leases that were granted and that no key has joined.
    pub(crate) fn unused(&self) -> impl Iterator<Item = LeaseId> {
        self.leases.values().filter(|lease| lease.keys == 0).filter_map(|lease| lease.id)
    }

    /// Whether so many keys come that leases are granted ahead. Then [`ahead`](Self::ahead) wants to be called every
    /// [`STEP`].
    pub(crate) fn is_busy(&self, now: Instant) -> bool {
        self.demand.groups(self.sharing, now).iter().any(|group| group.spacing.is_some())
    }

    /// How many keys were placed.
    pub(crate) fn placed(&self) -> u64 {
        self.placed
    }

    /// Leases to be granted now, so that keys which come later find some at every time, and not only where other keys
    /// needed one.
    pub(crate) fn ahead(&mut self, now: Instant) -> Vec<NewLease> {
        self.prune(now);
        self.demand.prune(now);
        // While etcd does not answer there is nothing to be gained by asking it for more.
        if self.pending.values().any(|since| *since + 4 * STEP < now) {
            return Vec::new();
        }
        let mut opened = Vec::new();
        for group in self.demand.groups(self.sharing, now) {
            let end = now + Duration::from_secs(group.seconds);
            let first = (end - group.looks_back(), LeaseNumber(0));
            let mut upcoming = Upcoming::default();
            for (end, number) in self.open.range(first..(end + STEP / 2, LeaseNumber(0))) {
                let keys = self.leases.get(number).map_or(0, |lease| lease.keys);
                upcoming.add(*end, self.sharing.most - keys);
            }
            for _ in 0..self.demand.wanted(&group, upcoming, end, self.sharing) {
                opened.extend(self.open(group.seconds, 0, now));
            }
        }
        opened
    }

    fn open(&mut self, seconds: u64, keys: u32, now: Instant) -> Option<NewLease> {
        let end = now.checked_add(Duration::from_secs(seconds))?;
        self.numbers += 1;
        let number = LeaseNumber(self.numbers);
        self.leases.insert(number, Shared { id: None, seconds, end, keys });
        self.by_end.insert((end, number));
        // Nobody need wait for one that is granted ahead.
        if keys > 0 {
            self.open.insert((end, number));
        }
        self.pending.insert(number, now);
        self.add(end, keys);
        Some(NewLease { number, seconds })
    }

    fn join(&mut self, end: Instant, number: LeaseNumber, ttl: Duration) -> LeasePlace {
        self.add(end, 1);
        let Some(lease) = self.leases.get_mut(&number) else { return LeasePlace::Awaits(number) };
        lease.keys += 1;
        if lease.keys >= self.sharing.most {
            self.open.remove(&(end, number));
        }
        match lease.id {
            Some(id) => LeasePlace::Joined(ticket(id, end, ttl)),
            None => LeasePlace::Awaits(number),
        }
    }

    /// An open lease that ends there, with the fewest keys around its end of some that are looked at.
    fn emptiest(&self, from: Instant, to: Instant) -> Option<(Instant, LeaseNumber)> {
        let after = |at: Instant| {
            let first = self.open.range((at, LeaseNumber(0))..).next();
            first.copied().filter(|(end, _)| *end <= to)
        };
        let window = to.checked_duration_since(from)?;
        let first = after(from)?;
        let probes = (0..PROBES).map(|probe| {
            let part = self.probe(probe) >> 32;
            let at = Duration::from_nanos(((window.as_nanos() * u128::from(part)) >> 32) as u64);
            after(from + at).unwrap_or(first)
        });
        probes.min_by_key(|(end, number)| {
            (self.load(*end), self.leases.get(number).map_or(0, |lease| lease.keys))
        })
    }

    /// The TTL of a new lease, with the fewest keys around its end. If several are alike, the longest: it can be joined
    /// for the longest time.
    fn emptiest_end(&self, ttl: Duration, longest: Duration, now: Instant) -> u64 {
        let last = longest.as_secs();
        let first = ttl.saturating_add(SLACK);
        let first = (first.as_secs() + u64::from(first.subsec_nanos() > 0)).min(last);
        let many = last - first + 1;
        let seconds = (0..PROBES.min(many)).map(|probe| match many {
            0..=PROBES => last - probe,
            _ => first + ((u128::from(self.probe(probe)) * u128::from(many)) >> 64) as u64,
        });
        let load =
            |seconds: u64| now.checked_add(Duration::from_secs(seconds)).map_or(0, |end| self.load(end));
        seconds.min_by_key(|seconds| (load(*seconds), u64::MAX - seconds)).unwrap_or(last)
    }

    /// Where to look: numbers that are spread evenly, also over those of several keys.
    fn probe(&self, probe: u64) -> u64 {
        const GOLDEN_RATIO: u64 = 0x9e37_79b9_7f4a_7c15;
        self.placed.wrapping_mul(PROBES).wrapping_add(probe).wrapping_mul(GOLDEN_RATIO)
    }

    fn bin(&self, end: Instant) -> u64 {
        (end.saturating_duration_since(self.origin).as_nanos() / BIN.as_nanos()) as u64
    }

    fn add(&mut self, end: Instant, keys: u32) {
        let bin = self.bin(end);
        *self.ends.entry(bin).or_default() += keys;
    }

    /// How many keys end about then, each weighted by how likely it ends in the same tick.
    fn load(&self, end: Instant) -> u64 {
        let bin = self.bin(end) as i64;
        let near = self.ends.range((bin - BINS).max(0) as u64..(bin + BINS) as u64);
        near.map(|(other, keys)| u64::from(*keys) * (BINS - (*other as i64 - bin).abs()) as u64).sum()
    }

    /// Removes leases that have ended.
    fn prune(&mut self, now: Instant) {
        while let Some(&(end, number)) = self.by_end.first()
            && end + TICK < now
        {
            self.by_end.pop_first();
            self.open.remove(&(end, number));
            self.leases.remove(&number);
        }
        let past = self.bin(now).saturating_sub(BINS as u64);
        while let Some(bin) = self.ends.first_entry()
            && *bin.key() < past
        {
            bin.remove();
        }
    }
}

/// The key must be sent while the lease still has at least the key's TTL left.
fn ticket(lease: LeaseId, end: Instant, ttl: Duration) -> LeaseTicket {
    let ttl = if is_active(Mutant::KeyTtl) { Duration::ZERO } else { ttl };
    LeaseTicket { lease, send_before: end.checked_sub(ttl).unwrap_or(end) }
}

#[cfg(test)]
mod tests;
