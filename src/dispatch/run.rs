//! Runs one callback on the application's runtime, within its time limit, until it has really ended.

use super::latency::TriggerLatency;
use super::messages::CallbackEnd;
use crate::compiled::RuleIndex;
use crate::dispatch::running::Registered;
use crate::firing::{BoxError, Effects, Firing, FiringOutcome, Outcome, Parts, error_text};
use crate::index::InstanceId;
use crate::lock::txn::Nonce;
use crate::metrics::Meters;
use crate::runtime::supervised::panic_text;
use crate::trace::lines::Line;
use crate::trace::{Telemetry, spans};
use futures_util::FutureExt;
use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{Instrument, Span};

/// Grace for callbacks of optimistic rules, which have no lease.
pub(crate) const UNLOCKED_GRACE: Duration = Duration::from_secs(1);

/// Everything a run needs.
pub(crate) struct Run {
    pub(crate) telemetry: Arc<CallbackTelemetry>,
    /// What the callback is given is made of it on the callback's own thread: what one thread allocates and another
    /// frees costs both.
    pub(crate) parts: Parts,
    pub(crate) limit: Duration,
    /// How long it may go on after being told.
    pub(crate) grace: Duration,
    /// Dropped with the callback, wherever that is then.
    pub(crate) registered: Registered,
    /// What the callback logs is inside of it.
    pub(crate) span: Span,
    /// How the instance came here.
    pub(crate) latency: TriggerLatency,
}

/// What the runs of an engine tell, and whom.
pub(crate) struct CallbackTelemetry {
    pub(crate) engine: Arc<str>,
    pub(crate) telemetry: Telemetry,
    pub(crate) meters: Meters,
}

/// Runs it to its end. A callback that blocks its thread can't be dropped, so that its end is waited for.
///
/// No future is moved after it was made. One that is moved into another takes its room twice, and every move copies it.
pub(crate) async fn run(run: Run) -> (CallbackEnd, Option<Effects>) {
    let Run { telemetry, parts, limit, grace, registered, span, latency } = run;
    let rule = parts.rule;
    let seen = Firing::new(parts);
    let running = to_its_end(&seen, limit, grace, registered, &latency, &telemetry.meters);
    let Ran(outcome, effects) = running.instrument(span.clone()).await;
    // Once, so that all who tell of it tell the same.
    let end = CallbackEnd::of(outcome.map_text(|text| seen.shown(text)));
    let end = if seen.has_link_errors() { end.after_link_errors() } else { end };
    let outcome = &end.outcome;
    let CallbackTelemetry { engine, telemetry, meters } = &*telemetry;
    meters.rule(rule).finished(outcome.name());
    spans::outcome(&span, outcome.name(), outcome.is_failure());
    if outcome.is_failure()
        && let Some(suppressed) = telemetry.lines.pass(Line::CallbackFailed, rule, Instant::now())
    {
        let instance = telemetry.reveal.instance(seen.attributes());
        let (attempt, error, outcome) = (seen.attempt(), outcome.error(), outcome.name());
        let (engine, rule) = (&**engine, seen.rule());
        let instance = instance.as_deref();
        tracing::warn!(
            parent: &span, engine, rule, instance, attempt, outcome, error, suppressed,
            "callback failed; it will be tried again"
        );
    }
    (end, effects)
}

/// Runs the callback until it has ended, or is dropped because it did not although it was told to.
async fn to_its_end(
    firing: &Firing,
    limit: Duration,
    grace: Duration,
    registered: Registered,
    latency: &TriggerLatency,
    meters: &Meters,
) -> Ran {
    let _registered = registered;
    // The callback is told by it when its lock may be lost, its time is over, or the engine stops.
    let cancelled = firing.token();
    // It was told to end before it began: nothing of it may run, not even up to its first wait.
    if cancelled.is_cancelled() {
        return Ran(FiringOutcome::Cancelled, None);
    }
    let _running = Running::start(latency, meters, firing.rule_index());
    // The closure itself may panic too, before it has made a future.
    let running = async { firing.callback()(firing.clone()).await.map(|outcome| firing.complete(outcome)) };
    let mut callback = std::pin::pin!(AssertUnwindSafe(running).catch_unwind());
    // From its own start on, also if it does not wait for long.
    let end = Instant::now().checked_add(limit);
    // A callback that ends at once needs no timer: those of the other branches are made when they are first waited for.
    tokio::select! {
        biased;
        ended = &mut callback => return ended.map_or_else(Ran::panicked, Ran::returned),
        () = async { cancelled.cancelled().await } => {}
        () = async { match end { Some(end) => sleep_until(end).await, None => std::future::pending().await } } => {
            cancelled.cancel();
            return Ran(FiringOutcome::TimedOut, None);
        }
    }
    // It was told to end. A callback that ends by itself now may have done its work.
    let ended = timeout(grace, callback).await;
    ended.map_or(Ran(FiringOutcome::Cancelled, None), |ended| ended.map_or_else(Ran::panicked, Ran::returned))
}

/// Runs it to its end, and tells the dispatcher.
pub(crate) async fn run_and_report(run: Run, mut end: EndReporter) {
    let (how, effects) = self::run(run).await;
    end.report(how, effects);
}

/// Tells the dispatcher how a run ended. If it is dropped before, the application's runtime is shutting down,
/// and the callback was cancelled.
pub(crate) struct EndReporter {
    ended: EndedRuns,
    instance: InstanceId,
    nonce: Nonce,
    telemetry: Arc<CallbackTelemetry>,
    rule: RuleIndex,
    reported: bool,
}

impl EndReporter {
    fn report(&mut self, end: CallbackEnd, effects: Option<Effects>) {
        self.reported = true;
        self.ended.push(RunEnded { instance: self.instance, nonce: self.nonce, end, effects });
    }
}

impl Drop for EndReporter {
    fn drop(&mut self) {
        if !self.reported {
            let end = CallbackEnd::of(FiringOutcome::Cancelled);
            self.telemetry.meters.rule(self.rule).finished(end.outcome.name());
            self.report(end, None);
        }
    }
}

/// How a run ended: that of this attempt.
pub(crate) struct RunEnded {
    pub(crate) instance: InstanceId,
    pub(crate) nonce: Nonce,
    pub(crate) end: CallbackEnd,
    pub(crate) effects: Option<Effects>,
}

/// The runs that have ended since the dispatcher looked, which is called once for all of them. Bounded by the
/// firing slots.
#[derive(Clone)]
pub(crate) struct EndedRuns(Arc<EndedList<dyn Fn() + Send + Sync>>);

struct EndedList<C: ?Sized> {
    ended: Mutex<Vec<RunEnded>>,
    call: C,
}

impl EndedRuns {
    /// `call` has the dispatcher [take](Self::take) what is there.
    pub(crate) fn new(call: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(EndedList { ended: Mutex::default(), call }))
    }

    pub(crate) fn end_of(
        &self,
        instance: InstanceId,
        nonce: Nonce,
        telemetry: Arc<CallbackTelemetry>,
        rule: RuleIndex,
    ) -> EndReporter {
        EndReporter { ended: self.clone(), instance, nonce, telemetry, rule, reported: false }
    }

    pub(crate) fn take(&self) -> Vec<RunEnded> {
        std::mem::take(&mut *self.lock())
    }

    fn push(&self, ended: RunEnded) {
        let first = {
            let mut list = self.lock();
            list.push(ended);
            list.len() == 1
        };
        if first {
            (self.0.call)();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<RunEnded>> {
        // Nothing that can panic is done under it.
        self.0.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells when a callback has not ended although its time is over.
pub(crate) struct StuckDetector {
    /// When it is to have ended.
    by: Instant,
    grace: Duration,
    cancelled: bool,
    stuck: bool,
}

impl StuckDetector {
    pub(crate) fn new(now: Instant, limit: Duration, grace: Duration) -> Self {
        Self {
            by: now.checked_add(limit.saturating_add(grace)).unwrap_or(now + LONG),
            grace,
            cancelled: false,
            stuck: false,
        }
    }

    /// Looked at from time to time. True once it does not end although it was told to.
    pub(crate) fn has_got_stuck(&mut self, cancelled: bool, now: Instant) -> bool {
        if cancelled && !self.cancelled {
            self.cancelled = true;
            self.by = self.by.min(now + self.grace);
        }
        let stuck = now >= self.by + STUCK && !self.stuck;
        self.stuck |= stuck;
        stuck
    }

    pub(crate) fn is_stuck(&self) -> bool {
        self.stuck
    }
}

/// In place of a time that no clock reaches.
const LONG: Duration = Duration::from_secs(365 * 24 * 3600);

/// How long after its time, and the grace for it, a callback counts as stuck.
const STUCK: Duration = Duration::from_secs(1);

/// A callback that runs, for the metrics: from when the application's runtime takes it up until it has really
/// ended, however that comes.
struct Running<'m> {
    meters: &'m Meters,
    rule: RuleIndex,
    since: Instant,
}

impl<'m> Running<'m> {
    fn start(latency: &TriggerLatency, meters: &'m Meters, rule: RuleIndex) -> Self {
        let since = Instant::now();
        meters.rule(rule).started(since.saturating_duration_since(latency.due), latency.stages_until(since));
        Self { meters, rule, since }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.meters.rule(self.rule).ran(self.since.elapsed());
    }
}

/// How a callback ended, and what it wants to commit.
struct Ran(FiringOutcome, Option<Effects>);

impl Ran {
    fn returned(result: Result<Outcome, BoxError>) -> Self {
        match result {
            Ok(Outcome { effects: Ok(effects), then }) => Self(then, Some(effects)),
            Ok(Outcome { effects: Err(error), .. }) => Self(FiringOutcome::Failed(error_text(&error)), None),
            Err(error) => Self(FiringOutcome::Failed(error_text(&*error)), None),
        }
    }

    fn panicked(panic: Box<dyn Any + Send>) -> Self {
        Self(FiringOutcome::Panicked(panic_text(&*panic).to_owned()), None)
    }
}

#[cfg(test)]
mod tests;
