//! Finds mistakes of a configuration, and warns about what is allowed but rarely meant.

use super::builder::NAMESPACES;
use super::config::EngineOptions;
use crate::compiled::{CompiledRule, Defaults, RuleError};
use crate::error::ConfigError;
use crate::limits::{self, Amount, shown};
use crate::pattern::Pattern;
use std::collections::BTreeSet;

pub(super) fn check_application(application: &str, mistakes: &mut Vec<ConfigError>) {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if application.is_empty() {
        mistakes.push(ConfigError::NoApplication);
    } else if !application.chars().all(plain) {
        mistakes.push(ConfigError::Application(shown(application)));
    }
    let bytes = Amount::Bytes(application.len() as u64);
    if let Some(reason) =
        limits::mistake(limits::ENGINE, "application", bytes).filter(|_| !application.is_empty())
    {
        let (option, reason) = ("application", reason.to_owned());
        mistakes.push(ConfigError::Option { option, value: shown(application), reason });
    }
}

pub(super) fn check_options(options: &EngineOptions) -> Vec<ConfigError> {
    let mut mistakes = Vec::new();
    let mut check = |option: &'static str, value: Amount, text: String| {
        if let Some(reason) = limits::mistake(limits::ENGINE, option, value) {
            mistakes.push(ConfigError::Option { option, value: text, reason: reason.to_owned() });
        }
    };
    let EngineOptions {
        concurrency,
        evaluators,
        lock_ttl,
        crawl_interval,
        crawl_jitter,
        crawl_rate,
        starvation_limit,
        start_timeout,
        shutdown_deadline,
        connect_timeout,
        request_timeout,
        watch_silence,
        rebalance,
        lag_limit,
        max_txn_ops,
        max_request_bytes,
        event_buffer,
        batch_size,
        settle,
        instance_rate,
        rule_concurrency,
        defaults: Defaults { time_limit, backoff, rate_limit, min_interval },
        // They have no size.
        crawl_mutex: _,
        owners: _,
        cluster_id: _,
        reveal: _,
    } = options;
    let rate = crawl_rate.map(|rate| rate as usize);
    for (option, count) in [
        ("concurrency", Some(*concurrency)),
        ("evaluators", Some(*evaluators)),
        ("the count of instance_rate", Some(instance_rate.count() as usize)),
        ("crawl_rate", rate),
        ("rule_concurrency", *rule_concurrency),
        ("the count of rule_rate_limit", rate_limit.map(|rate| rate.count() as usize)),
        ("max_txn_ops", Some(*max_txn_ops)),
        ("event_buffer", Some(*event_buffer)),
        ("batch_size", Some(*batch_size)),
    ] {
        if let Some(count) = count {
            check(option, Amount::Count(count as u64), count.to_string());
        }
    }
    check("max_request_bytes", Amount::Bytes(*max_request_bytes as u64), max_request_bytes.to_string());
    for (option, time) in [
        ("settle", Some(settle.delay())),
        ("the time of instance_rate", Some(instance_rate.per())),
        ("lock_ttl", Some(*lock_ttl)),
        ("time_limit", Some(*time_limit)),
        ("the base of backoff", Some(backoff.base())),
        ("the time of rule_rate_limit", rate_limit.map(|rate| rate.per())),
        ("min_interval", *min_interval),
        ("crawl_interval", Some(*crawl_interval)),
        ("crawl_ageing", Some(*starvation_limit)),
        ("start_timeout", *start_timeout),
        ("shutdown_deadline", Some(*shutdown_deadline)),
        ("connect_timeout", Some(*connect_timeout)),
        ("request_timeout", Some(*request_timeout)),
        ("watch_silence", Some(*watch_silence)),
        ("rebalance", Some(*rebalance)),
        ("lag_limit", Some(*lag_limit)),
    ] {
        if let Some(time) = time {
            check(option, Amount::Time(time), format!("{time:?}"));
        }
    }
    for (option, jitter) in [
        ("crawl_jitter", *crawl_jitter),
        ("the jitter of settle", settle.part()),
        ("the jitter of backoff", backoff.part()),
    ] {
        check(option, Amount::Ratio(jitter.part()), jitter.part().to_string());
    }
    mistakes
}

/// The name and the namespace, if they are given.
pub(super) fn check_names(name: Option<&str>, namespace: Option<&str>, mistakes: &mut Vec<ConfigError>) {
    for (option, text) in [("name", name), ("namespace", namespace)] {
        let Some(text) = text else { continue };
        let mut wrong = |reason: &str| {
            mistakes.push(ConfigError::Option { option, value: shown(text), reason: reason.to_owned() });
        };
        // An empty namespace is a slash.
        let bytes = if option == "namespace" { text.len().max(1) } else { text.len() };
        if let Some(reason) = limits::mistake(limits::ENGINE, option, Amount::Bytes(bytes as u64)) {
            wrong(reason);
        }
        if text.chars().any(char::is_control) {
            wrong("it may not have control characters, such as a line break");
        }
    }
    let Some(namespace) = namespace else { return };
    let mut wrong = |reason: &str| {
        let (value, reason) = (shown(namespace), reason.to_owned());
        mistakes.push(ConfigError::Option { option: "namespace", value, reason });
    };
    if namespace.split('/').any(|segment| segment.starts_with([':', '*'])) {
        wrong("it is the beginning of keys and no pattern: no part of it may begin with `:` or `*`");
    }
    if namespace.contains([' ', '\u{a0}', '\u{3000}']) {
        wrong("it may not have spaces, which are easily overlooked in a key");
    }
}

/// What is before every key in etcd. It is no pattern, and it may be anything that a key may be.
pub(super) fn check_key_prefix(prefix: &str, mistakes: &mut Vec<ConfigError>) {
    let bytes = Amount::Bytes(prefix.len() as u64);
    let control = prefix.chars().any(char::is_control);
    let reason = limits::mistake(limits::ENGINE, "key_prefix", bytes)
        .or(control.then_some("it may not have control characters, such as a line break"));
    if let Some(reason) = reason {
        let (value, reason) = (shown(prefix), reason.to_owned());
        mistakes.push(ConfigError::Option { option: "key_prefix", value, reason });
    }
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
