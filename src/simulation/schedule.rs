//! Runs a schedule: an embedded etcd, engines, and everything that happens to them. It runs in one thread,
//! under a clock that jumps from event to event.

mod recovery;

use super::callbacks::{World, rules};
use super::checker::{self, Violation};
use super::history::{EngineRun, Event, History};
use super::kinds::Kind;
use super::plan::{Plan, PlanStep};
use super::worlds::removed::Removed;
use super::worlds::{members, users};
use crate::Engine;
use crate::embedded::record::Write;
use crate::embedded::{EmbeddedEtcd, Faults, NetworkPath, Saved};
use crate::engine::RunningEngine;
use crate::mutants::{self, Mutant};
use crate::runtime::process::Process;
use crate::runtime::supervised::MessageProbe;
use crate::testing::virtual_time;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{Instant, sleep, sleep_until};

pub(super) const NAMESPACE: &str = "/etcd-rules/sim/";

/// The result of a schedule.
pub(super) struct Outcome {
    pub(super) history: History,
    pub(super) violations: Vec<Violation>,
}

/// Runs the schedule of a seed, perhaps with a promise broken on purpose.
pub(super) fn run(seed: u64, broken: Option<Mutant>) -> Outcome {
    run_plan(Plan::of(seed), broken)
}

pub(super) fn run_plan(plan: Plan, broken: Option<Mutant>) -> Outcome {
    mutants::with(broken, || {
        virtual_time::run(async move {
            let schedule = Schedule::new(plan);
            let history = schedule.history.clone();
            let text = "something spins: far too much happened".to_owned();
            tokio::select! {
                biased;
                () = history.full() => {
                    Outcome { violations: vec![Violation { at: history.time(), text }], history: history.clone() }
                }
                outcome = schedule.run() => outcome,
            }
        })
    })
}

struct Schedule {
    plan: Plan,
    history: History,
    etcd: EmbeddedEtcd,
    faults: Faults,
    quiesced: Arc<AtomicBool>,
    saved: Option<Saved>,
    machines: Vec<Machine>,
    /// What is to be done later.
    later: BTreeSet<(Instant, Heal)>,
    violations: Vec<Violation>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Heal {
    Reachable,
    Thaw,
    Lead,
    Space,
    ThawPath(usize),
    OpenPath(usize),
    /// The trouble of a member ends.
    Member(usize, members::Trouble),
    /// Tokens are forgotten again, so often.
    Forget(u32),
    Start(usize),
    GoOn(usize, u32),
    Resume(usize, u32, Kind),
}

/// A machine, on which an engine runs again and again.
struct Machine {
    /// To each member, if there are several.
    paths: Vec<NetworkPath>,
    lives: u32,
    running: Option<Running>,
}

struct Running {
    life: EngineRun,
    process: Process,
    handle: Rc<RunningEngine>,
    poison: Poison,
    task: JoinHandle<()>,
}

/// The part that will panic at its next message.
type Poison = Arc<Mutex<Option<&'static str>>>;

fn probe(poison: &Poison) -> MessageProbe {
    let poison = poison.clone();
    Arc::new(move |part| {
        let hit = poison.lock().unwrap_or_else(|e| e.into_inner()).take_if(|name| *name == part).is_some();
        if hit {
            // This calls no panic hook, so nothing is printed.
            std::panic::resume_unwind(Box::new("poison"));
        }
    })
}

impl Schedule {
    fn new(plan: Plan) -> Self {
        let etcd = EmbeddedEtcd::in_process_cluster(plan.members);
        let history = History::new();
        let listening = history.clone();
        etcd.listen(move |done| listening.add(Event::Server(done)));
        let paths = || (0..plan.members.max(1)).map(|member| etcd.member(member).path()).collect();
        let machine = |_| Machine { paths: paths(), lives: 0, running: None };
        let machines: Vec<Machine> = (0..plan.engines).map(machine).collect();
        let every_path: Vec<Vec<NetworkPath>> =
            machines.iter().map(|machine| machine.paths.clone()).collect();
        crate::etcd::dial_by(move |endpoint| {
            let (machine, member) =
                endpoint.strip_suffix(":2379")?.strip_prefix("machine-")?.split_once("-member-")?;
            let path =
                every_path.get(machine.parse::<usize>().ok()?)?.get(member.parse::<usize>().ok()?)?.clone();
            Some(Box::pin(async move { path.dial().await }))
        });
        Self {
            machines,
            faults: etcd.faults(),
            quiesced: Arc::default(),
            saved: None,
            later: BTreeSet::new(),
            violations: Vec::new(),
            plan,
            history,
            etcd,
        }
    }

    async fn run(mut self) -> Outcome {
        if let Some(ttl) = self.plan.token_ttl {
            users::enable(&self.etcd, ttl).await.expect("etcd takes users");
        }
        for machine in 0..self.machines.len() {
            self.start(machine).await;
        }
        let mut at = Instant::now();
        for (pause, act) in std::mem::take(&mut self.plan.steps) {
            at += pause;
            self.wait_until(at).await;
            self.history.add(Event::Did(act.clone()));
            self.act(&act);
            self.plan.steps.push((pause, act));
        }
        self.calm_down().await;
        let well = self.recover().await;
        self.end(well).await;
        let checked = self.history.look(|_, events| checker::check(&self.plan, events));
        self.violations.extend(checked);
        Outcome { history: self.history, violations: self.violations }
    }

    fn violate(&mut self, text: String) {
        self.violations.push(Violation { at: self.history.time(), text });
    }

    /// Waits until this time, and heals what becomes due meanwhile.
    async fn wait_until(&mut self, at: Instant) {
        while let Some(&(due, later)) = self.later.first()
            && due <= at
        {
            self.later.pop_first();
            sleep_until(due).await;
            self.undo(later).await;
        }
        sleep_until(at).await;
    }

    async fn undo(&mut self, later: Heal) {
        match later {
            Heal::Reachable => self.faults.set_reachable(true),
            Heal::Thaw => self.faults.thaw(),
            Heal::Lead => self.faults.elect_leader(),
            Heal::Space => self.faults.set_no_space(false),
            Heal::ThawPath(machine) => self.machines[machine].paths.iter().for_each(NetworkPath::thaw),
            Heal::OpenPath(machine) => {
                self.machines[machine].paths.iter().for_each(|path| path.set_reachable(true));
            }
            Heal::Member(member, trouble) => trouble.end(&self.etcd.member(member)),
            Heal::Forget(times) => self.forget_tokens(times),
            Heal::Start(machine) => self.start(machine).await,
            Heal::GoOn(machine, life) => {
                if let Some(running) = &self.machines[machine].running
                    && running.life.number == life
                {
                    running.process.go_on();
                }
            }
            Heal::Resume(machine, life, kind) => self.pause(machine, Some(life), kind, false),
        }
    }

    /// Pauses or resumes a rule in an engine, if the engine runs. The schedule doesn't wait for it.
    fn pause(&self, machine: usize, life: Option<u32>, kind: Kind, pause: bool) {
        if let Some(running) = &self.machines[machine].running
            && life.is_none_or(|life| life == running.life.number)
        {
            let (handle, life, history) =
                (Rc::downgrade(&running.handle), running.life, self.history.clone());
            spawn_local(async move {
                if pause {
                    let Some(handle) = handle.upgrade() else { return };
                    if handle.pause(kind.name()).await.is_ok() {
                        history.add(Event::Paused(life, kind));
                    }
                    return;
                }
                history.add(Event::Resumed(life, kind));
                // Again, if its parts are just starting again.
                while let Some(handle) = handle.upgrade() {
                    if handle.resume(kind.name()).await.is_ok() {
                        return history.add(Event::Resumed(life, kind));
                    }
                    drop(handle);
                    sleep(Duration::from_millis(50)).await;
                }
            });
        }
    }

    fn forget_tokens(&mut self, times: u32) {
        self.faults.forget_tokens();
        if times > 1 {
            self.in_a_while(Duration::from_millis(50), Heal::Forget(times - 1));
        }
    }

    fn in_a_while(&mut self, delay: Duration, later: Heal) {
        self.later.insert((Instant::now() + delay, later));
    }

    async fn start(&mut self, at: usize) {
        if self.machines[at].running.is_some() {
            return;
        }
        let machine = &mut self.machines[at];
        machine.lives += 1;
        let life = EngineRun { engine: at, number: machine.lives };
        let process = Process::default();
        let world = Arc::new(World {
            seed: self.plan.seed,
            history: self.history.clone(),
            life,
            process: process.clone(),
            callbacks: self.plan.callbacks.clone(),
            quiesced: self.quiesced.clone(),
        });
        let poison = Poison::default();
        let options = &self.plan.options;
        let mut builder = match self.plan.members {
            0 => Engine::builder_with_channel("sim", machine.paths[0].channel()),
            members => Engine::builder(
                "sim",
                (0..members).map(|member| format!("machine-{at}-member-{member}:2379")),
            ),
        };
        if self.plan.token_ttl.is_some() {
            builder = builder.connect_options(users::options());
        }
        let mut builder = builder
            .name(format!("sim-{at}"))
            .rules(rules(&self.plan, &world))
            .lock_ttl(options.lock_ttl)
            .request_timeout(options.request_timeout)
            .watch_silence(options.watch_silence)
            .crawl_interval(options.crawl_interval)
            .concurrency(options.concurrency)
            .evaluators(options.evaluators);
        let start = Instant::now() - self.history.time();
        builder.env = virtual_time::env(self.plan.seed, at as u64, life.number, start);
        builder.env.probe = Some(probe(&poison));
        let engine = builder.build().expect("a sound configuration");
        self.history.add(Event::Started(life));
        let history = self.history.clone();
        let noting = |handle: &RunningEngine| {
            let mut health = handle.health_changes();
            async move {
                while let Some(now) = health.recv().await {
                    history.add(Event::Health(life, now.name().to_owned()));
                }
            }
        };
        let (handle, task) = virtual_time::start(engine, &process, noting).await.expect("the engine starts");
        let handle = Rc::new(handle);
        self.machines[at].running = Some(Running { life, process, handle, poison, task });
    }

    /// Takes the running engine off its machine, so that the caller can end it. A stalled process runs again,
    /// because otherwise it could not end.
    fn take(&mut self, machine: usize) -> Option<Running> {
        let running = self.machines[machine].running.take()?;
        running.process.run_on();
        Some(running)
    }

    fn act(&mut self, act: &PlanStep) {
        match *act {
            PlanStep::Put(ref key, ref value) => {
                self.etcd.write(&Write::Put(key, value));
            }
            PlanStep::PutAll(ref keys, ref value) => {
                self.etcd.write(&Write::PutAll(keys, value));
            }
            PlanStep::Delete(ref key) => {
                self.etcd.write(&Write::Delete(key));
            }
            PlanStep::Inject(fault) => self.faults.inject(fault),
            PlanStep::CutStreams => self.faults.cut_streams(),
            PlanStep::CutConnections => self.faults.cut_connections(),
            PlanStep::Unreachable(time) => {
                self.faults.set_reachable(false);
                self.in_a_while(time, Heal::Reachable);
            }
            PlanStep::Freeze(time) => {
                self.faults.freeze();
                self.in_a_while(time, Heal::Thaw);
            }
            PlanStep::LoseLeader(time) => {
                self.faults.lose_leader();
                self.in_a_while(time, Heal::Lead);
            }
            PlanStep::NoSpace(time) => {
                self.faults.set_no_space(true);
                self.in_a_while(time, Heal::Space);
            }
            // Refused if nothing has happened since the last time.
            PlanStep::Compact => drop(self.faults.compact(self.faults.revision())),
            PlanStep::CompactAt(step) => step.act(&self.faults),
            PlanStep::ExpireLease(at) => {
                let leases = self.faults.leases();
                if !leases.is_empty() {
                    self.faults.expire_lease(leases[at % leases.len()]);
                }
            }
            PlanStep::Remove(step) => match self.history.look(|now, _| step.choose(now)) {
                Some(Removed::Lock(key)) => drop(self.etcd.write(&Write::Delete(&key))),
                Some(Removed::Lease(lease)) => drop(self.faults.expire_lease(lease)),
                None => {}
            },
            PlanStep::Restart => self.faults.restart(),
            PlanStep::Save => self.saved = Some(self.faults.save()),
            PlanStep::Restore => {
                if let Some(saved) = &self.saved {
                    self.faults.restore(saved);
                }
            }
            PlanStep::RestartEmpty => {
                self.saved = None;
                self.faults.restart_empty();
            }
            PlanStep::CutPath(machine) => self.machines[machine].paths.iter().for_each(NetworkPath::cut),
            PlanStep::FreezePath(machine, time) => {
                self.machines[machine].paths.iter().for_each(NetworkPath::freeze);
                self.in_a_while(time, Heal::ThawPath(machine));
            }
            PlanStep::BlockPath(machine, time) => {
                self.machines[machine].paths.iter().for_each(|path| path.set_reachable(false));
                self.in_a_while(time, Heal::OpenPath(machine));
            }
            PlanStep::Crash(machine, down) => {
                if let Some(Running { life, process, .. }) = self.take(machine) {
                    process.end();
                    self.history.add(Event::Over(life, "crashed".into()));
                    self.in_a_while(down, Heal::Start(machine));
                }
            }
            PlanStep::Shutdown(machine, deadline, down) => {
                if let Some(running) = self.take(machine) {
                    spawn_local(shut_down(running, deadline, self.history.clone()));
                    self.in_a_while(down, Heal::Start(machine));
                }
            }
            PlanStep::Drop(machine, down) => {
                if let Some(Running { life, process, handle, .. }) = self.take(machine) {
                    drop(handle);
                    self.history.add(Event::Over(life, "dropped".into()));
                    spawn_local(async move {
                        // Its process continues for a while.
                        sleep(Duration::from_secs(5)).await;
                        process.end();
                    });
                    self.in_a_while(down, Heal::Start(machine));
                }
            }
            PlanStep::Stall(machine, time) => {
                if let Some(Running { life, process, .. }) = &self.machines[machine].running {
                    process.stall();
                    let later = Heal::GoOn(machine, life.number);
                    self.in_a_while(time, later);
                }
            }
            PlanStep::Pause(machine, kind, time) => {
                if let Some(Running { life, .. }) = &self.machines[machine].running {
                    let later = Heal::Resume(machine, life.number, kind);
                    self.pause(machine, None, kind, true);
                    self.in_a_while(time, later);
                }
            }
            PlanStep::UnwatchedKeys(changes) => {
                for change in 0..changes {
                    self.etcd.write(&Write::Put("/elsewhere", &change.to_string()));
                }
            }
            PlanStep::Member(members::Step { member, trouble, time }) => {
                trouble.begin(&self.etcd.member(member));
                self.in_a_while(time, Heal::Member(member, trouble));
            }
            PlanStep::User(users::Step::Forget) => self.forget_tokens(1),
            PlanStep::User(users::Step::ForgetAgain(times)) => self.forget_tokens(times),
            PlanStep::Poison(machine, part) => {
                if let Some(running) = &self.machines[machine].running {
                    *running.poison.lock().unwrap_or_else(|e| e.into_inner()) = Some(part);
                }
            }
        }
    }
}

async fn shut_down(running: Running, deadline: Duration, history: History) -> Result<(), crate::EngineError> {
    let Running { life, process, handle, task, .. } = running;
    let mut shared = handle;
    let handle = loop {
        // A rule may just be being paused.
        match Rc::try_unwrap(shared) {
            Ok(handle) => break handle,
            Err(others) => shared = others,
        }
        sleep(Duration::from_millis(1)).await;
    };
    let ended = handle.shutdown(deadline).await;
    history.add(Event::Over(life, format!("shut down: {ended:?}")));
    process.end();
    // It was ended above.
    let _ = task.await;
    ended
}
