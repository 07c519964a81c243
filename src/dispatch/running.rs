//! The callbacks that run now, shared by the dispatcher, the application's threads and the engine's handle.
//! The list outlives a restart of the actors, so that a callback that can't be stopped never runs twice.

use crate::cancellation::Cancellation;
use crate::compiled::{Binding, RuleIndex};
use dashmap::DashMap;
use foldhash::fast::FixedState;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Notify;

type Key = (RuleIndex, Binding);

/// Parts of the list that are locked apart.
const SHARDS: usize = 16;

#[derive(Clone)]
pub(crate) struct RunningCallbacks(Arc<Running>);

struct Running {
    /// What tells each to end.
    tokens: DashMap<Key, Cancellation, FixedState>,
    count: AtomicUsize,
    /// One has ended, and somebody waits for that.
    ended: Notify,
    waiting: AtomicUsize,
}

/// Counts somebody who waits until it is dropped.
struct Waiting<'a>(&'a Running);

impl<'a> Waiting<'a> {
    fn count(running: &'a Running) -> Self {
        running.waiting.fetch_add(1, Ordering::SeqCst);
        Self(running)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Takes the callback off the list when it is dropped, which is when the callback has really ended.
pub(crate) struct Registered {
    callbacks: RunningCallbacks,
    key: Key,
}

impl RunningCallbacks {
    pub(crate) fn new(hasher: FixedState) -> Self {
        // The number is the same on every machine, so that the order is too in which all are told to end.
        let tokens = DashMap::with_hasher_and_shard_amount(hasher, SHARDS);
        Self(Arc::new(Running {
            tokens,
            count: AtomicUsize::new(0),
            ended: Notify::new(),
            waiting: AtomicUsize::new(0),
        }))
    }

    pub(crate) fn register(&self, rule: RuleIndex, binding: Binding, token: Cancellation) -> Registered {
        let key = (rule, binding);
        self.0.count.fetch_add(1, Ordering::SeqCst);
        self.0.tokens.insert(key.clone(), token);
        Registered { callbacks: self.clone(), key }
    }

    pub(crate) fn is_running(&self, rule: RuleIndex, binding: &Binding) -> bool {
        self.0.tokens.contains_key(&(rule, binding.clone()))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.count.load(Ordering::SeqCst)
    }

    /// Tells all of them to end.
    pub(crate) fn cancel_all(&self) {
        self.0.tokens.iter().for_each(|token| token.cancel());
    }

    /// When this one runs no more.
    pub(crate) async fn ended(&self, rule: RuleIndex, binding: &Binding) {
        self.wait_until(|| !self.is_running(rule, binding)).await;
    }

    /// When none is left.
    pub(crate) async fn all_ended(&self) {
        self.wait_until(|| self.len() == 0).await;
    }

    async fn wait_until(&self, is_so: impl Fn() -> bool) {
        let _counted = Waiting::count(&self.0);
        loop {
            let mut ended = std::pin::pin!(self.0.ended.notified());
            // From here on a wake-up is kept, also one before the wait begins.
            ended.as_mut().enable();
            if is_so() {
                return;
            }
            ended.await;
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let running = &self.callbacks.0;
        running.tokens.remove(&self.key);
        running.count.fetch_sub(1, Ordering::SeqCst);
        // Nearly always nobody waits, and then this takes no lock.
        if running.waiting.load(Ordering::SeqCst) > 0 {
            running.ended.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::{Instant, sleep, timeout};

    fn binding(value: &str) -> Binding {
        Binding::new([value].into_iter())
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_woken_by_the_end() {
        let callbacks = RunningCallbacks::new(FixedState::with_seed(1));
        callbacks.all_ended().await;
        let register = |value| {
            let token = Cancellation::new();
            (callbacks.register(RuleIndex::default(), binding(value), token.clone()), token)
        };
        let ((first, one), (second, other)) = (register("1"), register("2"));
        assert!(callbacks.is_running(RuleIndex::default(), &binding("1")) && callbacks.len() == 2);
        callbacks.cancel_all();
        assert!(one.is_cancelled() && other.is_cancelled());
        let started = Instant::now();
        let waiting = callbacks.clone();
        let first_ended = tokio::spawn(async move {
            waiting.ended(RuleIndex::default(), &binding("1")).await;
            started.elapsed()
        });
        tokio::spawn(async move {
            sleep(Duration::from_secs(1)).await;
            drop(first);
            sleep(Duration::from_secs(1)).await;
            drop(second);
        });
        assert!(timeout(Duration::from_millis(1999), callbacks.all_ended()).await.is_err());
        let ended = timeout(Duration::from_secs(60), callbacks.all_ended()).await;
        assert!(ended.is_ok(), "nobody wakes it");
        assert_eq!((started.elapsed(), callbacks.len()), (Duration::from_secs(2), 0));
        assert!(!callbacks.is_running(RuleIndex::default(), &binding("1")));
        assert_eq!(
            first_ended.await.unwrap(),
            Duration::from_secs(1),
            "who waits for one is woken when that ends"
        );
    }
}
