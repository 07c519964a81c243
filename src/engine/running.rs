//! The owner of a running engine.

use super::config::Config;
use super::handle::EngineHandle;
#[cfg(feature = "http")]
use super::observer::{Observed, Observer};
use super::supervisor::{Command, supervise};
use crate::error::EngineError;
use crate::health::Health;
use crate::health::status::Status;
use crate::metrics::Meters;
use crate::runtime::env::Placement;
use crate::runtime::supervised::panic_text;
use futures_util::FutureExt;
use std::ops::Deref;
use std::panic::AssertUnwindSafe;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

/// A running engine: keep it for as long as the engine is to run. It can do everything that its
/// [handle](EngineHandle) can; clones of that are for whoever else asks the engine something.
///
/// Dropping it ends the engine in the background: callbacks are cancelled and the threads end
/// within a second. Locks are freed if all callbacks have ended by then and etcd answers; otherwise they
/// end with their TTL. To let callbacks finish, call [`shutdown`](RunningEngine::shutdown).
///
/// So whoever starts an engine and does not keep it is warned:
///
/// ```compile_fail
/// #![deny(unused_must_use)]
/// # async fn example(engine: etcd_rules::Engine) -> Result<(), etcd_rules::EngineError> {
/// engine.start().await?;
/// # Ok(())
/// # }
/// ```
///
/// ```
/// #![deny(unused_must_use)]
/// # async fn example(engine: etcd_rules::Engine) -> Result<(), etcd_rules::EngineError> {
/// let _running = engine.start().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "dropping it stops the engine: keep it, and `shutdown` it at the end"]
pub struct RunningEngine {
    commands: mpsc::Sender<Command>,
    handle: EngineHandle,
    supervisor: Option<Supervisor>,
    /// Its place where it is observed.
    #[cfg(feature = "http")]
    _shown: Option<Observed>,
}

/// The supervisor's thread, which says when it has nothing left to do.
#[derive(Debug)]
struct Supervisor {
    thread: JoinHandle<()>,
    ended: oneshot::Receiver<()>,
}

impl Deref for RunningEngine {
    type Target = EngineHandle;

    fn deref(&self) -> &EngineHandle {
        &self.handle
    }
}

impl RunningEngine {
    pub(super) fn start(config: Config, runtime: Handle) -> Result<Self, EngineError> {
        let (commands, receiver) = mpsc::channel(16);
        let meters = Meters::new(&config.engine, &config.rules, config.options.concurrency);
        let status = Status::new(config.engine.clone(), meters.clone());
        let health = status.subscribe();
        let placement = config.env.placement;
        let events = config.events.clone();
        let over = events.clone();
        let key_prefix = config.key_prefix.text();
        if !key_prefix.is_empty() {
            let (engine, prefix) = (&*config.engine, &*key_prefix);
            tracing::info!(engine, prefix, "all keys of the engine are below the prefix");
        }
        let handle = EngineHandle {
            engine: config.engine.clone(),
            key_prefix,
            commands: commands.downgrade(),
            health,
            events,
        };
        #[cfg(feature = "http")]
        let observed = config.observatory.clone().map(|observatory| {
            let observer = Observer { reveal: config.options.reveal, handle: handle.clone() };
            (observatory, observer)
        });
        let reveal = config.options.reveal;
        let supervising = supervise(config, runtime, status.clone(), meters, receiver);
        let main = async move {
            let supervising = async {
                if let Err(panic) = AssertUnwindSafe(supervising).catch_unwind().await {
                    let reason = format!("the supervisor panicked: {}", reveal.panic(panic_text(&*panic)));
                    status.end(Health::Failed { reason });
                }
            };
            // However it ends, it is told.
            tokio::join!(supervising, status.announce());
            over.close();
        };
        let failed = |error: std::io::Error| EngineError::Setup {
            what: "the engine's first thread".into(),
            source: error.into(),
        };
        let supervisor = match placement {
            Placement::Local => {
                tokio::task::spawn_local(main);
                None
            }
            Placement::OwnThreads => {
                let runtime =
                    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
                let (ends, ended) = oneshot::channel();
                let run = move || {
                    runtime.block_on(main);
                    drop(runtime);
                    // Nobody may be waiting.
                    let _ = ends.send(());
                };
                let thread = std::thread::Builder::new().name("etcd-rules-main".into());
                let thread = thread.spawn(run).map_err(failed)?;
                Some(Supervisor { thread, ended })
            }
        };
        Ok(Self {
            commands,
            handle,
            supervisor,
            #[cfg(feature = "http")]
            _shown: observed.map(|(observatory, observer)| observatory.show(observer)),
        })
    }

    /// A handle to ask and direct the engine with, which does not keep it alive.
    #[must_use]
    pub fn handle(&self) -> EngineHandle {
        self.handle.clone()
    }

    /// Shuts the engine down in order: stops watching, lets callbacks finish for as long as `deadline`,
    /// cancels the rest, frees its locks, revokes its leases and ends its threads. With the leases go the
    /// marks of failures and give-ups, so that other engines try again at once.
    ///
    /// It takes a few seconds longer than `deadline` if callbacks must be cancelled or etcd does not answer.
    /// What etcd has not taken a second after that, because it has no space or no leader, has no effect.
    /// A deadline of zero cancels at once. Dropping the future leaves the shutdown to go on in the background.
    ///
    /// # Errors
    /// [`EngineError::Unfinished`] if callbacks did not end although they were cancelled: they block, and their
    /// locks end with their TTL. [`EngineError::Stopped`] if the engine had failed.
    pub async fn shutdown(mut self, deadline: Duration) -> Result<(), EngineError> {
        if let Health::Failed { reason } = self.health() {
            return Err(EngineError::Stopped(reason));
        }
        let (reply, answer) = oneshot::channel();
        let sent = self.commands.send(Command::Shutdown { deadline, reply }).await;
        // A command that was not sent would be waited for in vain.
        let answer = if sent.is_ok() { answer.await.ok() } else { None };
        drop(sent);
        let result = match answer {
            Some(0) => Ok(()),
            Some(firings) => Err(EngineError::Unfinished { firings }),
            None => Err(EngineError::Stopped("the engine had ended".into())),
        };
        if let Some(Supervisor { thread, ended }) = self.supervisor.take() {
            // An error: it panicked, which the health has reported.
            let _ = ended.await;
            // It is about to return, so that this does not block.
            let _ = thread.join();
        }
        result
    }
}
