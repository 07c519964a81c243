//! Users and tokens: engines come with a name and a password, tokens live for seconds, and are forgotten.
//!
//! Promised beyond what always holds: etcd is asked for tokens at most once a second an engine; and while nothing but
//! tokens end, no callback is told to end and none of its reads fails.

use super::super::checker::Violation;
use super::super::history::{Event, How};
use super::super::kinds::Kind;
use super::super::plan::{Callbacks, Plan, PlanStep};
use crate::embedded::record::Done;
use crate::embedded::{EmbeddedEtcd, RequestKind};
use etcd_client::{ConnectOptions, Permission};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const USER: &str = "engine";
const PASSWORD: &str = "secret";

/// Something that happens to users and tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Step {
    /// All tokens are forgotten.
    Forget,
    /// So often, every 50 ms.
    ForgetAgain(u32),
}

/// How long tokens live in the schedule of a seed; `None`: there are no users. It has random numbers of its own, so
/// that the rest of a seed's plan means what it meant.
pub(in super::super) fn token_ttl(seed: u64) -> Option<Duration> {
    let rng = &mut StdRng::seed_from_u64(seed ^ 0x746f_6b65_6e73);
    rng.random_bool(0.25).then(|| ttl(rng))
}

pub(in super::super) fn ttl(rng: &mut StdRng) -> Duration {
    *[MS * 700, 2 * SECOND, 5 * SECOND, 300 * SECOND].choose(rng).expect("there are some")
}

pub(in super::super) fn choose(rng: &mut StdRng) -> Step {
    if rng.random_bool(0.7) { Step::Forget } else { Step::ForgetAgain(rng.random_range(3..60)) }
}

/// How engines come in.
pub(in super::super) fn options() -> ConnectOptions {
    ConnectOptions::new().with_user(USER, PASSWORD)
}

/// From now on there is somebody who manages, and the engines, who may use their keys and those of rules.
pub(in super::super) async fn enable(etcd: &EmbeddedEtcd, ttl: Duration) -> Result<(), etcd_client::Error> {
    let mut client = etcd.client().await?;
    for user in ["root", USER] {
        client.user_add(user, PASSWORD, None).await?;
        client.role_add(user).await?;
        client.user_grant_role(user, user).await?;
    }
    client.role_grant_permission(USER, Permission::read_write("/").with_prefix()).await?;
    etcd.faults().set_token_ttl(ttl);
    client.auth_enable().await?;
    Ok(())
}

impl Plan {
    /// A plan in which nothing happens but that tokens end.
    pub(in super::super) fn tokens_end(seed: u64) -> Self {
        let mut plan = Self::of(seed);
        let rng = &mut StdRng::seed_from_u64(seed);
        plan.members = 0;
        plan.token_ttl = Some(*[MS * 700, 2 * SECOND].choose(rng).expect("there are some"));
        plan.kinds = vec![Kind::Stay, Kind::Single];
        plan.options.lock_ttl = 5 * SECOND;
        plan.options.request_timeout = 5 * SECOND;
        plan.options.watch_silence = 10 * SECOND;
        plan.options.crawl_interval = 3600 * SECOND;
        plan.options.time_limit = 3600 * SECOND;
        plan.options.concurrency = 16;
        plan.callbacks = Callbacks { slow: 50, failing: 0, reading: 80 };
        plan.steps.clear();
        for number in 0..30 {
            let key = *["/stay/a", "/stay/b", "/single"].choose(rng).expect("keys");
            plan.steps
                .push((MS * rng.random_range(0..1500), PlanStep::Put(key.into(), format!("v{number}"))));
            if number % 4 == 0 {
                plan.steps.push((MS * rng.random_range(0..300), PlanStep::User(choose(rng))));
            }
        }
        plan
    }

    /// Nothing goes wrong but that tokens end.
    fn only_ends_tokens(&self) -> bool {
        self.token_ttl.is_some()
            && self.callbacks.failing == 0
            && self.options.lock_ttl >= 5 * SECOND
            && self.options.request_timeout >= 5 * SECOND
            && self.options.time_limit >= 3600 * SECOND
            && !self.kinds.contains(&Kind::Flaky)
            && self.steps.iter().all(|(_, step)| matches!(step, PlanStep::Put(..) | PlanStep::User(_)))
    }
}

pub(in super::super) fn check(plan: &Plan, events: &[(Duration, Event)]) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut violate = |at: Duration, text: String| violations.push(Violation { at, text });
    let spared = plan.only_ends_tokens();
    let mut asked: Vec<Duration> = Vec::new();
    let mut started: Vec<Duration> = Vec::new();
    for (at, event) in events {
        match event {
            Event::Ended { run, how: how @ (How::Cancelled | How::Dropped | How::ReadFailed) } if spared => {
                violate(*at, format!("run {run} ended as {how:?} although nothing but tokens ended"));
            }
            // Also one that starts again with another store.
            Event::Health(_, health) if health == "starting" => started.push(*at),
            Event::Server(Done::Arrived(RequestKind::Authenticate, _)) => {
                asked.push(*at);
                let recent = |all: &[Duration]| all.iter().filter(|one| **one + SECOND > *at).count();
                // Each engine once at the start, whatever ran before on its machine, and then once a second. An
                // answer that is lost or late does not hold up the next question for as long.
                let most = 2 * plan.engines + recent(&started) + if spared { 0 } else { plan.engines };
                if recent(&asked) > most {
                    violate(*at, format!("etcd was asked for {} tokens within a second", recent(&asked)));
                }
            }
            _ => {}
        }
    }
    violations
}
