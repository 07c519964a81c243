//! What callbacks do in the simulation. It is random, but depends only on the seed and the number of the run.

use super::history::{Began, EngineRun, Event, History, How};
use super::kinds::Kind;
use super::plan::{Callbacks, Plan};
use crate::compiled::Backoff;
use crate::firing::BoxError;
use crate::firing::{Firing, Outcome};
use crate::rule::Rule;
use crate::runtime::process::Process;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::sleep;

const MS: Duration = Duration::from_millis(1);

/// What the callbacks of one run of an engine share.
pub(super) struct World {
    pub(super) seed: u64,
    pub(super) history: History,
    pub(super) life: EngineRun,
    pub(super) process: Process,
    pub(super) callbacks: Callbacks,
    /// Once set, all callbacks succeed.
    pub(super) quiesced: Arc<AtomicBool>,
}

pub(super) fn rules(plan: &Plan, world: &Arc<World>) -> Vec<Rule> {
    plan.kinds.iter().map(|&kind| rule(kind, plan, world.clone())).collect()
}

fn rule(kind: Kind, plan: &Plan, world: Arc<World>) -> Rule {
    let (base, max) = plan.options.backoff;
    let mut rule = Rule::new(kind.name())
        .when(kind.condition())
        .backoff(Backoff::new(base, max))
        .time_limit(plan.options.time_limit)
        .run(move |firing| {
            let world = world.clone();
            // If the process stalls or ends, so does the callback in it.
            let process = world.process.clone();
            async move {
                let mut noted = RunReport::begin(&world, kind, &firing);
                let body = run(&world, kind, firing, noted.run);
                match process.host(body).await {
                    Some((how, result)) => {
                        noted.end(how);
                        result
                    }
                    None => {
                        noted.end(How::Crashed);
                        Err("the process has ended".into())
                    }
                }
            }
        });
    for (slot, pattern) in kind.slots().iter().enumerate() {
        if kind.is_only_shown(slot) {
            rule = rule.show(*pattern);
        }
    }
    if let Some(lock) = kind.lock() {
        rule = rule.lock(lock);
    }
    if kind == Kind::Optimistic { rule.optimistic() } else { rule }
}

/// Records one run of a callback in the history, also if it is dropped.
struct RunReport {
    history: History,
    run: u64,
    ended: bool,
}

impl RunReport {
    fn begin(world: &World, kind: Kind, firing: &Firing) -> Self {
        let history = world.history.clone();
        let run = history.next_run();
        let text = |pattern: &&str| {
            let value = firing.value_opt(pattern).expect("a pattern of the kind's condition");
            value.map(|value| value.to_string_lossy().into_owned())
        };
        history.add(Event::Began(Began {
            run,
            life: world.life,
            kind,
            id: firing.attributes().iter().map(|(_, value)| value.to_owned()).collect(),
            token: firing.fencing_token(),
            attempt: firing.attempt(),
            shown: kind.slots().iter().map(text).collect(),
        }));
        Self { history, run, ended: false }
    }

    fn end(&mut self, how: How) {
        if !std::mem::replace(&mut self.ended, true) {
            self.history.add(Event::Ended { run: self.run, how });
        }
    }
}

impl Drop for RunReport {
    fn drop(&mut self) {
        self.end(How::Dropped);
    }
}

async fn run(world: &World, kind: Kind, firing: Firing, run: u64) -> (How, Result<Outcome, BoxError>) {
    if world.quiesced.load(Ordering::SeqCst) {
        sleep(MS).await;
        return finish(kind, &firing, run);
    }
    let rng = &mut StdRng::seed_from_u64(world.seed ^ run.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let chances = &world.callbacks;
    let reads = rng.random_range(0..100) < chances.reading;
    if reads && let Err(error) = read(world, kind, &firing, run).await {
        return (How::ReadFailed, Err(error));
    }
    let pause = match rng.random_range(0..100) {
        0..30 => Duration::ZERO,
        slow if slow >= 100 - chances.slow => MS * rng.random_range(300..8000),
        _ => MS * rng.random_range(1..80),
    };
    if rng.random_bool(0.5) {
        tokio::select! {
            biased;
            () = firing.cancelled() => return (How::Cancelled, Err("told to end".into())),
            () = sleep(pause) => {}
        }
    } else {
        sleep(pause).await;
    }
    // Much may have happened since it began.
    if reads && let Err(error) = read(world, kind, &firing, run).await {
        return (How::ReadFailed, Err(error));
    }
    let failing = if kind == Kind::Flaky { 60 } else { chances.failing };
    if rng.random_range(0..100) < failing {
        return match rng.random_range(0..4) {
            // This calls no panic hook, so nothing is printed.
            0 => {
                world.history.add(Event::Ended { run, how: How::Panicked });
                std::panic::resume_unwind(Box::new("on purpose"))
            }
            1 if kind.consumes() => (How::GaveUp, Ok(kind.commit(&firing, run).give_up("on purpose"))),
            2 => (How::RetryAfter, Ok(Outcome::retry_after(MS * rng.random_range(1..1500)))),
            _ => (How::Failed, Err("on purpose".into())),
        };
    }
    if kind == Kind::Stay && rng.random_bool(0.2) {
        return (How::GaveUp, Ok(Outcome::give_up("on purpose")));
    }
    finish(kind, &firing, run)
}

/// Reads the instance's first key.
async fn read(world: &World, kind: Kind, firing: &Firing, run: u64) -> Result<(), BoxError> {
    let pattern = kind.slots()[0];
    let asked = world.history.time();
    let value = firing.get_opt(pattern).await?.map(|value| value.to_string_lossy().into_owned());
    world.history.add(Event::Read { run, key: firing.format(pattern)?, asked, value });
    Ok(())
}

fn finish(kind: Kind, firing: &Firing, run: u64) -> (How, Result<Outcome, BoxError>) {
    match kind {
        Kind::Stay if run.is_multiple_of(2) => (How::Done, Ok(Outcome::done())),
        _ => (How::Committed, Ok(kind.commit(firing, run).into())),
    }
}
