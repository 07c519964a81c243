//! Two servers that get the same requests, and what makes their answers comparable.

use crate::support::Etcd;
use etcd_client::proto::{PbResponseHeader, PbTxnOpResponse};
use etcd_client::{
    AuthDisableResponse, AuthEnableResponse, Client, CompactionResponse, ConnectOptions, DeleteResponse,
    Error, GetResponse, HashKvResponse, LeaseGrantResponse, LeaseKeepAliveResponse, LeaseLeasesResponse,
    LeaseRevokeResponse, LeaseTimeToLiveResponse, LockResponse, PutResponse, RoleAddResponse,
    RoleDeleteResponse, RoleGetResponse, RoleGrantPermissionResponse, RoleListResponse,
    RoleRevokePermissionResponse, TxnResponse, UnlockResponse, UserAddResponse, UserChangePasswordResponse,
    UserDeleteResponse, UserGetResponse, UserGrantRoleResponse, UserListResponse, UserRevokeRoleResponse,
};
use etcd_rules::embedded::EmbeddedEtcd;
use std::fmt::Debug;
use std::time::Duration;
use tokio::time::timeout;

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(60);

/// A real etcd and an embedded one, both fresh.
pub struct Both {
    pub real: Client,
    pub embedded: Client,
    etcd: EmbeddedEtcd,
    process: Etcd,
    last: Vec<String>,
    seed: u64,
}

impl Both {
    /// The real one is an etcd 3.4, after which the embedded one is made, whatever server the other tests use.
    pub async fn start(seed: u64) -> Self {
        let program = std::env::var("ETCD_RULES_TEST_ETCD34").unwrap_or_else(|_| "etcd".to_owned());
        let process = Etcd::builder().program(&program).start().await;
        let version =
            process.client().await.status().await.expect("etcd tells its version").version().to_owned();
        assert!(
            version.starts_with("3.4."),
            "the embedded etcd is compared with etcd 3.4, and `{program}` is {version}: name one in ETCD_RULES_TEST_ETCD34"
        );
        let etcd = EmbeddedEtcd::start().await.expect("a free port");
        let embedded = Client::connect([etcd.endpoint()], None).await.expect("connection");
        let real = process.client().await;
        Self { real, embedded, etcd, process, last: Vec::new(), seed }
    }

    /// Where the real one listens, and where the embedded one does.
    pub fn endpoints(&self) -> [String; 2] {
        [self.process.endpoint(), self.etcd.endpoint()]
    }

    /// Requests come from this user from now on.
    pub async fn come_in(&mut self, name: &str, password: &str) {
        let [real, embedded] = [self.process.endpoint(), self.etcd.endpoint()].map(|endpoint| {
            let options = ConnectOptions::new().with_user(name, password);
            Client::connect([endpoint], Some(options))
        });
        self.real = real.await.unwrap_or_else(|error| panic!("etcd lets {name} in: {error}"));
        self.embedded =
            embedded.await.unwrap_or_else(|error| panic!("the embedded one lets {name} in: {error}"));
        self.last.push(format!("{name} comes in"));
    }

    /// Whether both let this user in, or refuse in the same words.
    pub async fn same_entry(&mut self, name: &str, password: &str) -> bool {
        let [real, embedded] = [self.process.endpoint(), self.etcd.endpoint()].map(|endpoint| async {
            let options = ConnectOptions::new().with_user(name, password);
            Client::connect([endpoint], Some(options)).await.map(drop)
        });
        let (real, embedded) = (shown(&real.await), shown(&embedded.await));
        self.last.push(format!("{name} with {password:?}\n    -> {real}"));
        assert_eq!(embedded, real, "{}", self.context());
        real == shown(&Ok(()))
    }

    /// Sends one request to both and compares the answers. Returns the answer.
    pub async fn same<R: Shown>(
        &mut self,
        what: String,
        request: impl AsyncFn(Client) -> Result<R, Error>,
    ) -> Option<R> {
        let (real, embedded) = tokio::join!(
            timeout(LIMIT, request(self.real.clone())),
            timeout(LIMIT, request(self.embedded.clone()))
        );
        let silent = (embedded.is_err(), real.is_err());
        let (Ok(real), Ok(embedded)) = (real, embedded) else {
            panic!("no answer within {LIMIT:?} to {what}, {silent:?}: {}", self.context());
        };
        let expected = shown(&real);
        let got = shown(&embedded);
        self.last.push(format!("{what}\n    -> {expected}"));
        assert_eq!(got, expected, "{}", self.context());
        embedded.ok()
    }

    /// How to run this again, and the last requests.
    pub fn context(&self) -> String {
        let last = &self.last[self.last.len().saturating_sub(12)..];
        format!(
            "the embedded server (left) differs from etcd (right); again with EMBEDDED_SEED={}; the last of {} requests:\n{}",
            self.seed,
            self.last.len(),
            last.join("\n")
        )
    }
}

/// The seeds to run: those in `EMBEDDED_SEED` (one, or a range `1..50`), or a few.
pub fn seeds() -> std::ops::Range<u64> {
    let Ok(given) = std::env::var("EMBEDDED_SEED") else { return 1..3 };
    let number = |text: &str| text.parse::<u64>().expect("EMBEDDED_SEED: a number, or a range `1..50`");
    match given.split_once("..") {
        Some((first, end)) => number(first)..number(end),
        None => number(&given)..number(&given) + 1,
    }
}

/// Random numbers that repeat from a seed (splitmix64).
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize].clone()
    }
}

/// An answer as text, without what differs between any two servers: the ids of cluster and member.
pub trait Shown {
    fn shown(&self) -> String;
}

pub fn shown<R: Shown>(answer: &Result<R, Error>) -> String {
    match answer {
        Ok(answer) => answer.shown(),
        Err(Error::GRpcStatus(status)) => format!("{:?}: {}", status.code(), status.message()),
        Err(other) => format!("{other:?}"),
    }
}

/// Ids are only compared in being there.
pub fn anonymous(header: &mut Option<PbResponseHeader>) {
    if let Some(header) = header {
        header.cluster_id = header.cluster_id.min(1);
        header.member_id = header.member_id.min(1);
    }
}

macro_rules! shown_by_debug {
    ($($answer:ty),*) => {$(
        impl Shown for $answer {
            fn shown(&self) -> String {
                let mut inner = self.0.clone();
                anonymous(&mut inner.header);
                format!("{inner:?}")
            }
        }
    )*};
}

impl Shown for () {
    fn shown(&self) -> String {
        "well".to_owned()
    }
}

shown_by_debug!(
    AuthDisableResponse,
    AuthEnableResponse,
    RoleAddResponse,
    RoleDeleteResponse,
    RoleGetResponse,
    RoleGrantPermissionResponse,
    RoleListResponse,
    RoleRevokePermissionResponse,
    UserAddResponse,
    UserChangePasswordResponse,
    UserDeleteResponse,
    UserGetResponse,
    UserGrantRoleResponse,
    UserListResponse,
    UserRevokeRoleResponse,
    PutResponse,
    GetResponse,
    DeleteResponse,
    CompactionResponse,
    LeaseGrantResponse,
    LeaseRevokeResponse,
    LeaseKeepAliveResponse,
    LeaseLeasesResponse,
    LockResponse,
    UnlockResponse
);

impl Shown for TxnResponse {
    fn shown(&self) -> String {
        let mut inner = self.0.clone();
        anonymous(&mut inner.header);
        let filled = |response: &PbTxnOpResponse| match response {
            PbTxnOpResponse::ResponseRange(r) => r.header.is_some_and(|h| h.cluster_id != 0),
            _ => false,
        };
        assert!(!inner.responses.iter().filter_map(|r| r.response.as_ref()).any(filled));
        format!("{inner:?}")
    }
}

impl Shown for HashKvResponse {
    /// Without the revision of the hash, which etcd 3.4 does not tell.
    fn shown(&self) -> String {
        let mut inner = self.0;
        anonymous(&mut inner.header);
        inner.hash_revision = 0;
        format!("{inner:?}")
    }
}

impl Shown for LeaseTimeToLiveResponse {
    /// The remaining seconds only in halves of a minute: the two servers get the question one after the other.
    fn shown(&self) -> String {
        let mut inner = self.0.clone();
        anonymous(&mut inner.header);
        inner.ttl = if inner.ttl < 0 { inner.ttl } else { (inner.ttl + 15) / 30 };
        inner.keys.sort();
        format!("{inner:?}")
    }
}

impl<A: Debug + Shown, B: Debug + Shown> Shown for (A, B) {
    fn shown(&self) -> String {
        format!("{} {}", self.0.shown(), self.1.shown())
    }
}
