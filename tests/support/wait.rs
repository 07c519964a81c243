//! Waits for something to become true, so that tests don't sleep and hope.

use std::panic::Location;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

/// The time between two checks.
const POLL: Duration = Duration::from_millis(10);

/// The result of a check: `bool`, or an `Option` with what was seen.
pub trait Seen {
    type Found;
    fn found(self) -> Option<Self::Found>;
}

impl Seen for bool {
    type Found = ();
    fn found(self) -> Option<()> {
        self.then_some(())
    }
}

impl<T> Seen for Option<T> {
    type Found = T;
    fn found(self) -> Self {
        self
    }
}

/// Calls `look` again and again until it returns `true` or `Some`, and returns what it saw.
///
/// It is called at least once. When `limit` has passed, this panics with `what`, the time and the caller's
/// line, also if a call hangs.
#[track_caller]
pub fn eventually<S: Seen>(
    limit: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> S,
) -> impl Future<Output = S::Found> {
    let caller = Location::caller();
    async move {
        let deadline = Instant::now() + limit;
        loop {
            let looked = timeout_at(deadline, look()).await;
            match looked.map(Seen::found) {
                Ok(Some(found)) => return found,
                Ok(None) if Instant::now() < deadline => sleep(POLL).await,
                Ok(None) => panic!("not within {limit:?}: {what} (waited for at {caller})"),
                Err(_) => panic!("not within {limit:?}: {what}; the last look hung (waited for at {caller})"),
            }
        }
    }
}
