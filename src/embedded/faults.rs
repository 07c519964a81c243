//! Trouble on purpose: the handle with which a test makes it.

use super::member::Member;
use super::plan::{Fault, HistoryReader, RequestKind};
use super::refusal::RpcError;
use super::shared::Shared;
use etcd_client::proto::PbCompactionRequest;
use std::sync::Arc;
use std::time::Duration;

/// Makes trouble for the clients of an [`EmbeddedEtcd`](super::EmbeddedEtcd). Cheap to clone.
///
/// ```
/// # use etcd_rules::embedded::*;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let etcd = EmbeddedEtcd::in_process();
/// let mut client = etcd.client().await?;
///
/// // The next put is applied, but its client is told that the leader changed.
/// etcd.faults().inject(Fault::on(RequestKind::Put).fail_after(RpcError::LEADER_CHANGED));
/// let told = client.put("key", "value", None).await;
/// assert!(told.is_err());
/// assert_eq!(client.get("key", None).await?.kvs().len(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Faults {
    shared: Arc<Shared>,
}

/// What a server knew when [`Faults::save`] was called. Cheap: values are shared, not copied.
#[derive(Clone, Debug)]
pub struct Saved(Box<Member>);

impl std::fmt::Debug for Faults {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Faults").finish_non_exhaustive()
    }
}

impl Faults {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Lets a fault wait for its request. Several wait side by side; where two are due for one request, the
    /// one that was injected first hits it, and the other waits on.
    pub fn inject(&self, fault: Fault) {
        self.shared.look(|inner| inner.plan.inject(fault));
    }

    /// Forgets the faults that still wait.
    pub fn clear(&self) {
        self.shared.look(|inner| inner.plan.clear());
    }

    /// How many faults still wait.
    pub fn waiting(&self) -> usize {
        self.shared.look(|inner| inner.plan.waiting())
    }

    /// How many requests of this kind have come since the server was made.
    pub fn seen(&self, on: RequestKind) -> u64 {
        self.shared.look(|inner| inner.plan.seen(on))
    }

    /// The store's revision.
    pub fn revision(&self) -> i64 {
        self.shared.apply(|inner, _| inner.member.store.revision())
    }

    /// The leases that live, those that expire first before the others.
    pub fn leases(&self) -> Vec<i64> {
        self.shared.apply(|inner, _| inner.member.leases.ids())
    }

    /// Ends a lease now, as if its time were over, and deletes its keys. False if there is no such lease.
    pub fn expire_lease(&self, id: i64) -> bool {
        self.shared.disturb(|inner, _| inner.member.end_lease(id))
    }

    /// Compacts the history before `revision`.
    ///
    /// # Errors
    ///
    /// [`RpcError::COMPACTED`] if it is compacted already, [`RpcError::FUTURE_REVISION`] if it is still to come.
    pub fn compact(&self, revision: i64) -> Result<(), RpcError> {
        let request = PbCompactionRequest { revision, physical: true };
        self.shared.disturb(|inner, _| inner.member.compact(&request)).map(|_| ())
    }

    /// Compacts the history just before the next watch, or range, that needs it: to the revision that it asks for plus
    /// `offset`, or to the newest if that is earlier. Several wait side by side, each for a reader of its own.
    ///
    /// With 0, history is there from that revision on. With more, what was asked for is gone. As in etcd 3.4, a
    /// deletion at the very revision to which history was compacted is not told to a watch that begins there.
    pub fn compact_before(&self, reader: HistoryReader, offset: i64) {
        self.shared.look(|inner| inner.plan.compact_before(reader, offset));
    }

    /// Raises or takes back the alarm about space: puts and grants are refused meanwhile. A client may take
    /// it back too.
    pub fn set_no_space(&self, no_space: bool) {
        self.shared.disturb(|inner, _| inner.member.set_full(no_space));
    }

    /// Loses the leader. What requires one, streams included, is refused with [`RpcError::NO_LEADER`]; other
    /// requests wait 7 seconds and are refused with [`RpcError::TIMED_OUT`]. No lease expires.
    pub fn lose_leader(&self) {
        self.shared.disturb(|inner, _| inner.condition.leaderless = true);
    }

    /// Elects a leader, if there is none. Every lease gets its whole time again.
    pub fn elect_leader(&self) {
        self.shared.disturb(|inner, now| {
            if std::mem::take(&mut inner.condition.leaderless) {
                inner.member.new_term(now);
            }
        });
    }

    /// Forgets all tokens, so that clients must authenticate again: as if nobody had used them for too long.
    pub fn forget_tokens(&self) {
        self.shared.disturb(|inner, _| inner.member.auth.tokens.forget());
    }

    /// How long a token lives without being used; 5 minutes unless this says something else. It is the flag
    /// `--auth-token-ttl` of etcd.
    pub fn set_token_ttl(&self, ttl: Duration) {
        self.shared.disturb(|inner, _| inner.member.auth.set_token_ttl(ttl));
    }

    /// Stops answering: connections stay open, and everything waits.
    pub fn freeze(&self) {
        self.shared.disturb(|inner, _| inner.condition.frozen = true);
    }

    /// Ends a [`freeze`](Self::freeze): requests that came meanwhile are answered. Leases whose time was over
    /// meanwhile expire.
    pub fn thaw(&self) {
        self.shared.disturb(|inner, _| inner.condition.frozen = false);
    }

    /// Ends all watch streams and streams of renewals; their connections stay.
    pub fn cut_streams(&self) {
        self.shared.disturb(|inner, _| inner.cut_streams());
    }

    /// Closes all connections. Clients can connect again at once.
    pub fn cut_connections(&self) {
        self.shared.disturb(|inner, _| inner.cut_connections());
    }

    /// Closes all connections and refuses new ones, or, with `true`, takes them again.
    pub fn set_reachable(&self, reachable: bool) {
        self.shared.disturb(|inner, _| {
            inner.condition.unreachable = !reachable;
            if !reachable {
                inner.cut_connections();
            }
        });
    }

    /// Keeps what the server knows now, for [`restore`](Self::restore).
    pub fn save(&self) -> Saved {
        self.shared.apply(|inner, _| Saved(Box::new(inner.member.clone())))
    }

    /// Restarts the server: connections close, and every lease gets its whole time again. Unlike etcd, it
    /// answers again at once.
    pub fn restart(&self) {
        self.restart_on(|member| member.clone());
    }

    /// Restarts the server on older data, as a restored backup does: the same cluster, a lower revision, and
    /// raft terms from the beginning.
    pub fn restore(&self, saved: &Saved) {
        self.restart_on(|_| (*saved.0).clone().into_restored());
    }

    /// Restarts the server empty: another cluster id, revision 1.
    pub fn restart_empty(&self) {
        self.restart_on(Member::of_next_cluster);
    }

    fn restart_on(&self, data: impl FnOnce(&Member) -> Member) {
        self.shared.disturb(|inner, now| {
            inner.cut_connections();
            inner.cut_streams();
            inner.starts += 1;
            inner.member = data(&inner.member);
            inner.replaced();
            inner.member.auth.tokens.forget();
            inner.member.new_term(now);
        });
    }
}
