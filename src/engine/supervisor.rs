//! The supervisor starts the actors, ends them, and restarts them from a new snapshot after a panic or a
//! restored backup.

use super::config::Config;
use super::coverage::{needed, split};
use super::incarnation::Incarnation;
use super::inspector::Inspector;
use crate::dispatch::controls::RuleControls;
use crate::dispatch::running::RunningCallbacks;
use crate::health::Health;
use crate::health::status::Status;
use crate::metrics::Meters;
use crate::runtime::supervised::ActorFault;
use futures_util::future::BoxFuture;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep};

/// What the handle asks of the supervisor.
pub(crate) enum Command {
    Inspect {
        reply: oneshot::Sender<Inspector>,
    },
    /// Answered with the number of firings that did not end.
    Shutdown {
        deadline: Duration,
        reply: oneshot::Sender<usize>,
    },
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Command::Inspect { .. } => "Inspect",
            Command::Shutdown { .. } => "Shutdown",
        })
    }
}

/// The number of panics within [`PATIENCE`] after which the actors are started again. With one more the
/// engine fails.
const RESTARTS: usize = 5;
const PATIENCE: Duration = Duration::from_secs(60);

/// How long the end may take when the handle was dropped, so that the threads end within a second.
const ABANDON: Duration = Duration::from_millis(600);

/// How long callbacks may finish when the engine begins again although nothing is wrong with them.
const DRAIN: Duration = Duration::from_secs(30);

/// How long callbacks have to end before a restart.
const RESTART: Duration = Duration::from_secs(4);

enum Turn {
    Again,
    End,
}

pub(crate) async fn supervise(
    mut config: Config,
    runtime: Handle,
    status: Status,
    meters: Meters,
    mut commands: mpsc::Receiver<Command>,
) {
    let live = RunningCallbacks::new(config.env.hasher());
    let controls = RuleControls::new(&config.rules);
    let mut panics: VecDeque<Instant> = VecDeque::new();
    for number in 0.. {
        let incarnation =
            match Incarnation::start(&config, &runtime, &status, &meters, &live, &controls, number).await {
                Ok(incarnation) => incarnation,
                Err(error) => {
                    return status.end(Health::Failed { reason: format!("could not start: {error}") });
                }
            };
        if let Turn::End =
            oversee(&mut config, &status, &meters, incarnation, &mut commands, &mut panics).await
        {
            return;
        }
    }
}

/// Runs until the actors must start again, or the engine ends.
async fn oversee(
    config: &mut Config,
    status: &Status,
    meters: &Meters,
    mut incarnation: Incarnation,
    commands: &mut mpsc::Receiver<Command>,
    panics: &mut VecDeque<Instant>,
) -> Turn {
    // What was refused, while callbacks that run may finish.
    let mut refused: Option<ActorFault> = None;
    let mut drained: BoxFuture<'static, ()> = Box::pin(std::future::pending());
    loop {
        let fault = tokio::select! {
            biased;
            () = &mut drained => refused.take(),
            fault = incarnation.faults.recv() => match fault {
                Some(fault @ ActorFault::Refused(_)) => {
                    if refused.is_none() {
                        // Nothing is wrong with what runs.
                        status.draining();
                        drained = Box::pin(incarnation.drain(config.options.shutdown_deadline.min(DRAIN)));
                        refused = Some(fault);
                    }
                    continue;
                }
                fault => {
                    meters.restart();
                    fault
                }
            },
            command = commands.recv() => match command {
                Some(Command::Shutdown { deadline, reply }) => {
                    status.end(Health::Stopping);
                    let left = incarnation.shutdown(deadline).await;
                    status.end(Health::Stopped);
                    // The receiver may be gone, and then nobody needs the answer.
                    let _ = reply.send(left);
                    return Turn::End;
                }
                None => {
                    status.end(Health::Stopping);
                    incarnation.abandon(ABANDON).await;
                    status.end(Health::Stopped);
                    return Turn::End;
                }
                Some(Command::Inspect { reply }) => {
                    // The receiver may be gone, and then nobody needs the answer.
                    let _ = reply.send(incarnation.inspector(config.rules.clone()));
                    continue;
                }
            },
        };
        let fault = fault.unwrap_or(ActorFault::Rewound("all parts ended".into()));
        status.restarting();
        incarnation.abandon(RESTART).await;
        // This is done once more, because what the old actors reported until their end is void.
        status.restarting();
        return recover(config, status, fault, panics).await;
    }
}

async fn recover(
    config: &mut Config,
    status: &Status,
    fault: ActorFault,
    panics: &mut VecDeque<Instant>,
) -> Turn {
    let engine = &*config.engine.clone();
    match fault {
        ActorFault::Rewound(reason) => {
            tracing::warn!(
                engine,
                reason,
                "etcd has other or older data than before: starting again from what it has"
            );
        }
        ActorFault::Refused(keys) => {
            let parts = needed(&config.rules, &keys);
            tracing::warn!(
                engine, prefix = keys.text(), instead = ?parts,
                "etcd refuses to let a prefix be read: what the patterns need of it is watched instead"
            );
            config.watched = split(&config.watched, &keys, parts);
        }
        ActorFault::Panicked { part, text } => {
            let text = config.options.reveal.panic(&text);
            tracing::error!(
                engine,
                part,
                panic = text,
                "a part of the engine panicked: starting again from a resync"
            );
            let now = Instant::now();
            panics.push_back(now);
            while panics.front().is_some_and(|at| now.duration_since(*at) > PATIENCE) {
                panics.pop_front();
            }
            if panics.len() > RESTARTS {
                status.end(Health::Failed { reason: format!("the {part} panicked again and again: {text}") });
                return Turn::End;
            }
            sleep(Duration::from_millis(100) * (1 << panics.len())).await;
        }
    }
    Turn::Again
}
