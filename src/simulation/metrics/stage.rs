//! The stage of an act: an engine on an embedded etcd in one thread under a paused clock, and the scrapes
//! before and after. So counts are exact, and times are those that the act sets.

use super::scrape::{Scrape, lines};
use crate::compiled::Backoff;
use crate::condition::{Condition, key};
use crate::embedded::record::Write;
use crate::embedded::{EmbeddedEtcd, Faults, NetworkPath};
use crate::engine::{Engine, EngineBuilder, RunningEngine};
use crate::error::Error;
use crate::firing::Firing;
use crate::metrics::describe;
use crate::rule::Rule;
use crate::runtime::env::Env;
use crate::testing::virtual_time;
use crate::time::Jitter;
use etcd_client::{Client, PutOptions};
use futures_util::FutureExt;
use metrics_exporter_prometheus::PrometheusHandle;
use std::collections::BTreeSet;
use std::time::{Duration, UNIX_EPOCH};
use tokio::time::{Instant, advance, sleep_until};

/// Where the engine keeps its locks.
pub(super) const NAMESPACE: &str = "/etcd-rules/app/";

pub(super) fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// How much a time may differ. A new attempt to reach etcd comes after 50 ms, plus or minus a fifth.
const JITTER: f64 = 0.011;

/// When the act begins. The engine has started by then. It is between two of the whole seconds at which the
/// engine sets its gauges.
const START: f64 = 0.1;

/// Blocks the thread for this time.
pub(super) fn block(time: Duration) {
    // The clock moves at the first poll.
    let _ = advance(time).now_or_never();
}

pub(super) struct Stage {
    pub(super) etcd: EmbeddedEtcd,
    pub(super) faults: Faults,
    pub(super) path: NetworkPath,
    start: Instant,
    metrics: PrometheusHandle,
    before: Scrape,
    /// Series that have changed so far, in any act.
    pub(super) moved: BTreeSet<String>,
    /// What was not as expected.
    pub(super) wrong: Vec<String>,
}

/// Plays an act from its beginning; returns what moved, and what was wrong.
pub(super) fn play(act: impl AsyncFnOnce(&mut Stage)) -> (BTreeSet<String>, Vec<String>) {
    let recorder = crate::prometheus::builder().expect("a recorder").build_recorder();
    let metrics = recorder.handle();
    metrics::with_local_recorder(&recorder, || {
        describe();
        virtual_time::run(async {
            let etcd = EmbeddedEtcd::in_process();
            let mut stage = Stage {
                faults: etcd.faults(),
                path: etcd.path(),
                etcd,
                start: Instant::now(),
                metrics,
                before: Scrape::default(),
                moved: BTreeSet::new(),
                wrong: Vec::new(),
            };
            act(&mut stage).await;
            (stage.moved, stage.wrong)
        })
    })
}

impl Stage {
    /// An engine on this stage's path to etcd. For the first 20 minutes nothing happens by itself: no
    /// renewal, no crawl, and no check of the streams.
    pub(super) fn engine(&self) -> EngineBuilder {
        let hour = seconds(3600.0);
        let mut builder = Engine::builder_with_channel("app", self.path.channel())
            .name("e")
            .lock_ttl(hour)
            .crawl_interval(hour)
            .crawl_jitter(Jitter::NONE)
            .watch_silence(hour);
        let start = self.start;
        builder.env = Env::local(7, move || UNIX_EPOCH + start.elapsed());
        builder
    }

    /// Starts it, and takes what has happened until it is ready as the beginning.
    pub(super) async fn start(&mut self, builder: EngineBuilder) -> RunningEngine {
        let handle = builder.build().expect("a sound configuration").start().await.expect("it starts");
        handle.ready().await;
        // Its lease and its connections may come a little later.
        self.at(START).await;
        self.begin();
        handle
    }

    /// Takes the current scrape as the one to compare with.
    pub(super) fn begin(&mut self) {
        self.before = self.scrape();
    }

    /// Waits until this second of the act.
    pub(super) async fn at(&self, time: f64) {
        sleep_until(self.start + seconds(time)).await;
    }

    fn scrape(&self) -> Scrape {
        Scrape::new(&self.metrics.render())
    }

    pub(super) fn put(&self, key: &str, value: &str) {
        assert!(self.etcd.write(&Write::Put(key, value)), "{key} was not put");
    }

    pub(super) fn delete(&self, key: &str) {
        assert!(self.etcd.write(&Write::Delete(key)), "{key} was not deleted");
    }

    /// Puts a key under a lease.
    pub(super) async fn put_under(&self, lease: i64, key: &str, value: &str) {
        let mut client: Client = self.etcd.client().await.expect("a client");
        client.put(key, value, Some(PutOptions::new().with_lease(lease))).await.expect("a put");
    }

    /// Checks that exactly this has changed in the scrape since the last check, or since the beginning:
    /// counters and histograms by these amounts, gauges to these values. See [`lines`] for the text.
    pub(super) fn expect(&mut self, moment: &str, text: &str) {
        let now = self.scrape();
        let expected = lines(text);
        let changed = now.changes(&self.before);
        self.moved.extend(changed.keys().cloned());
        let missing = expected.iter().filter(|(series, _)| !changed.contains_key(*series));
        let missing = missing.map(|(series, value)| format!("{series} {value} did not move"));
        let different = changed.iter().filter_map(|(series, value)| match expected.get(series) {
            Some(expected) if (value - expected).abs() < JITTER => None,
            Some(expected) => Some(format!("{series} {value} should be {expected}")),
            None => Some(format!("{series} {value} was not expected")),
        });
        let wrong = missing.chain(different).chain(now.wrong_buckets());
        let wrong: Vec<String> = wrong.collect();
        if !wrong.is_empty() {
            self.wrong.push(format!("{moment}:\n  {}", wrong.join("\n  ")));
        }
        self.before = now;
    }
}

/// A rule that retries a second after a failure, plus or minus a fifth.
pub(super) fn rule(condition: Condition) -> Rule {
    Rule::new("r").when(condition).backoff(Backoff::new(seconds(1.0), seconds(1.0)))
}

pub(super) fn exists() -> Condition {
    key("/jobs/:id").exists()
}

/// The end of a job that is done.
pub(super) fn done(firing: &Firing) -> Result<crate::Outcome, Error> {
    Ok(firing.commit().delete("/jobs/:id").into())
}
