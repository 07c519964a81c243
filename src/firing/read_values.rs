//! The values that a callback read, of which its errors may not tell.

use crate::value::Value;

/// How many bytes of values are kept, and how many values. After that, errors of the callback are hidden as a whole.
const BYTES: usize = 1 << 20;
const VALUES: usize = 128;

#[derive(Debug, Default)]
pub(super) struct ReadValues {
    values: Vec<Value>,
    bytes: usize,
    too_many: bool,
}

impl ReadValues {
    pub(super) fn add(&mut self, value: &Value) {
        self.bytes = self.bytes.saturating_add(value.len());
        self.too_many |= self.bytes > BYTES || self.values.len() == VALUES;
        if self.too_many {
            self.values = Vec::new();
        } else {
            self.values.push(value.clone());
        }
    }

    /// The callback may read what it likes, and nobody sees what.
    pub(super) fn add_unknown(&mut self) {
        self.too_many = true;
        self.values = Vec::new();
    }

    /// All of them, or `None` if they were too many or are not known.
    pub(super) fn all(&self) -> Option<&[Value]> {
        (!self.too_many).then_some(&self.values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_are_kept_and_more_are_none() {
        let mut read = ReadValues::default();
        (0..VALUES).for_each(|_| read.add(&"x".into()));
        assert_eq!(read.all().map(<[Value]>::len), Some(VALUES));
        read.add(&"x".into());
        assert_eq!(read.all(), None);
        let mut unknown = ReadValues::default();
        unknown.add(&"x".into());
        unknown.add_unknown();
        assert_eq!((unknown.all(), unknown.values.len()), (None, 0));
        let mut large = ReadValues::default();
        large.add(&vec![0; BYTES].into());
        assert!(large.all().is_some());
        large.add(&"x".into());
        assert_eq!((large.all(), large.values.len()), (None, 0));
        large.add(&"x".into());
        assert_eq!(large.all(), None);
    }
}
