//! Several engines, in processes of their own, on one etcd: nothing fires twice at once, and the work
//! of a killed one is taken over in time.

use crate::support::{Etcd, eventually};
use etcd_client::{Txn, TxnOp};
use etcd_rules::{Engine, Error, Firing, Outcome, Rule, key};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const SECOND: Duration = Duration::from_secs(1);
const LOCK_TTL: Duration = Duration::from_secs(3);
/// Beyond the TTL: a second is promised, and what a busy machine adds is a matter of that machine. Without being woken
/// by the end of the lock, the others would look again at a crawl, after minutes.
const LATENESS: Duration = Duration::from_secs(15);
const INSTANCES: usize = 500;

/// The part of a worker process, played by this same program when it is told to by the environment.
/// Run without that it has nothing to do.
#[tokio::test(flavor = "multi_thread")]
async fn worker() {
    let Ok(endpoint) = std::env::var("WORKER_ENDPOINT") else { return };
    let record = std::env::var("WORKER_RECORD").unwrap();
    let ttl = Duration::from_secs(std::env::var("WORKER_TTL").unwrap().parse().unwrap());
    let rule = Rule::new("job").when(key("/jobs/:id").equals("todo")).run(move |firing: Firing| {
        let record = record.clone();
        async move {
            let id = firing.attribute("id")?.to_owned();
            note(&record, "start", &id);
            // The test lets them end when each worker is in the middle of its work.
            let go = Path::new(&record).with_file_name("go");
            while !go.exists() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            note(&record, "end", &id);
            Ok::<Outcome, Error>(firing.commit().put("/jobs/:id", "done").into())
        }
    });
    let engine = Engine::builder("jobs", [endpoint]).lock_ttl(ttl).concurrency(64).rule(rule.concurrency(32));
    let running = engine.build().unwrap().start().await.unwrap();
    running.ready().await;
    std::future::pending::<()>().await;
}

fn note(record: &str, what: &str, id: &str) {
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(record).unwrap();
    // One write, so that lines of several threads do not mix.
    file.write_all(format!("{what} {id} {}\n", now()).as_bytes()).unwrap();
}

#[expect(clippy::disallowed_methods, reason = "compares moments of several processes")]
fn now() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros()
}

struct Worker(Child);

impl Worker {
    fn start(etcd: &Etcd, record: &Path, ttl: Duration) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["engines::worker", "--exact", "--nocapture"])
            .env("WORKER_ENDPOINT", etcd.endpoint())
            .env("WORKER_RECORD", record)
            .env("WORKER_TTL", ttl.as_secs().to_string())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may have been killed already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[derive(Debug)]
struct Run {
    worker: usize,
    start: u128,
    end: Option<u128>,
}

/// What the callbacks of all workers noted, by instance.
fn runs(directory: &Path) -> BTreeMap<String, Vec<Run>> {
    let mut runs: BTreeMap<String, Vec<Run>> = BTreeMap::new();
    for worker in 0..3 {
        let text = std::fs::read_to_string(directory.join(worker.to_string())).unwrap_or_default();
        for line in text.lines() {
            let [what, id, at] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
            let at = at.parse().unwrap();
            let of_id = runs.entry(id.to_owned()).or_default();
            match what {
                "start" => of_id.push(Run { worker, start: at, end: None }),
                _ => of_id.iter_mut().rfind(|run| run.worker == worker).unwrap().end = Some(at),
            }
        }
    }
    runs
}

/// Waits until each worker has begun some callbacks, of which none can have ended.
async fn all_are_busy(directory: &Path) {
    eventually(60 * SECOND, "all are in the middle of their callbacks", async || {
        let runs = runs(directory);
        let begun = |worker| runs.values().flatten().filter(|run| run.worker == worker).count();
        (0..3).all(|worker| begun(worker) >= 10)
    })
    .await;
}

/// All at once, as far as a transaction goes.
async fn add_jobs(etcd: &Etcd) {
    let mut client = etcd.client().await;
    for chunk in 0..INSTANCES / 100 {
        let job = |n| TxnOp::put(format!("/jobs/{}", chunk * 100 + n), "todo", None);
        client.txn(Txn::new().and_then((0..100).map(job).collect::<Vec<_>>())).await.unwrap();
    }
}

async fn all_done(etcd: &Etcd) -> bool {
    let mut client = etcd.client().await;
    let options = etcd_client::GetOptions::new().with_prefix();
    let jobs = client.get("/jobs/", Some(options)).await.unwrap();
    jobs.kvs().len() == INSTANCES && jobs.kvs().iter().all(|kv| kv.value() == b"done")
}

fn assert_never_twice_at_once(runs: &BTreeMap<String, Vec<Run>>, killed: Option<(usize, u128)>) {
    for (id, runs) in runs {
        for (n, a) in runs.iter().enumerate() {
            for b in &runs[n + 1..] {
                let end = |run: &Run| match (run.end, killed) {
                    (Some(end), _) => end,
                    (None, Some((worker, at))) if worker == run.worker => at,
                    (None, _) => panic!("{id} never ended: {runs:?}"),
                };
                assert!(
                    end(a) <= b.start || end(b) <= a.start,
                    "{id} was in two callbacks at once: {runs:?}"
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_engines_share_five_hundred_instances() {
    let etcd = Etcd::start().await;
    let directory = tempfile::tempdir().unwrap();
    let _workers: Vec<Worker> =
        (0..3).map(|n| Worker::start(&etcd, &directory.path().join(n.to_string()), 60 * SECOND)).collect();
    add_jobs(&etcd).await;
    all_are_busy(directory.path()).await;
    std::fs::write(directory.path().join("go"), "").unwrap();
    eventually(60 * SECOND, "all are done", async || all_done(&etcd).await).await;
    let runs = runs(directory.path());
    assert_eq!(runs.len(), INSTANCES, "every instance fired");
    assert_never_twice_at_once(&runs, None);
    let firings: usize = runs.values().map(Vec::len).sum();
    assert_eq!(firings, INSTANCES, "none fired more often than it had to");
    let workers: BTreeSet<usize> = runs.values().flatten().map(|run| run.worker).collect();
    assert_eq!(workers.len(), 3, "all of them worked");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_others_take_over_from_a_killed_engine_in_time() {
    let etcd = Etcd::start().await;
    let directory = tempfile::tempdir().unwrap();
    let mut workers: Vec<Worker> =
        (0..3).map(|n| Worker::start(&etcd, &directory.path().join(n.to_string()), LOCK_TTL)).collect();
    add_jobs(&etcd).await;
    all_are_busy(directory.path()).await;
    let victim = 1;
    workers[victim].0.kill().unwrap();
    workers[victim].0.wait().unwrap();
    let killed = now();
    std::fs::write(directory.path().join("go"), "").unwrap();
    eventually(60 * SECOND, "all are done", async || all_done(&etcd).await).await;
    let runs = runs(directory.path());
    assert_never_twice_at_once(&runs, Some((victim, killed)));
    let (mut taken_over, mut longest) = (0, Duration::ZERO);
    for (id, runs) in &runs {
        if !runs.iter().any(|run| run.worker == victim && run.end.is_none()) {
            continue;
        }
        let next = runs.iter().filter(|run| run.worker != victim).map(|run| run.start).min();
        let next = next.unwrap_or_else(|| panic!("nobody took {id} over: {runs:?}"));
        let waited = Duration::from_micros(next.saturating_sub(killed) as u64);
        longest = longest.max(waited);
        taken_over += 1;
    }
    assert!(taken_over >= 10, "{taken_over}");
    println!("{taken_over} were taken over, the last one {longest:?} after the kill");
    assert!(longest <= LOCK_TTL + LATENESS, "taken over only after {longest:?}");
}
