//! A callback, as rules hold it.

use super::{Firing, Outcome};
use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;

/// Any error a callback may end with.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What an error says, with what its sources say besides.
pub(crate) fn error_text(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        next = source.source();
        let more = source.to_string();
        // Many errors have their source in their own text.
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
    }
    text
}

pub(crate) type CallbackFuture = Pin<Box<dyn Future<Output = Result<Outcome, BoxError>> + Send>>;
pub(crate) type Callback = Arc<dyn Fn(Firing) -> CallbackFuture + Send + Sync>;

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Failed {
        text: &'static str,
        source: Option<BoxError>,
    }

    fn failed(text: &'static str, source: Option<Failed>) -> Failed {
        Failed { text, source: source.map(Into::into) }
    }

    #[test]
    fn every_cause_is_told_once() {
        let cause = || failed("connection refused", None);
        for (error, text) in [
            (cause(), "connection refused"),
            (failed("no answer", Some(cause())), "no answer: connection refused"),
            (failed("a: connection refused", Some(cause())), "a: connection refused"),
            (failed("a", Some(failed("b", Some(cause())))), "a: b: connection refused"),
        ] {
            assert_eq!(error_text(&error), text);
        }
    }
}
