//! The plan of a schedule, made from its seed: engines, rules, options, and what happens when.

use super::kinds::{KINDS, Kind};
use super::worlds::{compactions, errors, members, removed, users};
use crate::embedded::{Fault, RequestKind, RpcError};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// A schedule.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) engines: usize,
    /// How many members the engines know, each by an endpoint; 0: there is one server, and a channel to it.
    pub(super) members: usize,
    /// Engines come with a user and a password, and their tokens live for so long.
    pub(super) token_ttl: Option<Duration>,
    pub(super) kinds: Vec<Kind>,
    pub(super) options: Options,
    pub(super) callbacks: Callbacks,
    /// The steps, each with the pause before it.
    pub(super) steps: Vec<(Duration, PlanStep)>,
}

/// The options of the engines. All engines have the same.
#[derive(Clone, Debug)]
pub(super) struct Options {
    pub(super) lock_ttl: Duration,
    pub(super) request_timeout: Duration,
    pub(super) watch_silence: Duration,
    pub(super) crawl_interval: Duration,
    pub(super) concurrency: usize,
    pub(super) evaluators: usize,
    pub(super) backoff: (Duration, Duration),
    pub(super) time_limit: Duration,
}

/// How callbacks behave until everything is quiesced, in percent.
#[derive(Clone, Debug)]
pub(super) struct Callbacks {
    pub(super) slow: u32,
    pub(super) failing: u32,
    pub(super) reading: u32,
}

/// Something that is done to etcd or an engine.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum PlanStep {
    Put(String, String),
    /// Several keys below different prefixes, in one transaction.
    PutAll(Vec<String>, String),
    Delete(String),
    Inject(Fault),
    CutStreams,
    CutConnections,
    Unreachable(Duration),
    Freeze(Duration),
    LoseLeader(Duration),
    NoSpace(Duration),
    Compact,
    /// History is compacted at a revision that somebody needs.
    CompactAt(compactions::Step),
    /// The lease at this place of the list, modulo its length.
    ExpireLease(usize),
    Restart,
    Save,
    /// Restores the last backup.
    Restore,
    RestartEmpty,
    CutPath(usize),
    FreezePath(usize, Duration),
    BlockPath(usize, Duration),
    /// The engine's process ends at once, and starts again after a while.
    Crash(usize, Duration),
    /// The engine is shut down with this deadline, and started again after a while.
    Shutdown(usize, Duration, Duration),
    /// The engine's handle is dropped, and it is started again after a while.
    Drop(usize, Duration),
    /// The engine's process stalls for a while.
    Stall(usize, Duration),
    /// A part of the engine panics at its next message.
    Poison(usize, &'static str),
    /// A rule is paused in the engine for a while.
    Pause(usize, Kind, Duration),
    /// This many changes, all at once, of keys that nobody watches.
    UnwatchedKeys(usize),
    /// Something happens to one of several members.
    Member(members::Step),
    /// Something happens to users and tokens.
    User(users::Step),
    /// Somebody removes a lock, or a lease of locks.
    Remove(removed::Step),
}

impl PlanStep {
    /// Whether an engine may afterwards learn of a change long after it happened.
    pub(super) fn delays_events(&self) -> bool {
        match self {
            PlanStep::Inject(fault) => fault.delays_events() || fault.is_in_stream(),
            PlanStep::Put(..)
            | PlanStep::PutAll(..)
            | PlanStep::Delete(_)
            | PlanStep::NoSpace(_)
            | PlanStep::ExpireLease(_)
            | PlanStep::Save => false,
            PlanStep::Pause(..) | PlanStep::UnwatchedKeys(_) | PlanStep::User(_) | PlanStep::Remove(_) => {
                false
            }
            _ => true,
        }
    }

    /// Whether afterwards an engine can't notice that the store is older than its memory.
    pub(super) fn outgrows(&self) -> bool {
        matches!(self, PlanStep::UnwatchedKeys(_))
    }

    /// Whether afterwards a lock may be lost before its lease ends by the holder's clock.
    pub(super) fn takes_locks(&self) -> bool {
        matches!(
            self,
            PlanStep::ExpireLease(_)
                | PlanStep::Remove(_)
                | PlanStep::Restore
                | PlanStep::RestartEmpty
                | PlanStep::Stall(..)
                | PlanStep::Crash(..)
        )
    }

    /// Whether afterwards no engine may know of an earlier deletion.
    pub(super) fn forgets(&self) -> bool {
        matches!(
            self,
            PlanStep::Compact
                | PlanStep::CompactAt(_)
                | PlanStep::Restore
                | PlanStep::RestartEmpty
                | PlanStep::Poison(..)
        )
    }
}

/// Classes of faults. A schedule has some of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    Requests,
    Streams,
    Server,
    Leader,
    Space,
    Compaction,
    Leases,
    Backups,
    Paths,
    Crashes,
    Shutdowns,
    Stalls,
    Panics,
    Pauses,
    UnwatchedKeys,
    Members,
    Tokens,
    Errors,
}

const TROUBLES: [Trouble; 18] = [
    Trouble::Requests,
    Trouble::Streams,
    Trouble::Server,
    Trouble::Leader,
    Trouble::Space,
    Trouble::Compaction,
    Trouble::Leases,
    Trouble::Backups,
    Trouble::Paths,
    Trouble::Crashes,
    Trouble::Shutdowns,
    Trouble::Stalls,
    Trouble::Panics,
    Trouble::Pauses,
    Trouble::UnwatchedKeys,
    Trouble::Members,
    Trouble::Tokens,
    Trouble::Errors,
];

fn pick<T: Clone>(rng: &mut StdRng, from: &[T]) -> T {
    from.choose(rng).expect("there is something to choose").clone()
}

fn between(rng: &mut StdRng, from: u64, to: u64) -> Duration {
    MS * rng.random_range(from..=to) as u32
}

impl Plan {
    pub(super) fn of(seed: u64) -> Self {
        Self::with(seed, &[])
    }

    /// A plan with many faults of the given classes and none of the others. If no class is given, it may have
    /// any.
    pub(super) fn with(seed: u64, much: &[Trouble]) -> Self {
        let rng = &mut StdRng::seed_from_u64(seed);
        let engines = pick(rng, &[1, 1, 2, 2, 2, 3]);
        let mut kinds: Vec<Kind> = KINDS.iter().copied().filter(|_| rng.random_bool(0.25)).collect();
        if kinds.is_empty() {
            kinds.push(pick(rng, &KINDS));
        }
        if kinds.contains(&Kind::Left) && !kinds.contains(&Kind::Right) {
            kinds.push(Kind::Right);
        }
        let base = between(rng, 30, 200);
        let mut options = Options {
            lock_ttl: pick(rng, &[2, 2, 3, 5]) * SECOND,
            request_timeout: pick(rng, &[300, 1000, 2500]) * MS,
            watch_silence: pick(rng, &[1, 3, 10]) * SECOND,
            crawl_interval: pick(rng, &[2, 5, 3600, 3600, 3600, 3600]) * SECOND,
            concurrency: pick(rng, &[1, 2, 4, 128]),
            evaluators: pick(rng, &[0, 1, 1, 3]),
            backoff: (base, pick(rng, &[500, 2000]) * MS),
            time_limit: pick(rng, &[400, 3000, 60_000]) * MS,
        };
        let callbacks = Callbacks {
            slow: pick(rng, &[0, 10, 30]),
            failing: pick(rng, &[0, 10, 40]),
            reading: pick(rng, &[0, 20]),
        };
        let share = pick(rng, &[0.1, 0.25, 0.5]);
        let mut troubles: Vec<Trouble> = TROUBLES.into_iter().filter(|_| rng.random_bool(share)).collect();
        let count = rng.random_range(15..70);
        let mut rate = pick(rng, &[0.08, 0.25]);
        if !much.is_empty() {
            (troubles, rate) = (much.to_vec(), 0.4);
        }
        let several = troubles.contains(&Trouble::Members) || members::are_several(seed);
        let members = if several { members::MEMBERS } else { 0 };
        let token_ttl = match troubles.contains(&Trouble::Tokens) {
            true => Some(users::ttl(rng)),
            false => users::token_ttl(seed),
        };
        let pace = pick(rng, &[20, 150, 400]);
        let mut writer = Writer { ids: pick(rng, &[1, 2, 4]), number: 0 };
        let mut steps = Vec::new();
        // Otherwise most instances of `Work` would stay false.
        if kinds.contains(&Kind::Work) {
            steps.push((Duration::ZERO, PlanStep::Put("/config/enabled".into(), "yes".into())));
        }
        let mut poisons = 0;
        for _ in 0..count {
            let trouble = (!troubles.is_empty() && rng.random_bool(rate)).then(|| pick(rng, &troubles));
            let pause = if rng.random_bool(0.3) { Duration::ZERO } else { between(rng, 0, 2 * pace) };
            let act = match trouble {
                Some(Trouble::Panics) if poisons >= 3 => continue,
                Some(trouble) => act(trouble, rng, engines, &kinds),
                None => writer.write(rng, &kinds),
            };
            poisons += usize::from(matches!(act, PlanStep::Poison(..)));
            let restored = act == PlanStep::Restore;
            steps.push((pause, act));
            // The store may get past its former revision before an engine connects again.
            if restored && rng.random_bool(0.5) {
                let before = rng.random_range(0..4);
                let written = (0..before).map(|_| writer.write(rng, &kinds)).collect::<Vec<_>>();
                let elsewhere = PlanStep::UnwatchedKeys(rng.random_range(0..60));
                steps.extend(written.into_iter().chain([elsewhere]).map(|act| (Duration::ZERO, act)));
                // Only a crawl can find changes that no event reveals.
                options.crawl_interval = options.crawl_interval.min(5 * SECOND);
            }
        }
        Self { seed, engines, members, token_ttl, kinds, options, callbacks, steps }
    }

    /// A plan whose only difficulty is a change while the callback runs.
    pub(super) fn hasty(seed: u64) -> Self {
        let mut plan = Self::of(seed);
        plan.engines = 1;
        plan.members = 0;
        plan.token_ttl = None;
        plan.kinds = vec![Kind::Stay];
        plan.callbacks = Callbacks { slow: 0, failing: 0, reading: 0 };
        plan.options.crawl_interval = 3600 * SECOND;
        plan.options.time_limit = 60 * SECOND;
        let put = |value: &str| PlanStep::Put("/stay/a".into(), value.into());
        let pause = MS * (seed % 40) as u32;
        plan.steps = vec![(SECOND, put("v1")), (pause, put("v2")), (SECOND, put("v3")), (pause, put("v4"))];
        plan
    }

    /// Turns every injected fault into a transaction whose answer comes late, after others have gone on.
    pub(super) fn answered_late(mut self) -> Self {
        self.options.request_timeout = 5 * SECOND;
        for (number, (_, act)) in self.steps.iter_mut().enumerate() {
            if let PlanStep::Inject(fault) = act {
                *fault = Fault::on(RequestKind::Txn).times(2).delay_answer(MS * (100 + 50 * number as u32));
            }
        }
        self
    }

    /// Sets several engines, whose callbacks take some time.
    pub(super) fn at_work(mut self) -> Self {
        self.engines = self.engines.max(2);
        self.callbacks = Callbacks { slow: 70, failing: 0, ..self.callbacks };
        self.options.time_limit = 60 * SECOND;
        self
    }

    pub(super) fn does(&self, what: impl Fn(&PlanStep) -> bool) -> bool {
        self.steps.iter().any(|(_, act)| what(act))
    }
}

/// Writes as an application does, each value once.
struct Writer {
    ids: usize,
    number: u64,
}

impl Writer {
    fn write(&mut self, rng: &mut StdRng, kinds: &[Kind]) -> PlanStep {
        self.number += 1;
        let kind = pick(rng, kinds);
        let id: Vec<String> = kind
            .attributes()
            .iter()
            .map(|name| match *name {
                "zone" => pick(rng, &["x", "y"]).to_owned(),
                _ => pick(rng, &["a", "b", "c", "d"][..self.ids]).to_owned(),
            })
            .collect();
        let slots = kind.keys(&id);
        let first = rng.random_bool(0.65);
        let at = if first { 0 } else { rng.random_range(0..slots.len()) };
        let key = slots[at].clone();
        let put = !(first && rng.random_bool(0.15)) && (first || rng.random_bool(0.5));
        if !put && key != "/config/enabled" {
            return PlanStep::Delete(key);
        }
        let number = self.number;
        if kind == Kind::Pair {
            return PlanStep::PutAll(slots, format!("v{number}"));
        }
        let value = match (kind, at) {
            (Kind::Work, 1) => pick(rng, &["yes", "yes", "no"]).to_owned(),
            (Kind::Assign, 1) => format!("{}-{number}", pick(rng, &["open", "open", "closed"])),
            (Kind::Poll, 0) => format!("{}-{number}", pick(rng, &["active", "active", "down"])),
            (Kind::Optimistic, 0) => format!("{}-{number}", pick(rng, &["new", "new", "new", "idle"])),
            _ => format!("v{number}"),
        };
        PlanStep::Put(key, value)
    }
}

fn act(trouble: Trouble, rng: &mut StdRng, engines: usize, kinds: &[Kind]) -> PlanStep {
    let engine = rng.random_range(0..engines);
    match trouble {
        Trouble::Requests => PlanStep::Inject(request_fault(rng)),
        Trouble::Streams => match rng.random_range(0..6) {
            0 => PlanStep::CutStreams,
            1 => PlanStep::CutConnections,
            _ => PlanStep::Inject(stream_fault(rng)),
        },
        Trouble::Server => match rng.random_range(0..3) {
            0 => PlanStep::Unreachable(between(rng, 10, 4000)),
            1 => PlanStep::Freeze(between(rng, 10, 6000)),
            _ => PlanStep::Restart,
        },
        Trouble::Leader => PlanStep::LoseLeader(between(rng, 10, 6000)),
        Trouble::Space => PlanStep::NoSpace(between(rng, 10, 5000)),
        Trouble::Compaction => match rng.random_bool(0.5) {
            true => PlanStep::Compact,
            false => PlanStep::CompactAt(compactions::choose(rng)),
        },
        Trouble::Leases => PlanStep::ExpireLease(rng.random_range(0..8)),
        Trouble::Backups => match rng.random_range(0..8) {
            0..4 => PlanStep::Save,
            4..7 => PlanStep::Restore,
            _ => PlanStep::RestartEmpty,
        },
        Trouble::Paths => match rng.random_range(0..4) {
            0 => PlanStep::CutPath(engine),
            1 => PlanStep::BlockPath(engine, between(rng, 10, 6000)),
            _ => PlanStep::FreezePath(engine, between(rng, 10, 9000)),
        },
        Trouble::Crashes => PlanStep::Crash(engine, between(rng, 0, 3000)),
        Trouble::Shutdowns => match rng.random_bool(0.7) {
            true => PlanStep::Shutdown(engine, between(rng, 0, 1500), between(rng, 0, 3000)),
            false => PlanStep::Drop(engine, between(rng, 0, 3000)),
        },
        Trouble::Stalls => PlanStep::Stall(engine, between(rng, 100, 8000)),
        Trouble::Panics => {
            let parts = ["index", "evaluator", "dispatcher", "requests", "lease manager"];
            PlanStep::Poison(engine, pick(rng, &parts))
        }
        Trouble::Pauses => PlanStep::Pause(engine, pick(rng, kinds), between(rng, 10, 4000)),
        Trouble::UnwatchedKeys => PlanStep::UnwatchedKeys(rng.random_range(1..300)),
        Trouble::Members => PlanStep::Member(members::choose(rng)),
        Trouble::Tokens => PlanStep::User(users::choose(rng)),
        Trouble::Errors => PlanStep::Inject(errors::choose(rng)),
    }
}

/// What a fault of requests may concern; what takes effect more often than what doesn't.
pub(super) const REQUESTS: [RequestKind; 9] = [
    RequestKind::Any,
    RequestKind::Txn,
    RequestKind::Txn,
    RequestKind::Txn,
    RequestKind::Range,
    RequestKind::LeaseGrant,
    RequestKind::LeaseRevoke,
    RequestKind::LeaseKeepAlive,
    RequestKind::Watch,
];

fn request_fault(rng: &mut StdRng) -> Fault {
    let fault = Fault::on(pick(rng, &REQUESTS)).after(rng.random_range(0..4)).times(pick(rng, &[1, 1, 2, 8]));
    // With these errors, the client can't know whether the request took effect.
    let doubt = [RpcError::STOPPED, RpcError::LEADER_CHANGED, RpcError::TIMED_OUT, RpcError::CONNECTION_LOST];
    let plain = [RpcError::NO_LEADER, RpcError::TOO_MANY_REQUESTS, RpcError::STOPPED, RpcError::TIMED_OUT];
    match rng.random_range(0..8) {
        0 => fault.fail(pick(rng, &plain)),
        1 | 2 => fault.fail_after(pick(rng, &doubt)),
        3 => fault.lose(),
        4 => fault.lose_answer(),
        5 => match rng.random_bool(0.5) {
            true => fault.delay(between(rng, 1, 3000)),
            false => fault.delay_regardless(between(rng, 1, 3000)),
        },
        6 => fault.delay_answer(between(rng, 1, 3000)),
        _ => fault.duplicate(),
    }
}

fn stream_fault(rng: &mut StdRng) -> Fault {
    let on = pick(
        rng,
        &[
            RequestKind::WatchResponse,
            RequestKind::WatchResponse,
            RequestKind::WatchRequest,
            RequestKind::Watch,
        ],
    );
    let fault = Fault::on(on).after(rng.random_range(0..6)).times(pick(rng, &[1, 1, 3]));
    match rng.random_range(0..4) {
        0 => fault.fail(RpcError::STOPPED),
        1 => fault.fail_after(RpcError::NO_LEADER),
        // If a watch lost a response, etcd would break its own promise.
        2 if on != RequestKind::WatchResponse => fault.lose(),
        _ => fault.delay(between(rng, 1, 3000)),
    }
}
