//! The members of a cluster, beside what they have in common. All have one store. Each may be behind with it, or hear
//! nothing of the others. Pure.

/// How one member stands to the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Replica {
    /// It hears nothing of the others, so that it has no leader.
    pub(super) isolated: bool,
    /// It takes part, and applies nothing for the time being.
    pub(super) lagging: bool,
    /// What it had applied when it fell behind.
    stopped_at: i64,
}

impl Replica {
    fn is_behind(self) -> bool {
        self.isolated || self.lagging
    }

    /// Changes how it stands, while the store is at this revision.
    pub(super) fn change(&mut self, revision: i64, change: impl FnOnce(&mut Self)) {
        let before = *self;
        change(self);
        if !before.is_behind() {
            self.stopped_at = revision;
        }
    }

    /// The revision up to which it has applied what happened.
    pub(super) fn applied(self, revision: i64) -> i64 {
        if self.is_behind() { self.stopped_at.min(revision) } else { revision }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_stays_where_it_was_until_nothing_holds_it_back() {
        let mut replica = Replica::default();
        assert_eq!(replica.applied(7), 7);
        replica.change(7, |replica| replica.lagging = true);
        replica.change(9, |replica| replica.isolated = true);
        assert_eq!(replica.applied(12), 7);
        replica.change(12, |replica| replica.lagging = false);
        assert_eq!(replica.applied(12), 7, "it hears nothing");
        assert_eq!(replica.applied(3), 3, "an older store was restored");
        replica.change(12, |replica| replica.isolated = false);
        assert_eq!(replica.applied(12), 12);
    }
}
