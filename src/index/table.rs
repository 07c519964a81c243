//! Hash tables of small numbers: each stands for something that lies elsewhere and is compared there.
//!
//! Half of the hash is kept beside the number. So a table that grows moves what it has without looking at the
//! millions of keys that it stands for, none of which is in the processor's cache. Whoever looks for a number that is
//! not there has seen by then where it would lie: most often that is one line of the cache, while tables that keep
//! tags of their slots apart touch two.

/// A slot of which nothing is taken. All zero, so that the system hands out a new table without a pass over it.
const FREE: u64 = 0;

/// Slots of the smallest table that has any.
const FEWEST: usize = 8;

/// The half of a hash that is kept.
const HASH: u64 = 0xffff_ffff_0000_0000;

/// Slots in the order of their hashes, as far as there is room: who finds a place taken goes on to the next.
#[derive(Default)]
pub(super) struct Table {
    /// As many as a power of two, or none. Each holds half of a hash, and below it the number and one.
    slots: Vec<u64>,
    taken: usize,
}

impl Table {
    pub(super) fn find(&self, hash: u64, is: impl Fn(u32) -> bool) -> Option<u32> {
        self.place(hash, is).map(|at| number(self.slots[at]))
    }

    /// Reads where one would begin to look, so that it is in the processor's cache by then.
    pub(super) fn touch(&self, hash: u64) -> u64 {
        self.slots.get(self.home(hash)).copied().unwrap_or(FREE)
    }

    /// Adds a number that is not there yet.
    pub(super) fn insert(&mut self, hash: u64, number: u32) {
        debug_assert!(number < u32::MAX, "one more than the number must fit");
        self.reserve(1);
        self.taken += 1;
        self.add(hash & HASH | (u64::from(number) + 1));
    }

    /// Makes room for so many more.
    pub(super) fn reserve(&mut self, more: usize) {
        let wanted = self.taken.saturating_add(more);
        if wanted > room(self.slots.len()) {
            let mut slots = (self.slots.len() * 2).max(FEWEST);
            while wanted > room(slots) {
                slots *= 2;
            }
            // In the order of their hashes, so that the new table is written from its front to its back.
            let old = std::mem::replace(&mut self.slots, vec![FREE; slots]);
            old.into_iter().filter(|&slot| slot != FREE).for_each(|slot| self.add(slot));
        }
    }

    pub(super) fn remove(&mut self, hash: u64, number: u32) {
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
            // What lies behind the hole because that was taken moves up.
            let went = at.wrapping_sub(self.home(slot)) & mask;
            if went >= at.wrapping_sub(hole) & mask {
                self.slots[hole] = slot;
                hole = at;
            }
        }
        self.slots[hole] = FREE;
    }

    /// Where a number lies.
    fn place(&self, hash: u64, is: impl Fn(u32) -> bool) -> Option<usize> {
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

    /// Where to begin to look for a hash, or for what a slot holds.
    fn home(&self, hash: u64) -> usize {
        (((hash >> 32) * self.slots.len() as u64) >> 32) as usize
    }

    /// There is a free slot.
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
fn number(slot: u64) -> u32 {
    (slot as u32).wrapping_sub(1)
}

/// How many of so many slots may be taken: with more, it takes long until one is found that is free.
fn room(slots: usize) -> usize {
    slots / 5 * 4
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        /// Few hashes, the highest among them: whole runs of slots are taken, also around the end of the table.
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
                // A number has one hash.
                let number = low * HASHES.len() as u32 + at as u32;
                if !adds {
                    table.remove(HASHES[at], number);
                    set.remove(&number);
                } else if set.insert(number) {
                    table.insert(HASHES[at], number);
                }
                prop_assert_eq!(table.taken, set.len());
                for number in 0..8 * HASHES.len() as u32 {
                    let found = table.find(HASHES[number as usize % HASHES.len()], |other| other == number);
                    prop_assert_eq!(found.is_some(), set.contains(&number));
                }
            }
        }
    }

    #[test]
    fn numbers_of_one_hash_are_told_apart_and_those_of_many_are_found_again() {
        let mut table = Table::default();
        let hash = |number: u32| u64::from(number / 2).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (0..100_000).for_each(|number| table.insert(hash(number), number));
        (0..100_000).step_by(3).for_each(|number| table.remove(hash(number), number));
        for number in 0..100_000 {
            let found = table.find(hash(number), |other| other == number);
            assert_eq!(found, (number % 3 != 0).then_some(number));
        }
    }
}
