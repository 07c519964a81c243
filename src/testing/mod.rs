//! For tests of rules, of callbacks and of what engines do with them.
//!
//! | question | answer | needs |
//! |---|---|---|
//! | Is the condition true on these keys, and why (not)? | [`Condition::evaluate_on`](crate::Condition::evaluate_on); with the expansions and constraints of an engine, [`Engine::evaluate_on`](crate::Engine::evaluate_on) | nothing |
//! | Which instances do these keys imply? | [`Engine::instances_on`](crate::Engine::instances_on) | nothing |
//! | What does the callback do on these keys? | [`Trial`] | a tokio runtime |
//! | What do engines do, in the course of hours? | [`World`] | the feature `virtual-time` |
//! | Has the rule fired for these attributes, and how did it end? | [`Firings`] | a running engine |
//!
//! A running engine needs an etcd. It can be a real one, or the one of the feature `embedded`, which runs in
//! the process and can make requests fail, get lost or take long on demand.
//!
//! A rule and its callback, without any etcd:
//!
//! ```
//! use etcd_rules::testing::Trial;
//! use etcd_rules::firing::FiringOutcome;
//! use etcd_rules::firing::Effect;
//! use etcd_rules::{Error, Firing, Outcome, Rule, key};
//! use std::time::Duration;
//!
//! async fn poll(firing: Firing) -> Result<Outcome, Error> {
//!     let ip = firing.get("/servers/:id/ip").await?;
//!     let status = if ip == "10.0.0.7" { "ok" } else { "down" };
//!     Ok(firing.commit().put("/servers/:id/status", status).into())
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let active = key("/servers/:id/state").equals("active");
//! let seven = [("id", "7")].into();
//! assert!(active.evaluate_on(&seven, [("/servers/7/state", "active")])?.truth);
//!
//! let rule = Rule::new("poll").when(active).poll("/polls/:id", Duration::from_secs(5)).run(poll);
//! let tried = Trial::of(rule)?
//!     .attribute("id", "7")
//!     .keys([("/servers/7/state", "active"), ("/servers/7/ip", "10.0.0.7")])
//!     .run()
//!     .await?;
//! assert_eq!(tried.outcome, FiringOutcome::Done);
//! assert_eq!(tried.keys["/servers/7/status"], "ok");
//! // The delay until the next poll is part of the commit, and makes the condition false.
//! assert!(matches!(tried.effect("/polls/7/ttl"), Some(Effect::Put { ttl: Some(_), .. })));
//! assert!(!tried.explanation.truth, "{}", tried.explanation);
//! # Ok(())
//! # }
//! ```

mod firings;
mod trial;
#[cfg(feature = "virtual-time")]
pub(crate) mod virtual_time;
#[cfg(feature = "virtual-time")]
mod world;

pub use firings::{Fired, Firings, NotFired, WhyNotFired};
pub use trial::{NotTried, Trial, Tried};
#[cfg(feature = "virtual-time")]
pub use world::{NotUntil, World, WorldEngine};
