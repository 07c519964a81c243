//! What a commit expects of keys that its callback has read itself.

use super::commit::{Commit, Effect, Expectation, Expected, literal};
use super::{Entry, FiringError, Listing};
use crate::change::Revision;
use crate::pattern::KeyRange;
use crate::value::Value;

/// What a [commit expects](Commit::expect) of a key. What [`Firing::get_entry`](crate::Firing::get_entry) returned
/// converts into it: the key has not changed since, or is still absent.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Expect {
    /// It does not exist.
    Absent,
    /// It exists.
    Exists,
    /// It exists with this value. It may have been written again since.
    Value(Value),
    /// Its last change was at this revision. 0: it does not exist.
    Revision(i64),
}

impl From<&Entry> for Expect {
    fn from(entry: &Entry) -> Self {
        Expect::Revision(entry.mod_revision)
    }
}

impl From<Option<&Entry>> for Expect {
    fn from(entry: Option<&Entry>) -> Self {
        entry.map_or(Expect::Absent, Expect::from)
    }
}

impl From<Expect> for Expected {
    fn from(expect: Expect) -> Self {
        match expect {
            Expect::Absent => Expected::At(Revision::NONE),
            Expect::Exists => Expected::There,
            Expect::Value(value) => Expected::Value(value),
            Expect::Revision(revision) => Expected::At(Revision::new(revision)),
        }
    }
}

impl Commit {
    /// The commit takes effect only if this holds of a key, whether or not the rule has it. Otherwise nothing takes
    /// effect, and the callback runs again, soon after, if the condition still holds.
    ///
    /// ```
    /// use etcd_rules::firing::Expect;
    /// use etcd_rules::{Error, Firing, Outcome};
    ///
    /// async fn claim(firing: Firing) -> Result<Outcome, Error> {
    ///     let commit = firing.commit().expect("/config/open", Expect::Value("yes".into()));
    ///     Ok(commit.expect("/names/:name", Expect::Absent).put("/names/:name", firing.attribute("id")?).into())
    /// }
    /// ```
    pub fn expect(mut self, pattern: &str, expected: impl Into<Expect>) -> Self {
        let key = self.firing().format(pattern);
        self.expect_of(key, expected.into());
        self
    }

    /// As [`expect`](Self::expect), of a key that is given as it is, and not as a pattern.
    pub fn expect_key(mut self, key: impl Into<String>, expected: impl Into<Expect>) -> Self {
        self.expect_of(literal(key.into()), expected.into());
        self
    }

    /// The commit takes effect only if there is no key below this one: none that begins with it and a slash.
    ///
    /// It is one comparison, and etcd looks at no more than one key for it.
    pub fn expect_empty(mut self, pattern: &str) -> Self {
        match self.below(pattern) {
            Ok(prefix) => {
                let end = KeyRange::of_prefix(&prefix).end;
                self.add_expectation(Expectation { key: prefix, is: Expected::NoneBefore(end) });
            }
            Err(error) => self.fail(error),
        }
        self
    }

    /// The commit takes effect only if the keys of a [list](crate::Firing::list) are still as they were read, and there
    /// are no new ones.
    ///
    /// Each key listed is compared, and of the range in which they are that nothing in it has changed after the
    /// list's revision. So the list may have as many keys as a transaction allows
    /// ([`max_txn_ops`](crate::EngineBuilder::max_txn_ops), less 3), or the firing fails with
    /// [`FiringError::TooManyEffects`]. etcd looks at every key in the range, while it does nothing else, and the
    /// transaction shares its request with no other.
    ///
    /// - A key in the range that the pattern does not match counts too, when it is put: the commit may be refused for
    ///   it.
    /// - etcd keeps nothing to compare of a deletion. That a key was deleted is seen of those listed. A key that was
    ///   put after the list was read and deleted before the commit is not seen.
    pub fn expect_unchanged_list(mut self, listing: &Listing) -> Self {
        for entry in listing {
            let (key, is) = (entry.key.clone(), Expect::from(entry).into());
            self.add_expectation(Expectation { key, is });
        }
        let is = Expected::NoLaterBefore(listing.end.clone(), listing.revision);
        self.add_expectation(Expectation { key: listing.first.clone(), is });
        self
    }

    /// Deletes all keys below this one: all that begin with it and a slash. There need not be any. No other change of
    /// the commit may be below it.
    ///
    /// They are deleted in one step, however many they are, and etcd does nothing else meanwhile. The engine is not
    /// told which keys they were: the deletion of a key that the instance does not read is seen as anybody's. The
    /// transaction shares its request with no other.
    pub fn delete_prefix(mut self, pattern: &str) -> Self {
        match self.below(pattern) {
            Ok(prefix) => self.add_effect(Effect::DeletePrefix { prefix }),
            Err(error) => self.fail(error),
        }
        self
    }

    fn expect_of(&mut self, key: Result<String, FiringError>, expected: Expect) {
        match key {
            Ok(key) => self.add_expectation(Expectation { key, is: expected.into() }),
            Err(error) => self.fail(error),
        }
    }

    /// What all keys below a pattern's begin with.
    fn below(&self, pattern: &str) -> Result<String, FiringError> {
        let mut prefix = self.firing().format(pattern.strip_suffix('/').unwrap_or(pattern))?;
        prefix.push('/');
        Ok(prefix)
    }
}
