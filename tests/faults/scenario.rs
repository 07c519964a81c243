//! A scenario, and one run of it from start to verdict.

use crate::checker::{Violation, check, recovery};
use crate::history::{Expect, History};
use crate::moment::{Micros, now, seconds};
use crate::server::Server;
use crate::world::{Settings, World};
use futures_util::FutureExt;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::time::Duration;
use tokio::time::sleep;

pub type Acting<'w> = Pin<Box<dyn Future<Output = ()> + 'w>>;

/// What goes wrong: it begins when everything is well, and when it ends, what it left is healed.
pub type Fault = for<'w> fn(&'w mut World) -> Acting<'w>;

/// Which servers a scenario needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Servers {
    /// Both: the usual one with odd seeds, the current one with even seeds.
    Both,
    /// What the usual one can't do.
    Current,
}

pub struct Scenario {
    pub name: &'static str,
    /// A sentence for people.
    pub about: &'static str,
    pub servers: Servers,
    /// Why it fails on the engine as it is; in `docs/reliability.md` too.
    pub known_defect: Option<&'static str>,
    pub settings: fn() -> Settings,
    pub expect: fn() -> Expect,
    pub fault: Fault,
}

impl Scenario {
    /// With what most have: both servers, three members, three engines, a TTL of 5 s.
    pub fn new(name: &'static str, about: &'static str, fault: Fault) -> Self {
        Self {
            name,
            about,
            servers: Servers::Both,
            known_defect: None,
            settings: Settings::default,
            expect: Expect::default,
            fault,
        }
    }
}

/// What one run came to.
#[derive(Serialize, Deserialize)]
pub struct Verdict {
    pub scenario: String,
    pub server: String,
    pub seed: u64,
    pub violations: Vec<Violation>,
    pub recovery: Micros,
    pub took: Micros,
    /// What it used of the machine's processors, with its servers and engines; known if it had a process of its own.
    pub cpu: Micros,
    /// By how much the machine was late, at most, in waking this program up. Much of that makes a verdict doubtful.
    pub late: Micros,
    pub jobs: u64,
    pub runs: usize,
    pub cancelled: usize,
    pub epochs: usize,
    /// What happened when, since the start.
    pub notes: Vec<String>,
}

impl Scenario {
    /// The server of a seed, so that the seed alone says everything.
    pub fn server(&self, seed: u64) -> Server {
        match self.servers {
            Servers::Both if !seed.is_multiple_of(2) => Server::usual(),
            Servers::Both | Servers::Current => Server::current(),
        }
    }

    /// One run. What goes wrong with the scenario itself is a violation too: it has shown nothing.
    pub async fn run(&self, server: Server, seed: u64) -> Verdict {
        let began = now();
        let expect = (self.expect)();
        let mut history = History::default();
        let version = server.version.clone();
        let mut world =
            match AssertUnwindSafe(World::build(server, (self.settings)(), seed)).catch_unwind().await {
                Ok(world) => world,
                Err(panic) => {
                    history.broken.push(format!("the cluster could not be made: {}", text_of(&*panic)));
                    return self.verdict(version, seed, began, history, &expect, (0, Vec::new()));
                }
            };
        let played = AssertUnwindSafe(self.play(&mut world, &expect, &mut history)).catch_unwind().await;
        if let Err(panic) = played {
            history.broken.push(format!("the scenario broke: {}", text_of(&*panic)));
        }
        let jobs = world.load.asked();
        let notes = std::mem::take(&mut world.notes);
        let keep = std::env::var_os("FAULTS_KEEP").is_some();
        world.keep_files(keep);
        world.finish(&mut history);
        self.verdict(version, seed, began, history, &expect, (jobs, notes))
    }

    async fn play(&self, world: &mut World, expect: &Expect, history: &mut History) {
        if !world.start_engines().await {
            history.unrest = world.unrest();
            world.felt("engines were started", world.engines.len() as u64);
            return;
        }
        let seed = rand::RngExt::random(&mut world.rng);
        let running = (world.settings.rate > 0).then(|| world.load.run(world.settings.rate, seed));
        world.pause(0.5..2.0).await;
        world.note("the fault begins");
        (self.fault)(world).await;
        world.heal().await;
        history.healed = now();
        // What is asked afterwards is to be done too.
        sleep(Duration::from_secs(2)).await;
        world.load.stop();
        if !world.load.settled(Duration::from_secs(30)).await {
            history.broken.push("the load could not put its jobs".to_owned());
        }
        drop(running);
        world.observer.catch_up().await;
        match world.calm(expect).await {
            Ok(at) => {
                history.calm = Some(at);
                world.note("calm");
            }
            Err(unrest) => history.unrest = unrest,
        }
        // A crawl of every engine, with nothing else going on.
        sleep(Duration::from_secs(7)).await;
        history.left = world.stop_engines().await;
        world.observer.catch_up().await;
    }

    fn verdict(
        &self,
        server: String,
        seed: u64,
        began: Micros,
        history: History,
        expect: &Expect,
        (jobs, notes): (u64, Vec<(Micros, String)>),
    ) -> Verdict {
        let cancelled = history.runs.iter().filter(|run| run.told.is_some()).count();
        Verdict {
            scenario: self.name.to_owned(),
            server,
            seed,
            violations: check(&history, expect),
            recovery: recovery(&history),
            took: now() - began,
            cpu: 0,
            late: 0,
            jobs,
            runs: history.runs.len(),
            cancelled,
            epochs: history.epochs.len(),
            notes: timeline(&history, began, notes),
        }
    }
}

/// What happened, and what engines said of themselves, in order.
fn timeline(history: &History, began: Micros, mut notes: Vec<(Micros, String)>) -> Vec<String> {
    let mut last: BTreeMap<usize, (&str, BTreeSet<&str>)> = BTreeMap::new();
    let mut health: Vec<_> = history.health.iter().collect();
    health.sort_by_key(|told| told.at);
    for told in health {
        // The first word is the reason; the rest may change all the time.
        let reasons = told.problems.iter().filter_map(|problem| problem.split(' ').next()).collect();
        let now = (told.state.as_str(), reasons);
        if last.get(&told.engine) != Some(&now) {
            let problems = told.problems.join("; ");
            notes.push((told.at, format!("engine {} is {} {problems}", told.engine, told.state)));
            last.insert(told.engine, now);
        }
    }
    for hand in &history.by_hand {
        notes.push((hand.at, format!("the lock with token {} is removed", hand.token)));
    }
    for run in history.runs.iter().filter(|run| run.told.is_some()) {
        let at = run.told.unwrap_or_default();
        let long = seconds(at - run.start);
        notes.push((at, format!("engine {}: run {} is told to end after {long:.1} s", run.engine, run.name)));
    }
    notes.sort();
    notes.iter().map(|(at, text)| format!("{:7.2} s  {text}", seconds(at.saturating_sub(began)))).collect()
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic".to_owned())
}
