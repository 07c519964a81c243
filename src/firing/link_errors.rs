//! Whether a callback's reads failed for the link to etcd. If they did, its failure is none of its own, whatever error
//! it makes of that.

use super::{ErrorKind, FiringError};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// A read that is dropped after so long had no answer for the link: callbacks have time limits of their own.
const PATIENCE: Duration = Duration::from_secs(1);

/// Remembers, for one firing.
#[derive(Debug, Default)]
pub(super) struct LinkErrors(AtomicBool);

impl LinkErrors {
    pub(super) fn any(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// A read, of which it is remembered how it went.
    pub(super) async fn heed<T>(
        &self,
        reading: impl Future<Output = Result<T, FiringError>>,
    ) -> Result<T, FiringError> {
        let mut pending = PendingRead { errors: self, since: Instant::now(), answered: false };
        let answer = reading.await;
        pending.answered = true;
        if answer.as_ref().is_err_and(|error| is_of_link(error.kind())) {
            self.0.store(true, Ordering::Relaxed);
        }
        answer
    }
}

/// A read that has no answer yet.
struct PendingRead<'a> {
    errors: &'a LinkErrors,
    since: Instant,
    answered: bool,
}

impl Drop for PendingRead<'_> {
    fn drop(&mut self) {
        if !self.answered && self.since.elapsed() >= PATIENCE {
            self.errors.0.store(true, Ordering::Relaxed);
        }
    }
}

/// The same read may succeed over another connection, or a little later.
fn is_of_link(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::NoLeader
            | ErrorKind::TimedOut
            | ErrorKind::Unreachable
            | ErrorKind::Unauthenticated
            | ErrorKind::Overloaded
            | ErrorKind::WrongStore
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firing::EtcdError;
    use std::future::{pending, ready};
    use tokio::time::timeout;

    #[tokio::test]
    async fn errors_of_the_link_are_remembered_and_others_are_not() {
        for (kind, is_remembered) in [
            (ErrorKind::NoLeader, true),
            (ErrorKind::TimedOut, true),
            (ErrorKind::Unreachable, true),
            (ErrorKind::Unauthenticated, true),
            (ErrorKind::Overloaded, true),
            (ErrorKind::WrongStore, true),
            (ErrorKind::PermissionDenied, false),
            (ErrorKind::TooLarge, false),
            (ErrorKind::Refused, false),
        ] {
            let errors = LinkErrors::default();
            let failed = FiringError::from(EtcdError::new(kind, Some("get"), "no".into(), None));
            assert!(errors.heed(ready(Err::<(), _>(failed))).await.is_err());
            assert_eq!(errors.any(), is_remembered, "{kind}");
            assert!(errors.heed(ready(Ok(()))).await.is_ok());
            assert_eq!(errors.any(), is_remembered, "an answer to another read changes nothing");
        }
        let errors = LinkErrors::default();
        let absent = FiringError::Absent { key: "/k".into() };
        assert!(errors.heed(ready(Err::<(), _>(absent))).await.is_err());
        assert!(!errors.any());
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_that_the_callback_itself_gives_up_counts_after_a_second() {
        for (limit, is_remembered) in [(PATIENCE / 2, false), (2 * PATIENCE, true)] {
            let errors = LinkErrors::default();
            let read = errors.heed(pending::<Result<(), _>>());
            assert!(timeout(limit, read).await.is_err());
            assert_eq!(errors.any(), is_remembered, "{limit:?}");
        }
    }
}
