//! Where actors run: an actor thread is a thread of the engine's own, or a task in the thread that started
//! it. Ending it ends every actor and task on it.

use super::env::Placement;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

type Job = Box<dyn FnOnce() + Send>;

/// One actor thread.
pub(crate) struct ActorThread {
    jobs: mpsc::Sender<Job>,
    stop: CancellationToken,
    /// One that is dropped without an end, by a failed start or a panic, must not run on.
    _guard: DropGuard,
    ended: oneshot::Receiver<()>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// Threads that do not end in this time are left behind: something on them blocks for ever.
const END: Duration = Duration::from_secs(5);

impl ActorThread {
    /// Starts one. `name`: of the thread, at most 15 bytes on Linux.
    pub(crate) fn start(name: &str, placement: Placement) -> std::io::Result<Self> {
        let (jobs, receiver) = mpsc::channel(16);
        let (end, ended) = oneshot::channel();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let thread = match placement {
            Placement::Local => {
                tokio::task::spawn_local(async move {
                    run(receiver, stopped).await;
                    // Nobody may be waiting.
                    let _ = end.send(());
                });
                None
            }
            Placement::OwnThreads => {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                Some(std::thread::Builder::new().name(name.to_owned()).spawn(move || {
                    runtime.block_on(run(receiver, stopped));
                    runtime.shutdown_background();
                    // Nobody may be waiting.
                    let _ = end.send(());
                })?)
            }
        };
        Ok(Self { jobs, _guard: stop.clone().drop_guard(), stop, ended, thread })
    }

    /// Runs a job on it, where it may start actors. `None` if it has ended.
    pub(crate) async fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (result, receiver) = oneshot::channel();
        let job = Box::new(move || {
            // The one who asked may be gone.
            let _ = result.send(job());
        });
        self.jobs.send(job).await.ok()?;
        receiver.await.ok()
    }

    /// Ends everything on it.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }

    /// Ends it and waits until it has ended. False if something on it blocks.
    pub(crate) async fn end(self) -> bool {
        self.stop();
        let ended = timeout(END, self.ended).await.is_ok();
        if let (true, Some(thread)) = (ended, self.thread) {
            // It has sent its last word; a panic was reported by the actor that it happened in.
            let _ = thread.join();
        }
        ended
    }
}

async fn run(mut jobs: mpsc::Receiver<Job>, stop: CancellationToken) {
    let local = LocalSet::new();
    local
        .run_until(async {
            loop {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    job = jobs.recv() => match job {
                        Some(job) => job(),
                        None => stop.cancelled().await,
                    }
                }
            }
        })
        .await;
}
