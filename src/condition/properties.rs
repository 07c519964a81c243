//! Random conditions on random states: the evaluator is compared with a naive oracle, and witnesses must
//! prove what they claim.

use super::*;
use crate::change::{Revision, Seen};
use crate::pattern::Attributes;
use crate::properties::{check, made_of};
use crate::value::Value;
use proptest::prelude::*;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

const KEYS: [&str; 4] = ["/a", "/b", "/c", "/d"];

/// The values that occur. Among them are numbers, JSON, bytes that are not text, and two values that are too
/// long to be compared directly.
fn values() -> Vec<Vec<u8>> {
    let long = |byte: u8, len| vec![byte; len];
    let mut values: Vec<Vec<u8>> =
        [&b""[..], b"a", b"ab", b"7", b"7.5", b"{\"f\":7}", b"\xff"].map(<[u8]>::to_vec).into();
    values.extend([long(b'a', MAX_VALUE_IN_CHECK), long(b'a', MAX_VALUE_IN_CHECK + 1), long(b'7', 300)]);
    values
}

/// A condition as data, whose meaning is defined a second time in the most obvious way. Numbers stand for
/// keys and values.
#[derive(Clone, Debug)]
enum Model {
    Absent(usize),
    Exists(usize),
    Equals(usize, usize),
    NotEquals(usize, usize),
    OneOf(usize, Vec<usize>),
    StartsWith(usize, usize),
    HasA(usize),
    MoreThan7(usize),
    FieldIs7(usize),
    LongOrAbsent(usize),
    AllEqual(BTreeSet<usize>),
    Not(Box<Model>),
    All(Vec<Model>),
    Any(Vec<Model>),
}

/// What is seen of each key, indexed by its number.
type State = Vec<Option<Seen>>;

impl Model {
    fn condition(&self) -> Condition {
        let value = |number: &usize| values()[*number].clone();
        let key = |number: &usize| key(KEYS[*number]);
        match self {
            Self::Absent(k) => key(k).absent(),
            Self::Exists(k) => key(k).exists(),
            Self::Equals(k, v) => key(k).equals(value(v)),
            Self::NotEquals(k, v) => key(k).not_equals(value(v)),
            Self::OneOf(k, vs) => key(k).one_of(vs.iter().map(value)),
            Self::StartsWith(k, v) => key(k).starts_with(value(v)),
            Self::HasA(k) => key(k).matches("a"),
            Self::MoreThan7(k) => key(k).greater_than(7),
            Self::FieldIs7(k) => key(k).json_field("/f", 7),
            Self::LongOrAbsent(k) => {
                key(k).compare("is long", |value| value.is_none_or(|value| value.len() > 2))
            }
            Self::AllEqual(ks) => all_equal(ks.iter().map(|k| KEYS[*k])),
            Self::Not(model) => !model.condition(),
            Self::All(models) => Condition::all(models.iter().map(Self::condition)),
            // Both ways to write an `or`.
            Self::Any(models) if models.len() == 2 => models[0].condition() | models[1].condition(),
            Self::Any(models) => Condition::any(models.iter().map(Self::condition)),
        }
    }

    fn holds(&self, state: &State) -> bool {
        let values = values();
        let found = |k: &usize| state[*k].as_ref().map(|seen| seen.value.as_bytes());
        let is = |k: &usize, v: &usize| found(k) == Some(&values[*v][..]);
        match self {
            Self::Absent(k) => found(k).is_none(),
            Self::Exists(k) => found(k).is_some(),
            Self::Equals(k, v) => is(k, v),
            Self::NotEquals(k, v) => !is(k, v),
            Self::OneOf(k, vs) => vs.iter().any(|v| is(k, v)),
            Self::StartsWith(k, v) => found(k).is_some_and(|value| value.starts_with(&values[*v])),
            Self::HasA(k) => found(k).is_some_and(|value| value.contains(&b'a')),
            Self::MoreThan7(k) => {
                found(k).is_some_and(|value| value == b"7.5" || value.len() == 300 && value[0] == b'7')
            }
            Self::FieldIs7(k) => found(k) == Some(b"{\"f\":7}"),
            Self::LongOrAbsent(k) => found(k).is_none_or(|value| value.len() > 2),
            Self::AllEqual(ks) => ks.iter().all(|k| ks.iter().all(|other| found(k) == found(other))),
            Self::Not(model) => !model.holds(state),
            Self::All(models) => models.iter().filter(|model| !model.holds(state)).count() == 0,
            Self::Any(models) => models.iter().filter(|model| model.holds(state)).count() > 0,
        }
    }
}

fn models() -> impl Strategy<Value = Model> {
    let (k, v) = (|| 0..KEYS.len(), || 0..values().len());
    let leaf = prop_oneof![
        k().prop_map(Model::Absent),
        k().prop_map(Model::Exists),
        (k(), v()).prop_map(|(k, v)| Model::Equals(k, v)),
        (k(), v()).prop_map(|(k, v)| Model::NotEquals(k, v)),
        (k(), prop::collection::vec(v(), 1..4)).prop_map(|(k, vs)| Model::OneOf(k, vs)),
        (k(), v()).prop_map(|(k, v)| Model::StartsWith(k, v)),
        k().prop_map(Model::HasA),
        k().prop_map(Model::MoreThan7),
        k().prop_map(Model::FieldIs7),
        k().prop_map(Model::LongOrAbsent),
        prop::collection::btree_set(k(), 2..=3).prop_map(Model::AllEqual),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let several = || prop::collection::vec(inner.clone(), 0..4);
        prop_oneof![
            1 => inner.clone().prop_map(|model| Model::Not(model.into())),
            2 => several().prop_map(Model::All),
            2 => several().prop_map(Model::Any),
        ]
    })
}

/// States in which a third of the keys are absent and values often equal.
fn states() -> impl Strategy<Value = State> {
    let value = prop_oneof![1 => Just(1), 3 => 0..values().len()];
    let seen = (value, 1..1_000_i64).prop_map(|(value, mod_revision)| Seen {
        value: Value::from(values().swap_remove(value)),
        mod_revision: Revision::new(mod_revision),
    });
    prop::collection::vec(prop::option::weighted(0.66, seen), KEYS.len())
}

/// What the compiled condition reads, by slot.
fn by_slot(compiled: &Compiled, state: &State) -> Vec<Option<Seen>> {
    let number = |text| KEYS.iter().position(|key| *key == text).unwrap();
    compiled.slots.iter().map(|pattern| state[number(pattern.as_str())].clone()).collect()
}

/// Whether etcd would find that a check holds `now`, if its witness was made from what was seen `then`.
fn holds(of: &Compiled, check: &Check, then: &[Option<Seen>], now: &[Option<Seen>]) -> bool {
    let (then, now) = (&then[check.slot().index()], &now[check.slot().index()]);
    let Some(now) = now else { return matches!(check, Check::Absent(_)) };
    match (check, then) {
        (Check::Absent(_), _) => false,
        (Check::Exists(_), _) => true,
        (Check::ValueIs(_), then) => then.as_ref().is_some_and(|then| then.value == now.value),
        (Check::ValueIsNot(_, leaf), _) => now.value.as_bytes() != of.literal(*leaf),
        (Check::Unchanged(_), then) => {
            then.as_ref().is_some_and(|then| then.mod_revision == now.mod_revision)
        }
    }
}

/// The truth, on which all ways to evaluate agree.
fn truth_by_all(model: &Model, state: &State) -> Result<bool, TestCaseError> {
    let (condition, expected) = (model.condition(), model.holds(state));
    let compiled = condition.compile().unwrap();
    let seen = by_slot(&compiled, state);
    prop_assert_eq!(compiled.truth(&seen), expected, "the truth of {}", condition);
    prop_assert_eq!(compiled.evaluate(&seen).truth, expected, "the verdict on {}", condition);
    prop_assert_eq!(compiled.explain(&seen, |slot| slot.index().to_string()).truth, expected);
    let map: BTreeMap<&str, &Value> =
        KEYS.iter().zip(state).filter_map(|(key, seen)| Some((*key, &seen.as_ref()?.value))).collect();
    prop_assert_eq!(condition.evaluate_on(&Attributes::new(), map).unwrap().truth, expected);
    Ok(expected)
}

/// A target of [`fuzz`](crate::fuzz): the bytes choose a condition and what is seen of its keys.
pub(crate) fn attack(bytes: &[u8]) {
    if let Some((model, state)) = made_of(bytes, &(models(), states())) {
        truth_by_all(&model, &state).unwrap();
    }
}

#[test]
fn every_way_to_evaluate_agrees_with_the_oracle() {
    let truths = Cell::new(0);
    check(4096, &(models(), states()), |(model, state)| {
        truths.set(truths.get() + u32::from(truth_by_all(&model, &state)?));
        Ok(())
    });
    assert!((1000..3100).contains(&truths.get()), "{truths:?} of 4096 are true");
}

#[test]
fn a_witness_holds_and_proves_the_truth_in_every_state_in_which_it_holds() {
    let (differ, free) = (Cell::new(0), Cell::new(0));
    let others = prop::collection::vec(states(), 4);
    check(4096, &(models(), states(), others), |(model, state, others)| {
        let condition = model.condition();
        let compiled = condition.compile().unwrap();
        let then = by_slot(&compiled, &state);
        let Evaluation { truth, witness } = compiled.evaluate(&then);
        for check in &witness {
            prop_assert!(holds(&compiled, check, &then, &then), "{:?} of {} does not hold", check, condition);
        }
        let slots: BTreeSet<Slot> = witness.iter().map(Check::slot).collect();
        prop_assert_eq!(slots.len(), witness.len(), "one check a key: {:?}", witness);
        for other in others {
            // Take any state, and change no more of it than the witness demands.
            let mut now = by_slot(&compiled, &other);
            for check in &witness {
                if holds(&compiled, check, &then, &now) {
                    free.set(free.get() + 1);
                    // etcd never has the same revision with another value, so a chance match must not count.
                    if !matches!(check, Check::Unchanged(_)) {
                        continue;
                    }
                }
                let slot = check.slot().index();
                let before = then[slot].clone();
                now[slot] = match check {
                    Check::ValueIs(_) => {
                        before.map(|seen| Seen { mod_revision: Revision::new(5000), ..seen })
                    }
                    Check::ValueIsNot(_, leaf) => {
                        let longer = [compiled.literal(*leaf), b"!"].concat();
                        Some(Seen { value: longer.into(), mod_revision: Revision::new(5000) })
                    }
                    Check::Absent(_) | Check::Exists(_) | Check::Unchanged(_) => before,
                };
            }
            for check in &witness {
                prop_assert!(holds(&compiled, check, &then, &now), "the test must make {:?} hold", check);
            }
            prop_assert_eq!(compiled.truth(&now), truth, "{} with {:?} in {:?}", condition, witness, now);
            differ.set(differ.get() + u32::from(now != then));
        }
        Ok(())
    });
    assert!(
        differ.get() > 7_000 && free.get() > 3_000,
        "{differ:?} other states, {free:?} checks held by chance"
    );
}
