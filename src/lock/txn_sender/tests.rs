//! The health of requests, on the embedded etcd: trouble ends when it is over, and not before.

use super::*;
use crate::change::Revision;
use crate::embedded::EmbeddedEtcd;
use crate::etcd::{Target, Timeouts};
use crate::health::{Health, Reason};
use crate::lock::txn::clear_mark;
use std::ops::AsyncFnOnce;

const SECOND: Duration = Duration::from_secs(1);

/// Everything that a test needs: the server, the actor, and what it reports.
struct Bench {
    etcd: EmbeddedEtcd,
    requests: Addr<TxnSender>,
    status: Status,
}

async fn bench(test: impl AsyncFnOnce(Bench)) {
    let etcd = EmbeddedEtcd::start().await.unwrap();
    let running = async {
        let meters = Meters::new("test", &[], 1);
        let timeouts = Timeouts { connect: SECOND, request: SECOND, keep_alive: (SECOND, SECOND) };
        let target = Target::Endpoints(vec![etcd.endpoint()], None);
        let status = Status::new("test".into(), meters.clone());
        status.index_ready();
        let settings = Settings {
            meters: meters.clone(),
            etcd: EtcdClient::for_test(target, timeouts, meters),
            status: status.clone(),
            rules: Arc::new([]),
            namespace: "/etcd-rules/test/".into(),
            limits: BatchLimits::default(),
            faults: Faults::new(None).0,
        };
        test(Bench { requests: TxnSender::new(settings).start(), status, etcd }).await;
    };
    tokio::task::LocalSet::new().run_until(running).await;
}

impl Bench {
    async fn becomes(&self, wanted: impl Fn(&Health) -> bool) {
        let mut health = self.status.subscribe();
        let became = tokio::time::timeout(10 * SECOND, health.wait_for(wanted)).await;
        assert!(became.is_ok(), "{}", self.status.subscribe().borrow().clone());
    }

    async fn submit(&self, request: Request) -> Option<Result<Reply, Failure>> {
        submit(&self.requests, RuleIndex::default(), Class::Ending, request, None).await
    }
}

fn delete(key: &str) -> Request {
    clear_mark(key, Revision::new(1))
}

fn put(key: &str) -> Request {
    let mut request = delete(key);
    request.footprint.puts = true;
    request.txn = EncodedTxn::default();
    request.txn.then_put(key, b"", None);
    request
}

#[tokio::test]
async fn trouble_ends_also_when_there_is_nothing_left_to_ask_for() {
    bench(async |bench| {
        bench.etcd.faults().set_reachable(false);
        assert!(matches!(bench.submit(delete("/a")).await, Some(Err(_))));
        bench.becomes(|health| health.has(Reason::Disconnected)).await;
        bench.etcd.faults().set_reachable(true);
        bench.becomes(|health| *health == Health::Ready).await;
    })
    .await;
}

#[tokio::test]
async fn without_space_an_answer_to_a_deletion_is_no_sign_of_space() {
    bench(async |bench| {
        bench.etcd.faults().set_no_space(true);
        let requests = bench.requests.clone();
        let putting = actix::spawn(async move {
            submit(&requests, RuleIndex::default(), Class::Ending, put("/a"), None).await
        });
        bench.becomes(|health| health.has(Reason::NoSpace)).await;
        let mut health = bench.status.subscribe();
        assert!(matches!(bench.submit(delete("/b")).await, Some(Ok(_))), "deletions are answered");
        assert!(health.borrow_and_update().has(Reason::NoSpace));
        bench.etcd.faults().set_no_space(false);
        bench.becomes(|health| *health == Health::Ready).await;
        assert!(matches!(putting.await, Ok(Some(Ok(_)))), "what was held back is sent");
    })
    .await;
}
