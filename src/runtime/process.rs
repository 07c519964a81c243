//! A simulated process within one thread. Its tasks stall and end together, like those of a real process.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

/// The state of a process: it runs, is stalled, or has ended. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Process(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    stalls: usize,
    ended: bool,
    waiting: Vec<Waker>,
}

impl std::fmt::Debug for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Process")
    }
}

impl Process {
    fn change(&self, change: impl FnOnce(&mut State)) {
        let waiting = {
            let mut state = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            change(&mut state);
            std::mem::take(&mut state.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Stalls the process. It runs again after as many calls of [`go_on`](Self::go_on).
    pub(crate) fn stall(&self) {
        self.change(|state| state.stalls += 1);
    }

    #[cfg(test)]
    pub(crate) fn go_on(&self) {
        self.change(|state| state.stalls = state.stalls.saturating_sub(1));
    }

    /// Lets the process run again, however often it was stalled.
    pub(crate) fn run_on(&self) {
        self.change(|state| state.stalls = 0);
    }

    /// Ends the process and everything in it.
    pub(crate) fn end(&self) {
        self.change(|state| state.ended = true);
    }

    /// Runs a future in the process. If the process ends first, the future is dropped and the result is
    /// `None`.
    pub(crate) async fn host<F: Future>(&self, future: F) -> Option<F::Output> {
        Hosted { process: self.clone(), future: Box::pin(future) }.await
    }
}

struct Hosted<F> {
    process: Process,
    future: Pin<Box<F>>,
}

impl<F: Future> Future for Hosted<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        {
            let mut state = self.process.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            if state.ended {
                return Poll::Ready(None);
            }
            if !state.waiting.iter().any(|waker| waker.will_wake(context.waker())) {
                state.waiting.push(context.waker().clone());
            }
            if state.stalls > 0 {
                return Poll::Pending;
            }
        }
        self.future.as_mut().poll(context).map(Some)
    }
}
