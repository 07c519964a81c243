//! The semantics of rules, in tables, beside what go-etcd-rules does with the same.
//!
//! Where the two differ the case says so, with "(R: …)" for the other one, as its code of June 2026 answers. Its
//! patterns match too much, but its engine drops most of that later, because the key that the match is formatted to
//! is another one.

use crate::support::eventually;
use etcd_rules::embedded::EmbeddedEtcd;
use etcd_rules::{
    Attributes, Condition, Engine, EngineBuilder, Error, Firing, Outcome, Pattern, Rule, all_equal, key,
};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn patterns_match_whole_keys_segment_by_segment() {
    for (case, pattern, key, expected) in [
        ("one attribute", "/user/:name/state", "/user/john/state", Some("name=john")),
        ("several", "/:region/:cluster/w/:w", "/eu/c1/w/3", Some("cluster=c1 region=eu w=3")),
        ("none", "/config/enabled", "/config/enabled", Some("")),
        ("another literal", "/user/:name/state", "/user/john/status", None),
        ("too short", "/user/:name/state", "/user/john", None),
        ("an empty segment is no value", "/user/:name/state", "/user//state", None),
        ("too long (R: matches, its expressions have no end)", "/user/:name", "/user/john/state", None),
        ("in the middle (R: matches, they have no beginning)", "/user/:name", "/old/user/john", None),
        ("a literal that goes on (R: matches)", "/user/:name/st", "/user/john/state", None),
        ("a dot is a dot (R: any character)", "/v1.0/:id", "/v1x0/7", None),
        ("and matches itself", "/v1.0/:id", "/v1.0/7", Some("id=7")),
        ("a bracket is a bracket (R: an error)", "/a[b/:id", "/a[b/7", Some("id=7")),
        ("a colon in a segment (R: host=eu)", "/hosts/:host", "/hosts/eu:7", Some("host=eu:7")),
        ("an attribute twice, equal", "/:geo/hosts/:geo", "/eu/hosts/eu", Some("geo=eu")),
        ("an attribute twice, different (R: geo=us)", "/:geo/hosts/:geo", "/eu/hosts/us", None),
        ("no leading slash (R: one is added)", "servers/:id", "servers/7", Some("id=7")),
        ("which is then another key (R: the same)", "servers/:id", "/servers/7", None),
        ("the rest (R: no such thing)", "/log/*path", "/log/a/b", Some("path=a/b")),
    ] {
        let found =
            Pattern::parse(pattern).expect(pattern).matches(key).map(|attributes| attributes.to_string());
        assert_eq!(found.as_deref(), expected, "{case}: {pattern} and {key}");
    }
}

#[test]
fn patterns_are_formatted_or_refused_never_left_half_done() {
    let attributes = Attributes::from([("first", "one"), ("second", "two")]);
    for (case, pattern, expected) in [
        ("all known", "/a/:first/b/:second", Some("/a/one/b/two")),
        ("one twice", "/:first/:first", Some("/one/one")),
        ("a missing one (R: its name stays in the key)", "/a/:third", None),
    ] {
        let found = Pattern::parse(pattern).expect(pattern).format(&attributes).ok();
        assert_eq!(found.as_deref(), expected, "{case}");
    }
    for (case, pattern) in [
        ("empty (R: the empty key)", ""),
        ("an empty segment (R: left out)", "/a//b"),
        ("a slash at the end (R: left out)", "/a/"),
        ("an attribute without a name (R: one with an empty name)", "/a/:"),
    ] {
        assert!(Pattern::parse(pattern).is_err(), "{case}");
    }
}

fn state() -> Condition {
    key("/:region/want/:id").equals("deployed")
}

fn missing() -> Condition {
    key("/:region/have/:id").absent()
}

const WANT: (&str, &str) = ("/eu/want/7", "deployed");
const HAVE: (&str, &str) = ("/eu/have/7", "yes");
const LIKEWISE: (&str, &str) = ("/eu/have/7", "deployed");
const SAID: (&str, &str) = ("/eu/said/7", "deployed");

#[test]
fn conditions_decide_on_what_is_there_and_what_is_not() {
    let same = |patterns: &[&str]| all_equal(patterns.iter().copied());
    let two = || same(&["/:region/want/:id", "/:region/have/:id"]);
    let three = || same(&["/:region/want/:id", "/:region/have/:id", "/:region/said/:id"]);
    let none: &'static [(&str, &str)] = &[];
    type Decision = (&'static str, Condition, &'static [(&'static str, &'static str)], bool);
    let cases: Vec<Decision> = vec![
        ("equal to a literal", state(), &[WANT], true),
        ("to another", state(), &[("/eu/want/7", "gone")], false),
        ("an absent key equals no literal", state(), none, false),
        ("not even the empty one", key("/:region/want/:id").equals(""), none, false),
        ("which is not absence", key("/:region/want/:id").absent(), &[("/eu/want/7", "")], false),
        ("another instance's key is none of ours", state(), &[("/us/want/7", "deployed")], false),
        ("absent", missing(), none, true),
        ("absent, but there", missing(), &[HAVE], false),
        ("and of both", state() & missing(), &[WANT], true),
        ("and of one", state() & missing(), &[WANT, HAVE], false),
        ("and of the other", state() & missing(), none, false),
        ("or of both", state() | missing(), &[WANT], true),
        ("or of one", state() | missing(), &[WANT, HAVE], true),
        ("or of the other", state() | missing(), none, true),
        ("or of none", state() | missing(), &[HAVE], false),
        ("not absent is there", !missing(), &[HAVE], true),
        ("not absent, of what is absent", !missing(), none, false),
        ("not equal is true of an absent key", !state(), none, true),
        ("a literal's contrary needs a value", key("/:region/want/:id").not_equals("deployed"), none, true),
        ("twice not", !!state(), &[WANT], true),
        ("not of an and: one is wrong", !(state() & missing()), &[WANT, HAVE], true),
        ("not of an and: both are right", !(state() & missing()), &[WANT], false),
        ("not of an or: one is right", !(state() | missing()), none, false),
        ("not of an or: none is", !(state() | missing()), &[HAVE], true),
        ("an and in an or in a not", !((state() & missing()) | !state()), &[WANT, HAVE], true),
        ("the same of two: equal", two(), &[WANT, LIKEWISE], true),
        ("two: different", two(), &[WANT, HAVE], false),
        ("two: one is absent", two(), &[WANT], false),
        ("two: both are absent, which is equal", two(), none, true),
        ("not the same: one is absent", !two(), &[WANT], true),
        ("three: equal", three(), &[WANT, LIKEWISE, SAID], true),
        ("three: the last is absent", three(), &[WANT, LIKEWISE], false),
        ("three: the last differs", three(), &[WANT, LIKEWISE, ("/eu/said/7", "no")], false),
        ("three: all are absent", three(), none, true),
        (
            "a function sees absence",
            key("/:region/want/:id").compare("is odd", |v| v.is_none_or(|v| v.len() % 2 == 1)),
            none,
            true,
        ),
        (
            "a function sees a value",
            key("/:region/want/:id").compare("is odd", |v| v.is_none_or(|v| v.len() % 2 == 1)),
            &[WANT],
            false,
        ),
    ];
    let attributes = Attributes::from([("region", "eu"), ("id", "7")]);
    for (case, condition, keys, expected) in cases {
        let explanation = condition.evaluate_on(&attributes, keys.iter().copied()).expect(case);
        assert_eq!(explanation.truth, expected, "{case}:\n{explanation}");
    }
}

#[test]
fn conditions_are_written_out() {
    let (a, b) = (key("/:r/a").absent(), key("/:r/b").equals("value"));
    let both = a.clone() & b.clone();
    for (condition, expected) in [
        (a.clone(), r#"/:r/a is absent"#),
        (b.clone(), r#"/:r/b = "value""#),
        (both.clone(), r#"/:r/a is absent and /:r/b = "value""#),
        (!both.clone(), r#"not (/:r/a is absent and /:r/b = "value")"#),
        (both | !b, r#"/:r/a is absent and /:r/b = "value" or /:r/b != "value""#),
        (all_equal(["/:r/a", "/:r/b", "/:r/c"]), "/:r/a = /:r/b = /:r/c"),
    ] {
        assert_eq!(condition.to_string(), expected);
    }
}

async fn nothing(_: Firing) -> Result<Outcome, Error> {
    Ok(Outcome::done())
}

#[test]
fn each_rule_set_watches_the_smallest_set_of_prefixes_that_covers_it() {
    type Options = fn(EngineBuilder) -> EngineBuilder;
    type RuleSet = (&'static str, Vec<Condition>, Options, &'static [&'static str]);
    let as_it_is: Options = |builder| builder;
    let cases: Vec<RuleSet> = vec![
        ("one pattern", vec![key("/servers/:id/state").exists()], as_it_is, &["/servers/"]),
        ("a whole key", vec![key("/config/enabled").exists()], as_it_is, &["/config/enabled"]),
        (
            "one within the other",
            vec![key("/servers/:id").exists() & key("/servers/internal/:id/delay").absent()],
            as_it_is,
            &["/servers/"],
        ),
        (
            "of several rules",
            vec![
                key("/servers/internal/states/:id").exists(),
                key("/servers/internal/:id").exists(),
                key("/clients/:id").exists(),
            ],
            as_it_is,
            &["/clients/", "/servers/internal/"],
        ),
        (
            "an attribute first takes everything",
            vec![key("/:geo/servers/:id").exists(), key("/config/:name").exists()],
            as_it_is,
            &["/"],
        ),
        (
            "unless it is expanded",
            vec![key("/:geo/servers/:id").exists() & key("/:geo/off/:id").absent()],
            |builder| builder.expand("geo", ["na", "eu"]),
            &["/eu/off/", "/eu/servers/", "/na/off/", "/na/servers/"],
        ),
        (
            "two that are expanded",
            vec![key("/:env/:geo/servers/:id").exists()],
            |builder| builder.expand("geo", ["na", "eu"]).expand("env", ["dev", "prod"]),
            &["/dev/eu/servers/", "/dev/na/servers/", "/prod/eu/servers/", "/prod/na/servers/"],
        ),
        (
            "constrained",
            vec![key("/user/:name/state").exists()],
            |builder| builder.constrain("name", "xy", ["ab", "ab"]),
            &["/user/xyaa", "/user/xyab", "/user/xyba", "/user/xybb"],
        ),
        (
            "expanded and constrained",
            vec![key("/:geo/user/:name/state").exists()],
            |builder| builder.expand("geo", ["eu", "na"]).constrain("name", "x", ["ab"]),
            &["/eu/user/xa", "/eu/user/xb", "/na/user/xa", "/na/user/xb"],
        ),
        (
            "the constraint of what comes later narrows nothing",
            vec![key("/:geo/user/:name").exists()],
            |builder| builder.constrain("name", "x", ["ab"]),
            &["/"],
        ),
    ];
    for (case, conditions, options, expected) in cases {
        let rules = conditions
            .into_iter()
            .enumerate()
            .map(|(number, condition)| Rule::new(number.to_string()).when(condition).run(nothing));
        let builder = options(Engine::builder("test", ["127.0.0.1:2379"]).rules(rules));
        let engine = builder.build().expect(case);
        assert_eq!(engine.watched_prefixes().collect::<Vec<_>>(), expected, "{case}");
    }
}

#[test]
fn a_rule_that_could_never_fire_is_a_mistake() {
    for (case, condition) in [
        (
            "no pattern binds all attributes (R: it never fires, and nobody is told)",
            key("/a/:x").exists() & key("/b/:y").exists(),
        ),
        ("a malformed pattern (R: some panic)", key("/a//:x").exists()),
    ] {
        let rule = Rule::new("never").when(condition).run(nothing);
        assert!(Engine::builder("test", ["127.0.0.1:2379"]).rule(rule).build().is_err(), "{case}");
    }
}

/// What an engine fires: a case of the table below.
struct Case {
    case: &'static str,
    condition: Condition,
    options: fn(EngineBuilder) -> EngineBuilder,
    /// Keys that are there before the engine starts.
    before: &'static [(&'static str, &'static str)],
    /// What happens then; `None` deletes.
    then: &'static [(&'static str, Option<&'static str>)],
    /// The attributes of what fires.
    fires: &'static [&'static str],
}

impl Case {
    fn new(case: &'static str, condition: Condition) -> Self {
        Self { case, condition, options: |builder| builder, before: &[], then: &[], fires: &[] }
    }

    async fn play(self) {
        let etcd = EmbeddedEtcd::in_process();
        let mut client = etcd.client().await.expect("a client");
        for &(key, value) in self.before {
            client.put(key, value, None).await.expect("put");
        }
        let fired = Arc::new(Mutex::new(BTreeSet::new()));
        let record = |id: &'static str| {
            let fired = fired.clone();
            move |firing: Firing| {
                fired.lock().unwrap().insert(format!("{id} {}", firing.attributes()));
                nothing(firing)
            }
        };
        let rule = Rule::new("rule").when(self.condition).run(record("rule"));
        let end = Rule::new("end").when(key("/the/end").exists()).run(record("end"));
        let builder = Engine::builder_with_channel("test", etcd.channel()).rules([rule, end]);
        let engine = (self.options)(builder).build().expect(self.case).start().await.expect(self.case);
        engine.ready().await;
        for &(key, value) in self.then {
            match value {
                Some(value) => drop(client.put(key, value, None).await.expect("put")),
                None => drop(client.delete(key, None).await.expect("delete")),
            }
        }
        client.put("/the/end", "", None).await.expect("put");
        let expected: BTreeSet<String> = self
            .fires
            .iter()
            .map(|attributes| format!("rule {attributes}"))
            .chain(["end ".to_owned()])
            .collect();
        let all = async || fired.lock().unwrap().is_superset(&expected);
        eventually(20 * SECOND, self.case, all).await;
        // All changes have been decided by now; what fires wrongly gets time to do so.
        tokio::time::sleep(Duration::from_millis(50)).await;
        engine.shutdown(5 * SECOND).await.expect(self.case);
        assert_eq!(*fired.lock().unwrap(), expected, "{}", self.case);
    }
}

fn exists(pattern: &str) -> Condition {
    key(pattern).exists()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_fires_the_instances_that_become_true_and_no_others() {
    let broken = || key("/servers/:id").equals("broken") | key("/servers/:id/disks/:disk").equals("broken");
    let cases = [
        Case {
            before: &[("/a/1", "x"), ("/a/2", "y")],
            then: &[("/a/3", Some("x")), ("/a/4", Some("y")), ("/a/2", Some("x"))],
            fires: &["id=1", "id=2", "id=3"],
            ..Case::new("what is there at the start, and what comes", key("/a/:id").equals("x"))
        },
        Case {
            before: &[("/old/a/1", ""), ("/a/2/more", ""), ("/aa/3", "")],
            then: &[("/a/4", Some("")), ("/old/a/5", Some("")), ("/a/6/more", Some(""))],
            fires: &["id=4"],
            ..Case::new("whole keys only", exists("/a/:id"))
        },
        Case {
            then: &[("/eu/hosts/eu", Some("")), ("/eu/hosts/us", Some(""))],
            fires: &["geo=eu"],
            ..Case::new("an attribute twice", exists("/:geo/hosts/:geo"))
        },
        Case {
            then: &[("/servers/7", Some("fine")), ("/servers/7/disks/1", Some("broken"))],
            fires: &["disk=1 id=7"],
            ..Case::new("an or of a key that binds too little, and one that binds all", broken())
        },
        Case {
            before: &[("/a/1", "v")],
            then: &[("/a/2", Some("v")), ("/b/3", Some("v")), ("/b/4", Some("w"))],
            fires: &["x=1 y=a", "x=2 y=a", "x=3 y=b"],
            ..Case::new(
                "an or whose first matching branch binds too little (R: only 3)",
                key("/a/:x").equals("v") | key("/:y/:x").equals("v"),
            )
        },
        Case {
            then: &[("/a/1", Some("v"))],
            fires: &["x=1 y=a"],
            ..Case::new(
                "a key that two patterns of an equality match (R: never)",
                all_equal(["/a/:x", "/:y/:x"]) & key("/a/:x").equals("v"),
            )
        },
        Case {
            then: &[("/hosts/eu:7", Some(""))],
            fires: &["host=eu:7"],
            ..Case::new("a value with a colon (R: never)", exists("/hosts/:host"))
        },
        Case {
            before: &[("/servers/7/disks/1", "fine"), ("/servers/8/disks/1", "fine")],
            then: &[("/servers/7", Some("broken"))],
            fires: &["disk=1 id=7"],
            ..Case::new("a key that binds too little decides those it concerns (R: at a crawl)", broken())
        },
        Case {
            before: &[("/on", "no"), ("/a/1", ""), ("/a/2", "")],
            then: &[("/on", Some("yes"))],
            fires: &["id=1", "id=2"],
            ..Case::new(
                "a key that binds nothing is a switch (R: at a crawl)",
                key("/on").equals("yes") & exists("/a/:id"),
            )
        },
        Case {
            before: &[("/want/1", "a"), ("/have/1", "a"), ("/want/2", "a"), ("/have/2", "b")],
            then: &[("/said/1", Some("a")), ("/said/2", Some("a")), ("/said/3", Some("a"))],
            fires: &["id=1"],
            ..Case::new("three equal keys", all_equal(["/want/:id", "/have/:id", "/said/:id"]))
        },
        Case {
            before: &[("/want/1", "a")],
            then: &[("/want/1", None), ("/want/2", Some("a"))],
            fires: &["id=1"],
            ..Case::new("two absent keys are equal, once one has gone", all_equal(["/want/:id", "/have/:id"]))
        },
        Case {
            before: &[("/a/1", ""), ("/block/1", ""), ("/a/2", ""), ("/pause/2", "")],
            then: &[("/a/3", Some("")), ("/block/1", None)],
            fires: &["id=1", "id=3"],
            ..Case::new(
                "not of an or of keys that are there",
                exists("/a/:id") & !(exists("/block/:id") | exists("/pause/:id")),
            )
        },
        Case {
            then: &[("/a/1", Some("")), ("/a/1", None)],
            fires: &["id=1"],
            ..Case::new("absences alone: once a key has gone", key("/a/:id").absent())
        },
        Case {
            before: &[("/set", "")],
            fires: &[],
            ..Case::new("absences without attributes: not while the key is there", key("/set").absent())
        },
        Case {
            fires: &[""],
            ..Case::new(
                "absences without attributes: from the start (R: after a delete)",
                key("/set").absent(),
            )
        },
        Case {
            before: &[("/dev/na/1", ""), ("/dev/eu/2", ""), ("/dev/us/3", ""), ("/prod/na/4", "")],
            then: &[("/test/na/5", Some("")), ("/prod/eu/6", Some(""))],
            fires: &[
                "env=dev geo=eu id=2",
                "env=dev geo=na id=1",
                "env=prod geo=eu id=6",
                "env=prod geo=na id=4",
            ],
            options: |builder| builder.expand("geo", ["na", "eu"]).expand("env", ["dev", "prod"]),
            ..Case::new("two expanded attributes", exists("/:env/:geo/:id"))
        },
        Case {
            before: &[("/na/xa1", ""), ("/na/xc2", ""), ("/us/xa3", "")],
            then: &[("/eu/xb4", Some("")), ("/eu/y5", Some("")), ("/eu/x", Some(""))],
            fires: &["geo=eu id=xb4", "geo=na id=xa1"],
            options: |builder| builder.expand("geo", ["na", "eu"]).constrain("id", "x", ["ab"]),
            ..Case::new("one expanded, one constrained", exists("/:geo/:id"))
        },
    ];
    for case in cases {
        case.play().await;
    }
}
