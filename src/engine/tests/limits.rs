//! Every option at its limits: the least and the most are built, and start; less is refused, and more is refused or
//! is the same as the most.

use super::SECOND;
use crate::compiled::{Backoff, RateLimit, Settle};
use crate::embedded::EmbeddedEtcd;
use crate::limits::{Amount, Beyond, ENGINE, LONGEST_PATTERN, Limit, RULE};
use crate::time::Jitter;
use crate::{Engine, EngineBuilder, Error, Firing, Outcome, Rule, key};
use Amount::{Bytes, Count, Ratio, Time};
use std::fmt::Write;
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);

fn rule() -> Rule {
    Rule::new("r")
        .when(key("/a/:id").exists())
        .run(|firing: Firing| async move { Ok::<Outcome, Error>(firing.commit().delete("/a/:id").into()) })
}

fn builder(etcd: &EmbeddedEtcd, application: &str, rule: Rule) -> EngineBuilder {
    Engine::builder_with_channel(application, etcd.channel()).rule(rule)
}

fn text(bytes: u64) -> String {
    "x".repeat(bytes as usize)
}

/// An engine with this value of this option. It panics for an option that has no line here.
fn engine_with(etcd: &EmbeddedEtcd, option: &str, value: Amount) -> EngineBuilder {
    if let ("application", Bytes(bytes)) = (option, value) {
        return builder(etcd, &text(bytes), rule());
    }
    let engine = builder(etcd, "app", rule());
    match (option, value) {
        ("name", Bytes(bytes)) => engine.name(text(bytes)),
        // It ends in a slash.
        ("namespace", Bytes(1)) => {
            builder(etcd, "app", rule().when(key("outside/:id").exists())).namespace("/")
        }
        ("namespace", Bytes(bytes)) => engine.namespace(format!("{}/", text(bytes.saturating_sub(1)))),
        ("key_prefix", Bytes(bytes)) => engine.key_prefix(text(bytes)),
        ("concurrency", Count(count)) => engine.concurrency(count as usize),
        ("evaluators", Count(count)) => engine.evaluators(count as usize),
        ("settle", Time(time)) => engine.settle(time),
        ("the jitter of settle", Ratio(part)) => {
            engine.settle(Settle::new(MINUTE / 1000).jitter(Jitter::up_to(part)))
        }
        ("the count of instance_rate", Count(count)) => {
            engine.instance_rate(RateLimit::new(count as u32, MINUTE))
        }
        ("the time of instance_rate", Time(time)) => engine.instance_rate(RateLimit::new(1, time)),
        ("rule_concurrency", Count(count)) => engine.rule_concurrency(count as usize),
        ("time_limit", Time(time)) => engine.time_limit(time),
        ("the base of backoff", Time(time)) => engine.backoff(Backoff::new(time, Duration::MAX)),
        ("the longest delay of backoff", Time(time)) => engine.backoff(Backoff::new(MINUTE / 1000, time)),
        ("the jitter of backoff", Ratio(part)) => {
            engine.backoff(Backoff::default().jitter(Jitter::up_to(part)))
        }
        ("the count of rule_rate_limit", Count(count)) => {
            engine.rule_rate_limit(RateLimit::new(count as u32, MINUTE))
        }
        ("the time of rule_rate_limit", Time(time)) => engine.rule_rate_limit(RateLimit::new(1, time)),
        ("min_interval", Time(time)) => engine.min_interval(time),
        ("lock_ttl", Time(time)) => engine.lock_ttl(time),
        ("crawl_interval", Time(time)) => engine.crawl_interval(time),
        ("crawl_jitter", Ratio(part)) => engine.crawl_jitter(Jitter::up_to(part)),
        ("crawl_rate", Count(count)) => engine.crawl_rate(count as u32),
        ("crawl_ageing", Time(time)) => engine.crawl_ageing(time),
        ("start_timeout", Time(time)) => engine.start_timeout(time),
        ("shutdown_deadline", Time(time)) => engine.shutdown_deadline(time),
        ("connect_timeout", Time(time)) => engine.connect_timeout(time),
        ("request_timeout", Time(time)) => engine.request_timeout(time),
        ("watch_silence", Time(time)) => engine.watch_silence(time),
        ("rebalance", Time(time)) => engine.rebalance(time),
        ("lag_limit", Time(time)) => engine.lag_limit(time),
        ("max_txn_ops", Count(count)) => engine.max_txn_ops(count as usize),
        ("max_request_bytes", Bytes(bytes)) => engine.max_request_bytes(bytes as usize),
        ("event_buffer", Count(count)) => engine.event_buffer(count as usize),
        ("batch_size", Count(count)) => engine.batch_size(count as usize),
        _ => panic!("the option {option} of an engine is in the table, and not tried: {value:?}"),
    }
}

fn rule_with(option: &str, value: Amount) -> Rule {
    let rule = rule();
    let pattern = |bytes: u64| format!("/a/:id/{}", text(bytes.saturating_sub(7)));
    match (option, value) {
        ("id", Bytes(bytes)) => Rule::new(text(bytes))
            .when(key("/a/:id").exists())
            .run(|_| async { Ok::<Outcome, Error>(Outcome::done()) }),
        ("poll", Time(time)) => rule.poll("/poll/:id", time),
        ("time_limit", Time(time)) => rule.time_limit(time),
        ("lock_ttl", Time(time)) => rule.lock_ttl(time),
        ("concurrency", Count(count)) => rule.concurrency(count as usize),
        ("settle", Time(time)) => rule.settle(time),
        ("the jitter of settle", Ratio(part)) => {
            rule.settle(Settle::new(MINUTE / 1000).jitter(Jitter::up_to(part)))
        }
        ("the count of instance_rate", Count(count)) => {
            rule.instance_rate(RateLimit::new(count as u32, MINUTE))
        }
        ("the time of instance_rate", Time(time)) => rule.instance_rate(RateLimit::new(1, time)),
        ("the count of rate_limit", Count(count)) => rule.rate_limit(RateLimit::new(count as u32, MINUTE)),
        ("the time of rate_limit", Time(time)) => rule.rate_limit(RateLimit::new(1, time)),
        ("min_interval", Time(time)) => rule.min_interval(time),
        ("the base of backoff", Time(time)) => rule.backoff(Backoff::new(time, Duration::MAX)),
        ("the longest delay of backoff", Time(time)) => rule.backoff(Backoff::new(MINUTE / 1000, time)),
        ("the jitter of backoff", Ratio(part)) => {
            rule.backoff(Backoff::default().jitter(Jitter::up_to(part)))
        }
        // Shorter ones are other mistakes.
        ("a pattern", Bytes(0)) => rule.when(key("").exists()),
        ("a pattern", Bytes(1)) => rule.when(key("a").exists()).optimistic(),
        ("a pattern", Bytes(bytes)) => rule.when(key(pattern(bytes)).exists()),
        ("the values of one_of", Count(count)) => {
            rule.when(key("/a/:id").one_of((0..count).map(|n| n.to_string())))
        }
        _ => panic!("the option {option} of a rule is in the table, and not tried: {value:?}"),
    }
}

fn less(value: Amount) -> Option<Amount> {
    match value {
        Count(count) => count.checked_sub(1).map(Count),
        Bytes(bytes) => bytes.checked_sub(1).map(Bytes),
        Time(time) => time.checked_sub(Duration::from_nanos(1)).map(Time),
        Ratio(part) => Some(Ratio(part - 0.001)),
    }
}

/// A little more, and much more. Counts of the type's own most have none.
fn more(value: Amount) -> Vec<Amount> {
    match value {
        Count(count) if count == u64::from(u32::MAX) => vec![],
        Count(count) => vec![Count(count + 1), Count(100 * count)],
        Bytes(bytes) => vec![Bytes(bytes + 1), Bytes((2 * bytes).max(1 << 20))],
        Time(time) => vec![Time(time + Duration::from_nanos(1)), Time(Duration::MAX)],
        Ratio(part) => vec![Ratio(part + 0.001), Ratio(f64::INFINITY), Ratio(f64::NAN)],
    }
}

/// The mistakes of an option's value.
fn mistakes(engine: EngineBuilder) -> Vec<String> {
    engine
        .build()
        .err()
        .map_or_else(Vec::new, |error| error.errors().iter().map(ToString::to_string).collect())
}

#[tokio::test]
async fn every_option_is_refused_below_its_least_and_refused_or_cut_above_its_most() {
    let etcd = EmbeddedEtcd::in_process();
    let check = |limit: &Limit, with: &dyn Fn(Amount) -> EngineBuilder| {
        let Limit { option, least, most, beyond, .. } = *limit;
        for value in [least, most] {
            assert_eq!(mistakes(with(value)), Vec::<String>::new(), "{option} of {value}");
        }
        let refused = |value: Amount| {
            let found = mistakes(with(value));
            // It may be the cause of others.
            assert!(!found.is_empty(), "{option} of {value:?}");
            assert!(found[0].len() < 400, "{option} of {value:?}: {} bytes of text", found[0].len());
        };
        // An empty namespace is a slash, as one of a byte is.
        less(least).into_iter().filter(|_| option != "namespace").for_each(refused);
        for value in more(most) {
            match beyond {
                Beyond::Refused => refused(value),
                Beyond::Cut => assert_eq!(mistakes(with(value)), Vec::<String>::new(), "{option} of {value}"),
            }
        }
    };
    for limit in ENGINE {
        check(limit, &|value| engine_with(&etcd, limit.option, value));
    }
    for limit in RULE {
        check(limit, &|value| builder(&etcd, "app", rule_with(limit.option, value)));
    }
}

/// It becomes ready, and ends.
#[tokio::test(flavor = "multi_thread")]
async fn an_engine_with_any_option_at_its_limits_starts_and_ends() {
    let etcd = EmbeddedEtcd::in_process();
    let run = async |option: &str, value: Amount, engine: EngineBuilder| {
        let started = async {
            let running = engine.build().unwrap().start().await;
            let running = running.unwrap_or_else(|error| panic!("{option} of {value}: {error}"));
            running.ready().await;
            running.shutdown(SECOND).await.unwrap_or_else(|error| panic!("{option} of {value}: {error}"));
        };
        let within = tokio::time::timeout(20 * SECOND, started).await;
        within.unwrap_or_else(|_| panic!("{option} of {value}: neither ready nor ended in time"));
    };
    // The shortest times let nothing be answered, as their documentation says.
    let too_short = |option: &str| {
        ["start_timeout", "connect_timeout", "request_timeout", "watch_silence", "lag_limit"]
            .contains(&option)
    };
    for limit in ENGINE {
        for value in [limit.least, limit.most] {
            if value == limit.most || !too_short(limit.option) {
                run(limit.option, value, engine_with(&etcd, limit.option, value)).await;
            }
        }
        if limit.beyond == Beyond::Cut {
            let longest = Time(Duration::MAX);
            run(limit.option, longest, engine_with(&etcd, limit.option, longest)).await;
        }
    }
    for limit in RULE {
        for value in [limit.least, limit.most] {
            run(limit.option, value, builder(&etcd, "app", rule_with(limit.option, value))).await;
        }
    }
}

#[tokio::test]
async fn names_and_namespaces_with_odd_characters_are_refused() {
    let etcd = EmbeddedEtcd::in_process();
    let engine = || builder(&etcd, "app", rule());
    let of_rule = |id: &str| {
        let rule = Rule::new(id).when(key("/a/:id").exists());
        builder(&etcd, "app", rule.run(|_| async { Ok::<Outcome, Error>(Outcome::done()) }))
    };
    for (what, engine, expected) in [
        ("a name", engine().name("two\nlines"), "name is two\\nlines: it may not have control characters"),
        ("a name that is empty", engine().name(""), "name is : it is a label"),
        ("a namespace", engine().namespace("/my\n/"), "namespace is /my\\n/: it may not have control"),
        ("a key prefix", engine().key_prefix("/a\nb"), "key_prefix is /a\\nb: it may not have control"),
        ("an attribute", engine().namespace("/locks/:id"), "no part of it may begin with `:` or `*`"),
        ("the rest", engine().namespace("/locks/*rest"), "no part of it may begin with `:` or `*`"),
        ("a space", engine().namespace("/my locks"), "it may not have spaces"),
        ("an id", of_rule("a\r\nb"), "rule `a\\r\\nb`: the id has control characters"),
        ("an application", builder(&etcd, "a\nb", rule()), "the application name `a\\nb` may only have"),
        ("a long id", of_rule(&text(1 << 20)), "(1048576 bytes)`: the id has 1048576 bytes: at most 200"),
    ] {
        let found = mistakes(engine);
        assert!(
            found.iter().any(|mistake| mistake.contains(expected)),
            "{what}: {expected}: not in {found:#?}"
        );
    }
    for namespace in ["/locks/", "locks", "/a/b:c/d*e/", "/ü/"] {
        assert_eq!(mistakes(engine().namespace(namespace)), Vec::<String>::new(), "{namespace}");
    }
}

/// What the documentation lists is what `build` goes by.
#[test]
fn the_documentation_lists_the_limits() {
    let mut lists = String::new();
    for (what, limits) in [("an engine", ENGINE), ("a rule", RULE)] {
        writeln!(
            lists,
            "## Options of {what}\n\n| option | least | most | more is | why |\n|---|---|---|---|---|"
        )
        .unwrap();
        for Limit { option, least, most, beyond, why } in limits {
            let beyond = match beyond {
                Beyond::Refused => "refused",
                Beyond::Cut => "the same as the most",
            };
            writeln!(lists, "| {option} | {least} | {most} | {beyond} | {why} |").unwrap();
        }
        lists.push('\n');
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/limits.md");
    let known = std::fs::read_to_string(path).unwrap_or_default();
    let head = known.split("## Options of an engine").next().unwrap_or_default();
    let expected = format!("{head}{}\n", lists.trim_end());
    if std::env::var_os("REGENERATE").is_some() {
        std::fs::write(path, &expected).unwrap();
    }
    let known = std::fs::read_to_string(path).unwrap_or_default();
    assert!(known == expected, "docs/limits.md is not as src/limits.rs: write it anew with REGENERATE=1");
    assert!(expected.contains(&LONGEST_PATTERN.to_string()));
}
