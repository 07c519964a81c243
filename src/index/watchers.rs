//! Which watcher: the one that covers a prefix of keys.

use crate::typed_index::typed_index;

/// The place of a watcher's prefix in the order of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WatcherIndex(u16);
typed_index!(WatcherIndex(u16));

impl WatcherIndex {
    pub(crate) const FIRST: Self = Self(0);

    /// Those of so many prefixes.
    pub(crate) fn all(count: usize) -> impl Iterator<Item = Self> {
        (0..count).map(Self::new)
    }
}
