//! A world of an etcd and engines under virtual time, for tests of what happens in the course of hours.

use super::virtual_time;
use crate::embedded::{EmbeddedEtcd, NetworkPath};
use crate::engine::{Engine, EngineBuilder, RunningEngine};
use crate::error::{EngineError, Error};
use crate::runtime::process::Process;
use crate::value::Value;
use etcd_client::{Client, DeleteOptions, GetOptions};
use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::ops::Deref;
use std::rc::Rc;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};

/// Default of [`World::set_within`].
const WITHIN: Duration = Duration::from_secs(60);
/// The most values that [`NotUntil`] keeps.
const KEPT: usize = 20;
/// What is due at a time is done before the clock moves on, so that this is over as soon as everything has come to
/// rest.
const MOMENT: Duration = Duration::from_millis(1);

/// An etcd and engines in one thread, with a time of their own (feature `virtual-time`).
///
/// Its clock stands still while anything is left to do, and then jumps to what is due next. So an hour passes at once,
/// and everything that takes time does so in the world's time: polls, delays, crawls, leases, back-offs, and what
/// callbacks do with [`tokio::time`].
///
/// ```
/// use etcd_rules::testing::World;
/// use etcd_rules::{BoxError, Firing, Outcome, Rule, key};
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU32, Ordering};
/// use std::time::Duration;
///
/// const HOUR: Duration = Duration::from_secs(3600);
///
/// World::run(async |world| {
///     let polls = Arc::new(AtomicU32::new(0));
///     let counted = polls.clone();
///     let poll = move |_: Firing| {
///         let polls = counted.clone();
///         async move {
///             polls.fetch_add(1, Ordering::SeqCst);
///             Ok::<_, BoxError>(Outcome::done())
///         }
///     };
///     let rule = Rule::new("poll").when(key("/servers/:id").exists()).poll("/polls/:id", HOUR).run(poll);
///
///     // Two engines share the rule, and its callback.
///     let first = world.start("app", |engine| engine.rule(rule.clone())).await?;
///     let second = world.start("app", |engine| engine.rule(rule)).await?;
///     world.put("/servers/7", "").await?;
///     world.advance(6 * HOUR).await;
///     // A poll comes up to a fifth later than its delay says.
///     assert!((5..=7).contains(&polls.load(Ordering::SeqCst)));
///
///     // One dies. Its locks end with their leases, and the other goes on.
///     first.kill();
///     let before = polls.load(Ordering::SeqCst);
///     world.advance(6 * HOUR).await;
///     assert!(polls.load(Ordering::SeqCst) >= before + 4);
///     second.shutdown(Duration::ZERO).await?;
///     Ok::<_, BoxError>(())
/// })
/// # .unwrap();
/// ```
///
/// Waiting for a key says what it was instead:
///
/// ```
/// # use etcd_rules::testing::World;
/// # use std::time::Duration;
/// World::run(async |world| {
///     world.put("/state", "starting").await?;
///     world.set_within(Duration::from_secs(5));
///     let error = world.until_value("/state", "ready").await.unwrap_err();
///     assert_eq!(
///         error.to_string(),
///         "key `/state` was not as awaited: 5s are over\n  at 0ns: \"starting\" (revision 2)",
///     );
///     Ok::<_, etcd_rules::BoxError>(())
/// })
/// # .unwrap();
/// ```
///
/// # What is the same each time
///
/// What the engines and the etcd draw at random follows from the [seed](Self::run_with_seed), and all run in one
/// thread. So a run is the same each time, unless the callbacks themselves draw from elsewhere, as the branches of
/// [`tokio::select!`] do without `biased`.
///
/// # What there is not
///
/// There is no network, and there are no other threads: while something waits for one, the clock runs ahead. What
/// blocks the thread stops the world. The wall clock is not the world's either; engines write into their keys that the
/// world began at the Unix epoch.
#[derive(Clone)]
pub struct World(Rc<Inner>);

struct Inner {
    etcd: EmbeddedEtcd,
    seed: u64,
    began: Instant,
    within: Cell<Duration>,
    started: Cell<u64>,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("seed", &self.0.seed).field("now", &self.now()).finish_non_exhaustive()
    }
}

impl World {
    /// Makes a world and runs a test in it, with the seed 0. Everything that is in the world ends with the test.
    ///
    /// # Panics
    ///
    /// Within a tokio runtime: a world brings its own. So use it in a plain `#[test]`.
    pub fn run<T>(test: impl AsyncFnOnce(World) -> T) -> T {
        Self::run_with_seed(0, test)
    }

    /// As [`run`](Self::run), with a seed. Another seed is another order of what may come in any order, and other
    /// jitter.
    ///
    /// # Panics
    ///
    /// As [`run`](Self::run).
    pub fn run_with_seed<T>(seed: u64, test: impl AsyncFnOnce(World) -> T) -> T {
        virtual_time::run(async move {
            test(World(Rc::new(Inner {
                etcd: EmbeddedEtcd::in_process(),
                seed,
                began: Instant::now(),
                within: Cell::new(WITHIN),
                started: Cell::new(0),
            })))
            .await
        })
    }

    /// The world's time since it began.
    pub fn now(&self) -> Duration {
        self.0.began.elapsed()
    }

    /// Lets time pass. What is due until then is done at its time, and what is due at the end is done too; for that a
    /// millisecond more passes.
    pub async fn advance(&self, time: Duration) {
        sleep(time).await;
        self.rest().await;
    }

    /// Waits until nothing is left to do at this time. A millisecond passes.
    pub async fn rest(&self) {
        sleep(MOMENT).await;
    }

    /// Starts an engine in a process of its own. Tell its builder the rules and options; the connection is the world's,
    /// and the name is `engine-0` for the first, and so on. Several engines of one application share their work, as
    /// they would on several machines.
    ///
    /// It returns before the engine is ready, as [`Engine::start`] does; [`ready`](crate::EngineHandle::ready) waits.
    ///
    /// # Errors
    ///
    /// Mistakes in the configuration, and those of [`Engine::start`].
    pub async fn start(
        &self,
        application: &str,
        configure: impl FnOnce(EngineBuilder) -> EngineBuilder,
    ) -> Result<WorldEngine, Error> {
        let number = self.0.started.replace(self.0.started.get() + 1);
        let (path, process) = (self.0.etcd.path(), Process::default());
        let builder =
            Engine::builder_with_channel(application, path.channel()).name(format!("engine-{number}"));
        let mut builder = configure(builder);
        builder.env = virtual_time::env(self.0.seed, number, 0, self.0.began);
        builder.env.process = Some(process.clone());
        let (running, _) = virtual_time::start(builder.build()?, &process, |_| async {}).await?;
        Ok(WorldEngine { running, process, path })
    }

    /// The etcd: its [faults](EmbeddedEtcd::faults), and a [channel](EmbeddedEtcd::channel) for more.
    pub fn etcd(&self) -> &EmbeddedEtcd {
        &self.0.etcd
    }

    /// A client of the etcd, for what the world has no method for, such as leases and transactions.
    ///
    /// # Errors
    ///
    /// If a fault keeps it from connecting.
    pub async fn client(&self) -> Result<Client, etcd_client::Error> {
        self.0.etcd.client().await
    }

    /// Puts a key, and returns the revision.
    ///
    /// # Errors
    ///
    /// Those of etcd, as if a fault was injected.
    pub async fn put(&self, key: &str, value: impl Into<Value>) -> Result<i64, etcd_client::Error> {
        let put = self.client().await?.put(key, value.into().as_bytes(), None).await?;
        Ok(put.header().map_or(0, |header| header.revision()))
    }

    /// Deletes a key. False if it was absent.
    ///
    /// # Errors
    ///
    /// As [`put`](Self::put).
    pub async fn delete(&self, key: &str) -> Result<bool, etcd_client::Error> {
        Ok(self.client().await?.delete(key, None).await?.deleted() > 0)
    }

    /// Deletes all keys that begin so, and says how many there were.
    ///
    /// # Errors
    ///
    /// As [`put`](Self::put).
    pub async fn delete_prefix(&self, prefix: &str) -> Result<u64, etcd_client::Error> {
        let deleted = self.client().await?.delete(prefix, Some(DeleteOptions::new().with_prefix())).await?;
        Ok(deleted.deleted().unsigned_abs())
    }

    /// The value of a key now, or `None` if it is absent.
    ///
    /// # Errors
    ///
    /// As [`put`](Self::put).
    pub async fn get(&self, key: &str) -> Result<Option<Value>, etcd_client::Error> {
        let found = self.client().await?.get(key, None).await?;
        Ok(found.kvs().first().map(|kv| Value::from(kv.value().to_vec())))
    }

    /// All keys that begin so, with their values.
    ///
    /// # Errors
    ///
    /// As [`put`](Self::put).
    pub async fn keys(&self, prefix: &str) -> Result<BTreeMap<String, Value>, etcd_client::Error> {
        let found = self.client().await?.get(prefix, Some(GetOptions::new().with_prefix())).await?;
        let pair = |kv: &etcd_client::KeyValue| {
            (String::from_utf8_lossy(kv.key()).into_owned(), Value::from(kv.value().to_vec()))
        };
        Ok(found.kvs().iter().map(pair).collect())
    }

    /// How long the methods `until_…` wait at most, in the world's time, from now on. Default: 60 s.
    pub fn set_within(&self, limit: Duration) {
        self.0.within.set(limit);
    }

    /// Waits until `wanted` accepts the value of a key, `None` being absent, and returns it. The store is looked at
    /// whenever it has changed, whatever faults there are.
    ///
    /// # Errors
    ///
    /// [`NotUntil`] if it was not so in [time](Self::set_within). Its text shows what the key was instead.
    pub async fn until_key(
        &self,
        key: &str,
        wanted: impl Fn(Option<&Value>) -> bool,
    ) -> Result<Option<Value>, NotUntil> {
        let within = self.0.within.get();
        let deadline = Instant::now() + within.min(crate::time::LONGEST);
        let mut changes = self.0.etcd.changes();
        let mut seen: VecDeque<(Duration, Option<(i64, Value)>)> = VecDeque::new();
        loop {
            changes.mark_seen();
            let found = self.0.etcd.peek(key).map(|(revision, value)| (revision, Value::from(value)));
            let value = found.as_ref().map(|(_, value)| value);
            if wanted(value) {
                return Ok(value.cloned());
            }
            if seen.back().is_none_or(|(_, last)| *last != found) {
                if seen.len() == KEPT {
                    seen.pop_front();
                }
                seen.push_back((self.now(), found));
            }
            tokio::select! {
                biased;
                _ = changes.changed() => {}
                () = sleep_until(deadline) => {
                    return Err(NotUntil { key: key.to_owned(), within, seen: seen.into() });
                }
            }
        }
    }

    /// Waits until a key has this value.
    ///
    /// # Errors
    ///
    /// As [`until_key`](Self::until_key).
    pub async fn until_value(&self, key: &str, value: impl Into<Value>) -> Result<(), NotUntil> {
        let wanted = value.into();
        self.until_key(key, |value| value == Some(&wanted)).await.map(drop)
    }

    /// Waits until a key does not exist.
    ///
    /// # Errors
    ///
    /// As [`until_key`](Self::until_key).
    pub async fn until_absent(&self, key: &str) -> Result<(), NotUntil> {
        self.until_key(key, |value| value.is_none()).await.map(drop)
    }
}

/// An engine of a [`World`], in a process of its own. It does what a [`RunningEngine`] does, and ends as one when it is
/// dropped.
#[derive(Debug)]
#[must_use = "dropping it stops the engine"]
pub struct WorldEngine {
    running: RunningEngine,
    process: Process,
    path: NetworkPath,
}

impl Deref for WorldEngine {
    type Target = RunningEngine;

    fn deref(&self) -> &RunningEngine {
        &self.running
    }
}

impl WorldEngine {
    /// The engine's way to the etcd, which can be cut and frozen.
    pub fn path(&self) -> &NetworkPath {
        &self.path
    }

    /// Ends the process at once, as `kill -9` does: the engine's callbacks stop where they are, and its leases and
    /// locks stay until their time is over.
    pub fn kill(self) {
        self.process.end();
    }

    /// Stops the process, as `kill -STOP` does: neither the engine nor its callbacks do anything. Its connections stay
    /// open.
    pub fn stand_still(&self) {
        self.process.stall();
    }

    /// Lets the process run on, however often it was stopped. It finds that time has passed.
    pub fn go_on(&self) {
        self.process.run_on();
    }

    /// Shuts the engine down in order, as [`RunningEngine::shutdown`], and ends its process.
    ///
    /// # Errors
    ///
    /// As [`RunningEngine::shutdown`].
    pub async fn shutdown(self, deadline: Duration) -> Result<(), EngineError> {
        self.process.run_on();
        let ended = self.running.shutdown(deadline).await;
        self.process.end();
        ended
    }
}

/// A key was not as awaited. The text of the error shows what it was instead.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct NotUntil {
    /// The key.
    pub key: String,
    /// How long was waited, in the world's time.
    pub within: Duration,
    /// What it was, from which time of the world on, and the revision of the change; `None` is absent. The last 20.
    pub seen: Vec<(Duration, Option<(i64, Value)>)>,
}

impl std::error::Error for NotUntil {}

impl fmt::Display for NotUntil {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key `{}` was not as awaited: {:?} are over", self.key, self.within)?;
        for (at, seen) in &self.seen {
            match seen {
                Some((revision, value)) => write!(f, "\n  at {at:?}: {value:?} (revision {revision})")?,
                None => write!(f, "\n  at {at:?}: absent")?,
            }
        }
        Ok(())
    }
}
