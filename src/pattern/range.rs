//! Ranges of keys, as etcd takes them.

/// The keys from `start` on and before `end`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyRange {
    pub(crate) start: Vec<u8>,
    pub(crate) end: Vec<u8>,
}

impl KeyRange {
    /// This key alone.
    pub(crate) fn of_key(key: &str) -> Self {
        Self { start: key.into(), end: [key.as_bytes(), &[0]].concat() }
    }

    /// All keys that begin so.
    pub(crate) fn of_prefix(prefix: &str) -> Self {
        Self { start: prefix.into(), end: prefix_end(prefix.as_bytes()) }
    }

    /// All keys that begin so, and have more behind it.
    pub(crate) fn below(prefix: &str) -> Self {
        Self { start: [prefix.as_bytes(), &[0]].concat(), end: prefix_end(prefix.as_bytes()) }
    }

    pub(crate) fn has(&self, key: &[u8]) -> bool {
        key >= &*self.start && (key < &*self.end || self.end == UNBOUNDED)
    }
}

/// The end of a range without an end.
pub(crate) const UNBOUNDED: &[u8] = &[0];

/// The end of the range of all keys with a prefix.
pub(crate) fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    match prefix.iter().rposition(|&byte| byte != 0xff) {
        Some(position) => {
            let mut end = prefix[..=position].to_vec();
            end[position] += 1;
            end
        }
        None => UNBOUNDED.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_has_the_keys_that_it_is_of() {
        for (range, inside, outside) in [
            (KeyRange::of_key("/a"), &["/a"][..], &["/", "/a/", "/b"][..]),
            (KeyRange::of_prefix("/a/"), &["/a/", "/a/b", "/a/ü"], &["/a", "/a0", "/b"]),
            (KeyRange::below("/a/"), &["/a/b", "/a/\u{1}"], &["/a/", "/a0"]),
            (KeyRange::of_prefix(""), &["/", "zz"], &[]),
        ] {
            assert!(inside.iter().all(|key| range.has(key.as_bytes())), "{range:?}");
            assert!(!outside.iter().any(|key| range.has(key.as_bytes())), "{range:?}");
        }
    }
}
