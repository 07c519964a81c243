//! The crawl: everything is read again from time to time, compared and repaired.
//!
//! [`crawler`] does it at intervals, by [parts](self::parts) if other engines do so too, and if it is told so under the
//! [`mutex`] of the application; how a prefix is read is the subject of [`read`](crate::read).

pub(crate) mod crawler;
pub(crate) mod mutex;
mod parts;
