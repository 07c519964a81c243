//! The spans of a firing. Their names and fields are described in the crate's documentation, under "Tracing".
//! Fields that are not known at the beginning are recorded later.

use crate::pattern::Attributes;
use crate::trace::reveal::Reveal;
use tracing::Span;
use tracing::field::Empty;

/// The target of all spans. It doesn't depend on the module that makes them.
const TARGET: &str = "etcd_rules";

/// What is known of a firing at its beginning.
pub(crate) struct FiringStart<'a> {
    pub(crate) engine: &'a str,
    pub(crate) rule: &'a str,
    pub(crate) attempt: u32,
    /// The newest revision among the values that the callback will be given.
    pub(crate) revision: i64,
    pub(crate) queued: std::time::Duration,
}

/// The span of a firing, from the attempt to take the lock to the end of the commit.
pub(crate) fn firing(
    beginning: FiringStart<'_>,
    reveal: Reveal,
    attributes: impl FnOnce() -> Attributes,
) -> Span {
    let FiringStart { engine, rule, attempt, revision, queued } = beginning;
    let span = tracing::info_span!(
        target: TARGET,
        parent: None,
        "firing",
        engine,
        rule,
        instance = Empty,
        attempt,
        revision,
        queued_us = queued.as_micros() as u64,
        fencing_token = Empty,
        outcome = Empty,
        otel.status_code = Empty,
    );
    if !span.is_disabled()
        && let Some(instance) = reveal.instance(&attributes())
    {
        span.record("instance", instance);
    }
    span
}

pub(crate) fn lock(firing: &Span) -> Span {
    tracing::info_span!(target: TARGET, parent: firing, "lock", result = Empty)
}

pub(crate) fn callback(firing: &Span) -> Span {
    tracing::info_span!(
        target: TARGET, parent: firing, "callback", outcome = Empty, otel.status_code = Empty,
    )
}

pub(crate) fn commit(firing: &Span) -> Span {
    tracing::info_span!(target: TARGET, parent: firing, "commit", result = Empty, revision = Empty)
}

/// Records how a firing or a callback ended.
pub(crate) fn outcome(span: &Span, outcome: &'static str, failed: bool) {
    span.record("outcome", outcome);
    if failed {
        // `tracing-opentelemetry` takes the status of a span from this field.
        span.record("otel.status_code", "ERROR");
    }
}
