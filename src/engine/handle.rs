//! What the application holds while an engine runs.

use super::config::Config;
use super::inspector::Inspector;
#[cfg(feature = "http")]
use super::observer::{Observer, Shown};
use super::supervisor::{Command, supervise};
use crate::compiled::{RateLimit, check_interval};
use crate::error::EngineError;
use crate::events::{EventStream, Events};
use crate::health::Health;
use crate::health::status::Status;
use crate::inspect::{InstanceExplanation, InstancePage, InstanceQuery, RuleStatus};
use crate::metrics::Meters;
use crate::pattern::Attributes;
use crate::runtime::env::Placement;
use crate::runtime::supervised::panic_text;
use futures_util::FutureExt;
use std::panic::AssertUnwindSafe;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};

/// A running engine.
///
/// Dropping the handle ends the engine in the background: callbacks are cancelled and the threads end
/// within a second. Locks are freed if all callbacks have ended by then and etcd answers; otherwise they
/// end with their TTL. To let callbacks finish, call [`shutdown`](EngineHandle::shutdown).
#[derive(Debug)]
pub struct EngineHandle {
    commands: mpsc::Sender<Command>,
    health: watch::Receiver<Health>,
    events: Events,
    supervisor: Option<std::thread::JoinHandle<()>>,
    /// Its place where it is observed.
    #[cfg(feature = "http")]
    _shown: Option<Shown>,
}

/// Figures of a running engine.
///
/// The index and the dispatcher are asked one after the other, so that the figures may be of slightly
/// different moments. From `queued` to `idle` each counts instances whose condition was last found true;
/// an instance counts once. The same figures are metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Keys in memory: those that some pattern matches.
    pub keys: usize,
    /// Rule instances known, true or false.
    pub instances: usize,
    /// Deleted keys that are remembered until older reads are over.
    pub tombstones: usize,
    /// Decisions made since the last (re)start.
    pub decisions: u64,
    /// Differences that crawls had to repair since the last (re)start; expected: none.
    pub drift: u64,
    /// Instances that wait for a slot, or for a lock that another instance of this engine has.
    pub queued: usize,
    /// Instances that have a slot: from the last look before the lock to the end of the commit.
    pub running: usize,
    /// Instances that wait for a time: the backoff after a failure, a delay that the callback asked for,
    /// the slow-down of ineffective firings, or another try after trouble with etcd.
    pub waiting: usize,
    /// Instances that another engine works on, or holds back.
    pub held: usize,
    /// Instances given up until somebody else changes a key.
    pub given_up: usize,
    /// Instances that would fire, if their rule were not in a [dry run](EngineHandle::begin_dry_run).
    pub would_fire: usize,
    /// Instances whose callback has dealt with what was there; some may be about to be looked at again.
    pub idle: usize,
}

impl EngineHandle {
    pub(super) fn start(config: Config, runtime: Handle) -> Result<Self, EngineError> {
        let (commands, receiver) = mpsc::channel(16);
        let meters = Meters::new(&config.engine, &config.rules, config.options.concurrency);
        let status = Status::new(config.engine.clone(), meters.clone());
        let health = status.subscribe();
        let placement = config.env.placement;
        #[cfg(feature = "http")]
        let observed = config.observatory.clone().map(|observatory| {
            let observer = Observer {
                engine: config.engine.clone(),
                reveal: config.options.reveal,
                commands: commands.downgrade(),
                health: health.clone(),
            };
            (observatory, observer)
        });
        let events = config.events.clone();
        let ended = events.clone();
        let supervising = supervise(config, runtime, status.clone(), meters, receiver);
        let main = async move {
            let supervising = async {
                if let Err(panic) = AssertUnwindSafe(supervising).catch_unwind().await {
                    let reason = format!("the supervisor panicked: {}", panic_text(&*panic));
                    status.end(Health::Failed { reason });
                }
            };
            // However it ends, it is told.
            tokio::join!(supervising, status.announce());
            ended.close();
        };
        let failed = |error: std::io::Error| EngineError::Start(error.to_string());
        let supervisor = match placement {
            Placement::Local => {
                tokio::task::spawn_local(main);
                None
            }
            Placement::OwnThreads => {
                let runtime =
                    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
                let thread = std::thread::Builder::new().name("etcd-rules-main".into());
                Some(thread.spawn(move || runtime.block_on(main)).map_err(failed)?)
            }
        };
        Ok(Self {
            commands,
            health,
            events,
            supervisor,
            #[cfg(feature = "http")]
            _shown: observed.map(|(observatory, observer)| observatory.show(observer)),
        })
    }

    /// The engine's state now. Costs next to nothing.
    pub fn health(&self) -> Health {
        self.health.borrow().clone()
    }

    /// A receiver that is told when the engine's state changes. It sees the latest state, and not every
    /// one in between. It does not keep the engine alive.
    pub fn health_changes(&self) -> watch::Receiver<Health> {
        self.health.clone()
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
    /// use etcd_rules::EventKind;
    /// let mut events = engine.events();
    /// while let Some(event) = events.next().await {
    ///     match event {
    ///         Ok(event) => match &event.kind {
    ///             EventKind::Closed { outcome, .. } => {
    ///                 println!("{} {}: {}", event.rule, event.attributes, outcome.name());
    ///             }
    ///             _ => {}
    ///         },
    ///         Err(missed) => eprintln!("{missed}"),
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
    /// [`EngineError::Stopped`] if the engine has ended, or a part of it does not answer within 5 s.
    pub async fn stats(&self) -> Result<Stats, EngineError> {
        self.inspector().await?.stats().await
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
    /// use etcd_rules::{InstanceQuery, StateKind};
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
        self.inspector().await?.brake(rule, |brake| brake.paused = true).await
    }

    /// Ends a [pause](EngineHandle::pause): what has waited fires, if it is still true.
    ///
    /// # Errors
    /// As [`pause`](EngineHandle::pause).
    pub async fn resume(&self, rule: &str) -> Result<(), EngineError> {
        self.inspector().await?.brake(rule, |brake| brake.paused = false).await
    }

    /// Begins a dry run of a rule in this engine: from when this returns on no lock is taken and no callback started.
    /// Callbacks that run end as they would, and commit.
    ///
    /// Everything else is as ever. What comes to the point where its lock would be taken is
    /// [`WouldFire`](crate::InstanceState::WouldFire) instead: it is listed by
    /// [`instances`](EngineHandle::instances), told by [`events`](EngineHandle::events), and counted in
    /// [`RuleStatus::would_have_fired`](crate::RuleStatus::would_have_fired) and the metric
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
    /// use etcd_rules::{InstanceQuery, StateKind};
    /// engine.begin_dry_run("clean_up").await?;
    /// // … some hours later …
    /// let would = InstanceQuery::new().rule("clean_up").state(StateKind::WouldFire);
    /// engine.instances(would).await?.instances.iter().for_each(|instance| println!("{instance}"));
    /// engine.end_dry_run("clean_up").await
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`pause`](EngineHandle::pause).
    pub async fn begin_dry_run(&self, rule: &str) -> Result<(), EngineError> {
        self.inspector().await?.brake(rule, |brake| brake.dry_run = true).await
    }

    /// Ends a [dry run](EngineHandle::begin_dry_run): what would have fired and is still true fires, as its turn
    /// comes.
    ///
    /// # Errors
    /// As [`pause`](EngineHandle::pause).
    pub async fn end_dry_run(&self, rule: &str) -> Result<(), EngineError> {
        self.inspector().await?.brake(rule, |brake| brake.dry_run = false).await
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
        checked.map_err(|error| EngineError::Rule { rule: rule.to_owned(), error })?;
        self.inspector().await?.brake(rule, |brake| brake.rate_limit = limit).await
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
        checked.map_err(|error| EngineError::Rule { rule: rule.to_owned(), error })?;
        self.inspector().await?.brake(rule, |brake| brake.min_interval = interval).await
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
    /// attributes is not given; [`EngineError::Stopped`] if the engine has ended, or a part of it does not answer
    /// within 5 s.
    pub async fn explain(
        &self,
        rule: &str,
        attributes: &Attributes,
    ) -> Result<InstanceExplanation, EngineError> {
        self.inspector().await?.explain(rule, attributes).await
    }

    async fn inspector(&self) -> Result<Inspector, EngineError> {
        self.ask(|reply| Command::Inspect { reply }).await
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, EngineError> {
        let stopped = || EngineError::Stopped("the engine has ended".into());
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())
    }

    /// Shuts the engine down in order: stops watching, lets callbacks finish for as long as `deadline`,
    /// cancels the rest, frees its locks, revokes its leases and ends its threads. With the leases go the
    /// marks of failures and give-ups, so that other engines try again at once.
    ///
    /// It takes a few seconds longer than `deadline` if callbacks must be cancelled or etcd does not answer.
    /// What etcd has not taken a second after that, because it has no space or no leader, has no effect.
    /// A deadline of zero cancels at once. Dropping the future leaves the shutdown to go on in the background.
    ///
    /// # Errors
    /// [`EngineError::Unfinished`] if callbacks did not end although they were cancelled: they block, and their
    /// locks end with their TTL. [`EngineError::Stopped`] if the engine had failed.
    pub async fn shutdown(mut self, deadline: Duration) -> Result<(), EngineError> {
        if let Health::Failed { reason } = self.health() {
            return Err(EngineError::Stopped(reason));
        }
        let (reply, answer) = oneshot::channel();
        let sent = self.commands.send(Command::Shutdown { deadline, reply }).await;
        // A command that was not sent would be waited for in vain.
        let answer = if sent.is_ok() { answer.await.ok() } else { None };
        drop(sent);
        let result = match answer {
            Some(0) => Ok(()),
            Some(firings) => Err(EngineError::Unfinished { firings }),
            None => Err(EngineError::Stopped("the engine had ended".into())),
        };
        if let Some(supervisor) = self.supervisor.take() {
            while !supervisor.is_finished() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            // It has ended; a panic was reported through the health.
            let _ = supervisor.join();
        }
        result
    }
}
