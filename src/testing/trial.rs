//! A trial: one run of a callback on given keys, without an etcd.

use crate::cancellation::FiringCancellation;
use crate::change::{KeyValue, Revision, Seen};
use crate::condition::Explanation;
use crate::dispatch::latency::TriggerLatency;
use crate::dispatch::messages::CallbackEnd;
use crate::dispatch::run::{self, CallbackTelemetry, Run, UNLOCKED_GRACE};
use crate::dispatch::running::RunningCallbacks;
use crate::engine::Engine;
use crate::engine::offline::{OfflineInstance, OfflineLookUp};
use crate::error::{BuildError, EngineError};
use crate::firing::FiringOutcome;
use crate::firing::{
    Effect, Effects, Expectation, Expected, Fence, FiringError, ListingPage, Parts, RangeRead, Source,
    Surroundings,
};
use crate::lock::lease::grace;
use crate::metrics::Meters;
use crate::pattern::{Attributes, UNBOUNDED};
use crate::rule::Rule;
use crate::time::LONGEST;
use crate::trace::Telemetry;
use crate::trace::reveal::Reveal;
use crate::value::Value;
use etcd_client::Client;
use foldhash::fast::FixedState;
use futures_util::future::BoxFuture;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tracing::Span;

type Keys = BTreeMap<String, Value>;

/// Keys with the revisions of their last changes.
type Versions = BTreeMap<String, (Value, Revision)>;

/// The revisions in a trial: of the given keys, of the changes by somebody else after that, of the lock, and of the
/// changes by somebody else before the commit.
const FIRST: Revision = Revision::new(1);
const MEANWHILE: Revision = Revision::new(2);
const LOCK: Revision = Revision::new(3);
const LATER: Revision = Revision::new(4);

/// Runs a rule's callback once, on given keys and without an etcd, and returns what it did.
///
/// The callback runs as in an engine. It runs only if the condition is true, on the tokio runtime from which
/// [`run`](Trial::run) is called, and within its [time limit](Rule::time_limit). A panic is caught, mistakes
/// of a commit are found, and a [poll](Rule::poll) adds its delay key. The callback can notice only these
/// differences:
///
/// - [`Firing::get`], [`Firing::list`] and the like read the given keys, and never fail because of etcd.
/// - [`Firing::client`] is an error, because there is no etcd.
/// - [`Firing::fencing_token`] is made up.
///
/// A trial records no metrics. With a paused clock (`#[tokio::test(start_paused = true)]`) time limits and
/// delays take no time.
///
/// ```
/// use etcd_rules::testing::{NotTried, Trial};
/// use etcd_rules::firing::FiringOutcome;
/// use etcd_rules::{BoxError, Engine, Firing, Outcome, Rule, key};
///
/// async fn build(firing: Firing) -> Result<Outcome, BoxError> {
///     match firing.get_opt("/jobs/:id/source").await? {
///         None => Ok(Outcome::give_up("the job has no source")),
///         Some(source) if source == "broken" => Err("it does not compile".into()),
///         Some(_) => Ok(firing.commit().expect_unchanged("/jobs/:id/state").put("/jobs/:id/state", "built").into()),
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let engine = Engine::builder("builder", ["127.0.0.1:2379"])
///     .rule(Rule::new("build").when(key("/jobs/:id/state").equals("new")).run(build))
///     .build()?;
/// let new = Trial::on(&engine, "build").attribute("id", "7").key("/jobs/7/state", "new");
///
/// let tried = new.clone().run().await?;
/// assert_eq!(tried.outcome, FiringOutcome::GaveUp("the job has no source".into()));
///
/// let tried = new.clone().key("/jobs/7/source", "broken").run().await?;
/// assert_eq!(tried.outcome, FiringOutcome::Failed("it does not compile".into()));
/// assert!(tried.effects.is_empty());
///
/// let tried = new.clone().key("/jobs/7/source", "good").run().await?;
/// assert_eq!(tried.keys["/jobs/7/state"], "built");
/// assert!(!tried.explanation.truth);
///
/// // Somebody else writes while the callback runs.
/// let tried = new.key("/jobs/7/source", "good").put_meanwhile("/jobs/7/state", "stopped").run().await?;
/// assert_eq!(tried.unexpected.as_deref(), Some("/jobs/7/state"));
/// assert_eq!(tried.keys["/jobs/7/state"], "stopped");
///
/// let untrue = Trial::on(&engine, "build").attribute("id", "7").key("/jobs/7/state", "old").run().await;
/// assert!(matches!(untrue, Err(NotTried::Untrue { .. })));
/// # Ok(())
/// # }
/// ```
///
/// [`Firing::get`]: crate::Firing::get
/// [`Firing::list`]: crate::Firing::list
/// [`Firing::client`]: crate::Firing::client
/// [`Firing::fencing_token`]: crate::Firing::fencing_token
#[derive(Clone, Debug)]
#[must_use = "a trial does nothing until it is run"]
pub struct Trial {
    engine: Arc<Engine>,
    rule: String,
    attributes: Attributes,
    keys: Keys,
    meanwhile: BTreeMap<String, Option<Value>>,
    before_commit: BTreeMap<String, Option<Value>>,
    attempt: u32,
    cancel_after: Option<Duration>,
}

/// What a callback did in a [`Trial`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Tried {
    /// How it ended. It is also [`Failed`](FiringOutcome::Failed) if its commit has a mistake.
    pub outcome: FiringOutcome,
    /// What it wants to change, in the order of its commit, including what [polling](Rule::poll) adds.
    pub effects: Vec<Effect>,
    /// The keys of which something must still hold, or the effects don't take place: those that the commit
    /// expects of keys or their ranges, and what the commit of an [optimistic](Rule::optimistic) rule rests on.
    pub expectations: Vec<String>,
    /// The first of these keys that was [changed meanwhile](Trial::put_meanwhile). If there is one, nothing
    /// takes effect.
    pub unexpected: Option<String>,
    /// All keys afterwards: those given, those changed meanwhile, and the effects if they took place. No key
    /// expires in a trial.
    pub keys: BTreeMap<String, Value>,
    /// The condition on these keys. If the callback is done and the condition is still true, the firing was
    /// [ineffective](crate#when-a-rule-fires).
    pub explanation: Explanation,
    /// How long it ran.
    pub took: Duration,
}

impl Tried {
    /// The effect on this key, if there is one.
    pub fn effect(&self, key: &str) -> Option<&Effect> {
        self.effects.iter().find(|effect| effect.key() == key)
    }
}

/// Why a callback was not run in a [`Trial`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotTried {
    /// There is no such rule, an attribute is missing, or a value can't be part of a key.
    #[error(transparent)]
    Instance(#[from] EngineError),
    /// The condition is not true on the given keys, so no engine would run the callback.
    #[error("rule `{rule}` is not true for {attributes}, so that its callback is not run:\n{explanation}")]
    Untrue {
        /// The rule.
        rule: String,
        /// The attributes.
        attributes: Attributes,
        /// Why not.
        explanation: Explanation,
    },
}

impl Trial {
    /// A trial of a rule in an engine, with the engine's expansions, constraints, namespace and options. The
    /// engine need not run.
    pub fn on(engine: &Engine, rule: impl Into<String>) -> Self {
        let engine = Arc::new(Engine { config: engine.config.clone() });
        let (rule, attributes) = (rule.into(), Attributes::new());
        let (meanwhile, before_commit) = (BTreeMap::new(), BTreeMap::new());
        let keys = Keys::new();
        Self { engine, rule, attributes, keys, meanwhile, before_commit, attempt: 1, cancel_after: None }
    }

    /// A trial of a rule by itself, as in an engine with default options.
    ///
    /// # Errors
    /// [`BuildError`] if it has mistakes.
    pub fn of(rule: Rule) -> Result<Self, BuildError> {
        let id = rule.id().to_owned();
        Ok(Self::on(&Engine::builder("trial", ["127.0.0.1:2379"]).rule(rule).build()?, id))
    }

    /// Sets the value of an attribute. All attributes of the rule are needed, and others are ignored.
    pub fn attribute(mut self, name: &str, value: impl Into<String>) -> Self {
        self.attributes.insert(name, value);
        self
    }

    /// Adds a key that exists. All other keys are absent.
    pub fn key(mut self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        self.keys.insert(key.into(), value.into());
        self
    }

    /// Adds several keys that exist, for example [those after another trial](Tried::keys).
    pub fn keys<K: Into<String>, V: Into<Value>>(mut self, keys: impl IntoIterator<Item = (K, V)>) -> Self {
        self.keys.extend(keys.into_iter().map(|(key, value)| (key.into(), value.into())));
        self
    }

    /// Somebody else puts this key after the condition was found true and before the callback starts:
    /// [`Firing::value`] shows the old value, [`Firing::get`] reads the new one, and a commit that
    /// [expects it unchanged](crate::Commit::expect_unchanged) has no effect.
    ///
    /// [`Firing::value`]: crate::Firing::value
    /// [`Firing::get`]: crate::Firing::get
    pub fn put_meanwhile(mut self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        self.meanwhile.insert(key.into(), Some(value.into()));
        self
    }

    /// Like [`put_meanwhile`](Trial::put_meanwhile), but somebody else deletes the key.
    pub fn delete_meanwhile(mut self, key: impl Into<String>) -> Self {
        self.meanwhile.insert(key.into(), None);
        self
    }

    /// Somebody else puts this key after the callback has ended and before its commit: nothing that it read shows it,
    /// and what the commit [expects](crate::Commit::expect) does not hold.
    pub fn put_before_commit(mut self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        self.before_commit.insert(key.into(), Some(value.into()));
        self
    }

    /// Like [`put_before_commit`](Trial::put_before_commit), but somebody else deletes the key.
    pub fn delete_before_commit(mut self, key: impl Into<String>) -> Self {
        self.before_commit.insert(key.into(), None);
        self
    }

    /// Sets what [`Firing::attempt`] returns. The default is 1.
    ///
    /// [`Firing::attempt`]: crate::Firing::attempt
    pub fn attempt(mut self, attempt: u32) -> Self {
        self.attempt = attempt;
        self
    }

    /// Cancels the callback this long after the start of the trial, as an engine does when it shuts down. The
    /// callback is cancelled ([`Firing::cancelled`]), and dropped an eighth of the [lock TTL](Rule::lock_ttl)
    /// later (1 s for an optimistic rule). If it ends before it is dropped, its commit counts. By default it
    /// is never cancelled.
    ///
    /// [`Firing::cancelled`]: crate::Firing::cancelled
    pub fn cancel_after(mut self, delay: Duration) -> Self {
        self.cancel_after = Some(delay.min(LONGEST));
        self
    }

    /// Runs the callback to its end. If the future is dropped, the callback is cancelled.
    ///
    /// # Errors
    /// [`NotTried`] if there is no such instance, or if it is not true. A failure of the callback is not an
    /// error but an [outcome](Tried::outcome).
    ///
    /// # Panics
    /// Panics outside of a tokio runtime, and if a comparison function of the condition panics.
    pub async fn run(self) -> Result<Tried, NotTried> {
        let Self { engine, rule, attributes, keys, meanwhile, before_commit, attempt, cancel_after } = self;
        let seen = |key: &str| Some(Seen { value: keys.get(key)?.clone(), mod_revision: FIRST });
        let explanation = engine.evaluate_on(&rule, &attributes, &keys)?;
        let place = match engine.config.place(&rule, &attributes, seen)? {
            OfflineLookUp::At(place) if explanation.truth => place,
            OfflineLookUp::At(_) | OfflineLookUp::Excluded(_) => {
                return Err(NotTried::Untrue { rule, attributes, explanation });
            }
        };
        let mut newest: Versions = keys.into_iter().map(|(key, value)| (key, (value, FIRST))).collect();
        write(&mut newest, meanwhile, MEANWHILE);
        let started = Instant::now();
        let (outcome, effects) = run_in(&engine, place, newest.clone(), attempt, cancel_after).await;
        let took = started.elapsed();
        write(&mut newest, before_commit, LATER);
        let Effects { changes, expectations } = effects;
        let unexpected = expectations.iter().find(|expected| !holds(expected, &newest));
        let unexpected = unexpected.map(|expected| expected.key.clone());
        let mut keys: Keys = newest.into_iter().map(|(key, (value, _))| (key, value)).collect();
        if unexpected.is_none() {
            for effect in &changes {
                match effect {
                    Effect::Put { key, value, .. } => drop(keys.insert(key.clone(), value.clone())),
                    Effect::Delete { .. } | Effect::DeletePrefix { .. } => {
                        keys.retain(|key, _| !effect.changes(key));
                    }
                }
            }
        }
        let explanation = engine.evaluate_on(&rule, &attributes, &keys)?;
        let expectations = expectations.into_iter().map(|expected| expected.key).collect();
        Ok(Tried { outcome, effects: changes, expectations, unexpected, keys, explanation, took })
    }
}

/// Somebody else writes these keys at one revision.
fn write(keys: &mut Versions, changes: BTreeMap<String, Option<Value>>, revision: Revision) {
    for (key, value) in changes {
        match value {
            Some(value) => keys.insert(key, (value, revision)),
            None => keys.remove(&key),
        };
    }
}

/// Whether etcd would find what a commit expects.
fn holds(expected: &Expectation, keys: &Versions) -> bool {
    let found = keys.get(&expected.key);
    let value = found.map(|(value, _)| value);
    // As etcd does it: from the key on, and before the end.
    let in_range = |end: &[u8]| {
        let from = keys.range(expected.key.clone()..);
        let end = end.to_vec();
        from.map(|(key, (_, revision))| (key, *revision))
            .take_while(move |(key, _)| end == UNBOUNDED || key.as_bytes() < &end[..])
    };
    match &expected.is {
        Expected::At(revision) => found.map_or(Revision::NONE, |(_, revision)| *revision) == *revision,
        Expected::There => value.is_some(),
        Expected::Value(expected) => value == Some(expected),
        Expected::OtherThan(other) => value.is_some_and(|value| value != other),
        Expected::NoneBefore(end) => in_range(end).next().is_none(),
        Expected::NoLaterBefore(end, at) => in_range(end).all(|(_, revision)| revision <= *at),
    }
}

/// Runs the callback as the dispatcher does, once it has the lock.
async fn run_in(
    engine: &Engine,
    place: OfflineInstance,
    keys: Versions,
    attempt: u32,
    cancel_after: Option<Duration>,
) -> (FiringOutcome, Effects) {
    let config = &engine.config;
    let OfflineInstance { rule: number, binding, snapshot } = place;
    let rule = &config.rules[number.index()];
    let (due, cancelled) = (Instant::now(), FiringCancellation::new(None));
    let optimistic = rule.options().optimistic;
    let witness = rule.condition().evaluate(&snapshot).witness;
    let parts = Parts {
        around: Arc::new(Surroundings {
            engine: config.engine.clone(),
            key_prefix: config.key_prefix.text(),
            rules: config.rules.clone(),
            callbacks: config.callbacks.clone(),
            source: Arc::new(KeysInMemory(keys)),
            reserved: config.reserved().into(),
            max_txn_ops: config.options.max_txn_ops,
            // Nothing of it leaves the test.
            reveal: Reveal::Values,
        }),
        rule: number,
        binding: binding.clone(),
        snapshot,
        witness,
        attempt,
        due,
        fence: (!optimistic).then_some(Fence { create_revision: LOCK }),
        cancelled: cancelled.clone(),
    };
    let running = RunningCallbacks::new(FixedState::with_seed(0));
    let run = Run {
        telemetry: Arc::new(CallbackTelemetry {
            engine: config.engine.clone(),
            telemetry: Telemetry { reveal: config.options.reveal, ..Telemetry::default() },
            // Trials are not what an application's metrics are about.
            meters: metrics::with_local_recorder(&metrics::NoopRecorder, || {
                Meters::new(&config.engine, &config.rules, config.options.concurrency)
            }),
        }),
        parts,
        limit: rule.time_limit(),
        grace: if optimistic { UNLOCKED_GRACE } else { grace(rule.lock_ttl()) },
        registered: running.register(number, binding.clone(), cancelled.own().clone()),
        span: Span::none(),
        latency: TriggerLatency::new(due),
    };
    let _cancelled_with_the_trial = cancelled.own().clone().drop_guard();
    let cancelling = async {
        if let Some(delay) = cancel_after {
            tokio::time::sleep(delay).await;
            cancelled.cancel();
        }
        std::future::pending().await
    };
    let running = tokio::spawn(run::run(run));
    let (end, effects) = tokio::select! {
        biased;
        // An error means that the runtime is shutting down.
        ran = running => ran.unwrap_or((CallbackEnd::of(FiringOutcome::Cancelled), None)),
        never = cancelling => never,
    };
    (end.outcome, effects.unwrap_or_default())
}

/// The keys of a trial, as its callback reads them.
struct KeysInMemory(Versions);

impl Source for KeysInMemory {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<(Value, Revision)>, FiringError>> {
        Box::pin(std::future::ready(Ok(self.0.get(key).cloned())))
    }

    fn range<'a>(&'a self, read: RangeRead<'a>) -> BoxFuture<'a, Result<ListingPage, FiringError>> {
        let RangeRead { range, limit, keys_only, .. } = read;
        let found = self.0.iter().filter(|(key, _)| range.has(key.as_bytes()));
        let count = found.clone().count() as i64;
        let keys = found.take(limit as usize).map(|(key, (value, revision))| KeyValue {
            key: key.as_bytes().to_vec(),
            value: if keys_only { Value::default() } else { value.clone() },
            revision: *revision,
        });
        let page = ListingPage { keys: keys.collect(), count, revision: LOCK };
        Box::pin(std::future::ready(Ok(page)))
    }

    fn client(&self) -> BoxFuture<'_, Result<Client, FiringError>> {
        Box::pin(std::future::ready(Err(FiringError::NoEtcd)))
    }
}
