//! What is told of deletions, on the embedded etcd: all from where it is wanted, and nothing while it is not.

use super::*;
use crate::embedded::record::Write;
use crate::embedded::{EmbeddedEtcd, RequestKind};
use crate::etcd::{Target, Timeouts};
use crate::health::Health;
use crate::metrics::Meters;
use crate::watch_cell::{WatchCellSender, watch_cell};
use std::ops::AsyncFnOnce;
use tokio::sync::mpsc;
use tokio::time::timeout;

const SECOND: Duration = Duration::from_secs(1);

/// Takes the dispatcher's place.
struct Listener(mpsc::Sender<Option<Vec<String>>>);

impl Actor for Listener {
    type Context = Context<Self>;
}

impl Handler<Released> for Listener {
    type Result = ();

    fn handle(&mut self, Released(keys): Released, _: &mut Self::Context) {
        let keys = keys.map(|keys| keys.into_iter().map(|(key, _)| key).collect());
        self.0.try_send(keys).expect("room");
    }
}

struct Bench {
    etcd: EmbeddedEtcd,
    wanted: WatchCellSender<Option<Revision>>,
    told: mpsc::Receiver<Option<Vec<String>>>,
    status: Status,
}

async fn bench(test: impl AsyncFnOnce(Bench)) {
    let running = async {
        let etcd = EmbeddedEtcd::in_process();
        let meters = Meters::new("test", &[], 1);
        let timeouts = Timeouts { connect: SECOND, request: SECOND, keep_alive: (SECOND, SECOND) };
        let target = Target::Channel(etcd.channel(), None);
        let status = Status::new("test".into(), meters.clone());
        status.index_ready();
        let (wanted, after) = watch_cell(None);
        let (teller, told) = mpsc::channel(64);
        let settings = LockWatcherSettings {
            etcd: EtcdClient::for_test(target, timeouts, meters),
            namespace: "/ns/".into(),
            dispatcher: Listener(teller).start().recipient(),
            after,
            status: status.clone(),
            silence: 60 * SECOND,
            faults: ActorFaults::new(None).0,
        };
        start_lock_watcher(settings, Retry::seeded(1));
        test(Bench { etcd, wanted, told, status }).await;
    };
    tokio::task::LocalSet::new().run_until(running).await;
}

impl Bench {
    /// Puts and deletes it; returns the revision of the deletion.
    fn release(&self, key: &str) -> Revision {
        assert!(self.etcd.write(&Write::Put(key, "")) && self.etcd.write(&Write::Delete(key)));
        Revision::new(self.etcd.faults().revision())
    }

    /// The next that is told, each key by itself; `None`: some may have been missed.
    async fn next(&mut self) -> Option<Vec<String>> {
        timeout(10 * SECOND, self.told.recv()).await.expect("in time").expect("an actor")
    }

    /// These keys are told, and no other before them.
    async fn tells(&mut self, keys: &[&str]) {
        let mut told = Vec::new();
        while told.len() < keys.len() {
            told.extend(self.next().await.expect("nothing was missed"));
        }
        assert_eq!(told, keys);
    }

    async fn watches(&self, count: u64) {
        let seen = async {
            while self.etcd.faults().seen(RequestKind::WatchRequest) < count {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(10 * SECOND, seen).await.expect("a watch");
    }
}

#[tokio::test]
async fn what_was_deleted_before_the_watch_began_is_told_from_where_it_is_wanted() {
    bench(async |mut bench| {
        let first = bench.release("/ns/a");
        bench.release("/ns/b");
        bench.release("/elsewhere");
        bench.wanted.set(Some(first));
        bench.tells(&["/ns/b"]).await;
        bench.release("/ns/c");
        bench.tells(&["/ns/c"]).await;
        // An answer from before: what lies between is told, and what follows it again.
        bench.wanted.set(Some(first.previous()));
        bench.tells(&["/ns/a", "/ns/b", "/ns/c"]).await;
    })
    .await;
}

#[tokio::test]
async fn nothing_is_watched_while_it_is_not_wanted() {
    bench(async |mut bench| {
        bench.wanted.set(Some(Revision::new(bench.etcd.faults().revision())));
        bench.watches(1).await;
        bench.release("/ns/a");
        bench.tells(&["/ns/a"]).await;
        bench.wanted.set(None);
        tokio::time::sleep(Duration::from_millis(50)).await;
        let before = bench.release("/ns/b");
        bench.wanted.set(Some(before));
        bench.watches(2).await;
        bench.release("/ns/c");
        bench.tells(&["/ns/c"]).await;
    })
    .await;
}

#[tokio::test]
async fn what_is_compacted_may_have_been_missed() {
    bench(async |mut bench| {
        let first = bench.release("/ns/a");
        let last = bench.release("/ns/b");
        bench.etcd.faults().compact(last.get()).expect("a compaction");
        bench.wanted.set(Some(first));
        assert_eq!(bench.next().await, None, "all look again");
        bench.release("/ns/c");
        bench.tells(&["/ns/c"]).await;
    })
    .await;
}

#[tokio::test]
async fn trouble_is_over_when_nobody_waits_any_more() {
    bench(async |bench| {
        let mut health = bench.status.subscribe();
        bench.etcd.faults().set_reachable(false);
        bench.wanted.set(Some(Revision::new(1)));
        let unwell = health.wait_for(|health| *health != Health::Ready);
        timeout(10 * SECOND, unwell).await.expect("in time").expect("a status");
        bench.wanted.set(None);
        let well = health.wait_for(|health| *health == Health::Ready);
        timeout(10 * SECOND, well).await.expect("in time").expect("a status");
    })
    .await;
}
