//! A span of keys, as `key` and `range_end` of a request describe it.

use std::ops::Bound;

/// One key, or the keys from one on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Span {
    start: Vec<u8>,
    end: End,
}

type Bounds<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    /// Only the start itself.
    Start,
    /// Up to this key, without it.
    Before(Vec<u8>),
    Infinite,
}

impl Span {
    /// An empty `range_end` means one key, a zero byte means everything from `key` on.
    pub(super) fn new(key: &[u8], range_end: &[u8]) -> Self {
        let end = match range_end {
            [] => End::Start,
            [0] => End::Infinite,
            end => End::Before(end.to_vec()),
        };
        Self { start: key.to_vec(), end }
    }

    pub(super) fn start(&self) -> &[u8] {
        &self.start
    }

    /// Goes on, without a gap, at least to just before this key.
    pub(super) fn reaches(&self, key: &[u8]) -> bool {
        match &self.end {
            End::Start => {
                self.start.as_slice() >= key || key.strip_prefix(self.start.as_slice()) == Some(&[0])
            }
            End::Before(end) => end.as_slice() >= key,
            End::Infinite => true,
        }
    }

    /// Has keys after all of those of the other.
    pub(super) fn ends_after(&self, other: &Self) -> bool {
        match (&self.end, &other.end) {
            (_, End::Infinite) => false,
            (End::Infinite, _) => true,
            (End::Before(end), End::Before(others)) => end > others,
            (End::Start, End::Before(others)) => self.start >= *others,
            (End::Start, End::Start) => self.start > other.start,
            // The next key after one is that with a zero byte more.
            (End::Before(end), End::Start) => *end > [other.start.as_slice(), &[0]].concat(),
        }
    }

    /// Both have a key.
    pub(super) fn meets(&self, other: &Self) -> bool {
        let starts_before_end = |one: &Self, other: &Self| match &other.end {
            End::Start => one.start <= other.start,
            End::Before(end) => one.start < *end,
            End::Infinite => true,
        };
        starts_before_end(self, other) && starts_before_end(other, self)
    }

    /// Empty because it ends where it starts, or before.
    pub(super) fn is_inverted(&self) -> bool {
        matches!(&self.end, End::Before(end) if *end <= self.start)
    }

    pub(super) fn contains(&self, key: &[u8]) -> bool {
        match &self.end {
            End::Start => key == self.start,
            End::Before(end) => key >= self.start.as_slice() && key < end.as_slice(),
            End::Infinite => key >= self.start.as_slice(),
        }
    }

    /// For `BTreeMap::range`, which panics at inverted bounds: `None` for those.
    pub(super) fn bounds(&self) -> Option<Bounds<'_>> {
        let start = Bound::Included(self.start.as_slice());
        match &self.end {
            _ if self.is_inverted() => None,
            End::Start => Some((start, Bound::Included(self.start.as_slice()))),
            End::Before(end) => Some((start, Bound::Excluded(end.as_slice()))),
            End::Infinite => Some((start, Bound::Unbounded)),
        }
    }
}
