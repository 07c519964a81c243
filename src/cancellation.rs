//! What tells work to end, once and for all.
//!
//! There is one for every firing. tokio-util's token has a lock, and its children are in a list of their parent:
//! threads that make, clone and drop children of one lease wait for each other. Here a child is in no list. It only
//! looks at its parent, and waits together with the parent's other children while its callback waits.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Notify;

/// Clones are told together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cancellation(Arc<Told>);

#[derive(Debug, Default)]
struct Told {
    told: AtomicBool,
    /// Wakes who waits in the order in which they began to, so that a simulation can be repeated.
    heard: Notify,
}

impl Cancellation {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Tells all.
    pub(crate) fn cancel(&self) {
        self.0.told.store(true, Ordering::Release);
        self.0.heard.notify_waiters();
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.0.told.load(Ordering::Acquire)
    }

    /// Until it is told.
    pub(crate) async fn cancelled(&self) {
        let mut heard = pin!(self.0.heard.notified());
        // From here on a wake-up is kept, so that none is missed between the look and the wait.
        heard.as_mut().enable();
        if !self.is_cancelled() {
            heard.await;
        }
    }

    /// Tells all when it is dropped.
    pub(crate) fn drop_guard(self) -> CancelOnDrop {
        CancelOnDrop(Some(self))
    }
}

/// See [`Cancellation::drop_guard`].
pub(crate) struct CancelOnDrop(Option<Cancellation>);

impl CancelOnDrop {
    /// It tells nobody.
    pub(crate) fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if let Some(cancellation) = &self.0 {
            cancellation.cancel();
        }
    }
}

/// Tells one firing to end. Also the loss of its lease does.
#[derive(Clone, Debug)]
pub(crate) struct FiringCancellation {
    own: Cancellation,
    lease: Option<Cancellation>,
}

impl FiringCancellation {
    pub(crate) fn new(lease: Option<Cancellation>) -> Self {
        Self { own: Cancellation::new(), lease }
    }

    /// What is told of this firing alone.
    pub(crate) fn own(&self) -> &Cancellation {
        &self.own
    }

    pub(crate) fn cancel(&self) {
        self.own.cancel();
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.own.is_cancelled() || self.lease.as_ref().is_some_and(Cancellation::is_cancelled)
    }

    pub(crate) async fn cancelled(&self) {
        let Some(lease) = &self.lease else { return self.own.cancelled().await };
        tokio::select! {
            biased;
            () = self.own.cancelled() => {}
            () = lease.cancelled() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use std::time::Duration;
    use tokio::time::{Instant, sleep, timeout};

    #[tokio::test(start_paused = true)]
    async fn who_waits_hears_of_it_and_who_comes_late_too() {
        let cancellation = Cancellation::new();
        let clone = cancellation.clone();
        assert!(!clone.is_cancelled() && clone.cancelled().now_or_never().is_none());
        let waiting = {
            let clone = cancellation.clone();
            tokio::spawn(async move { (clone.cancelled().await, clone.cancelled().await, Instant::now()) })
        };
        sleep(Duration::from_secs(1)).await;
        let now = Instant::now();
        cancellation.cancel();
        assert_eq!(timeout(Duration::from_secs(9), waiting).await.expect("it hears").unwrap(), ((), (), now));
        assert!(clone.is_cancelled() && clone.cancelled().now_or_never().is_some());
        cancellation.cancel();
        assert!(clone.is_cancelled(), "it stays so");
    }

    #[test]
    fn what_is_told_between_the_look_and_the_wait_is_heard() {
        // On threads, since only there is something in between.
        for _ in 0..2_000 {
            let cancellation = Cancellation::new();
            let teller = cancellation.clone();
            let telling = std::thread::spawn(move || teller.cancel());
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            runtime
                .block_on(async { timeout(Duration::from_secs(10), cancellation.cancelled()).await })
                .expect("it hears");
            telling.join().unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_firing_hears_of_itself_and_of_its_lease_but_of_no_other_firing() {
        for of_lease in [false, true] {
            let lease = Cancellation::new();
            let (one, other) =
                (FiringCancellation::new(Some(lease.clone())), FiringCancellation::new(Some(lease.clone())));
            let waiting = |firing: &FiringCancellation| {
                let firing = firing.clone();
                tokio::spawn(async move { firing.cancelled().await })
            };
            let (first, second) = (waiting(&one), waiting(&other));
            sleep(Duration::from_secs(1)).await;
            if of_lease {
                lease.cancel()
            } else {
                one.cancel()
            }
            assert!(timeout(Duration::from_secs(1), first).await.is_ok() && one.is_cancelled());
            assert_eq!(timeout(Duration::from_secs(1), second).await.is_ok(), of_lease);
            assert_eq!((other.is_cancelled(), lease.is_cancelled()), (of_lease, of_lease));
        }
        let alone = FiringCancellation::new(None);
        assert!(!alone.is_cancelled());
        alone.own().cancel();
        assert!(alone.is_cancelled() && alone.cancelled().now_or_never().is_some());
    }

    #[test]
    fn what_is_guarded_is_told_when_the_guard_goes() {
        let cancellation = Cancellation::new();
        let guard = cancellation.clone().drop_guard();
        assert!(!cancellation.is_cancelled());
        guard.disarm();
        assert!(!cancellation.is_cancelled());
        drop(cancellation.clone().drop_guard());
        assert!(cancellation.is_cancelled());
    }
}
