//! Awaits firings of a running engine, in tests.

use crate::events::{CommitResult, Event, EventKind, EventStream, Lagged};
use crate::firing::FiringOutcome;
use crate::pattern::Attributes;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// Default of [`Firings::within`].
const WITHIN: Duration = Duration::from_secs(10);

/// The most events that are kept for later. Beyond that, the oldest are forgotten.
const KEPT: usize = 100_000;

/// Firings of a running engine, for tests to await.
///
/// It listens from the moment it is made. Make it before the change that makes a rule fire, so that no firing
/// is missed. Use [`EngineHandle::events`](crate::EngineHandle::events), or
/// [`Engine::events`](crate::Engine::events) before the start.
///
/// Firings that you have not asked for yet are kept for later. Those of one instance are returned in their
/// order. When you await a particular firing of an instance, the earlier ones of that instance are dropped.
///
/// A firing is reported when it is closed, whatever its outcome. By then its effects are in etcd.
///
/// ```
/// # #[cfg(feature = "embedded")]
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use etcd_rules::embedded::EmbeddedEtcd;
/// use etcd_rules::testing::Firings;
/// use etcd_rules::firing::FiringOutcome;
/// use etcd_rules::{Engine, Error, Firing, Outcome, Rule, key};
///
/// async fn greet(firing: Firing) -> Result<Outcome, Error> {
///     match firing.attribute("name")? {
///         "nobody" => Ok(Outcome::give_up("not invited")),
///         _ => Ok(firing.commit().put("/greeted/:name", "").into()),
///     }
/// }
///
/// let etcd = EmbeddedEtcd::in_process();
/// let rule = Rule::new("greet").when(key("/guests/:name").exists() & key("/greeted/:name").absent()).run(greet);
/// let engine = Engine::builder_with_channel("docs", etcd.channel()).rule(rule).build()?.start().await?;
/// let mut firings = Firings::new(engine.events());
///
/// let mut client = etcd.client().await?;
/// client.put("/guests/nobody", "", None).await?;
/// client.put("/guests/ada", "", None).await?;
///
/// firings.done("greet", [("name", "ada")]).await?;
/// assert_eq!(client.get("/greeted/ada", None).await?.count(), 1);
/// let fired = firings.next("greet", [("name", "nobody")]).await?;
/// assert_eq!(fired.outcome, FiringOutcome::GaveUp("not invited".into()));
/// # engine.shutdown(std::time::Duration::from_secs(5)).await?;
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "embedded"))]
/// # fn main() {}
/// ```
#[derive(Debug)]
#[must_use = "it tells only who asks"]
pub struct Firings {
    events: EventStream,
    within: Duration,
    kept: VecDeque<Arc<Event>>,
}

/// A firing that is closed.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Fired {
    /// When it was closed.
    pub at: Instant,
    /// The id of the rule.
    pub rule: Arc<str>,
    /// The instance's attributes.
    pub attributes: Attributes,
    /// How the callback ended.
    pub outcome: FiringOutcome,
    /// What became of its commit, and of the release of the lock.
    pub result: CommitResult,
}

impl Fired {
    /// Whether the callback was done and its commit took effect.
    pub fn is_done(&self) -> bool {
        self.outcome == FiringOutcome::Done && self.result.is_committed()
    }

    fn of(event: &Event) -> Option<Self> {
        let EventKind::Closed { outcome, result, .. } = &event.kind else { return None };
        let (rule, attributes) = (event.rule.clone(), event.attributes.clone());
        Some(Self { at: event.at, rule, attributes, outcome: outcome.clone(), result: result.clone() })
    }
}

impl Firings {
    /// Listens from now on.
    pub fn new(events: EventStream) -> Self {
        Self { events, within: WITHIN, kept: VecDeque::new() }
    }

    /// How long each call waits at most. Default: 10 s.
    pub fn within(mut self, limit: Duration) -> Self {
        self.within = limit;
        self
    }

    /// Waits for the next firing of a rule for exactly these attributes, whatever its outcome.
    ///
    /// Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`NotFired`] if there was none in time, if the engine has ended, or if events were missed. The error
    /// shows what was seen instead.
    pub async fn next(&mut self, rule: &str, attributes: impl Into<Attributes>) -> Result<Fired, NotFired> {
        self.matching(rule, attributes, |_| true).await
    }

    /// Waits for the next firing that is [done](Fired::is_done). Failures, delays and lost commits before it
    /// are skipped.
    ///
    /// # Errors
    /// As [`next`](Firings::next).
    pub async fn done(&mut self, rule: &str, attributes: impl Into<Attributes>) -> Result<Fired, NotFired> {
        self.matching(rule, attributes, Fired::is_done).await
    }

    /// Waits for the next firing that `wanted` accepts. Those before it are skipped.
    ///
    /// ```no_run
    /// # async fn example(mut firings: etcd_rules::testing::Firings) -> Result<(), etcd_rules::testing::NotFired> {
    /// use etcd_rules::firing::FiringOutcome;
    /// let failed = |outcome: &FiringOutcome| matches!(outcome, FiringOutcome::Failed(_) | FiringOutcome::TimedOut);
    /// firings.matching("build", [("id", "7")], |fired| failed(&fired.outcome)).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`next`](Firings::next).
    pub async fn matching(
        &mut self,
        rule: &str,
        attributes: impl Into<Attributes>,
        wanted: impl Fn(&Fired) -> bool,
    ) -> Result<Fired, NotFired> {
        let attributes = attributes.into();
        let deadline = Instant::now() + self.within.min(crate::time::LONGEST);
        let is_of = |event: &Event| *event.rule == *rule && event.attributes == attributes;
        let mut looked_at = 0;
        let reason = loop {
            while let Some(event) = self.kept.get(looked_at) {
                if is_of(event)
                    && let Some(fired) = Fired::of(event).filter(&wanted)
                {
                    let mut at = 0;
                    self.kept.retain(|event| {
                        at += 1;
                        at > looked_at + 1 || !is_of(event)
                    });
                    return Ok(fired);
                }
                looked_at += 1;
            }
            match timeout_at(deadline, self.events.recv()).await {
                Ok(Some(Ok(event))) => {
                    self.kept.push_back(event);
                    if self.kept.len() > KEPT {
                        self.kept.pop_front();
                        looked_at -= 1;
                    }
                }
                Ok(Some(Err(missed))) => break WhyNotFired::Lagged(missed),
                Ok(None) => break WhyNotFired::Ended,
                Err(_) => break WhyNotFired::TimedOut(self.within),
            }
        };
        let seen = self.kept.iter().filter(|event| is_of(event)).cloned().collect();
        let mut others: BTreeMap<(Arc<str>, Attributes), usize> = BTreeMap::new();
        for other in self.kept.iter().filter(|event| !is_of(event)).filter_map(|event| Fired::of(event)) {
            *others.entry((other.rule, other.attributes)).or_default() += 1;
        }
        let others =
            others.into_iter().map(|((rule, attributes), times)| (rule, attributes, times)).collect();
        Err(NotFired { rule: rule.to_owned(), attributes, reason, seen, others })
    }

    /// Forgets what has fired until now.
    ///
    /// # Errors
    /// [`Lagged`] if events came faster than they were received; those after them are forgotten too.
    pub fn clear(&mut self) -> Result<(), Lagged> {
        self.kept.clear();
        let mut result = Ok(());
        while let Some(event) = self.events.try_recv() {
            if let Err(missed) = event {
                result = Err(missed);
            }
        }
        result
    }
}

/// What was awaited did not fire. The text of the error shows what happened instead.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct NotFired {
    /// The rule.
    pub rule: String,
    /// The attributes.
    pub attributes: Attributes,
    /// What ended the wait.
    pub reason: WhyNotFired,
    /// What happened to the instance since it was last awaited, in order.
    pub seen: Vec<Arc<Event>>,
    /// Which other instances fired since they were last awaited, and how often.
    pub others: Vec<(Arc<str>, Attributes, usize)>,
}

/// What ended a wait.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhyNotFired {
    /// It did not fire within this time.
    TimedOut(Duration),
    /// The engine has ended.
    Ended,
    /// It may have fired, but events came faster than they were received. Await more often, or raise
    /// [`event_buffer`](crate::EngineBuilder::event_buffer).
    Lagged(Lagged),
}

impl std::error::Error for NotFired {}

impl fmt::Display for NotFired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rule, attributes, reason, seen, others } = self;
        let of = |attributes: &Attributes| match attributes.is_empty() {
            true => String::new(),
            false => format!(" for {attributes}"),
        };
        write!(f, "rule `{rule}` did not fire as awaited{}: ", of(attributes))?;
        match reason {
            WhyNotFired::TimedOut(within) => write!(f, "{within:?} are over")?,
            WhyNotFired::Ended => f.write_str("the engine has ended")?,
            WhyNotFired::Lagged(missed) => write!(f, "{missed} (await more often, or raise `event_buffer`)")?,
        }
        match seen.as_slice() {
            [] => f.write_str("\nnothing happened to this instance")?,
            seen => f
                .write_str("\nwhat happened to this instance:")
                .and_then(|()| seen.iter().try_for_each(|event| write!(f, "\n  {:?}", event.kind)))?,
        }
        if !others.is_empty() {
            f.write_str("\nwhat fired else:")?;
        }
        for (rule, attributes, times) in others.iter().take(SHOWN) {
            write!(f, "\n  `{rule}`{} {times} times", of(attributes))?;
        }
        match others.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, "\n  and {more} instances more"),
        }
    }
}

/// How many other instances the text of an error shows.
const SHOWN: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Events;

    fn emit(events: &Events, id: &str, outcome: FiringOutcome, result: CommitResult) {
        let kind = EventKind::Closed { outcome, result, took: Duration::ZERO };
        let attributes = Attributes::from([("id", id)]);
        events.emit(|| Event { at: Instant::now(), rule: "r".into(), attributes, kind });
    }

    fn committed(revision: i64) -> CommitResult {
        CommitResult::Committed { revision }
    }

    #[tokio::test]
    async fn several_firings_of_an_instance_are_taken_in_their_order() {
        let events = Events::new(16);
        let mut firings = Firings::new(events.subscribe());
        for revision in 1..=4 {
            emit(&events, "7", FiringOutcome::Done, committed(revision));
            emit(&events, "8", FiringOutcome::Done, committed(10 * revision));
        }
        let mut next = async |id| firings.next("r", [("id", id)]).await.map(|fired| fired.result);
        assert_eq!(next("7").await, Ok(committed(1)));
        assert_eq!(next("7").await, Ok(committed(2)));
        assert_eq!(next("8").await, Ok(committed(10)));
        let third = firings.matching("r", [("id", "8")], |fired| fired.result == committed(30)).await;
        assert_eq!(third.map(|fired| fired.result), Ok(committed(30)));
        let last = firings.next("r", [("id", "8")]).await.map(|fired| fired.result);
        assert_eq!(last, Ok(committed(40)), "those before the one that was awaited are gone with it");
    }

    #[tokio::test]
    async fn done_is_only_what_was_committed() {
        let events = Events::new(16);
        let mut firings = Firings::new(events.subscribe());
        emit(&events, "7", FiringOutcome::Done, CommitResult::FenceLost);
        emit(&events, "7", FiringOutcome::GaveUp("no".into()), committed(1));
        emit(&events, "7", FiringOutcome::Done, committed(2));
        let done = firings.done("r", [("id", "7")]).await.map(|fired| fired.result);
        assert_eq!(done, Ok(committed(2)));
    }

    #[tokio::test]
    async fn what_was_cleared_is_forgotten_received_or_not() {
        let events = Events::new(4);
        let mut firings = Firings::new(events.subscribe()).within(Duration::from_secs(5));
        emit(&events, "7", FiringOutcome::Done, committed(1));
        assert_eq!(firings.clear(), Ok(()));
        emit(&events, "7", FiringOutcome::Done, committed(2));
        assert_eq!(firings.next("r", [("id", "7")]).await.map(|fired| fired.result), Ok(committed(2)));
        (0..6).for_each(|_| emit(&events, "7", FiringOutcome::Done, committed(3)));
        assert_eq!(firings.clear(), Err(Lagged(2)), "something was cleared that nobody saw");
        emit(&events, "7", FiringOutcome::Done, committed(4));
        assert_eq!(firings.next("r", [("id", "7")]).await.map(|fired| fired.result), Ok(committed(4)));
    }

    #[tokio::test]
    async fn what_is_kept_for_later_has_a_bound_and_an_instance_is_none_of_the_others() {
        let events = Events::new(2 * KEPT);
        let mut firings = Firings::new(events.subscribe()).within(Duration::ZERO);
        emit(&events, "7", FiringOutcome::Done, committed(1));
        (0..KEPT).for_each(|_| emit(&events, "8", FiringOutcome::TimedOut, committed(2)));
        // With no time to wait, events that are there already are still received.
        let mut of_eight = firings.done("r", [("id", "8")]).await;
        while firings.kept.len() < KEPT {
            of_eight = firings.done("r", [("id", "8")]).await;
        }
        let not_fired = of_eight.unwrap_err();
        assert_eq!((not_fired.seen.len(), not_fired.others), (KEPT, Vec::new()));
        assert!(firings.next("r", [("id", "7")]).await.is_err(), "the oldest was forgotten");
    }
}
