//! Waiting for something to become true, instead of sleeping and hoping.

use std::panic::Location;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

/// The time between two looks.
const POLL: Duration = Duration::from_millis(10);

/// What a look can find: `bool`, or an `Option` with what was seen.
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

/// Looks again and again until `look` answers `true` or `Some`, and returns what it saw.
///
/// Looks at least once. Panics when `limit` has passed, naming `what`, the time and the caller's line;
/// a look that hangs is given up then too.
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
