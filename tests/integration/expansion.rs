//! Attributes with fixed values, and attributes whose values are limited.

use crate::support::{Etcd, Held, assert_nothing_left, eventually};
use etcd_rules::inspect::InstanceQuery;
use etcd_rules::{Attributes, Engine, EngineBuilder, EngineError, Error, Firing, Outcome, Rule, key};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn engine(etcd: &Etcd) -> EngineBuilder {
    Engine::builder("test", [etcd.endpoint()])
}

fn built(rule: Rule) -> EngineBuilder {
    Engine::builder("test", ["127.0.0.1:2379"]).rule(rule)
}

async fn nothing(_: Firing) -> Result<Outcome, Error> {
    Ok(Outcome::done())
}

fn watched(builder: EngineBuilder) -> Vec<String> {
    builder.build().unwrap().watched_prefixes().map(str::to_owned).collect()
}

fn mistakes(builder: EngineBuilder) -> String {
    builder.build().expect_err("a mistake").to_string()
}

fn attributes(pairs: &[(&str, &str)]) -> Attributes {
    pairs.iter().copied().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expanded_attribute_resolves_everywhere_and_other_values_do_not_exist() {
    let etcd = Etcd::start().await;
    let seen = Arc::new(Mutex::new(BTreeSet::new()));
    let log = seen.clone();
    let copy = Rule::new("copy")
        .when(key("/:geo/in/:id").exists() & key("/:geo/out/:id").absent())
        .lock("/work/:geo/:id")
        .run(move |firing: Firing| {
            let log = log.clone();
            async move {
                log.lock().unwrap().insert(firing.attributes().to_string());
                let value = firing.value_opt("/:geo/in/:id")?.cloned().unwrap_or_default();
                // The lock of each value is its own.
                let mut client = firing.client().await?;
                let lock = format!("/etcd-rules/test/lock/{}", firing.format("/work/:geo/:id")?);
                let held = client.get(lock, None).await?;
                assert_eq!((held.count(), firing.rule()), (1, "copy"));
                let geo = firing.attribute("geo")?.to_owned();
                Ok::<Outcome, Error>(
                    firing
                        .commit()
                        .expect_unchanged("/:geo/in/:id")
                        .put("/:geo/out/:id", value)
                        .put(&format!("/log/{geo}/:id"), "")
                        .into(),
                )
            }
        });
    etcd.put("/na/in/1", "a").await;
    etcd.put("/us/in/1", "b").await;
    let running =
        engine(&etcd).rule(copy).expand("geo", ["na", "eu"]).build().unwrap().start().await.unwrap();
    running.ready().await;
    etcd.put("/eu/in/1", "c").await;
    eventually(20 * SECOND, "both are copied", async || {
        etcd.get("/na/out/1").await == Some("a".into()) && etcd.get("/eu/out/1").await == Some("c".into())
    })
    .await;
    assert_eq!(etcd.get("/us/out/1").await, None);
    assert_eq!(running.stats().await.unwrap().instances, 2, "one for each value");
    assert!(seen.lock().unwrap().iter().eq(["geo=eu id=1", "geo=na id=1"]), "{seen:?}");

    let explained = running.explain("copy", &attributes(&[("geo", "eu"), ("id", "1")])).await.unwrap();
    assert_eq!(explained.condition.children[0].seen[0].key, "/eu/in/1");
    let other = running.explain("copy", &attributes(&[("geo", "us"), ("id", "1")])).await.unwrap();
    assert_eq!(other.condition.to_string(), "✗ the value of :geo is one that the engine expands it to\n");
    let page = running.instances(InstanceQuery::new().rule("copy").attribute("geo", "eu")).await.unwrap();
    let listed: Vec<String> = page.instances.iter().map(|one| one.attributes.to_string()).collect();
    assert_eq!(listed, ["geo=eu id=1"]);
    let rules = running.rules().await.unwrap();
    assert_eq!(
        (rules.len(), rules[0].attributes.len(), rules[0].fired),
        (1, 2, 2),
        "one rule, not one a value"
    );
    assert_eq!(rules[0].counts.iter().map(|(_, count)| count).sum::<usize>(), 2);
    let missing = running.explain("copy", &attributes(&[("id", "1")])).await;
    assert!(matches!(missing, Err(EngineError::UnknownAttribute(name)) if name == "geo"));
    running.shutdown(5 * SECOND).await.unwrap();
    assert_nothing_left(&etcd, "/etcd-rules/", SECOND).await;
}

/// An engine that expands and one that does not work on the same instance: their locks are the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_lock_is_the_same_with_and_without_expansion() {
    let etcd = Etcd::start().await;
    let (running, overlapping) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let rule = || {
        let (running, overlapping) = (running.clone(), overlapping.clone());
        Rule::new("slow").when(key("/:geo/jobs/:id").exists()).run(move |firing: Firing| {
            let (running, overlapping) = (running.clone(), overlapping.clone());
            async move {
                if running.fetch_add(1, Ordering::SeqCst) > 0 {
                    overlapping.fetch_add(1, Ordering::SeqCst);
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
                running.fetch_sub(1, Ordering::SeqCst);
                Ok::<Outcome, Error>(firing.commit().delete("/:geo/jobs/:id").put("/done/:id", "").into())
            }
        })
    };
    let one = engine(&etcd).name("one").rule(rule()).build().unwrap().start().await.unwrap();
    let two =
        engine(&etcd).name("two").rule(rule()).expand("geo", ["eu"]).build().unwrap().start().await.unwrap();
    one.ready().await;
    two.ready().await;
    for job in 0..5 {
        etcd.put("/eu/jobs/same", job.to_string()).await;
        eventually(20 * SECOND, "done", async || etcd.get("/eu/jobs/same").await.is_none()).await;
    }
    assert_eq!(overlapping.load(Ordering::SeqCst), 0);
    one.shutdown(5 * SECOND).await.unwrap();
    two.shutdown(5 * SECOND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn several_attributes_are_combined_and_a_rule_without_others_always_has_its_instances() {
    let etcd = Etcd::start().await;
    // No key binds anything: the four instances are there from the start, absences included.
    let init = Rule::new("init").when(key("/:env/:geo/ready").absent()).run(|firing: Firing| async move {
        Ok::<Outcome, Error>(firing.commit().put("/:env/:geo/ready", "yes").into())
    });
    // `:id` alone is enough to bind, since the others are fixed.
    let join = Rule::new("join")
        .when(
            key("/people/:id").exists()
                & key("/:env/:geo/ready").equals("yes")
                & key("/met/:env/:geo/:id").absent(),
        )
        .run(|firing: Firing| async move {
            Ok::<Outcome, Error>(firing.commit().put("/met/:env/:geo/:id", "").into())
        });
    let running = engine(&etcd)
        .rules([init, join])
        .expand("geo", ["na", "eu"])
        .expand("env", ["dev", "prod"])
        .build()
        .unwrap()
        .start()
        .await
        .unwrap();
    etcd.put("/people/ann", "").await;
    eventually(20 * SECOND, "all are met", async || etcd.keys("/met/").await.len() == 4).await;
    let met = etcd.keys("/met/").await;
    assert_eq!(met, ["/met/dev/eu/ann", "/met/dev/na/ann", "/met/prod/eu/ann", "/met/prod/na/ann"]);
    assert_eq!(running.stats().await.unwrap().instances, 8);
    running.shutdown(5 * SECOND).await.unwrap();
    assert_nothing_left(&etcd, "/etcd-rules/", SECOND).await;
}

/// The limit of a rule is one for all its values: expansion does not multiply it.
#[tokio::test(flavor = "multi_thread")]
async fn expanded_values_share_the_limit_of_their_rule() {
    let etcd = Etcd::start().await;
    let held = Held::new();
    let rule = Rule::new("few").when(key("/:geo/jobs/:id").exists()).concurrency(2);
    let rule = held.run(rule, "/:geo/jobs/:id");
    let geos = ["a", "b", "c", "d"];
    for geo in geos {
        for job in 0..4 {
            etcd.put(&format!("/{geo}/jobs/{job}"), "").await;
        }
    }
    let running = engine(&etcd).rule(rule).expand("geo", geos).build().unwrap().start().await.unwrap();
    // All are known, and slots are given away as soon as they can be: no more will run.
    eventually(20 * SECOND, "two run, and the others wait", async || {
        let stats = running.stats().await.unwrap();
        (stats.running, stats.queued, held.running()) == (2, 14, 2)
    })
    .await;
    held.may_end(true);
    eventually(20 * SECOND, "all jobs are done", async || {
        let mut left = 0;
        for geo in geos {
            left += etcd.keys(&format!("/{geo}/jobs/")).await.len();
        }
        left == 0
    })
    .await;
    running.shutdown(5 * SECOND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_constraint_hides_all_other_keys_even_where_the_watch_is_wider() {
    let etcd = Etcd::start().await;
    // The first pattern makes the engine watch all of `/servers/`.
    let rule = Rule::new("all").when(key("/servers/*path").exists() & key("/seen/*path").absent()).run(
        |firing: Firing| async move { Ok::<Outcome, Error>(firing.commit().put("/seen/*path", "").into()) },
    );
    let narrow =
        Rule::new("narrow").when(key("/servers/:id/state").exists() & key("/:id/done").absent()).run(
            |firing: Firing| async move { Ok::<Outcome, Error>(firing.commit().put("/:id/done", "").into()) },
        );
    for id in ["s1x", "s2", "t1", "s"] {
        etcd.put(&format!("/servers/{id}/state"), "").await;
    }
    let running = engine(&etcd)
        .rules([rule, narrow])
        .constrain("id", "s", ["12"])
        .crawl_interval(SECOND)
        .build()
        .unwrap()
        .start()
        .await
        .unwrap();
    eventually(20 * SECOND, "all are seen", async || etcd.keys("/seen/").await.len() == 4).await;
    etcd.put("/servers/s22/state", "").await;
    etcd.put("/servers/u22/state", "").await;
    eventually(20 * SECOND, "the new ones too", async || etcd.keys("/seen/").await.len() == 6).await;
    // Crawls have been over it as well.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    for (id, done) in
        [("s1x", true), ("s2", true), ("s22", true), ("t1", false), ("s", false), ("u22", false)]
    {
        assert_eq!(etcd.get(&format!("/{id}/done")).await.is_some(), done, "{id}");
    }
    assert_eq!(running.stats().await.unwrap().drift, 0);
    let other = running.explain("narrow", &attributes(&[("id", "t1")])).await.unwrap();
    assert_eq!(
        other.condition.to_string(),
        "✗ the value of :id begins with s[12] (the engine constrains it)\n"
    );
    running.shutdown(5 * SECOND).await.unwrap();
    assert_nothing_left(&etcd, "/etcd-rules/", SECOND).await;
}

/// Two engines, each with a part of the keys: each has only its own in memory.
#[tokio::test(flavor = "multi_thread")]
async fn constraints_divide_a_keyspace_among_engines() {
    let etcd = Etcd::start().await;
    let rule = || {
        Rule::new("work").when(key("/jobs/:id").exists() & key("/done/:id").absent()).run(
            |firing: Firing| async move { Ok::<Outcome, Error>(firing.commit().put("/done/:id", "").into()) },
        )
    };
    for job in 0..16 {
        etcd.put(&format!("/jobs/{job:x}"), "").await;
    }
    let part = async |name: &str, digits: &str| {
        let built = engine(&etcd).name(name).rule(rule()).constrain("id", "", [digits]).build().unwrap();
        assert_eq!(built.watched_prefixes().count(), 2 * digits.len());
        built.start().await.unwrap()
    };
    let (low, high) = (part("low", "01234567").await, part("high", "89ab").await);
    eventually(20 * SECOND, "all but the unclaimed are done", async || etcd.keys("/done/").await.len() == 12)
        .await;
    for (engine, keys) in [(&low, 16), (&high, 8)] {
        eventually(20 * SECOND, "it has only its own", async || engine.stats().await.unwrap().keys == keys)
            .await;
    }
    low.shutdown(5 * SECOND).await.unwrap();
    high.shutdown(5 * SECOND).await.unwrap();
    assert_nothing_left(&etcd, "/etcd-rules/", SECOND).await;
}

#[test]
fn the_smallest_set_of_prefixes_is_watched() {
    let rule = || Rule::new("r").when(key("/:geo/servers/:id/state").exists()).run(nothing);
    let hex = "0123456789abcdef";
    for (case, builder, expected) in [
        ("nothing known", built(rule()), vec!["/".to_owned()]),
        (
            "expanded, then constrained",
            built(rule()).expand("geo", ["na", "eu"]).constrain("id", "x", ["ab"]),
            ["/eu/servers/xa", "/eu/servers/xb", "/na/servers/xa", "/na/servers/xb"].map(String::from).into(),
        ),
        (
            "a constraint on what comes first",
            built(rule()).constrain("geo", "e", ["u"]),
            vec!["/eu".to_owned()],
        ),
        (
            "as many characters as leave 32 watches: one of two",
            built(rule()).expand("geo", ["eu"]).constrain("id", "", [hex, hex]),
            hex.chars().map(|digit| format!("/eu/servers/{digit}")).collect(),
        ),
        (
            "and none of them",
            built(rule()).expand("geo", ["eu", "na", "sa"]).constrain("id", "x", [hex]),
            ["/eu/servers/x", "/na/servers/x", "/sa/servers/x"].map(String::from).into(),
        ),
        (
            "or not even the constraint's prefix",
            built(rule()).expand("geo", (0..100).map(|n| format!("{n}"))).constrain("id", "x", [hex]),
            vec!["/".to_owned()],
        ),
    ] {
        assert_eq!(watched(builder), expected, "{case}");
    }
}

#[test]
fn expansions_and_constraints_that_make_no_sense_are_mistakes() {
    let rule = || Rule::new("r").when(key("/:geo/:id").exists()).run(nothing);
    let rest = || Rule::new("r").when(key("/a/*path").exists()).run(nothing);
    let none: [&str; 0] = [];
    for (builder, part) in [
        (built(rule()).expand("geo", none), "expand of `:geo`: there is no value"),
        (built(rule()).expand("geo", ["na", ""]), "expand of `:geo`: a value is empty"),
        (built(rule()).expand("gEo", ["na"]), "expand of `:gEo`: no rule has this attribute"),
        (built(rule()).expand("geo", ["n/a"]), "`/:geo/:id` uses `:geo` as one segment"),
        (
            built(rule()).expand("geo", (0..1001).map(|n| n.to_string())),
            "expand to 1001 combinations; at most 1000",
        ),
        (built(rule()).expand("geo", ["etcd-rules"]), "the keys of `/etcd-rules/:id` are below"),
        (built(rule()).constrain("geo", "", none), "constrain of `:geo`: neither a prefix nor a set"),
        (built(rule()).constrain("geo", "", ["ab", ""]), "constrain of `:geo`: a set has no characters"),
        (built(rule()).constrain("geo", "a/", none), "constrain of `:geo`: a slash"),
        (built(rule()).constrain("gEo", "a", none), "constrain of `:gEo`: no rule has this attribute"),
        (
            built(rule()).expand("geo", ["na"]).constrain("geo", "n", none),
            "constrain of `:geo`: it is expanded",
        ),
    ] {
        let found = mistakes(builder);
        assert!(found.contains(part), "{part}: not in {found}");
    }
    assert_eq!(watched(built(rest()).expand("path", ["b/c"])), ["/a/b/c"], "a rest may have slashes");
    // With one attribute fixed, the other is bound by its key.
    let joined = Rule::new("r").when(key("/:geo/x").exists() & key("/y/:id").exists()).run(nothing);
    assert!(mistakes(built(joined.clone())).contains("no pattern binds all of its attributes"));
    assert_eq!(watched(built(joined).expand("geo", ["na"])), ["/na/x", "/y/"]);
}

/// An engine that is not running decides on given keys as one that starts would.
#[test]
fn what_an_engine_would_decide_can_be_asked_without_an_etcd() {
    let rules = [
        Rule::new("copy").when(key("/:geo/in/:id").exists() & key("/:geo/out/:id").absent()).run(nothing),
        Rule::new("init").when(key("/:geo/ready").absent()).run(nothing),
        Rule::new("rest").when(key("/*path").equals("x")).run(nothing),
    ];
    let engine = Engine::builder("test", ["127.0.0.1:2379"])
        .rules(rules)
        .expand("geo", ["na", "eu"])
        .constrain("id", "", ["12"])
        .build()
        .unwrap();
    let keys = [
        ("/na/in/1", "a"),
        ("/na/in/3", "a"),
        ("/eu/in/2", "b"),
        ("/eu/out/2", "b"),
        ("/us/in/1", "c"),
        ("/eu/ready", "x"),
        ("/etcd-rules/test/lock/copy/na/1", "x"),
    ];
    let found = engine.instances_on(keys);
    let found: Vec<String> = found
        .iter()
        .map(|found| format!("{} {} {}", found.rule, found.attributes, found.explanation.truth))
        .collect();
    assert_eq!(
        found[..4],
        ["copy geo=na id=1 true", "copy geo=eu id=2 false", "init geo=na true", "init geo=eu false"]
    );
    let rest = ["eu/in/2", "eu/out/2", "eu/ready", "na/in/1", "na/in/3", "us/in/1"];
    let rest = rest.map(|path| format!("rest path={path} {}", path == "eu/ready"));
    assert_eq!(found[4..], rest, "keys of engines match nothing");

    let ask = |rule, pairs: &[(&str, &str)]| engine.evaluate_on(rule, &attributes(pairs), keys);
    let text = |rule, pairs: &[(&str, &str)]| ask(rule, pairs).unwrap().to_string();
    assert_eq!(
        text("copy", &[("geo", "eu"), ("id", "2")]),
        "✗ and\n  ✓ /eu/in/2 exists  (it is \"b\")\n  ✗ /eu/out/2 is absent  (it is \"b\")\n"
    );
    assert!(text("copy", &[("geo", "us"), ("id", "1")]).contains("expands"));
    assert!(text("copy", &[("geo", "na"), ("id", "3")]).contains("constrains"));
    assert!(!ask("rest", &[("path", "etcd-rules/test/lock/copy/na/1")]).unwrap().truth);
    assert!(matches!(ask("other", &[]), Err(EngineError::UnknownRule(_))));
    assert!(matches!(ask("copy", &[("geo", "na")]), Err(EngineError::UnknownAttribute(_))));
    assert!(matches!(ask("copy", &[("geo", "na"), ("id", "1/2")]), Err(EngineError::Format(_))));
}
