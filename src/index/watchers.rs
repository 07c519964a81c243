//! Which watcher: the one that covers a prefix of keys.

/// The place of a watcher's prefix in the order of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WatcherIndex(u16);

impl WatcherIndex {
    pub(crate) const FIRST: Self = Self(0);

    pub(crate) const fn new(index: usize) -> Self {
        Self(index as u16)
    }

    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }

    /// Those of so many prefixes.
    pub(crate) fn all(count: usize) -> impl Iterator<Item = Self> {
        (0..count).map(Self::new)
    }
}
