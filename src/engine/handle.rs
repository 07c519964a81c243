//! What the application holds while an engine runs.

use super::config::Config;
use super::env::Placement;
use super::status::{Health, Status};
use super::supervisor::{Command, supervise};
use crate::condition::Explanation;
use crate::error::Error;
use crate::pattern::Attributes;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};

/// A running engine. Dropping it ends the engine in the background: callbacks are cancelled, the
/// threads end within a second, locks are freed if etcd answers, and by their TTL otherwise. To let
/// callbacks finish, call [`shutdown`](EngineHandle::shutdown).
#[derive(Debug)]
pub struct EngineHandle {
    commands: mpsc::Sender<Command>,
    health: watch::Receiver<Health>,
    supervisor: Option<std::thread::JoinHandle<()>>,
}

/// Figures of a running engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Keys in memory.
    pub keys: usize,
    /// Rule instances known.
    pub instances: usize,
    /// Deleted keys that are remembered until older reads are over.
    pub tombstones: usize,
    /// Decisions made since the last (re)start.
    pub decisions: u64,
    /// Differences that crawls had to repair; expected: none.
    pub drift: u64,
    /// Instances that are true and wait for a slot.
    pub queued: usize,
    /// Instances that are being fired.
    pub running: usize,
    /// Instances that wait for a time.
    pub waiting: usize,
    /// Instances that another engine works on.
    pub held: usize,
    /// Instances given up until a key changes.
    pub given_up: usize,
    /// Instances that are true and done.
    pub idle: usize,
}

impl EngineHandle {
    pub(super) fn start(config: Config, runtime: Handle) -> Result<Self, Error> {
        let (commands, receiver) = mpsc::channel(16);
        let status = Status::new(config.engine.clone());
        let health = status.subscribe();
        let placement = config.env.placement;
        let main = supervise(config, runtime, status, receiver);
        let failed = |error: std::io::Error| Error::Start(error.to_string());
        let supervisor = match placement {
            Placement::Local => {
                tokio::task::spawn_local(main);
                None
            }
            Placement::OwnThreads => {
                let runtime =
                    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
                let thread = std::thread::Builder::new().name("etcd-rules-main".into());
                Some(thread.spawn(move || runtime.block_on(main)).map_err(failed)?)
            }
        };
        Ok(Self { commands, health, supervisor })
    }

    /// The engine's state now.
    pub fn health(&self) -> Health {
        self.health.borrow().clone()
    }

    /// A receiver that is told of every change of the engine's state.
    pub fn health_changes(&self) -> watch::Receiver<Health> {
        self.health.clone()
    }

    /// Waits until the engine watches and its rules fire. Never completes if it never is.
    pub async fn ready(&self) {
        let mut health = self.health.clone();
        if health.wait_for(|health| matches!(health, Health::Ready)).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until the engine has given up, and returns why. Never completes otherwise.
    pub async fn failed(&self) -> String {
        let mut health = self.health.clone();
        let failed = health.wait_for(|health| matches!(health, Health::Failed { .. })).await;
        match failed.as_deref() {
            Ok(Health::Failed { reason }) => reason.clone(),
            _ => std::future::pending().await,
        }
    }

    /// Figures of now.
    ///
    /// # Errors
    /// [`Error::Stopped`] if the engine has ended.
    pub async fn stats(&self) -> Result<Stats, Error> {
        self.ask(|reply| Command::Stats { reply }).await
    }

    /// Why an instance is true or false: the truth of each part of its condition with the values and
    /// revisions seen. An instance that is not known is explained as if its keys were absent.
    ///
    /// # Errors
    /// [`Error::UnknownRule`], [`Error::UnknownAttribute`] if one of the rule's attributes is not given,
    /// [`Error::Stopped`] if the engine has ended.
    pub async fn explain(&self, rule: &str, attributes: &Attributes) -> Result<Explanation, Error> {
        let (rule, attributes) = (rule.to_owned(), attributes.clone());
        self.ask(|reply| Command::Explain { rule, attributes, reply }).await?
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Error> {
        let stopped = || Error::Stopped("the engine has ended".into());
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())
    }

    /// Shuts the engine down in order: stops watching, lets callbacks finish for as long as `deadline`,
    /// cancels the rest, frees its locks, revokes its leases and ends its threads.
    ///
    /// Dropping the future leaves the shutdown to go on in the background.
    ///
    /// # Errors
    /// [`Error::Unfinished`] if callbacks did not end although they were cancelled: they block, their
    /// locks end with their TTL. [`Error::Stopped`] if the engine had given up.
    pub async fn shutdown(mut self, deadline: Duration) -> Result<(), Error> {
        if let Health::Failed { reason } = self.health() {
            return Err(Error::Stopped(reason));
        }
        let (reply, answer) = oneshot::channel();
        let sent = self.commands.send(Command::Shutdown { deadline, reply }).await;
        let result = match (sent, answer.await) {
            (Ok(()), Ok(0)) => Ok(()),
            (Ok(()), Ok(firings)) => Err(Error::Unfinished { firings }),
            _ => Err(Error::Stopped("the engine had ended".into())),
        };
        if let Some(supervisor) = self.supervisor.take() {
            while !supervisor.is_finished() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            // It has ended; a panic was reported through the health.
            let _ = supervisor.join();
        }
        result
    }
}
