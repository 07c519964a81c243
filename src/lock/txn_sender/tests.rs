//! The health of requests, on the embedded etcd: trouble ends when it is over, and not before.

use super::*;
use crate::change::{Revision, Snapshot};
use crate::condition::{Check, Slot};
use crate::embedded::EmbeddedEtcd;
use crate::etcd::LeaseId;
use crate::etcd::{Target, Timeouts};
use crate::firing::{Effect, Effects, Fence};
use crate::health::{Health, Reason};
use crate::lock::keys::Keys;
use crate::lock::txn::{
    Ending, Holder, InstanceMark, Locking, Marking, Showing, clear_mark, free_attempt, free_orphan,
};
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
        let settings = TxnSenderSettings {
            meters: meters.clone(),
            etcd: EtcdClient::for_test(target, timeouts, meters),
            status: status.clone(),
            rules: Arc::new([]),
            namespace: "/etcd-rules/test/".into(),
            limits: BatchLimits::default(),
            faults: ActorFaults::new(None).0,
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

    /// Those that may travel together do.
    async fn submit_all<const N: usize>(
        &self,
        requests: [Option<Request>; N],
    ) -> Vec<Option<Result<Reply, Failure>>> {
        let (submissions, answers): (Vec<_>, Vec<_>) = requests
            .into_iter()
            .flatten()
            .map(|request| {
                let (task, answer) = oneshot::channel();
                let (rule, class, asker) = (RuleIndex::default(), Class::Ending, Asker::Task(task));
                (Submit { rule, class, request, asker, send_before: None }, answer)
            })
            .unzip();
        tell(&self.requests, Submissions(submissions)).await.unwrap();
        futures_util::future::join_all(answers).await.into_iter().map(Result::ok).collect()
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
        // There was space for the identity of the store.
        assert!(matches!(bench.submit(delete("/a")).await, Some(Ok(_))));
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

#[tokio::test]
async fn without_space_for_the_identity_nothing_is_sent_and_those_who_asked_are_told() {
    bench(async |bench| {
        bench.etcd.faults().set_no_space(true);
        let told = bench.submit(delete("/a")).await;
        assert!(matches!(&told, Some(Err(failure)) if failure.kind == FailureKind::NoSpace), "{told:?}");
        let requests = bench.requests.clone();
        let putting = actix::spawn(async move {
            submit(&requests, RuleIndex::default(), Class::Ending, put("/a"), None).await
        });
        bench.becomes(|health| health.has(Reason::NoSpace)).await;
        bench.etcd.faults().set_no_space(false);
        assert!(matches!(putting.await, Ok(Some(Ok(_)))), "what was held back is sent");
        bench.becomes(|health| *health == Health::Ready).await;
    })
    .await;
}

/// Every request of a firing. In a store without keys all of their compares hold.
fn every_request() -> Vec<(&'static str, Request)> {
    let (lock, mark_key) = ("/etcd-rules/test/lock/r/1", "/etcd-rules/test/backoff/r/1");
    let keys = Keys::from_parts(lock, mark_key, ["/a"]);
    let holder = Holder { engine: "test".into(), nonce: Nonce(1), since: 0, name: None };
    let condition = crate::key("/a").absent().compile().expect("a condition");
    let snapshot: Snapshot = vec![None].into();
    let lease = LeaseId::new(LEASE);
    let locking = Locking {
        keys: &keys,
        holder: &holder,
        lease,
        supersedes_backoff: None,
        condition: &condition,
        witness: &[Check::Absent(Slot::new(0))],
        snapshot: &snapshot,
        showing: Showing::AsDecided,
    };
    let put = Effect::Put { key: "/a".into(), value: "".into(), ttl: None };
    let effects = Effects { changes: vec![put], ..Effects::default() };
    let mark = InstanceMark {
        engine: "test".into(),
        attempt: 1,
        until: 0,
        gave_up: false,
        error: "".into(),
        reveal: Default::default(),
        name: None,
    };
    let ending = |fence, marking| {
        let leases = &[None];
        Ending { keys: &keys, fence, effects: &effects, leases, supersedes_backoff: None, marking }.request()
    };
    let fence = Some(Fence { create_revision: Revision::NONE });
    vec![
        ("lock", locking.request()),
        ("commit", ending(fence, None)),
        ("commit and mark", ending(fence, Some(Marking { mark: &mark, lease }))),
        ("optimistic commit", ending(None, None)),
        ("release of an orphan", free_orphan(lock, Revision::NONE)),
        ("release of an attempt", free_attempt(lock, &holder)),
        ("removal of a mark", clear_mark(mark_key, Revision::NONE)),
    ]
}

const LEASE: i64 = 7;
const IDENTITY: &str = "/etcd-rules/test/identity";

#[tokio::test]
async fn another_store_refuses_whatever_it_is_sent_and_is_told_from_one_that_only_says_no() {
    bench(async |bench| {
        let mut client = bench.etcd.client().await.unwrap();
        let options = etcd_client::LeaseGrantOptions::new().with_id(LEASE);
        client.lease_grant(3600, Some(options)).await.unwrap();
        assert!(matches!(bench.submit(delete("/z")).await, Some(Ok(_))), "the identity is known");
        let known = client.get(IDENTITY, None).await.unwrap().kvs()[0].value().to_vec();
        for together in [false, true] {
            for (name, request) in every_request() {
                client.put(IDENTITY, "another", None).await.unwrap();
                let before = client.get("/", None).await.unwrap().header().unwrap().revision();
                let answers = bench.submit_all([Some(request), together.then(|| delete("/y"))]).await;
                for told in answers {
                    let refused =
                        matches!(&told, Some(Err(failure)) if failure.kind == FailureKind::WrongStore);
                    assert!(refused, "{name}, together {together}: {told:?}");
                }
                let after = client.get("/", None).await.unwrap().header().unwrap().revision();
                assert_eq!(after, before, "{name}, together {together}: it took effect");
                client.put(IDENTITY, known.clone(), None).await.unwrap();
                let deadline = Instant::now() + 10 * SECOND;
                while !matches!(bench.submit(delete("/z")).await, Some(Ok(_))) {
                    assert!(Instant::now() < deadline, "the store is ours again");
                    sleep(SECOND / 20).await;
                }
            }
        }
        // In the engine's own store a refusal is the answer to what was asked.
        client.put("/z", "", None).await.unwrap();
        let told = bench.submit(clear_mark("/z", Revision::new(1))).await;
        assert!(
            matches!(&told, Some(Ok(reply)) if !reply.succeeded && reply.responses.is_empty()),
            "{told:?}"
        );
    })
    .await;
}
