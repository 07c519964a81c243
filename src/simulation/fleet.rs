//! Fleets of up to eight engines: who does which job, how many attempts for locks are lost, and how soon the jobs of an
//! engine that is gone are done by others. A scenario has one kind of trouble, so that it can promise much.

use super::checker::Violation;
use crate::embedded::record::Write;
use crate::embedded::{EmbeddedEtcd, Fault, NetworkPath, RequestKind};
use crate::engine::RunningEngine;
use crate::events::{EventKind, EventStream, NotLocked};
use crate::mutants::{self, Mutant};
use crate::runtime::process::Process;
use crate::testing::virtual_time;
use crate::{Engine, Error, Firing, Jitter, Outcome, Rule, key};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{Instant, sleep, timeout};

const SECOND: Duration = Duration::from_secs(1);
const TTL: Duration = Duration::from_secs(4);
/// Of the scenario of drift: between two crawls, and the keys that no rule is true for.
const CRAWLS: Duration = Duration::from_secs(10);
const KEPT: u32 = 3000;

const MEMBERS: &str = "/etcd-rules/sim/members/1/";

/// What happens to a fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scenario {
    /// Nothing.
    Steady,
    /// Engines come, and their networks stand still for a moment after that. Some jobs ask for a delay.
    Joins,
    /// Engines die, without a chance to say so.
    Deaths,
    /// Engines are shut down, and others come.
    Upgrade,
    /// The processes of engines stand still for a while, or their networks do.
    Pauses,
    /// A member that does nothing, and that all of them see for ever.
    Phantom,
    /// One engine is slow, and has few slots: others help.
    Slow,
    /// Engines die while jobs wait that asked them for a long delay.
    Delays,
    /// etcd breaks its promise: engines are not told of changes. Their crawls, of which each reads a share, are to find
    /// that out, while engines come and go.
    Drift,
}

impl Scenario {
    pub(super) const ALL: [Self; 9] = [
        Self::Steady,
        Self::Joins,
        Self::Deaths,
        Self::Upgrade,
        Self::Pauses,
        Self::Phantom,
        Self::Slow,
        Self::Delays,
        Self::Drift,
    ];

    /// How long a job may wait for its callback.
    fn patience(self) -> Duration {
        let member = Duration::from_millis(1500);
        match self {
            Self::Steady | Self::Upgrade | Self::Drift => SECOND,
            // The end of the member's key, or of the lock, and a second.
            Self::Deaths | Self::Delays => TTL + member,
            // By then another engine has it, or its own goes on.
            Self::Pauses | Self::Joins => 2 * TTL + member,
            Self::Phantom => 7 * TTL + member,
            // It waits for a second, which is told within another, and then the youngest are taken first.
            Self::Slow => 5 * SECOND,
        }
    }

    /// What jobs ask for that are to be begun again.
    fn delay(self) -> Duration {
        if self == Self::Delays { 40 * SECOND } else { 5 * SECOND }
    }

    /// By when after its first callback such a job is begun again.
    fn again(self) -> Duration {
        // The callback itself takes up to 0.1 s.
        let late = if self == Self::Delays { TTL + SECOND / 4 } else { self.patience() };
        self.delay() + late
    }
}

/// Runs a scenario, perhaps with a promise broken on purpose.
pub(super) fn run(seed: u64, scenario: Scenario, broken: Option<Mutant>) -> Vec<Violation> {
    mutants::with(broken, || virtual_time::run(async move { Fleet::new(seed, scenario).play().await }))
}

/// When a job was asked for, and when callbacks began with it.
#[derive(Debug)]
struct Job {
    asked: Instant,
    /// Its first callback asks for another one after the delay.
    delayed: bool,
    began: Vec<Instant>,
}

type Jobs = Arc<Mutex<BTreeMap<String, Job>>>;

struct Member {
    path: NetworkPath,
    process: Process,
    engine: RunningEngine,
    events: EventStream,
    task: JoinHandle<()>,
}

struct Fleet {
    seed: u64,
    scenario: Scenario,
    rng: StdRng,
    start: Instant,
    etcd: EmbeddedEtcd,
    jobs: Jobs,
    asked: u32,
    members: Vec<Member>,
    started: u64,
    losing: usize,
    /// Changes that one engine each was not told of.
    lost: u64,
    violations: Vec<Violation>,
}

/// A job is done by a callback that takes a while. `locked` and `optimistic` jobs go away, `shared` ones have a few
/// locks among them.
fn rules(seed: u64, slowness: u64, delay: Duration, jobs: &Jobs, process: &Process) -> [Rule; 3] {
    let rule = |name: &'static str| {
        let (pattern, jobs, process) = (format!("/{name}/:id"), jobs.clone(), process.clone());
        let rng = Arc::new(Mutex::new(StdRng::seed_from_u64(seed)));
        Rule::new(name).when(key(&pattern).exists()).run(move |firing: Firing| {
            let work =
                rng.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).random_range(0..100) * slowness;
            let id = format!("/{name}/{}", firing.attribute("id").unwrap_or_default());
            let mut delayed = false;
            if let Some(job) = jobs.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).get_mut(&id) {
                job.began.push(Instant::now());
                delayed = job.delayed && job.began.len() == 1;
            }
            let (pattern, process) = (pattern.clone(), process.clone());
            async move {
                let working = async {
                    sleep(Duration::from_millis(work)).await;
                    if delayed {
                        return Ok(Outcome::retry_after(delay));
                    }
                    Ok::<Outcome, Error>(firing.commit().delete(&pattern).into())
                };
                match process.host(working).await {
                    Some(outcome) => outcome,
                    // The process has ended.
                    None => std::future::pending().await,
                }
            }
        })
    };
    [rule("locked"), rule("optimistic").optimistic(), rule("shared").lock("/the/only/one")]
}

impl Fleet {
    fn new(seed: u64, scenario: Scenario) -> Self {
        Self {
            seed,
            scenario,
            rng: StdRng::seed_from_u64(seed),
            start: Instant::now(),
            etcd: EmbeddedEtcd::in_process(),
            jobs: Jobs::default(),
            asked: 0,
            members: Vec::new(),
            started: 0,
            losing: 0,
            lost: 0,
            violations: Vec::new(),
        }
    }

    async fn join(&mut self) {
        self.started += 1;
        let (number, start, path, process) = (self.started, self.start, self.etcd.path(), Process::default());
        let slowness = if self.scenario == Scenario::Slow && number == 1 { 20 } else { 1 };
        let mut builder = Engine::builder_with_channel("sim", path.channel())
            .name(format!("sim-{number}"))
            .rules(rules(self.seed ^ number, slowness, self.scenario.delay(), &self.jobs, &process))
            .concurrency(if slowness > 1 { 1 } else { 8 })
            .owners(true)
            .lock_ttl(TTL)
            .request_timeout(2 * SECOND)
            .watch_silence(SECOND)
            .lag_limit(SECOND)
            .event_buffer(100_000);
        if self.scenario == Scenario::Drift {
            let kept = Rule::new("kept").when(key("/kept/:id").equals("never"));
            let kept =
                kept.run(|firing: Firing| async move { Ok::<_, Error>(firing.commit().delete("/kept/:id")) });
            builder = builder.rule(kept).crawl_interval(CRAWLS).crawl_jitter(Jitter::NONE);
        }
        builder.env = virtual_time::env(self.seed, number, 0, start);
        let engine = builder.build().expect("a sound configuration");
        let started = virtual_time::start(engine, &process, |_| std::future::pending()).await;
        let (engine, task) = started.expect("the engine starts");
        let events = engine.events();
        self.members.push(Member { path, process, engine, events, task });
    }

    fn ask(&mut self) {
        self.asked += 1;
        let mut name = ["locked", "optimistic", "locked", "shared"][self.asked as usize % 4];
        if matches!(self.scenario, Scenario::Slow | Scenario::Delays) && name == "shared" {
            // Nobody can help with what waits for a lock, and many jobs are due at once after the delay.
            name = "locked";
        }
        let key = format!("/{name}/{}", self.asked);
        let delayed = match self.scenario {
            Scenario::Joins => self.asked % 4 < 2,
            scenario => scenario == Scenario::Delays,
        };
        let job = Job { asked: Instant::now(), delayed, began: Vec::new() };
        self.jobs.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(key.clone(), job);
        self.etcd.write(&Write::Put(&key, ""));
    }

    async fn ask_for(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.ask();
            let rest = if self.scenario == Scenario::Slow { 50..150 } else { 100..300 };
            sleep(Duration::from_millis(self.rng.random_range(rest))).await;
        }
    }

    /// Attempts for locks that another engine had, since the last call.
    async fn lost_attempts(&mut self) -> usize {
        let held = |kind: &EventKind| {
            matches!(kind, EventKind::NotLocked { reason: NotLocked::Held(_) | NotLocked::BackedOff(_), .. })
        };
        let mut lost = 0;
        for member in &mut self.members {
            // `try_recv` would end early: tokio lets a task do only so much at once.
            while let Ok(Some(event)) = timeout(Duration::from_millis(1), member.events.recv()).await {
                lost += usize::from(event.is_ok_and(|event| held(&event.kind)));
            }
        }
        lost
    }

    async fn leave(&mut self) {
        let at = self.rng.random_range(0..self.members.len());
        self.shut_down(at).await;
    }

    async fn shut_down(&mut self, at: usize) {
        let member = self.members.remove(at);
        let engine = member.engine;
        let ended = spawn_local(async move { engine.shutdown(10 * SECOND).await }).await;
        if let Err(error) = ended.expect("it does not panic") {
            self.violate(format!("an engine does not shut down: {error}"));
        }
        member.process.end();
        let _ = member.task.await;
    }

    async fn trouble(&mut self) {
        match self.scenario {
            Scenario::Steady | Scenario::Slow => {}
            Scenario::Joins => {
                self.join().await;
                // It becomes a member, and the others see that.
                self.ask_for(Duration::from_millis(1200)).await;
                let path = self.members[self.members.len() - 1].path.clone();
                path.freeze();
                let time = Duration::from_millis(self.rng.random_range(100..4000));
                self.ask_for(time).await;
                path.thaw();
            }
            Scenario::Deaths | Scenario::Delays => {
                let at = self.rng.random_range(0..self.members.len());
                let member = self.members.remove(at);
                member.process.end();
                let _ = member.task.await;
                // Nothing is left of the process that could still end in an orderly way.
                std::mem::forget(member.engine);
            }
            Scenario::Upgrade => {
                self.leave().await;
                self.join().await;
            }
            Scenario::Pauses => {
                let at = self.rng.random_range(0..self.members.len());
                let time = Duration::from_millis(self.rng.random_range(100..12_000));
                if self.rng.random_bool(0.5) {
                    let process = self.members[at].process.clone();
                    process.stall();
                    self.ask_for(time).await;
                    process.run_on();
                } else {
                    let path = self.members[at].path.clone();
                    path.freeze();
                    self.ask_for(time).await;
                    path.thaw();
                }
            }
            Scenario::Drift => {
                // Nothing else is told meanwhile.
                sleep(5 * SECOND).await;
                let kept = format!("/kept/{:05}", self.rng.random_range(0..KEPT));
                self.etcd.faults().inject(Fault::on(RequestKind::WatchResponse).lose());
                self.etcd.write(&Write::Put(&kept, "changed"));
                self.lost += 1;
                sleep(SECOND).await;
            }
            Scenario::Phantom => {
                let mut client = self.etcd.client().await.expect("a client");
                let options = etcd_client::GetOptions::new().with_prefix();
                let found = client.get(MEMBERS, Some(options)).await.expect("a read");
                let able = found.kvs().iter().find(|kv| kv.key().ends_with(b"/able"));
                let able = able.expect("there are members").value_str().expect("text").to_owned();
                self.etcd.write(&Write::Put(&format!("{MEMBERS}00000000000000ff/able"), &able));
            }
        }
    }

    async fn play(mut self) -> Vec<Violation> {
        if self.scenario == Scenario::Drift {
            for id in 0..KEPT {
                self.etcd.write(&Write::Put(&format!("/kept/{id:05}"), ""));
            }
        }
        let engines = self.rng.random_range(match self.scenario {
            Scenario::Slow => 3..=4,
            // Each has all keys in memory.
            Scenario::Drift => 3..=5,
            _ => 3..=8,
        });
        for _ in 0..engines {
            self.join().await;
        }
        // All are members, and have been so for a while.
        sleep(6 * SECOND).await;
        self.lost_attempts().await;
        let troubles = match self.scenario {
            Scenario::Deaths | Scenario::Delays => 2,
            Scenario::Phantom => 1,
            _ => 3,
        };
        // One who takes over after a death may not die before that, or others wait for the end of two leases.
        let least = if matches!(self.scenario, Scenario::Deaths | Scenario::Delays) { 6500 } else { 2000 };
        for _ in 0..troubles {
            let time = Duration::from_millis(self.rng.random_range(least..least + 6000));
            self.ask_for(time).await;
            self.trouble().await;
        }
        self.ask_for(8 * SECOND).await;
        self.look_for_drift().await;
        sleep(self.scenario.patience() + self.scenario.again() + 5 * SECOND).await;
        self.losing += self.lost_attempts().await;
        self.check();
        while !self.members.is_empty() {
            self.leave().await;
        }
        self.violations
    }

    /// Every engine has read everything within nine intervals, however many there are meanwhile. A crawl itself takes
    /// up to 3 s.
    async fn look_for_drift(&mut self) {
        if self.scenario != Scenario::Drift {
            return;
        }
        for _ in 0..9 {
            self.join().await;
            sleep(CRAWLS / 2).await;
            let newest = self.members.len() - 1;
            self.shut_down(newest).await;
            sleep(CRAWLS / 2 + 3 * SECOND).await;
        }
        let mut drift = 0;
        for member in &self.members {
            drift += member.engine.stats().await.expect("it lives").drift;
        }
        if drift != self.lost {
            self.violate(format!("{drift} differences were found of {}", self.lost));
        }
    }

    fn violate(&mut self, text: String) {
        self.violations.push(Violation { at: self.start.elapsed(), text });
    }

    fn check(&mut self) {
        let jobs = std::mem::take(&mut *self.jobs.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
        let (mut callbacks, count) = (0, jobs.len());
        for (key, job) in jobs {
            callbacks += job.began.len();
            let late = job.began.first().map(|began| began.duration_since(job.asked));
            if late.is_none_or(|late| late > self.scenario.patience()) {
                let at = job.asked.duration_since(self.start);
                self.violate(format!("{key} of {at:?} was begun after {late:?}"));
            }
            let again = job.began.get(1).map(|again| again.duration_since(job.began[0]));
            if job.delayed && again.is_none_or(|again| again > self.scenario.again()) {
                let at = job.asked.duration_since(self.start);
                self.violate(format!("{key} of {at:?} was begun again after {again:?}"));
            }
        }
        let (losing, scenario) = (self.losing, self.scenario);
        let bound = match scenario {
            // One for a release of the shared lock, which is one at a time.
            Scenario::Steady => 0,
            Scenario::Deaths | Scenario::Upgrade | Scenario::Drift => count / 5,
            Scenario::Pauses | Scenario::Joins => count / 2,
            Scenario::Phantom | Scenario::Delays => count,
            Scenario::Slow => count / 10,
        };
        if losing > bound {
            self.violate(format!("{losing} attempts for {count} jobs were lost, and {bound} may be"));
        }
        if scenario == Scenario::Steady && callbacks != count {
            self.violate(format!("{callbacks} callbacks for {count} jobs"));
        }
    }
}
