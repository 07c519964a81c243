//! Looks at a running engine without keeping it alive.

use super::handle::EngineHandle;
use crate::trace::reveal::Reveal;
use std::any::Any;

/// Something that observes running engines, such as an HTTP endpoint.
pub(crate) trait Observatory: Send + Sync {
    /// Shows an engine until the returned value is dropped.
    fn show(&self, engine: Observer) -> Observed;
}

/// The place of an engine in an observatory, which it keeps alive.
pub(crate) type Observed = Box<dyn Any + Send + Sync>;

/// See the [module](self).
#[derive(Clone, Debug)]
pub(crate) struct Observer {
    /// What may be told of it.
    pub(crate) reveal: Reveal,
    pub(crate) handle: EngineHandle,
}
