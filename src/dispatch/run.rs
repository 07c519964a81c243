//! Runs one callback on the application's runtime, within its time limit, until it has really ended.

use super::messages::Finish;
use super::path::Path;
use crate::engine::live::Registered;
use crate::engine::part::panic_text;
use crate::firing::{Effects, Firing, Outcome};
use crate::metrics::Meters;
use crate::rule::{BoxError, Callback};
use crate::trace::lines::Line;
use crate::trace::{Telling, spans};
use futures_util::FutureExt;
use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span};

/// Grace for callbacks of optimistic rules, which have no lease.
pub(crate) const UNLOCKED_GRACE: Duration = Duration::from_secs(1);

/// Everything a run needs.
pub(crate) struct Run {
    pub(crate) callback: Callback,
    pub(crate) firing: Firing,
    pub(crate) limit: Duration,
    /// Told to the callback when its lock may be lost, its time is over, or the engine stops.
    pub(crate) cancelled: CancellationToken,
    /// How long it may go on after being told.
    pub(crate) grace: Duration,
    /// Ends with the callback, wherever that is then.
    pub(crate) registered: Registered,
    /// What the callback logs is inside of it.
    pub(crate) span: Span,
    pub(crate) telling: Telling,
    /// How the instance came here.
    pub(crate) path: Path,
    pub(crate) meters: Meters,
    /// Of the rule.
    pub(crate) number: u32,
}

/// Starts it; the future follows it to its end. A callback that blocks its thread can't be dropped: it is
/// waited for, and counted as stuck.
pub(crate) fn start(
    engine: Arc<str>,
    rule: Arc<str>,
    runtime: &Handle,
    run: Run,
) -> impl Future<Output = (Finish, Option<Effects>)> + use<> {
    let Run { callback, firing, limit, cancelled, grace, registered, span, telling, path, meters, number } =
        run;
    let meters_of_task = meters.clone();
    let (told, seen) = (cancelled.clone(), firing.clone());
    let running = async move {
        let _registered = registered;
        // Told before it began: nothing of it may run, not even up to its first wait.
        if cancelled.is_cancelled() {
            return Ran(Finish::Cancelled, None);
        }
        let _running = Running::start(&path, meters_of_task, number);
        // The closure itself may panic too, before it has made a future.
        let own = firing.clone();
        let running = async move { callback(firing).await.map(|outcome| own.complete(outcome)) };
        let mut callback = std::pin::pin!(AssertUnwindSafe(running).catch_unwind());
        tokio::select! {
            biased;
            ended = &mut callback => return ended.map_or_else(Ran::panicked, Ran::returned),
            () = cancelled.cancelled() => {}
            () = tokio::time::sleep(limit) => {
                cancelled.cancel();
                return Ran(Finish::TimedOut, None);
            }
        }
        // Told: a callback that ends by itself now may have done its work.
        let ended = timeout(grace, callback).await;
        ended.map_or(Ran(Finish::Cancelled, None), |ended| ended.map_or_else(Ran::panicked, Ran::returned))
    };
    let mut task = runtime.spawn(running.instrument(span.clone()));
    async move {
        let instance = || telling.reveal.instance(seen.attributes());
        let overdue = async {
            tokio::select! {
                biased;
                () = told.cancelled() => {}
                () = tokio::time::sleep(limit) => {}
            }
            tokio::time::sleep(grace + STUCK).await;
        };
        let ended = tokio::select! {
            biased;
            ended = &mut task => ended,
            () = overdue => {
                if let Some(suppressed) = telling.lines.pass(Line::CallbackStuck, seen.rule_number(), Instant::now()) {
                    let instance = instance();
                    let instance = instance.as_deref();
                    tracing::warn!(
                        parent: &span, engine = &*engine, rule = &*rule, instance, suppressed,
                        "callback does not end although it was told to; it keeps its slot"
                    );
                }
                meters.rule(number).stuck(1.0);
                let ended = task.await;
                meters.rule(number).stuck(-1.0);
                ended
            }
        };
        // An error here: the application's runtime is shutting down.
        let Ran(finish, effects) = ended.unwrap_or(Ran(Finish::Cancelled, None));
        meters.rule(number).finished(&finish);
        spans::outcome(&span, finish.outcome(), finish.is_failure());
        if finish.is_failure()
            && let Some(suppressed) =
                telling.lines.pass(Line::CallbackFailed, seen.rule_number(), Instant::now())
        {
            let (instance, attempt, outcome) = (instance(), seen.attempt(), finish.outcome());
            let error = match &finish {
                Finish::Failed(text) | Finish::Panicked(text) => Some(seen.shown(telling.reveal, text)),
                _ => None,
            };
            let (instance, error) = (instance.as_deref(), error.as_deref());
            tracing::warn!(
                parent: &span, engine = &*engine, rule = &*rule, instance, attempt, outcome, error, suppressed,
                "callback failed; it will be tried again"
            );
        }
        (finish, effects)
    }
}

/// How long after its time, and the grace for it, a callback counts as stuck.
const STUCK: Duration = Duration::from_secs(1);

/// A callback that runs, for the metrics: from when the application's runtime takes it up until it has really
/// ended, however that comes.
struct Running {
    meters: Meters,
    number: u32,
    since: Instant,
}

impl Running {
    fn start(path: &Path, meters: Meters, number: u32) -> Self {
        let since = Instant::now();
        meters.rule(number).started(path, since);
        Self { meters, number, since }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.meters.rule(self.number).ran(self.since.elapsed());
    }
}

/// How a callback ended, and what it wants to commit.
struct Ran(Finish, Option<Effects>);

impl Ran {
    fn returned(result: Result<Outcome, BoxError>) -> Self {
        match result {
            Ok(Outcome { effects: Ok(effects), then }) => Self(Finish::Returned(then), Some(effects)),
            Ok(Outcome { effects: Err(error), .. }) => Self(Finish::Failed(error.to_string()), None),
            Err(error) => Self(Finish::Failed(error.to_string()), None),
        }
    }

    fn panicked(panic: Box<dyn Any + Send>) -> Self {
        Self(Finish::Panicked(panic_text(&*panic).to_owned()), None)
    }
}
