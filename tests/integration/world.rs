//! Whole engines under virtual time: what takes hours happens at its time, and each run is the same.

use etcd_client::{LeaseGrantOptions, PutOptions};
use etcd_rules::embedded::{Fault, RequestKind};
use etcd_rules::testing::{Firings, NotUntil, World};
use etcd_rules::{BoxError, Firing, Jitter, Outcome, Rule, Value, key};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// What callbacks did, and when, in the world's time.
#[derive(Clone)]
struct Noted {
    began: Instant,
    entries: Arc<Mutex<Vec<(Duration, String)>>>,
}

impl Noted {
    fn new() -> Self {
        Self { began: Instant::now(), entries: Arc::default() }
    }

    fn add(&self, what: impl Into<String>) {
        self.entries.lock().unwrap().push((self.began.elapsed(), what.into()));
    }

    fn take(&self) -> Vec<(Duration, String)> {
        std::mem::take(&mut self.entries.lock().unwrap())
    }
}

/// Polls each server, and notes by which engine.
fn poll(every: Duration, noted: &Noted) -> Rule {
    let noted = noted.clone();
    Rule::new("poll").when(key("/servers/:id").exists()).poll("/polls/:id", every).run(
        move |firing: Firing| {
            let noted = noted.clone();
            async move {
                noted.add(firing.engine());
                Ok::<_, BoxError>(Outcome::done())
            }
        },
    )
}

#[test]
fn a_poll_of_an_hour_fires_every_hour_of_the_worlds() {
    World::run(async |world| {
        let noted = Noted::new();
        world.put("/servers/1", "").await?;
        let _engine = world.start("app", |engine| engine.rule(poll(HOUR, &noted))).await?;
        world.advance(33 * HOUR).await;
        let times: Vec<_> = noted.take().into_iter().map(|(at, _)| at).collect();
        assert!((28..=34).contains(&times.len()), "{times:?}");
        for pair in times.windows(2) {
            let apart = pair[1] - pair[0];
            assert!(apart >= HOUR && apart <= HOUR + HOUR / 5 + SECOND, "{apart:?}");
        }
        assert_eq!(world.now(), 33 * HOUR + Duration::from_millis(1));
        Ok::<_, BoxError>(())
    })
    .unwrap();
}

#[test]
fn the_same_seed_is_the_same_run_and_another_is_another() {
    let run = |seed| {
        World::run_with_seed(seed, async |world| {
            let noted = Noted::new();
            let rule = || {
                let noted = noted.clone();
                Rule::new("flaky").when(key("/servers/:id").exists()).poll("/polls/:id", 60 * SECOND).run(
                    move |firing: Firing| {
                        noted.add(firing.engine());
                        let fails = firing.attempt() <= 3;
                        async move { if fails { Err("not yet") } else { Ok(Outcome::done()) } }
                    },
                )
            };
            let engine = || world.start("app", |engine| engine.rule(rule()));
            let _engines = (engine().await?, engine().await?);
            for id in 0..5 {
                world.put(&format!("/servers/{id}"), "").await?;
            }
            world.advance(HOUR).await;
            Ok::<_, BoxError>((noted.take(), world.keys("/").await?.into_keys().collect::<Vec<_>>()))
        })
        .unwrap()
    };
    let (first, again, other) = (run(7), run(7), run(8));
    assert!(first == again, "another order, or another time");
    assert!(first.0 != other.0, "the jitter of a backoff is another");
    assert!(first.0.len() > 200, "{}", first.0.len());
}

#[test]
fn leases_and_crawls_are_at_their_time() {
    World::run(async |world| {
        let mut client = world.client().await?;
        client.lease_grant(600, Some(LeaseGrantOptions::new().with_id(7))).await?;
        client.put("/leased", "x", Some(PutOptions::new().with_lease(7))).await?;
        world.advance(599 * SECOND).await;
        assert_eq!(world.get("/leased").await?, Some(Value::from("x")));
        world.until_absent("/leased").await?;
        assert_eq!(world.now().as_secs(), 600);

        // A change that no watch tells of is found by the next crawl.
        let noted = Noted::new();
        let rule = {
            let noted = noted.clone();
            Rule::new("new").when(key("/new/:id").exists() & key("/seen/:id").absent()).run(
                move |firing: Firing| {
                    noted.add(firing.attribute("id").unwrap_or_default());
                    async move { Ok::<_, BoxError>(Outcome::from(firing.commit().put("/seen/:id", ""))) }
                },
            )
        };
        let crawls = |engine: etcd_rules::EngineBuilder| {
            engine.rule(rule).crawl_interval(HOUR).crawl_jitter(Jitter::NONE).watch_silence(100 * HOUR)
        };
        let engine = world.start("app", crawls).await?;
        engine.ready().await;
        let began = world.now();
        world.etcd().faults().inject(Fault::on(RequestKind::WatchResponse).always().lose());
        world.put("/new/1", "").await?;
        world.set_within(2 * HOUR);
        world.until_value("/seen/1", "").await?;
        let took = world.now() - began;
        assert!(took > HOUR - 60 * SECOND && took < HOUR + 60 * SECOND, "{took:?}");
        Ok::<_, BoxError>(())
    })
    .unwrap();
}

/// A job that takes so long, and says when it began, when it wrote by itself, and when it ended.
fn job(time: Duration, noted: &Noted) -> Rule {
    let noted = noted.clone();
    Rule::new("job")
        .when(key("/jobs/:id").exists() & key("/done/:id").absent())
        .lock_ttl(20 * SECOND)
        .time_limit(10 * HOUR)
        .run(move |firing: Firing| {
            let noted = noted.clone();
            async move {
                noted.add(format!("{} began", firing.engine()));
                tokio::time::sleep(time).await;
                noted.add(format!("{} ended", firing.engine()));
                Ok::<_, BoxError>(Outcome::from(firing.commit().put("/done/:id", firing.engine())))
            }
        })
}

#[test]
fn what_a_killed_engine_was_at_is_done_by_another_once_its_lease_is_over() {
    World::run(async |world| {
        let noted = Noted::new();
        world.put("/jobs/1", "").await?;
        let first = world.start("app", |engine| engine.rule(job(HOUR, &noted))).await?;
        world.advance(60 * SECOND).await;
        let second = world.start("app", |engine| engine.rule(job(HOUR, &noted))).await?;
        world.advance(60 * SECOND).await;
        assert_eq!(noted.take(), [(Duration::ZERO, "engine-0 began".to_owned())]);
        let killed = world.now();
        first.kill();
        world.set_within(3 * HOUR);
        world.until_value("/done/1", "engine-1").await?;
        let entries = noted.take();
        let texts: Vec<_> = entries.iter().map(|(_, text)| text.as_str()).collect();
        assert_eq!(texts, ["engine-1 began", "engine-1 ended"], "the callback of the first ended with it");
        let free_after = entries[0].0 - killed;
        assert!(free_after > 5 * SECOND && free_after < 40 * SECOND, "{free_after:?}");
        // One that is started later takes the next job.
        second.shutdown(SECOND).await?;
        let _third = world.start("app", |engine| engine.rule(job(SECOND, &noted))).await?;
        world.put("/jobs/2", "").await?;
        world.until_value("/done/2", "engine-2").await?;
        Ok::<_, BoxError>(())
    })
    .unwrap();
}

#[test]
fn an_engine_that_stands_still_loses_its_work_and_one_that_is_cut_off_too() {
    World::run(async |world| {
        let noted = Noted::new();
        world.put("/jobs/1", "").await?;
        let first = world.start("app", |engine| engine.rule(job(HOUR, &noted))).await?;
        world.advance(60 * SECOND).await;
        first.stand_still();
        let second = world.start("app", |engine| engine.rule(job(HOUR, &noted))).await?;
        world.set_within(3 * HOUR);
        world.until_value("/done/1", "engine-1").await?;
        first.go_on();
        world.advance(60 * SECOND).await;
        assert_eq!(
            world.get("/done/1").await?,
            Some(Value::from("engine-1")),
            "it found that it was too late"
        );
        second.path().set_reachable(false);
        world.put("/jobs/2", "").await?;
        world.until_value("/done/2", "engine-0").await?;
        Ok::<_, BoxError>(())
    })
    .unwrap();
}

#[test]
fn waiting_for_a_key_ends_in_the_worlds_time_and_says_what_was_seen() {
    World::run(async |world| {
        world.set_within(10 * SECOND);
        let writer = world.clone();
        let writing = async {
            for value in ["one", "two"] {
                writer.advance(2 * SECOND).await;
                writer.put("/k", value).await.unwrap();
            }
            writer.advance(SECOND).await;
            assert!(writer.delete("/k").await.unwrap());
        };
        let (waited, ()) = tokio::join!(world.until_value("/k", "three"), writing);
        let NotUntil { key, within, seen, .. } = waited.unwrap_err();
        let seen: Vec<_> = seen.into_iter().map(|(at, seen)| (at.as_secs(), seen)).collect();
        let one = |revision, value| Some((revision, Value::from(value)));
        assert_eq!((key.as_str(), within), ("/k", 10 * SECOND));
        assert_eq!(seen, [(0, None), (2, one(2, "one")), (4, one(3, "two")), (5, None)]);
        assert_eq!(world.now().as_secs(), 10);
        // It looks at the store itself, whatever faults there are.
        world.put("/k", "three").await?;
        world.etcd().faults().inject(Fault::on(RequestKind::Range).always());
        world.until_key("/k", |value| value.is_some()).await?;
        assert!(world.get("/k").await.is_err());
        assert_eq!(world.delete_prefix("/").await?, 1);
        Ok::<_, BoxError>(())
    })
    .unwrap();
}

#[test]
fn firings_are_awaited_in_the_worlds_time() {
    World::run(async |world| {
        let noted = Noted::new();
        let engine = world.start("app", |engine| engine.rule(job(HOUR, &noted))).await?;
        let mut firings = Firings::new(engine.events()).within(2 * HOUR);
        world.put("/jobs/1", "").await?;
        firings.done("job", [("id", "1")]).await?;
        assert!(world.now() >= HOUR);
        Ok::<_, BoxError>(())
    })
    .unwrap();
}
