//! The mistakes that a rule can have.

use crate::condition::ConditionError;
use crate::pattern::PatternError;

/// A mistake in a rule, reported by [`EngineBuilder::build`](crate::EngineBuilder::build).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RuleError {
    /// The id is empty.
    #[error("the id is empty: give every rule a name that stays the same across versions")]
    EmptyId,
    /// The id has this many bytes, which is more than a metric label or a lock key should have.
    #[error("the id has {0} bytes: at most 200 are allowed")]
    LongId(usize),
    /// The id has a line break or another control character.
    #[error("the id has control characters: it is a label of metrics, and in log lines")]
    ControlCharacter,
    /// No condition was given.
    #[error("there is no condition: call `when` on the rule")]
    NoCondition,
    /// No callback was given.
    #[error("there is no callback: call `run` on the rule")]
    NoCallback,
    /// A pattern or comparison of the condition is malformed.
    #[error(transparent)]
    Condition(#[from] ConditionError),
    /// The lock pattern is malformed.
    #[error("lock pattern: {0}")]
    Lock(PatternError),
    /// A pattern that is to be [shown](crate::Rule::show) is malformed.
    #[error("`show`: {0}")]
    Shown(PatternError),
    /// A pattern that is to be [shown](crate::Rule::show) uses an attribute that the condition does not have.
    #[error(
        "`show` of `{pattern}` uses `:{attribute}`, which the condition does not bind; it binds {bound}: list such \
         keys in the callback"
    )]
    ShownAttribute {
        /// The pattern.
        pattern: String,
        /// The attribute that nothing binds.
        attribute: String,
        /// The attributes that are bound.
        bound: String,
    },
    /// A pattern that is to be [shown](crate::Rule::show) is shown anyway.
    #[error(
        "`show` of `{0}` has no effect: it is shown already, as a pattern of the condition or by another `show`"
    )]
    ShownTwice(String),
    /// The lock pattern uses an attribute that the condition does not have.
    #[error(
        "lock pattern `{pattern}` uses `:{attribute}`, which the condition does not bind; it binds {bound}"
    )]
    LockAttribute {
        /// The lock pattern.
        pattern: String,
        /// The attribute that nothing binds.
        attribute: String,
        /// The attributes that are bound.
        bound: String,
    },
    /// No key of the rule binds all of its attributes, so no key can imply an instance.
    #[error(
        "it can never fire: no pattern binds all of its attributes ({attributes}); the closest is `{closest}`, without {missing}: add a key that has all of them"
    )]
    NoBinder {
        /// All attributes of the rule.
        attributes: String,
        /// The pattern that binds most of them.
        closest: String,
        /// What that pattern lacks.
        missing: String,
    },
    /// The pattern is below a namespace of engines. Keys there match no pattern.
    #[error(
        "it can never fire: the keys of `{pattern}` are below `{namespace}`, where engines keep their own"
    )]
    ReservedPattern {
        /// The pattern.
        pattern: String,
        /// The namespace.
        namespace: String,
    },
    /// A rule without a lock has a lock pattern.
    #[error("it is optimistic, which is without a lock, and has a lock pattern: leave one of them out")]
    OptimisticLock,
    /// An attribute is one segment in one pattern and the rest of a key in another.
    #[error(
        "`{segment}` and `{rest}` use `{attribute}` as one segment and as the rest of a key: give them different names"
    )]
    MixedAttribute {
        /// The attribute.
        attribute: String,
        /// A pattern where it is one segment.
        segment: String,
        /// A pattern where it is the rest.
        rest: String,
    },
    /// The condition is always false.
    #[error("it can never fire: its condition reads no key and is always false, like `any` of nothing")]
    NeverTrue,
    /// Its patterns have this many different attributes, which is more than an instance can have.
    #[error("it has {0} attributes: at most 255 are allowed; divide it among several rules")]
    TooManyAttributes(usize),
    /// The transaction that takes the lock would have more operations than etcd allows, or it reads more than 255 keys,
    /// shown ones included.
    #[error(
        "it reads {keys} keys; the transaction that takes its lock allows {allowed} (etcd's --max-txn-ops of \
         {max_txn_ops}, less 3, and at most 255); divide it among several rules"
    )]
    TooManyKeys {
        /// The number of distinct keys of the rule.
        keys: usize,
        /// The number of keys that fit.
        allowed: usize,
        /// The limit of the server, as configured.
        max_txn_ops: usize,
    },
    /// An [expanded](crate::EngineBuilder::expand) value has a slash where one segment is wanted.
    #[error("`{pattern}` uses `:{attribute}` as one segment, and its expanded value `{value}` has a slash")]
    ExpandedSlash {
        /// The pattern.
        pattern: String,
        /// The attribute.
        attribute: String,
        /// The value.
        value: String,
    },
    /// Its attributes [expand](crate::EngineBuilder::expand) to too many combinations.
    #[error(
        "its attributes expand to {combinations} combinations; at most {allowed} are allowed: leave an attribute that has many values to the keys, perhaps with a constraint"
    )]
    TooManyExpansions {
        /// The product of the numbers of values.
        combinations: usize,
        /// The most that are allowed.
        allowed: usize,
    },
    /// The namespace of a [poll](crate::Rule::poll) doesn't have the attributes of the condition. Then
    /// instances would share a delay, or a delay would belong to no instance.
    #[error(
        "the polling namespace `{namespace}` has the attributes {namespace_attributes}, and the condition {attributes}: give it the same, so that every instance has a delay of its own"
    )]
    PollAttributes {
        /// The namespace, as a pattern.
        namespace: String,
        /// Its attributes.
        namespace_attributes: String,
        /// The attributes of the condition.
        attributes: String,
    },
    /// A duration or number is out of range.
    #[error("{option} is {value}: {reason}")]
    Option {
        /// The option.
        option: &'static str,
        /// Its value.
        value: String,
        /// Why it is not allowed.
        reason: &'static str,
    },
}
