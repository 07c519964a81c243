//! Whole engines in one thread, under a clock that jumps to what is due next: what the tests of users and the
//! simulation have in common.

use crate::engine::{Engine, RunningEngine};
use crate::error::EngineError;
use crate::runtime::env::Env;
use crate::runtime::process::Process;
use std::future::{Future, pending};
use std::time::UNIX_EPOCH;
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use tokio::time::Instant;

/// Runs something under a clock of its own, which moves on whenever nothing else is left to do.
///
/// # Panics
///
/// Within another runtime, or if it panics itself.
pub(crate) fn run<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    LocalSet::new().block_on(&runtime.expect("a runtime without I/O needs nothing"), Box::pin(future))
}

/// What an engine takes from outside in a world that began at `start`: everything follows from the seed of the world,
/// the number of the engine, and how often it was started.
pub(crate) fn env(seed: u64, engine: u64, life: u32, start: Instant) -> Env {
    let seed = seed ^ ((engine + 1) << 40) ^ (u64::from(life) << 48);
    Env::local(seed, move || UNIX_EPOCH + start.elapsed())
}

/// Starts an engine, of which all but the callbacks is in this process; what is `beside` it is too. The task ends with
/// the process.
pub(crate) async fn start<F>(
    engine: Engine,
    process: &Process,
    beside: impl FnOnce(&RunningEngine) -> F,
) -> Result<(RunningEngine, JoinHandle<()>), EngineError>
where
    F: Future<Output = ()> + 'static,
{
    let local = LocalSet::new();
    let running = local.run_until(engine.start()).await?;
    let (beside, process) = (beside(&running), process.clone());
    let task = spawn_local(async move {
        let living = local.run_until(async {
            beside.await;
            pending::<()>().await;
        });
        process.host(living).await;
    });
    Ok((running, task))
}
