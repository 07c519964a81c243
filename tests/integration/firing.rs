//! Rules fire on a live etcd: what fires, when it fires again, and how callbacks end.

use crate::support::{Etcd, assert_nothing_left, eventually};
use etcd_rules::{Backoff, Engine, EngineBuilder, Error, Firing, Outcome, Rule, all_equal, key};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);

fn engine(etcd: &Etcd) -> EngineBuilder {
    Engine::builder("test", [etcd.endpoint()])
}

/// A rule that acknowledges jobs: `/jobs/:id` exists and `/done/:id` is absent.
fn acknowledge(seen: Arc<Mutex<Vec<String>>>) -> Rule {
    Rule::new("acknowledge").when(key("/jobs/:id").exists() & key("/done/:id").absent()).run(
        move |firing: Firing| {
            let seen = seen.clone();
            async move {
                seen.lock().unwrap().push(firing.attribute("id")?.to_owned());
                let job = firing.value_opt("/jobs/:id")?.cloned().unwrap_or_default();
                Ok::<Outcome, Error>(firing.commit().put("/done/:id", job).into())
            }
        },
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_true_at_start_and_what_becomes_true_fires_once() {
    let etcd = Etcd::start().await;
    etcd.put("/jobs/1", "one").await;
    etcd.put("/jobs/2", "two").await;
    etcd.put("/done/2", "already").await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let running = engine(&etcd).rule(acknowledge(seen.clone())).build().unwrap().start().await.unwrap();
    eventually(20 * SECOND, "the first job is done", async || {
        etcd.get("/done/1").await == Some("one".into())
    })
    .await;
    etcd.put("/jobs/3", "three").await;
    eventually(20 * SECOND, "the third job is done", async || {
        etcd.get("/done/3").await == Some("three".into())
    })
    .await;
    etcd.delete("/done/2").await;
    eventually(20 * SECOND, "the second job is done", async || {
        etcd.get("/done/2").await == Some("two".into())
    })
    .await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(*seen.lock().unwrap(), ["1", "3", "2"]);
    running.shutdown(5 * SECOND).await.unwrap();
    assert_nothing_left(&etcd, "/etcd-rules/", SECOND).await;
}

/// The own event of a commit does not fire a rule again; somebody else's change does.
#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_stays_true_fires_again_only_for_somebody_elses_change() {
    let etcd = Etcd::start().await;
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let rule = Rule::new("count").when(key("/counter/:id").exists()).run(move |firing: Firing| {
        let counted = counted.clone();
        async move {
            let n = counted.fetch_add(1, Ordering::SeqCst) + 1;
            Ok::<Outcome, Error>(firing.commit().put("/counter/:id", n.to_string()).into())
        }
    });
    let running = engine(&etcd).rule(rule).build().unwrap().start().await.unwrap();
    running.ready().await;
    etcd.put("/counter/a", "start").await;
    eventually(20 * SECOND, "it fired", async || etcd.get("/counter/a").await == Some("1".into())).await;
    tokio::time::sleep(SECOND).await;
    assert_eq!(count.load(Ordering::SeqCst), 1, "its own commit is no reason to fire again");
    etcd.put("/counter/a", "1").await;
    eventually(20 * SECOND, "it fired again", async || etcd.get("/counter/a").await == Some("2".into()))
        .await;
    tokio::time::sleep(SECOND).await;
    assert_eq!(count.load(Ordering::SeqCst), 2);
    running.shutdown(5 * SECOND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_retried_with_backoff_and_a_panic_is_a_failure() {
    let etcd = Etcd::start().await;
    let attempts = Arc::new(Mutex::new(Vec::new()));
    let log = attempts.clone();
    let rule = Rule::new("flaky")
        .when(key("/flaky/:id").equals("go"))
        .backoff(Backoff::new(Duration::from_millis(100), SECOND))
        .run(move |firing: Firing| {
            let log = log.clone();
            async move {
                log.lock().unwrap().push((firing.attempt(), std::time::SystemTime::UNIX_EPOCH));
                match firing.attempt() {
                    1 => Err("not yet".into()),
                    2 => panic!("still not"),
                    _ => Ok::<Outcome, etcd_rules::BoxError>(firing.commit().delete("/flaky/:id").into()),
                }
            }
        });
    let running = engine(&etcd).rule(rule).build().unwrap().start().await.unwrap();
    etcd.put("/flaky/x", "go").await;
    eventually(20 * SECOND, "it succeeded in the end", async || etcd.get("/flaky/x").await.is_none()).await;
    let seen: Vec<u32> = attempts.lock().unwrap().iter().map(|(attempt, _)| *attempt).collect();
    assert_eq!(seen, [1, 2, 3]);
    running.shutdown(5 * SECOND).await.unwrap();
    assert_nothing_left(&etcd, "/etcd-rules/", SECOND).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn give_up_lasts_until_somebody_changes_a_key() {
    let etcd = Etcd::start().await;
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let rule = Rule::new("hopeless").when(key("/hopeless/:id").exists()).run(move |_: Firing| {
        counted.fetch_add(1, Ordering::SeqCst);
        async { Ok::<Outcome, Error>(Outcome::give_up("no use")) }
    });
    let running = engine(&etcd).rule(rule).crawl_interval(SECOND).build().unwrap().start().await.unwrap();
    etcd.put("/hopeless/x", "1").await;
    eventually(20 * SECOND, "it fired", async || count.load(Ordering::SeqCst) == 1).await;
    tokio::time::sleep(4 * SECOND).await;
    assert_eq!(count.load(Ordering::SeqCst), 1, "not even a crawl tries it again");
    assert_eq!(running.stats().await.unwrap().given_up, 1);
    etcd.put("/hopeless/x", "2").await;
    eventually(20 * SECOND, "it fired again", async || count.load(Ordering::SeqCst) == 2).await;
    running.shutdown(5 * SECOND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_runs_again_without_a_change() {
    let etcd = Etcd::start().await;
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let rule = Rule::new("again").when(key("/again/:id").exists()).run(move |firing: Firing| {
        let n = counted.fetch_add(1, Ordering::SeqCst);
        async move {
            Ok::<Outcome, Error>(match n {
                0..3 => Outcome::retry_after(Duration::from_millis(100)),
                _ => firing.commit().delete("/again/:id").into(),
            })
        }
    });
    let running = engine(&etcd).rule(rule).build().unwrap().start().await.unwrap();
    etcd.put("/again/x", "1").await;
    eventually(20 * SECOND, "it ended", async || etcd.get("/again/x").await.is_none()).await;
    assert_eq!(count.load(Ordering::SeqCst), 4);
    running.shutdown(5 * SECOND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_limit_ends_a_callback_and_counts_as_a_failure() {
    let etcd = Etcd::start().await;
    let attempts = Arc::new(AtomicUsize::new(0));
    let seen = attempts.clone();
    let rule = Rule::new("slow").when(key("/slow/:id").exists()).time_limit(Duration::from_millis(200)).run(
        move |firing: Firing| {
            seen.store(firing.attempt() as usize, Ordering::SeqCst);
            async move {
                if firing.attempt() == 1 {
                    tokio::time::sleep(Duration::from_secs(3600)).await;
                }
                Ok::<Outcome, Error>(firing.commit().delete("/slow/:id").into())
            }
        },
    );
    let running = engine(&etcd).rule(rule).build().unwrap().start().await.unwrap();
    etcd.put("/slow/x", "1").await;
    eventually(20 * SECOND, "the second attempt succeeded", async || etcd.get("/slow/x").await.is_none())
        .await;
    assert_eq!(attempts.load(Ordering::SeqCst), 2);
    running.shutdown(5 * SECOND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_limit_counts_from_the_start_also_of_a_callback_that_blocks_its_thread() {
    let etcd = Etcd::start().await;
    let attempts = Arc::new(AtomicUsize::new(0));
    let seen = attempts.clone();
    let rule = Rule::new("slow").when(key("/slow/:id").exists()).time_limit(Duration::from_millis(500)).run(
        move |firing: Firing| {
            seen.store(firing.attempt() as usize, Ordering::SeqCst);
            async move {
                if firing.attempt() == 1 {
                    std::thread::sleep(Duration::from_millis(700));
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                Ok::<Outcome, Error>(firing.commit().delete("/slow/:id").into())
            }
        },
    );
    let running = engine(&etcd).rule(rule).build().unwrap().start().await.unwrap();
    etcd.put("/slow/x", "1").await;
    eventually(20 * SECOND, "it is done", async || etcd.get("/slow/x").await.is_none()).await;
    assert_eq!(attempts.load(Ordering::SeqCst), 2, "the first attempt was over in time");
    running.shutdown(5 * SECOND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_is_all_or_nothing_and_an_expectation_that_fails_decides_again() {
    let etcd = Etcd::start().await;
    let shown = Arc::new(Mutex::new(Vec::new()));
    let log = shown.clone();
    let rule = Rule::new("copy").when(key("/in/:id").exists() & key("/out/:id").absent()).run(
        move |firing: Firing| {
            let log = log.clone();
            async move {
                let value = firing.value_opt("/in/:id")?.cloned().unwrap_or_default();
                let first = log.lock().unwrap().is_empty();
                log.lock().unwrap().push(value.to_string());
                if first {
                    // Somebody changes the key while the callback runs.
                    let mut client = firing.client().await?;
                    client.put(firing.format("/in/:id")?, "new", None).await.unwrap();
                }
                Ok::<Outcome, Error>(
                    firing.commit().expect_unchanged("/in/:id").put("/out/:id", value).into(),
                )
            }
        },
    );
    let running = engine(&etcd).rule(rule).build().unwrap().start().await.unwrap();
    etcd.put("/in/x", "old").await;
    eventually(20 * SECOND, "copied", async || etcd.get("/out/x").await.is_some()).await;
    assert_eq!(etcd.get("/out/x").await, Some("new".into()));
    assert_eq!(*shown.lock().unwrap(), ["old", "new"]);
    running.shutdown(5 * SECOND).await.unwrap();
    assert_nothing_left(&etcd, "/etcd-rules/", SECOND).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_with_a_ttl_recur() {
    let etcd = Etcd::start().await;
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let rule = Rule::new("poll")
        .when(key("/servers/:id/state").equals("active") & key("/servers/internal/:id/poll_delay").absent())
        .lock("/:id/poll")
        .run(move |firing: Firing| {
            counted.fetch_add(1, Ordering::SeqCst);
            async move {
                Ok::<Outcome, Error>(
                    firing.commit().put_ttl("/servers/internal/:id/poll_delay", "", 2 * SECOND).into(),
                )
            }
        });
    let running = engine(&etcd).rule(rule).build().unwrap().start().await.unwrap();
    etcd.put("/servers/a/state", "active").await;
    eventually(20 * SECOND, "it recurs", async || count.load(Ordering::SeqCst) >= 3).await;
    etcd.put("/servers/a/state", "inactive").await;
    running.shutdown(5 * SECOND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn optimistic_rules_fire_without_a_lock() {
    let etcd = Etcd::start().await;
    let rule = Rule::new("double")
        .when(key("/n/:id").compare("is even", |v| {
            v.and_then(|v| std::str::from_utf8(v).ok()?.parse::<u64>().ok()).is_some_and(|n| n % 2 == 0)
        }))
        .optimistic()
        .run(|firing: Firing| async move {
            let n: u64 = firing.value_opt("/n/:id")?.and_then(|v| v.parse()).unwrap_or(0);
            Ok::<Outcome, Error>(firing.commit().put("/n/:id", (n + 1).to_string()).into())
        });
    let running = engine(&etcd).rule(rule).build().unwrap().start().await.unwrap();
    running.ready().await;
    for n in 0..20 {
        etcd.put(&format!("/n/{n}"), (n * 2).to_string()).await;
    }
    eventually(20 * SECOND, "all are odd", async || {
        for n in 0..20 {
            if etcd.get(&format!("/n/{n}")).await != Some((n * 2 + 1).to_string()) {
                return false;
            }
        }
        true
    })
    .await;
    running.shutdown(5 * SECOND).await.unwrap();
    assert_nothing_left(&etcd, "/etcd-rules/", SECOND).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_without_attributes_and_of_equal_keys_fire() {
    let etcd = Etcd::start().await;
    let rules = [
        Rule::new("single").when(key("/switch").equals("false")).run(|firing: Firing| async move {
            Ok::<Outcome, Error>(firing.commit().put("/switch", "true").into())
        }),
        Rule::new("equal")
            .when(
                all_equal(["/want/:id", "/have/:id"])
                    & key("/want/:id").exists()
                    & key("/match/:id").absent(),
            )
            .run(|firing: Firing| async move {
                Ok::<Outcome, Error>(firing.commit().put("/match/:id", "yes").into())
            }),
    ];
    let running = engine(&etcd).rules(rules).build().unwrap().start().await.unwrap();
    etcd.put("/switch", "false").await;
    etcd.put("/want/x", "1").await;
    etcd.put("/have/x", "2").await;
    eventually(20 * SECOND, "switched", async || etcd.get("/switch").await == Some("true".into())).await;
    assert_eq!(etcd.get("/match/x").await, None);
    etcd.put("/have/x", "1").await;
    eventually(20 * SECOND, "matched", async || etcd.get("/match/x").await.is_some()).await;
    running.shutdown(5 * SECOND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callback_is_told_its_engine_and_since_when_it_was_due() {
    struct Told {
        attempt: u32,
        due: Instant,
        started: Instant,
        ended: Instant,
    }
    let etcd = Etcd::start().await;
    let told = Arc::new(Mutex::new(Vec::new()));
    let (both_are_there, there) = (watch::Sender::new(false), Arc::new(AtomicUsize::new(0)));
    let (note, wait, begun) = (told.clone(), both_are_there.subscribe(), there.clone());
    let rule = Rule::new("note").when(key("/jobs/:id").exists()).concurrency(1).run(move |firing: Firing| {
        let (note, mut wait) = (note.clone(), wait.clone());
        begun.fetch_add(1, Ordering::SeqCst);
        async move {
            let started = Instant::now();
            assert_eq!(firing.engine(), "anton");
            wait.wait_for(|there| *there).await.unwrap();
            let (attempt, due, ended) = (firing.attempt(), firing.due_since(), Instant::now());
            note.lock().unwrap().push(Told { attempt, due, started, ended });
            match attempt {
                1 => Err("again"),
                _ => Ok(firing.commit().delete("/jobs/:id")),
            }
        }
    });
    let rule = rule.backoff(Backoff::new(3 * SECOND, 3 * SECOND));
    let running = engine(&etcd).name("anton").rule(rule).build().unwrap().start().await.unwrap();
    running.ready().await;
    let before = Instant::now();
    etcd.put("/jobs/1", "").await;
    eventually(20 * SECOND, "one runs", async || there.load(Ordering::SeqCst) == 1).await;
    etcd.put("/jobs/2", "").await;
    eventually(20 * SECOND, "one waits", async || running.stats().await.unwrap().queued == 1).await;
    both_are_there.send_replace(true);
    eventually(20 * SECOND, "both are done", async || etcd.keys("/jobs/").await.is_empty()).await;
    let told = std::mem::take(&mut *told.lock().unwrap());
    let [first, second, again, last] = &told[..] else { panic!("{} runs", told.len()) };
    assert_eq!([first.attempt, second.attempt, again.attempt, last.attempt], [1, 1, 2, 2]);
    assert!(before <= first.due && first.due <= first.started, "when it became true");
    assert!(first.started <= second.due && second.due <= first.ended, "it waited for the slot");
    // Of what a backoff is at random, half.
    assert!(again.due - first.ended > SECOND, "the backoff does not count: {:?}", again.due - first.ended);
    running.shutdown(5 * SECOND).await.unwrap();
}
