//! The watch: one stream for each covering prefix, from a snapshot on, without a gap.
//!
//! [`watcher`] holds the stream, [`ahead`] what it has read of it; from where it may go on is decided in
//! [`read`](crate::read). [`lag`] tells how far it is behind, [`progress`] which of all is furthest.

mod ahead;
mod beside;
mod lag;
pub(crate) mod progress;
pub(crate) mod watcher;
