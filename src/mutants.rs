//! Mutants: promises that the simulation breaks on purpose, to see that its checker notices. They exist only
//! in test builds. In other builds [`is_active`] is a constant `false`, so the checks cost nothing.

macro_rules! mutants {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A promise that can be broken.
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
    /// A lease that is revoked is noticed at once, because a key under it is watched. The mutant notices at the next
    /// renewal.
    LeaseWatch,
    /// A lock that somebody deletes is noticed while its callback runs.
    LockLook,
    /// A commit without an answer, whose lock is gone, counts as done only if a key of it changed with the lock. The
    /// mutant takes the deletion of the lock for the commit.
    Evidence,
    /// A watch resumes where the last one ended. The mutant resumes from now.
    Resume,
    /// A watch resumes from its position itself, where etcd refuses if history is gone. The mutant resumes from the
    /// revision after it.
    FromPosition,
    /// The position of a watch is the last change it received. The mutant takes the server's revision.
    Position,
    /// The revision of a key only moves forward.
    Forward,
    /// Effects take place only while the lock is held.
    Fence,
    /// A new snapshot reveals deletions.
    Deletions,
    /// Firings whose lease is lost are cancelled.
    LeaseLoss,
    /// A change while a callback runs makes it run again.
    DirtyMark,
    /// A lock is taken only while the condition holds.
    Witness,
    /// A failure holds back all engines.
    Backoff,
    /// Engines that wait for a lock try again when it is released.
    WakeUps,
    /// When a store lacks what was seen, connections that were let in before are asked again.
    SecondLook,
    /// When the store went back, everything in memory is discarded.
    Rewind,
    /// A commit without a lock takes effect only if the keys are as they were shown.
    Expectations,
    /// A lock is freed if the request that took it was never answered.
    Orphans,
    /// An engine that ends frees what it held.
    Revoke,
    /// A key does not expire before its TTL.
    KeyTtl,
    /// No more firings run at once than there are slots.
    Slots,
    /// Nothing of a paused rule starts.
    Pause,
    /// What a callback is shown is a state that etcd had.
    Torn,
    /// A connection that is silent is replaced.
    Silence,
    /// An endpoint is left if its member can't do what it is asked for.
    Leave,
    /// What a callback reads is what etcd has at that moment. The mutant takes what a member happens to have.
    Reads,
    /// A request that is refused for its token is sent again with a newer one.
    Token,
    /// etcd is asked for a token at most once a second.
    TokenRate,
    /// A transaction takes effect in the engine's own store only.
    Identity,
    /// An engine leaves to others what they own.
    Yields,
    /// What an engine has begun with it goes on with, also when another one owns it now.
    Keeps,
    /// When the members change, instances get their owners anew. The mutant keeps the first members.
    StaleView,
    /// What an owner does not see to is tried by others.
    SafetyNet,
    /// An engine with free slots helps one that is behind.
    Helping,
    /// Only one engine helps with an instance.
    OneHelper,
    /// A crawl reads what was not checked for longest. The mutant reads the first keys every time.
    CrawlParts,
    /// The mark of an engine that is gone ends within a lock TTL after its time.
    MarkEnd,
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

    /// Runs `run` with this mutant active on the current thread.
    #[cfg_attr(not(feature = "embedded"), expect(dead_code, reason = "for the simulation"))]
    pub(crate) fn with<T>(mutant: Option<Mutant>, run: impl FnOnce() -> T) -> T {
        ACTIVE.set(mutant);
        let result = run();
        ACTIVE.set(None);
        result
    }
}
