//! Hash tables of small numbers: each stands for something that lies elsewhere and is compared there.
//!
//! Half of the hash is kept beside the number. So a table that grows moves what it has without looking at the
//! millions of keys that it stands for, none of which is in the processor's cache.

use hashbrown::HashTable;

#[derive(Default)]
pub(super) struct Table(HashTable<Slot>);

#[derive(Clone, Copy)]
struct Slot {
    hash: u32,
    number: u32,
}

impl Slot {
    /// hashbrown takes the place from the lower bits, and a tag from the highest.
    fn spread(hash: u32) -> u64 {
        u64::from(hash) << 32 | u64::from(hash)
    }
}

impl Table {
    pub(super) fn find(&self, hash: u64, is: impl Fn(u32) -> bool) -> Option<u32> {
        let hash = (hash >> 32) as u32;
        let found = self.0.find(Slot::spread(hash), |slot| slot.hash == hash && is(slot.number));
        found.map(|slot| slot.number)
    }

    /// Adds a number that is not there yet.
    pub(super) fn insert(&mut self, hash: u64, number: u32) {
        let hash = (hash >> 32) as u32;
        self.0.insert_unique(Slot::spread(hash), Slot { hash, number }, |slot| Slot::spread(slot.hash));
    }

    pub(super) fn remove(&mut self, hash: u64, number: u32) {
        let hash = (hash >> 32) as u32;
        if let Ok(found) = self.0.find_entry(Slot::spread(hash), |slot| slot.number == number) {
            found.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
