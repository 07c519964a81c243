//! Layers around callbacks: what an application does before and after every run, written once.

use super::callback::CallbackFuture;
use super::{BoxError, Callback, Firing, Outcome};
use std::fmt;
use std::sync::Arc;

/// What a [layer](crate::EngineBuilder::layer) is around: the next layer, or the callback itself.
#[derive(Clone)]
pub struct Next(Callback);

impl Next {
    /// Runs it to its end. A layer that does not call it keeps the callback from running.
    ///
    /// # Errors
    /// The callback's own, or one of a layer inside.
    pub async fn run(&self, firing: Firing) -> Result<Outcome, BoxError> {
        (self.0)(firing).await
    }
}

impl fmt::Debug for Next {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Next").finish_non_exhaustive()
    }
}

/// A layer, as rules and engines hold it.
pub(crate) type Layer = Arc<dyn Fn(Firing, Next) -> CallbackFuture + Send + Sync>;

/// A layer of the application's own.
pub(crate) fn layer<F, Fut, E>(layer: F) -> Layer
where
    F: Fn(Firing, Next) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Outcome, E>> + Send + 'static,
    E: Into<BoxError>,
{
    Arc::new(move |firing, next| {
        let running = layer(firing, next);
        Box::pin(async move { running.await.map_err(Into::into) })
    })
}

/// The callback with these layers around it. The first of them is the outermost.
pub(crate) fn layered(callback: Callback, layers: &[Layer]) -> Callback {
    layers.iter().rev().fold(callback, |inside, layer| {
        let layer = layer.clone();
        Arc::new(move |firing| layer(firing, Next(inside.clone())))
    })
}
