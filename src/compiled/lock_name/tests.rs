//! What locks and marks are named by, and what not.

use super::*;
use crate::compiled::{Defaults, Limits, RateLimit};
use crate::condition::{Condition, key};
use crate::error::Error;
use crate::pattern::Attributes;
use crate::rule::Rule;
use std::time::Duration;

fn compiled(id: &str, condition: Condition, lock: Option<&str>) -> CompiledRule {
    let limits = Limits {
        max_txn_ops: 128,
        lock_ttl: Duration::from_secs(10),
        concurrency: 1,
        settle: Default::default(),
        instance_rate: RateLimit::OF_INSTANCES,
        defaults: Defaults::default(),
    };
    let mut rule = Rule::new(id).when(condition).run(async |_| Ok::<(), Error>(()));
    if let Some(lock) = lock {
        rule = rule.lock(lock);
    }
    CompiledRule::alone(rule, limits).unwrap_or_else(|mistakes| panic!("{mistakes:?}"))
}

/// The keys of the lock and the mark of the instance with these values, and the beginnings of their names.
fn named(rule: &CompiledRule, values: &[(&str, &str)]) -> [(String, Option<Beginning>); 2] {
    let attributes: Attributes = values.iter().map(|(name, value)| (Arc::from(*name), *value)).collect();
    let binding = rule.binding_of(&attributes).expect("all are given");
    let (mut lock, mut mark) = (String::new(), String::new());
    let beginnings = (
        rule.write_lock_key("/ns/", &binding, &mut lock),
        rule.write_backoff_key("/ns/", &binding, &mut mark),
    );
    [(lock, beginnings.0), (mark, beginnings.1)]
}

fn keys(rule: &CompiledRule, values: &[(&str, &str)]) -> [String; 2] {
    named(rule, values).map(|(key, beginning)| {
        assert_eq!(beginning, None, "{key}");
        key
    })
}

#[test]
fn how_the_condition_is_written_does_not_matter() {
    let parts = [("/a/:x/:y", "/b/:y/:x"), ("/b/:y/:x", "/a/:x/:y")];
    for (one, other) in parts {
        let rule = compiled("r", key(one).exists() & key(other).exists(), None);
        assert_eq!(keys(&rule, &[("x", "1"), ("y", "2")]), ["/ns/lock/r/1/2", "/ns/backoff/r/1/2"]);
        let rule = compiled("r", key(one).exists() & key(other).exists(), Some("/:y/poll"));
        assert_eq!(keys(&rule, &[("x", "1"), ("y", "2")]), ["/ns/lock//2/poll", "/ns/backoff/r/1/2"]);
    }
}

#[test]
fn lock_patterns_written_alike_name_the_same_lock_in_all_rules() {
    let of = |id, pattern| {
        let rule = compiled(id, key("/a/:dc/:id").exists(), Some(pattern));
        keys(&rule, &[("dc", "ams"), ("id", "7")])[0].clone()
    };
    assert_eq!(of("one", "/:dc"), "/ns/lock//ams");
    assert_eq!(of("one", "/:dc"), of("two", "/:dc"));
    assert_eq!(of("one", "/:dc"), of("two", ":dc"), "the slash at the beginning is that of every pattern");
    assert_ne!(of("one", "/:dc"), of("one", "/:dc/:id"));
}

#[test]
fn no_value_forges_the_name_of_another_instance() {
    let rule = compiled("poll", key("/a/:x/:y").exists(), None);
    let shared = compiled("shared", key("/a/:x/:y").exists(), Some("/:x/:y"));
    let literal = compiled("literal", key("/a/:x/:y").exists(), Some("/poll%2F1/:y"));
    let digest = format!("%sha256/{}", "0".repeat(64));
    let names = [
        (&rule, ["1", "2"]),
        (&rule, ["1/2", ""]),
        (&rule, ["1%2F2", ""]),
        (&rule, ["%sha256", "2"]),
        (&rule, ["/", "1\n"]),
        (&shared, ["poll", "1"]),
        (&shared, ["poll/1", "2"]),
        (&shared, [digest.as_str(), "2"]),
        (&literal, ["x", "2"]),
    ];
    let mut locks: Vec<String> =
        names.iter().map(|(rule, [x, y])| keys(rule, &[("x", x), ("y", y)])[0].clone()).collect();
    assert!(locks.iter().all(|lock| !lock.contains("%sha256/") && lock.is_ascii()), "{locks:?}");
    locks.sort();
    locks.dedup();
    assert_eq!(locks.len(), names.len(), "{locks:?}");
}

#[test]
fn a_long_name_is_its_digest_and_its_beginning() {
    let rule = compiled("r", key("/a/:id").exists(), None);
    // "r/" and the id.
    let [(lock, none), _] = named(&rule, &[("id", &"x".repeat(LONGEST_NAME - 2))]);
    assert_eq!((lock.len(), none), ("/ns/lock/".len() + LONGEST_NAME, None));
    let long = "x".repeat(LONGEST_NAME - 1);
    let [(lock, lock_name), (mark, mark_name)] = named(&rule, &[("id", &long)]);
    // printf 'r/%s' $(printf 'x%.0s' {1..255}) | sha256sum
    let digest = "fe66301f9dafb78c228450465bd18ead1692d6fd7c440a8b0a0c4f16d898f154";
    assert_eq!(lock, format!("/ns/lock/%sha256/{digest}"));
    assert_eq!(mark, format!("/ns/backoff/%sha256/{digest}"));
    let beginning = format!("r/{}", "x".repeat(BEGINNING - 2));
    assert_eq!((lock_name.as_deref(), mark_name.as_deref()), (Some(&*beginning), Some(&*beginning)));
    // What differs after the beginning has another lock; encoding counts.
    let other = |id: &str| named(&rule, &[("id", id)])[0].0.clone();
    assert_ne!(other(&format!("{long}y")), other(&format!("{long}z")));
    assert_eq!(other(&"%".repeat(1 << 20)).len(), lock.len());
    assert!(other(&"%".repeat(90)).starts_with("/ns/lock/%sha256/"));
    // Of an explicit pattern only the mark's name has the rest.
    let shared = compiled("r", key("/a/:dc/:id").exists(), Some("/:dc"));
    let [(lock, none), (_, mark_name)] = named(&shared, &[("dc", "ams"), ("id", &long)]);
    assert_eq!((lock.as_str(), none), ("/ns/lock//ams", None));
    assert!(mark_name.is_some_and(|name| name.starts_with("r/ams/xxx")));
}

#[test]
fn a_part_is_escaped_as_its_set_of_characters_says_whatever_else_is_in_it() {
    for character in (0..0x250).filter_map(char::from_u32).chain(['\u{10ffff}']) {
        for part in [format!("{character}"), format!("ab{character}"), format!("{character}ü/")] {
            let mut key = String::new();
            write_encoded(&part, &mut key);
            assert_eq!(key, utf8_percent_encode(&part, PART).to_string());
        }
    }
}
