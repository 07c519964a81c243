//! Bad input gets a clear error, all mistakes together.

use etcd_rules::{
    Condition, ConfigError, Engine, Error, Firing, Key, Outcome, RateLimit, Rule, RuleError, key,
};
use std::time::Duration;

async fn nothing(_: Firing) -> Result<Outcome, Error> {
    Ok(Outcome::done())
}

fn mistakes(engine: etcd_rules::EngineBuilder) -> Vec<String> {
    match engine.build() {
        Err(error) => error.errors().iter().map(ToString::to_string).collect(),
        Ok(_) => Vec::new(),
    }
}

fn of_rule(rule: Rule) -> Vec<String> {
    mistakes(Engine::builder("app", ["127.0.0.1:2379"]).rule(rule))
}

fn when(condition: Condition) -> Rule {
    Rule::new("r").when(condition).run(nothing)
}

#[test]
fn every_mistake_is_told_at_once() {
    let found = mistakes(
        Engine::builder("", ["nonsense", "http://host:99999", "h:1/path", "user:secret@h:1", "::1:2379"])
            .concurrency(0)
            .lock_ttl(Duration::ZERO)
            .rule(Rule::new("twice").when(key("/a//b").exists()).run(nothing))
            .rule(Rule::new("twice").when(key("/a/:").exists() & key("/*rest/b").exists()))
            .rule(Rule::new("").lock("/:x/y").when(key("/a/:id").exists()).run(nothing)),
    );
    for expected in [
        "application name is empty",
        "endpoint `nonsense` is malformed: the port is missing",
        "endpoint `http://host:99999` is malformed: the port is not a number",
        "endpoint `h:1/path` is malformed",
        "endpoint `…@h:1` is malformed: a user and a password have no place in it",
        "endpoint `::1:2379` is malformed: an IPv6 address stands in brackets",
        "; an endpoint is `host:port` or `[::1]:port`",
        "concurrency is 0",
        "lock_ttl is 0ns",
        "rule id `twice` is used more than once",
        "\"/a//b\", byte 3",
        "\"/a/:\"",
        "\"/*rest/b\"",
        "rule `twice`: there is no callback",
        "rule ``: the id is empty",
        "uses `:x`, which the condition does not bind; it binds :id",
    ] {
        assert!(found.iter().any(|mistake| mistake.contains(expected)), "{expected}: not in {found:#?}");
    }
    assert!(!found.iter().any(|mistake| mistake.contains("secret")), "{found:#?}");
}

#[test]
fn a_namespace_that_contains_the_rules_own_keys_is_a_mistake() {
    let engine = |namespace| {
        let rule = when(key("/a/b/:id").exists());
        mistakes(Engine::builder("app", ["127.0.0.1:2379"]).namespace(namespace).rule(rule))
    };
    for namespace in ["", "/", "/a", "/a/b/"] {
        let found = engine(namespace);
        assert!(
            found.iter().any(|mistake| mistake.contains("the keys of `/a/b/:id` are below")),
            "{found:?}"
        );
    }
    assert_eq!(engine("/a/c/"), Vec::<String>::new());
}

#[test]
fn a_correct_engine_is_built() {
    let rule = when(key("/a/:id").exists()).lock("/locks/:id");
    assert_eq!(of_rule(rule), Vec::<String>::new());
}

#[test]
fn malformed_patterns_name_the_pattern_and_the_place() {
    for (pattern, part) in
        [("", "empty"), ("/a//b", "3"), ("/a/:", "3"), ("/a/*", "3"), ("/*x/b", "1"), ("/a/", "3")]
    {
        let found = of_rule(when(key(pattern).exists()));
        assert_eq!(found.len(), 1, "{pattern}: {found:?}");
        assert!(
            found[0].contains(&format!("\"{pattern}\"")) && found[0].contains(part),
            "{pattern}: {found:?}"
        );
    }
}

#[test]
fn a_rule_that_can_never_fire_is_a_mistake() {
    let found = of_rule(when(key("/a/:x").exists() & key("/b/:y").exists()));
    assert!(found[0].contains("no pattern binds all of its attributes (:x, :y)"), "{found:?}");
    let found = of_rule(when(key("/a/:x").exists() & key("/b/*x").exists()));
    assert!(found[0].contains("as one segment and as the rest"), "{found:?}");
    let found = of_rule(when(key("/etcd-rules/x/:id").exists()));
    assert!(found[0].contains("below `/etcd-rules/`"), "{found:?}");
    let covered = Engine::builder("app", ["127.0.0.1:2379"]).namespace("").rule(when(key("/a/:id").exists()));
    assert!(mistakes(covered)[0].contains("below `/`"));
    let found = of_rule(when(key("/a/:id").exists()).lock("/:id").optimistic());
    assert!(found[0].contains("lock pattern"), "{found:?}");
    let found = of_rule(when(key("/a/:id").one_of([""; 0])));
    assert!(found[0].contains("0 values: without any it is never true"), "{found:?}");
    let found = of_rule(when(Condition::any([])));
    assert!(found[0].contains("never fire"), "{found:?}");
}

#[test]
fn what_is_shown_must_be_of_the_instance_and_not_be_shown_already() {
    let shows = |pattern: &str| of_rule(when(key("/a/:id").exists()).show(pattern));
    assert_eq!(shows("/b/:id"), Vec::<String>::new());
    assert!(shows("/b/:x")[0].contains("uses `:x`, which the condition does not bind; it binds :id"));
    assert!(shows("/b//c")[0].contains("`show`: ") && shows("/b//c")[0].contains("/b//c"));
    assert!(shows("/a/:id")[0].contains("`show` of `/a/:id` has no effect"));
    assert!(shows("/b/*id")[0].contains("as one segment and as the rest"));
    assert!(shows("/etcd-rules/:id")[0].contains("below `/etcd-rules/`"));
    let found = of_rule(when(key("/a/:id").exists()).show("/b").show_unchecked("/b"));
    assert!(found[0].contains("`show` of `/b` has no effect"), "{found:?}");
    // What is shown binds nothing.
    let found = of_rule(when(key("/a/:id").exists() & key("/b/:x").exists()).show("/c/:id/:x"));
    assert!(found[0].contains("no pattern binds all of its attributes"), "{found:?}");
    let many = (0..125).fold(when(key("/a/:id").exists()), |rule, n| rule.show(format!("/b/{n}")));
    assert!(of_rule(many)[0].contains("126 keys"));
}

#[test]
fn more_keys_than_a_transaction_allows_is_a_mistake() {
    let keys = |count: usize| when(Condition::all((0..count).map(|n| key(format!("/k/:id/{n}")).exists())));
    assert_eq!(of_rule(keys(125)), Vec::<String>::new());
    let found = of_rule(keys(126));
    assert!(found[0].contains("126 keys") && found[0].contains("allows 125"), "{found:?}");
    let small = Engine::builder("app", ["127.0.0.1:2379"]).max_txn_ops(16).rule(keys(20));
    assert!(mistakes(small)[0].contains("allows 13"));
    let shown = |count: usize| (0..count).fold(keys(1), |rule, n| rule.show(format!("/shown/:id/{n}")));
    let large = |rule| mistakes(Engine::builder("app", ["127.0.0.1:2379"]).max_txn_ops(1000).rule(rule));
    assert_eq!(large(shown(254)), Vec::<String>::new());
    let found = large(shown(255));
    assert!(
        found[0].contains("256 keys") && found[0].contains("allows 255"),
        "whatever the server takes: {found:?}"
    );
}

#[test]
fn more_attributes_than_an_instance_can_have_are_a_mistake() {
    let rule = |count: usize| when(key((0..count).map(|n| format!("/:a{n}")).collect::<String>()).exists());
    assert_eq!(of_rule(rule(255)), Vec::<String>::new());
    let found = of_rule(rule(256));
    assert!(found[0].contains("256 attributes") && found[0].contains("at most 255"), "{found:?}");
}

#[test]
fn mistakes_are_data() {
    let built = Engine::builder("app", ["127.0.0.1:2379"]).rule(Rule::new("r").run(nothing)).build();
    let Err(error) = built else { panic!("{built:?}") };
    assert_eq!(error.errors(), [ConfigError::Rule { rule: "r".into(), error: RuleError::NoCondition }]);
}

#[test]
fn the_smallest_covering_set_is_watched() {
    let watched = |keys: &[Key]| {
        let condition = Condition::all(keys.iter().map(Key::exists));
        let engine = Engine::builder("app", ["127.0.0.1:2379"]).rule(when(condition)).build().unwrap();
        engine.watched_prefixes().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(watched(&[key("/servers/:id/state"), key("/servers/internal/:id/delay")]), ["/servers/"]);
    assert_eq!(watched(&[key("/a/:id"), key("/config/enabled")]), ["/a/", "/config/enabled"]);
}

#[test]
fn a_limit_that_lets_nothing_through_or_means_nothing_is_a_mistake() {
    let limited = |limit| of_rule(when(key("/a/:id").exists()).rate_limit(limit));
    let (second, year) = (Duration::from_secs(1), Duration::from_secs(366 * 24 * 3600));
    for (limit, expected) in [
        (RateLimit::new(0, second), "rate_limit is 0 in 1s: nothing could ever start"),
        (RateLimit::new(1, Duration::ZERO), "rate_limit is 1 in 0ns: the time must be"),
        (RateLimit::new(1, year), "the time must be more than zero and at most 365 days"),
    ] {
        let found = limited(limit);
        assert!(found.iter().any(|mistake| mistake.contains(expected)), "{expected}: not in {found:#?}");
    }
    assert_eq!(limited(RateLimit::new(u32::MAX, Duration::from_nanos(1))), Vec::<String>::new());
    for interval in [Duration::ZERO, year] {
        let found = of_rule(when(key("/a/:id").exists()).min_interval(interval));
        assert!(found.iter().any(|mistake| mistake.contains("min_interval is")), "{found:?}");
    }
}
