//! The dispatcher: decides when an instance fires, takes its lock, runs its callback, ends it.
//!
//! | file | subject | I/O |
//! |---|---|---|
//! | [`messages`] | what the core is told and wants done | no |
//! | [`record`] | the state machine of one instance: the exact meaning of "fires again" | no |
//! | [`queue`], [`rate`] | slots, turns, classes; how many may start in a time | no |
//! | [`interval`] | the least time between two firings of an instance | no |
//! | [`path`], [`census`] | the stages behind an instance; what all of them are doing, by rule | no |
//! | [`pending`] | all instances together: from what happened to what is to be done; below it the locks within the engine, waiting for other engines, and ends | no |
//! | [`actor`] | carries messages between `pending` and the world; below it the steps of a firing, releases, and the end | yes |
//! | [`lock_step`], [`end_step`] | the transactions of one firing: what the first answer means, and how to go on until the outcome is known | yes |
//! | [`live`], [`brakes`] | the firings that run now, and what holds rules back: both outlive a restart of the actors | no |
//! | [`run`] | one callback on the application's runtime | yes |

pub(crate) mod actor;
pub(crate) mod brakes;
pub(crate) mod census;
pub(crate) mod end_step;
mod interval;
pub(crate) mod live;
pub(crate) mod lock_step;
pub(crate) mod messages;
pub(crate) mod path;
pub(crate) mod pending;
mod queue;
mod rate;
pub(crate) mod record;
pub(crate) mod run;
mod tools;

#[cfg(test)]
mod tests;
