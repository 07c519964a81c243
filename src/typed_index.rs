//! Places in a table as types, so that a place in one table can't be taken for a place in another.

/// A place in a table, of a type of its own; made by [`typed_index!`].
pub(crate) trait TypedIndex: Copy + PartialEq {
    /// The place with this number.
    fn at(index: usize) -> Self;

    /// Its number.
    fn place(self) -> usize;
}

/// Makes a place in a table of a struct of one integer, which is declared beside it:
///
/// ```ignore
/// #[derive(Clone, Copy, PartialEq)]
/// struct GroupIndex(u32);
/// typed_index!(GroupIndex(u32));
/// ```
///
/// It is as large as the integer. A number that the integer has no room for is cut off, as with `as`: tables are
/// smaller than that.
macro_rules! typed_index {
    ($name:ident($integer:ty)) => {
        impl $name {
            pub(crate) const fn new(index: usize) -> Self {
                Self(index as $integer)
            }

            pub(crate) const fn index(self) -> usize {
                self.0 as usize
            }
        }

        impl $crate::typed_index::TypedIndex for $name {
            fn at(index: usize) -> Self {
                Self::new(index)
            }

            fn place(self) -> usize {
                self.index()
            }
        }

        const _: () = assert!(size_of::<$name>() == size_of::<$integer>());
    };
}

pub(crate) use typed_index;
