//! Keys and values that somebody chose to do harm: any bytes, any number of segments, up to the sizes that etcd takes.
//! What an engine fires, on the embedded etcd, is compared with a naive oracle.

use crate::support::eventually;
use etcd_rules::embedded::EmbeddedEtcd;
use etcd_rules::inspect::{InstanceQuery, StateKind};
use etcd_rules::{Engine, EngineHandle, Error, Firing, Outcome, Rule, key};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

/// What fired: the rule, the values of its attributes, and what the value was.
type Fired = BTreeSet<(&'static str, Vec<String>, Vec<u8>)>;

/// Of each rule: its id, its pattern, and how its value is tested.
type Tested = (&'static str, &'static str, fn(&[u8]) -> bool);

const FIRES: [Tested; 4] = [
    ("one", "/h/:id", |value| value.starts_with(b"y")),
    ("two", "/h/:a/:b", |_| true),
    ("same", "/h/:x/x/:x", |value| value != b"no"),
    ("rest", "/h/deep/*rest", |value| !value.is_empty() && value.len() != 1),
];

/// Rules in a dry run take no locks, so that their keys may be as large as etcd takes them.
const LISTS: [Tested; 2] =
    [("huge", "/huge/:id", |_| true), ("huge rest", "/huge/*rest", |value| value.contains(&0))];

fn condition((_, pattern, _): Tested, which: usize) -> etcd_rules::Condition {
    let key = key(pattern);
    match which {
        0 => key.starts_with("y"),
        2 => key.not_equals("no") & key.exists(),
        3 => key.compare("has not one byte", |value| value.is_some_and(|value| value.len() > 1)),
        5 => key.compare("has a zero", |value| value.is_some_and(|value| value.contains(&0))),
        _ => key.exists(),
    }
}

/// The values of the attributes if a key matches, in the obvious way.
fn bind(pattern: &str, key: &[u8]) -> Option<Vec<(String, String)>> {
    let key = std::str::from_utf8(key).ok()?;
    let (wanted, found): (Vec<&str>, Vec<&str>) = (pattern.split('/').collect(), key.split('/').collect());
    let mut bound: BTreeMap<String, String> = BTreeMap::new();
    for (at, segment) in wanted.iter().enumerate() {
        let (name, value) = match segment.chars().next() {
            Some('*') => (&segment[1..], found.get(at..)?.join("/")),
            Some(':') => (&segment[1..], (*found.get(at)?).to_owned()),
            _ if found.get(at) == Some(segment) => continue,
            _ => return None,
        };
        if value.is_empty()
            || bound.insert(name.to_owned(), value.clone()).is_some_and(|other| other != value)
        {
            return None;
        }
    }
    let rest = wanted.last().is_some_and(|last| last.starts_with('*'));
    (rest || wanted.len() == found.len()).then(|| bound.into_iter().collect())
}

fn expected(rules: &[Tested], store: &BTreeMap<Vec<u8>, Vec<u8>>) -> Fired {
    let mut all = Fired::new();
    for (key, value) in store {
        for (id, pattern, holds) in rules {
            if let Some(bound) = bind(pattern, key).filter(|_| holds(value)) {
                all.insert((*id, bound.into_iter().map(|(_, value)| value).collect(), value.clone()));
            }
        }
    }
    all
}

/// A segment: short and likely to meet others, hostile text, or any bytes.
fn segment() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => prop::sample::select(&["x", "a", "deep", "", ".", "..", ":id", "*rest", "%2F", "\\", "ttl"][..])
            .prop_map(|text| text.as_bytes().to_vec()),
        2 => "\\PC{0,12}".prop_map(|text| text.replace('/', "|").into_bytes()),
        1 => prop::sample::select(&["\0", "\n", "\r\nx: y", "\u{202e}", "\u{0}/", "\"'<script>"][..])
            .prop_map(|text| text.as_bytes().to_vec()),
        1 => vec(any::<u8>(), 0..20),
        1 => (prop::sample::select(&b"x%\xc3"[..]), 100..4000usize).prop_map(|(byte, count)| vec![byte; count]),
    ]
}

/// A key below a prefix, of one segment up to hundreds.
fn key_below(prefix: &'static str) -> impl Strategy<Value = Vec<u8>> {
    let segments = prop_oneof![6 => vec(segment(), 1..4), 1 => vec(segment(), 100..300)];
    segments.prop_map(move |segments| {
        let mut key = [prefix.as_bytes(), &segments.join(&b'/')].concat();
        key.truncate(16 << 10);
        key
    })
}

/// Up to what etcd takes in a request.
fn huge_key() -> impl Strategy<Value = Vec<u8>> {
    (prop::sample::select(&b"x%/\x00"[..]), (64usize << 10)..(1400 << 10)).prop_map(
        |(byte, count): (u8, usize)| {
            let mut key = b"/huge/".to_vec();
            key.resize(count, byte);
            key
        },
    )
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => prop::sample::select(&["", "y", "yes", "no", "n", "\0", "{\"a\":1e400}"][..])
            .prop_map(|text| text.as_bytes().to_vec()),
        2 => vec(any::<u8>(), 0..300),
        1 => (any::<u8>(), (100usize << 10)..(1400 << 10)).prop_map(|(byte, count): (u8, usize)| vec![byte; count]),
    ]
}

fn writes() -> impl Strategy<Value = Vec<(Vec<u8>, Vec<u8>)>> {
    let small = || {
        (prop_oneof![3 => key_below("/h/"), 1 => key_below("/h/deep/"), 1 => key_below("/h/a/x/")], value())
    };
    let huge = (huge_key(), vec(any::<u8>(), 0..4));
    prop_oneof![3 => vec(small(), 1..12), 1 => vec(huge, 1..3)]
}

async fn would_fire(engine: &EngineHandle) -> Fired {
    let (mut all, mut query) = (Fired::new(), InstanceQuery::new().state(StateKind::WouldFire).limit(1000));
    loop {
        let page = engine.instances(query.clone()).await.unwrap();
        for one in page.instances {
            let id = LISTS.iter().find(|(id, ..)| **id == *one.rule).unwrap().0;
            all.insert((id, one.attributes.iter().map(|(_, value)| value.to_owned()).collect(), Vec::new()));
        }
        match page.next {
            Some(next) => query = query.after(next),
            None => return all,
        }
    }
}

/// Puts the keys, waits until the engine has done all that the oracle wants, and sees that it does nothing else.
async fn engine_agrees_with_the_oracle(writes: Vec<(Vec<u8>, Vec<u8>)>, before: bool) {
    let etcd = EmbeddedEtcd::in_process();
    let mut client = etcd.client().await.unwrap();
    let fired = Arc::new(Mutex::new(Fired::new()));
    let rules = FIRES.iter().chain(&LISTS).enumerate().map(|(which, tested)| {
        let (fired, (id, pattern, _)) = (fired.clone(), *tested);
        let rule = Rule::new(id).when(condition(*tested, which));
        let rule = if which >= FIRES.len() { rule.dry_run() } else { rule };
        rule.run(move |firing: Firing| {
            let value = firing.value(pattern).map(|value| value.as_bytes().to_vec());
            let values = firing.attributes().iter().map(|(_, value)| value.to_owned()).collect();
            let fired = fired.clone();
            async move {
                fired.lock().unwrap().insert((id, values, value?));
                Ok::<Outcome, Error>(Outcome::done())
            }
        })
    });
    let engine = Engine::builder_with_channel("hostile", etcd.channel()).rules(rules).build().unwrap();
    let mut store = BTreeMap::new();
    let mut running = None;
    if !before {
        let started = engine.start().await.unwrap();
        started.ready().await;
        running = Some(started);
        for (key, value) in &writes {
            if client.put(key.clone(), value.clone(), None).await.is_ok() {
                store.insert(key.clone(), value.clone());
            }
        }
    } else {
        for (key, value) in &writes {
            if client.put(key.clone(), value.clone(), None).await.is_ok() {
                store.insert(key.clone(), value.clone());
            }
        }
        let started = engine.start().await.unwrap();
        started.ready().await;
        running.replace(started);
    }
    let running = running.unwrap();
    let wanted = expected(&FIRES, &store);
    let listed: Fired =
        expected(&LISTS, &store).into_iter().map(|(id, values, _)| (id, values, Vec::new())).collect();
    let final_ones = |fired: &Fired| -> Fired { fired.intersection(&wanted).cloned().collect() };
    eventually(30 * SECOND, "all that is true has fired", async || {
        final_ones(&fired.lock().unwrap()) == wanted && would_fire(&running).await == listed
    })
    .await;
    tokio::time::sleep(SECOND / 20).await;
    // What was overwritten meanwhile may have fired too, and nothing else.
    let mut ever = Fired::new();
    for (key, value) in &writes {
        ever.extend(expected(&FIRES, &BTreeMap::from([(key.clone(), value.clone())])));
    }
    let fired = fired.lock().unwrap().clone();
    assert!(fired.is_subset(&ever), "{:?}", fired.difference(&ever).collect::<Vec<_>>());
    // And nothing of it stays.
    for key in store.keys() {
        client.delete(key.clone(), None).await.unwrap();
    }
    eventually(30 * SECOND, "nothing is left in memory", async || {
        let stats = running.stats().await.unwrap();
        (stats.keys, stats.instances) == (0, 0)
    })
    .await;
    running.shutdown(SECOND).await.unwrap();
}

#[test]
fn hostile_keys_and_values_fire_what_the_oracle_says_and_nothing_else() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let config = Config { cases: 24, failure_persistence: None, max_shrink_iters: 50, ..Config::default() };
    let run = TestRunner::new(config).run(&(writes(), any::<bool>()), |(writes, before)| {
        runtime.block_on(engine_agrees_with_the_oracle(writes, before));
        Ok(())
    });
    run.unwrap_or_else(|failure| panic!("{failure}"));
}
