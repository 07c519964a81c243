//! What a member says it can do, and how it is written in etcd.
//!
//! A member has two keys below `<namespace>members/1/<id>/`, where 1 is the number of the form of all keys
//! (`docs/keys.md`): `able` with [`Abilities`], which change rarely, and `load` with [`MemberLoad`], which changes
//! at most once a second. Both are JSON, and under the member's lease.

use super::load::LoadClass;
use super::rendezvous::fnv;
use crate::compiled::CompiledRule;
use crate::compiled::domain::Constraint;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// Who a member is: a random number, new at each start. Names are for people, and may be equal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct MemberId(u64);

impl MemberId {
    pub(crate) const fn new(id: u64) -> Self {
        Self(id)
    }

    pub(crate) const fn get(self) -> u64 {
        self.0
    }

    /// Of its text; that of anything else is `None`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let id = u64::from_str_radix(text, 16).ok().map(Self)?;
        (id.to_string() == text).then_some(id)
    }
}

/// 16 hexadecimal digits.
impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What tells whether the rules with one id are the same in two engines: a hash of all that decides when an instance is
/// true, and what excludes others from it. The callback can't be compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fingerprint(String);

impl Fingerprint {
    pub(crate) fn of(rule: &CompiledRule) -> Self {
        let optimistic = if rule.options().optimistic { "optimistic" } else { "locked" };
        let lock = rule.lock_pattern().unwrap_or_default();
        let text = [rule.condition_text(), lock, optimistic].join("\0");
        Self(format!("{:016x}", fnv(text.as_bytes())))
    }
}

/// Why a member can't fire a rule at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unable {
    Paused,
    DryRun,
    /// Its rate limit makes instances wait. It is asked last.
    Throttled,
    /// etcd refuses its locks, or the keys that it reads.
    Refused,
}

/// What a member says of one of its rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RuleAbility {
    pub(crate) fingerprint: Fingerprint,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) unable: Option<Unable>,
}

/// What a member can do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Abilities {
    /// Its name, for people.
    pub(crate) engine: Arc<str>,
    /// Of this crate.
    pub(crate) version: String,
    /// It is shutting down, and starts nothing more.
    #[serde(default)]
    pub(crate) draining: bool,
    /// It is behind, or has trouble with etcd. It is asked last.
    #[serde(default)]
    pub(crate) lagging: bool,
    /// By id.
    pub(crate) rules: BTreeMap<Arc<str>, RuleAbility>,
    /// By attribute: how its values must begin.
    #[serde(default)]
    pub(crate) constraints: BTreeMap<Arc<str>, Arc<Constraint>>,
    /// By attribute: the only values that it may have.
    #[serde(default)]
    pub(crate) values: BTreeMap<Arc<str>, Vec<String>>,
}

impl Abilities {
    /// Of an engine with these rules that nothing holds back.
    pub(crate) fn of(engine: Arc<str>, rules: &[CompiledRule]) -> Self {
        let mut this = Self {
            engine,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            draining: false,
            lagging: false,
            rules: BTreeMap::new(),
            constraints: BTreeMap::new(),
            values: BTreeMap::new(),
        };
        for rule in rules {
            let ability = || RuleAbility { fingerprint: Fingerprint::of(rule), unable: None };
            this.rules.entry(rule.id().clone()).or_insert_with(ability);
            for (name, constraint) in rule.constraints() {
                this.constraints.insert(name.clone(), constraint.clone());
            }
            for (name, value) in rule.fixed() {
                let values = this.values.entry(name.into()).or_default();
                if let Err(at) = values.binary_search_by(|known| known.as_str().cmp(value)) {
                    values.insert(at, value.to_owned());
                }
            }
        }
        this
    }

    /// The ids of the rules that only one of the two has, or of which the fingerprints are not the same.
    pub(crate) fn differing<'a>(&'a self, other: &'a Self) -> Vec<&'a str> {
        let ids: BTreeSet<&'a Arc<str>> = self.rules.keys().chain(other.rules.keys()).collect();
        let differs = |id: &&'a Arc<str>| {
            let [ours, theirs] = [self, other].map(|of| of.rules.get(*id).map(|rule| &rule.fingerprint));
            ours != theirs
        };
        ids.into_iter().filter(differs).map(|id| &**id).collect()
    }
}

/// How busy a member is, and whether it sees the fleet as others do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MemberLoad {
    pub(crate) class: LoadClass,
    /// The [digest](super::view::FleetView::digest) of its view, in hexadecimal.
    pub(crate) view: String,
    /// By rule with which it is behind: it has taken what a change up to this revision made due, and what changed later
    /// still waits.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) backlog: BTreeMap<Arc<str>, i64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_comes_back_from_its_text() {
        for id in [1, u64::MAX, 0x0123] {
            let id = MemberId::new(id);
            assert_eq!(MemberId::parse(&id.to_string()), Some(id));
        }
        for text in ["", "1", "+000000000000001", "000000000000000G", "00000000000000001", "ABCDEF0123456789"]
        {
            assert_eq!(MemberId::parse(text), None, "{text}");
        }
    }

    #[test]
    fn rules_differ_by_id_and_by_fingerprint_and_not_by_what_holds_them_back() {
        let abilities = |rules: &str| -> Abilities {
            serde_json::from_str(&format!(r#"{{"engine":"a","version":"0","rules":{{{rules}}}}}"#)).unwrap()
        };
        let one = abilities(r#""a":{"fingerprint":"0"},"b":{"fingerprint":"0"},"c":{"fingerprint":"0"}"#);
        let other = abilities(
            r#""b":{"fingerprint":"1"},"c":{"fingerprint":"0","unable":"paused"},"d":{"fingerprint":"0"}"#,
        );
        assert_eq!(one.differing(&other), ["a", "b", "d"]);
        assert_eq!(other.differing(&one), ["a", "b", "d"]);
        assert_eq!(one.differing(&one), [] as [&str; 0]);
    }

    #[test]
    fn what_an_older_engine_does_not_say_is_as_if_it_could() {
        let text = r#"{"engine":"a","version":"0","rules":{"r":{"fingerprint":"0"}}}"#;
        let abilities: Abilities = serde_json::from_str(text).unwrap();
        assert_eq!((abilities.draining, abilities.lagging), (false, false));
        assert_eq!(abilities.rules["r"].unable, None);
        let again: Abilities = serde_json::from_slice(&serde_json::to_vec(&abilities).unwrap()).unwrap();
        assert_eq!(again, abilities);
    }
}
