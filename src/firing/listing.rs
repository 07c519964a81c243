//! What a callback reads itself: single keys with their revisions, and all keys that a pattern matches.

use super::source::{ListingPage, RangeRead};
use super::{ErrorKind, Firing, FiringError, literal};
use crate::change::Revision;
use crate::pattern::{Attributes, KeyRange, Pattern, Segment};
use crate::trace::reveal::Reveal;
use crate::value::Value;

/// The most keys that a [list](Firing::list) reads, whether the pattern matches them or not.
const LISTED: usize = 10_000;

/// The most bytes of keys and values that it reads.
const BYTES: usize = 64 << 20;

/// The most keys that a [count](Firing::count) reads. It reads no values.
const COUNTED: usize = 100_000;

/// Keys asked for at once.
const PAGE: i64 = 1000;

/// A key that a callback has read, by [`Firing::get_entry`] or in a [`Listing`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Entry {
    /// The key.
    pub key: String,
    /// What the pattern's attributes are, of those that the instance does not have.
    pub attributes: Attributes,
    /// Its value.
    pub value: Value,
    /// The revision of its last change.
    pub mod_revision: i64,
}

/// All keys that a pattern matched at one revision; made by [`Firing::list`].
///
/// They come in the order of the keys.
#[derive(Clone, Debug, PartialEq)]
pub struct Listing {
    pub(super) entries: Vec<Entry>,
    pub(super) revision: Revision,
    /// The first key that there can be, and where their range ends.
    pub(super) first: String,
    pub(super) end: Vec<u8>,
}

impl Listing {
    /// The keys.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The keys, one after the other.
    pub fn iter(&self) -> std::slice::Iter<'_, Entry> {
        self.entries.iter()
    }

    /// The revision of the store at which all of them were read.
    pub fn revision(&self) -> i64 {
        self.revision.get()
    }
}

impl<'a> IntoIterator for &'a Listing {
    type Item = &'a Entry;
    type IntoIter = std::slice::Iter<'a, Entry>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl IntoIterator for Listing {
    type Item = Entry;
    type IntoIter = std::vec::IntoIter<Entry>;

    fn into_iter(self) -> Self::IntoIter {
        self.entries.into_iter()
    }
}

impl Firing {
    /// Reads a key as [`get_opt`](Firing::get_opt) does, and tells the revision of its last change too. The commit can
    /// then [expect](crate::Commit::expect) that it has not changed.
    ///
    /// ```
    /// use etcd_rules::{Error, Firing, Outcome};
    ///
    /// async fn take(firing: Firing) -> Result<Outcome, Error> {
    ///     let next = firing.get_entry("/counters/next").await?;
    ///     let number: u64 = next.as_ref().and_then(|next| next.value.parse()).unwrap_or(0);
    ///     Ok(firing
    ///         .commit()
    ///         .expect("/counters/next", next.as_ref())             // nobody else has taken the number
    ///         .put("/counters/next", (number + 1).to_string())
    ///         .put("/servers/:id/number", number.to_string())
    ///         .into())
    /// }
    /// ```
    ///
    /// # Errors
    /// As [`get_opt`](Firing::get_opt).
    pub async fn get_entry(&self, pattern: &str) -> Result<Option<Entry>, FiringError> {
        self.entry(self.format(pattern)?).await
    }

    /// As [`get_entry`](Firing::get_entry), of a key that is given as it is, and not as a pattern.
    ///
    /// # Errors
    /// As [`get_entry`](Firing::get_entry); [`FiringError::EmptyKey`].
    pub async fn get_key_entry(&self, key: &str) -> Result<Option<Entry>, FiringError> {
        self.entry(literal(key.to_owned())?).await
    }

    async fn entry(&self, key: String) -> Result<Option<Entry>, FiringError> {
        let found = self.read(&key).await?;
        Ok(found.map(|(value, revision)| Entry {
            key,
            attributes: Attributes::new(),
            value,
            mod_revision: revision.get(),
        }))
    }

    /// Reads all keys that a pattern matches from etcd, linearizably and all at one revision. The instance's attributes
    /// have their values in it. Others are free, and each key tells what they are.
    ///
    /// It reads every key that begins as the pattern does before its first free attribute, a thousand at a time, and
    /// leaves out those that don't match. So that neither etcd nor the engine is overwhelmed, it gives up after 10,000
    /// keys or 64 MiB. Keys that are not UTF-8 match nothing. It is tried again as [`get`](Firing::get) is.
    ///
    /// The keys may have changed since. A commit that depends on them says so with
    /// [`expect_unchanged_list`](crate::Commit::expect_unchanged_list).
    ///
    /// ```
    /// use etcd_rules::{Error, Firing, Outcome};
    ///
    /// async fn retire(firing: Firing) -> Result<Outcome, Error> {
    ///     let members = firing.list("/networks/:net/members/:member").await?;
    ///     for member in &members {
    ///         println!("{} is in it since revision {}", member.attributes.get("member").unwrap_or(""), member.mod_revision);
    ///     }
    ///     let commit = firing.commit().expect_unchanged_list(&members);
    ///     Ok(if members.is_empty() { commit.delete("/networks/:net") } else { commit }.into())
    /// }
    /// ```
    ///
    /// # Errors
    /// [`FiringError::TooManyKeys`] beyond the limits; [`FiringError::Pattern`] and [`FiringError::Format`] of a
    /// pattern; [`FiringError::Etcd`] if etcd does not answer in time, or refuses, or compacts the revision
    /// meanwhile.
    pub async fn list(&self, pattern: &str) -> Result<Listing, FiringError> {
        let pattern = Pattern::parse(pattern)?.bind(self.attributes())?;
        let range = range_of(&pattern);
        let (mut entries, mut bytes) = (Vec::new(), 0);
        let revision = self
            .read_all(&range, false, LISTED, |found| {
                bytes += found.key.len() + found.value.len();
                let key = String::from_utf8(found.key).ok();
                if let Some((key, attributes)) = key.and_then(|key| pattern.matches(&key).map(|a| (key, a))) {
                    if self.0.around.reveal < Reveal::Values {
                        self.read_values().add(&found.value);
                    }
                    let mod_revision = found.revision.get();
                    entries.push(Entry { key, attributes, value: found.value, mod_revision });
                }
                bytes <= BYTES
            })
            .await?;
        let first = pattern.literal_prefix().to_owned();
        Ok(Listing { entries, revision, first, end: range.end })
    }

    /// How many keys a pattern matches, read from etcd as [`list`](Firing::list) does, but without values.
    ///
    /// If nothing but a `*rest` is free, etcd counts, however many there are. Otherwise the names of all keys that
    /// begin as the pattern does are read, 100,000 at most.
    ///
    /// # Errors
    /// As [`list`](Firing::list).
    pub async fn count(&self, pattern: &str) -> Result<usize, FiringError> {
        let pattern = Pattern::parse(pattern)?.bind(self.attributes())?;
        let free = |segment: &&Segment| !matches!(segment, Segment::Literal(_));
        let free: Vec<&Segment> = pattern.segments().iter().filter(free).collect();
        if let [Segment::Rest(_)] = free[..] {
            let range = KeyRange::below(pattern.literal_prefix());
            let read = RangeRead { range: &range, limit: 1, revision: Revision::NONE, keys_only: true };
            let page = self.0.link_errors.heed(self.0.around.source.range(read)).await?;
            return Ok(usize::try_from(page.count).unwrap_or_default());
        }
        let mut count = 0;
        self.read_all(&range_of(&pattern), true, COUNTED, |found| {
            let key = std::str::from_utf8(&found.key);
            count += usize::from(key.is_ok_and(|key| pattern.captures(key).is_some()));
            true
        })
        .await?;
        Ok(count)
    }

    /// Reads a range page by page, all at the revision of the first. `take` returns false when it was too much.
    async fn read_all(
        &self,
        range: &KeyRange,
        keys_only: bool,
        most: usize,
        mut take: impl FnMut(crate::change::KeyValue) -> bool,
    ) -> Result<Revision, FiringError> {
        let too_many = || FiringError::TooManyKeys {
            prefix: String::from_utf8_lossy(&range.start).into_owned(),
            limit: most,
        };
        let mut rest = range.clone();
        let (mut revision, mut limit, mut left) = (Revision::NONE, PAGE, most);
        loop {
            let read = RangeRead { range: &rest, limit, revision, keys_only };
            let page = match self.0.link_errors.heed(self.0.around.source.range(read)).await {
                // With large values, fewer keys fit into an answer.
                Err(error) if error.kind() == ErrorKind::TooLarge && limit > 1 => {
                    limit /= 4;
                    limit = limit.max(1);
                    continue;
                }
                page => page?,
            };
            let ListingPage { keys, count, revision: read_at } = page;
            if revision == Revision::NONE {
                revision = read_at;
            }
            let more = usize::try_from(count).unwrap_or_default() > keys.len();
            let Some(last) = keys.last().map(|found| found.key.clone()) else { return Ok(revision) };
            left = left.checked_sub(keys.len()).ok_or_else(too_many)?;
            for found in keys {
                if !take(found) {
                    return Err(too_many());
                }
            }
            if !more {
                return Ok(revision);
            }
            if left == 0 {
                return Err(too_many());
            }
            rest.start = [&last[..], &[0]].concat();
        }
    }
}

/// Where the keys of a pattern are.
fn range_of(pattern: &Pattern) -> KeyRange {
    match pattern.attributes().is_empty() {
        true => KeyRange::of_key(pattern.as_str()),
        false => KeyRange::of_prefix(pattern.literal_prefix()),
    }
}
