//! Rounds that may fail: then the rows say why, and others are still measured.

#![allow(dead_code, unreachable_pub, reason = "every benchmark is a crate of its own and takes a part")]

use crate::report::Row;
use futures_util::FutureExt;
use std::any::Any;
use std::panic::AssertUnwindSafe;

/// The rounds of one side. The first that fails, by a panic, is the last.
pub struct Tries<T> {
    pub rounds: Vec<T>,
    failure: Option<String>,
}

impl<T> Default for Tries<T> {
    fn default() -> Self {
        Self { rounds: Vec::new(), failure: None }
    }
}

impl<T> Tries<T> {
    /// Measures one more round, unless one has failed.
    pub async fn round(&mut self, measuring: impl Future<Output = T>) {
        if self.failure.is_some() {
            return;
        }
        match AssertUnwindSafe(measuring).catch_unwind().await {
            Ok(round) => self.rounds.push(round),
            Err(panic) => self.failure = Some(reason(&*panic)),
        }
    }

    /// These rows, which are of its rounds, or why this side has none.
    pub fn checked(&self, side: &str, rows: Vec<Row>) -> Vec<Row> {
        match &self.failure {
            None => rows,
            Some(why) => rows.into_iter().map(|row| row.not_measured(&format!("{side}: {why}"))).collect(),
        }
    }
}

/// What a panic said.
pub fn reason(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked").replace('\n', " ")
}
