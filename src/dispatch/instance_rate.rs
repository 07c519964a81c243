//! Slows down an instance that fires more often than it may, whatever the truth did in between: rules that undo each
//! other's work would fire without an end. Remembered beyond its record, because the instance was false meanwhile. No
//! clock.
//!
//! Only instances that fire often are looked at one by one. All others are counted together in cells, so that they
//! cost no memory and hardly any time.

use super::rate::Rate;
use super::record::SLOWEST;
use crate::change::Revision;
use crate::compiled::{Binding, CompiledRule, RateLimit, RuleIndex};
use foldhash::fast::FixedState;
use hashbrown::HashMap;
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::time::Duration;
use tokio::time::Instant;

/// Firings are counted in so many cells, for so long. Many instances share a cell, so that a full one only means that
/// an instance is looked at by itself.
const CELLS: usize = 4096;
const PERIOD: Duration = Duration::from_secs(10);

/// Instances that are looked at by themselves at most, and how long after they last fired. There is no room for more
/// only if somebody makes more of them fire that often; those are not slowed down then.
const FREQUENT: usize = 1024;
const FORGOTTEN: Duration = Duration::from_secs(60);

/// Writes of the engine's own rules that are remembered while anything is slowed down, to say who made it true.
const WRITES: usize = 1024;

/// A key, as a hash, and the revision of a change of it.
type Write = (u64, Revision);

#[derive(Clone, Copy, Debug, Default)]
struct Cell {
    period: u64,
    fired: u32,
}

/// What a rule allows.
#[derive(Clone, Copy, Debug)]
struct Allowed {
    rate: RateLimit,
    /// Firings of a cell in a period from which on an instance may be one of those that fire too often.
    suspicious: u32,
    /// If there is so much time between a firing and its next cause, the rate is kept.
    apart: Duration,
    /// The first delay.
    base: Duration,
}

#[derive(Debug)]
struct FrequentInstance {
    rate: Rate,
    fired: Instant,
    /// How often the delay was doubled. With 0 there is none.
    slowness: u32,
    /// Whether what made it due after its last firing was taken into account.
    judged: bool,
    /// The changes that made it due.
    causes: SmallVec<[Write; 2]>,
}

/// See the [module](self).
pub(crate) struct InstanceRates {
    allowed: Box<[Allowed]>,
    hasher: FixedState,
    cells: Box<[Cell]>,
    start: Option<Instant>,
    period: u64,
    frequent: HashMap<(RuleIndex, Binding), FrequentInstance, FixedState>,
    writes: VecDeque<(Write, RuleIndex)>,
}

impl InstanceRates {
    pub(crate) fn new(rules: &[CompiledRule], hasher: FixedState) -> Self {
        let allowed = rules.iter().map(|rule| Allowed::new(rule.instance_rate(), rule.backoff().base()));
        Self {
            allowed: allowed.collect(),
            cells: vec![Cell::default(); CELLS].into(),
            start: None,
            period: 0,
            frequent: HashMap::with_hasher(hasher.clone()),
            hasher,
            writes: VecDeque::new(),
        }
    }

    /// An instance fires.
    pub(crate) fn fired(&mut self, rule: RuleIndex, binding: &Binding, now: Instant) {
        self.forget_quiet_ones(now);
        if !self.frequent.is_empty()
            && let Some(instance) = self.frequent.get_mut(&(rule, binding.clone()))
        {
            return instance.fire(now);
        }
        let allowed = self.allowed[rule.index()];
        let cell = &mut self.cells[self.hasher.hash_one((rule, binding)) as usize % CELLS];
        if cell.period != self.period {
            *cell = Cell { period: self.period, fired: 0 };
        }
        cell.fired = cell.fired.saturating_add(1);
        if cell.fired >= allowed.suspicious && self.frequent.len() < FREQUENT {
            let mut instance = FrequentInstance {
                rate: Rate::new(allowed.rate, now),
                fired: now,
                slowness: 0,
                judged: false,
                causes: SmallVec::new(),
            };
            instance.fire(now);
            self.frequent.insert((rule, binding.clone()), instance);
        }
    }

    /// An instance is due. Until when it must wait; `None`: it need not.
    pub(crate) fn due(&mut self, rule: RuleIndex, binding: &Binding, now: Instant) -> Option<Instant> {
        if self.frequent.is_empty() {
            return None;
        }
        let Allowed { apart, base, .. } = self.allowed[rule.index()];
        let instance =
            self.frequent.get_mut(&(rule, binding.clone())).filter(|instance| instance.slowness > 0)?;
        if !std::mem::replace(&mut instance.judged, true) {
            instance.slowness = match now.saturating_duration_since(instance.fired) < apart {
                true => (instance.slowness + 1).min(16),
                false => instance.slowness - 1,
            };
        }
        let doublings = instance.slowness.checked_sub(1)?;
        let delay = base.saturating_mul(1 << doublings).min(SLOWEST);
        Some(instance.fired + delay).filter(|until| *until > now)
    }

    /// An instance may fire at once.
    pub(crate) fn forget(&mut self, rule: RuleIndex, binding: &Binding) {
        self.frequent.remove(&(rule, binding.clone()));
    }

    /// Whether any instance fires often, so that causes and writes are worth being remembered.
    pub(crate) fn is_watching(&self) -> bool {
        !self.frequent.is_empty()
    }

    /// These changes of keys made an instance due.
    pub(crate) fn caused<'k>(
        &mut self,
        rule: RuleIndex,
        binding: &Binding,
        changes: impl Iterator<Item = (&'k str, Revision)>,
    ) {
        let hasher = &self.hasher;
        if let Some(instance) = self.frequent.get_mut(&(rule, binding.clone())) {
            instance.causes = changes.map(|(key, at)| (hasher.hash_one(key.as_bytes()), at)).collect();
        }
    }

    /// The commit of a rule changed this key.
    pub(crate) fn wrote(&mut self, rule: RuleIndex, key: &[u8], at: Revision) {
        if self.writes.len() == WRITES {
            self.writes.pop_front();
        }
        self.writes.push_back(((self.hasher.hash_one(key), at), rule));
    }

    /// Which rule of this engine made an instance due, if it was one.
    pub(crate) fn cause(&self, rule: RuleIndex, binding: &Binding) -> Option<RuleIndex> {
        let causes = &self.frequent.get(&(rule, binding.clone()))?.causes;
        let (_, by) = self.writes.iter().rev().find(|(write, _)| causes.contains(write))?;
        Some(*by)
    }

    fn forget_quiet_ones(&mut self, now: Instant) {
        let start = *self.start.get_or_insert(now);
        let period = now.saturating_duration_since(start).as_secs() / PERIOD.as_secs() + 1;
        if self.period != period {
            self.period = period;
            self.frequent.retain(|_, instance| now.saturating_duration_since(instance.fired) < FORGOTTEN);
            if self.frequent.is_empty() {
                self.writes = VecDeque::new();
            }
        }
    }
}

impl Allowed {
    fn new(rate: RateLimit, base: Duration) -> Self {
        let count = rate.count().max(1);
        let in_a_period = f64::from(count) * PERIOD.as_secs_f64() / rate.per().as_secs_f64();
        // What does not fire more often than this in a period, nor at once, keeps the rate.
        let suspicious = in_a_period.min(f64::from(count)).max(1.0) as u32;
        Self { rate, suspicious, apart: rate.per() / count, base }
    }
}

impl FrequentInstance {
    fn fire(&mut self, now: Instant) {
        if self.rate.is_open(0, now) {
            self.rate.spend(now);
        } else if self.slowness == 0 {
            self.slowness = 1;
        }
        (self.fired, self.judged) = (now, false);
    }
}

#[cfg(test)]
#[path = "tests/instance_rate.rs"]
mod tests;
