//! What an engine reports through the crate `tracing`: spans of firings, and log lines.
//!
//! | file | subject |
//! |---|---|
//! | [`spans`] | the spans of a firing and their fields |
//! | [`lines`] | how often a line may be written |
//! | [`hide`] | what may not be shown is taken out of a text |
//! | [`reveal`] | which of the application's data may be shown |

pub(crate) mod hide;
pub(crate) mod lines;
pub(crate) mod reveal;
pub(crate) mod spans;
#[cfg(all(test, feature = "embedded"))]
mod tests;

use lines::Lines;
use reveal::Reveal;

/// What a part of the engine needs for writing log lines and spans.
#[derive(Clone, Default)]
pub(crate) struct Telemetry {
    pub(crate) lines: Lines,
    pub(crate) reveal: Reveal,
}
