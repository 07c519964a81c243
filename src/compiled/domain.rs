//! Which values attributes may have in an engine. Expansions put fixed values into the patterns. Constraints
//! limit the values that keys may bind.

use crate::pattern::{Attributes, Pattern, Segment};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// The most combinations of expanded values that a rule may have. Each combination is compiled, and takes
/// memory and a place in the index.
pub(crate) const MAX_EXPANSIONS: usize = 1000;

/// The expansions and constraints of an engine, by attribute.
#[derive(Clone, Debug, Default)]
pub(crate) struct Domains {
    expansions: BTreeMap<String, Vec<String>>,
    constraints: BTreeMap<String, Arc<Constraint>>,
}

/// What is wrong with an expansion or a constraint.
#[derive(Debug)]
pub(crate) struct DomainMistake {
    /// `expand` or `constrain`.
    pub(crate) option: &'static str,
    pub(crate) attribute: String,
    pub(crate) reason: String,
}

/// How the values of an attribute must begin: with a text, followed by one character of each set.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Constraint {
    prefix: String,
    sets: Vec<String>,
}

impl Constraint {
    pub(crate) fn allows(&self, value: &str) -> bool {
        let Some(rest) = value.strip_prefix(self.prefix.as_str()) else { return false };
        let mut rest = rest.chars();
        self.sets.iter().all(|set| rest.next().is_some_and(|c| set.contains(c)))
    }

    /// All beginnings of allowed values, made from the prefix and at most `sets` sets. `None` if there are
    /// more than `max`.
    pub(crate) fn beginnings(&self, sets: usize, max: usize) -> Option<Vec<String>> {
        let sets = &self.sets[..sets.min(self.sets.len())];
        let ways = sets.iter().try_fold(1usize, |ways, set| ways.checked_mul(set.chars().count()))?;
        if ways > max {
            return None;
        }
        let mut beginnings = vec![self.prefix.clone()];
        for set in sets {
            let longer = |one: String| set.chars().map(move |c| format!("{one}{c}"));
            beginnings = beginnings.into_iter().flat_map(longer).collect();
        }
        Some(beginnings)
    }

    /// The number of sets.
    pub(crate) fn len(&self) -> usize {
        self.sets.len()
    }
}

/// Shows `begins with s[0123][ab]`.
impl fmt::Display for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "begins with {}", self.prefix)?;
        self.sets.iter().try_for_each(|set| write!(f, "[{set}]"))
    }
}

impl Domains {
    /// Fixes an attribute to these values, without duplicates. It replaces an earlier call for the attribute.
    pub(crate) fn expand(&mut self, attribute: String, values: impl IntoIterator<Item = String>) {
        let mut seen = BTreeSet::new();
        let values = values.into_iter().filter(|value| seen.insert(value.clone())).collect();
        self.expansions.insert(attribute, values);
    }

    /// Limits an attribute. It replaces an earlier call for the attribute.
    pub(crate) fn constrain(
        &mut self,
        attribute: String,
        prefix: String,
        sets: impl IntoIterator<Item = String>,
    ) {
        let sets = sets.into_iter().map(|set| {
            let distinct: BTreeSet<char> = set.chars().collect();
            distinct.into_iter().collect()
        });
        self.constraints.insert(attribute, Arc::new(Constraint { prefix, sets: sets.collect() }));
    }

    pub(crate) fn constraint(&self, attribute: &str) -> Option<&Arc<Constraint>> {
        self.constraints.get(attribute)
    }

    /// The combinations of values for the expanded ones among these attributes. If none is expanded, there is
    /// one empty combination. If there are too many, the error is their number.
    pub(crate) fn combinations(&self, attributes: &[Arc<str>]) -> Result<Vec<Attributes>, usize> {
        let expanded: Vec<(&Arc<str>, &Vec<String>)> =
            attributes.iter().filter_map(|name| Some((name, self.expansions.get(&**name)?))).collect();
        let count = expanded.iter().fold(1usize, |count, (_, values)| count.saturating_mul(values.len()));
        if count > MAX_EXPANSIONS {
            return Err(count);
        }
        let mut combinations = vec![Attributes::new()];
        for (name, values) in expanded {
            let with = |fixed: Attributes| {
                values.iter().map(move |value| {
                    let mut fixed = fixed.clone();
                    fixed.insert(name.clone(), value.clone());
                    fixed
                })
            };
            combinations = combinations.into_iter().flat_map(with).collect();
        }
        Ok(combinations)
    }

    /// A pattern with an attribute whose expanded value can't be one segment.
    pub(crate) fn misfit<'a>(&'a self, slots: &'a [Pattern]) -> Option<(&'a Pattern, &'a str, &'a str)> {
        slots.iter().find_map(|pattern| {
            pattern.segments().iter().find_map(|segment| {
                let Segment::Attribute(at) = segment else { return None };
                let name = &*pattern.attributes()[*at];
                let value = self.expansions.get(name)?.iter().find(|value| value.contains('/'))?;
                Some((pattern, name, value.as_str()))
            })
        })
    }

    /// The mistakes in these options themselves. `used` holds the attributes of all rules.
    pub(crate) fn mistakes(&self, used: &BTreeSet<Arc<str>>) -> Vec<DomainMistake> {
        let mut mistakes = Vec::new();
        let mut wrong = |option: &'static str, attribute: &str, reason: &str| {
            let (attribute, reason) = (attribute.to_owned(), reason.to_owned());
            mistakes.push(DomainMistake { option, attribute, reason });
        };
        for (attribute, values) in &self.expansions {
            if values.is_empty() {
                wrong("expand", attribute, "there is no value, so that no rule with it could ever fire");
            }
            if values.iter().any(String::is_empty) {
                wrong("expand", attribute, "a value is empty, which no segment of a key can be");
            }
            if !used.contains(attribute.as_str()) {
                wrong("expand", attribute, "no rule has this attribute");
            }
        }
        for (attribute, Constraint { prefix, sets }) in
            self.constraints.iter().map(|(name, constraint)| (name, &**constraint))
        {
            if prefix.is_empty() && sets.is_empty() {
                wrong("constrain", attribute, "neither a prefix nor a set of characters is given");
            }
            if sets.iter().any(String::is_empty) {
                wrong("constrain", attribute, "a set has no characters, so that no key could ever match");
            }
            if prefix.contains('/') || sets.iter().any(|set| set.contains('/')) {
                wrong("constrain", attribute, "a slash can't be part of a segment");
            }
            if self.expansions.contains_key(attribute) {
                wrong("constrain", attribute, "it is expanded, which leaves nothing to constrain");
            } else if !used.contains(attribute.as_str()) {
                wrong("constrain", attribute, "no rule has this attribute");
            }
        }
        mistakes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn constraint(prefix: &str, sets: &[&str]) -> Arc<Constraint> {
        let mut domains = Domains::default();
        domains.constrain("id".into(), prefix.into(), sets.iter().map(|set| (*set).to_owned()));
        domains.constraint("id").unwrap().clone()
    }

    #[test]
    fn a_constraint_looks_at_the_first_characters() {
        let hex = constraint("s", &["0ä", "ab"]);
        for (value, allowed) in [
            ("s0a", true),
            ("säb", true),
            ("s0a-and-more", true),
            ("s0", false),
            ("s0c", false),
            ("sa0", false),
            ("x0a", false),
            ("", false),
        ] {
            assert_eq!(hex.allows(value), allowed, "{value}");
        }
        assert!(constraint("only-", &[]).allows("only-this"));
        assert_eq!(hex.to_string(), "begins with s[0ä][ab]");
    }

    #[test]
    fn beginnings_are_as_many_as_allowed_or_none() {
        let two = constraint("s", &["aab", "xyz"]);
        assert_eq!(two.beginnings(0, 1).unwrap(), ["s"]);
        assert_eq!(two.beginnings(1, 2).unwrap(), ["sa", "sb"]);
        assert_eq!(two.beginnings(9, 6).unwrap(), ["sax", "say", "saz", "sbx", "sby", "sbz"]);
        assert_eq!(two.beginnings(2, 5), None);
    }

    #[test]
    fn combinations_are_the_cross_product_of_what_is_expanded() {
        let mut domains = Domains::default();
        domains.expand("geo".into(), ["na", "eu", "na"].map(String::from));
        domains.expand("env".into(), ["dev", "prod"].map(String::from));
        let text = |attributes: &[&str]| {
            let names: Vec<Arc<str>> = attributes.iter().map(|name| (*name).into()).collect();
            let all = domains.combinations(&names).unwrap();
            all.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(text(&["id"]), [""]);
        assert_eq!(text(&["geo", "id"]), ["geo=na", "geo=eu"]);
        let both = ["env=dev geo=na", "env=prod geo=na", "env=dev geo=eu", "env=prod geo=eu"];
        assert_eq!(text(&["geo", "env"]), both);
        domains.expand("geo".into(), (0..501).map(|n| n.to_string()));
        assert_eq!(domains.combinations(&["geo".into(), "env".into()]), Err(1002));
    }
}
