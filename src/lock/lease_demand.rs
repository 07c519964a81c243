//! Which shared leases are granted ahead: how many keys come for which TTLs, and how close to each other leases are to
//! end for them. Nothing here does I/O or reads a clock.
//!
//! If leases were granted only when a key needs one, they would end where keys came, and where they end keys come
//! again. So what came in bunches would stay in bunches, and the ends of a bunch would lie so close to a tick of etcd
//! that nobody could tell in which they fall. Leases that are granted at regular times end at regular times, and keys
//! choose among them.

use super::shared_leases::Sharing;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// How often leases are granted ahead. Half of the time in which etcd looks for those that have ended.
pub(crate) const STEP: Duration = Duration::from_millis(250);

/// How far back from a new end others are counted.
const SPAN: Duration = Duration::from_secs(4);

/// TTLs of which demand is remembered. Keys of others find leases too, but none is granted ahead for them.
const TTLS: usize = 256;

/// What part of the room of leases is filled if all goes as expected.
const FILL: f64 = 0.8;

/// How many keys come, by the longest TTL in whole seconds of a lease for them.
#[derive(Debug, Default)]
pub(crate) struct Demand(BTreeMap<u64, Keys>);

#[derive(Clone, Copy, Debug)]
struct Keys {
    window: Duration,
    /// Counted over as long as a key lives, so that a rate does not follow how bunched they are.
    period: Duration,
    since: Instant,
    /// In the period before.
    before: Option<u32>,
    keys: u32,
    /// Where the next lease is to end.
    next: Option<Instant>,
}

impl Keys {
    fn count(&mut self, now: Instant) {
        let periods = now.saturating_duration_since(self.since).as_nanos() / self.period.as_nanos();
        if periods > 0 {
            self.before = Some(if periods == 1 { self.keys } else { 0 });
            self.keys = 0;
            self.since += self.period * u32::try_from(periods).unwrap_or(u32::MAX);
        }
        self.keys = self.keys.saturating_add(1);
    }

    /// Keys a second.
    fn rate(&self, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(self.since);
        let into = passed.as_secs_f64() / self.period.as_secs_f64();
        let keys = f64::from(self.keys);
        match self.before {
            None if into < 1.0 => keys / passed.max(self.window).as_secs_f64(),
            before if into < 1.0 => {
                (f64::from(before.unwrap_or(0)) * (1.0 - into) + keys) / self.period.as_secs_f64()
            }
            _ => keys * (2.0 - into).max(0.0) / self.period.as_secs_f64(),
        }
    }
}

/// TTLs whose keys can share leases.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TtlGroup {
    /// The longest of them, for which leases are granted.
    pub(crate) seconds: u64,
    window: Duration,
    rate: f64,
    /// How far apart leases are to end. `None`: too few keys come for leases to be granted ahead.
    pub(crate) spacing: Option<Duration>,
}

impl TtlGroup {
    /// How far back from a new end others are looked at.
    pub(crate) fn looks_back(&self) -> Duration {
        SPAN.max(self.spacing.unwrap_or_default())
    }
}

/// Leases that can be joined and that end before a new one would.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Upcoming {
    leases: u32,
    /// How many keys can join them.
    room: u32,
    last: Option<Instant>,
}

impl Upcoming {
    /// They are added in the order in which they end.
    pub(crate) fn add(&mut self, end: Instant, room: u32) {
        self.leases += 1;
        self.room += room;
        self.last = Some(end);
    }
}

impl Demand {
    /// A key has come.
    pub(crate) fn count(&mut self, seconds: u64, window: Duration, now: Instant) {
        if self.0.len() >= TTLS && !self.0.contains_key(&seconds) {
            self.prune(now);
            if self.0.len() >= TTLS {
                return;
            }
        }
        let period = Duration::from_secs(seconds).max(SPAN);
        let new = || Keys { window, period, since: now, before: None, keys: 0, next: None };
        self.0.entry(seconds).or_insert_with(new).count(now);
    }

    /// Forgets TTLs of which no key has come for long.
    pub(crate) fn prune(&mut self, now: Instant) {
        self.0.retain(|_, keys| now.saturating_duration_since(keys.since) / 2 < keys.period);
    }

    /// The longest TTLs come first. A lease for the longest of a group is joined later by keys of the others.
    pub(crate) fn groups(&self, sharing: Sharing, now: Instant) -> Vec<TtlGroup> {
        let mut groups: Vec<TtlGroup> = Vec::new();
        for (&seconds, keys) in self.0.iter().rev() {
            match groups.last_mut() {
                Some(group) if seconds.saturating_add(keys.window.as_secs()) > group.seconds => {
                    group.rate += keys.rate(now);
                }
                _ => groups.push(TtlGroup {
                    seconds,
                    window: keys.window,
                    rate: keys.rate(now),
                    spacing: None,
                }),
            }
        }
        for group in &mut groups {
            // At least two in a window, or nothing is won: each key that finds none opens one.
            let least = f64::from(sharing.least);
            let enough = group.rate * group.window.as_secs_f64() >= 2.0 * least;
            let spacing = || Duration::from_secs_f64(least / group.rate);
            // Of leases closer than that, now two and now three would end in the same tick of etcd.
            let apart = |spacing: Duration| if spacing > STEP { spacing.max(2 * STEP) } else { spacing };
            group.spacing = enough.then(spacing).map(apart);
        }
        groups
    }

    /// How many leases are to be granted now, to end then.
    pub(crate) fn wanted(
        &mut self,
        group: &TtlGroup,
        upcoming: Upcoming,
        end: Instant,
        sharing: Sharing,
    ) -> u32 {
        let Some(spacing) = group.spacing else { return 0 };
        if spacing > STEP {
            return u32::from(self.is_next(group, spacing, upcoming.last, end));
        }
        let step = group.rate * STEP.as_secs_f64();
        let on_each = step.min(f64::from(sharing.most) * FILL);
        let expected = group.rate * group.looks_back().as_secs_f64();
        let leases = ((expected / on_each) as u32).saturating_sub(upcoming.leases);
        let short = ((expected / FILL) as u32).saturating_sub(upcoming.room);
        leases.max(short.div_ceil(sharing.most)).min((step / on_each).ceil() as u32)
    }

    /// Whether a lease is to end about then. The steps are too long to hit the right moment, so what is too early for
    /// one is made up for by the next.
    fn is_next(&mut self, group: &TtlGroup, spacing: Duration, last: Option<Instant>, end: Instant) -> bool {
        let Some(keys) = self.0.get_mut(&group.seconds) else { return false };
        let next = keys.next.or(last.map(|last| last + spacing)).unwrap_or(end);
        let near = last.is_some_and(|last| end.saturating_duration_since(last) < spacing / 2);
        if near || end + STEP / 2 < next {
            return false;
        }
        keys.next = Some(next.max(end.checked_sub(spacing).unwrap_or(end)) + spacing);
        true
    }
}
