//! The fleet: all engines of an application, what each of them can do, and which of them tries an instance first.
//!
//! An engine is a *member* while its keys are in etcd, which are under a lease of its own. Each engine follows the
//! members by one small watch. From the members alone it derives an order of those that are able to fire an instance;
//! the first is the *owner*. This is advice: the lock decides, and no instance depends on its owner.
//! `docs/decisions/0023-owners-are-advice.md` has the reasons.
//!
//! | file | subject | I/O |
//! |---|---|---|
//! | [`rendezvous`] | the fixed hash by which members are ordered | no |
//! | [`member`] | what a member says it can do, and how it is written | no |
//! | [`load`] | how busy a member says it is | no |
//! | [`view`] | all members as one engine sees them | no |
//! | [`order`] | who is able to fire an instance, in order | no |
//! | [`announcer`] | writes the keys of this engine | yes |
//! | [`watcher`] | follows the keys of all members | yes |

pub(crate) mod announcer;
pub(crate) mod load;
pub(crate) mod member;
pub(crate) mod order;
pub(crate) mod rendezvous;
pub(crate) mod view;
pub(crate) mod watcher;
