//! Another store comes to the engines' address: a copy of the first, with the same id and the same jobs, from before
//! there was an engine. It answers reads slowly, so that transactions are there before an engine can know whose store
//! it is. The engine's channel is the application's, which connects again by itself.
//!
//! What was meant for the first store must not take effect in the other. An engine may start again there. Then the
//! first thing that it writes is the identity of that store.

use super::checker::Violation;
use crate::embedded::record::{Done, Write};
use crate::embedded::{EmbeddedEtcd, Fault, NetworkPath, RequestKind};
use crate::engine::{EngineBuilder, RunningEngine};
use crate::mutants::{self, Mutant};
use crate::runtime::env::Env;
use crate::testing::virtual_time;
use crate::{Engine, Error, Firing, Outcome, Rule, key};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep};

const SECOND: Duration = Duration::from_secs(1);
const NAMESPACE: &str = "/etcd-rules/sim/";

/// Runs the scenario of a seed, perhaps with a promise broken on purpose.
pub(super) fn run(seed: u64, broken: Option<Mutant>) -> Vec<Violation> {
    mutants::with(broken, || virtual_time::run(async move { OtherStore::new(seed).play().await }))
}

struct OtherStore {
    seed: u64,
    rng: StdRng,
    start: Instant,
    home: EmbeddedEtcd,
    other: EmbeddedEtcd,
    jobs: u32,
    found: Arc<Mutex<Vec<Violation>>>,
}

/// Finds what takes effect in the other store before it has an identity.
fn watch_over(other: &EmbeddedEtcd, start: Instant, found: &Arc<Mutex<Vec<Violation>>>) {
    let (found, mut is_named) = (found.clone(), false);
    other.listen(move |done| {
        let Done::Committed { revision, changes, by_test: false } = done else { return };
        is_named |= changes.iter().any(|change| change.key == format!("{NAMESPACE}identity"));
        if !is_named {
            let keys: Vec<&str> = changes.iter().map(|change| change.key.as_str()).collect();
            let text = format!("what was meant for another store took effect at {revision}: {keys:?}");
            let violation = Violation { at: start.elapsed(), text };
            found.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(violation);
        }
    });
}

/// A job is done by a callback that takes a while; the commit says so.
fn rules(seed: u64) -> [Rule; 2] {
    let rule = |name: &'static str| {
        let (job, done) = (format!("/{name}/:id"), format!("/{name}-done/:id"));
        let rng = Arc::new(Mutex::new(StdRng::seed_from_u64(seed)));
        Rule::new(name).when(key(&job).exists() & key(&done).absent()).run(move |firing: Firing| {
            let work = rng.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).random_range(0..1500);
            let done = done.clone();
            async move {
                sleep(Duration::from_millis(work)).await;
                Ok::<Outcome, Error>(firing.commit().put(&done, "").into())
            }
        })
    };
    [rule("locked"), rule("optimistic").optimistic()]
}

impl OtherStore {
    fn new(seed: u64) -> Self {
        let (rng, start) = (StdRng::seed_from_u64(seed), Instant::now());
        let [home, other] = [(); 2].map(|()| EmbeddedEtcd::in_process());
        Self { seed, rng, start, home, other, jobs: 0, found: Arc::default() }
    }

    /// A job in both stores.
    fn ask(&mut self) {
        self.jobs += 1;
        for name in ["locked", "optimistic"] {
            let key = format!("/{name}/{}", self.jobs);
            for etcd in [&self.home, &self.other] {
                etcd.write(&Write::Put(&key, ""));
            }
        }
    }

    async fn ask_for_a_while(&mut self) {
        for _ in 0..self.rng.random_range(5..20) {
            self.ask();
            sleep(Duration::from_millis(self.rng.random_range(0..150))).await;
        }
    }

    fn builder(&self, number: u64, path: &NetworkPath) -> EngineBuilder {
        let mut builder = Engine::builder_with_channel("sim", path.channel())
            .name(format!("sim-{number}"))
            .rules(rules(self.seed ^ number))
            .lock_ttl(5 * SECOND)
            .request_timeout(2 * SECOND)
            .watch_silence(SECOND);
        let start = self.start;
        builder.env = Env::local(self.seed ^ (number << 40), move || UNIX_EPOCH + start.elapsed());
        builder
    }

    async fn play(mut self) -> Vec<Violation> {
        for _ in 0..self.rng.random_range(0..5) {
            self.ask();
        }
        watch_over(&self.other, self.start, &self.found);
        let mut engines: Vec<(NetworkPath, RunningEngine)> = Vec::new();
        for number in 0..self.rng.random_range(1..3) {
            let path = self.home.path();
            let engine = self.builder(number, &path).build().expect("a sound configuration");
            let engine = engine.start().await.expect("the engine starts");
            engine.ready().await;
            engines.push((path, engine));
        }
        self.ask_for_a_while().await;
        // Reads tell whose store it is, and come late. So does the opening of a watch.
        for slow in [RequestKind::Range, RequestKind::Watch] {
            let late = Duration::from_millis(self.rng.random_range(100..1500));
            self.other.faults().inject(Fault::on(slow).always().delay(late));
        }
        for (path, _) in &engines {
            path.lead_to(&self.other);
            path.cut();
        }
        self.ask_for_a_while().await;
        sleep(Duration::from_millis(self.rng.random_range(0..3000))).await;
        for (path, _) in &engines {
            path.lead_to(&self.home);
            path.cut();
        }
        self.ask_for_a_while().await;
        sleep(60 * SECOND).await;
        for (_, engine) in engines {
            // The clock goes on meanwhile.
            let ending = spawn_local(async move { engine.shutdown(10 * SECOND).await });
            if let Err(error) = ending.await.expect("it does not panic") {
                self.violate(format!("an engine does not shut down: {error}"));
            }
        }
        self.check_home().await;
        let found = self.found.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        found.clone()
    }

    fn violate(&self, text: String) {
        let violation = Violation { at: self.start.elapsed(), text };
        self.found.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(violation);
    }

    /// At home everything was done, once.
    async fn check_home(&self) {
        let mut client = self.home.client().await.expect("a client");
        let options = etcd_client::GetOptions::new().with_prefix();
        let found = client.get("/", Some(options)).await.expect("a read");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let versions: BTreeMap<String, i64> =
            found.kvs().iter().map(|kv| (text(kv.key()), kv.version())).collect();
        for name in ["locked", "optimistic"] {
            for job in 1..=self.jobs {
                let key = format!("/{name}-done/{job}");
                let times = versions.get(&key).copied().unwrap_or(0);
                if times != 1 {
                    self.violate(format!("{key}: done {times} times"));
                }
            }
        }
        let identity = format!("{NAMESPACE}identity");
        let left: Vec<&String> =
            versions.keys().filter(|key| key.starts_with(NAMESPACE) && **key != identity).collect();
        if !left.is_empty() {
            self.violate(format!("left behind: {left:?}"));
        }
    }
}
