//! Crawls come when they should, one engine at a time if wanted, no faster than their rate, and wait for live work.

use crate::support::{Etcd, assert_nothing_left, eventually};
use etcd_rules::{Engine, EngineBuilder, Error, Firing, Health, Jitter, Outcome, Rule, key};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{Instant, sleep};

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

fn engine(etcd: &Etcd) -> EngineBuilder {
    Engine::builder("test", [etcd.endpoint()])
}

/// A rule that is never true, and notes when it is decided: by a crawl, if its key does not change.
fn decided(times: &Arc<Mutex<Vec<Instant>>>) -> Rule {
    let times = times.clone();
    let never = key("/never").compare("never", move |_| {
        times.lock().unwrap().push(Instant::now());
        false
    });
    Rule::new("never").when(never).run(|_: Firing| async { Ok::<(), Error>(()) })
}

/// The times between what was noted after the first `skip`.
fn gaps(times: &Mutex<Vec<Instant>>, skip: usize) -> Vec<Duration> {
    times.lock().unwrap()[skip..].windows(2).map(|pair| pair[1] - pair[0]).collect()
}

/// The times between two crawls, of an engine with an interval of two seconds, until they are enough.
async fn crawl_gaps(jitter: Jitter, enough: impl Fn(&[Duration]) -> bool) -> Vec<Duration> {
    let etcd = Etcd::start().await;
    let times = Arc::default();
    let builder = engine(&etcd).rule(decided(&times)).crawl_interval(2 * SECOND).crawl_jitter(jitter);
    let running = builder.build().unwrap().start().await.unwrap();
    eventually(120 * SECOND, "crawls", async || times.lock().unwrap().len() > 2 && enough(&gaps(&times, 1)))
        .await;
    running.shutdown(SECOND).await.unwrap();
    gaps(&times, 1)
}

/// From the end of a crawl to the end of the next: the interval, and a second in which it waits for late events.
#[tokio::test(flavor = "multi_thread")]
async fn crawls_come_at_the_interval_with_as_much_jitter_as_is_wanted() {
    let late = |gaps: &[Duration]| gaps.iter().filter(|gap| **gap > 4 * SECOND).count();
    let (even, longer) = tokio::join!(
        crawl_gaps(Jitter::NONE, |gaps| gaps.len() >= 6),
        // Up to nine seconds, in the middle six.
        crawl_gaps(Jitter::up_to(3.0), |gaps| gaps.len() >= 6 && late(gaps) > gaps.len() / 2)
    );
    assert!(late(&even) <= 1, "without jitter: {even:?}");
    let early = |gap: &&Duration| **gap < 2 * SECOND + SECOND / 2;
    assert_eq!(even.iter().chain(&longer).filter(early).count(), 0, "{even:?} {longer:?}");
}

/// Each crawl waits a second for late events before its end, and then every instance is decided.
#[tokio::test(flavor = "multi_thread")]
async fn with_a_mutex_one_engine_crawls_at_a_time_and_without_several_do() {
    type Crawls = [Vec<Instant>; 3];
    let gaps = |crawls: &Crawls| {
        let mut all = crawls.concat();
        all.sort_unstable();
        gaps(&Mutex::new(all), 0)
    };
    let close = |gap: &Duration| *gap < SECOND / 2;
    let etcd = Etcd::start().await;
    let crawls = async |application: &str, mutex: bool, enough: &dyn Fn(&Crawls) -> bool| {
        let times: [Arc<Mutex<Vec<Instant>>>; 3] = Default::default();
        let mut engines = Vec::new();
        for (number, times) in times.iter().enumerate() {
            let builder =
                Engine::builder(application, [etcd.endpoint()]).name(format!("{application}-{number}"));
            let builder = builder.rule(decided(times)).crawl_interval(2 * SECOND).crawl_mutex(mutex);
            engines.push(builder.build().unwrap().start().await.unwrap());
        }
        // The first time of each is its start.
        let seen = || times.each_ref().map(|times| times.lock().unwrap().iter().skip(1).copied().collect());
        eventually(60 * SECOND, application, async || enough(&seen())).await;
        for engine in engines {
            engine.shutdown(SECOND).await.unwrap();
        }
        seen()
    };
    let (all_twice, two_at_once) = (
        |crawls: &Crawls| crawls.iter().all(|own| own.len() >= 2),
        |crawls: &Crawls| gaps(crawls).iter().any(close),
    );
    let (alone, _) = tokio::join!(crawls("alone", true, &all_twice), crawls("together", false, &two_at_once));
    assert!(!gaps(&alone).iter().any(close), "one at a time: {alone:?}");
    assert_nothing_left(&etcd, "/etcd-rules/", SECOND).await;
}

/// What an engine that is gone held is free again with its lease.
#[tokio::test(flavor = "multi_thread")]
async fn the_crawl_mutex_of_a_dead_engine_ends_with_its_lease() {
    let etcd = Etcd::start().await;
    let granted = Instant::now();
    let lease = etcd.grant(3).await;
    etcd.put_leased("/etcd-rules/test/crawl/dead", "", lease).await;
    let times: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let builder = engine(&etcd).rule(decided(&times)).crawl_interval(100 * MS).crawl_mutex(true);
    let running = builder.build().unwrap().start().await.unwrap();
    eventually(20 * SECOND, "it crawls", async || times.lock().unwrap().len() >= 2).await;
    // The first time is its start.
    assert!(times.lock().unwrap()[1] - granted > 3 * SECOND, "before the lease was over");
    assert_eq!(running.health(), Health::Ready);
    running.shutdown(SECOND).await.unwrap();
    assert_nothing_left(&etcd, "/etcd-rules/", SECOND).await;
}

/// Of three, the engine is the second, though its key is not the second by name.
#[tokio::test(flavor = "multi_thread")]
async fn engines_have_the_crawl_mutex_in_the_order_in_which_they_came() {
    let etcd = Etcd::start().await;
    etcd.put("/etcd-rules/test/crawl/first", "").await;
    let times: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let builder = engine(&etcd).rule(decided(&times)).crawl_interval(100 * MS).crawl_mutex(true);
    let running = builder.build().unwrap().start().await.unwrap();
    let waiting = async || etcd.keys("/etcd-rules/test/crawl/").await.len() == 2;
    eventually(20 * SECOND, "it waits", waiting).await;
    etcd.put("/etcd-rules/test/crawl/0", "").await;
    sleep(2 * SECOND).await;
    let crawls = || times.lock().unwrap().len() - 1;
    assert_eq!(crawls(), 0, "it is not the first");
    etcd.delete("/etcd-rules/test/crawl/first").await;
    eventually(20 * SECOND, "it crawls before the third", async || crawls() == 1).await;
    sleep(3 * SECOND).await;
    assert_eq!(crawls(), 1, "now it is the third's turn");
    etcd.delete("/etcd-rules/test/crawl/0").await;
    eventually(20 * SECOND, "it crawls again", async || crawls() > 1).await;
    running.shutdown(SECOND).await.unwrap();
    assert_nothing_left(&etcd, "/etcd-rules/", SECOND).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crawl_reads_no_faster_than_its_rate() {
    let etcd = Etcd::start().await;
    for n in 0..1000 {
        etcd.put(&format!("/keys/{n:03}"), "").await;
    }
    let first_crawl = async |name: &str, rate: Option<u32>| {
        let times = Arc::default();
        let keys = Rule::new("keys")
            .when(key("/keys/:n").equals("x"))
            .run(|_: Firing| async { Ok::<(), Error>(()) });
        let builder = engine(&etcd).name(name).rules([decided(&times), keys]).crawl_interval(100 * MS);
        let builder = if let Some(rate) = rate { builder.crawl_rate(rate) } else { builder };
        let running = builder.build().unwrap().start().await.unwrap();
        eventually(20 * SECOND, "it crawled", async || times.lock().unwrap().len() >= 2).await;
        let stats = running.stats().await.unwrap();
        assert_eq!((stats.keys, stats.drift), (1000, 0));
        running.shutdown(SECOND).await.unwrap();
        gaps(&times, 0)[0]
    };
    let (fast, slow) = tokio::join!(first_crawl("fast", None), first_crawl("slow", Some(200)));
    assert!(fast < slow && slow >= 5 * SECOND, "{fast:?}, and at 200 keys a second {slow:?}");
}

/// More keys come to one place than fit in a page: that range is read, and compared, whole.
#[tokio::test(flavor = "multi_thread")]
async fn a_crawl_takes_in_a_range_that_grew() {
    let etcd = Etcd::start().await;
    etcd.put_all((0..300).map(|n| format!("/keys/{n:03}"))).await;
    let times = Arc::default();
    let keys =
        Rule::new("keys").when(key("/keys/:n").equals("x")).run(|_: Firing| async { Ok::<(), Error>(()) });
    let builder = engine(&etcd).rules([decided(&times), keys]).crawl_interval(5 * SECOND);
    let running = builder.build().unwrap().start().await.unwrap();
    eventually(20 * SECOND, "it is ready", async || running.health() == Health::Ready).await;
    // All at once, so that hardly ever a crawl sees some of them only.
    etcd.put_all((0..400).map(|n| format!("/keys/x{n:03}"))).await;
    let before = times.lock().unwrap().len();
    eventually(20 * SECOND, "it crawled", async || times.lock().unwrap().len() > before).await;
    let stats = running.stats().await.unwrap();
    assert_eq!((stats.keys, stats.drift), (700, 0));
    running.shutdown(SECOND).await.unwrap();
}

/// While live work never ends, what a crawl found waits for its age.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_crawl_found_waits_for_live_work_until_it_has_aged() {
    let runs = async |ageing: Duration| {
        let etcd = Etcd::start().await;
        let (done, again) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        // How often it had run when most jobs were done.
        let runs = Arc::new(Mutex::new(None));
        let (counted, noted) = (again.clone(), runs.clone());
        let live = Rule::new("live").when(key("/jobs/:id").exists()).run(move |firing: Firing| {
            let (done, counted, noted) = (done.clone(), counted.clone(), noted.clone());
            async move {
                sleep(15 * MS).await;
                if done.fetch_add(1, Ordering::SeqCst) == 350 {
                    *noted.lock().unwrap() = Some(counted.load(Ordering::SeqCst));
                }
                Ok::<Outcome, Error>(firing.commit().delete("/jobs/:id").into())
            }
        });
        let counted = again;
        let stale = Rule::new("stale").when(key("/stale").exists()).run(move |_: Firing| {
            counted.fetch_add(1, Ordering::SeqCst);
            async { Ok::<(), Error>(()) }
        });
        etcd.put("/stale", "").await;
        for job in 0..400 {
            etcd.put(&format!("/jobs/{job}"), "").await;
        }
        let builder = engine(&etcd).rules([live, stale]).concurrency(1).crawl_interval(100 * MS);
        let running = builder.crawl_ageing(ageing).build().unwrap().start().await.unwrap();
        let runs = eventually(60 * SECOND, "most jobs are done", async || *runs.lock().unwrap()).await;
        running.shutdown(5 * SECOND).await.unwrap();
        runs
    };
    let (at_once, late) = tokio::join!(runs(Duration::ZERO), runs(3600 * SECOND));
    assert!(at_once >= 2, "by its age among the live: {at_once} runs");
    assert_eq!(late, 1, "at the start, and then behind the live");
}
