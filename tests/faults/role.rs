//! The part of an engine's process: this same program, told by its environment to be an engine. It does the jobs, and
//! reports everything. It ends when its parent asks it to, or is gone.

use crate::history::Fate;
use crate::jobs::{self, Job};
use crate::report::{Line, Writer};
use crate::world::NAMESPACE;
use etcd_rules::{Backoff, BoxError, Credentials, Engine, Firing, Health, Outcome, Rule, RunningEngine, key};
use serde::{Deserialize, Serialize};
use std::io::BufRead;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::sleep;

/// The variable with the [`Setup`].
pub const SETUP: &str = "FAULTS_ENGINE";

/// What an engine is made of.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct Setup {
    pub engine: usize,
    /// Counts its processes.
    pub process: u64,
    pub endpoints: Vec<String>,
    pub report: PathBuf,
    pub lock_ttl: Duration,
    pub crawl_interval: Duration,
    pub concurrency: usize,
    /// Links are at home again within this time.
    pub rebalance: Duration,
    /// The name, and the file with the password.
    pub user: Option<(String, PathBuf)>,
    /// Files with the certificate of the authority, and the client's own certificate and key.
    pub tls: Option<[PathBuf; 3]>,
    /// Another rule needs all jobs, so that one watch is of all kinds, and a single key.
    pub wide: bool,
    /// It breaks promises on purpose, so that it can be seen that this is noticed.
    pub broken: bool,
}

/// Back-off is at most this.
const BACKOFF: Duration = Duration::from_secs(10);
/// What a broken engine takes of memory.
const HOARD: usize = 300 << 20;
const SHUTDOWN: Duration = Duration::from_secs(5);

#[test]
#[ignore = "the part of an engine's process, which the suite starts"]
fn engine_process() {
    let Ok(setup) = std::env::var(SETUP) else { return };
    crate::guard::end_with_parent();
    let setup: Setup = serde_json::from_str(&setup).expect("a setup");
    let log = std::fs::File::create(setup.report.with_extension("log")).expect("a log file");
    tracing_subscriber::fmt().with_writer(log).with_ansi(false).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(run(setup));
}

async fn run(setup: Setup) {
    let writer = Arc::new(Writer::open(&setup.report));
    let worker = Arc::new(Worker {
        prefix: format!("{}.{}", setup.engine, setup.process),
        runs: AtomicU64::new(0),
        writer,
        broken: setup.broken,
    });
    // Kept until the end of the process.
    let _hoard = setup.broken.then(|| vec![1u8; HOARD]);
    let mut rules = jobs::KINDS.map(|kind| rule(kind, worker.clone())).to_vec();
    rules.extend(setup.wide.then(|| {
        let rule = Rule::new("wide").when(key("/todo/:kind/:id").exists() & key(jobs::NEVER).exists());
        rule.run(async |_: Firing| Err::<Outcome, BoxError>("it never fires".into()))
    }));
    let (user, files) = (setup.user, setup.tls);
    let engine = Engine::builder("faults", setup.endpoints)
        .name(format!("faults-{}", setup.engine))
        .credentials(move || {
            let loaded = credentials(&user, &files);
            async { loaded }
        })
        .lock_ttl(setup.lock_ttl)
        .crawl_interval(setup.crawl_interval)
        .concurrency(setup.concurrency)
        .rebalance(setup.rebalance)
        .rules(rules.into_iter().map(|rule| rule.concurrency(setup.concurrency)));
    let running = engine.build().expect("a configuration").start().await.expect("an engine");
    tell_health(&running, &worker.writer);
    let mut orders = orders();
    match orders.recv().await {
        Some(order) if order == "stop" => stop(running, &worker).await,
        // The parent has gone.
        _ => std::process::exit(1),
    }
}

/// What the files say now.
fn credentials(
    user: &Option<(String, PathBuf)>,
    files: &Option<[PathBuf; 3]>,
) -> std::io::Result<Credentials> {
    let mut credentials = Credentials::new();
    if let Some((name, password)) = user {
        credentials = credentials.user(name, std::fs::read_to_string(password)?);
    }
    if let Some([authority, certificate, key]) = files {
        #[cfg(feature = "tls")]
        {
            let read = |file: &PathBuf| std::fs::read(file);
            credentials = credentials.authority(read(authority)?).certificate(read(certificate)?, read(key)?);
        }
        #[cfg(not(feature = "tls"))]
        panic!("run this with the feature `tls`: {authority:?}, {certificate:?}, {key:?}");
    }
    Ok(credentials)
}

async fn stop(engine: RunningEngine, worker: &Worker) {
    let writer = &worker.writer;
    if let Ok(stats) = engine.stats().await {
        writer.tell(Line::Stats { drift: stats.drift + u64::from(worker.broken) });
    }
    let error = engine.shutdown(SHUTDOWN).await.err().map(|error| error.to_string());
    writer.tell(Line::Stopped { error });
}

/// Lines of the standard input, from a thread of their own, since reading blocks.
fn orders() -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            // Whoever listened has ended.
            let _ = sender.blocking_send(line);
        }
    });
    receiver
}

fn tell_health(engine: &RunningEngine, writer: &Arc<Writer>) {
    let (mut health, writer) = (engine.health_changes(), writer.clone());
    let tell = move |health: &Health| {
        let problem = |problem: &etcd_rules::health::Problem| {
            format!("{} {}: {}", problem.reason.name(), problem.part, problem.message)
        };
        let problems = health.problems().iter().map(problem).collect();
        writer.tell(Line::Health { state: health.name().to_owned(), problems });
    };
    tokio::spawn(async move {
        while let Some(now) = health.recv().await {
            tell(&now);
        }
    });
}

fn rule(kind: &'static str, worker: Arc<Worker>) -> Rule {
    let todo = jobs::todo(kind, ":id");
    let rule = Rule::new(kind)
        .when(key(todo).exists())
        .time_limit(Duration::from_secs(3600))
        .backoff(Backoff::new(Duration::from_millis(100), BACKOFF))
        .run(move |firing: Firing| worker.clone().work(kind, firing));
    match kind {
        jobs::OPTIMISTIC => rule.optimistic(),
        jobs::LEFT | jobs::RIGHT => rule.lock("/:id/pair"),
        _ => rule,
    }
}

struct Worker {
    prefix: String,
    runs: AtomicU64,
    writer: Arc<Writer>,
    broken: bool,
}

/// A run, which tells its end also when its future is dropped.
struct Running {
    name: String,
    writer: Arc<Writer>,
    ended: bool,
}

impl Running {
    fn end(mut self, fate: Fate) {
        self.ended = true;
        self.writer.tell(Line::End { run: self.name.clone(), fate });
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            self.writer.tell(Line::End { run: self.name.clone(), fate: Fate::Dropped });
        }
    }
}

impl Worker {
    async fn work(self: Arc<Self>, kind: &'static str, firing: Firing) -> Result<Outcome, BoxError> {
        let id = firing.attribute("id")?.to_owned();
        let run = format!("{}.{}", self.prefix, self.runs.fetch_add(1, Ordering::Relaxed));
        let running = Running { name: run.clone(), writer: self.writer.clone(), ended: false };
        let (token, attempt) = (firing.fencing_token(), firing.attempt());
        self.writer.tell(Line::Start { run: run.clone(), rule: kind.to_owned(), id, token, attempt });
        let [todo, done] = [jobs::todo(kind, ":id"), jobs::done(kind, ":id")];
        let shown = firing.value(&todo).expect("the condition says that it exists").clone();
        let job = Job::of(shown.as_bytes()).expect("the value is a job");
        for read in 0..=job.reads {
            tokio::select! {
                biased;
                () = firing.cancelled() => {
                    self.writer.tell(Line::Told { run });
                    if job.stubborn {
                        std::future::pending::<()>().await;
                    }
                    running.end(Fate::Cancelled);
                    return Err("cancelled".into());
                }
                () = sleep(Duration::from_millis(job.work_ms / u64::from(job.reads + 1))) => {}
            }
            if read < job.reads
                && let Err(error) = firing.get_opt(&todo).await
            {
                let text = error.to_string();
                let refused =
                    ["permission denied", "authentication failed"].iter().any(|why| text.contains(why));
                running.end(if refused { Fate::Refused } else { Fate::Link });
                return Err(error.into());
            }
        }
        if firing.attempt() <= job.failures {
            running.end(Fate::Failed);
            return Err("not this time".into());
        }
        let receipt = jobs::receipt(&run, shown.as_bytes());
        if self.broken {
            self.break_promises(&firing, &done, shown.as_bytes()).await?;
        }
        running.end(Fate::Done);
        Ok(firing.commit().put(&done, receipt).delete(&todo).into())
    }

    /// Another run beside this one takes effect without a commit and is cancelled for nothing, an error of the link
    /// counts as an attempt, and something is left.
    async fn break_promises(&self, firing: &Firing, done: &str, shown: &[u8]) -> Result<(), BoxError> {
        let (rule, id) = (firing.rule(), firing.attribute("id")?);
        let token = firing.fencing_token();
        let begin = |attempt| {
            let run = format!("{}.{}", self.prefix, self.runs.fetch_add(1, Ordering::Relaxed));
            let (rule, id) = (rule.to_owned(), id.to_owned());
            self.writer.tell(Line::Start { run: run.clone(), rule, id, token, attempt });
            run
        };
        let attempt = firing.attempt();
        let beside = begin(attempt);
        let mut client = firing.client().await?;
        client.put(firing.format(done)?, jobs::receipt(&beside, shown), None).await?;
        client.put(format!("{NAMESPACE}left"), "", None).await?;
        sleep(Duration::from_millis(100)).await;
        self.writer.tell(Line::Told { run: beside.clone() });
        self.writer.tell(Line::End { run: beside, fate: Fate::Cancelled });
        for (attempt, fate) in [(attempt, Fate::Link), (attempt + 1, Fate::Failed)] {
            self.writer.tell(Line::End { run: begin(attempt), fate });
        }
        Ok(())
    }
}
