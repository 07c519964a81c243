//! The one place that calls etcd: connections and requests.

mod failure;
mod source;
mod txn_channel;
mod watch;

pub(crate) use failure::{Failure, FailureKind};
pub(crate) use watch::{Watch, WatchMessage};

use crate::change::{KeyValue, Revision};
use crate::metrics::Meters;
use crate::value::Value;
use bytes::Bytes;
use etcd_client::proto::{PbKeyValue, PbTxnOpResponse, PbTxnResponse};
use etcd_client::{
    Channel, Client, ConnectOptions, GetOptions, KvClient, LeaseGrantOptions, LeaseKeepAliveStream,
    LeaseKeeper, Txn,
};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use txn_channel::{TxnChannelBuilder, txn_channel, with_body};

/// How to reach etcd.
#[derive(Clone)]
pub(crate) enum Target {
    /// Connections of the engine's own.
    Endpoints(Vec<String>, Option<ConnectOptions>),
    /// A channel that the application made.
    Channel(Channel, Option<ConnectOptions>),
}

/// Bounds on connections and requests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    pub(crate) connect: Duration,
    pub(crate) request: Duration,
    /// HTTP/2 pings: the interval, and how long an answer may take.
    pub(crate) keep_alive: (Duration, Duration),
}

/// Largest response accepted, to transactions and reads of single keys. tonic's own default is 4 MiB.
const MAX_RESPONSE: usize = 512 << 20;

/// Largest page of a range accepted; larger ones are asked for in smaller parts.
const MAX_PAGE: usize = 64 << 20;

/// A connection that can be made anew. Cheap to share; requests may go out at the same time.
pub(crate) struct EtcdClient {
    target: Target,
    timeouts: Timeouts,
    meters: Meters,
    client: RwLock<Option<Arc<Client>>>,
    /// The endpoint in use, counted on with every move to the next.
    endpoint: AtomicUsize,
}

/// A page of a range.
pub(crate) struct Page {
    pub(crate) keys: Vec<KeyValue>,
    pub(crate) count: i64,
}

/// Who answered, and where its store stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) cluster: u64,
    pub(crate) revision: Revision,
    /// Of the leader's election.
    pub(crate) term: u64,
}

impl Header {
    fn of(header: Option<&etcd_client::proto::PbResponseHeader>) -> Self {
        let header = header.cloned().unwrap_or_default();
        Self { cluster: header.cluster_id, revision: header.revision, term: header.raft_term }
    }
}

/// A change that was seen. A store without it in its history is not the one it was seen in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LastEvent {
    pub(crate) key: Vec<u8>,
    pub(crate) revision: Revision,
    /// `None`: it was deleted.
    pub(crate) value: Option<Value>,
}

/// A lock in etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LockKey {
    pub(crate) key: String,
    pub(crate) value: Value,
    pub(crate) lease: i64,
    pub(crate) create_revision: Revision,
}

/// The answer to a transaction.
pub(crate) struct Answer {
    pub(crate) revision: Revision,
    pub(crate) succeeded: bool,
    pub(crate) responses: Vec<Option<PbTxnOpResponse>>,
}

impl From<PbTxnResponse> for Answer {
    fn from(response: PbTxnResponse) -> Self {
        Self {
            revision: response.header.map_or(0, |header| header.revision),
            succeeded: response.succeeded,
            responses: response.responses.into_iter().map(|r| r.response).collect(),
        }
    }
}

/// A lease that was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) id: i64,
    pub(crate) ttl: Duration,
    /// When the request was sent: the lease lives at least from then on.
    pub(crate) sent: Instant,
}

impl EtcdClient {
    /// Begins with endpoint number `first`, modulo their number.
    pub(crate) fn new(target: Target, timeouts: Timeouts, meters: Meters, first: usize) -> Self {
        Self { target, timeouts, meters, client: RwLock::new(None), endpoint: AtomicUsize::new(first) }
    }

    /// The client, connecting if there is none. With credentials this authenticates.
    pub(crate) async fn client(&self) -> Result<Arc<Client>, Failure> {
        let existing = self.client.read().unwrap_or_else(|e| e.into_inner()).clone();
        match existing {
            Some(client) => Ok(client),
            // Rare, and large: it must not make every request as large.
            None => Box::pin(self.connect()).await,
        }
    }

    async fn connect(&self) -> Result<Arc<Client>, Failure> {
        let options = match &self.target {
            Target::Endpoints(_, options) | Target::Channel(_, options) => {
                options.clone().unwrap_or_default()
            }
        };
        let (interval, limit) = self.timeouts.keep_alive;
        let options = options
            .with_require_leader(true)
            .with_keep_alive(interval, limit)
            .with_keep_alive_while_idle(true)
            .with_connect_timeout(self.timeouts.connect);
        let connecting = async {
            match &self.target {
                // One at a time: a channel balanced over several prefers a member that is down, since
                // that refuses requests quickly.
                Target::Endpoints(endpoints, _) => {
                    let at = self.endpoint.load(Ordering::Relaxed) % endpoints.len();
                    Client::connect_with_balanced_channel([&endpoints[at]], Some(options), TxnChannelBuilder)
                        .await
                }
                Target::Channel(channel, _) => {
                    Client::from_channel(txn_channel(channel.clone()), Some(options)).await
                }
            }
        };
        // Shared: a client is a dozen clients, each of which is copied with it.
        let client = Arc::new(self.bounded("connect", connecting).await?);
        *self.client.write().unwrap_or_else(|e| e.into_inner()) = Some(client.clone());
        Ok(client)
    }

    /// Forgets the connection, so that the next request makes (and authenticates) a new one.
    pub(crate) fn reset(&self) {
        *self.client.write().unwrap_or_else(|e| e.into_inner()) = None;
    }

    /// Leaves an endpoint that answers requests, but whose stream is dead.
    pub(crate) fn leave(&self) {
        self.move_on(self.endpoint.load(Ordering::Relaxed));
        self.reset();
    }

    /// Leaves the endpoint that failed, unless another request has done so already.
    fn move_on(&self, from: usize) {
        if let Target::Endpoints(endpoints, _) = &self.target
            && endpoints.len() > 1
        {
            let next = from.wrapping_add(1);
            let moved = self.endpoint.compare_exchange(from, next, Ordering::Relaxed, Ordering::Relaxed);
            if moved.is_ok() {
                self.reset();
            }
        }
    }

    async fn bounded<T>(
        &self,
        request: &'static str,
        running: impl Future<Output = Result<T, etcd_client::Error>>,
    ) -> Result<T, Failure> {
        let start = Instant::now();
        let endpoint = self.endpoint.load(Ordering::Relaxed);
        let mut result = match timeout(self.timeouts.request, running).await {
            Ok(result) => result.map_err(|error| Failure::new(request, error)),
            Err(_) => Err(Failure::timed_out(request, self.timeouts.request)),
        };
        if let Err(Failure { kind: FailureKind::Unreachable, message, .. }) = &mut result
            && let Target::Endpoints(endpoints, _) = &self.target
        {
            message.push_str(&format!("; the endpoints are {}", endpoints.join(", ")));
        }
        self.meters.etcd_request(request, result.as_ref().err().map(|f| f.kind.name()), start.elapsed());
        if let Err(failure) = &result
            && failure.kind == FailureKind::Authentication
        {
            self.reset();
        }
        if result.as_ref().is_err_and(Failure::is_ambiguous) {
            self.move_on(endpoint);
        }
        result
    }

    /// Keys in `[start, end)`; `revision` 0 reads the newest state, linearizably.
    pub(crate) async fn range(
        &self,
        start: Vec<u8>,
        end: Vec<u8>,
        limit: i64,
        revision: Revision,
    ) -> Result<Page, Failure> {
        let client = self.client().await?;
        let mut kv = client.kv_client().max_decoding_message_size(MAX_PAGE);
        let options = GetOptions::new().with_range(end).with_limit(limit).with_revision(revision);
        let response = self.bounded("range", kv.get(start, Some(options))).await?.0;
        let keys = response.kvs.into_iter().map(|kv| KeyValue {
            key: kv.key,
            value: Value::from(kv.value),
            revision: kv.mod_revision,
        });
        Ok(Page { keys: keys.collect(), count: response.count })
    }

    /// The newest state of one key, read linearizably; tried again until the request time-out.
    pub(crate) async fn get(&self, key: &str) -> Result<Option<(Value, Revision)>, Failure> {
        const FIRST: Duration = Duration::from_millis(20);
        const LONGEST: Duration = Duration::from_millis(500);
        let deadline = Instant::now() + self.timeouts.request;
        let mut pause = FIRST;
        loop {
            match timeout_at(deadline, self.get_once(key)).await {
                Ok(Err(failure)) if failure.is_ambiguous() && Instant::now() + pause < deadline => {
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST);
                }
                Ok(result) => return result,
                Err(_) => return Err(Failure::timed_out("get", self.timeouts.request)),
            }
        }
    }

    async fn get_once(&self, key: &str) -> Result<Option<(Value, Revision)>, Failure> {
        let client = self.client().await?;
        let mut kv = client.kv_client().max_decoding_message_size(MAX_RESPONSE);
        let response = self.bounded("get", kv.get(key, None)).await?.0;
        Ok(response.kvs.into_iter().next().map(|kv| (kv.value.into(), kv.mod_revision)))
    }

    /// Where the cluster stands, by a linearizable read of the first key that a prefix may have.
    pub(crate) async fn header(&self, prefix: &str) -> Result<Header, Failure> {
        let client = self.client().await?;
        let options = GetOptions::new().with_count_only();
        let response = self.bounded("get", client.kv_client().get(first_key(prefix), Some(options))).await?.0;
        Ok(Header::of(response.header.as_ref()))
    }

    /// Whether the store's history has the change, as far as it can be told: false only if it has not.
    pub(crate) async fn has(&self, seen: &LastEvent) -> Result<bool, Failure> {
        let client = self.client().await?;
        let get = async |revision| {
            let mut kv = client.kv_client().max_decoding_message_size(MAX_RESPONSE);
            let options = GetOptions::new().with_revision(revision);
            let answer = self.bounded("get", kv.get(seen.key.clone(), Some(options))).await?;
            Ok(answer.0.kvs.into_iter().next().map(|kv| (kv.mod_revision, kv.value)))
        };
        let looked = async {
            let then = get(seen.revision).await?;
            match &seen.value {
                // Two histories may have changed the same key at the same revision.
                Some(value) => Ok(then
                    .is_some_and(|(revision, found)| revision == seen.revision && found == value.as_bytes())),
                None => Ok(then.is_none() && get(seen.revision - 1).await?.is_some()),
            }
        };
        match looked.await {
            // That history is gone. What is there now can't be older.
            Err(Failure { kind: FailureKind::Compacted, .. }) => {
                Ok(get(0).await?.is_none_or(|(now, _)| now >= seen.revision))
            }
            looked => looked,
        }
    }

    /// All locks below a prefix.
    pub(crate) async fn locks(&self, prefix: &str) -> Result<Vec<LockKey>, Failure> {
        let client = self.client().await?;
        let mut kv = client.kv_client().max_decoding_message_size(MAX_RESPONSE);
        let options = GetOptions::new().with_prefix();
        let response = self.bounded("range", kv.get(prefix, Some(options))).await?.0;
        let lock = |kv: PbKeyValue| LockKey {
            key: String::from_utf8_lossy(&kv.key).into_owned(),
            value: kv.value.into(),
            lease: kv.lease,
            create_revision: kv.create_revision,
        };
        Ok(response.kvs.into_iter().map(lock).collect())
    }

    /// Sends a transaction.
    pub(crate) async fn txn(&self, txn: Txn) -> Result<Answer, Failure> {
        let mut kv = self.kv_of_txns().await?;
        Ok(Answer::from(self.bounded("txn", kv.txn(txn)).await?.0))
    }

    /// Sends a transaction that is the body of a request already.
    pub(crate) async fn send_txn(&self, body: Bytes) -> Result<Answer, Failure> {
        let mut kv = self.kv_of_txns().await?;
        let sending = async {
            let not_sent = || etcd_client::Error::InvalidArgs("the channel lost the transaction".into());
            with_body(body, kv.txn(Txn::new())).await.unwrap_or_else(|| Err(not_sent()))
        };
        Ok(Answer::from(self.bounded("txn", sending).await?.0))
    }

    async fn kv_of_txns(&self) -> Result<KvClient, Failure> {
        let kv = self.client().await?.kv_client();
        Ok(kv.max_decoding_message_size(MAX_RESPONSE).max_encoding_message_size(MAX_RESPONSE))
    }

    /// Grants a lease under an id of the caller's, so that a request sent again is not a second lease.
    pub(crate) async fn grant(&self, id: i64, ttl: Duration) -> Result<Grant, Failure> {
        let sent = Instant::now();
        // What is too long for etcd is refused by it.
        let seconds = ttl.as_secs().saturating_add(u64::from(ttl.subsec_nanos() > 0)).min(i64::MAX as u64);
        let client = self.client().await?;
        let options = LeaseGrantOptions::new().with_id(id);
        let grant =
            client.lease_client().grant(seconds as i64, Some(options)).await_in(self, "lease_grant").await?;
        Ok(Grant { id: grant.id(), ttl: Duration::from_secs(grant.ttl().max(0) as u64), sent })
    }

    /// Opens a stream over which a lease is renewed, and renews it once.
    pub(crate) async fn renewals(&self, id: i64) -> Result<Renewals, Failure> {
        let client = self.client().await?;
        let (keeper, stream) = client.lease_client().keep_alive(id).await_in(self, "lease_renew").await?;
        Ok(Renewals { keeper, stream })
    }

    /// Renews a lease once over its stream; the new life counts from the moment this is called.
    pub(crate) async fn renew(&self, renewals: &mut Renewals) -> Result<Duration, Failure> {
        let Renewals { keeper, stream } = renewals;
        let renewing = async {
            keeper.keep_alive().await?;
            let ended = || etcd_client::Error::WatchError("the stream ended".into());
            Ok(stream.message().await?.ok_or_else(ended)?.ttl())
        };
        match self.bounded("lease_renew", renewing).await? {
            ttl if ttl > 0 => Ok(Duration::from_secs(ttl as u64)),
            _ => Err(Failure {
                kind: FailureKind::LeaseGone,
                request: "lease_renew",
                message: "the lease does not exist any more".into(),
            }),
        }
    }

    /// Whether a lease exists.
    pub(crate) async fn is_alive(&self, id: i64) -> Result<bool, Failure> {
        let client = self.client().await?;
        let told = client.lease_client().time_to_live(id, None).await_in(self, "lease_ttl").await?;
        Ok(told.ttl() > 0)
    }

    pub(crate) async fn revoke(&self, id: i64) -> Result<(), Failure> {
        let client = self.client().await?;
        let result = client.lease_client().revoke(id).await_in(self, "lease_revoke").await;
        match result {
            Err(failure) if failure.kind == FailureKind::LeaseGone => Ok(()),
            result => result.map(|_| ()),
        }
    }
}

/// Runs a client future within a link's bounds, in method position.
trait AwaitIn<T> {
    async fn await_in(self, etcd: &EtcdClient, request: &'static str) -> Result<T, Failure>;
}

impl<T, F: Future<Output = Result<T, etcd_client::Error>>> AwaitIn<T> for F {
    async fn await_in(self, etcd: &EtcdClient, request: &'static str) -> Result<T, Failure> {
        etcd.bounded(request, self).await
    }
}

fn first_key(prefix: &str) -> Vec<u8> {
    if prefix.is_empty() { vec![0] } else { prefix.as_bytes().to_vec() }
}

/// An open stream of renewals of one lease.
pub(crate) struct Renewals {
    keeper: LeaseKeeper,
    stream: LeaseKeepAliveStream,
}
