//! A process within one thread: its tasks stand still and end together, as those of a real one do.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

/// Whether a process runs, stands still, or has ended. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Process(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    stalls: usize,
    ended: bool,
    waiting: Vec<Waker>,
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

    /// Stands still until it [goes on](Self::go_on) as often.
    pub(super) fn stall(&self) {
        self.change(|state| state.stalls += 1);
    }

    pub(super) fn go_on(&self) {
        self.change(|state| state.stalls = state.stalls.saturating_sub(1));
    }

    /// Goes on, however often it was stalled.
    pub(super) fn run_on(&self) {
        self.change(|state| state.stalls = 0);
    }

    /// Ends everything in it.
    pub(super) fn end(&self) {
        self.change(|state| state.ended = true);
    }

    /// Runs a future in the process; `None` if that ends first. The future is dropped with it.
    pub(super) async fn host<F: Future>(&self, future: F) -> Option<F::Output> {
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
