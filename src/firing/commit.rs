//! The effects with which a firing ends, collected by the callback.

use super::{Firing, FiringError, FiringOutcome, Outcome};
use crate::change::Revision;
use crate::condition::Slot;
use crate::time::LONGEST;
use crate::value::Value;
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;

/// A change of one key by a [`Commit`]; seen in a [trial](crate::testing::Trial).
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// The key is put.
    Put {
        /// The key.
        key: String,
        /// Its value.
        value: Value,
        /// For how long at least; `None`: for ever.
        ttl: Option<Duration>,
    },
    /// The key is deleted.
    Delete {
        /// The key.
        key: String,
    },
    /// All keys that begin so are deleted.
    DeletePrefix {
        /// What they begin with. It ends in a slash.
        prefix: String,
    },
}

impl Effect {
    /// The key that it changes, or what all of them begin with.
    pub fn key(&self) -> &str {
        match self {
            Effect::Put { key, .. } | Effect::Delete { key } | Effect::DeletePrefix { prefix: key } => key,
        }
    }

    /// Whether it changes this key.
    pub(crate) fn changes(&self, key: &str) -> bool {
        match self {
            Effect::Put { key: own, .. } | Effect::Delete { key: own } => own == key,
            Effect::DeletePrefix { prefix } => key.starts_with(prefix.as_str()),
        }
    }

    /// Whether there may be a key that both change.
    fn overlaps(&self, other: &Effect) -> bool {
        self.changes(other.key()) || other.changes(self.key())
    }

    /// Whether it may change a key that begins so.
    fn is_within(&self, namespace: &str) -> bool {
        let covers =
            matches!(self, Effect::DeletePrefix { prefix } if namespace.starts_with(prefix.as_str()));
        covers || self.key().starts_with(namespace)
    }
}

/// What must hold of a key, or nothing takes effect.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Expectation {
    pub(crate) key: String,
    pub(crate) is: Expected,
}

/// What is expected of a key.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Expected {
    /// It was last changed at this revision. 0 means that it is absent.
    At(Revision),
    /// It exists.
    There,
    /// It exists with this value.
    Value(Value),
    /// It exists with another value than this.
    OtherThan(Value),
    /// There is no key from it on and before this one.
    NoneBefore(Vec<u8>),
    /// No key from it on and before this one was changed after this revision, as far as it exists.
    NoLaterBefore(Vec<u8>, Revision),
}

impl Expected {
    /// Where it ends, if it is expected of a range of keys.
    pub(crate) fn end(&self) -> Option<&[u8]> {
        match self {
            Expected::NoneBefore(end) | Expected::NoLaterBefore(end, _) => Some(end),
            Expected::At(_) | Expected::There | Expected::Value(_) | Expected::OtherThan(_) => None,
        }
    }
}

/// What a commit does, and under which further conditions.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Effects {
    pub(crate) changes: Vec<Effect>,
    pub(crate) expectations: Vec<Expectation>,
}

/// The transaction that ends a firing: made by [`Firing::commit`], returned by the callback.
///
/// All patterns may use the instance's attributes. A key that is made of a value is no pattern: it belongs into
/// [`put_key`](Self::put_key) and [`delete_key`](Self::delete_key), or a colon in the value would be read as an
/// attribute. A commit is never sent in parts, and it is sent until its
/// outcome is known or the lock is lost.
///
/// With a mistake nothing takes effect, and the firing fails with the first of them and is retried with
/// [backoff](crate::Rule::backoff): [`FiringError::Pattern`] and [`FiringError::Format`] of a pattern,
/// [`FiringError::NotShown`], [`FiringError::DuplicateEffect`], [`FiringError::ReservedKey`],
/// [`FiringError::TooManyEffects`], [`FiringError::Ttl`], and [`FiringError::NothingShownChanges`] of an
/// [optimistic](crate::Rule::optimistic) rule. What etcd refuses (no permission, larger than its
/// `--max-request-bytes`) is a failure of the firing too.
///
/// ```
/// use etcd_rules::{Error, Firing, Outcome};
/// use std::time::Duration;
///
/// async fn poll(firing: Firing) -> Result<Outcome, Error> {
///     Ok(firing
///         .commit()
///         .expect_unchanged("/servers/:id/state")
///         .put("/servers/:id/status", "ok")
///         .put_ttl("/servers/internal/:id/poll_delay", "", Duration::from_secs(5))
///         .delete("/servers/:id/alarm")
///         .into())
/// }
/// ```
#[derive(Debug)]
#[must_use = "a commit does nothing unless the callback returns it"]
pub struct Commit {
    firing: Firing,
    effects: Effects,
    error: Option<FiringError>,
}

impl Commit {
    pub(super) fn new(firing: Firing) -> Self {
        Self { firing, effects: Effects::default(), error: None }
    }

    /// Puts a key, without a lease: one that it had is taken off.
    pub fn put(mut self, pattern: &str, value: impl Into<Value>) -> Self {
        let put = |key| Ok(Effect::Put { key, value: value.into(), ttl: None });
        self.change(pattern, put);
        self
    }

    /// Puts a key that etcd deletes some time after `ttl`: never before it, and at most a window later, in which keys
    /// share leases. That is a fifth of the TTL, at least one second, and 0.2 s more if the TTL has no whole seconds.
    /// To that comes what etcd itself takes: it looks for what has ended every half second, and its least TTL is 2 s
    /// by default. The key outlives the engine.
    pub fn put_ttl(mut self, pattern: &str, value: impl Into<Value>, ttl: Duration) -> Self {
        self.change(pattern, |key| put_ttl(key, value.into(), ttl));
        self
    }

    /// Puts something as JSON; otherwise as [`put`](Self::put). What can't be written as JSON is a mistake of the
    /// commit, [`FiringError::IntoJson`].
    pub fn put_json<T: Serialize + ?Sized>(mut self, pattern: &str, content: &T) -> Self {
        self.change(pattern, |key| match Value::to_json(content) {
            Ok(value) => Ok(Effect::Put { key, value, ttl: None }),
            Err(source) => Err(FiringError::IntoJson { key, source: Arc::new(source) }),
        });
        self
    }

    /// Deletes a key; it need not exist.
    pub fn delete(mut self, pattern: &str) -> Self {
        self.change(pattern, |key| Ok(Effect::Delete { key }));
        self
    }

    /// Puts a key that is given as it is, and not as a pattern: a colon in it has no meaning. For keys that are made
    /// of values or of other things that somebody else may choose.
    ///
    /// ```
    /// use etcd_rules::{Error, Firing, Outcome};
    ///
    /// async fn announce(firing: Firing) -> Result<Outcome, Error> {
    ///     let network = firing.value("/servers/:id/network")?.to_string_lossy();
    ///     // As a pattern, a network of the name `:id` would mean the server's id.
    ///     Ok(firing.commit().put_key(format!("/networks/{network}"), firing.attribute("id")?).into())
    /// }
    /// ```
    pub fn put_key(mut self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        self.change_key(key.into(), |key| Ok(Effect::Put { key, value: value.into(), ttl: None }));
        self
    }

    /// Puts a key that is given as it is, for a time, as [`put_ttl`](Self::put_ttl).
    pub fn put_key_ttl(mut self, key: impl Into<String>, value: impl Into<Value>, ttl: Duration) -> Self {
        self.change_key(key.into(), |key| put_ttl(key, value.into(), ttl));
        self
    }

    /// Deletes a key that is given as it is; it need not exist.
    pub fn delete_key(mut self, key: impl Into<String>) -> Self {
        self.change_key(key.into(), |key| Ok(Effect::Delete { key }));
        self
    }

    /// The commit takes effect only if this key of the condition, or one that is
    /// [shown](crate::Rule::show), is still as it was shown to the
    /// callback: not written since, even with the same value. If it was, nothing takes effect, and the
    /// callback runs again, soon after, if the condition still holds. Without a lock, an
    /// [optimistic](crate::Rule::optimistic) rule expects this anyway of every key that its callback has looked at.
    pub fn expect_unchanged(mut self, pattern: &str) -> Self {
        match self.firing.compiled().slot(pattern) {
            None => self.fail(FiringError::NotShown(pattern.to_owned())),
            Some(slot) => {
                let unchanged = self.firing.as_shown(slot);
                self.add_expectation(unchanged);
            }
        }
        self
    }

    /// Commits, and the callback is to run again in `delay` if the condition still holds then; see
    /// [`Outcome::retry_after`].
    pub fn retry_after(self, delay: Duration) -> Outcome {
        self.finish(FiringOutcome::RetryAfter(delay))
    }

    /// Commits, and the instance is left alone until somebody else changes a key that it reads; see
    /// [`Outcome::give_up`].
    pub fn give_up(self, reason: impl Into<String>) -> Outcome {
        self.finish(FiringOutcome::GaveUp(reason.into()))
    }

    fn change(&mut self, pattern: &str, effect: impl FnOnce(String) -> Result<Effect, FiringError>) {
        match self.firing.format(pattern).and_then(effect) {
            Ok(effect) => self.effects.changes.push(effect),
            Err(error) => self.fail(error),
        }
    }

    fn change_key(&mut self, key: String, effect: impl FnOnce(String) -> Result<Effect, FiringError>) {
        match literal(key).and_then(effect) {
            Ok(effect) => self.effects.changes.push(effect),
            Err(error) => self.fail(error),
        }
    }

    pub(super) fn firing(&self) -> &Firing {
        &self.firing
    }

    pub(super) fn add_effect(&mut self, effect: Effect) {
        self.effects.changes.push(effect);
    }

    pub(super) fn add_expectation(&mut self, expected: Expectation) {
        // Once is enough for etcd, and for the limit of operations.
        if !self.effects.expectations.contains(&expected) {
            self.effects.expectations.push(expected);
        }
    }

    pub(super) fn fail(&mut self, error: FiringError) {
        self.error.get_or_insert(error);
    }

    fn finish(mut self, then: FiringOutcome) -> Outcome {
        let error = self.error.take().map_or_else(|| self.check(), Err);
        Outcome { effects: error.map(|()| self.effects), then }
    }

    fn check(&mut self) -> Result<(), FiringError> {
        let inner = self.firing.0.clone();
        if inner.around.rules[inner.rule.index()].options().optimistic && !self.effects.changes.is_empty() {
            self.expect_what_it_rests_on()?;
        }
        let Effects { changes, expectations } = &self.effects;
        for (at, effect) in changes.iter().enumerate() {
            let key = || effect.key().to_owned();
            if changes[..at].iter().any(|other| other.overlaps(effect)) {
                return Err(FiringError::DuplicateEffect(key()));
            }
            if inner.around.reserved.iter().any(|namespace| effect.is_within(namespace)) {
                return Err(FiringError::ReservedKey(key()));
            }
        }
        // Beside them stand the lock, its deletion and a read.
        let allowed = inner.around.max_txn_ops.saturating_sub(2);
        let effects = changes.len().max(expectations.len());
        if effects > allowed {
            return Err(FiringError::TooManyEffects { effects, allowed });
        }
        Ok(())
    }

    /// With what ends a poll: the key that holds the next one back, unless the callback has put it itself.
    pub(super) fn with_delay(firing: Firing, mut effects: Effects) -> Outcome {
        let rule = firing.compiled();
        if let Some((slot, interval)) = rule.delay() {
            let key = rule.key(slot, &firing.0.binding);
            if !effects.changes.iter().any(|effect| effect.key() == key) {
                effects.changes.push(Effect::Put { key, value: Value::default(), ttl: Some(interval) });
            }
        }
        Self { firing, effects, error: None }.finish(FiringOutcome::Done)
    }

    /// An optimistic commit expects of the keys shown those unchanged that it changes, so that it can't take effect
    /// twice. Without a lock it also expects those unchanged that the callback has looked at, and of the others what
    /// proves the condition.
    fn expect_what_it_rests_on(&mut self) -> Result<(), FiringError> {
        let Self { firing, effects, .. } = self;
        let Effects { changes, expectations } = effects;
        let is_changed = |key: &str| changes.iter().any(|effect| effect.changes(key));
        let mut changes_shown = false;
        for slot in (0..firing.0.snapshot.len()).map(Slot::new) {
            let unchanged = firing.as_shown(slot);
            let is_changed = is_changed(&unchanged.key);
            changes_shown |= is_changed;
            let is_read = firing.has_looked_at(slot) && !firing.compiled().is_unchecked(slot);
            let expected = if is_changed || is_read || expectations.contains(&unchanged) {
                Some(unchanged)
            } else {
                firing.proof_of(slot).map(|is| Expectation { key: unchanged.key, is })
            };
            expectations.extend(expected.filter(|expected| !expectations.contains(expected)));
        }
        if changes_shown { Ok(()) } else { Err(FiringError::NothingShownChanges) }
    }
}

fn put_ttl(key: String, value: Value, ttl: Duration) -> Result<Effect, FiringError> {
    match ttl.is_zero() || ttl > LONGEST {
        true => Err(FiringError::Ttl { key, ttl }),
        false => Ok(Effect::Put { key, value, ttl: Some(ttl) }),
    }
}

/// A key that was given as it is.
pub(super) fn literal(key: String) -> Result<String, FiringError> {
    if key.is_empty() { Err(FiringError::EmptyKey) } else { Ok(key) }
}

impl From<Commit> for Outcome {
    fn from(commit: Commit) -> Self {
        commit.finish(FiringOutcome::Done)
    }
}
