//! Conditions as users build them from keys and operators, and how they are shown as text.

use super::leaf::{Comparison, Malformed, Test};
use super::number::Number;
use crate::value::Value;
use std::fmt::{self, Write};
use std::ops::{BitAnd, BitOr, Not};
use std::sync::Arc;

/// Names a key by its pattern (see [`Pattern`](crate::Pattern)). The next call says what the key is tested
/// for.
///
/// ```
/// use etcd_rules::key;
/// let active = key("/servers/:id/state").equals("active");
/// let rested = key("/servers/internal/:id/poll_delay").absent();
/// assert_eq!(
///     (active & rested).to_string(),
///     r#"/servers/:id/state = "active" and /servers/internal/:id/poll_delay is absent"#,
/// );
/// ```
///
/// A malformed pattern is not reported here. It is reported when the rule is built, together with all other
/// mistakes.
pub fn key(pattern: impl Into<String>) -> Key {
    Key { pattern: pattern.into() }
}

/// Two or more keys have the same value. If all of them are absent, they count as equal.
///
/// ```
/// use etcd_rules::all_equal;
/// let agreed = all_equal(["/a/:id", "/b/:id", "/c/:id"]);
/// assert_eq!(agreed.to_string(), "/a/:id = /b/:id = /c/:id");
/// ```
///
/// Fewer than two different patterns are reported as a mistake when the rule is built.
pub fn all_equal<P: Into<String>>(patterns: impl IntoIterator<Item = P>) -> Condition {
    let patterns = patterns.into_iter().map(Into::into).collect();
    Condition(Expr::Leaf { patterns, test: Ok(Test::AllEqual) })
}

/// A key, named by its pattern. [`key`] makes it, and each method turns it into a [`Condition`].
///
/// On an absent key all tests are false, except [`absent`](Key::absent), [`not_equals`](Key::not_equals),
/// [`same_as`](Key::same_as) and [`compare`](Key::compare).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[must_use]
pub struct Key {
    pattern: String,
}

impl Key {
    /// The key does not exist.
    pub fn absent(&self) -> Condition {
        self.test(Test::Absent)
    }

    /// The key exists, with any value.
    pub fn exists(&self) -> Condition {
        self.test(Test::Exists)
    }

    /// The key exists and has this value.
    pub fn equals(&self, value: impl Into<Value>) -> Condition {
        self.test(Test::Equals(value.into()))
    }

    /// The negation of [`equals`](Key::equals): **true if the key is absent**. For a key that exists with
    /// another value, add `& key(…).exists()`.
    pub fn not_equals(&self, value: impl Into<Value>) -> Condition {
        !self.equals(value)
    }

    /// The key exists and has one of these values. With no values it is never true.
    pub fn one_of<V: Into<Value>>(&self, values: impl IntoIterator<Item = V>) -> Condition {
        self.leaf(Test::one_of(values.into_iter().map(Into::into).collect()))
    }

    /// The key exists and its value starts with these bytes.
    pub fn starts_with(&self, prefix: impl Into<Value>) -> Condition {
        self.test(Test::StartsWith(prefix.into()))
    }

    /// The key exists and this regular expression (in the syntax of the crate `regex`) matches *anywhere* in
    /// its value. Write `^…$` to match the whole value. The value need not be UTF-8.
    pub fn matches(&self, regex: &str) -> Condition {
        self.leaf(Test::matches(regex))
    }

    /// The value is the text of a number greater than this one.
    ///
    /// Numbers are decimal: `12`, `-0.5`, `1e6`, with white space around them or not, and of any length. They are
    /// compared exactly, digit by digit. A value that is no such number, or whose exponent has more than 18 digits,
    /// makes all four comparisons false, so `!key.greater_than(5)` is not `key.at_most(5)`. An
    /// [explanation](crate::Engine::evaluate_on) says so.
    pub fn greater_than(&self, bound: impl Into<Number>) -> Condition {
        self.leaf(Test::compare(Comparison::Greater, bound.into()))
    }

    /// The value is the text of a number less than this one; see [`greater_than`](Key::greater_than).
    pub fn less_than(&self, bound: impl Into<Number>) -> Condition {
        self.leaf(Test::compare(Comparison::Less, bound.into()))
    }

    /// The value is the text of this number or a greater one; see [`greater_than`](Key::greater_than).
    pub fn at_least(&self, bound: impl Into<Number>) -> Condition {
        self.leaf(Test::compare(Comparison::AtLeast, bound.into()))
    }

    /// The value is the text of this number or a lesser one; see [`greater_than`](Key::greater_than).
    pub fn at_most(&self, bound: impl Into<Number>) -> Condition {
        self.leaf(Test::compare(Comparison::AtMost, bound.into()))
    }

    /// The value is JSON, and what a JSON pointer (RFC 6901, such as `/spec/replicas`) finds in it equals
    /// `expected`. The empty pointer is the whole value.
    ///
    /// Numbers are compared as they are written, and never rounded: `1` equals `1.0` and `10e-1`, and no other. A
    /// field that is missing does not equal `null`. Of fields with the same name the last one counts. A value that is
    /// no JSON makes it false, and an explanation says where; what other fields hold makes no difference, as long as
    /// the whole is JSON.
    ///
    /// ```
    /// use etcd_rules::{Attributes, key};
    /// let paused = key("/jobs/:id").json_field("/spec/paused", true);
    /// let found = paused
    ///     .evaluate_on(&Attributes::from([("id", "1")]), [("/jobs/1", r#"{"spec":{"paused":true}}"#)])
    ///     .unwrap();
    /// assert!(found.truth);
    /// ```
    pub fn json_field(&self, pointer: &str, expected: impl Into<serde_json::Value>) -> Condition {
        self.leaf(Test::json_field(pointer, expected.into()))
    }

    /// This key and the other have the same value, or both are absent. For more keys see [`all_equal`].
    pub fn same_as(&self, other: impl Into<String>) -> Condition {
        all_equal([self.pattern.clone(), other.into()])
    }

    /// A test of your own. The closure gets `None` if the key is absent.
    ///
    /// The description is shown after the key, so make it a predicate. The closure must depend on nothing but
    /// the value, because its result may be kept until the value changes. It runs on a thread that evaluates
    /// conditions, so it must be fast and must not block.
    ///
    /// ```
    /// use etcd_rules::key;
    /// let long = key("/motd").compare("is long", |value| value.is_some_and(|text| text.len() > 80));
    /// assert_eq!(long.to_string(), "/motd is long");
    /// ```
    pub fn compare(
        &self,
        description: impl Into<String>,
        function: impl Fn(Option<&[u8]>) -> bool + Send + Sync + 'static,
    ) -> Condition {
        let description = description.into().into();
        self.test(Test::Function { description, function: Arc::new(function) })
    }

    fn test(&self, test: Test) -> Condition {
        self.leaf(Ok(test))
    }

    fn leaf(&self, test: Result<Test, Malformed>) -> Condition {
        Condition(Expr::Leaf { patterns: vec![self.pattern.clone()], test })
    }
}

/// A boolean expression over keys. [`key`] and [`all_equal`] make its leaves, and `&`, `|` and `!` combine
/// them.
///
/// ```
/// use etcd_rules::key;
/// let ready = key("/jobs/:id/state").one_of(["new", "failed"]);
/// let free = key("/jobs/:id/owner").absent() | key("/steal").exists();
/// let condition = ready & free & !key("/paused").exists();
/// assert_eq!(
///     condition.to_string(),
///     r#"/jobs/:id/state in ["new", "failed"] and (/jobs/:id/owner is absent or /steal exists) and not /paused exists"#,
/// );
/// ```
///
/// Writing a condition never fails. Malformed patterns, regular expressions and JSON pointers are reported
/// together when the rule is built.
#[derive(Clone)]
#[must_use]
pub struct Condition(pub(super) Expr);

#[derive(Clone)]
pub(super) enum Expr {
    Leaf { patterns: Vec<String>, test: Result<Test, Malformed> },
    All(Vec<Condition>),
    Any(Vec<Condition>),
    Not(Box<Condition>),
}

impl Condition {
    /// True if all of the conditions are true. Without any conditions it is true.
    pub fn all(conditions: impl IntoIterator<Item = Self>) -> Self {
        Self(Expr::All(conditions.into_iter().collect()))
    }

    /// True if at least one of the conditions is true. Without any conditions it is false.
    pub fn any(conditions: impl IntoIterator<Item = Self>) -> Self {
        Self(Expr::Any(conditions.into_iter().collect()))
    }

    /// The condition on several lines: one for each leaf and each operator, with children indented.
    ///
    /// ```
    /// use etcd_rules::key;
    /// let condition = key("/a").exists() & (key("/b").equals("x") | key("/c").absent());
    /// assert_eq!(condition.indented(), "\
    /// and
    ///   /a exists
    ///   or
    ///     /b = \"x\"
    ///     /c is absent
    /// ");
    /// ```
    pub fn indented(&self) -> String {
        let mut text = String::new();
        self.indent(0, &mut text);
        text
    }

    fn indent(&self, depth: usize, out: &mut String) {
        let (head, children) = match &self.0 {
            Expr::All(children) if !children.is_empty() => ("and".to_owned(), &children[..]),
            Expr::Any(children) if !children.is_empty() => ("or".to_owned(), &children[..]),
            Expr::Not(child) if child.as_leaf(true).is_none() => {
                ("not".to_owned(), std::slice::from_ref(&**child))
            }
            _ => (self.to_string(), &[][..]),
        };
        // Writing to a string can't fail.
        let _ = writeln!(out, "{:1$}{head}", "", depth * 2);
        for child in children {
            child.indent(depth + 1, out);
        }
    }

    /// The text of a leaf or of its negation. `None` if this is not a leaf.
    fn as_leaf(&self, negated: bool) -> Option<String> {
        match &self.0 {
            Expr::Leaf { patterns, test: Ok(test) } => Some(test.render(patterns, negated)),
            Expr::Leaf { patterns, test: Err(malformed) } => Some(malformed.render(patterns, negated)),
            _ => None,
        }
    }

    /// Writes the condition as an operand of an operator with this precedence: 0 for `or`, 1 for `and`, 2 for
    /// `not`.
    fn write(&self, f: &mut fmt::Formatter<'_>, outer: u8) -> fmt::Result {
        let (word, inner, children) = match &self.0 {
            Expr::All(children) => ("and", 1, children),
            Expr::Any(children) => ("or", 0, children),
            Expr::Not(child) => {
                return match child.as_leaf(true) {
                    Some(leaf) => f.write_str(&leaf),
                    None => {
                        f.write_str("not ")?;
                        child.write(f, 2)
                    }
                };
            }
            Expr::Leaf { .. } => return f.write_str(&self.as_leaf(false).unwrap_or_default()),
        };
        match &children[..] {
            [] => f.write_str(if word == "and" { "true" } else { "false" }),
            [only] => only.write(f, outer),
            [first, others @ ..] => {
                let (open, close) = if inner < outer { ("(", ")") } else { ("", "") };
                f.write_str(open)?;
                first.write(f, inner)?;
                for other in others {
                    write!(f, " {word} ")?;
                    other.write(f, inner)?;
                }
                f.write_str(close)
            }
        }
    }
}

/// Both are true. `a & b & c` is one `and` of three.
impl BitAnd for Condition {
    type Output = Self;

    fn bitand(self, other: Self) -> Self {
        Self(match self.0 {
            Expr::All(mut children) => {
                children.push(other);
                Expr::All(children)
            }
            _ => Expr::All(vec![self, other]),
        })
    }
}

/// At least one is true. `a | b | c` is one `or` of three.
impl BitOr for Condition {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(match self.0 {
            Expr::Any(mut children) => {
                children.push(other);
                Expr::Any(children)
            }
            _ => Expr::Any(vec![self, other]),
        })
    }
}

/// The opposite.
impl Not for Condition {
    type Output = Self;

    fn not(self) -> Self {
        Self(Expr::Not(Box::new(self)))
    }
}

/// Shows the condition on one line, with parentheses only where they are needed.
impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, 0)
    }
}

impl fmt::Debug for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Condition({self})")
    }
}
