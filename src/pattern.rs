//! Key patterns such as `/servers/:id/state`: parse, match, format.
//!
//! A pattern is compared with the whole key, segment by segment. Segments are separated by `/`. Nothing here
//! knows about etcd.

mod attributes;
mod deserialize;
mod error;
mod range;
mod scope;
#[cfg(test)]
mod tests;

pub use attributes::Attributes;
pub use deserialize::AttributeError;
pub use error::{FormatError, PatternError, PatternErrorKind};
pub(crate) use range::{KeyRange, UNBOUNDED, prefix_end};
pub(crate) use scope::KeyScope;

use crate::limits::{LONGEST_PATTERN, shown};
use smallvec::SmallVec;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

/// A pattern of keys, in the syntax of the gin router. It is cheap to clone. Two patterns are equal if their
/// texts are.
///
/// - `:name` as a whole segment is an *attribute*. It matches exactly one segment, which must not be empty
///   and may contain `:`.
/// - `*name` as the last segment matches the rest of the key, slashes included. The rest has at least one
///   character.
/// - Every other segment is literal. `:` and `*` have no meaning after a segment's first character.
/// - If an attribute occurs twice, both places must have the same text.
/// - A leading `/` is part of the key: `servers/:id` matches `servers/7` but not `/servers/7`.
///
/// Names consist of ASCII letters, digits, `_` and `-`. Keys that are not UTF-8 match no pattern.
///
/// ```
/// use etcd_rules::{Attributes, Pattern};
///
/// let pattern: Pattern = "/servers/:id/state".parse()?;
/// let attributes = pattern.matches("/servers/eu:7/state").unwrap();
/// assert_eq!(attributes.get("id"), Some("eu:7"));
/// assert_eq!(pattern.matches("/servers/eu/7/state"), None);
///
/// let log = Pattern::parse("/log/*path")?;
/// assert_eq!(log.matches("/log/a/b").unwrap().get("path"), Some("a/b"));
/// assert_eq!(log.format(&Attributes::from([("path", "c/d")])).unwrap(), "/log/c/d");
/// # Ok::<(), etcd_rules::pattern::PatternError>(())
/// ```
#[derive(Clone)]
pub struct Pattern(Arc<Parsed>);

struct Parsed {
    text: Box<str>,
    prefix_len: usize,
    segments: Box<[Segment]>,
    attributes: Box<[Arc<str>]>,
}

/// The part of a pattern between two slashes. A leading `/` makes the first segment an empty literal, so that
/// segments always correspond to `key.split('/')`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Segment {
    /// Exactly this text.
    Literal(Box<str>),
    /// One segment that is not empty. It is the value of the attribute with this index in
    /// [`Pattern::attributes`].
    Attribute(usize),
    /// The rest of the key, slashes included. It is not empty, and is the value of the attribute with this
    /// index.
    Rest(usize),
}

/// The values of a match, in the order of [`Pattern::attributes`].
pub(crate) type Captures<'k> = SmallVec<[&'k str; 4]>;

impl Pattern {
    /// Parses a pattern. The error names the pattern, the position, and how to mend it.
    ///
    /// ```
    /// let error = etcd_rules::Pattern::parse("/servers//state").unwrap_err();
    /// assert_eq!(error.position(), 9);
    /// ```
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let error = |position, kind| Err(PatternError::new(text, position, kind));
        if text.is_empty() {
            return error(0, PatternErrorKind::Empty);
        }
        if text.len() > LONGEST_PATTERN {
            return Err(PatternError::new(
                &shown(text),
                LONGEST_PATTERN,
                PatternErrorKind::TooLong(text.len()),
            ));
        }
        let mut segments = Vec::new();
        let mut attributes: Vec<Arc<str>> = Vec::new();
        let mut prefix_len = text.len();
        let mut start = 0;
        for part in text.split('/') {
            let end = start + part.len();
            let is_last = end == text.len();
            let segment = match part.as_bytes().first() {
                None if is_last => return error(start, PatternErrorKind::TrailingSlash),
                None if start > 0 => return error(start, PatternErrorKind::EmptySegment),
                Some(mark @ (b':' | b'*')) => {
                    let name = &part[1..];
                    if name.is_empty() {
                        return error(start, PatternErrorKind::Unnamed(char::from(*mark)));
                    }
                    let named = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
                    if let Some((at, wrong)) = name.char_indices().find(|(_, c)| !named(*c)) {
                        return error(start + 1 + at, PatternErrorKind::Name(wrong));
                    }
                    if *mark == b'*' && !is_last {
                        return error(start, PatternErrorKind::RestNotLast);
                    }
                    prefix_len = prefix_len.min(start);
                    let index = attributes.iter().position(|known| &**known == name).unwrap_or_else(|| {
                        attributes.push(name.into());
                        attributes.len() - 1
                    });
                    if *mark == b':' { Segment::Attribute(index) } else { Segment::Rest(index) }
                }
                _ => Segment::Literal(part.into()),
            };
            segments.push(segment);
            start = end + 1;
        }
        Ok(Self(Arc::new(Parsed {
            text: text.into(),
            prefix_len,
            segments: segments.into(),
            attributes: attributes.into(),
        })))
    }

    /// The text of the pattern, as it was parsed.
    pub fn as_str(&self) -> &str {
        &self.0.text
    }

    /// The distinct names of the attributes, in the order of their first appearance.
    ///
    /// ```
    /// let pattern = etcd_rules::Pattern::parse("/:geo/servers/:id/:geo").unwrap();
    /// let names: Vec<&str> = pattern.attributes().iter().map(|name| &**name).collect();
    /// assert_eq!(names, ["geo", "id"]);
    /// ```
    pub fn attributes(&self) -> &[Arc<str>] {
        &self.0.attributes
    }

    /// The text before the first attribute. All matching keys begin with it. Without attributes it is the
    /// whole text, which is then the only matching key.
    ///
    /// ```
    /// let pattern = etcd_rules::Pattern::parse("/servers/:id/state").unwrap();
    /// assert_eq!(pattern.literal_prefix(), "/servers/");
    /// ```
    pub fn literal_prefix(&self) -> &str {
        &self.0.text[..self.0.prefix_len]
    }

    /// The least scope with all keys that it matches.
    pub(crate) fn scope(&self) -> KeyScope {
        let literal = self.literal_prefix().to_owned();
        match self.segments().iter().all(|segment| matches!(segment, Segment::Literal(_))) {
            true => KeyScope::Key(literal),
            false => KeyScope::Prefix(literal),
        }
    }

    /// The attributes for which this pattern is the given key, or `None` if it doesn't match.
    pub fn matches(&self, key: &str) -> Option<Attributes> {
        let values = self.captures(key)?;
        Some(self.attributes().iter().cloned().zip(values).collect())
    }

    /// Like [`Pattern::matches`], but returns only the values, in the order of [`Pattern::attributes`]. Up to
    /// four attributes need no allocation.
    pub(crate) fn captures<'k>(&self, key: &'k str) -> Option<Captures<'k>> {
        if !key.starts_with(self.literal_prefix()) {
            return None;
        }
        let mut values = Captures::new();
        let mut rest = Some(key);
        for segment in self.segments() {
            let left = rest?;
            let (part, after) = match (segment, left.split_once('/')) {
                (Segment::Rest(_), _) | (_, None) => (left, None),
                (_, Some((part, after))) => (part, Some(after)),
            };
            rest = after;
            match segment {
                Segment::Literal(text) if **text == *part => {}
                Segment::Literal(_) => return None,
                Segment::Attribute(_) | Segment::Rest(_) if part.is_empty() => return None,
                Segment::Attribute(index) | Segment::Rest(index) => match values.get(*index) {
                    None => values.push(part),
                    Some(earlier) if *earlier == part => {}
                    Some(_) => return None,
                },
            }
        }
        rest.is_none().then_some(values)
    }

    /// The key that this pattern becomes with the given attributes. Attributes that it doesn't have are
    /// ignored.
    ///
    /// The result always matches the pattern. So a value must not be empty, and must not have a slash where
    /// one segment is wanted.
    ///
    /// ```
    /// use etcd_rules::{Attributes, Pattern};
    /// let pattern = Pattern::parse("/servers/:id/state").unwrap();
    /// assert_eq!(pattern.format(&Attributes::from([("id", "7")])).unwrap(), "/servers/7/state");
    /// assert!(pattern.format(&Attributes::from([("id", "7/8")])).is_err());
    /// ```
    pub fn format(&self, attributes: &Attributes) -> Result<String, FormatError> {
        let mut values: SmallVec<[&str; 4]> = SmallVec::new();
        for name in self.attributes() {
            let (pattern, attribute) = (|| self.as_str().to_owned(), || String::from(&**name));
            match attributes.get(name) {
                None => return Err(FormatError::Missing { pattern: pattern(), attribute: attribute() }),
                Some("") => return Err(FormatError::Empty { pattern: pattern(), attribute: attribute() }),
                Some(value) => values.push(value),
            }
        }
        self.check_segments(|index| values[index])?;
        let mut key = String::new();
        self.write_key(|index| values[index], &mut key);
        Ok(key)
    }

    /// A value with a slash can't be one segment.
    fn check_segments<'a>(&self, values: impl Fn(usize) -> &'a str) -> Result<(), FormatError> {
        for segment in self.segments() {
            if let Segment::Attribute(index) = segment
                && values(*index).contains('/')
            {
                return Err(FormatError::Slash {
                    pattern: self.as_str().to_owned(),
                    attribute: String::from(&*self.attributes()[*index]),
                    value: values(*index).to_owned(),
                });
            }
        }
        Ok(())
    }

    /// The pattern with these attributes replaced by their values, which must fit. Attributes that it doesn't have are
    /// ignored, and those that are not given stay free.
    pub(crate) fn bind(&self, attributes: &Attributes) -> Result<Self, FormatError> {
        let value = |index: usize| attributes.get(&self.attributes()[index]);
        if let Some(index) = (0..self.attributes().len()).find(|index| value(*index) == Some("")) {
            let (pattern, attribute) = (self.as_str().to_owned(), String::from(&*self.attributes()[index]));
            return Err(FormatError::Empty { pattern, attribute });
        }
        self.check_segments(|index| value(index).unwrap_or(""))?;
        Ok(self.fix(attributes))
    }

    /// Appends the key to `out`. The values come from a match, so they are not checked again. `values` is
    /// called with indexes into [`Pattern::attributes`].
    pub(crate) fn write_key<'a>(&self, values: impl Fn(usize) -> &'a str, out: &mut String) {
        for (at, segment) in self.segments().iter().enumerate() {
            if at > 0 {
                out.push('/');
            }
            match segment {
                Segment::Literal(text) => out.push_str(text),
                Segment::Attribute(index) | Segment::Rest(index) => out.push_str(values(*index)),
            }
        }
    }

    /// The pattern with the given attributes replaced by their values. A value becomes literal text, whatever
    /// characters it has. Other attributes stay as they are.
    pub(crate) fn fix(&self, fixed: &Attributes) -> Self {
        let mut attributes: Vec<Arc<str>> = Vec::new();
        let mut segments = Vec::new();
        let mut parts = Vec::new();
        for segment in self.segments() {
            let (mark, at) = match segment {
                Segment::Literal(text) => {
                    parts.push(text.to_string());
                    segments.push(segment.clone());
                    continue;
                }
                Segment::Attribute(at) => (':', *at),
                Segment::Rest(at) => ('*', *at),
            };
            let name = &self.attributes()[at];
            match fixed.get(name) {
                Some(value) => {
                    parts.extend(value.split('/').map(str::to_owned));
                    segments.extend(value.split('/').map(|part| Segment::Literal(part.into())));
                }
                None => {
                    let index = attributes.iter().position(|known| known == name).unwrap_or_else(|| {
                        attributes.push(name.clone());
                        attributes.len() - 1
                    });
                    parts.push(format!("{mark}{name}"));
                    segments.push(if mark == ':' { Segment::Attribute(index) } else { Segment::Rest(index) });
                }
            }
        }
        let literals = segments.iter().take_while(|segment| matches!(segment, Segment::Literal(_))).count();
        let text = parts.join("/");
        let prefix_len = match literals == segments.len() {
            true => text.len(),
            false => parts[..literals].iter().map(|part| part.len() + 1).sum(),
        };
        Self(Arc::new(Parsed {
            text: text.into(),
            prefix_len,
            segments: segments.into(),
            attributes: attributes.into(),
        }))
    }

    /// The segments, for an index over many patterns.
    pub(crate) fn segments(&self) -> &[Segment] {
        &self.0.segments
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        Self::parse(text)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Pattern {}

impl Hash for Pattern {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pattern").field(&self.as_str()).finish()
    }
}
