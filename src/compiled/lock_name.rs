//! The names of locks and marks. They depend on a rule's id, on the text of its lock pattern, and on the values of the
//! attributes by name. They don't depend on how the condition is written, so that two versions of a rule exclude each
//! other. `docs/keys.md` describes the keys.

use super::{Binding, CompiledRule};
use crate::pattern::Segment;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::sync::Arc;

/// The characters that are escaped in a part of a name, among them the separator of parts.
const PART: &AsciiSet = &CONTROLS.add(b'/').add(b'%');

/// The most bytes of a name that stands in a key as it is.
pub(crate) const LONGEST_NAME: usize = 256;

/// What stands in the place of a longer name is this and its digest in hexadecimal. No name begins so: in names, two
/// hexadecimal digits follow a `%`.
const DIGEST: &str = "%sha256/";

/// The bytes of a longer name that its key's value tells.
const BEGINNING: usize = 128;

/// The beginning of a name that was replaced by its digest.
pub(crate) type Beginning = Box<str>;

/// The attributes in the order of their names.
pub(super) fn by_name(all: &[Arc<str>]) -> Vec<u8> {
    let mut order: Vec<u8> = (0..all.len() as u8).collect();
    order.sort_by_key(|at| &all[usize::from(*at)]);
    order
}

impl CompiledRule {
    /// Appends the key of an instance's lock.
    pub(crate) fn write_lock_key(
        &self,
        namespace: &str,
        binding: &Binding,
        key: &mut String,
    ) -> Option<Beginning> {
        key.push_str(namespace);
        key.push_str("lock/");
        shortened(key, |key| match &self.lock {
            None => self.write_instance(binding, key),
            Some(pattern) => {
                // An id is never empty: the empty part before the pattern's keeps its locks apart from those of rules.
                for (at, segment) in pattern.segments().iter().enumerate() {
                    if at > 0 || !matches!(segment, Segment::Literal(text) if text.is_empty()) {
                        key.push('/');
                    }
                    let part = match segment {
                        Segment::Literal(text) => text,
                        Segment::Attribute(at) | Segment::Rest(at) => {
                            self.named(&pattern.attributes()[*at], binding)
                        }
                    };
                    write_encoded(part, key);
                }
            }
        })
    }

    /// Appends the key that holds other engines back after a failure of the instance.
    pub(crate) fn write_backoff_key(
        &self,
        namespace: &str,
        binding: &Binding,
        key: &mut String,
    ) -> Option<Beginning> {
        key.push_str(namespace);
        key.push_str("backoff/");
        shortened(key, |key| self.write_instance(binding, key))
    }

    /// The value of an attribute of the rule.
    fn named<'b>(&'b self, name: &str, binding: &'b Binding) -> &'b str {
        self.values(binding).find(|(other, _)| ***other == *name).map_or("", |(_, value)| value)
    }

    fn write_instance(&self, binding: &Binding, key: &mut String) {
        write_encoded(&self.id, key);
        for at in &self.by_name {
            key.push('/');
            write_encoded(self.value_at(usize::from(*at), binding), key);
        }
    }
}

/// Values are encoded, so that no value can produce the name of another instance.
fn write_encoded(part: &str, key: &mut String) {
    let is_escaped = |byte: u8| !(b' '..=b'~').contains(&byte) | (byte == b'/') | (byte == b'%');
    // Most parts have nothing to escape. All bytes are looked at, so that many are at once.
    if !part.bytes().fold(false, |any, byte| any | is_escaped(byte)) {
        key.push_str(part);
    } else {
        key.extend(utf8_percent_encode(part, PART));
    }
}

/// Appends a name, or its digest if it is long: then its beginning is returned.
fn shortened(key: &mut String, write: impl FnOnce(&mut String)) -> Option<Beginning> {
    let start = key.len();
    write(key);
    if key.len() - start <= LONGEST_NAME {
        return None;
    }
    let name = &key[start..];
    // What is encoded is ASCII.
    let beginning = name[..BEGINNING].into();
    let digest = Sha256::digest(name);
    key.truncate(start);
    key.push_str(DIGEST);
    for byte in digest {
        // Into a string, which takes everything.
        let _ = write!(key, "{byte:02x}");
    }
    Some(beginning)
}

#[cfg(test)]
mod tests;
