//! Finds mistakes of a configuration, and warns about what is allowed but rarely meant.

use super::builder::NAMESPACES;
use super::config::Options;
use crate::compiled::{CompiledRule, RuleError};
use crate::error::ConfigError;
use crate::pattern::Pattern;
use std::collections::BTreeSet;
use std::time::Duration;

pub(super) fn check_application(application: &str, mistakes: &mut Vec<ConfigError>) {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if application.is_empty() {
        mistakes.push(ConfigError::NoApplication);
    } else if !application.chars().all(plain) {
        mistakes.push(ConfigError::Application(application.to_owned()));
    }
}

/// The largest buffer of events. The whole buffer is allocated at once.
const MAX_EVENTS: usize = 1 << 24;

pub(super) fn check_options(options: &Options) -> Vec<ConfigError> {
    let mut mistakes = Vec::new();
    let mut wrong = |option: &'static str, value: String, reason: &str| {
        mistakes.push(ConfigError::Option { option, value, reason: reason.to_owned() });
    };
    let Options {
        concurrency,
        lock_ttl,
        crawl_interval,
        crawl_jitter,
        crawl_rate,
        connect_timeout,
        request_timeout,
        watch_silence,
        rebalance,
        lag_limit,
        max_txn_ops,
        event_buffer,
        batch_size,
        settle,
        ..
    } = options;
    if *concurrency == 0 {
        wrong("concurrency", "0".into(), "no callback could ever run");
    }
    if *lock_ttl < Duration::from_secs(1) {
        wrong("lock_ttl", format!("{lock_ttl:?}"), "etcd grants leases of whole seconds, from 1");
    }
    if !(1..=MAX_EVENTS).contains(event_buffer) {
        wrong("event_buffer", event_buffer.to_string(), "it must be from 1 to 16,777,216");
    }
    if *max_txn_ops < 4 {
        wrong("max_txn_ops", max_txn_ops.to_string(), "taking a lock needs at least 4 operations");
    }
    if *batch_size == 0 {
        wrong("batch_size", "0".into(), "nothing could ever be sent");
    }
    for (option, mistake) in [
        ("crawl_jitter", crawl_jitter.mistake().map(|reason| (*crawl_jitter, reason))),
        ("the jitter of settle", settle.mistake()),
    ] {
        if let Some((jitter, reason)) = mistake {
            wrong(option, jitter.part().to_string(), reason);
        }
    }
    if *crawl_rate == Some(0) {
        wrong("crawl_rate", "0".into(), "no crawl would ever end");
    }
    for (option, value) in [
        ("crawl_interval", crawl_interval),
        ("connect_timeout", connect_timeout),
        ("request_timeout", request_timeout),
        ("watch_silence", watch_silence),
        ("rebalance", rebalance),
        ("lag_limit", lag_limit),
    ] {
        if value.is_zero() {
            wrong(option, "0s".into(), "it must be longer than nothing");
        }
    }
    mistakes
}

/// Patterns below a namespace of engines.
pub(super) fn reserved(rule: &CompiledRule, namespace: &str) -> Vec<RuleError> {
    let within = |pattern: &Pattern| {
        let namespace = [NAMESPACES, namespace].into_iter().find(|own| pattern.as_str().starts_with(own))?;
        let (pattern, namespace) = (pattern.to_string(), namespace.to_owned());
        Some(RuleError::ReservedPattern { pattern, namespace })
    };
    rule.slots().iter().filter_map(within).collect()
}

/// Warns about what is allowed but rarely meant, for all combinations of one rule.
pub(super) fn warn(combinations: &[CompiledRule]) {
    let everything: BTreeSet<&str> =
        combinations.iter().flat_map(|rule| rule.matches_everything()).map(Pattern::as_str).collect();
    let Some(rule) = combinations.first() else { return };
    for pattern in everything {
        tracing::warn!(rule = %rule.id(), pattern, "the pattern matches every key of its depth, so that all of etcd is watched");
    }
    if rule.is_of_absences() {
        tracing::warn!(
            rule = %rule.id(),
            "the condition holds when none of its keys exists: an instance is known only by a deletion, and one that happens while no engine runs is never seen"
        );
    }
}
