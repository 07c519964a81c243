//! Health, whenever it changes.

use super::Health;
use futures_core::Stream;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::sync::watch;
use tokio_util::sync::ReusableBoxFuture;

/// The state of an engine now, and then whenever it changes; made by
/// [`EngineHandle::health_changes`](crate::EngineHandle::health_changes).
///
/// It tells the latest state, and not every one in between. It ends with the engine, after the last state. It does
/// not keep the engine alive.
///
/// ```no_run
/// # async fn example(engine: &etcd_rules::EngineHandle) {
/// let mut changes = engine.health_changes();
/// while let Some(health) = changes.recv().await {
///     println!("{health}");
/// }
/// # }
/// ```
#[must_use = "it tells only who asks"]
pub struct HealthChanges(Option<Receiving>);

type Receiver = watch::Receiver<Health>;

/// It has the receiver for as long as it waits.
type Receiving = ReusableBoxFuture<'static, (Option<Health>, Receiver)>;

async fn receive(mut receiver: Receiver) -> (Option<Health>, Receiver) {
    let health = match receiver.changed().await {
        Ok(()) => Some(receiver.borrow_and_update().clone()),
        Err(_) => None,
    };
    (health, receiver)
}

impl HealthChanges {
    pub(crate) fn new(mut receiver: Receiver) -> Self {
        receiver.mark_changed();
        Self(Some(ReusableBoxFuture::new(receive(receiver))))
    }

    /// The state now, at the first call; then the next that is another one. `None` when the engine has ended.
    ///
    /// Dropping the future loses nothing.
    pub async fn recv(&mut self) -> Option<Health> {
        std::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }
}

impl Stream for HealthChanges {
    type Item = Health;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Health>> {
        let Some(receiving) = &mut self.0 else { return Poll::Ready(None) };
        let (health, receiver) = ready!(receiving.poll(context));
        match health {
            Some(_) => receiving.set(receive(receiver)),
            None => self.0 = None,
        }
        Poll::Ready(health)
    }
}

impl fmt::Debug for HealthChanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HealthChanges").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::{FutureExt, StreamExt};

    #[test]
    fn it_tells_the_state_now_then_the_latest_and_the_last_one_before_its_end() {
        let (sender, receiver) = watch::channel(Health::Ready);
        let mut changes = HealthChanges::new(receiver);
        assert_eq!(changes.recv().now_or_never(), Some(Some(Health::Ready)));
        assert_eq!(changes.recv().now_or_never(), None);
        sender.send_replace(Health::Starting { problems: Vec::new() });
        sender.send_replace(Health::Stopping);
        assert_eq!(changes.next().now_or_never(), Some(Some(Health::Stopping)));
        sender.send_replace(Health::Stopped);
        drop(sender);
        assert_eq!(changes.next().now_or_never(), Some(Some(Health::Stopped)));
        for _ in 0..2 {
            assert_eq!(changes.next().now_or_never(), Some(None));
        }
    }
}
