//! Hash tables of small numbers. A number is the place of something that is stored, and compared, elsewhere.
//!
//! Half of the hash is kept beside the number. So a table can grow without reading the millions of keys that
//! its numbers stand for, none of which is in the processor's cache. A lookup that finds nothing mostly reads
//! one cache line. A table that keeps the tags of its slots separately reads two.

use crate::typed_index::TypedIndex;
use std::marker::PhantomData;

/// A free slot. It is zero, so that the allocator can return zeroed memory for a new table without a pass
/// over it.
const FREE: u64 = 0;

/// The slots of the smallest table that isn't empty.
const FEWEST: usize = 8;

/// The half of a hash that is kept in a slot.
const HASH: u64 = 0xffff_ffff_0000_0000;

/// A table with open addressing. The slots are in the order of their hashes as far as possible: if a place is
/// taken, the next free one is used.
pub(super) struct Table<I> {
    /// The slots. Their number is a power of two, or zero. Each holds half of a hash in its upper half, and
    /// the number plus one in its lower half.
    slots: Vec<u64>,
    taken: usize,
    places: PhantomData<I>,
}

impl<I> Default for Table<I> {
    fn default() -> Self {
        Self { slots: Vec::new(), taken: 0, places: PhantomData }
    }
}

impl<I: TypedIndex> Table<I> {
    pub(super) fn find(&self, hash: u64, is: impl Fn(I) -> bool) -> Option<I> {
        self.place(hash, is).map(|at| number(self.slots[at]))
    }

    /// Reads the slot where a lookup begins, so that it is in the processor's cache by then.
    pub(super) fn touch(&self, hash: u64) -> u64 {
        self.slots.get(self.home(hash)).copied().unwrap_or(FREE)
    }

    /// Adds a number that is not there yet.
    pub(super) fn insert(&mut self, hash: u64, number: I) {
        let number = number.place() as u64;
        debug_assert!(number < u64::from(u32::MAX), "one more than the number must fit");
        self.reserve(1);
        self.taken += 1;
        self.add(hash & HASH | (number + 1));
    }

    /// Makes room for `more` numbers.
    pub(super) fn reserve(&mut self, more: usize) {
        let wanted = self.taken.saturating_add(more);
        if wanted > room(self.slots.len()) {
            let mut slots = (self.slots.len() * 2).max(FEWEST);
            while wanted > room(slots) {
                slots *= 2;
            }
            // The old slots are in the order of their hashes, so the new table is written from front to back.
            let old = std::mem::replace(&mut self.slots, vec![FREE; slots]);
            old.into_iter().filter(|&slot| slot != FREE).for_each(|slot| self.add(slot));
        }
    }

    /// Gives back what is not needed for the numbers that are there.
    pub(super) fn shrink(&mut self) {
        let mut slots = if self.taken == 0 { 0 } else { FEWEST };
        while self.taken > room(slots) {
            slots *= 2;
        }
        if slots < self.slots.len() {
            let old = std::mem::replace(&mut self.slots, vec![FREE; slots]);
            old.into_iter().filter(|&slot| slot != FREE).for_each(|slot| self.add(slot));
        }
    }

    pub(super) fn remove(&mut self, hash: u64, number: I) {
        let Some(mut hole) = self.place(hash, |other| other == number) else { return };
        self.taken -= 1;
        let mask = self.slots.len() - 1;
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let slot = self.slots[at];
            if slot == FREE {
                break;
            }
            // A slot that was displaced past the hole moves into it.
            let went = at.wrapping_sub(self.home(slot)) & mask;
            if went >= at.wrapping_sub(hole) & mask {
                self.slots[hole] = slot;
                hole = at;
            }
        }
        self.slots[hole] = FREE;
    }

    /// Where a number lies.
    fn place(&self, hash: u64, is: impl Fn(I) -> bool) -> Option<usize> {
        let mask = self.slots.len().checked_sub(1)?;
        let mut at = self.home(hash);
        loop {
            let slot = self.slots[at];
            if slot == FREE {
                return None;
            }
            if slot & HASH == hash & HASH && is(number(slot)) {
                return Some(at);
            }
            at = (at + 1) & mask;
        }
    }

    /// Where the lookup of a hash, or of a slot's content, begins.
    fn home(&self, hash: u64) -> usize {
        (((hash >> 32) * self.slots.len() as u64) >> 32) as usize
    }

    /// Adds a slot's content. There must be a free slot.
    fn add(&mut self, slot: u64) {
        let mask = self.slots.len() - 1;
        let mut at = self.home(slot);
        while self.slots[at] != FREE {
            at = (at + 1) & mask;
        }
        self.slots[at] = slot;
    }
}

/// The number that a slot holds.
fn number<I: TypedIndex>(slot: u64) -> I {
    I::at((slot as u32).wrapping_sub(1) as usize)
}

/// How many of `slots` may be taken. With more, lookups take long to find a free slot.
fn room(slots: usize) -> usize {
    slots / 5 * 4
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::typed_index::typed_index;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    struct Number(u32);
    typed_index!(Number(u32));

    proptest! {
        /// Uses few hashes, the highest among them, so that runs of taken slots form and wrap around the end
        /// of the table.
        #[test]
        fn a_table_holds_what_a_set_holds(
            steps in proptest::collection::vec((0..6usize, 0..8u32, proptest::bool::weighted(0.6)), 0..200),
            room in 0..40usize,
        ) {
            const HASHES: [u64; 6] = [0, 1 << 32, 1 << 63, 0xfffe << 48, 0xffff << 48, u64::MAX];
            let mut table = Table::default();
            table.reserve(room);
            let mut set = BTreeSet::new();
            for (at, low, adds) in steps {
                // A number always has the same hash.
                let number = Number(low * HASHES.len() as u32 + at as u32);
                if !adds {
                    table.remove(HASHES[at], number);
                    set.remove(&number);
                } else if set.insert(number) {
                    table.insert(HASHES[at], number);
                }
                prop_assert_eq!(table.taken, set.len());
                for number in (0..8 * HASHES.len()).map(Number::new) {
                    let found = table.find(HASHES[number.index() % HASHES.len()], |other| other == number);
                    prop_assert_eq!(found.is_some(), set.contains(&number));
                }
            }
        }
    }

    #[test]
    fn numbers_of_one_hash_are_told_apart_and_those_of_many_are_found_again() {
        let mut table = Table::<Number>::default();
        let hash = |number: u32| u64::from(number / 2).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (0..100_000).for_each(|number| table.insert(hash(number), Number(number)));
        (0..100_000).step_by(3).for_each(|number| table.remove(hash(number), Number(number)));
        for number in 0..100_000 {
            let found = table.find(hash(number), |other| other == Number(number));
            assert_eq!(found, (number % 3 != 0).then_some(Number(number)));
        }
    }
}
