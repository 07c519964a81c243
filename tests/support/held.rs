//! Callbacks that don't end before the test lets them, so that a test can count how many run at once.

use etcd_rules::{Error, Firing, Outcome, Rule};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::watch;

/// The callbacks of a rule.
#[derive(Debug)]
pub struct Held {
    running: AtomicUsize,
    may_end: watch::Sender<bool>,
}

impl Held {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { running: AtomicUsize::new(0), may_end: watch::Sender::new(false) })
    }

    /// How many run now.
    pub fn running(&self) -> usize {
        self.running.load(Ordering::SeqCst)
    }

    /// Sets whether they may end from now on.
    pub fn may_end(&self, may: bool) {
        self.may_end.send_replace(may);
    }

    /// Gives a rule its callback. It runs until it may end, and then deletes the key of this pattern.
    pub fn run(self: &Arc<Self>, rule: Rule, delete: &'static str) -> Rule {
        let held = self.clone();
        rule.run(move |firing: Firing| {
            let held = held.clone();
            async move {
                held.running.fetch_add(1, Ordering::SeqCst);
                let may = held.may_end.subscribe().wait_for(|may| *may).await.is_ok();
                assert!(may, "the test has ended");
                held.running.fetch_sub(1, Ordering::SeqCst);
                Ok::<Outcome, Error>(firing.commit().delete(delete).into())
            }
        })
    }
}
