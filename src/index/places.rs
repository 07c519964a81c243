//! Places in the tables of the index, each of a type of its own. They are small because an index with millions of keys
//! has several of them for each.

use crate::typed_index::typed_index;

/// The place of an instance in the table of instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct InstanceIndex(u32);
typed_index!(InstanceIndex(u32));

/// The place of a group in the table of groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GroupIndex(u32);
typed_index!(GroupIndex(u32));

/// The place of an instance among the members of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MemberIndex(u32);
typed_index!(MemberIndex(u32));

/// The place of an entry of the mirror; valid until the entry is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct EntryId(u32);
typed_index!(EntryId(u32));

impl EntryId {
    /// No entry: the key is absent and has no tombstone.
    pub(crate) const NONE: Self = Self(u32::MAX);
}

/// Which view: a number that no other view of the index had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ViewId(u32);

impl ViewId {
    /// Before the first view.
    pub(crate) const NONE: Self = Self(0);

    pub(crate) const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}
