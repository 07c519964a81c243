//! A little world around [`WorkQueue`]: an etcd, a watch and a mirror that lag behind it, callbacks that
//! end in every way, other engines. What must hold at every step, and when all has calmed down.

mod etcd;
mod firings;
mod invariants;
mod properties;
mod spins;

use super::super::messages::{CallbackEnd, Closing, Hold};
use super::*;
use crate::compiled::{Controls, RateLimit};
use crate::condition::Slot;
use crate::firing::FiringOutcome;
use crate::inspect::InstanceState;
use etcd::{Etcd, Keys, LockAnswer};
use rand::RngExt;
use std::collections::{BTreeMap, HashMap};

/// How instances are spread: instance `i` is one of rule `i % 4`.
const RULES: u32 = 4;
const INSTANCES: u32 = 10;
const LIMIT: usize = 4;
const LIMITS: [usize; RULES as usize] = [2, 3, 3, 2];

/// What happens later.
#[derive(Debug)]
enum Event {
    /// Somebody outside of all this does something.
    Outside(Op),
    /// The watch delivers a change to the index.
    Watch(u32, Slot, Revision, bool),
    /// The dispatcher's feedback reaches the index: what it learned, then what it asks.
    Learned(u32, Vec<(Slot, Revision, bool)>),
    Asked(u32, QuestionId),
    Decided(Box<Decided>),
    LockSent(u32, Snapshot, Option<Revision>),
    LockBack(u32, LockAnswer, Snapshot),
    RunEnds(u32),
    EndSent(u32, Closing),
    EndBack(u32, End),
    Released(Option<(String, Revision)>),
    MarkExpires(u32, Revision),
    ClearMark(u32, Revision),
}

/// How the end of a firing came out, and what it changed.
#[derive(Debug)]
struct End(CommitOutcome, Vec<(Slot, Revision, bool)>);

/// What others do.
#[derive(Clone, Copy, Debug)]
enum Op {
    Put(u32, Slot),
    Delete(u32, Slot),
    /// Another engine takes the lock for a while, in ms.
    Lock(u32, u64),
    Unlock(u32, Revision),
    /// Another engine gives up, or holds the instance back for a while, in ms.
    GiveUp(u32),
    HoldBack(u32, u64),
    /// This engine's lease is lost.
    LoseLocks,
    Crawl,
    /// Somebody wants an instance to be fired now.
    FireNow(u32),
    /// A rule is paused, or let go on.
    Pause(u32),
    Resume(u32),
    /// A dry run of a rule begins, or ends.
    Rehearse(u32),
    Perform(u32),
    /// So many of a rule may start in a second from now on; 0: as many as there are.
    Limit(u32, u32),
    /// Instances of a rule rest for so long between firings, in ms; 0: not at all.
    Rest(u32, u64),
    /// LockWatcher that are on their way are missed; this is noticed.
    MissReleases,
}

/// A callback and how its firing is to end.
#[derive(Debug)]
struct Run {
    given: Snapshot,
    supersedes_backoff: Option<Revision>,
    finish: CallbackEnd,
    effects: Vec<(Slot, bool)>,
    fence: Option<Revision>,
}

/// How a callback ends, what its commit changes, and after which time it (or something it started)
/// writes slot 0 beside the commit.
#[derive(Clone)]
struct Habit {
    finish: CallbackEnd,
    effects: Vec<(Slot, bool)>,
    writes: Option<Duration>,
}

struct World {
    work: WorkQueue,
    rng: StdRng,
    start: Instant,
    now: Instant,
    agenda: BTreeMap<(Instant, u64), Event>,
    sequence: u64,
    etcd: Etcd,
    mirror: Vec<Keys>,
    /// Callbacks, from their start to the end of their firing.
    runs: HashMap<u32, Run>,
    /// Lock attempts that are out.
    locking: Vec<u32>,
    /// Messages of these sources stay in order.
    last: HashMap<&'static str, Instant>,
    /// Somebody else changed a key since the values that the last callback was given.
    dirty: Vec<bool>,
    /// Revision of the last change by somebody else.
    foreign: Vec<Revision>,
    /// The last firing was completed.
    completed: Vec<bool>,
    fired: Vec<u32>,
    controls: [Controls; RULES as usize],
    /// By rule: when callbacks started since its rate was last changed.
    starts: [Vec<Instant>; RULES as usize],
    /// By rule: what had a slot already then, and may start beyond it.
    beyond: [usize; RULES as usize],
    /// All that was released, and after which revision it is told of.
    released: Vec<(String, Revision)>,
    releases_after: Option<Revision>,
    /// By instance: when it started last, as far as its interval must know of it.
    rests: Vec<Option<Instant>>,
    calm: bool,
    /// What every callback does, if not something random.
    habit: Option<Habit>,
    /// The last state that was told of each instance.
    notified: Vec<Option<InstanceState>>,
    actions: u64,
    /// Actions in each second.
    busy: BTreeMap<u64, u64>,
}

fn rules() -> Vec<Rule> {
    let rule = |id: &str, limit| {
        Rule::new(id)
            .when(key("/a/:group/:id").exists() & key("/b/:group/:id").absent())
            .backoff(Backoff::new(BASE, Duration::from_secs(20)))
            .concurrency(limit)
            .run(|_| async { Ok::<(), crate::Error>(()) })
    };
    vec![
        rule("own", LIMITS[0]),
        rule("shared", LIMITS[1]).lock("/:group"),
        rule("also", LIMITS[2]).lock("/:group"),
        rule("optimistic", LIMITS[3]).optimistic(),
    ]
}

fn rule_of(id: u32) -> u32 {
    id % RULES
}

fn lane(rule: u32) -> Lane {
    Lane::new(rule as usize)
}

/// Two groups: instances of rules 1 and 2 share locks within each.
fn group_of(id: u32) -> u32 {
    id / RULES % 2
}

fn lock_of(id: u32) -> String {
    match rule_of(id) {
        1 | 2 => format!("lock/{}", group_of(id)),
        _ => format!("lock/own/{id}"),
    }
}

fn mark_of(id: u32) -> String {
    format!("mark/{id}")
}

impl World {
    fn new(seed: u64) -> Self {
        let start = Instant::now();
        let all = INSTANCES as usize;
        Self {
            work: work_queue_of(rules(), LIMIT, seed),
            rng: StdRng::seed_from_u64(seed),
            start,
            now: start,
            agenda: BTreeMap::new(),
            sequence: 0,
            etcd: Etcd::new(all),
            mirror: vec![Keys::default(); all],
            runs: HashMap::new(),
            locking: Vec::new(),
            last: HashMap::new(),
            dirty: vec![false; all],
            foreign: vec![Revision::NONE; all],
            completed: vec![true; all],
            fired: vec![0; all],
            controls: Default::default(),
            starts: Default::default(),
            beyond: Default::default(),
            released: Vec::new(),
            releases_after: None,
            rests: vec![None; all],
            calm: false,
            habit: None,
            notified: vec![None; all],
            actions: 0,
            busy: BTreeMap::new(),
        }
    }

    fn later(&mut self, delay: Duration, event: Event) {
        self.sequence += 1;
        self.agenda.insert((self.now + delay, self.sequence), event);
    }

    /// After a random latency, but after what the same source sent before.
    fn send(&mut self, source: &'static str, event: Event) {
        let latency = if self.calm { 1 } else { self.rng.random_range(0..20) };
        let at = (self.now + ms(latency)).max(self.last.get(source).copied().unwrap_or(self.now));
        self.last.insert(source, at);
        self.later(at - self.now, event);
    }

    fn chance(&mut self, percent: u32) -> bool {
        !self.calm && self.rng.random_range(0..100) < percent
    }

    /// Until nothing happens any more, or `until`.
    fn run(&mut self, until: Instant) {
        loop {
            let event = self.agenda.first_key_value().map(|((at, _), _)| *at);
            let timer = self.work.deadline();
            let Some(next) = event.into_iter().chain(timer).min().filter(|next| *next <= until) else {
                break;
            };
            self.now = next.max(self.now);
            if timer.is_some_and(|at| at <= self.now) {
                self.turn(|work, now, out| work.tick(now, out));
                let deadline = self.work.deadline();
                assert!(deadline.is_none_or(|at| at > self.now), "a timer is left in the past");
            } else if let Some((_, event)) = self.agenda.pop_first() {
                self.happen(event);
            }
        }
        self.now = until.max(self.now);
    }

    fn turn<R>(&mut self, happened: impl FnOnce(&mut WorkQueue, Instant, &mut Vec<Action>) -> R) {
        let mut actions = Vec::new();
        self.work.observe(true);
        happened(&mut self.work, self.now, &mut actions);
        self.work.fill(self.now, &mut actions);
        actions.retain(|action| match action {
            Action::Notify { binding, state, .. } => {
                let id: usize = binding.get(1, 2).parse().expect("bindings are numbers");
                self.notified[id] = Some(state.clone());
                false
            }
            _ => true,
        });
        self.actions += actions.len() as u64;
        *self.busy.entry((self.now - self.start).as_secs()).or_default() += actions.len() as u64;
        for action in actions {
            self.carry_out(action);
        }
        self.watch_releases();
        self.check();
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Ask(instance, number) => self.send("feedback", Event::Asked(instance.index, number)),
            Action::Release(_) | Action::WarnSlowed { .. } => {}
            Action::ReadLocks => panic!("there are no other members"),
            Action::Notify { .. } => panic!("notified already"),
            Action::Close(instance, closing) => self.send("end", Event::EndSent(instance.index, closing)),
            Action::ClearMark { binding, revision, .. } => {
                let id = binding.get(1, 2).parse().expect("bindings are numbers");
                self.send("clear", Event::ClearMark(id, revision));
            }
            Action::Lock { instance, basis: Basis { snapshot, .. }, supersedes_backoff } => {
                let id = instance.index;
                assert!(!self.is_busy(id), "{id} is locked twice");
                assert_eq!(self.work.record(instance).map(|r| r.state.clone()), Some(LOCKING));
                self.locking.push(id);
                let event = Event::LockSent(id, snapshot, supersedes_backoff);
                self.later(ms(1), event);
            }
            Action::Run { instance, basis: Basis { snapshot, .. }, supersedes_backoff } => {
                assert!(!self.is_busy(instance.index), "{instance:?} runs twice");
                assert_eq!(self.work.record(instance).map(|r| r.state.clone()), Some(State::Running));
                self.start(instance.index, snapshot, supersedes_backoff, None);
            }
        }
    }

    fn is_busy(&self, id: u32) -> bool {
        self.locking.contains(&id) || self.runs.contains_key(&id)
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Outside(op) => self.outside(op),
            Event::Watch(id, slot, revision, present) => self.learn(id, &[(slot, revision, present)]),
            Event::Learned(id, changes) => self.learn(id, &changes),
            Event::Asked(id, number) => self.decide(id, &[], DecisionReason::Ask(number)),
            Event::Decided(decided) => self.turn(|work, now, out| work.decided(*decided, now, out)),
            Event::LockSent(id, given, supersedes_backoff) => {
                let answer = self.etcd.lock(id, supersedes_backoff, &self.runs);
                self.spread();
                let answer = if self.chance(5) { self.etcd.forget_lock(id, answer) } else { answer };
                self.spread();
                self.send("lock", Event::LockBack(id, answer, given));
            }
            Event::LockBack(id, answer, given) => self.lock_back(id, answer, given),
            Event::RunEnds(id) => {
                let finish = self.runs[&id].finish.clone();
                let closing = self.work.finished(instance(id), &finish, self.now);
                self.send("end", Event::EndSent(id, closing));
                self.check();
            }
            Event::EndSent(id, closing) => self.end_sent(id, &closing),
            Event::EndBack(id, end) => self.end_back(id, end),
            Event::Released(Some((key, revision))) => {
                self.turn(|work, now, out| work.released(&key, revision, now, out));
            }
            Event::Released(None) => self.turn(|work, now, out| work.released_unknown(now, out)),
            Event::MarkExpires(id, revision) | Event::ClearMark(id, revision) => {
                self.etcd.clear_mark(id, revision);
                self.spread();
            }
        }
    }

    fn outside(&mut self, op: Op) {
        match op {
            Op::Put(id, slot) => self.change(id, slot, true),
            Op::Delete(id, slot) => self.change(id, slot, false),
            Op::Lock(id, takes) => {
                if let Some(revision) = self.etcd.foreign_lock(id) {
                    self.later(ms(takes), Event::Outside(Op::Unlock(id, revision)));
                }
            }
            Op::Unlock(id, revision) => self.etcd.unlock(&lock_of(id), revision),
            Op::GiveUp(id) => drop(self.etcd.foreign_mark(id, true)),
            Op::HoldBack(id, takes) => {
                if let Some(revision) = self.etcd.foreign_mark(id, false) {
                    self.later(ms(takes), Event::MarkExpires(id, revision));
                }
            }
            Op::LoseLocks => self.etcd.lose_locks(),
            Op::Crawl => (0..INSTANCES).for_each(|id| self.decide(id, &[], DecisionReason::Crawl)),
            Op::FireNow(id) => {
                let mut fires = false;
                self.turn(|work, now, out| fires = work.fire_now(instance(id), now, out));
                self.rests[id as usize].take_if(|_| fires);
            }
            Op::Rest(rule, time) => {
                (0..INSTANCES)
                    .filter(|id| rule_of(*id) == rule)
                    .for_each(|id| self.rests[id as usize] = None);
                self.control(rule, |controls| controls.min_interval = (time > 0).then(|| ms(time)));
            }
            Op::Pause(rule) => self.control(rule, |controls| controls.paused = true),
            Op::Resume(rule) => self.control(rule, |controls| controls.paused = false),
            Op::Rehearse(rule) => self.control(rule, |controls| controls.dry_run = true),
            Op::Perform(rule) => {
                // What would have fired counts as if it had, but not for its own interval.
                (0..INSTANCES)
                    .filter(|id| rule_of(*id) == rule)
                    .for_each(|id| self.rests[id as usize] = None);
                self.control(rule, |controls| controls.dry_run = false);
            }
            Op::Limit(rule, count) => {
                let limit = (count > 0).then(|| RateLimit::new(count, ms(1000)));
                self.starts[rule as usize].clear();
                self.beyond[rule as usize] = self.work.reserved(lane(rule));
                self.control(rule, |controls| controls.rate_limit = limit);
            }
            Op::MissReleases => {
                self.agenda.retain(|_, event| !matches!(event, Event::Released(Some(_))));
                self.send("releases", Event::Released(None));
            }
        }
        self.spread();
    }

    fn control(&mut self, rule: u32, change: impl FnOnce(&mut Controls)) {
        change(&mut self.controls[rule as usize]);
        let wanted = self.controls[rule as usize];
        self.turn(|work, now, out| work.set_controls(lane(rule), wanted, now, out));
    }

    /// Somebody else changes a key.
    fn change(&mut self, id: u32, slot: Slot, present: bool) {
        if let Some(revision) = self.etcd.change(id, slot, present) {
            self.dirty[id as usize] = true;
            self.foreign[id as usize] = revision;
        }
    }

    /// What has happened in etcd goes to the watches.
    fn spread(&mut self) {
        for (id, slot, revision, present) in std::mem::take(&mut self.etcd.events) {
            self.send("watch", Event::Watch(id, slot, revision, present));
        }
        let releases = std::mem::take(&mut self.etcd.releases);
        if self.releases_after.is_some() {
            for (key, revision) in &releases {
                self.send("releases", Event::Released(Some((key.clone(), *revision))));
            }
        }
        self.released.extend(releases);
    }

    /// The watch of what is released begins where it is needed, and ends when it is not.
    fn watch_releases(&mut self) {
        let after = self.work.releases_after(self.now);
        if after == self.releases_after {
            return;
        }
        self.agenda.retain(|_, event| !matches!(event, Event::Released(Some(_))));
        self.releases_after = after;
        if let Some(after) = after {
            for (key, revision) in self.released.clone() {
                if revision > after {
                    self.send("releases", Event::Released(Some((key, revision))));
                }
            }
        }
    }

    /// The mirror merges changes; what is news to it is decided.
    fn learn(&mut self, id: u32, changes: &[(Slot, Revision, bool)]) {
        let keys = &mut self.mirror[id as usize];
        let touches: Vec<Touch> = changes
            .iter()
            .filter_map(|&(slot, revision, present)| keys.merge(slot, revision, present))
            .collect();
        if !touches.is_empty() {
            self.decide(id, &touches, DecisionReason::Change);
        }
    }

    fn decide(&mut self, id: u32, touches: &[Touch], reason: DecisionReason) {
        const SOURCES: [&str; INSTANCES as usize] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
        let keys = &self.mirror[id as usize];
        let names = [group_of(id).to_string(), id.to_string()];
        let decided = Decided {
            rule: RuleIndex::new(rule_of(id) as usize),
            binding: Binding::new(names.iter().map(String::as_str)),
            ..decision(instance(id), keys.truth(), &keys.revisions(), touches, reason)
        };
        self.send(SOURCES[id as usize], Event::Decided(Box::new(decided)));
    }
}
