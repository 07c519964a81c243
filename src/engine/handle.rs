//! Asks and directs a running engine.

use super::inspector::Inspector;
use super::supervisor::Command;
use crate::compiled::{RateLimit, check_interval};
#[cfg(feature = "http")]
use crate::dispatch::actor::FleetSize;
use crate::error::EngineError;
use crate::events::{EventStream, Events};
use crate::health::{Health, HealthChanges};
use crate::inspect::{InstanceExplanation, InstancePage, InstanceQuery, RuleStatus, Stats};
use crate::pattern::Attributes;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// Asks and directs a running engine: its health, its rules and instances, explanations, events, and the controls of
/// rules. Cheap to clone, for the state of a web server, say; from
/// [`RunningEngine::handle`](super::RunningEngine::handle) or
/// [`Engine::run_until_with`](super::Engine::run_until_with).
///
/// It does not keep the engine alive. After the engine's end [`health`](EngineHandle::health) says so, streams end
/// when they have told what is left, and everything else is [`EngineError::Stopped`].
#[derive(Clone, Debug)]
pub struct EngineHandle {
    pub(super) engine: Arc<str>,
    pub(super) key_prefix: Arc<str>,
    /// Weak: the engine ends when its owner drops the only strong one.
    pub(super) commands: mpsc::WeakSender<Command>,
    pub(super) health: watch::Receiver<Health>,
    pub(super) events: Events,
}

impl EngineHandle {
    /// The engine's [name](crate::EngineBuilder::name).
    pub fn name(&self) -> &str {
        &self.engine
    }

    /// The [prefix](crate::EngineBuilder::key_prefix) that is before every key in etcd, and that nothing else which is
    /// told of the engine has. Empty without one.
    pub fn key_prefix(&self) -> &str {
        &self.key_prefix
    }

    /// The engine's state now. Costs next to nothing.
    pub fn health(&self) -> Health {
        self.health.borrow().clone()
    }

    /// The engine's state now, and then whenever it changes, until the engine has ended. See [`HealthChanges`].
    pub fn health_changes(&self) -> HealthChanges {
        HealthChanges::new(self.health.clone())
    }

    /// Waits until the engine is [`Health::Ready`]: it watches, and its rules fire. Never completes if that
    /// never comes, also if the engine has failed: set a time-out, or wait for
    /// [`failed`](EngineHandle::failed) beside it.
    pub async fn ready(&self) {
        let mut health = self.health.clone();
        if health.wait_for(|health| matches!(health, Health::Ready)).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until the engine has [failed](Health::Failed), and returns why. Never completes otherwise,
    /// also after an orderly end.
    pub async fn failed(&self) -> String {
        let mut health = self.health.clone();
        let failed = health.wait_for(|health| matches!(health, Health::Failed { .. })).await;
        match failed.as_deref() {
            Ok(Health::Failed { reason }) => reason.clone(),
            _ => std::future::pending().await,
        }
    }

    /// What happens from now on: instances found due, locks, callbacks with their outcomes, commits. For tests
    /// and for observers of your own; nothing is recorded while nobody listens. See [`EventStream`].
    ///
    /// ```no_run
    /// # async fn example(engine: &etcd_rules::EngineHandle) {
    /// use etcd_rules::events::EventKind;
    /// let mut events = engine.events();
    /// while let Some(event) = events.recv().await {
    ///     match event {
    ///         Ok(event) => match &event.kind {
    ///             EventKind::Closed { outcome, .. } => {
    ///                 println!("{} {}: {}", event.rule, event.attributes, outcome.name());
    ///             }
    ///             _ => {}
    ///         },
    ///         Err(lagged) => eprintln!("{lagged}"),
    ///     }
    /// }
    /// # }
    /// ```
    pub fn events(&self) -> EventStream {
        self.events.subscribe()
    }

    /// Figures of now. For continuous observation take the [metrics](crate::metrics).
    ///
    /// # Errors
    /// [`EngineError::Stopped`] if the engine has ended; [`EngineError::NoAnswer`] if a part of it does not answer
    /// within 5 s.
    pub async fn stats(&self) -> Result<Stats, EngineError> {
        self.inspector().await?.stats().await
    }

    /// How many engines there are.
    #[cfg(feature = "http")]
    pub(crate) async fn fleet(&self) -> Result<FleetSize, EngineError> {
        self.inspector().await?.fleet().await
    }

    /// The rules, in the order in which they were added: what they are, and how many of their instances are
    /// in which state.
    ///
    /// # Errors
    /// As [`stats`](EngineHandle::stats).
    pub async fn rules(&self) -> Result<Vec<RuleStatus>, EngineError> {
        self.inspector().await?.rules().await
    }

    /// A page of rule instances, and what the engine is doing about each: queued, running, waiting until when
    /// and after which error, held by which other engine, given up and why.
    ///
    /// An engine with very many instances is asked for them in small pieces, between which it does its work,
    /// so that a listing holds up nothing. So the instances of a page are of slightly different moments. One
    /// that exists from the first page to the last is in exactly one of them, unless the engine's parts
    /// restart in between.
    ///
    /// ```no_run
    /// # async fn example(engine: &etcd_rules::EngineHandle) -> Result<(), etcd_rules::Error> {
    /// use etcd_rules::inspect::{InstanceQuery, StateKind};
    /// let mut query = InstanceQuery::new().rule("poll").state(StateKind::Waiting).state(StateKind::GivenUp);
    /// loop {
    ///     let page = engine.instances(query.clone()).await?;
    ///     page.instances.iter().for_each(|instance| println!("{instance}"));
    ///     match page.next {
    ///         Some(cursor) => query = query.after(cursor),
    ///         None => break,
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`EngineError::UnknownRule`] if no rule has the id; [`EngineError::UnknownAttribute`] if the rule has not the
    /// attribute; those of [`stats`](EngineHandle::stats).
    pub async fn instances(&self, query: InstanceQuery) -> Result<InstancePage, EngineError> {
        self.inspector().await?.instances(query).await
    }

    /// Fires one instance now, if its condition holds: cuts short whatever it waits for (the backoff after a
    /// failure, here or in another engine, a delay that its callback asked for), tries it again if it was given
    /// up, and runs it again if it is idle. It still waits for a slot and for its lock; attempts count on.
    ///
    /// False, and nothing is done, if the engine does not know the instance to be true, if it is queued or
    /// running already, here or in another engine, or if it would fire and its rule is in a
    /// [dry run](EngineHandle::begin_dry_run).
    ///
    /// # Errors
    /// As [`explain`](EngineHandle::explain), but for comparisons.
    pub async fn fire_now(&self, rule: &str, attributes: &Attributes) -> Result<bool, EngineError> {
        self.inspector().await?.fire_now(rule, attributes).await
    }

    /// Tries again now all instances of a rule that were given up, by this engine or another; returns how many
    /// there are. [`instances`](EngineHandle::instances) lists them.
    ///
    /// # Errors
    /// [`EngineError::UnknownRule`] if no rule has the id; those of [`stats`](EngineHandle::stats).
    pub async fn retry_given_up(&self, rule: &str) -> Result<usize, EngineError> {
        self.inspector().await?.retry_given_up(rule).await
    }

    /// Pauses a rule in this engine: nothing of it starts any more when this returns. Callbacks that run end
    /// as they would, and commit. What is or becomes true waits in the queue, and shares no lock with others
    /// meanwhile. To pause a rule that begins so, see [`Rule::paused`](crate::Rule::paused).
    ///
    /// It lasts until [`resume`](EngineHandle::resume) or the end of the engine, also when the engine's parts
    /// restart. Other engines go on: pause the rule in each of them.
    ///
    /// # Errors
    /// [`EngineError::UnknownRule`] if no rule has the id; those of [`stats`](EngineHandle::stats), after which the
    /// rule may be paused or not.
    pub async fn pause(&self, rule: &str) -> Result<(), EngineError> {
        self.inspector().await?.change_controls(rule, |controls| controls.paused = true).await
    }

    /// Ends a [pause](EngineHandle::pause): what has waited fires, if it is still true.
    ///
    /// # Errors
    /// As [`pause`](EngineHandle::pause).
    pub async fn resume(&self, rule: &str) -> Result<(), EngineError> {
        self.inspector().await?.change_controls(rule, |controls| controls.paused = false).await
    }

    /// Begins a dry run of a rule in this engine: from when this returns on no lock is taken and no callback started.
    /// Callbacks that run end as they would, and commit.
    ///
    /// Everything else is as ever. What comes to the point where its lock would be taken is
    /// [`WouldFire`](crate::inspect::InstanceState::WouldFire) instead: it is listed by
    /// [`instances`](EngineHandle::instances), told by [`events`](EngineHandle::events), and counted in
    /// [`RuleStatus::would_have_fired`](crate::inspect::RuleStatus::would_have_fired) and the metric
    /// `etcd_rules_would_have_fired_total`; again each time that somebody changes one of its keys. A rate limit and a
    /// least interval count it as a firing. What no callback does can't be seen: an instance that a callback would
    /// have made false stays true, and whether another engine has the lock, or holds the instance back, is not asked.
    ///
    /// It lasts until [`end_dry_run`](EngineHandle::end_dry_run) or the end of the engine, also when the engine's
    /// parts restart. Other engines go on and fire: begin it in each of them. A rule may begin so:
    /// [`Rule::dry_run`](crate::Rule::dry_run).
    ///
    /// ```no_run
    /// # async fn example(engine: &etcd_rules::EngineHandle) -> Result<(), etcd_rules::Error> {
    /// use etcd_rules::inspect::{InstanceQuery, StateKind};
    /// engine.begin_dry_run("clean_up").await?;
    /// // … some hours later …
    /// let would = InstanceQuery::new().rule("clean_up").state(StateKind::WouldFire);
    /// engine.instances(would).await?.instances.iter().for_each(|instance| println!("{instance}"));
    /// engine.end_dry_run("clean_up").await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`pause`](EngineHandle::pause).
    pub async fn begin_dry_run(&self, rule: &str) -> Result<(), EngineError> {
        self.inspector().await?.change_controls(rule, |controls| controls.dry_run = true).await
    }

    /// Ends a [dry run](EngineHandle::begin_dry_run): what would have fired and is still true fires, as its turn
    /// comes.
    ///
    /// # Errors
    /// As [`pause`](EngineHandle::pause).
    pub async fn end_dry_run(&self, rule: &str) -> Result<(), EngineError> {
        self.inspector().await?.change_controls(rule, |controls| controls.dry_run = false).await
    }

    /// Limits how many firings of a rule may start in this engine in a time, or lifts the limit (`None`). It counts
    /// as [`Rule::rate_limit`](crate::Rule::rate_limit) says, from now on, and lasts as a
    /// [pause](EngineHandle::pause) does; what has a slot already may start beyond it.
    ///
    /// ```no_run
    /// # async fn example(engine: &etcd_rules::EngineHandle) -> Result<(), etcd_rules::Error> {
    /// use etcd_rules::RateLimit;
    /// use std::time::Duration;
    /// engine.set_rate_limit("mail", Some(RateLimit::new(1, Duration::from_secs(10)))).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`EngineError::Rule`] if the limit makes no sense; those of [`pause`](EngineHandle::pause).
    pub async fn set_rate_limit(&self, rule: &str, limit: Option<RateLimit>) -> Result<(), EngineError> {
        let checked = limit.map_or(Ok(()), |limit| limit.check());
        checked.map_err(|source| EngineError::Rule { rule: rule.to_owned(), source })?;
        self.inspector().await?.change_controls(rule, |controls| controls.rate_limit = limit).await
    }

    /// Changes the least time between two firings of an instance of a rule in this engine, or lifts it (`None`):
    /// as [`Rule::min_interval`](crate::Rule::min_interval), and for as long as a [pause](EngineHandle::pause).
    /// What waits for it now waits as the new one says, also after earlier firings; if there was none before, those
    /// are not known.
    ///
    /// # Errors
    /// [`EngineError::Rule`] if the interval is zero or longer than 365 days; those of [`pause`](EngineHandle::pause).
    pub async fn set_min_interval(&self, rule: &str, interval: Option<Duration>) -> Result<(), EngineError> {
        let checked = interval.map_or(Ok(()), check_interval);
        checked.map_err(|source| EngineError::Rule { rule: rule.to_owned(), source })?;
        self.inspector().await?.change_controls(rule, |controls| controls.min_interval = interval).await
    }

    /// Why an instance is true or false, and what the engine is doing about it: the truth of each part of its
    /// condition with the values and revisions that this engine has in memory, and the instance's state.
    /// Nothing is read from etcd, and nothing fires.
    ///
    /// The instance need not be known: keys that are not in memory are absent. Attributes that the rule
    /// does not have are ignored. Condition and state are looked at one after the other: a change that was
    /// just received may be in the first and not yet in the second.
    ///
    /// # Errors
    /// [`EngineError::UnknownRule`] if no rule has the id; [`EngineError::UnknownAttribute`] if one of the rule's
    /// attributes is not given; [`EngineError::Comparison`] if a comparison of the condition panics; those of
    /// [`stats`](EngineHandle::stats).
    pub async fn explain(
        &self,
        rule: &str,
        attributes: &Attributes,
    ) -> Result<InstanceExplanation, EngineError> {
        self.inspector().await?.explain(rule, attributes).await
    }

    async fn inspector(&self) -> Result<Inspector, EngineError> {
        let stopped = || EngineError::Stopped("the engine has ended".into());
        let (reply, answer) = oneshot::channel();
        let commands = self.commands.upgrade().ok_or_else(stopped)?;
        let sent = commands.send(Command::Inspect { reply }).await;
        // Or an engine whose owner is dropped while it restarts would not end before it answers.
        drop(commands);
        sent.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())
    }
}
