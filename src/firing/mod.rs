//! A firing: one run of a callback for one instance, and the handle the callback gets.

mod callback;
mod commit;
mod error;
mod expect;
mod json;
mod kind;
mod layer;
mod link_errors;
mod listing;
mod outcome;
mod read_values;
mod source;

pub use callback::BoxError;
pub(crate) use callback::{Callback, error_text};
use commit::literal;
pub use commit::{Commit, Effect};
pub(crate) use commit::{Effects, Expectation, Expected};
pub use error::{EtcdError, FiringError};
pub use expect::Expect;
pub use kind::ErrorKind;
pub use layer::Next;
pub(crate) use layer::{Layer, layer, layered};
pub use listing::{Entry, Listing};
pub use outcome::{FiringOutcome, Outcome};
pub(crate) use source::{ListingPage, RangeRead, Source};

use link_errors::LinkErrors;

use crate::cancellation::FiringCancellation;
use crate::change::{Revision, Snapshot};
use crate::compiled::{Binding, CompiledRule, RuleIndex};
use crate::condition::{Check, Slot, Witness};
use crate::pattern::{AttributeError, Attributes, Pattern};
use crate::trace::reveal::Reveal;
use crate::value::Value;
use read_values::ReadValues;
use smallvec::SmallVec;
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use tokio::time::Instant;

/// One run of a callback for one instance, under its lock. Cheap to clone.
///
/// It tells which instance it is ([`attributes`](Firing::attributes)), what its keys held
/// ([`value`](Firing::value)), reads more ([`get`](Firing::get)), and begins what the callback returns
/// ([`commit`](Firing::commit)). All patterns may use the instance's attributes. It does not tell which
/// change woke it.
///
/// The lock can't stop a process that was paused for longer than the lock's TTL. Effects on etcd are
/// safe all the same if they go through [`commit`](Firing::commit): they take effect only while the
/// lock is still this firing's. Effects outside etcd should be made conditional on the
/// [fencing token](Firing::fencing_token) where they happen.
#[derive(Clone)]
pub struct Firing(Arc<Inner>);

struct Inner {
    around: Arc<Surroundings>,
    rule: RuleIndex,
    /// Made when somebody asks for them.
    attributes: OnceLock<Attributes>,
    binding: Binding,
    snapshot: Snapshot,
    unlocked: Option<Unlocked>,
    attempt: u32,
    due: Instant,
    fence: Option<Fence>,
    cancelled: FiringCancellation,
    /// What the callback read, so that it can be taken out of errors.
    read: Mutex<ReadValues>,
    link_errors: LinkErrors,
}

/// What a commit without a lock rests on.
struct Unlocked {
    /// What proved the condition.
    witness: Witness,
    /// By slot: the callback has looked at the value.
    looked_at: SmallVec<[AtomicBool; 8]>,
}

/// What all firings of an engine have in common: one thing to share, since threads that count references to the
/// same thing wait for each other.
pub(crate) struct Surroundings {
    /// The engine's name.
    pub(crate) engine: Arc<str>,
    /// What is before every key in etcd.
    pub(crate) key_prefix: Arc<str>,
    pub(crate) rules: Arc<[CompiledRule]>,
    /// By number of a rule.
    pub(crate) callbacks: Arc<[Callback]>,
    pub(crate) source: Arc<dyn Source>,
    /// Prefixes of keys that belong to engines.
    pub(crate) reserved: Arc<[String]>,
    pub(crate) max_txn_ops: usize,
    pub(crate) reveal: Reveal,
}

/// The lock of a firing: a transaction conditional on its create revision takes effect only while
/// the lock is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fence {
    pub(crate) create_revision: Revision,
}

/// What a firing is made of.
pub(crate) struct Parts {
    pub(crate) around: Arc<Surroundings>,
    pub(crate) rule: RuleIndex,
    pub(crate) binding: Binding,
    pub(crate) snapshot: Snapshot,
    /// What proved the condition. A firing with a lock needs it no more.
    pub(crate) witness: Witness,
    pub(crate) attempt: u32,
    /// Since when the instance is due.
    pub(crate) due: Instant,
    pub(crate) fence: Option<Fence>,
    pub(crate) cancelled: FiringCancellation,
}

impl Firing {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { around, rule, binding, snapshot, witness, attempt, due, fence, cancelled } = parts;
        let unlocked = fence.is_none().then(|| Unlocked {
            witness,
            looked_at: snapshot.iter().map(|_| AtomicBool::new(false)).collect(),
        });
        Self(Arc::new(Inner {
            around,
            rule,
            attributes: OnceLock::new(),
            binding,
            snapshot,
            unlocked,
            attempt,
            due,
            fence,
            cancelled,
            read: Mutex::default(),
            link_errors: LinkErrors::default(),
        }))
    }

    fn compiled(&self) -> &CompiledRule {
        &self.0.around.rules[self.0.rule.index()]
    }

    pub(crate) fn rule_index(&self) -> RuleIndex {
        self.0.rule
    }

    /// Tells it to end.
    pub(crate) fn token(&self) -> &FiringCancellation {
        &self.0.cancelled
    }

    pub(crate) fn callback(&self) -> &Callback {
        &self.0.around.callbacks[self.0.rule.index()]
    }

    /// What an error of this firing says, as far as that may be shown. The rule for all who show it.
    pub(crate) fn shown(&self, text: &str) -> String {
        let read = self.read_values();
        self.0.around.reveal.text(text, self.attributes(), &self.0.snapshot, read.all())
    }

    fn read_values(&self) -> MutexGuard<'_, ReadValues> {
        self.0.read.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A read of the callback failed for the link to etcd: what it makes of that is no failure of its own.
    pub(crate) fn has_link_errors(&self) -> bool {
        self.0.link_errors.any()
    }

    /// The [name](crate::EngineBuilder::name) of the engine that runs the callback.
    pub fn engine(&self) -> &str {
        &self.0.around.engine
    }

    /// The engine's [prefix](crate::EngineBuilder::key_prefix), which is before every key in etcd. It is needed for
    /// requests over a [`client`](Firing::client) only: everything else adds it. Empty without one.
    pub fn key_prefix(&self) -> &str {
        &self.0.around.key_prefix
    }

    /// The rule's id.
    pub fn rule(&self) -> &str {
        self.compiled().id()
    }

    /// The instance's attributes and their values.
    pub fn attributes(&self) -> &Attributes {
        self.0.attributes.get_or_init(|| self.compiled().attributes_of(&self.0.binding))
    }

    /// The value of one attribute.
    ///
    /// # Errors
    /// [`FiringError::UnknownAttribute`] if no pattern of the rule's condition has it.
    pub fn attribute(&self, name: &str) -> Result<&str, FiringError> {
        self.attributes().get(name).ok_or_else(|| FiringError::UnknownAttribute(name.to_owned()))
    }

    /// The value of one attribute, parsed.
    ///
    /// ```
    /// # use etcd_rules::{Error, Firing};
    /// # fn example(firing: &Firing) -> Result<(), Error> {
    /// let id: u32 = firing.attribute_as("id")?;
    /// # let _ = id;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// All of them in a struct: [`Attributes::deserialize`].
    ///
    /// # Errors
    /// [`FiringError::UnknownAttribute`] if no pattern of the rule's condition has it; [`FiringError::Attribute`] if it
    /// does not parse.
    pub fn attribute_as<T>(&self, name: &str) -> Result<T, FiringError>
    where
        T: FromStr<Err: fmt::Display>,
    {
        let value = self.attribute(name)?;
        value.parse().map_err(|error| AttributeError::parse(name, value, &error).into())
    }

    /// 1 for a first attempt, one more for every failure in a row before it, those of other engines
    /// included as far as their marks were seen. It starts again from 1 after a success, and when the
    /// condition was false in between.
    ///
    /// A callback that fails after one of its reads ([`get`](Firing::get) and the like) failed for the link to etcd is
    /// tried again half a second later, and that is no attempt, whatever error the callback returned. Such a read had
    /// no answer, no connection, no leader, or no valid token. Requests over a [`client`](Firing::client) are not
    /// looked at.
    pub fn attempt(&self) -> u32 {
        self.0.attempt
    }

    /// Since when this firing has been due; `due_since().elapsed()` at the start of the callback is how long it
    /// waited for a slot, its lock and the like. That is since the engine received the change that made it
    /// due, or since it found the instance true in a snapshot or a crawl; after a failure or a delay, since
    /// the time to wait was over.
    pub fn due_since(&self) -> Instant {
        self.0.due
    }

    /// The value of a key of the condition, or of one that is [shown](crate::Rule::show), as it was when the
    /// condition was found true: all of them together are a state that etcd had, not older than the engine's own last
    /// commit for this instance. The pattern is written as in the condition, with `:name` and not its value.
    ///
    /// The transaction that takes the lock makes sure of that. An [optimistic](crate::Rule::optimistic) rule has
    /// none: its callback may be shown a mixture, and then its commit does not take effect.
    ///
    /// The value may have changed since. A commit that depends on it says so with
    /// [`expect_unchanged`](Commit::expect_unchanged); [`get`](Firing::get) reads the newest.
    ///
    /// # Errors
    /// [`FiringError::WasAbsent`] if the key was absent (see [`value_opt`](Firing::value_opt));
    /// [`FiringError::NotShown`] if the pattern is none of the rule's.
    pub fn value(&self, pattern: &str) -> Result<&Value, FiringError> {
        let slot = self.shown_slot(pattern)?;
        let seen = self.0.snapshot[slot.index()].as_ref();
        seen.map(|seen| &seen.value).ok_or_else(|| FiringError::WasAbsent { key: self.key(slot) })
    }

    /// Like [`value`](Firing::value), with `None` for a key that was absent.
    ///
    /// # Errors
    /// [`FiringError::NotShown`] if the pattern is none of the rule's.
    pub fn value_opt(&self, pattern: &str) -> Result<Option<&Value>, FiringError> {
        let slot = self.shown_slot(pattern)?;
        Ok(self.0.snapshot[slot.index()].as_ref().map(|seen| &seen.value))
    }

    fn shown_slot(&self, pattern: &str) -> Result<Slot, FiringError> {
        let slot = self.compiled().slot(pattern).ok_or_else(|| FiringError::NotShown(pattern.to_owned()))?;
        if let Some(unlocked) = &self.0.unlocked {
            unlocked.looked_at[slot.index()].store(true, Ordering::Relaxed);
        }
        Ok(slot)
    }

    /// Without a lock: whether the callback has looked at the value of this slot.
    fn has_looked_at(&self, slot: Slot) -> bool {
        self.0
            .unlocked
            .as_ref()
            .is_some_and(|unlocked| unlocked.looked_at[slot.index()].load(Ordering::Relaxed))
    }

    /// The key of a slot as it was shown.
    fn as_shown(&self, slot: Slot) -> Expectation {
        let revision =
            self.0.snapshot[slot.index()].as_ref().map_or(Revision::NONE, |seen| seen.mod_revision);
        Expectation { key: self.key(slot), is: Expected::At(revision) }
    }

    /// Without a lock: what the truth of the condition rests on in this slot, if anything.
    fn proof_of(&self, slot: Slot) -> Option<Expected> {
        let witness = &self.0.unlocked.as_ref()?.witness;
        let check = witness.iter().find(|check| check.slot() == slot)?;
        let seen = self.0.snapshot[slot.index()].as_ref();
        Some(match (check, seen) {
            (Check::Absent(_), _) | (_, None) => Expected::At(Revision::NONE),
            (Check::Exists(_), _) => Expected::There,
            (Check::ValueIs(_), Some(seen)) => Expected::Value(seen.value.clone()),
            (Check::ValueIsNot(_, leaf), _) => {
                Expected::OtherThan(self.compiled().condition().literal(*leaf).to_vec().into())
            }
            (Check::Unchanged(_), Some(seen)) => Expected::At(seen.mod_revision),
        })
    }

    fn key(&self, slot: Slot) -> String {
        self.compiled().key(slot, &self.0.binding)
    }

    /// The key that a pattern means for this instance.
    ///
    /// # Errors
    /// [`FiringError::Pattern`] if the pattern is malformed, [`FiringError::Format`] if it has an attribute that the
    /// rule does not bind, or one whose value has a slash where it needs one segment.
    pub fn format(&self, pattern: &str) -> Result<String, FiringError> {
        // One of the condition's was parsed already, and has a key, since the instance exists.
        if let Some(slot) = self.compiled().slot(pattern) {
            return Ok(self.key(slot));
        }
        Ok(Pattern::parse(pattern)?.format(self.attributes())?)
    }

    /// Reads the newest value of a key from etcd, linearizably, also of a key that no condition has. The
    /// read is tried again, on other endpoints too, for as long as the engine's
    /// [request time-out](crate::EngineBuilder::request_timeout).
    ///
    /// Dropping the future abandons the read.
    ///
    /// # Errors
    /// [`FiringError::Absent`] if the key does not exist (see [`get_opt`](Firing::get_opt)); [`FiringError::Etcd`]
    /// if etcd does not answer in time, or refuses; those of [`format`](Firing::format).
    pub async fn get(&self, pattern: &str) -> Result<Value, FiringError> {
        let key = self.format(pattern)?;
        let found = self.read(&key).await?;
        found.map(|(value, _)| value).ok_or(FiringError::Absent { key })
    }

    /// Like [`get`](Firing::get), with `None` for a key that does not exist.
    ///
    /// # Errors
    /// As [`get`](Firing::get), but for the absence.
    pub async fn get_opt(&self, pattern: &str) -> Result<Option<Value>, FiringError> {
        let key = self.format(pattern)?;
        Ok(self.read(&key).await?.map(|(value, _)| value))
    }

    /// As [`get`](Self::get), of a key that is given as it is, and not as a pattern: a colon in it has no meaning.
    ///
    /// # Errors
    /// As [`get`](Self::get); [`FiringError::EmptyKey`].
    pub async fn get_key(&self, key: &str) -> Result<Value, FiringError> {
        self.get_key_opt(key).await?.ok_or_else(|| FiringError::Absent { key: key.to_owned() })
    }

    /// As [`get_key`](Self::get_key), with `None` for a key that does not exist.
    ///
    /// # Errors
    /// As [`get_key`](Self::get_key), but for the absence.
    pub async fn get_key_opt(&self, key: &str) -> Result<Option<Value>, FiringError> {
        Ok(self.read(&literal(key.to_owned())?).await?.map(|(value, _)| value))
    }

    async fn read(&self, key: &str) -> Result<Option<(Value, Revision)>, FiringError> {
        let found = self.0.link_errors.heed(self.0.around.source.get(key)).await?;
        if let Some((value, _)) = &found
            && self.0.around.reveal < Reveal::Values
        {
            self.read_values().add(value);
        }
        Ok(found)
    }

    /// A client on the engine's connection, for whatever else the callback wants of etcd. It knows nothing of the
    /// engine's [prefix](Firing::key_prefix): keys are as they are in etcd. What is
    /// written with it is not fenced: it takes effect although the lock may be lost, and counts as somebody
    /// else's change, after which the rule fires again. Prefer [`commit`](Firing::commit).
    ///
    /// The engine can't see what is read with it. So from then on errors of this firing are hidden as a whole, unless
    /// [values may be revealed](crate::Reveal::Values).
    ///
    /// Ask for it in every firing: a client that is kept stays with the endpoint that it was made for.
    ///
    /// # Errors
    /// [`FiringError::Etcd`] if there is no connection and none can be made in time; [`FiringError::NoEtcd`] in a
    /// [trial](crate::testing::Trial).
    pub async fn client(&self) -> Result<etcd_client::Client, FiringError> {
        self.read_values().add_unknown();
        self.0.link_errors.heed(self.0.around.source.client()).await
    }

    /// A number that is larger for every later holder of this lock (the create revision of the lock's
    /// key), for effects outside etcd to check: whoever carries them out refuses a number smaller than
    /// the largest that it has seen. 0 for a firing of an [optimistic](crate::Rule::optimistic) rule without a lock.
    pub fn fencing_token(&self) -> i64 {
        self.0.fence.map_or(0, |fence| fence.create_revision.get())
    }

    /// True once the lock is lost or may be, the time limit is over, or the engine is ending: at its
    /// shutdown only when the deadline for callbacks is over.
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.is_cancelled()
    }

    /// Completes when [`is_cancelled`](Firing::is_cancelled) becomes true. The callback's future is dropped
    /// an eighth of the lock TTL later (1 s for an optimistic rule), and at once when the time limit is
    /// over: then only what the callback has spawned or handed a clone of the firing hears of it.
    pub async fn cancelled(&self) {
        self.0.cancelled.cancelled().await;
    }

    /// What a callback's outcome comes to: a poll that is done holds the next one back, in the same
    /// transaction.
    pub(crate) fn complete(&self, outcome: Outcome) -> Outcome {
        match outcome {
            Outcome { effects: Ok(effects), then: FiringOutcome::Done }
                if self.compiled().delay().is_some() =>
            {
                Commit::with_delay(self.clone(), effects)
            }
            other => other,
        }
    }

    /// Begins the transaction that ends this firing: its effects and the release of the lock take
    /// effect together, and only while the lock is still this firing's. The callback returns it; a commit
    /// that is dropped does nothing.
    pub fn commit(&self) -> Commit {
        Commit::new(self.clone())
    }
}

impl fmt::Debug for Firing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Firing")
            .field("rule", &self.rule())
            .field("attributes", self.attributes())
            .field("attempt", &self.0.attempt)
            .field("fence", &self.0.fence)
            .finish_non_exhaustive()
    }
}
