//! What an engine tells through the crate `tracing`: spans of firings, and lines of the log.
//!
//! | file | subject |
//! |---|---|
//! | [`spans`] | the spans of a firing and their fields |
//! | [`lines`] | how often a line may be written |
//! | [`reveal`] | what of the application's data may be told |

pub(crate) mod lines;
pub(crate) mod reveal;
pub(crate) mod spans;
#[cfg(all(test, feature = "embedded"))]
mod tests;

use lines::Lines;
use reveal::Reveal;

/// What a part needs to tell something.
#[derive(Clone, Default)]
pub(crate) struct Telemetry {
    pub(crate) lines: Lines,
    pub(crate) reveal: Reveal,
}
