//! A cell with a value that others wait for. Readers see only the latest value. Tokio's `watch` wakes its
//! waiters in random order. This cell wakes them in the order in which they began to wait, so that a
//! simulation can be repeated.

use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::Notify;

/// Makes a cell. The first value counts as seen.
pub(crate) fn watch_cell<T>(value: T) -> (WatchCellSender<T>, WatchCell<T>) {
    let state = Mutex::new(State { value, version: 0, ended: false });
    let shared = Arc::new(Shared { state, changed: Notify::new() });
    (WatchCellSender(shared.clone()), WatchCell { shared, seen: 0 })
}

#[derive(Debug)]
struct Shared<T> {
    state: Mutex<State<T>>,
    changed: Notify,
}

#[derive(Debug)]
struct State<T> {
    value: T,
    version: u64,
    ended: bool,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Sets the value. When it is dropped, all waiting ends.
#[derive(Debug)]
pub(crate) struct WatchCellSender<T>(Arc<Shared<T>>);

impl<T> WatchCellSender<T> {
    pub(crate) fn set(&self, value: T) {
        let mut state = self.0.lock();
        state.value = value;
        state.version += 1;
        drop(state);
        self.0.changed.notify_waiters();
    }

    /// A new reader. For it, the current value counts as seen.
    pub(crate) fn subscribe(&self) -> WatchCell<T> {
        let seen = self.0.lock().version;
        WatchCell { shared: self.0.clone(), seen }
    }
}

impl<T> Drop for WatchCellSender<T> {
    fn drop(&mut self) {
        self.0.lock().ended = true;
        self.0.changed.notify_waiters();
    }
}

/// Reads the value, and waits for new ones.
#[derive(Debug)]
pub(crate) struct WatchCell<T> {
    shared: Arc<Shared<T>>,
    seen: u64,
}

impl<T> Clone for WatchCell<T> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), seen: self.seen }
    }
}

impl<T: Clone> WatchCell<T> {
    pub(crate) fn get(&self) -> T {
        self.shared.lock().value.clone()
    }

    /// Counts the current value as seen.
    #[cfg_attr(not(feature = "embedded"), expect(dead_code, reason = "for the server in memory"))]
    pub(crate) fn mark_seen(&mut self) {
        self.seen = self.shared.lock().version;
    }

    /// Waits for a value that was not seen. False if there will be no more.
    pub(crate) async fn changed(&mut self) -> bool {
        loop {
            // This comes before the check, so that no change is missed in between.
            let notified = self.shared.changed.notified();
            {
                let state = self.shared.lock();
                if state.version > self.seen {
                    self.seen = state.version;
                    return true;
                }
                if state.ended {
                    return false;
                }
            }
            #[cfg(test)]
            tests::between();
            notified.await;
        }
    }

    /// Waits for a value that `wanted` accepts. `None` if there will be none.
    pub(crate) async fn wait_for(&mut self, mut wanted: impl FnMut(&T) -> bool) -> Option<T> {
        loop {
            let (value, version, ended) = {
                let state = self.shared.lock();
                (state.value.clone(), state.version, state.ended)
            };
            self.seen = version;
            if wanted(&value) {
                return Some(value);
            }
            if ended || !self.changed().await {
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use std::cell::RefCell;
    use std::rc::Rc;

    #[tokio::test]
    async fn those_who_wait_are_woken_in_order_and_see_the_latest() {
        let (setter, reader) = watch_cell(0);
        let woken = Arc::new(Mutex::new(Vec::new()));
        let waiting: Vec<_> = (0..50)
            .map(|number| {
                let (mut reader, woken) = (reader.clone(), woken.clone());
                tokio::spawn(async move {
                    let seen = reader.wait_for(|value| *value > 0).await;
                    woken.lock().unwrap().push((number, seen));
                })
            })
            .collect();
        tokio::task::yield_now().await;
        setter.set(1);
        setter.set(2);
        for task in waiting {
            task.await.unwrap();
        }
        let expected: Vec<_> = (0..50).map(|number| (number, Some(2))).collect();
        assert_eq!(*woken.lock().unwrap(), expected);
    }

    thread_local! {
        static BETWEEN: RefCell<Option<Box<dyn FnOnce()>>> = const { RefCell::new(None) };
    }

    /// Runs between a reader's check and its wait, in the place of another thread.
    pub(super) fn between() {
        if let Some(happens) = BETWEEN.take() {
            happens();
        }
    }

    /// The moment is far too short to be hit by chance, so the test acts in it.
    #[test]
    fn what_happens_between_the_look_and_the_wait_is_not_slept_through() {
        let (setter, mut reader) = watch_cell(0);
        let setter = Rc::new(setter);
        let setting = setter.clone();
        BETWEEN.set(Some(Box::new(move || setting.set(1))));
        assert_eq!(reader.changed().now_or_never(), Some(true));
        BETWEEN.set(Some(Box::new(move || drop(setter))));
        assert_eq!(reader.wait_for(|value| *value > 1).now_or_never(), Some(None));
    }

    #[tokio::test]
    async fn a_value_is_news_once_and_the_end_is_no_value() {
        let (setter, mut reader) = watch_cell(0);
        assert_eq!(reader.changed().now_or_never(), None, "the first value is no news");
        setter.set(1);
        assert_eq!(reader.changed().now_or_never(), Some(true));
        assert_eq!(reader.changed().now_or_never(), None);
        drop(setter);
        assert_eq!(reader.changed().now_or_never(), Some(false));
        assert_eq!(
            reader.wait_for(|value| *value > 0).now_or_never(),
            Some(Some(1)),
            "what is there is given"
        );
        assert_eq!(reader.wait_for(|value| *value > 1).now_or_never(), Some(None));
    }
}
