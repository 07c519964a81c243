//! Errors of parsing a pattern, and of making a key from a pattern and attributes.

use thiserror::Error;

/// A text is not a key pattern. The error says what is wrong, where, and how to mend it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("pattern {pattern:?}, byte {position}: {kind}")]
pub struct PatternError {
    pattern: String,
    position: usize,
    kind: PatternErrorKind,
}

/// What is wrong with the text of a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PatternErrorKind {
    /// There is no text at all.
    #[error("the pattern is empty; write the key, such as `/servers/:id/state`")]
    Empty,
    /// It has so many bytes, which is too long.
    #[error("the pattern has {0} bytes; at most 4096 are allowed")]
    TooLong(usize),
    /// Two slashes in a row.
    #[error("there is nothing between two slashes; remove one of them")]
    EmptySegment,
    /// A slash at the end.
    #[error("there is nothing after the last slash; remove it, or append `*rest` to match every key below")]
    TrailingSlash,
    /// A segment that is only `:` or `*`.
    #[error("`{0}` has no name; write `{0}name`")]
    Unnamed(char),
    /// A character that the name of an attribute may not have.
    #[error("the name of an attribute may not contain {0:?}; use ASCII letters, digits, `_` and `-`")]
    Name(char),
    /// A `*name` with segments after it.
    #[error("`*` matches the rest of the key; make it the last segment, or use `:` to match one segment")]
    RestNotLast,
}

impl PatternError {
    pub(super) fn new(pattern: &str, position: usize, kind: PatternErrorKind) -> Self {
        Self { pattern: pattern.to_owned(), position, kind }
    }

    /// The text that is not a pattern.
    pub fn pattern(&self) -> &str {
        &self.pattern
    }

    /// The position in the text, in bytes from 0.
    pub fn position(&self) -> usize {
        self.position
    }

    /// What is wrong there.
    pub fn kind(&self) -> PatternErrorKind {
        self.kind
    }
}

/// A pattern and some attributes do not make a key.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The pattern has an attribute that was not given.
    #[error("pattern {pattern:?}: attribute {attribute:?} is not given; add its value")]
    Missing {
        /// The text of the pattern.
        pattern: String,
        /// The name of the attribute.
        attribute: String,
    },
    /// A value is empty. No segment can be empty.
    #[error(
        "pattern {pattern:?}: attribute {attribute:?} is empty; give it a value of one character at least"
    )]
    Empty {
        /// The text of the pattern.
        pattern: String,
        /// The name of the attribute.
        attribute: String,
    },
    /// A value for one segment has a slash.
    #[error(
        "pattern {pattern:?}: attribute {attribute:?} is one segment, but its value {value:?} has a slash; \
         encode the slash, or use `*{attribute}` as the last segment"
    )]
    Slash {
        /// The text of the pattern.
        pattern: String,
        /// The name of the attribute.
        attribute: String,
        /// The value given.
        value: String,
    },
}
