//! What a callback reads itself, what its commit expects of that, and prefixes that it deletes.

use crate::support::{Etcd, assert_nothing_left, eventually};
use etcd_rules::events::{CommitResult, EventKind};
use etcd_rules::firing::FiringOutcome;
use etcd_rules::firing::{Effect, Entry, Expect, Listing};
use etcd_rules::testing::{Firings, Trial};
use etcd_rules::{BoxError, Commit, Engine, Error, ErrorKind, Firing, FiringError, Outcome, Rule, key};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Semaphore;

const SECOND: Duration = Duration::from_secs(1);

/// A rule over one network, whose callback reads and then returns this.
fn network<Fut, E>(callback: impl Fn(Firing) -> Fut + Send + Sync + 'static) -> Rule
where
    Fut: Future<Output = Result<Outcome, E>> + Send + 'static,
    E: Into<BoxError>,
{
    Rule::new("network").when(key("/network/:net").exists()).run(callback)
}

/// What is in etcd in all of these tests.
const KEYS: [(&str, &str); 6] = [
    ("/network/7", ""),
    ("/members/7/a", "1"),
    ("/members/7/b", "22"),
    ("/members/7/b/state", "no member"),
    ("/members/70/c", "of another network"),
    ("/other", "x"),
];

async fn filled() -> Etcd {
    let etcd = Etcd::start().await;
    for (key, value) in KEYS {
        etcd.put(key, value).await;
    }
    etcd
}

fn trial(rule: Rule) -> Trial {
    Trial::of(rule).unwrap().attribute("net", "7").keys(KEYS)
}

async fn read_all(firing: Firing) -> Result<Outcome, Error> {
    let members = firing.list("/members/:net/:member").await?;
    let found: Vec<_> = members
        .iter()
        .map(|found| (found.key.as_str(), found.attributes.get("member"), found.value.to_string()))
        .collect();
    assert_eq!(
        found,
        [("/members/7/a", Some("a"), "1".into()), ("/members/7/b", Some("b"), "22".into())],
        "no other network, and nothing deeper"
    );
    assert!(members.revision() >= members.iter().map(|found| found.mod_revision).max().unwrap());
    assert!(members.entries()[0].attributes.get("net").is_none(), "the instance has it");
    let counts = [
        firing.count("/members/:net/:member").await?,
        firing.count("/members/:net/*rest").await?,
        firing.count("/members/:any/:member").await?,
        firing.count("/members/*rest").await?,
        firing.count("/members/:net/a").await?,
        firing.count("/nothing/*rest").await?,
    ];
    assert_eq!(counts, [2, 3, 3, 4, 1, 0]);
    assert_eq!(firing.list("/members/:net/a").await?.len(), 1, "without a free attribute it is one key");
    assert!(firing.list("/nothing/:x").await?.is_empty());
    assert!(matches!(firing.list("/members//x").await, Err(FiringError::Pattern(_))));
    let entry = firing.get_entry("/members/:net/a").await?.expect("it exists");
    assert_eq!(
        (entry.key.as_str(), &entry),
        ("/members/7/a", firing.get_key_entry("/members/7/a").await?.as_ref().unwrap())
    );
    assert_eq!(firing.get_entry("/members/:net/z").await?, None);
    assert!(matches!(firing.get_key_entry("").await, Err(FiringError::EmptyKey)));
    Ok(firing.commit().delete("/network/:net").into())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callback_lists_and_counts_what_a_pattern_matches() {
    assert_eq!(trial(network(read_all)).run().await.unwrap().outcome, FiringOutcome::Done);
    let etcd = filled().await;
    let engine = Engine::builder("test", [etcd.endpoint()]).rule(network(read_all)).build().unwrap();
    let mut firings = Firings::new(engine.events());
    let running = engine.start().await.unwrap();
    firings.done("network", [("net", "7")]).await.unwrap();
    running.shutdown(5 * SECOND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_list_is_read_in_pages_at_one_revision_and_a_longer_one_is_refused() {
    let etcd = filled().await;
    let mut client = etcd.client().await.kv_client();
    // 2,500 keys, and some so large that few fit into an answer.
    for batch in 0..25 {
        let puts = (0..100)
            .map(|n| etcd_client::TxnOp::put(format!("/members/7/{:05}", batch * 100 + n), "v", None));
        client.txn(etcd_client::Txn::new().and_then(puts.collect::<Vec<_>>())).await.unwrap();
    }
    for n in 0..40 {
        etcd.put(&format!("/large/{n:02}"), vec![b'x'; 1_200_000]).await;
    }
    let seen = Arc::new(Mutex::new(None));
    let noted = seen.clone();
    let rule = network(move |firing: Firing| {
        let noted = noted.clone();
        async move {
            let members = firing.list("/members/:net/:member").await?;
            let large = firing.list("/large/:n").await?;
            assert!(large.iter().all(|large| large.value.len() == 1_200_000));
            *noted.lock().unwrap() =
                Some((members.len(), large.len(), firing.count("/members/:net/:m").await?));
            Ok::<Outcome, Error>(firing.commit().delete("/network/:net").into())
        }
    });
    let engine = Engine::builder("test", [etcd.endpoint()]).rule(rule).build().unwrap();
    let mut firings = Firings::new(engine.events());
    let running = engine.start().await.unwrap();
    firings.done("network", [("net", "7")]).await.unwrap();
    assert_eq!(*seen.lock().unwrap(), Some((2502, 40, 2502)));
    running.shutdown(5 * SECOND).await.unwrap();

    // More than is read, in a trial: it has the same limits.
    let many = |count: usize| (0..count).map(|n| (format!("/many/{n}"), ""));
    let lists = |expected: usize| {
        network(move |firing: Firing| async move {
            let listed = firing.list("/many/:n").await;
            match &listed {
                Ok(listed) => assert_eq!(listed.len(), expected),
                Err(error) => assert_eq!((error.kind(), expected), (ErrorKind::TooLarge, 0), "{error}"),
            }
            listed.map(|_| Outcome::done())
        })
    };
    let tried = trial(lists(10_000)).keys(many(10_000)).run().await.unwrap();
    assert_eq!(tried.outcome, FiringOutcome::Done);
    let tried = trial(lists(0)).keys(many(10_001)).run().await.unwrap();
    let FiringOutcome::Failed(text) = tried.outcome else { panic!("{:?}", tried.outcome) };
    assert!(text.contains("more than 10000 keys") && text.contains("`/many/`"), "{text}");
    let huge = (0..70).map(|n| (format!("/many/{n}"), vec![0; 1 << 20]));
    assert!(matches!(trial(lists(0)).keys(huge).run().await.unwrap().outcome, FiringOutcome::Failed(_)));
}

/// What a commit expects of what the callback has read.
type Expecting = fn(Commit, &Listing) -> Commit;

/// A key that somebody else writes, or deletes.
type Meanwhile = Option<(&'static str, Option<&'static str>)>;

const CASES: [(&str, Expecting, Meanwhile, bool); 24] = [
    ("nothing changes", |c, l| c.expect_unchanged_list(l), None, true),
    (
        "a member is written again",
        |c, l| c.expect_unchanged_list(l),
        Some(("/members/7/a", Some("1"))),
        false,
    ),
    ("a member goes", |c, l| c.expect_unchanged_list(l), Some(("/members/7/b", None)), false),
    ("a member comes", |c, l| c.expect_unchanged_list(l), Some(("/members/7/n", Some(""))), false),
    // A new key deeper in the range is not told from a member.
    (
        "another key in the range",
        |c, l| c.expect_unchanged_list(l),
        Some(("/members/7/x/y", Some(""))),
        false,
    ),
    (
        "a key of the range that is not listed goes",
        |c, l| c.expect_unchanged_list(l),
        Some(("/members/7/b/state", None)),
        true,
    ),
    ("a key beyond the range", |c, l| c.expect_unchanged_list(l), Some(("/members/70/n", Some(""))), true),
    ("there was none, and is none", |c, _| c.expect_empty("/guests/:net"), None, true),
    ("a guest comes", |c, _| c.expect_empty("/guests/:net/"), Some(("/guests/7/n", Some(""))), false),
    (
        "a guest of another network",
        |c, _| c.expect_empty("/guests/:net"),
        Some(("/guests/70/n", Some(""))),
        true,
    ),
    ("there were members", |c, _| c.expect_empty("/members/:net"), None, false),
    ("a key is still absent", |c, _| c.expect("/new/:net", Expect::Absent), None, true),
    ("a key comes", |c, _| c.expect("/new/:net", Expect::Absent), Some(("/new/7", Some(""))), false),
    ("a key is not there", |c, _| c.expect("/new/:net", Expect::Exists), None, false),
    ("a key is there", |c, _| c.expect("/other", Expect::Exists), Some(("/other", Some("y"))), true),
    ("a key goes", |c, _| c.expect("/other", Expect::Exists), Some(("/other", None)), false),
    (
        "a value is still so",
        |c, _| c.expect("/other", Expect::Value("x".into())),
        Some(("/other", Some("x"))),
        true,
    ),
    (
        "a value changes",
        |c, _| c.expect("/other", Expect::Value("x".into())),
        Some(("/other", Some("y"))),
        false,
    ),
    ("a value goes", |c, _| c.expect_key("/other", Expect::Value("x".into())), Some(("/other", None)), false),
    ("an absent key has no value", |c, _| c.expect("/new/:net", Expect::Value("".into())), None, false),
    ("an entry is unchanged", |c, l| c.expect("/members/:net/a", &l.entries()[0]), None, true),
    (
        "an entry is written again",
        |c, l| c.expect("/members/:net/a", &l.entries()[0]),
        Some(("/members/7/a", Some("1"))),
        false,
    ),
    ("no entry is still none", |c, _| c.expect_key("/new/7", None::<&Entry>), None, true),
    ("no entry is one now", |c, _| c.expect_key("/new/7", None::<&Entry>), Some(("/new/7", Some(""))), false),
];

/// The same in a trial and on a real etcd: what somebody else does between a read and the commit.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_takes_effect_only_if_what_the_callback_read_is_still_so() {
    let etcd = filled().await;
    for (name, expecting, meanwhile, holds) in CASES {
        for (key, value) in KEYS {
            etcd.put(key, value).await;
        }
        for key in [
            "/new/7",
            "/guests/7/n",
            "/guests/70/n",
            "/members/7/n",
            "/members/7/x/y",
            "/members/70/n",
            "/out/7",
        ] {
            etcd.delete(key).await;
        }
        let (read, may) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
        let rule = {
            let (read, may) = (read.clone(), may.clone());
            network(move |firing: Firing| {
                let (read, may) = (read.clone(), may.clone());
                async move {
                    let members = firing.list("/members/:net/:member").await?;
                    if read.fetch_add(1, Ordering::SeqCst) == 0 {
                        may.acquire().await?.forget();
                        let commit = firing.commit().put("/out/:net", "").delete("/network/:net");
                        return Ok::<Outcome, BoxError>(expecting(commit, &members).into());
                    }
                    Ok(Outcome::give_up("once is enough"))
                }
            })
        };
        let tried = {
            may.add_permits(1);
            let trial = trial(rule.clone());
            let trial = match meanwhile {
                Some((key, Some(value))) => trial.put_before_commit(key, value),
                Some((key, None)) => trial.delete_before_commit(key),
                None => trial,
            };
            trial.run().await.unwrap()
        };
        assert_eq!(tried.outcome, FiringOutcome::Done, "{name}");
        assert_eq!(
            (tried.unexpected.is_none(), tried.keys.contains_key("/out/7")),
            (holds, holds),
            "{name}: a trial"
        );
        read.store(0, Ordering::SeqCst);
        let engine = Engine::builder("test", [etcd.endpoint()]).rule(rule).build().unwrap();
        let mut events = engine.events();
        let running = engine.start().await.unwrap();
        eventually(10 * SECOND, "it has read", async || read.load(Ordering::SeqCst) == 1).await;
        match meanwhile {
            Some((key, Some(value))) => drop(etcd.put(key, value).await),
            Some((key, None)) => drop(etcd.delete(key).await),
            None => {}
        }
        may.add_permits(1);
        let result = loop {
            let event = events.recv().await.expect("it runs").expect("none is missed");
            if let EventKind::Closed { result, .. } = &event.kind {
                break result.clone();
            }
        };
        assert_eq!(result.is_committed(), holds, "{name}: {result:?}");
        assert_eq!(result == CommitResult::Unexpected, !holds, "{name}: {result:?}");
        assert_eq!(etcd.get("/out/7").await.is_some(), holds, "{name}");
        if !holds {
            // It runs again, since its condition still holds.
            eventually(10 * SECOND, name, async || read.load(Ordering::SeqCst) == 2).await;
        }
        running.shutdown(5 * SECOND).await.unwrap();
    }
    assert_nothing_left(&etcd, "/etcd-rules/", 10 * SECOND).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_is_deleted_with_the_keys_of_the_instance_in_it() {
    let ran = Arc::new(AtomicUsize::new(0));
    let rule = |ran: &Arc<AtomicUsize>| {
        let ran = ran.clone();
        // One of its keys is below the prefix, and it stays true without it.
        Rule::new("network")
            .when(key("/network/:net").exists() & !key("/members/:net/a").equals("never"))
            .run(move |firing: Firing| {
                ran.fetch_add(1, Ordering::SeqCst);
                async move {
                    Ok::<Outcome, Error>(
                        firing.commit().delete_prefix("/members/:net").put("/out/:net", "").into(),
                    )
                }
            })
    };
    let tried = trial(rule(&ran)).run().await.unwrap();
    assert_eq!(tried.effects[0], Effect::DeletePrefix { prefix: "/members/7/".into() });
    let left: Vec<&str> = tried.keys.keys().map(String::as_str).collect();
    assert_eq!(left, ["/members/70/c", "/network/7", "/other", "/out/7"]);
    ran.store(0, Ordering::SeqCst);
    let etcd = filled().await;
    let running =
        Engine::builder("test", [etcd.endpoint()]).rule(rule(&ran)).build().unwrap().start().await.unwrap();
    eventually(10 * SECOND, "it has fired", async || etcd.get("/out/7").await.is_some()).await;
    assert_eq!(etcd.keys("/members/").await, ["/members/70/c"]);
    // The deletion of its own key is its own change, after which it does not fire again.
    tokio::time::sleep(2 * SECOND).await;
    assert_eq!(ran.load(Ordering::SeqCst), 1);
    etcd.put("/members/7/a", "back").await;
    eventually(10 * SECOND, "somebody else's change fires it", async || ran.load(Ordering::SeqCst) == 2)
        .await;
    running.shutdown(5 * SECOND).await.unwrap();
}

#[tokio::test]
async fn mistakes_with_prefixes_and_lists_are_found() {
    let failed = async |commit: fn(Commit) -> Commit| {
        let rule =
            network(
                move |firing: Firing| async move { Ok::<Outcome, Error>(commit(firing.commit()).into()) },
            );
        match trial(rule).run().await.unwrap().outcome {
            FiringOutcome::Failed(text) => text,
            other => panic!("{other:?}"),
        }
    };
    for (commit, part) in [
        ((|c| c.delete_prefix("/a").put("/a/b", "")) as fn(Commit) -> Commit, "`/a/b` twice"),
        (|c| c.put("/a/b", "").delete_prefix("/a"), "`/a/` twice"),
        (|c| c.delete_prefix("/a/b").delete_prefix("/a"), "`/a/` twice"),
        (|c| c.delete_prefix("/etcd-rules"), "`/etcd-rules/`, which belongs to an engine's namespace"),
        (|c| c.delete_prefix("/etcd-rules/trial/lock"), "belongs to an engine's namespace"),
        (|c| c.delete_prefix("/"), "is empty"),
        (|c| c.expect_empty("/a/:x"), ":x"),
        (|c| c.expect("/a/:x", Expect::Absent), ":x"),
        (|c| c.expect_key("", Expect::Absent), "the key is empty"),
        (
            |c| (0..127).fold(c, |c, n| c.expect_key(format!("/{n}"), Expect::Absent)),
            "127 changes or expectations; a transaction allows 126",
        ),
    ] {
        let text = failed(commit).await;
        assert!(text.contains(part), "{part}: {text}");
    }
    // Beside a prefix, another key that begins so without its slash is another key.
    let rule = network(|firing: Firing| async move {
        Ok::<Outcome, Error>(firing.commit().delete_prefix("/members/:net").put("/members/:net", "").into())
    });
    assert_eq!(trial(rule).run().await.unwrap().outcome, FiringOutcome::Done);
}

/// As many keys as fit, on a real server.
#[tokio::test(flavor = "multi_thread")]
async fn a_list_may_have_as_many_keys_as_a_transaction_allows() {
    let etcd = filled().await;
    for n in 0..125 {
        etcd.put(&format!("/full/{n}"), "").await;
    }
    let rule = network(|firing: Firing| async move {
        let full = firing.list("/full/:n").await?;
        Ok::<Outcome, Error>(firing.commit().expect_unchanged_list(&full).delete("/network/:net").into())
    });
    let engine = Engine::builder("test", [etcd.endpoint()]).rule(rule).build().unwrap();
    let mut firings = Firings::new(engine.events());
    let running = engine.start().await.unwrap();
    firings.done("network", [("net", "7")]).await.unwrap();
    assert_eq!(etcd.get("/network/7").await, None);
    etcd.put("/full/125", "").await;
    etcd.put("/network/7", "").await;
    let failed = firings.next("network", [("net", "7")]).await.unwrap();
    let text = format!("{:?}", failed.outcome);
    assert!(text.contains("127 changes or expectations"), "{text}");
    running.shutdown(5 * SECOND).await.unwrap();
}
