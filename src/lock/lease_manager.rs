//! The lease manager actor: one lease for each lock TTL, renewed on a connection of its own, and
//! shared leases for keys with a TTL. When a lease can't be relied on any more, the firings under it
//! are told, and a new one takes its place.

use super::key_leases::KeyLeases;
use super::lease::Lifetime;
use super::retired::RetiredLeases;
use super::sentinel::{FORMAT, SentinelPut, SentinelWatch, Sentinels};
use crate::cancellation::Cancellation;
use crate::change::Revision;
use crate::etcd::{EtcdClient, Failure, FailureKind, Grant, LeaseId, Renewals};
use crate::health::Reason;
use crate::health::status::{OWN_KEYS, Status};
use crate::metrics::Meters;
use crate::mutants::{Mutant, is_active};
use crate::runtime::retry::Retry;
use crate::runtime::supervised::{ActorFaults, SupervisedActor, spawn_guarded};
use crate::watch_cell::{WatchCell, WatchCellSender, watch_cell};
use actix::prelude::*;
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// A lease for locks, while it can be relied on.
#[derive(Clone, Debug)]
pub(crate) struct LockLease {
    pub(crate) id: LeaseId,
    /// Cancelled before the lease can have expired.
    pub(crate) lost: Cancellation,
    /// How long a callback may go on once it is told.
    pub(crate) grace: Duration,
}

/// Leases for locks by TTL, kept by the manager and read by the dispatcher.
pub(crate) type LockLeases = Arc<BTreeMap<Duration, WatchCell<Option<LockLease>>>>;

/// What a lease manager is made of.
pub(crate) struct LeaseManagerSettings {
    pub(crate) meters: Meters,
    pub(crate) etcd: Arc<EtcdClient>,
    pub(crate) status: Status,
    pub(crate) sentinels: Sentinels,
    /// How long a watch may be silent before it is asked for a sign of life.
    pub(crate) silence: Duration,
    pub(crate) rng: StdRng,
    pub(crate) faults: ActorFaults,
}

pub(crate) struct LeaseManager {
    pub(super) settings: LeaseManagerSettings,
    leases: Vec<(Kept, Duration, WatchCellSender<Option<LockLease>>)>,
    readers: LockLeases,
    /// The lease of this engine's keys as a member of the fleet.
    member: Option<WatchCell<Option<LockLease>>>,
    /// Leases that keys share.
    pub(super) keys: KeyLeases,
    pub(super) retired: RetiredLeases,
    /// What renews and replaces the leases of locks.
    keeping: Vec<AbortOnDropHandle<()>>,
    /// Nothing is kept any more.
    pub(super) ending: CancellationToken,
}

/// How long grants that are under way are waited for when the engine ends.
const GRANTED: Duration = Duration::from_secs(1);

/// What a lease is for that is kept for as long as the engine lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    Locks,
    Member,
}

impl LeaseManager {
    /// Keeps one lease for each of the TTLs.
    pub(crate) fn new(
        settings: LeaseManagerSettings,
        ttls: impl IntoIterator<Item = Duration>,
    ) -> (Self, LockLeases) {
        let mut leases = Vec::new();
        let mut readers = BTreeMap::new();
        for ttl in ttls {
            readers.entry(ttl).or_insert_with(|| {
                let (sender, receiver) = watch_cell(None);
                leases.push((Kept::Locks, ttl, sender));
                receiver
            });
        }
        let readers: LockLeases = Arc::new(readers);
        let this = Self {
            settings,
            leases,
            readers: readers.clone(),
            member: None,
            keys: KeyLeases::default(),
            retired: RetiredLeases::default(),
            keeping: Vec::new(),
            ending: CancellationToken::new(),
        };
        (this, readers)
    }

    /// Keeps another lease, for this engine's keys as a member of the fleet.
    pub(crate) fn keep_member(&mut self, ttl: Duration) -> WatchCell<Option<LockLease>> {
        let (sender, receiver) = watch_cell(None);
        self.leases.push((Kept::Member, ttl, sender));
        self.member = Some(receiver.clone());
        receiver
    }
}

/// An id for a lease: any positive number that nobody else picks.
pub(super) fn lease_id(rng: &mut StdRng) -> LeaseId {
    LeaseId::new(rng.random_range(1..i64::MAX))
}

impl Actor for LeaseManager {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(1024);
        for (kept, ttl, published) in std::mem::take(&mut self.leases) {
            let LeaseManagerSettings { meters, etcd, status, sentinels, silence, rng, faults } =
                &mut self.settings;
            if kept == Kept::Locks {
                status.own_keys_awaited();
            }
            let keep = Keep {
                meters: meters.clone(),
                etcd: etcd.clone(),
                status: status.clone(),
                sentinels: sentinels.clone(),
                silence: *silence,
                retry: Retry::new(StdRng::from_rng(rng)),
                rng: StdRng::from_rng(rng),
                kept,
                ttl,
                published,
                retired: self.retired.clone(),
            };
            // The task ends with its actor. How it ended is told by the guard.
            let keeping = keep.run(self.ending.clone());
            self.keeping.push(AbortOnDropHandle::new(spawn_guarded(faults, Self::NAME, keeping)));
        }
    }
}

impl SupervisedActor for LeaseManager {
    const NAME: &'static str = "lease manager";

    fn faults(&self) -> &ActorFaults {
        &self.settings.faults
    }
}

/// One lease, for ever: granted, renewed, replaced.
struct Keep {
    meters: Meters,
    etcd: Arc<EtcdClient>,
    status: Status,
    sentinels: Sentinels,
    silence: Duration,
    retry: Retry,
    rng: StdRng,
    kept: Kept,
    ttl: Duration,
    published: WatchCellSender<Option<LockLease>>,
    retired: RetiredLeases,
}

impl Keep {
    /// Until nothing is to be kept any more.
    async fn run(mut self, ending: CancellationToken) {
        let mut retry = self.retry.fork();
        while !ending.is_cancelled() {
            let id = lease_id(&mut self.rng);
            self.retired.grants(id);
            // Also when the engine ends: a lease that is granted after it was revoked would stay.
            let grant = self.etcd.grant(id, self.ttl).await;
            self.retired.granted(id, &grant);
            tokio::select! {
                biased;
                () = ending.cancelled() => return,
                () = self.keep(&mut retry, id, grant) => {}
            }
        }
    }

    /// Uses a lease for as long as it can be relied on.
    async fn keep(&self, retry: &mut Retry, id: LeaseId, grant: Result<Grant, Failure>) {
        let part = match self.kept {
            Kept::Locks => format!("lease of {:?}", self.ttl),
            Kept::Member => "lease of membership".to_owned(),
        };
        let locks = format!("locks under the lease of {:?}", self.ttl);
        let grant = match grant {
            Ok(grant) => grant,
            Err(failure) => {
                self.status.failure(&part, &failure);
                if self.kept == Kept::Locks {
                    self.status.own_keys_settled();
                }
                return retry.wait().await;
            }
        };
        self.status.fine(&part);
        let life = Lifetime::new(grant.sent, grant.ttl);
        // From now on, and not from when the sentinel is there: a slow server may take long to answer.
        let mut renewing = pin!(self.renew(id, life));
        let there = match self.kept {
            Kept::Member => None,
            Kept::Locks => {
                let placed = tokio::select! {
                    biased;
                    placed = self.place_sentinel(id) => placed,
                    failure = &mut renewing => {
                        self.status.failure(&part, &failure);
                        None
                    }
                };
                if placed.is_none() {
                    return retry.wait().await;
                }
                self.status.fine(&locks);
                placed
            }
        };
        retry.reset();
        let lost = Cancellation::new();
        // Also when this future is dropped: nothing is renewed then.
        let told = lost.clone().drop_guard();
        let lease = LockLease { id, lost: lost.clone(), grace: life.grace() };
        self.retired.remove(id);
        self.published.set(Some(lease));
        let gone =
            || Failure::new(FailureKind::LeaseGone, "lease_renew", "etcd does not know the lease any more");
        let sentinel = async {
            // That the keys of a member are gone is seen where the members are followed.
            let Some(there) = there else { return std::future::pending().await };
            let watch = SentinelWatch {
                sentinels: &self.sentinels,
                etcd: &self.etcd,
                lease: id,
                there,
                silence: self.silence,
                retry: retry.fork(),
            };
            watch.gone().await
        };
        let failure = tokio::select! {
            biased;
            // Who used it was told that it does not exist. Should it exist after all, it goes with the engine.
            () = lost.cancelled() => {
                self.retired.add(id);
                gone()
            }
            failure = &mut renewing => failure,
            // Revoked; or somebody deleted the sentinel alone, and the lease goes with the engine.
            () = sentinel => {
                self.retired.add(id);
                gone()
            }
        };
        if failure.kind != FailureKind::LeaseGone {
            self.retired.add(id);
        }
        if self.kept == Kept::Locks && is_active(Mutant::LeaseLoss) {
            told.disarm();
            return;
        }
        self.published.set(None);
        lost.cancel();
        if self.kept == Kept::Member {
            // Nothing runs under it: other engines take over what this one would have begun.
            return;
        }
        self.meters.lease_lost();
        // Until there is a new one, whatever keeps etcd from granting it.
        self.status.problem(&locks, Reason::LeaseLost, format!("the lease was lost: {failure}"));
    }

    /// Puts the sentinel of a new lease; the revision at which it is there. `None`: the lease is of no use, since
    /// nothing may be done under it.
    async fn place_sentinel(&self, lease: LeaseId) -> Option<Revision> {
        let placed = self.sentinels.put(&self.etcd, lease).await;
        let is_answered = match &placed {
            Ok(SentinelPut::At(_)) => {
                self.status.fine(OWN_KEYS);
                true
            }
            Ok(SentinelPut::OtherFormat(key)) => {
                let message = format!(
                    "engines are at work whose keys have another form than {FORMAT}, which this one's have: see `{key}`"
                );
                self.status.problem(OWN_KEYS, Reason::OtherFormat, message);
                true
            }
            Err(failure) => {
                self.status.failure(OWN_KEYS, failure);
                !failure.is_ambiguous()
            }
        };
        self.status.own_keys_settled();
        let there = match placed {
            Ok(SentinelPut::At(revision)) => Some(revision),
            _ => None,
        };
        if there.is_none() && is_answered && self.etcd.revoke(lease, None).await.is_ok() {
            self.retired.remove(lease);
        }
        there
    }

    /// Renews until the lease can't be relied on any more.
    async fn renew(&self, id: LeaseId, mut life: Lifetime) -> Failure {
        let mut stream = None;
        loop {
            sleep_until(life.renew_at()).await;
            // A lease moves to another connection just after a renewal, when there is the most time for it.
            loop {
                match self.renew_once(id, life, stream.take()).await {
                    Ok((renewed, renewals)) => {
                        life = renewed;
                        self.meters.lease_renewal(true);
                        if renewals.is_superseded() {
                            continue;
                        }
                        stream = Some(renewals);
                        break;
                    }
                    Err(failure) => return failure,
                }
            }
        }
    }

    /// Renews the lease once. What has no answer for a while is not given up: the server may be slow. But it is sent
    /// again, over another stream, as the connection may be dead. Whichever is answered first counts, from the moment
    /// when that one was sent.
    async fn renew_once(
        &self,
        id: LeaseId,
        life: Lifetime,
        stream: Option<Renewals>,
    ) -> Result<(Lifetime, Renewals), Failure> {
        let attempt = |stream| attempt(&self.etcd, id, life, stream);
        let mut attempts = FuturesUnordered::new();
        attempts.push(attempt(stream));
        let mut newest_sent = Instant::now();
        let mut again_at = newest_sent + life.attempt();
        let mut last = Failure::new(FailureKind::Unreachable, "lease_renew", "no answer in time");
        loop {
            tokio::select! {
                biased;
                Some((sent, renewed)) = attempts.next() => match renewed {
                    Ok((ttl, renewals)) => {
                        let (sent, ttl, renewals) = newest(&mut attempts, (sent, ttl, renewals)).await;
                        return Ok((Lifetime::new(sent, ttl), renewals));
                    }
                    Err(failure) => {
                        self.meters.lease_renewal(false);
                        if failure.kind == FailureKind::LeaseGone {
                            return Err(failure);
                        }
                        last = failure;
                        again_at = newest_sent + life.retry_in();
                    }
                },
                // Never past the moment to tell: an attempt that begins just before it and hangs would let the lease
                // expire under a callback that was not told.
                () = sleep_until(life.tell_at()) => return Err(last),
                () = sleep_until(again_at), if again_at < life.tell_at() => {
                    if !attempts.is_empty() {
                        self.meters.lease_renewal(false);
                    }
                    attempts.push(attempt(None));
                    newest_sent = Instant::now();
                    again_at = newest_sent + life.attempt();
                }
            }
        }
    }
}

/// A proxy may answer all attempts at the same time, by a renewal of its own. The newest of them counts: the life of
/// the lease is reckoned from when that one was sent.
async fn newest<R>(
    attempts: &mut FuturesUnordered<impl Future<Output = (Instant, Result<(Duration, R), Failure>)>>,
    first: (Instant, Duration, R),
) -> (Instant, Duration, R) {
    const TOGETHER: Duration = Duration::from_millis(50);
    let end = Instant::now() + TOGETHER;
    let mut newest = first;
    while !attempts.is_empty()
        && let Ok(Some((sent, renewed))) = timeout_at(end, attempts.next()).await
    {
        if let Ok((ttl, renewals)) = renewed
            && sent > newest.0
        {
            newest = (sent, ttl, renewals);
        }
    }
    newest
}

/// One attempt to renew a lease: when it was sent, and the TTL that it brought.
async fn attempt(
    etcd: &EtcdClient,
    id: LeaseId,
    life: Lifetime,
    stream: Option<Renewals>,
) -> (Instant, Result<(Duration, Renewals), Failure>) {
    let sent = Instant::now();
    let renewing = async {
        match stream {
            Some(mut renewals) => Ok((etcd.renew(&mut renewals, life.attempt()).await?, renewals)),
            // Its first answer renews the lease. Some proxies give no second one in time.
            None => Ok((life.ttl(), etcd.renewals(id, life.attempt()).await?)),
        }
    };
    (sent, renewing.await)
}

/// Ends the leases of locks and marks. Answers when etcd has, or could not be reached.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Revoke {
    /// How long etcd may take. It may be longer than for other requests: nobody asks again, and a token that has ended
    /// just now is replaced only after a while.
    pub(crate) limit: Duration,
}

impl Handler<Revoke> for LeaseManager {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, Revoke { limit }: Revoke, _: &mut Self::Context) -> Self::Result {
        // Or a lease that is found to be gone would be replaced, and the new one left behind.
        self.ending.cancel();
        let keeping = std::mem::take(&mut self.keeping);
        let mut granting = self.keys.granting();
        let kept = self.readers.values().chain(&self.member);
        let kept = kept.filter_map(|lease| lease.get().map(|lease| lease.id));
        let ids: Vec<LeaseId> = kept.chain(self.keys.end()).chain(self.retired.take()).collect();
        let (etcd, retired) = (self.settings.etcd.clone(), self.retired.clone());
        Box::pin(async move {
            if is_active(Mutant::Revoke) {
                return;
            }
            let later = async {
                let granted = async {
                    let _ = join_all(keeping).await;
                    granting.wait_for(|granting| *granting == 0).await;
                };
                if timeout(limit.min(GRANTED), granted).await.is_err() {
                    tracing::debug!("leases that are being granted may stay; they end by themselves");
                }
                let mut ids = retired.take();
                ids.extend(retired.take_granting());
                revoke(&etcd, ids, limit).await;
            };
            tokio::join!(revoke(&etcd, ids, limit), later);
        })
    }
}

async fn revoke(etcd: &EtcdClient, leases: Vec<LeaseId>, limit: Duration) {
    let revoking = leases.into_iter().map(|lease| async move {
        if let Err(failure) = etcd.revoke(lease, Some(limit)).await {
            tracing::debug!(%failure, "lease not revoked; it ends by itself");
        }
    });
    futures_util::stream::iter(revoking).buffer_unordered(16).collect::<()>().await;
}
