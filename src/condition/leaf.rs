//! The leaves of a condition: tests on the values of keys, and how they are shown as text.

use super::compile::Slot;
use super::evaluate::seen_at;
use super::json::{self, FieldIs};
use super::number::{Bound, Number};
use crate::change::Seen;
use crate::limits::{self, Amount};
use crate::value::Value;
use regex::bytes::Regex;
use smallvec::SmallVec;
use std::cmp::Ordering;
use std::sync::Arc;

/// A test and the slots of the keys it reads. The slots are distinct.
#[derive(Clone)]
pub(crate) struct Leaf {
    pub(crate) slots: SmallVec<[Slot; 2]>,
    pub(crate) test: Test,
}

/// What a leaf tests. All tests read one key, except [`Test::AllEqual`]. A regex is shared by all the rules
/// that one rule is expanded to, because each copy would grow a cache of its own.
#[derive(Clone)]
pub(crate) enum Test {
    Absent,
    Exists,
    Equals(Value),
    OneOf(Arc<[Value]>),
    StartsWith(Value),
    Matches(Arc<Regex>),
    Compare { order: Comparison, bound: Bound },
    JsonField(Arc<JsonField>),
    Function { description: Arc<str>, function: Function },
    AllEqual,
}

/// A field of a value that is JSON, and what it is to be.
pub(crate) struct JsonField {
    pointer: String,
    names: Vec<String>,
    expected: serde_json::Value,
}

/// A closure over the value of a key, `None` if the key is absent.
pub(crate) type Function = Arc<dyn Fn(Option<&[u8]>) -> bool + Send + Sync>;

/// How a number is compared with a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comparison {
    Greater,
    AtLeast,
    Less,
    AtMost,
}

/// A malformed test: how it is shown in the text of the condition, and what is wrong with it.
#[derive(Clone)]
pub(crate) struct Malformed {
    pub(super) predicate: String,
    pub(super) reason: String,
}

impl Leaf {
    /// The truth of the leaf. A panic of the user's closure is not caught here.
    pub(super) fn holds(&self, seen: &[Option<Seen>]) -> bool {
        let value = |slot: &Slot| seen_at(seen, *slot).map(|seen| seen.value.as_bytes());
        match self.slots.split_first() {
            Some((first, others)) if matches!(self.test, Test::AllEqual) => {
                others.iter().all(|slot| value(slot) == value(first))
            }
            first => self.test.holds(first.and_then(|(slot, _)| value(slot))),
        }
    }
}

impl Test {
    pub(super) fn matches(regex: &str) -> Result<Self, Malformed> {
        Regex::new(regex).map(|regex| Self::Matches(Arc::new(regex))).map_err(|error| {
            // A syntax error shows its place on several lines. The last line says what is wrong.
            let text = error.to_string();
            let last = text.lines().last().unwrap_or_default();
            let what = last.strip_prefix("error: ").unwrap_or(last);
            Malformed {
                predicate: matches_text(regex),
                reason: format!("{regex:?} is not a regular expression ({what}); correct or escape it"),
            }
        })
    }

    pub(super) fn one_of(values: Vec<Value>) -> Result<Self, Malformed> {
        let count = Amount::Count(values.len() as u64);
        let Some(reason) = limits::mistake(limits::RULE, "the values of one_of", count) else {
            return Ok(Self::OneOf(values.into()));
        };
        let predicate = format!("in {} values", values.len());
        Err(Malformed { predicate, reason: format!("{} values: {reason}", values.len()) })
    }

    pub(super) fn compare(order: Comparison, bound: Number) -> Result<Self, Malformed> {
        let test = Self::Compare { order, bound: Bound::new(bound) };
        if bound.is_comparable() {
            return Ok(test);
        }
        let reason = "nothing compares with \"not a number\"; give a number".to_owned();
        Err(Malformed { predicate: test.predicate(), reason })
    }

    pub(super) fn json_field(pointer: &str, expected: serde_json::Value) -> Result<Self, Malformed> {
        let names = json::names(pointer);
        let test = Self::JsonField(Arc::new(JsonField { pointer: pointer.into(), names, expected }));
        let rooted = pointer.is_empty() || pointer.starts_with('/');
        let escaped = pointer.split('~').skip(1).all(|after| after.starts_with(['0', '1']));
        if rooted && escaped {
            return Ok(test);
        }
        let reason = format!(
            "{pointer:?} is not a JSON pointer; write it like `/field/0`, with `~0` for `~` and `~1` for `/`, \
             or leave it empty for the whole value"
        );
        Err(Malformed { predicate: test.predicate(), reason })
    }

    /// The truth for one key. [`Test::AllEqual`] of a single key is true.
    fn holds(&self, value: Option<&[u8]>) -> bool {
        match (self, value) {
            (Self::Function { function, .. }, _) => function(value),
            (Self::AllEqual, _) => true,
            (Self::Absent, _) => value.is_none(),
            (_, None) => false,
            (Self::Exists, _) => true,
            (Self::Equals(expected), Some(value)) => expected.as_bytes() == value,
            (Self::OneOf(expected), Some(value)) => expected.iter().any(|one| one.as_bytes() == value),
            (Self::StartsWith(prefix), Some(value)) => value.starts_with(prefix.as_bytes()),
            (Self::Matches(regex), Some(value)) => regex.is_match(value),
            (Self::Compare { order, bound }, Some(value)) => {
                bound.compare(value).is_ok_and(|is| order.allows(is))
            }
            (Self::JsonField(field), Some(value)) => {
                matches!(json::compare(value, &field.names, &field.expected), Ok(FieldIs::Equal))
            }
        }
    }

    /// Why the test could not look at what it is about, if it could not: it is false then.
    pub(super) fn obstacle(&self, value: &[u8]) -> Option<String> {
        match self {
            Self::Compare { bound, .. } => Some(bound.compare(value).err()?.to_string()),
            Self::JsonField(field) => match json::compare(value, &field.names, &field.expected) {
                Ok(FieldIs::Missing) => Some(format!("which has nothing at {:?}", field.pointer)),
                Ok(FieldIs::Equal | FieldIs::Different) => None,
                Err(error) => Some(format!("which is no JSON: {error}")),
            },
            _ => None,
        }
    }

    /// The text of a leaf or of its negation, with the given names for its keys.
    pub(super) fn render(&self, names: &[String], negated: bool) -> String {
        match self {
            Self::AllEqual => match names {
                [a, b] if negated => format!("{a} != {b}"),
                _ => format!("{}{}", prefix(negated), names.join(" = ")),
            },
            Self::Equals(value) if negated => format!("{} != {value:?}", names[0]),
            _ => render(names, &self.predicate(), negated),
        }
    }

    fn predicate(&self) -> String {
        match self {
            Self::Absent => "is absent".to_owned(),
            Self::Exists => "exists".to_owned(),
            Self::Equals(value) => format!("= {value:?}"),
            Self::OneOf(values) => format!("in {values:?}"),
            Self::StartsWith(prefix) => format!("starts with {prefix:?}"),
            Self::Matches(regex) => matches_text(regex.as_str()),
            Self::Compare { order, bound } => format!("{} {bound}", order.sign()),
            Self::JsonField(field) => format!("has {:?} = {}", field.pointer, field.expected),
            Self::Function { description, .. } => description.to_string(),
            Self::AllEqual => "equals itself".to_owned(),
        }
    }
}

impl Malformed {
    pub(super) fn render(&self, names: &[String], negated: bool) -> String {
        render(names, &self.predicate, negated)
    }
}

impl Comparison {
    fn allows(self, is: Ordering) -> bool {
        match self {
            Self::Greater => is.is_gt(),
            Self::AtLeast => is.is_ge(),
            Self::Less => is.is_lt(),
            Self::AtMost => is.is_le(),
        }
    }

    fn sign(self) -> &'static str {
        match self {
            Self::Greater => ">",
            Self::AtLeast => ">=",
            Self::Less => "<",
            Self::AtMost => "<=",
        }
    }
}

fn render(names: &[String], predicate: &str, negated: bool) -> String {
    format!("{}{} {predicate}", prefix(negated), names.join(", "))
}

fn prefix(negated: bool) -> &'static str {
    if negated { "not " } else { "" }
}

fn matches_text(regex: &str) -> String {
    format!("matches {regex:?}")
}
