//! The values of a rule's attributes for one instance, packed together.

use crate::value::Value;
use smallvec::SmallVec;
use std::fmt;

/// The bytes of a binding before it is allocated.
pub(crate) type Packed = SmallVec<[u8; 128]>;

/// Values in the order of their rule's attributes. They are kept as a [`Value`] is: few bytes inline, without memory of
/// their own, and more in memory that clones share.
///
/// Layout: the end offset of every value except the last, and then the text of all values.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Binding(Value);

/// The bytes of an offset.
const OFFSET: usize = size_of::<u32>();

impl Binding {
    pub(crate) fn new<'a>(values: impl ExactSizeIterator<Item = &'a str> + Clone) -> Self {
        let mut packed = Packed::new();
        Self::pack(values, &mut packed);
        Self::of(&packed)
    }

    /// A binding of the bytes that [`Binding::pack`] wrote.
    pub(crate) fn of(packed: &[u8]) -> Self {
        Self(packed.into())
    }

    /// Writes the bytes of a binding, which are enough to look for one that may exist.
    ///
    /// They go into a buffer of the caller's. To return a buffer would copy bytes that have only just been
    /// written, and such a copy waits until all earlier writes have reached the cache.
    pub(crate) fn pack<'a>(values: impl ExactSizeIterator<Item = &'a str> + Clone, packed: &mut Packed) {
        packed.clear();
        let count = values.len();
        let mut end = 0u32;
        for value in values.clone().take(count.saturating_sub(1)) {
            end += value.len() as u32;
            packed.extend_from_slice(&end.to_le_bytes());
        }
        for value in values {
            packed.extend_from_slice(value.as_bytes());
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// The value at `index`. `count` is the number of values.
    pub(crate) fn get(&self, index: usize, count: usize) -> &str {
        std::str::from_utf8(self.get_bytes(index, count)).expect("packed from text")
    }

    /// The bytes of the same value, which needs no look at whether they are text.
    pub(crate) fn get_bytes(&self, index: usize, count: usize) -> &[u8] {
        let (offsets, text) = self.bytes().split_at((count.max(1) - 1) * OFFSET);
        let offset = |i: usize| {
            let bytes = offsets[i * OFFSET..][..OFFSET].try_into().expect("so long");
            u32::from_le_bytes(bytes) as usize
        };
        let start = if index == 0 { 0 } else { offset(index - 1) };
        let end = if index + 1 == count { text.len() } else { offset(index) };
        &text[start..end]
    }
}

impl fmt::Debug for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Binding({})", self.bytes().escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_comes_back() {
        for values in
            [vec![], vec!["a"], vec!["", "b"], vec!["eu", "server-7", "ü/x"], vec!["a", "", "c", ""]]
        {
            let binding = Binding::new(values.iter().copied());
            let back: Vec<&str> = (0..values.len()).map(|i| binding.get(i, values.len())).collect();
            assert_eq!(back, values);
        }
    }

    #[test]
    fn long_values_come_back_too() {
        let values = [127, 128, 16_383, 16_384, 2_097_152].map(|length| "ü".repeat(length / 2) + "x");
        let all = || values.iter().map(String::as_str);
        let binding = Binding::new(all());
        for (at, value) in all().enumerate() {
            assert!(binding.get(at, values.len()) == value, "{at}");
        }
    }

    #[test]
    fn values_that_join_to_the_same_text_differ() {
        assert_ne!(Binding::new(["ab", "c"].into_iter()), Binding::new(["a", "bc"].into_iter()));
    }
}
