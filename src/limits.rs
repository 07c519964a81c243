//! The least and the most of every option that has a size: one table, which `build` goes by and `docs/limits.md` lists.

use crate::time::LONGEST;
use std::fmt;
use std::time::Duration;

/// A value of an option.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub(crate) enum Amount {
    Count(u64),
    Bytes(u64),
    Time(Duration),
    Ratio(f64),
}

/// What becomes of more than the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beyond {
    /// `build` refuses it.
    Refused,
    /// It is the same as the most. `Duration::MAX` is a common way to say "never".
    Cut,
}

/// The limits of one option.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    pub(crate) option: &'static str,
    pub(crate) least: Amount,
    pub(crate) most: Amount,
    pub(crate) beyond: Beyond,
    /// Why it is not less, or not more.
    pub(crate) why: &'static str,
}

use Amount::{Bytes, Count, Ratio, Time};
use Beyond::{Cut, Refused};

const NOTHING: Duration = Duration::ZERO;
const NANO: Duration = Duration::from_nanos(1);
const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 3600);

const fn limit(
    option: &'static str,
    least: Amount,
    most: Amount,
    beyond: Beyond,
    why: &'static str,
) -> Limit {
    Limit { option, least, most, beyond, why }
}

/// Bytes of a pattern.
pub(crate) const LONGEST_PATTERN: usize = 4096;

/// Options of an engine, in the order of the builder.
#[rustfmt::skip]
pub(crate) const ENGINE: &[Limit] = &[
    limit("application", Bytes(1), Bytes(200), Refused, "it is in every key of the engine"),
    limit("name", Bytes(1), Bytes(200), Refused, "it is a label of every metric, and in every lock"),
    limit("namespace", Bytes(1), Bytes(1000), Refused, "it is in every key of the engine"),
    limit("key_prefix", Bytes(0), Bytes(1000), Refused, "it is in every key in etcd"),
    limit("concurrency", Count(1), Count(100_000), Refused, "with none no callback could ever run, and each takes memory"),
    limit("evaluators", Count(0), Count(64), Refused, "each is a thread"),
    limit("settle", Time(NOTHING), Time(LONGEST), Cut, ""),
    limit("the jitter of settle", Ratio(0.0), Ratio(10.0), Refused, "it is a part of the time, from 0 to 10"),
    limit("the count of instance_rate", Count(1), Count(u32::MAX as u64), Refused, "nothing could ever start; to hold the rule back, pause it"),
    limit("the time of instance_rate", Time(NANO), Time(LONGEST), Refused, "the time must be more than zero and at most 365 days"),
    limit("rule_concurrency", Count(1), Count(100_000), Refused, "with none no callback could ever run, and each takes memory"),
    limit("time_limit", Time(NANO), Time(LONGEST), Cut, "a callback needs some time"),
    limit("the base of backoff", Time(NOTHING), Time(LONGEST), Cut, ""),
    limit("the longest delay of backoff", Time(NOTHING), Time(LONGEST), Cut, ""),
    limit("the jitter of backoff", Ratio(0.0), Ratio(10.0), Refused, "it is a part of the time, from 0 to 10"),
    limit("the count of rule_rate_limit", Count(1), Count(u32::MAX as u64), Refused, "nothing could ever start; to hold the rules back, pause them"),
    limit("the time of rule_rate_limit", Time(NANO), Time(LONGEST), Refused, "the time must be more than zero and at most 365 days"),
    limit("min_interval", Time(NANO), Time(LONGEST), Refused, "the time must be more than zero and at most 365 days"),
    limit("lock_ttl", Time(SECOND), Time(DAY), Refused, "etcd grants leases of whole seconds, and the work of an engine that crashed waits for so long"),
    limit("crawl_interval", Time(MILLI), Time(LONGEST), Cut, "crawls would follow each other without an end"),
    limit("crawl_jitter", Ratio(0.0), Ratio(10.0), Refused, "it is a part of the time, from 0 to 10"),
    limit("crawl_rate", Count(1), Count(u32::MAX as u64), Refused, "no crawl would ever end"),
    limit("crawl_ageing", Time(NOTHING), Time(LONGEST), Cut, ""),
    limit("start_timeout", Time(MILLI), Time(LONGEST), Cut, "no engine could ever start; leave the option out to start without waiting"),
    limit("shutdown_deadline", Time(NOTHING), Time(LONGEST), Cut, ""),
    limit("connect_timeout", Time(MILLI), Time(LONGEST), Cut, "nothing could ever be reached"),
    limit("request_timeout", Time(MILLI), Time(LONGEST), Cut, "nothing could ever be answered"),
    limit("watch_silence", Time(MILLI), Time(LONGEST), Cut, "a watch would be opened anew all the time"),
    limit("rebalance", Time(MILLI), Time(LONGEST), Cut, "connections would be opened anew all the time"),
    limit("lag_limit", Time(MILLI), Time(LONGEST), Cut, "the engine would never be well"),
    limit("max_txn_ops", Count(4), Count(100_000), Refused, "taking a lock needs at least 4 operations, and no server allows so many"),
    limit("max_request_bytes", Bytes(16 << 10), Bytes(1 << 28), Refused, "locks and commits of ordinary keys need some KiB, and no server takes so much"),
    limit("event_buffer", Count(1), Count(1 << 24), Refused, "it must be from 1 to 16,777,216: all of it is allocated at once"),
    limit("batch_size", Count(1), Count(10_000), Refused, "with none nothing could ever be sent, and no server allows so many"),
];

/// Options of a rule.
#[rustfmt::skip]
pub(crate) const RULE: &[Limit] = &[
    limit("id", Bytes(1), Bytes(200), Refused, "it is a label of metrics, and in keys"),
    limit("poll", Time(NANO), Time(LONGEST), Refused, "the interval must be more than zero and at most 365 days"),
    limit("time_limit", Time(NANO), Time(LONGEST), Cut, "a callback needs some time"),
    limit("lock_ttl", Time(SECOND), Time(DAY), Refused, "etcd grants leases of whole seconds, and the work of an engine that crashed waits for so long"),
    limit("concurrency", Count(1), Count(100_000), Refused, "with none no callback could ever run, and each takes memory"),
    limit("settle", Time(NOTHING), Time(LONGEST), Cut, ""),
    limit("the jitter of settle", Ratio(0.0), Ratio(10.0), Refused, "it is a part of the time, from 0 to 10"),
    limit("the count of instance_rate", Count(1), Count(u32::MAX as u64), Refused, "nothing could ever start; to hold the rule back, pause it"),
    limit("the time of instance_rate", Time(NANO), Time(LONGEST), Refused, "the time must be more than zero and at most 365 days"),
    limit("the count of rate_limit", Count(1), Count(u32::MAX as u64), Refused, "nothing could ever start; to hold the rule back, pause it"),
    limit("the time of rate_limit", Time(NANO), Time(LONGEST), Refused, "the time must be more than zero and at most 365 days"),
    limit("min_interval", Time(NANO), Time(LONGEST), Refused, "the time must be more than zero and at most 365 days"),
    limit("the base of backoff", Time(NOTHING), Time(LONGEST), Cut, ""),
    limit("the longest delay of backoff", Time(NOTHING), Time(LONGEST), Cut, ""),
    limit("the jitter of backoff", Ratio(0.0), Ratio(10.0), Refused, "it is a part of the time, from 0 to 10"),
    limit("a pattern", Bytes(1), Bytes(LONGEST_PATTERN as u64), Refused, "it is in messages and pages; etcd's own keys are seldom longer"),
    limit("the values of one_of", Count(1), Count(10_000), Refused, "without any it is never true, and each is compared with every value; use `compare` for more"),
];

/// What is wrong with a value of an option, if anything is.
pub(crate) fn mistake(limits: &'static [Limit], option: &str, value: Amount) -> Option<&'static str> {
    let limit = limits.iter().find(|limit| limit.option == option)?;
    let fits = value >= limit.least && (limit.beyond == Cut || value <= limit.most);
    // Not a number is neither.
    (!fits).then_some(limit.why)
}

/// A name in a message: on one line, and of a long one its beginning.
pub(crate) fn shown(name: &str) -> String {
    const SHOWN: usize = 60;
    let mut beginning = String::new();
    for c in name.chars().take(SHOWN) {
        match c.is_control() {
            true => beginning.extend(c.escape_debug()),
            false => beginning.push(c),
        }
    }
    if name.chars().nth(SHOWN).is_some() {
        format!("{beginning}… ({} bytes)", name.len())
    } else {
        beginning
    }
}

/// The most of a time that is cut.
pub(crate) fn cut(limits: &[Limit], option: &str, time: &mut Duration) {
    let limit = limits.iter().find(|limit| limit.option == option);
    if let Some(Limit { most: Time(most), beyond: Cut, .. }) = limit {
        *time = (*time).min(*most);
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Count(count) => count.fmt(f),
            Bytes(1) => f.write_str("1 byte"),
            Bytes(bytes) => write!(f, "{bytes} bytes"),
            Time(NOTHING) => f.write_str("0"),
            Time(time) if *time == LONGEST => f.write_str("365 days"),
            Time(time) if *time == DAY => f.write_str("1 day"),
            Time(time) => write!(f, "{time:?}"),
            Ratio(part) => part.fmt(f),
        }
    }
}
