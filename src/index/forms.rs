//! The forms of keys: what text the keys of each rule have beside the values that they bind. A key that only one
//! instance reads is recognised by its form, and not stored.
//!
//! All is in few places of memory, because the forms of thousands of rules are looked up in turn.

use crate::compiled::{Binding, CompiledRule, RuleIndex};
use crate::condition::Slot;
use crate::pattern::Segment;
use smallvec::SmallVec;

pub(super) struct Forms {
    /// Where the forms of each rule begin. Those of its slots follow each other.
    rules: Box<[u32]>,
    forms: Box<[Form]>,
}

/// The form of the keys of a slot.
struct Form {
    /// All literal text, in the order in which it is in a key.
    text: Box<str>,
    /// For each value in the order in which it is in a key: how much of the text is before it, and the number of the
    /// attribute.
    values: SmallVec<[(u32, u8); 2]>,
    /// How many attributes the rule has.
    attributes: u8,
}

impl Forms {
    pub(super) fn new(rules: &[CompiledRule]) -> Self {
        let (mut starts, mut forms) = (Vec::with_capacity(rules.len()), Vec::new());
        for rule in rules {
            starts.push(forms.len() as u32);
            forms.extend((0..rule.slots().len()).map(|slot| Form::new(rule, slot)));
        }
        Self { rules: starts.into(), forms: forms.into() }
    }

    /// Whether this is the key of a slot that binds all attributes of its rule.
    pub(super) fn fits(&self, rule: RuleIndex, slot: Slot, binding: &Binding, key: &[u8]) -> bool {
        self.forms[self.rules[rule.index()] as usize + slot.index()].fits(binding, key)
    }
}

impl Form {
    fn new(rule: &CompiledRule, slot: usize) -> Self {
        let pattern = &rule.slots()[slot];
        let (mut text, mut values) = (String::new(), SmallVec::new());
        for (at, segment) in pattern.segments().iter().enumerate() {
            text.push_str(if at > 0 { "/" } else { "" });
            match segment {
                Segment::Literal(literal) => text.push_str(literal),
                Segment::Attribute(at) | Segment::Rest(at) => {
                    let name = &pattern.attributes()[*at];
                    let number = rule.attributes().iter().position(|other| other == name);
                    let number = number.expect("a rule has the attributes of its patterns");
                    values.push((text.len() as u32, number as u8));
                }
            }
        }
        Self { text: text.into(), values, attributes: rule.attributes().len() as u8 }
    }

    fn fits(&self, binding: &Binding, mut key: &[u8]) -> bool {
        let (text, mut before) = (self.text.as_bytes(), 0);
        for &(until, attribute) in &self.values {
            let until = until as usize;
            let value = binding.get_bytes(usize::from(attribute), usize::from(self.attributes));
            let rest = key.strip_prefix(&text[before..until]).and_then(|rest| rest.strip_prefix(value));
            let Some(rest) = rest else { return false };
            (key, before) = (rest, until);
        }
        key == &text[before..]
    }
}
