//! The crawl: everything is read again from time to time, compared and repaired.
//!
//! [`ranges`] decides how a prefix is cut into sub-ranges, without I/O; [`reader`] reads it that way, at a [`pace`],
//! for snapshots too; [`actor`] does it at intervals, if it is told so under the [`mutex`] of the application.

pub(crate) mod actor;
pub(crate) mod mutex;
pub(crate) mod pace;
pub(crate) mod ranges;
pub(crate) mod reader;
