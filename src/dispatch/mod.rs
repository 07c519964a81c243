//! The dispatcher: decides when an instance fires, takes its lock, runs its callback, ends it.
//!
//! | file | subject | I/O |
//! |---|---|---|
//! | [`messages`] | what the core is told and wants done | no |
//! | [`outcome`] | how an attempt to lock, and the end of a firing, came out: for whoever decides, counts, or is told | no |
//! | [`record`] | the state machine of one instance: the exact meaning of "fires again" | no |
//! | [`slot_queue`], [`rate`] | slots, turns, classes; how many may start in a time | no |
//! | [`interval`], [`instance_rate`] | the least time between two firings of an instance; slowing down those that fire too often | no |
//! | [`latency`], [`stats`] | the stages behind an instance; what all of them are doing, counted by lane | no |
//! | [`work_queue`] | all instances together: from what happened to what is to be done; below it the one transition from state to state, the locks within the engine, waiting for other engines, and ends | no |
//! | [`actor`] | carries messages between `work_queue` and the world; below it what it is made of, what goes out of it, the firings under way, their steps, releases, and the end | yes |
//! | [`acquire`], [`commit`] | the transactions of one firing: what the first answer means, and how to go on until the outcome is known | yes |
//! | [`evidence`] | whether a commit took effect whose answer was lost, when its lock is gone | yes |
//! | [`guard`], [`tools`] | what excludes others while an instance fires; what the steps of all firings use | no |
//! | [`running`], [`controls`] | the callbacks that run now, and what holds rules back: both outlive a restart of the actors | no |
//! | [`run`] | one callback on the application's runtime | yes |

pub(crate) mod acquire;
pub(crate) mod actor;
pub(crate) mod commit;
pub(crate) mod controls;
mod evidence;
mod guard;
mod instance_rate;
mod interval;
pub(crate) mod latency;
pub(crate) mod messages;
pub(crate) mod outcome;
mod rate;
pub(crate) mod record;
pub(crate) mod run;
pub(crate) mod running;
mod slot_queue;
pub(crate) mod stats;
mod tools;
pub(crate) mod work_queue;

#[cfg(test)]
mod tests;
