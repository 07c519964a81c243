//! The watch: one stream for each covering prefix, from a snapshot on, without a gap.
//!
//! [`resume`] decides, without I/O, from where a watch may go on and when everything known is void, [`start`] asks
//! etcd for what that takes;
//! [`lag`] tells how far it is behind, [`standing`] which of all is furthest; [`actor`] holds the stream.

pub(crate) mod actor;
mod lag;
pub(crate) mod resume;
pub(crate) mod standing;
pub(crate) mod start;
