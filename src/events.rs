//! Events of a running engine, for tests and for an application's own observers. The buffer is bounded: a
//! slow receiver misses the oldest events, and learns how many it missed.

use crate::firing::FiringOutcome;
use crate::inspect::InstanceState;
use crate::pattern::Attributes;
use crate::time::seconds;
use futures_core::Stream;
use serde::{Serialize, Serializer};
use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;
use tokio_util::sync::ReusableBoxFuture;

/// An event: something that happened to a rule instance in one engine.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Event {
    /// When. Where it is serialized it is how long ago that was.
    #[serde(rename = "ago_seconds", serialize_with = "ago")]
    pub at: Instant,
    /// The id of the rule.
    pub rule: Arc<str>,
    /// The instance's attributes and their values.
    pub attributes: Attributes,
    /// What happened.
    pub kind: EventKind,
}

fn ago<S: Serializer>(at: &Instant, serializer: S) -> Result<S::Ok, S::Error> {
    seconds::serialize(&at.elapsed(), serializer)
}

/// What happened to an instance.
///
/// A successful firing has the events `State(Queued)` (the instance is due), `Locked`, `Started`, `Ended` and
/// `Closed`. Then follows a `State`, which is `Untrue` if the callback made its condition false.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", content = "detail", rename_all = "snake_case")]
#[non_exhaustive]
pub enum EventKind {
    /// The instance entered another state. For example it is due (`Queued`), held by another engine, waiting,
    /// given up, dealt with (`Idle`) or false (`Untrue`). The steps of a firing ([`InstanceState::Running`])
    /// have events of their own.
    State(InstanceState),
    /// Its lock was taken. [Optimistic](crate::Rule::optimistic) rules don't have this event.
    Locked {
        /// As [`Firing::fencing_token`](crate::Firing::fencing_token).
        fencing_token: i64,
        /// How long that took.
        #[serde(rename = "took_seconds", with = "seconds")]
        took: Duration,
    },
    /// Its lock was not taken. If the instance isn't tried again at once, a `State` follows.
    NotLocked {
        /// Why not.
        reason: NotLocked,
        /// How long that took.
        #[serde(rename = "took_seconds", with = "seconds")]
        took: Duration,
    },
    /// Its callback starts.
    Started {
        /// As [`Firing::attempt`](crate::Firing::attempt).
        attempt: u32,
    },
    /// Its callback ended. Its effects are not committed yet.
    Ended {
        /// How.
        outcome: FiringOutcome,
        /// How long it ran.
        #[serde(rename = "took_seconds", with = "seconds")]
        took: Duration,
    },
    /// The firing is over. The transaction that ends it took effect, or never will.
    Closed {
        /// How the callback ended. It is also [`FiringOutcome::Failed`] if etcd refused its commit.
        outcome: FiringOutcome,
        /// The result of the transaction.
        result: CommitResult,
        /// How long it took, repeats included.
        #[serde(rename = "took_seconds", with = "seconds")]
        took: Duration,
    },
}

/// Why a lock was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", content = "detail", rename_all = "snake_case")]
#[non_exhaustive]
pub enum NotLocked {
    /// Another engine has it. This is that engine's name, if the lock's value can be read.
    Held(Option<String>),
    /// Another engine holds the instance back, or gave it up. This is that engine's name, if the mark can be
    /// read.
    BackedOff(Option<String>),
    /// The condition no longer holds as it was seen. The instance is decided again.
    Untrue,
    /// The transaction that takes the lock is larger than what etcd takes, because the instance's keys are so long. It
    /// is given up.
    TooLarge(String),
    /// There was no lease, or etcd did not answer or refused.
    Failed(String),
}

impl EventKind {
    /// The names of all kinds.
    pub const NAMES: [&'static str; 6] = ["state", "locked", "not_locked", "started", "ended", "closed"];

    /// The kind as a word, as it is serialized.
    pub fn name(&self) -> &'static str {
        match self {
            EventKind::State(_) => "state",
            EventKind::Locked { .. } => "locked",
            EventKind::NotLocked { .. } => "not_locked",
            EventKind::Started { .. } => "started",
            EventKind::Ended { .. } => "ended",
            EventKind::Closed { .. } => "closed",
        }
    }
}

/// The result of the transaction that ends a firing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", content = "detail", rename_all = "snake_case")]
#[non_exhaustive]
pub enum CommitResult {
    /// It took effect at this revision. The revision is 0 if it is not known, or if there was nothing to do.
    Committed {
        /// The revision.
        revision: i64,
    },
    /// The lock had been lost, so nothing took effect.
    FenceLost,
    /// What the callback [expected](crate::Commit::expect_unchanged) did not hold, so nothing took effect.
    Unexpected,
    /// Another engine holds the instance of an [optimistic](crate::Rule::optimistic) rule back, so nothing
    /// took effect.
    BackedOff,
    /// etcd refused it. The firing counts as failed, and is closed without the effects.
    Refused(String),
    /// It is larger than what etcd takes, so nothing took effect, and trying again can't help. The instance is given
    /// up.
    TooLarge(String),
    /// Its answer was lost, its lock is gone, and nothing proves that it took effect. Somebody deleted the lock, or its
    /// lease ended. The instance is decided again.
    Unknown,
    /// It could not be sent, or its outcome could not be found out.
    Failed(String),
}

impl CommitResult {
    /// Whether the callback's effects are known to have taken place.
    pub fn is_committed(&self) -> bool {
        matches!(self, CommitResult::Committed { .. })
    }
}

/// A [receiver](EventStream) has lagged behind, so that this many events are lost to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} events were missed: they came faster than they were received")]
pub struct Lagged(pub u64);

/// The events of a running engine from now on. [`EngineHandle::events`](crate::EngineHandle::events) makes
/// it, or [`Engine::events`](crate::Engine::events) before the engine starts.
///
/// Events wait in a buffer of the engine, which all streams share.
/// [`event_buffer`](crate::EngineBuilder::event_buffer) sets its size. A stream that falls further behind
/// misses the oldest events. An error in their place says how many. A slow stream never slows the engine.
///
/// Events of one instance come in the order in which they happened.
///
/// It is a [`Stream`], for those who have a crate with what streams can do; [`recv`](EventStream::recv) needs none.
#[must_use = "it tells only who asks"]
pub struct EventStream {
    receiving: Option<Receiving>,
    shared: Arc<Shared>,
}

type Receiver = broadcast::Receiver<Arc<Event>>;

/// It has the receiver for as long as it waits.
type Receiving = ReusableBoxFuture<'static, (Result<Arc<Event>, RecvError>, Receiver)>;

async fn receive(mut receiver: Receiver) -> (Result<Arc<Event>, RecvError>, Receiver) {
    (receiver.recv().await, receiver)
}

impl EventStream {
    /// The next event, or `None` when the engine has ended and all events were received. An error says that
    /// some events were missed. The stream continues after it.
    ///
    /// Dropping the future loses nothing.
    pub async fn recv(&mut self) -> Option<Result<Arc<Event>, Lagged>> {
        std::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }

    /// The next event, if one is there already.
    pub fn try_recv(&mut self) -> Option<Result<Arc<Event>, Lagged>> {
        match Pin::new(self).poll_next(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(next) => next,
            Poll::Pending => None,
        }
    }
}

impl Stream for EventStream {
    type Item = Result<Arc<Event>, Lagged>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(receiving) = &mut self.receiving else { return Poll::Ready(None) };
        let (received, receiver) = ready!(receiving.poll(context));
        let next = match received {
            Ok(event) => Ok(event),
            Err(RecvError::Lagged(missed)) => Err(Lagged(missed)),
            Err(RecvError::Closed) => {
                self.receiving = None;
                return Poll::Ready(None);
            }
        };
        receiving.set(receive(receiver));
        Poll::Ready(Some(next))
    }
}

impl fmt::Debug for EventStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventStream").finish_non_exhaustive()
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        self.shared.listeners.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Sends the events of an engine. It costs almost nothing while nobody listens.
#[derive(Clone)]
pub(crate) struct Events(Arc<Shared>);

struct Shared {
    listeners: AtomicUsize,
    capacity: usize,
    sender: Mutex<Sender>,
}

/// The buffer is made when the first stream is.
enum Sender {
    Unused,
    Open(broadcast::Sender<Arc<Event>>),
    Closed,
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").field("capacity", &self.0.capacity).finish_non_exhaustive()
    }
}

impl Events {
    pub(crate) fn new(capacity: usize) -> Self {
        let (listeners, sender) = (AtomicUsize::new(0), Mutex::new(Sender::Unused));
        Self(Arc::new(Shared { listeners, capacity, sender }))
    }

    pub(crate) fn subscribe(&self) -> EventStream {
        let mut sender = self.0.sender.lock().unwrap_or_else(|e| e.into_inner());
        let receiver = match &*sender {
            Sender::Closed => None,
            Sender::Open(sender) => Some(sender.subscribe()),
            Sender::Unused => {
                let (opened, receiver) = broadcast::channel(self.0.capacity);
                *sender = Sender::Open(opened);
                Some(receiver)
            }
        };
        self.0.listeners.fetch_add(1, Ordering::AcqRel);
        let receiving = receiver.map(|receiver| ReusableBoxFuture::new(receive(receiver)));
        EventStream { receiving, shared: self.0.clone() }
    }

    pub(crate) fn has_listeners(&self) -> bool {
        self.0.listeners.load(Ordering::Acquire) > 0
    }

    /// Sends an event. It is only made if somebody listens.
    pub(crate) fn emit(&self, event: impl FnOnce() -> Event) {
        if !self.has_listeners() {
            return;
        }
        let event = Arc::new(event());
        if let Sender::Open(sender) = &*self.0.sender.lock().unwrap_or_else(|e| e.into_inner()) {
            // An error means that the last stream has just been dropped.
            let _ = sender.send(event);
        }
    }

    /// Ends all streams. They first return the events that are left.
    pub(crate) fn close(&self) {
        *self.0.sender.lock().unwrap_or_else(|e| e.into_inner()) = Sender::Closed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::{FutureExt, StreamExt};

    fn event(attempt: u32) -> Event {
        let kind = EventKind::Started { attempt };
        Event { at: Instant::now(), rule: "r".into(), attributes: Attributes::new(), kind }
    }

    fn attempts(stream: &mut EventStream) -> Vec<Result<u32, Lagged>> {
        let attempt = |event: Arc<Event>| match event.kind {
            EventKind::Started { attempt } => attempt,
            _ => panic!("{event:?}"),
        };
        std::iter::from_fn(|| stream.try_recv()).map(|event| event.map(attempt)).collect()
    }

    #[test]
    fn without_listeners_no_event_is_made() {
        let events = Events::new(4);
        events.emit(|| panic!("nobody listens"));
        drop(events.subscribe());
        events.emit(|| panic!("nobody listens any more"));
    }

    #[test]
    fn who_is_slow_misses_the_oldest_and_is_told_how_many() {
        let events = Events::new(4);
        let (mut slow, mut quick) = (events.subscribe(), events.subscribe());
        for attempt in 0..6 {
            events.emit(|| event(attempt));
            assert_eq!(attempts(&mut quick), [Ok(attempt)]);
        }
        assert_eq!(attempts(&mut slow), [Err(Lagged(2)), Ok(2), Ok(3), Ok(4), Ok(5)]);
        events.emit(|| event(6));
        assert_eq!(attempts(&mut slow), [Ok(6)]);
    }

    #[tokio::test]
    async fn a_stream_ends_with_the_engine_after_what_is_left() {
        let events = Events::new(4);
        let mut stream = events.subscribe();
        events.emit(|| event(1));
        events.close();
        assert!(matches!(stream.recv().await, Some(Ok(_))));
        assert_eq!(stream.recv().await, None);
        assert_eq!(events.subscribe().recv().await, None);
        events.emit(|| event(2));
    }

    #[tokio::test]
    async fn it_is_a_stream_whose_waiting_may_be_broken_off() {
        let events = Events::new(2);
        let stream = events.subscribe().map(|event| event.map(|event| event.kind.clone()));
        let mut stream = std::pin::pin!(stream);
        assert!(stream.next().now_or_never().is_none());
        (0..5).for_each(|attempt| events.emit(|| event(attempt)));
        events.close();
        let received: Vec<_> = stream.collect().await;
        let started = |attempt| Ok(EventKind::Started { attempt });
        assert_eq!(received, [Err(Lagged(3)), started(3), started(4)]);
    }
}
