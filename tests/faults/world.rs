//! A cluster, engines, and those who watch them: what a scenario acts on.

use crate::access::Access;
use crate::between::Between;
use crate::cluster::Cluster;
use crate::history::{ByHand, Change, Expect, History};
use crate::jobs::Job;
use crate::load::Load;
use crate::moment::{Micros, now};
use crate::observer::{Addresses, Observer};
use crate::prober::Prober;
use crate::process::EngineProcess;
use crate::proxy::{Proxy, Weather};
use crate::role::Setup;
use crate::server::Server;
use etcd_client::{Client, GetOptions};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Where engines keep their own keys.
pub const NAMESPACE: &str = "/etcd-rules/";

/// The identity of the engines' store, which stays.
const IDENTITY: &str = "/etcd-rules/faults/identity";

/// A proxy of etcd's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Through {
    GrpcProxy,
    Gateway,
}

/// What a scenario starts with.
#[derive(Clone)]
pub struct Settings {
    pub members: usize,
    pub engines: usize,
    pub lock_ttl: Duration,
    pub concurrency: usize,
    /// Links of engines are at home again within this time.
    pub rebalance: Duration,
    /// Jobs a second.
    pub rate: u32,
    pub flags: Vec<String>,
    pub tls: bool,
    pub users: bool,
    /// Tokens are signed, and live for so many seconds.
    pub jwt: Option<u32>,
    /// What is between engines and members.
    pub through: Option<Through>,
    /// Another rule of the engines needs all jobs, whatever their kind, and never fires.
    pub wide: bool,
    /// The engines break promises on purpose.
    pub broken: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            members: 3,
            engines: 3,
            lock_ttl: Duration::from_secs(5),
            concurrency: 64,
            rebalance: Duration::from_secs(600),
            rate: 20,
            flags: Vec::new(),
            tls: false,
            users: false,
            jwt: None,
            through: None,
            wide: false,
            broken: false,
        }
    }
}

pub struct World {
    pub cluster: Cluster,
    pub engines: Vec<EngineProcess>,
    /// The ways of each engine to each member.
    pub links: Vec<Vec<Proxy>>,
    pub observer: Observer,
    pub load: Load,
    pub rng: StdRng,
    pub settings: Settings,
    prober: Option<Prober>,
    between: Option<Between>,
    addresses: Addresses,
    pub felt: Vec<(String, u64)>,
    pub by_hand: Vec<ByHand>,
    pub foreign: Vec<Change>,
    /// What happened when, for people.
    pub notes: Vec<(Micros, String)>,
    reports: tempfile::TempDir,
}

impl World {
    /// A cluster that answers, and engines that are not started.
    pub async fn build(server: Server, settings: Settings, seed: u64) -> Self {
        let rng = StdRng::seed_from_u64(seed);
        #[cfg(not(feature = "tls"))]
        assert!(!settings.tls, "run this with the feature `tls`");
        let access = Access {
            #[cfg(feature = "tls")]
            tls: settings.tls.then(|| Arc::new(crate::certificates::Certificates::make())),
            users: false,
        };
        // Several worlds of one process may have the same seed.
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let made = MADE.fetch_add(1, Ordering::Relaxed);
        let token = format!("faults-{}-{made}-{seed}", std::process::id());
        let reports = tempfile::Builder::new().prefix("etcd-rules-reports-").tempdir().expect("a folder");
        let mut flags = settings.flags.clone();
        if let Some(seconds) = settings.jwt {
            let key = reports.path().join("tokens.key");
            std::fs::write(&key, format!("the secret of {token}")).expect("a file can be written");
            let key = key.display();
            flags.push(format!("--auth-token=jwt,priv-key={key},sign-method=HS256,ttl={seconds}s"));
        }
        let mut cluster = Cluster::start(server, settings.members, access, &flags, &token).await;
        if settings.users {
            cluster.enable_users().await;
        }
        let addresses: Addresses = Arc::new(Mutex::new(cluster.addresses()));
        let observer = Observer::start(addresses.clone(), cluster.access.clone()).await;
        let load = Load::new(addresses.clone(), cluster.access.clone());
        let mut world = Self {
            cluster,
            engines: Vec::new(),
            links: Vec::new(),
            observer,
            load,
            rng,
            settings,
            prober: None,
            between: None,
            addresses,
            felt: Vec::new(),
            by_hand: Vec::new(),
            foreign: Vec::new(),
            notes: Vec::new(),
            reports,
        };
        if let Some(through) = world.settings.through {
            world.between = Some(Between::start(through, &world.cluster).await);
        }
        world.tell_password(crate::access::PASSWORD);
        for engine in 0..world.settings.engines {
            world.add_engine(engine);
        }
        world
    }

    fn password_file(&self) -> std::path::PathBuf {
        self.reports.path().join("password")
    }

    /// What engines find as their password from now on.
    pub fn tell_password(&self, password: &str) {
        std::fs::write(self.password_file(), password).expect("a file can be written");
    }

    fn add_engine(&mut self, engine: usize) {
        let addresses = match &self.between {
            Some(between) => vec![between.address()],
            None => self.cluster.addresses(),
        };
        let links: Vec<Proxy> = addresses.into_iter().map(Proxy::start).collect();
        let endpoint = |link: &Proxy| self.cluster.access.endpoint(&link.endpoint());
        let setup = Setup {
            engine,
            process: 0,
            endpoints: links.iter().map(endpoint).collect(),
            report: self.reports.path().join(format!("engine-{engine}.jsonl")),
            lock_ttl: self.settings.lock_ttl,
            crawl_interval: Duration::from_secs(5),
            concurrency: self.settings.concurrency,
            rebalance: self.settings.rebalance,
            wide: self.settings.wide,
            broken: self.settings.broken,
            user: self.settings.users.then(|| ("engine".to_owned(), self.password_file())),
            #[cfg(feature = "tls")]
            tls: self.cluster.access.tls.as_ref().map(|certificates| certificates.client_files()),
            #[cfg(not(feature = "tls"))]
            tls: None,
        };
        self.engines.push(EngineProcess::new(setup));
        self.links.push(links);
    }

    /// Starts the engines, and those who ask their endpoints; waits until all are ready. False if that does not come.
    pub async fn start_engines(&mut self) -> bool {
        let endpoints = self.links.iter().map(|links| links.iter().map(Proxy::endpoint_for_probes).collect());
        let prober = Prober::start(
            endpoints.collect(),
            self.cluster.access.clone(),
            self.settings.lock_ttl,
            self.observer.cluster(),
        );
        self.prober = Some(prober);
        self.engines.iter_mut().for_each(EngineProcess::start);
        self.all_ready(Duration::from_secs(60)).await
    }

    pub async fn all_ready(&mut self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        loop {
            self.engines.iter_mut().for_each(|engine| engine.report.refresh());
            if self.engines.iter().all(|engine| !engine.is_running() || engine.report.state() == "ready") {
                return true;
            }
            if Instant::now() > deadline {
                return false;
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Notes what happens.
    pub fn note(&mut self, text: impl Into<String>) {
        self.notes.push((now(), text.into()));
    }

    /// A proof that a fault was felt, and how much.
    pub fn felt(&mut self, proof: impl Into<String>, much: u64) {
        self.felt.push((proof.into(), much));
    }

    /// A time from a range, in seconds, by the seed.
    pub async fn pause(&mut self, seconds: std::ops::Range<f64>) {
        let time = self.rng.random_range(seconds);
        sleep(Duration::from_secs_f64(time)).await;
    }

    pub fn any_engine(&mut self) -> usize {
        self.rng.random_range(0..self.engines.len())
    }

    /// The engine in which most callbacks with a lock run, and how many.
    pub fn busiest(&mut self) -> (usize, usize) {
        self.engines.iter_mut().for_each(|engine| engine.report.refresh());
        let running = |engine: &EngineProcess| {
            engine.report.runs.iter().filter(|run| run.end.is_none() && run.token > 0).count()
        };
        let by_engine = self.engines.iter().map(running).enumerate();
        by_engine.max_by_key(|(_, running)| *running).unwrap_or_default()
    }

    /// Asks for long work, and waits until so many callbacks run.
    pub async fn begin_long_work(&mut self, kind: &'static str, jobs: usize, work: Duration) {
        let job = Job { work_ms: work.as_millis() as u64, ..Job::default() };
        let ids = self.load.ask(kind, job, jobs).await;
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            self.engines.iter_mut().for_each(|engine| engine.report.refresh());
            let runs = self.engines.iter().flat_map(|engine| &engine.report.runs);
            let running = runs.filter(|run| run.end.is_none() && ids.contains(&run.id)).count();
            if running >= jobs {
                return;
            }
            assert!(Instant::now() < deadline, "{running} of {jobs} callbacks run");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// The member over whose link an engine sends and receives most at present.
    pub async fn member_of(&self, engine: usize) -> usize {
        let bytes = || self.links[engine].iter().map(|link| link.felt().forwarded).collect::<Vec<_>>();
        let before = bytes();
        sleep(Duration::from_millis(1500)).await;
        let after = bytes();
        (0..before.len()).max_by_key(|member| after[*member] - before[*member]).unwrap_or_default()
    }

    /// How many connections of engines lead to each member now.
    pub fn shares(&self) -> Vec<u64> {
        let open = |link: &Proxy| link.felt().connections - link.felt().ended;
        (0..self.cluster.members.len())
            .map(|member| self.links.iter().map(|links| open(&links[member])).sum())
            .collect()
    }

    /// The same weather on all ways of all engines to a member.
    pub fn weather(&self, member: usize, weather: &Weather) {
        self.links.iter().for_each(|links| links[member].set(weather.clone()));
    }

    /// For so long engines reach only one place: they go there.
    pub async fn drive_to(&mut self, place: usize, time: Duration) {
        self.note(format!("engines reach only place {place}"));
        let others =
            || self.links.iter().flat_map(|links| links.iter().enumerate().filter(|(at, _)| *at != place));
        for (_, link) in others() {
            link.set(Weather { refuse: true, ..Weather::default() });
            link.reset();
        }
        sleep(time).await;
        others().for_each(|(_, link)| link.heal());
        self.note("engines reach all places");
    }

    /// How much all links have felt.
    pub fn sum_of_links(&self, figure: impl Fn(crate::proxy::Felt) -> u64) -> u64 {
        self.links.iter().flatten().map(|link| figure(link.felt())).sum()
    }

    /// The members have other addresses than before: everybody who reaches them directly, and the links, go there.
    pub fn follow_members(&mut self) {
        let addresses = self.cluster.addresses();
        for links in &self.links {
            for (link, address) in links.iter().zip(&addresses) {
                link.retarget(*address);
            }
        }
        *self.addresses.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = addresses;
    }

    /// The cluster is given another store: `change` does it, and the observer begins another epoch.
    pub async fn other_store(&mut self, change: impl AsyncFnOnce(&mut Cluster)) {
        self.observer.suspend();
        change(&mut self.cluster).await;
        self.follow_members();
        self.observer.resume().await;
        if let Some(prober) = &self.prober {
            prober.expect_cluster(self.observer.cluster());
        }
    }

    /// What is between engines and members ends, and begins again.
    pub async fn restart_proxy(&mut self) {
        if let Some(between) = &mut self.between {
            between.restart(&self.cluster).await;
        }
    }

    pub async fn client(&self) -> Client {
        self.cluster.any_client().await
    }

    /// The locks that are held: their keys, tokens and leases.
    pub async fn locks(&self) -> Vec<(Vec<u8>, i64, i64)> {
        let mut client = self.client().await;
        let options = GetOptions::new().with_prefix();
        let found = client.get(NAMESPACE, Some(options)).await.expect("the locks can be read");
        found.kvs().iter().map(|kv| (kv.key().to_vec(), kv.create_revision(), kv.lease())).collect()
    }

    /// The fencing tokens of callbacks that run, with their engines.
    pub fn running(&mut self) -> BTreeMap<i64, usize> {
        self.engines.iter_mut().for_each(|engine| engine.report.refresh());
        let engines = self.engines.iter();
        let runs = engines.flat_map(|engine| engine.report.runs.iter().filter(|run| run.end.is_none()));
        runs.filter(|run| run.token > 0).map(|run| (run.token, run.engine)).collect()
    }

    /// Everything that can be undone is: links, members, engines.
    pub async fn heal(&mut self) {
        self.links.iter().flatten().for_each(Proxy::heal);
        self.cluster.heal().await;
        for engine in &mut self.engines {
            engine.thaw();
            engine.start();
        }
        self.note("healed");
    }

    /// Waits until nothing is undone, and all engines are ready.
    pub async fn calm(&mut self, expect: &Expect) -> Result<Micros, Vec<String>> {
        let deadline = Instant::now() + expect.recovery;
        loop {
            let is_ready = self.all_ready(Duration::from_millis(100)).await;
            let open = self.observer.open();
            let has_ended = self.engines.iter_mut().any(|engine| engine.ended().is_some());
            if is_ready && open.is_empty() && !has_ended {
                return Ok(now());
            }
            if Instant::now() > deadline {
                return Err(self.unrest());
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// What keeps it from being calm.
    pub fn unrest(&mut self) -> Vec<String> {
        let mut unrest: Vec<String> = self.engines.iter_mut().filter_map(EngineProcess::ended).collect();
        let open = self.observer.open();
        if let Some(first) = open.first() {
            unrest.push(format!("{} undone, such as {}", open.len(), String::from_utf8_lossy(first)));
        }
        for engine in self.engines.iter().filter(|engine| engine.report.state() != "ready") {
            let (number, state) = (engine.setup.engine, engine.report.state());
            let problems = engine.report.health.last().map(|told| told.problems.join(", "));
            unrest.push(format!("engine {number} is {state}: {}", problems.unwrap_or_default()));
        }
        unrest
    }

    /// Shuts all engines down, and looks at what they left.
    pub async fn stop_engines(&mut self) -> Vec<String> {
        let mut left = Vec::new();
        for engine in &mut self.engines {
            left.extend(engine.stop().await);
        }
        // What a killed process left goes with its TTL, and a mark with its delay.
        let limit = self.settings.lock_ttl * 3 + Duration::from_secs(30);
        let deadline = Instant::now() + limit;
        loop {
            let what = self.what_is_left().await;
            if what.is_empty() {
                return left;
            }
            if Instant::now() > deadline {
                left.push(format!("{limit:?} after the shutdown there are {}", what.join(", ")));
                return left;
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Leases, and keys of engines but for the identity of their store.
    async fn what_is_left(&self) -> Vec<String> {
        let mut client = self.client().await;
        let options = GetOptions::new().with_prefix().with_keys_only();
        let found = client.get(NAMESPACE, Some(options)).await.expect("the namespace can be read");
        let keys = found.kvs().iter().map(|kv| String::from_utf8_lossy(kv.key()).into_owned());
        let keys: Vec<String> = keys.filter(|key| key != IDENTITY).collect();
        let mut left = Vec::new();
        if let Some(first) = keys.first() {
            left.push(format!("{} keys of engines, such as {first}", keys.len()));
        }
        let leases = client.leases().await.expect("the leases can be listed");
        if !leases.leases().is_empty() {
            left.push(format!("{} leases", leases.leases().len()));
        }
        left
    }

    /// Everything that was seen, for the checker.
    pub fn finish(mut self, history: &mut History) {
        history.lock_ttl = self.settings.lock_ttl;
        history.probes = self.prober.take().map(Prober::finish).unwrap_or_default();
        for engine in &mut self.engines {
            engine.kill();
            engine.report.refresh();
            history.runs.append(&mut engine.report.runs);
            history.health.append(&mut engine.report.health);
            history.processes.append(&mut engine.processes);
        }
        history.felt = std::mem::take(&mut self.felt);
        history.by_hand = std::mem::take(&mut self.by_hand);
        history.foreign = std::mem::take(&mut self.foreign);
        history.epochs = self.observer.finish();
    }
}

impl World {
    /// Leaves the reports and logs of the engines on the disk, and says where.
    pub fn keep_files(&mut self, keep: bool) {
        if keep {
            self.reports.disable_cleanup(true);
            println!("the reports are in {}", self.reports.path().display());
        }
    }
}
