//! Observes a running engine without keeping it alive.

use super::inspector::Inspector;
use super::supervisor::Command;
use crate::error::EngineError;
use crate::health::Health;
use crate::trace::reveal::Reveal;
use std::any::Any;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot, watch};

/// Something that observes running engines, such as an HTTP endpoint.
pub(crate) trait Observatory: Send + Sync {
    /// Shows an engine until the returned value is dropped.
    fn show(&self, engine: Observer) -> Shown;
}

/// The place of an engine in an observatory, which it keeps alive.
pub(crate) type Shown = Box<dyn Any + Send + Sync>;

/// See the [module](self).
#[derive(Clone, Debug)]
pub(crate) struct Observer {
    /// The engine's name.
    pub(crate) engine: Arc<str>,
    /// What of the application's data may be shown.
    pub(crate) reveal: Reveal,
    /// This is weak, because the engine ends when its handle drops the last strong sender.
    pub(crate) commands: mpsc::WeakSender<Command>,
    pub(crate) health: watch::Receiver<Health>,
}

impl Observer {
    pub(crate) fn health(&self) -> Health {
        self.health.borrow().clone()
    }

    pub(crate) async fn inspector(&self) -> Result<Inspector, EngineError> {
        let stopped = || EngineError::Stopped("the engine has ended".into());
        let (reply, answer) = oneshot::channel();
        let commands = self.commands.upgrade().ok_or_else(stopped)?;
        let sent = commands.send(Command::Inspect { reply }).await;
        // Otherwise an engine whose handle is dropped during a restart would not end before it has answered.
        drop(commands);
        sent.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())
    }
}
