//! Runs a schedule: an embedded etcd, engines, and all that happens to them, in one thread and under a clock
//! that jumps from event to event.

mod recovery;

use super::callbacks::{World, rules};
use super::checker::{self, Violation};
use super::kinds::Kind;
use super::plan::{Act, Plan};
use super::process::Process;
use super::story::{Event, Life, Story};
use crate::Engine;
use crate::broken::{Promise, while_broken};
use crate::embedded::record::Write;
use crate::embedded::{EmbeddedEtcd, Faults, Path, Saved};
use crate::engine::EngineHandle;
use crate::runtime::env::Env;
use crate::runtime::supervised::Probe;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use tokio::time::{Instant, sleep, sleep_until};

pub(super) const NAMESPACE: &str = "/etcd-rules/sim/";

/// What a schedule came to.
pub(super) struct Outcome {
    pub(super) story: Story,
    pub(super) violations: Vec<Violation>,
}

/// Runs the schedule of a seed, perhaps with a promise broken on purpose.
pub(super) fn run(seed: u64, broken: Option<Promise>) -> Outcome {
    run_plan(Plan::of(seed), broken)
}

pub(super) fn run_plan(plan: Plan, broken: Option<Promise>) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime");
    let outcome = while_broken(broken, || {
        let local = LocalSet::new();
        local.block_on(
            &runtime,
            Box::pin(async move {
                let schedule = Schedule::new(plan);
                let story = schedule.story.clone();
                let text = "something spins: far too much happened".to_owned();
                tokio::select! {
                    biased;
                    () = story.full() => {
                        Outcome { violations: vec![Violation { at: story.time(), text }], story: story.clone() }
                    }
                    outcome = schedule.run() => outcome,
                }
            }),
        )
    });
    drop(runtime);
    outcome
}

struct Schedule {
    plan: Plan,
    story: Story,
    etcd: EmbeddedEtcd,
    faults: Faults,
    calm: Arc<AtomicBool>,
    saved: Option<Saved>,
    machines: Vec<Machine>,
    /// What is to be done later.
    later: BTreeSet<(Instant, Later)>,
    violations: Vec<Violation>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Later {
    Reachable,
    Thaw,
    Lead,
    Space,
    ThawPath(usize),
    OpenPath(usize),
    Start(usize),
    GoOn(usize, u32),
    Resume(usize, u32, Kind),
}

/// Where an engine runs, one life after the other.
struct Machine {
    path: Path,
    lives: u32,
    running: Option<Running>,
}

struct Running {
    life: Life,
    process: Process,
    handle: Rc<EngineHandle>,
    poison: Poison,
    task: JoinHandle<()>,
}

/// The part that is to panic at its next message.
type Poison = Arc<Mutex<Option<&'static str>>>;

fn probe(poison: &Poison) -> Probe {
    let poison = poison.clone();
    Arc::new(move |part| {
        let hit = poison.lock().unwrap_or_else(|e| e.into_inner()).take_if(|name| *name == part).is_some();
        if hit {
            // No hook is called, so that nothing is printed.
            std::panic::resume_unwind(Box::new("poison"));
        }
    })
}

impl Schedule {
    fn new(plan: Plan) -> Self {
        let etcd = EmbeddedEtcd::in_process();
        let story = Story::new();
        let listening = story.clone();
        etcd.listen(move |done| listening.add(Event::Server(done)));
        let machine = |_| Machine { path: etcd.path(), lives: 0, running: None };
        Self {
            machines: (0..plan.engines).map(machine).collect(),
            faults: etcd.faults(),
            calm: Arc::default(),
            saved: None,
            later: BTreeSet::new(),
            violations: Vec::new(),
            plan,
            story,
            etcd,
        }
    }

    async fn run(mut self) -> Outcome {
        for machine in 0..self.machines.len() {
            self.start(machine).await;
        }
        let mut at = Instant::now();
        for (pause, act) in std::mem::take(&mut self.plan.steps) {
            at += pause;
            self.wait_until(at).await;
            self.story.add(Event::Did(act.clone()));
            self.act(&act);
            self.plan.steps.push((pause, act));
        }
        self.calm_down().await;
        let well = self.recover().await;
        self.end(well).await;
        let checked = self.story.look(|_, events| checker::check(&self.plan, events));
        self.violations.extend(checked);
        Outcome { story: self.story, violations: self.violations }
    }

    fn violate(&mut self, text: String) {
        self.violations.push(Violation { at: self.story.time(), text });
    }

    /// Does what comes due until then.
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

    async fn undo(&mut self, later: Later) {
        match later {
            Later::Reachable => self.faults.set_reachable(true),
            Later::Thaw => self.faults.thaw(),
            Later::Lead => self.faults.elect_leader(),
            Later::Space => self.faults.set_no_space(false),
            Later::ThawPath(machine) => self.machines[machine].path.thaw(),
            Later::OpenPath(machine) => self.machines[machine].path.set_reachable(true),
            Later::Start(machine) => self.start(machine).await,
            Later::GoOn(machine, life) => {
                if let Some(running) = &self.machines[machine].running
                    && running.life.number == life
                {
                    running.process.go_on();
                }
            }
            Later::Resume(machine, life, kind) => self.pause(machine, Some(life), kind, false),
        }
    }

    /// Pauses or resumes a rule in an engine, if that lives; told while everything goes on.
    fn pause(&self, machine: usize, life: Option<u32>, kind: Kind, pause: bool) {
        if let Some(running) = &self.machines[machine].running
            && life.is_none_or(|life| life == running.life.number)
        {
            let (handle, life, story) = (Rc::downgrade(&running.handle), running.life, self.story.clone());
            spawn_local(async move {
                if pause {
                    let Some(handle) = handle.upgrade() else { return };
                    if handle.pause(kind.name()).await.is_ok() {
                        story.add(Event::Paused(life, kind));
                    }
                    return;
                }
                story.add(Event::Resumed(life, kind));
                // Again, if its parts are just starting again.
                while let Some(handle) = handle.upgrade() {
                    if handle.resume(kind.name()).await.is_ok() {
                        return story.add(Event::Resumed(life, kind));
                    }
                    drop(handle);
                    sleep(Duration::from_millis(50)).await;
                }
            });
        }
    }

    fn in_a_while(&mut self, delay: Duration, later: Later) {
        self.later.insert((Instant::now() + delay, later));
    }

    async fn start(&mut self, at: usize) {
        if self.machines[at].running.is_some() {
            return;
        }
        let machine = &mut self.machines[at];
        machine.lives += 1;
        let life = Life { engine: at, number: machine.lives };
        let process = Process::default();
        let world = Arc::new(World {
            seed: self.plan.seed,
            story: self.story.clone(),
            life,
            process: process.clone(),
            callbacks: self.plan.callbacks.clone(),
            calm: self.calm.clone(),
        });
        let poison = Poison::default();
        let options = &self.plan.options;
        let mut builder = Engine::builder_with_channel("sim", machine.path.channel())
            .name(format!("sim-{at}"))
            .rules(rules(&self.plan, &world))
            .lock_ttl(options.lock_ttl)
            .request_timeout(options.request_timeout)
            .watch_silence(options.watch_silence)
            .crawl_interval(options.crawl_interval)
            .concurrency(options.concurrency)
            .evaluators(options.evaluators);
        let (start, seed) = (Instant::now() - self.story.time(), self.plan.seed);
        let seed = seed ^ ((at as u64 + 1) << 40) ^ (u64::from(life.number) << 48);
        builder.env = Env::local(seed, move || UNIX_EPOCH + start.elapsed());
        builder.env.probe = Some(probe(&poison));
        let engine = builder.build().expect("a sound configuration");
        self.story.add(Event::Started(life));
        let local = LocalSet::new();
        let handle = local.run_until(engine.start()).await.expect("the engine starts");
        let handle = Rc::new(handle);
        let mut health = handle.health_changes();
        let (story, hosted) = (self.story.clone(), process.clone());
        let task = spawn_local(async move {
            let watching = local.run_until(async {
                loop {
                    let now = health.borrow_and_update().name().to_owned();
                    story.add(Event::Health(life, now));
                    if health.changed().await.is_err() {
                        std::future::pending::<()>().await;
                    }
                }
            });
            hosted.host(watching).await;
        });
        self.machines[at].running = Some(Running { life, process, handle, poison, task });
    }

    /// Ends a life. Whoever waits for the answer sees everything of it gone.
    fn take(&mut self, machine: usize) -> Option<Running> {
        let running = self.machines[machine].running.take()?;
        running.process.run_on();
        Some(running)
    }

    fn act(&mut self, act: &Act) {
        match *act {
            Act::Put(ref key, ref value) => {
                self.etcd.write(&Write::Put(key, value));
            }
            Act::Delete(ref key) => {
                self.etcd.write(&Write::Delete(key));
            }
            Act::Inject(fault) => self.faults.inject(fault),
            Act::CutStreams => self.faults.cut_streams(),
            Act::CutConnections => self.faults.cut_connections(),
            Act::Unreachable(time) => {
                self.faults.set_reachable(false);
                self.in_a_while(time, Later::Reachable);
            }
            Act::Freeze(time) => {
                self.faults.freeze();
                self.in_a_while(time, Later::Thaw);
            }
            Act::LoseLeader(time) => {
                self.faults.lose_leader();
                self.in_a_while(time, Later::Lead);
            }
            Act::NoSpace(time) => {
                self.faults.set_no_space(true);
                self.in_a_while(time, Later::Space);
            }
            // Refused if nothing has happened since the last time.
            Act::Compact => drop(self.faults.compact(self.faults.revision())),
            Act::ExpireLease(at) => {
                let leases = self.faults.leases();
                if !leases.is_empty() {
                    self.faults.expire_lease(leases[at % leases.len()]);
                }
            }
            Act::Restart => self.faults.restart(),
            Act::Save => self.saved = Some(self.faults.save()),
            Act::Restore => {
                if let Some(saved) = &self.saved {
                    self.faults.restore(saved);
                }
            }
            Act::RestartEmpty => {
                self.saved = None;
                self.faults.restart_empty();
            }
            Act::CutPath(machine) => self.machines[machine].path.cut(),
            Act::FreezePath(machine, time) => {
                self.machines[machine].path.freeze();
                self.in_a_while(time, Later::ThawPath(machine));
            }
            Act::BlockPath(machine, time) => {
                self.machines[machine].path.set_reachable(false);
                self.in_a_while(time, Later::OpenPath(machine));
            }
            Act::Crash(machine, down) => {
                if let Some(Running { life, process, .. }) = self.take(machine) {
                    process.end();
                    self.story.add(Event::Over(life, "crashed".into()));
                    self.in_a_while(down, Later::Start(machine));
                }
            }
            Act::Shutdown(machine, deadline, down) => {
                if let Some(running) = self.take(machine) {
                    spawn_local(shut_down(running, deadline, self.story.clone()));
                    self.in_a_while(down, Later::Start(machine));
                }
            }
            Act::Drop(machine, down) => {
                if let Some(Running { life, process, handle, .. }) = self.take(machine) {
                    drop(handle);
                    self.story.add(Event::Over(life, "dropped".into()));
                    spawn_local(async move {
                        // Its process goes on for a while.
                        sleep(Duration::from_secs(5)).await;
                        process.end();
                    });
                    self.in_a_while(down, Later::Start(machine));
                }
            }
            Act::Stall(machine, time) => {
                if let Some(Running { life, process, .. }) = &self.machines[machine].running {
                    process.stall();
                    let later = Later::GoOn(machine, life.number);
                    self.in_a_while(time, later);
                }
            }
            Act::Pause(machine, kind, time) => {
                if let Some(Running { life, .. }) = &self.machines[machine].running {
                    let later = Later::Resume(machine, life.number, kind);
                    self.pause(machine, None, kind, true);
                    self.in_a_while(time, later);
                }
            }
            Act::Elsewhere(changes) => {
                for change in 0..changes {
                    self.etcd.write(&Write::Put("/elsewhere", &change.to_string()));
                }
            }
            Act::Poison(machine, part) => {
                if let Some(running) = &self.machines[machine].running {
                    *running.poison.lock().unwrap_or_else(|e| e.into_inner()) = Some(part);
                }
            }
        }
    }
}

async fn shut_down(running: Running, deadline: Duration, story: Story) -> Result<(), crate::EngineError> {
    let Running { life, process, handle, task, .. } = running;
    let mut shared = handle;
    let handle = loop {
        // Somebody may be pausing a rule.
        match Rc::try_unwrap(shared) {
            Ok(handle) => break handle,
            Err(others) => shared = others,
        }
        sleep(Duration::from_millis(1)).await;
    };
    let ended = handle.shutdown(deadline).await;
    story.add(Event::Over(life, format!("shut down: {ended:?}")));
    process.end();
    // It was ended above.
    let _ = task.await;
    ended
}
