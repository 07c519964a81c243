//! The watch: one stream for each covering prefix, from a snapshot on, without a gap.
//!
//! | file | subject | I/O |
//! |---|---|---|
//! | [`watcher`] | the task that holds the stream | yes |
//! | [`ahead`] | what was read of the stream, and is not yet with the index | no |
//! | [`beside`] | a snapshot that is read beside the watch | yes |
//! | [`lag`] | how far a watch is behind | no |
//! | [`progress`] | where all watches stand, and which is furthest behind | no |
//!
//! From where a stream may go on is decided in [`read`](crate::read).

mod ahead;
mod beside;
mod lag;
pub(crate) mod progress;
pub(crate) mod watcher;
