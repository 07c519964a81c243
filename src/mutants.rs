//! Promises that the simulation breaks on purpose, to see that its checker notices. In a build that is no test
//! none can be broken, and the questions cost nothing.

macro_rules! mutants {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What can be broken.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Mutant {
            $($(#[$doc])* $name,)*
        }

        /// All of them.
        #[cfg(all(test, feature = "embedded"))]
        pub(crate) const MUTANTS: &[Mutant] = &[$(Mutant::$name,)*];
    };
}

mutants! {
    /// A watch resumes where its last one ended; broken: from now.
    Resume,
    /// A watch stands where the last change is that it was sent; broken: where the server stands.
    Position,
    /// Revisions of a key only move forward.
    Forward,
    /// Effects take place only while the lock is held.
    Fence,
    /// A new snapshot tells of deletions.
    Deletions,
    /// Who loses a lease is told.
    LeaseLoss,
    /// What changes while a callback runs makes it run again.
    DirtyMark,
    /// A lock is taken only while the condition holds.
    Witness,
    /// A failure holds back all engines.
    Backoff,
    /// Who waits for a lock is woken when it is free.
    Releases,
    /// Older data voids all that is known.
    Rewind,
    /// A commit without a lock depends on what was shown.
    Expectations,
    /// A lock that was taken without an answer is freed.
    Orphans,
    /// What an engine held is freed at its end.
    Revoke,
    /// A key does not expire before its TTL.
    KeyTtl,
    /// No more firings at once than there are slots.
    Slots,
    /// Nothing of a paused rule starts.
    Pause,
}

#[cfg(not(test))]
#[inline(always)]
pub(crate) const fn is_active(_: Mutant) -> bool {
    false
}

#[cfg(test)]
pub(crate) use switch::{is_active, with};

#[cfg(test)]
mod switch {
    use super::Mutant;
    use std::cell::Cell;

    thread_local! {
        static ACTIVE: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    pub(crate) fn is_active(mutant: Mutant) -> bool {
        ACTIVE.get() == Some(mutant)
    }

    /// Makes a mutant the active one on this thread, as long as `run` runs.
    #[cfg_attr(not(feature = "embedded"), expect(dead_code, reason = "for the simulation"))]
    pub(crate) fn with<T>(mutant: Option<Mutant>, run: impl FnOnce() -> T) -> T {
        ACTIVE.set(mutant);
        let result = run();
        ACTIVE.set(None);
        result
    }
}
