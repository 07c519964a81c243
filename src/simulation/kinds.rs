//! The rules of a schedule, one of each kind, and what the checker knows about them. The checker decides
//! their truth with code of its own, and not with the engine's conditions.

use crate::condition::Condition;
use crate::firing::{Commit, Firing};
use crate::{all_equal, key};
use std::collections::BTreeMap;
use std::time::Duration;

/// A rule of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Consumes a key while a switch is on. All instances read the switch.
    Work,
    /// Has two attributes, and a key that binds only one of them.
    Assign,
    /// Polls with a key that has a TTL.
    Poll,
    /// Without a lock.
    Optimistic,
    /// Shares its lock with [`Kind::Right`].
    Left,
    Right,
    /// Fails most of the time.
    Flaky,
    /// Stays true, because its effects don't change its condition.
    Stay,
    /// Absences only.
    Gone,
    /// No attributes.
    Single,
    /// Makes one key equal to another.
    Follow,
    /// Has two keys that are always written together, below prefixes of their own. One of them is only shown.
    Pair,
}

pub(super) const KINDS: [Kind; 12] = [
    Kind::Work,
    Kind::Assign,
    Kind::Poll,
    Kind::Optimistic,
    Kind::Left,
    Kind::Right,
    Kind::Flaky,
    Kind::Stay,
    Kind::Gone,
    Kind::Single,
    Kind::Follow,
    Kind::Pair,
];

/// The TTL of the key of [`Kind::Poll`].
pub(super) const REST: Duration = Duration::from_secs(2);

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Work => "work",
            Kind::Assign => "assign",
            Kind::Poll => "poll",
            Kind::Optimistic => "optimistic",
            Kind::Left => "left",
            Kind::Right => "right",
            Kind::Flaky => "flaky",
            Kind::Stay => "stay",
            Kind::Gone => "gone",
            Kind::Single => "single",
            Kind::Follow => "follow",
            Kind::Pair => "pair",
        }
    }

    /// In the order of the alphabet.
    pub(super) fn attributes(self) -> &'static [&'static str] {
        match self {
            Kind::Assign => &["id", "zone"],
            Kind::Single => &[],
            _ => &["id"],
        }
    }

    /// The patterns, in the order in which the checker sees their values.
    pub(super) fn slots(self) -> &'static [&'static str] {
        match self {
            Kind::Work => &["/work/:id", "/config/enabled"],
            Kind::Assign => &["/jobs/:zone/:id", "/zones/:zone", "/done/:zone/:id"],
            Kind::Poll => &["/servers/:id", "/rest/:id"],
            Kind::Optimistic => &["/optimistic/:id"],
            Kind::Left => &["/left/:id"],
            Kind::Right => &["/right/:id"],
            Kind::Flaky => &["/flaky/:id"],
            Kind::Stay => &["/stay/:id"],
            Kind::Gone => &["/gone/:id", "/gone2/:id"],
            Kind::Single => &["/single", "/hold"],
            Kind::Follow => &["/want/:id", "/have/:id"],
            Kind::Pair => &["/pair/:id", "/twin/:id"],
        }
    }

    /// Whether all instances share the key of this slot. Then a change matters only if it changes the slot's
    /// truth.
    pub(super) fn is_shared(self, slot: usize) -> bool {
        matches!((self, slot), (Kind::Work | Kind::Assign, 1))
    }

    /// Whether the key of this slot is shown without being part of the condition.
    pub(super) fn is_only_shown(self, slot: usize) -> bool {
        (self, slot) == (Kind::Pair, 1)
    }

    /// The truth of a shared slot.
    pub(super) fn leaf(self, value: Option<&str>) -> bool {
        match self {
            Kind::Work => value == Some("yes"),
            _ => value.is_some_and(|value| value.starts_with("open")),
        }
    }

    pub(super) fn truth(self, values: &[Option<&str>]) -> bool {
        match self {
            Kind::Work => values[0].is_some() && self.leaf(values[1]),
            Kind::Assign => values[0].is_some() && self.leaf(values[1]) && values[2].is_none(),
            Kind::Poll => values[0].is_some_and(|v| v.starts_with("active")) && values[1].is_none(),
            Kind::Optimistic => values[0].is_some_and(|v| v.starts_with("new")),
            Kind::Left | Kind::Right | Kind::Flaky | Kind::Stay => values[0].is_some(),
            Kind::Gone => values[0].is_none() && values[1].is_none(),
            Kind::Single => values[0].is_some() && values[1].is_none(),
            Kind::Follow => values[0].is_some() && values[0] != values[1],
            Kind::Pair => values[0].is_some(),
        }
    }

    pub(super) fn condition(self) -> Condition {
        let slots = self.slots();
        let slot = |at: usize| key(slots[at]);
        match self {
            Kind::Work => slot(0).exists() & slot(1).equals("yes"),
            Kind::Assign => slot(0).exists() & slot(1).starts_with("open") & slot(2).absent(),
            Kind::Poll => {
                let active = |value: Option<&[u8]>| value.is_some_and(|value| value.starts_with(b"active"));
                slot(0).compare("is active", active) & slot(1).absent()
            }
            Kind::Optimistic => slot(0).starts_with("new"),
            Kind::Left | Kind::Right | Kind::Flaky | Kind::Stay => slot(0).exists(),
            Kind::Gone => slot(0).absent() & slot(1).absent(),
            Kind::Single => slot(0).exists() & !slot(1).exists(),
            Kind::Follow => slot(0).exists() & !all_equal([slots[0], slots[1]]),
            Kind::Pair => slot(0).exists(),
        }
    }

    /// Whether its effects make the condition false.
    pub(super) fn consumes(self) -> bool {
        self != Kind::Stay
    }

    /// The key by which the checker recognises a run's effects.
    pub(super) fn out(self) -> String {
        let mut key = format!("/out/{}", self.name());
        self.attributes().iter().for_each(|name| key.push_str(&format!("/:{name}")));
        key
    }

    /// What the callback commits.
    pub(super) fn commit(self, firing: &Firing, run: u64) -> Commit {
        let slots = self.slots();
        let commit = firing.commit().put(&self.out(), run.to_string());
        match self {
            Kind::Work | Kind::Flaky | Kind::Single => commit.expect_unchanged(slots[0]).delete(slots[0]),
            Kind::Left | Kind::Right | Kind::Pair => commit.delete(slots[0]),
            Kind::Assign => commit.expect_unchanged(slots[0]).put(slots[2], run.to_string()),
            Kind::Poll => commit.put_ttl(slots[1], run.to_string(), REST),
            Kind::Optimistic => commit.put(slots[0], format!("old-{run}")),
            Kind::Stay => commit,
            Kind::Gone => commit.put(slots[1], run.to_string()),
            Kind::Follow => {
                let want = firing.value(slots[0]).cloned().unwrap_or_default();
                commit.expect_unchanged(slots[0]).put(slots[1], want)
            }
        }
    }

    /// What the commit must change besides the key of [`out`](Self::out): a slot, and its value afterwards.
    pub(super) fn effect(self, run: u64, shown: &[Option<String>]) -> Option<(usize, Option<String>)> {
        Some(match self {
            Kind::Work | Kind::Flaky | Kind::Single | Kind::Left | Kind::Right | Kind::Pair => (0, None),
            Kind::Assign => (2, Some(run.to_string())),
            Kind::Poll | Kind::Gone => (1, Some(run.to_string())),
            Kind::Optimistic => (0, Some(format!("old-{run}"))),
            Kind::Stay => return None,
            Kind::Follow => (1, shown[0].clone()),
        })
    }

    /// Slots that must still be as they were shown when the effects take place.
    pub(super) fn expects(self) -> &'static [usize] {
        match self {
            Kind::Work | Kind::Flaky | Kind::Single | Kind::Assign | Kind::Follow | Kind::Optimistic => &[0],
            _ => &[],
        }
    }

    /// The key of a slot of one instance.
    pub(super) fn key(self, pattern: &str, id: &[String]) -> String {
        let mut key = pattern.to_owned();
        for (name, value) in self.attributes().iter().zip(id) {
            key = key.replace(&format!(":{name}"), value);
        }
        key
    }

    pub(super) fn keys(self, id: &[String]) -> Vec<String> {
        self.slots().iter().map(|pattern| self.key(pattern, id)).collect()
    }

    /// The lock pattern, if it is not the instance's own.
    pub(super) fn lock(self) -> Option<&'static str> {
        matches!(self, Kind::Left | Kind::Right).then_some("/pair")
    }

    /// The instance that a key implies, if it matches a pattern with all attributes.
    pub(super) fn implied_by(self, key: &str) -> Option<Vec<String>> {
        if self == Kind::Single {
            return Some(Vec::new());
        }
        let own = self.slots().iter().enumerate().filter(|(slot, _)| !self.is_only_shown(*slot));
        own.map(|(_, pattern)| pattern).find_map(|pattern| {
            let (pattern, key): (Vec<_>, Vec<_>) = (pattern.split('/').collect(), key.split('/').collect());
            if pattern.len() != key.len() {
                return None;
            }
            let mut bound = BTreeMap::new();
            for (part, text) in pattern.iter().zip(&key) {
                match part.strip_prefix(':') {
                    Some(name) => drop(bound.insert(name, (*text).to_owned())),
                    None if part != text => return None,
                    None => {}
                }
            }
            self.attributes().iter().map(|name| bound.remove(name)).collect()
        })
    }

    /// True if some slot's pattern matches the key.
    pub(super) fn reads(self, key: &str) -> bool {
        self.slots().iter().any(|pattern| {
            let (pattern, key): (Vec<_>, Vec<_>) = (pattern.split('/').collect(), key.split('/').collect());
            let fits = |(part, text): (&&str, &&str)| part.starts_with(':') || part == text;
            pattern.len() == key.len() && pattern.iter().zip(&key).all(fits)
        })
    }
}
