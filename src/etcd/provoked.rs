//! Every error of the table, as the embedded etcd tells it: what the link does about it, and what it says of the
//! effect.

use super::errors::ERRORS;
use super::failure::{PossibleEffect, Remedy};
use super::numbers::ConnectionId;
use super::wire::simulated::dial_by;
use super::{EtcdClient, LinkSettings, Store, Target, Timeouts};
use crate::embedded::{EmbeddedEtcd, Fault, RequestKind, RpcError};
use crate::metrics::Meters;
use etcd_client::{ConnectOptions, TxnOp};
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep};

const SECOND: Duration = Duration::from_secs(1);

/// A link to a cluster of two members.
struct Bench {
    etcd: EmbeddedEtcd,
    client: Arc<EtcdClient>,
}

impl Bench {
    async fn start() -> Self {
        let etcd = EmbeddedEtcd::in_process_cluster(2);
        let mut root = etcd.client().await.unwrap();
        root.user_add("root", "secret", None).await.unwrap();
        root.user_grant_role("root", "root").await.unwrap();
        root.auth_enable().await.unwrap();
        let paths = [0, 1].map(|member| etcd.member(member).path());
        dial_by(move |endpoint| {
            let path = paths.get(endpoint.strip_prefix("member-")?.parse::<usize>().ok()?)?.clone();
            Some(Box::pin(async move { path.dial().await }))
        });
        let endpoints: Vec<String> = (0..2).map(|member| format!("member-{member}")).collect();
        let options = ConnectOptions::new().with_user("root", "secret");
        let (client, connector) = EtcdClient::new(LinkSettings {
            target: Target::Endpoints(endpoints.clone(), Some(options)),
            timeouts: Timeouts { connect: SECOND, request: 5 * SECOND, keep_alive: (5 * SECOND, 5 * SECOND) },
            meters: Meters::new("test", &[], 1),
            home: 0,
            token: Arc::default(),
            credentials: None,
            rebalance: 600 * SECOND,
            store: Store::new(endpoints, None, (Default::default(), "/etcd-rules/test/"), 1, |_| {}),
            rng: StdRng::seed_from_u64(1),
        });
        tokio::task::spawn_local(connector.run());
        // The first connection writes the identity of the store, by a transaction of its own.
        client.probe("/").await.unwrap();
        Self { etcd, client: Arc::new(client) }
    }

    /// The number of the present connection.
    async fn connection(&self) -> ConnectionId {
        self.client.connection("test", Instant::now() + SECOND).await.expect("a connection").number
    }

    fn asked(&self, kind: RequestKind) -> u64 {
        self.etcd.faults().seen(kind)
    }

    /// Whether a fault makes the link go elsewhere, and whether it makes it ask for a token.
    async fn around<T>(&self, fault: Fault, request: impl Future<Output = T>) -> (T, bool, bool) {
        let (connection, tokens) = (self.connection().await, self.asked(RequestKind::Authenticate));
        self.etcd.faults().inject(fault);
        let answer = request.await;
        sleep(SECOND).await;
        assert_eq!(self.etcd.faults().waiting(), 0, "the fault was felt");
        let moved = self.connection().await != connection;
        (answer, moved, self.asked(RequestKind::Authenticate) != tokens)
    }
}

fn on_members(test: impl AsyncFnOnce(Bench)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    LocalSet::new().block_on(&runtime.expect("a runtime"), async { test(Bench::start().await).await });
}

#[test]
fn a_read_is_asked_for_again_where_that_helps() {
    on_members(async |bench| {
        for known in ERRORS {
            let fault = Fault::on(RequestKind::Range).fail(RpcError::new(known.code as i32, known.message));
            let (read, moved, asked) = bench.around(fault, bench.client.get("/key")).await;
            let (remedy, message) = (known.remedy, known.message);
            match remedy {
                Remedy::OtherMember | Remedy::Authenticate => {
                    assert!(read.is_ok(), "{message}: {read:?}");
                }
                Remedy::Wait | Remedy::GiveUp => {
                    let failure = read.expect_err(message);
                    assert_eq!((failure.kind, failure.effect), (known.kind, PossibleEffect::No), "{message}");
                }
            }
            assert_eq!(moved, remedy == Remedy::OtherMember, "{message}: the member is left");
            assert_eq!(asked, remedy == Remedy::Authenticate, "{message}: a token is asked for");
        }
    });
}

#[test]
fn what_may_have_taken_effect_is_never_sent_again() {
    on_members(async |bench| {
        for (number, known) in ERRORS.iter().enumerate() {
            let (remedy, message) = (known.remedy, known.message);
            // What certainly had no effect is only told of requests that had none.
            let fates: &[bool] =
                if known.effect == PossibleEffect::Unknown { &[false, true] } else { &[false] };
            for &took_effect in fates {
                let error = RpcError::new(known.code as i32, message);
                let fault = Fault::on(RequestKind::Txn);
                let fault = if took_effect { fault.fail_after(error) } else { fault.fail(error) };
                let key = format!("/{number}/{took_effect}");
                let put = vec![TxnOp::put(key.as_str(), "", None)];
                let before = bench.asked(RequestKind::Txn);
                let (sent, moved, asked) = bench.around(fault, bench.client.txn(vec![], put, vec![])).await;
                let times = bench.asked(RequestKind::Txn) - before;
                let exists = bench.client.get(&key).await.expect("a read").is_some();
                match (remedy, known.effect) {
                    (Remedy::OtherMember, PossibleEffect::No) | (Remedy::Authenticate, _) => {
                        assert!(sent.is_ok(), "{message}");
                        assert_eq!((times, exists), (2, true), "{message}");
                    }
                    (_, effect) => {
                        let failure = sent.map(drop).expect_err(message);
                        assert_eq!((failure.kind, failure.effect), (known.kind, effect), "{message}");
                        assert_eq!((times, exists), (1, took_effect), "{message}");
                    }
                }
                assert_eq!(moved, remedy == Remedy::OtherMember, "{message}: the member is left");
                assert_eq!(asked, remedy == Remedy::Authenticate, "{message}: a token is asked for");
            }
        }
    });
}
