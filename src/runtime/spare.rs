//! When a table that was large is to give memory back. Tables grow by themselves but never shrink.

/// What has less room than this keeps it.
const LEAST: usize = 16_384;

/// A table has far too much room if less than this part of it is used.
const PART: usize = 8;

/// Decides when to shrink one table.
#[derive(Debug)]
pub(crate) struct Spare {
    /// How much was used when it was last tried. Not all of the room can always be given back.
    tried: usize,
}

impl Default for Spare {
    fn default() -> Self {
        Self { tried: usize::MAX }
    }
}

impl Spare {
    /// Whether the table is to be shrunk now. What that costs is paid once for many removals.
    pub(crate) fn is_far_too_much(&mut self, used: usize, room: usize) -> bool {
        if room < LEAST || used >= room / PART {
            self.tried = usize::MAX;
            return false;
        }
        if used > self.tried / 2 {
            return false;
        }
        self.tried = used;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_shrunk_when_hardly_any_of_it_is_used_and_again_when_half_of_that_is() {
        let mut spare = Spare::default();
        for (used, room, shrinks, why) in [
            (0, LEAST - 1, false, "it is small"),
            (1000, 4000, false, "it is small and used"),
            (20_000, 160_000, false, "an eighth is used"),
            (19_999, 160_000, true, "less is used"),
            (19_998, 160_000, false, "it was tried, and could not be shrunk"),
            (10_000, 160_000, false, "still more than half of what was used then"),
            (9_999, 160_000, true, "it is tried again"),
            (0, 160_000, true, "nothing is used"),
            (0, 0, false, "it has no room"),
            (30_000, 160_000, false, "it is used again"),
            (15_000, 160_000, true, "and empty again"),
        ] {
            assert_eq!(spare.is_far_too_much(used, room), shrinks, "{used} of {room}: {why}");
        }
    }
}
