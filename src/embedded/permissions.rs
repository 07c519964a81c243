//! The keys that somebody may read or write. Pure.

use super::auth::Granted;
use super::span::Span;

/// What is done to keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

impl Access {
    /// By the protocol's number of a permission's kind.
    fn is_in(self, kind: i32) -> bool {
        const READ: i32 = 0;
        const WRITE: i32 = 1;
        match self {
            Self::Read => kind != WRITE,
            Self::Write => kind != READ,
        }
    }
}

/// The spans that are allowed, by where they start.
pub(super) struct Permissions(Vec<Span>);

impl Permissions {
    pub(super) fn of<'a>(granted: impl Iterator<Item = &'a Granted>, access: Access) -> Self {
        let wanted = granted.filter(|(kind, ..)| access.is_in(*kind));
        let mut spans: Vec<Span> = wanted.map(|(_, key, end)| Span::new(key, end)).collect();
        spans.sort_by(|one, other| one.start().cmp(other.start()));
        Self(spans)
    }

    /// All of the span is allowed, perhaps by several permissions that touch. One that ends before it starts is not.
    pub(super) fn cover(&self, span: &Span) -> bool {
        if span.is_inverted() {
            return false;
        }
        let mut spans = self.0.iter().filter(|allowed| allowed.meets(span));
        let Some(first) = spans.next() else { return false };
        if first.start() > span.start() {
            return false;
        }
        let mut reached = first.clone();
        for next in spans {
            if !reached.reaches(next.start()) {
                return false;
            }
            if next.ends_after(&reached) {
                reached = next.clone();
            }
        }
        !span.ends_after(&reached)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_covered_by_those_that_touch() {
        const READ_WRITE: i32 = 2;
        let granted = |spans: &[(&str, &str)]| {
            let granted: Vec<Granted> = spans
                .iter()
                .map(|(key, end)| (READ_WRITE, key.as_bytes().to_vec(), end.as_bytes().to_vec()))
                .collect();
            Permissions::of(granted.iter(), Access::Read)
        };
        let covers = |spans: &[(&str, &str)], (key, end): (&str, &str)| {
            granted(spans).cover(&Span::new(key.as_bytes(), end.as_bytes()))
        };
        assert!(covers(&[("a", "")], ("a", "")));
        assert!(!covers(&[("a", "")], ("a", "b")));
        assert!(covers(&[("a", "b")], ("a", "")));
        assert!(!covers(&[("a", "b")], ("b", "")));
        assert!(covers(&[("b", "d"), ("a", "c")], ("a", "d")));
        assert!(!covers(&[("a", "b"), ("c", "d")], ("a", "d")));
        assert!(covers(&[("a", "\0")], ("b", "\0")));
        assert!(!covers(&[("a", "z")], ("b", "\0")));
        assert!(covers(&[("a", "b"), ("b", "\0")], ("a", "\0")));
        assert!(!covers(&[], ("a", "")));
        assert!(!covers(&[("a", "\0")], ("c", "b")));
    }
}
