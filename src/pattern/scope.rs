//! Which keys are read and watched together: all that begin with a prefix, or a single one.

use super::{KeyRange, prefix_end};
use std::fmt;

/// All keys with a prefix, or one key. Of both etcd is asked in such a way that permission for exactly these keys is
/// enough.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum KeyScope {
    /// All keys that begin with this; empty: all keys there are.
    Prefix(String),
    Key(String),
}

impl KeyScope {
    /// The prefix, or the key.
    pub(crate) fn text(&self) -> &str {
        let (KeyScope::Prefix(text) | KeyScope::Key(text)) = self;
        text
    }

    pub(crate) fn contains(&self, key: &str) -> bool {
        match self {
            KeyScope::Prefix(prefix) => key.starts_with(prefix.as_str()),
            KeyScope::Key(only) => key == only,
        }
    }

    /// Whether it contains all keys of the other.
    pub(crate) fn covers(&self, other: &KeyScope) -> bool {
        match self {
            KeyScope::Prefix(_) => self.contains(other.text()),
            KeyScope::Key(_) => self == other,
        }
    }

    /// The keys that it may have, as a range.
    pub(crate) fn range(&self) -> KeyRange {
        match self {
            KeyScope::Prefix(_) => KeyRange { start: self.first_key(), end: self.end() },
            KeyScope::Key(key) => KeyRange::of_key(key),
        }
    }

    /// The first key that it may have.
    pub(crate) fn first_key(&self) -> Vec<u8> {
        match self.text() {
            "" => vec![0],
            text => text.into(),
        }
    }

    /// etcd's end of the range: the key behind the last; a zero byte if there is none; nothing for a single key.
    pub(crate) fn end(&self) -> Vec<u8> {
        match self {
            KeyScope::Prefix(prefix) => prefix_end(prefix.as_bytes()),
            KeyScope::Key(_) => Vec::new(),
        }
    }
}

impl fmt::Display for KeyScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl fmt::Debug for KeyScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_has_all_keys_that_begin_with_it_and_a_key_only_itself() {
        let prefix = |text: &str| KeyScope::Prefix(text.to_owned());
        let key = |text: &str| KeyScope::Key(text.to_owned());
        for (range, covered, others, bounds) in [
            (
                prefix("/a/"),
                vec![prefix("/a/"), prefix("/a/b"), key("/a/b")],
                vec![key("/a"), prefix("/")],
                ("/a/", "/a0"),
            ),
            (key("/a"), vec![key("/a")], vec![prefix("/a"), key("/ab"), key("/a/b")], ("/a", "")),
            (prefix(""), vec![prefix(""), key("a")], vec![], ("\0", "\0")),
        ] {
            for other in &covered {
                assert!(range.covers(other) && range.contains(other.text()), "{range:?} {other:?}");
            }
            for other in &others {
                assert!(!range.covers(other), "{range:?} {other:?}");
            }
            let (first, end) = bounds;
            assert_eq!((range.first_key(), range.end()), (first.into(), end.into()), "{range:?}");
        }
    }
}
