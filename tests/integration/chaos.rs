//! Everything at once: three engines behind bad connections, an etcd that stands still and compacts, engines
//! that are dropped and started again. Whatever happens, no change is lost, effects take effect exactly once,
//! no instance runs twice at a time, and nothing stays behind.
//!
//! `CHAOS_SEED` chooses what happens; the seed of a run is printed.

use crate::support::{Etcd, Proxy, assert_nothing_left, eventually};
use etcd_client::{Client, GetOptions};
use etcd_rules::{Backoff, BoxError, Engine, EngineError, Firing, Outcome, Rule, RunningEngine, key};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep};

const SECOND: Duration = Duration::from_secs(1);
const MILLI: Duration = Duration::from_millis(1);
const ENGINES: usize = 3;
const INSTANCES: usize = 60;
const LOCK_TTL: Duration = Duration::from_secs(6);
/// How long things go wrong.
const CHAOS: Duration = Duration::from_secs(15);
/// How long everything that is left may take once all is well again.
const RECOVERY: Duration = Duration::from_secs(60);

/// What the callbacks note outside of etcd, by the kind of rule.
struct Book {
    kind: &'static str,
    /// Numbers the runs: each has a record of its own in etcd.
    runs: AtomicU64,
    running: Vec<AtomicUsize>,
    together: AtomicUsize,
}

impl Book {
    fn new(kind: &'static str) -> Arc<Self> {
        let running = (0..INSTANCES).map(|_| AtomicUsize::new(0)).collect();
        Arc::new(Self { kind, runs: AtomicU64::new(0), running, together: AtomicUsize::new(0) })
    }

    fn key(&self, what: &str, id: &str) -> String {
        format!("/{what}/{}/{id}", self.kind)
    }

    /// `/todo/:id` is handled: counted in `/log/:id`, with a record of the run, all in one commit.
    fn rule(self: &Arc<Self>) -> Rule {
        let [todo, log] = ["todo", "log"].map(|what| self.key(what, ":id"));
        let book = self.clone();
        Rule::new(self.kind)
            .when(key(todo.as_str()).exists() & key(log.as_str()).exists())
            .backoff(Backoff::new(50 * MILLI, SECOND))
            .run(move |firing| book.clone().run(firing))
    }

    async fn run(self: Arc<Self>, firing: Firing) -> Result<Outcome, BoxError> {
        let run = self.runs.fetch_add(1, Ordering::SeqCst);
        let at: usize = firing.attribute("id")?.parse().unwrap();
        let _present = Present::enter(&self, at);
        // Different for every run, and the same for the same run.
        let mut rng = StdRng::seed_from_u64(run);
        sleep(MILLI * rng.random_range(1..60)).await;
        let [todo, log, handled] = ["todo", "log", "handled"].map(|what| self.key(what, ":id"));
        match rng.random_range(0..20) {
            0 => return Ok(Outcome::retry_after(50 * MILLI)),
            1 => return Err("not this time".into()),
            // Ignores that it is told to end, until it is dropped.
            2 => sleep(400 * MILLI).await,
            _ => {}
        }
        let text = |pattern: &str| firing.value(pattern).map(ToString::to_string);
        let count: u64 = text(&log)?.parse().unwrap();
        Ok(firing
            .commit()
            .expect_unchanged(&todo)
            .expect_unchanged(&log)
            .put(&log, (count + 1).to_string())
            .put(&self.key("runs", &format!(":id/{run}")), (count + 1).to_string())
            .put(&handled, text(&todo)?)
            .delete(&todo)
            .into())
    }
}

/// A callback that runs, until it has ended or was dropped.
struct Present<'a>(&'a AtomicUsize);

impl<'a> Present<'a> {
    fn enter(book: &'a Book, at: usize) -> Self {
        if book.running[at].fetch_add(1, Ordering::SeqCst) > 0 {
            book.together.fetch_add(1, Ordering::SeqCst);
        }
        Self(&book.running[at])
    }
}

impl Drop for Present<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn start(number: usize, proxy: &Proxy, books: &[Arc<Book>; 2]) -> RunningEngine {
    let [locked, optimistic] = books;
    let builder = Engine::builder("chaos", [proxy.endpoint()])
        .name(format!("chaos-{number}"))
        .lock_ttl(LOCK_TTL)
        .request_timeout(SECOND)
        .connect_timeout(SECOND / 2)
        .watch_silence(SECOND)
        .crawl_interval(2 * SECOND)
        .concurrency(16)
        // None of their own, one, or several that share the instances.
        .evaluators(number)
        .rules([locked.rule(), optimistic.rule().optimistic()]);
    builder.build().unwrap().start().await.unwrap()
}

/// Puts a key, however often that takes: etcd may have lost its leader while it stood still.
async fn put(client: &Client, key: String, value: String) {
    eventually(20 * SECOND, "a put", async || {
        client.kv_client().put(key.as_str(), value.as_str(), None).await.is_ok()
    })
    .await;
}

/// Key, value and number of puts of everything below a prefix.
async fn read(client: &Client, prefix: &str) -> BTreeMap<String, (u64, i64)> {
    let options = GetOptions::new().with_prefix();
    let found = client.kv_client().get(prefix, Some(options)).await.expect("a read");
    let entry = |kv: &etcd_client::KeyValue| {
        let key = kv.key_str().unwrap().trim_start_matches(prefix).to_owned();
        (key, (kv.value_str().unwrap().parse().unwrap(), kv.version()))
    };
    found.kvs().iter().map(entry).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_doubled_or_left_behind_whatever_goes_wrong() {
    let seed = std::env::var("CHAOS_SEED").map_or(7, |seed| seed.parse().expect("CHAOS_SEED is a number"));
    println!("CHAOS_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut etcd = Etcd::start().await;
    let client = etcd.client().await;
    let books = [Book::new("locked"), Book::new("optimistic")];
    for (book, id) in books.iter().flat_map(|book| (0..INSTANCES).map(move |id| (book, id))) {
        put(&client, book.key("log", &id.to_string()), "0".into()).await;
    }
    let proxies: Vec<Proxy> = (0..ENGINES).map(|_| Proxy::start(etcd.endpoint())).collect();
    let mut heal_at: [Option<Instant>; ENGINES] = [None; ENGINES];
    let mut engines = Vec::new();
    for (number, proxy) in proxies.iter().enumerate() {
        engines.push(start(number, proxy, &books).await);
    }

    let mut asked = [BTreeMap::new(), BTreeMap::new()];
    let mut number = 0;
    let mut compacted = 0;
    let end = Instant::now() + CHAOS;
    while Instant::now() < end {
        for (proxy, at) in proxies.iter().zip(&mut heal_at) {
            if at.take_if(|at| *at <= Instant::now()).is_some() {
                proxy.heal();
            }
        }
        let victim = rng.random_range(0..ENGINES);
        match rng.random_range(0..100) {
            0..4 => {
                proxies[victim].cut();
                heal_at[victim] = Some(Instant::now() + MILLI * rng.random_range(50..2000));
            }
            // Sometimes for longer than a lease lives.
            4..8 => {
                proxies[victim].freeze();
                heal_at[victim] = Some(Instant::now() + MILLI * rng.random_range(100..9000));
            }
            8..10 => {
                etcd.pause();
                sleep(MILLI * rng.random_range(50..1200)).await;
                etcd.resume();
            }
            10..14 => {
                let options = GetOptions::new().with_count_only();
                if let Ok(answer) = client.kv_client().get("/", Some(options)).await
                    && let Some(revision) = answer.header().map(|header| header.revision())
                    && revision > compacted
                    && client.kv_client().compact(revision, None).await.is_ok()
                {
                    compacted = revision;
                }
            }
            // Dropped without a shutdown, or shut down with too little time.
            14..18 => {
                let old = engines.remove(victim);
                if rng.random_bool(0.5) {
                    drop(old);
                } else if let Err(error) = old.shutdown(MILLI * rng.random_range(0..200)).await {
                    assert!(matches!(error, EngineError::Unfinished { .. }), "{error}");
                }
                engines.insert(victim, start(victim, &proxies[victim], &books).await);
            }
            _ => {
                for _ in 0..rng.random_range(1..8) {
                    let kind = rng.random_range(0..2);
                    let id = rng.random_range(0..INSTANCES);
                    number += 1;
                    put(&client, books[kind].key("todo", &id.to_string()), number.to_string()).await;
                    asked[kind].insert(id.to_string(), number);
                }
            }
        }
        sleep(MILLI * rng.random_range(0..60)).await;
    }

    proxies.iter().for_each(Proxy::heal);
    for (book, asked) in books.iter().zip(&asked) {
        let kind = book.kind;
        let todo = format!("/todo/{kind}/");
        eventually(RECOVERY, "everything asked for was handled", async || {
            read(&client, &todo).await.is_empty()
        })
        .await;
        let handled = read(&client, &format!("/handled/{kind}/")).await;
        let handled: BTreeMap<String, u64> = handled.into_iter().map(|(id, (seen, _))| (id, seen)).collect();
        assert_eq!(&handled, asked, "{kind}: what was handled last is what was asked for last");

        // Each run left one record or none, and counted as often.
        let mut counted: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for (run, (count, puts)) in read(&client, &format!("/runs/{kind}/")).await {
            assert_eq!(puts, 1, "{kind}: run {run} took effect more than once");
            counted.entry(run.split_once('/').unwrap().0.to_owned()).or_default().push(count);
        }
        for (id, (count, puts)) in read(&client, &format!("/log/{kind}/")).await {
            let mut counts = counted.remove(&id).unwrap_or_default();
            counts.sort_unstable();
            assert_eq!(counts, (1..=count).collect::<Vec<u64>>(), "{kind}: the runs of {id}");
            assert_eq!(puts as u64, count + 1, "{kind}: the puts of {id}'s count, the first one included");
        }
        assert!(counted.is_empty(), "{kind}: runs of unknown instances: {counted:?}");
    }
    // A lock that was lost is told in time, and callbacks that are told are dropped: never two at once.
    assert_eq!(books[0].together.load(Ordering::SeqCst), 0, "callbacks of one instance at the same time");
    println!(
        "{number} changes, {} and {} runs",
        books[0].runs.load(Ordering::SeqCst),
        books[1].runs.load(Ordering::SeqCst)
    );

    for engine in &engines {
        eventually(RECOVERY, "the engine is well, and nothing waits or runs", async || {
            let stats = engine.stats().await.unwrap();
            let busy = stats.queued + stats.running + stats.waiting + stats.held + stats.given_up;
            (busy == 0 && stats.keys > 0).then_some(stats)
        })
        .await;
    }
    // A crawl of every engine that began after the last fault.
    sleep(4 * SECOND).await;
    for engine in engines {
        assert_eq!(engine.stats().await.unwrap().drift, 0, "every difference is explained by an event");
        engine.shutdown(20 * SECOND).await.unwrap();
    }
    assert_nothing_left(&etcd, "/etcd-rules/", 3 * LOCK_TTL).await;
}
