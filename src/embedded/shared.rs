//! What the services share: the member behind a lock, its clock, and what a fault does to all of them.

use super::auth::Caller;
use super::member::Member;
use super::plan::{Action, HistoryReader, Plan, RequestKind};
use super::refusal::RpcError;
use super::replica::Replica;
use crate::watch_cell::{WatchCell, WatchCellSender, watch_cell};
use etcd_client::proto::PbCompactionRequest;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

/// How long a request waits for a leader when it does not require one, as with etcd's default settings.
const LEADER_WAIT: Duration = Duration::from_secs(7);

/// How the member stands to the outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Condition {
    /// Connections stay open and nothing is answered.
    pub(super) frozen: bool,
    /// No leader: nothing is written, no lease expires.
    pub(super) leaderless: bool,
    /// Connections are refused, and those that were open are closed.
    pub(super) unreachable: bool,
}

pub(super) struct Inner {
    pub(super) member: Member,
    pub(super) plan: Plan,
    pub(super) condition: Condition,
    /// The members, by their numbers.
    pub(super) replicas: Vec<Replica>,
    /// Where clients find the first member. The others have no address.
    pub(super) client_urls: Vec<String>,
    /// Counts restarts: requests that were under way before one are dropped.
    pub(super) starts: u64,
    /// Ends the streams that are open now.
    streams: CancellationToken,
    /// Closes the connections that are open now.
    connections: CancellationToken,
    /// Of a test: is told everything.
    #[cfg(test)]
    pub(super) recorder: super::record::Recorder,
}

/// The server's state. No lock is held while anything waits.
pub(super) struct Shared {
    inner: Mutex<Inner>,
    /// Told after every change.
    changed: WatchCellSender<()>,
}

impl Shared {
    pub(super) fn new(members: usize) -> Arc<Self> {
        let inner = Inner {
            member: Member::new(),
            plan: Plan::default(),
            condition: Condition::default(),
            replicas: vec![Replica::default(); members],
            client_urls: Vec::new(),
            starts: 0,
            streams: CancellationToken::new(),
            connections: CancellationToken::new(),
            #[cfg(test)]
            recorder: Default::default(),
        };
        Arc::new(Self { inner: Mutex::new(inner), changed: watch_cell(()).0 })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Looks at the state, or changes it, without telling anybody.
    pub(super) fn look<T>(&self, look: impl FnOnce(&mut Inner) -> T) -> T {
        look(&mut self.lock())
    }

    /// Reads or changes the state, and tells everybody what changed. Leases that are over expire first.
    pub(super) fn apply<T>(&self, apply: impl FnOnce(&mut Inner, Instant) -> T) -> T {
        let mut inner = self.lock();
        let now = Instant::now();
        let before = inner.shown();
        inner.expire(now);
        inner.record();
        let result = apply(&mut inner, now);
        inner.record();
        let changed = inner.shown() != before;
        drop(inner);
        if changed {
            self.changed.set(());
        }
        result
    }

    /// Changes the state as a fault does, and tells everybody.
    pub(super) fn disturb<T>(&self, disturb: impl FnOnce(&mut Inner, Instant) -> T) -> T {
        let result = self.apply(disturb);
        self.changed.set(());
        result
    }

    /// Notices every change from now on.
    pub(super) fn changes(&self) -> WatchCell<()> {
        self.changed.subscribe()
    }

    /// Counts a request, and says what shall happen to it.
    pub(super) fn arrive(&self, on: RequestKind) -> Option<Action> {
        let mut inner = self.lock();
        let action = inner.plan.arrive(on);
        inner.arrived(on, action);
        action
    }

    pub(super) fn streams(&self) -> CancellationToken {
        self.lock().streams.clone()
    }

    pub(super) fn connections(&self) -> CancellationToken {
        self.lock().connections.clone()
    }

    /// Waits until the member answers.
    pub(super) async fn wait_until_thawed(&self) {
        let mut changes = self.changes();
        while self.lock().condition.frozen {
            // The sender lives as long as `self`.
            changes.changed().await;
        }
    }

    /// Waits until a member has a leader, as long as etcd would.
    pub(super) async fn wait_for_leader(&self, member: usize, leader_required: bool) -> Result<(), RpcError> {
        self.wait_while(leader_required, |inner| inner.is_leaderless(member)).await
    }

    /// Waits until a member has applied what happened up to now, as long as etcd would.
    pub(super) async fn wait_until_applied(&self, member: usize) -> Result<(), RpcError> {
        let revision = self.look(|inner| inner.member.store.revision());
        self.wait_while(false, |inner| inner.applied_by(member) < revision.min(inner.member.store.revision()))
            .await
    }

    async fn wait_while(
        &self,
        leader_required: bool,
        holds: impl Fn(&Inner) -> bool,
    ) -> Result<(), RpcError> {
        let deadline = Instant::now() + LEADER_WAIT;
        let mut changes = self.changes();
        while holds(&self.lock()) {
            if leader_required {
                return Err(RpcError::NO_LEADER);
            }
            tokio::select! {
                biased;
                _ = changes.changed() => {}
                () = sleep_until(deadline) => return Err(RpcError::TIMED_OUT),
            }
        }
        Ok(())
    }

    /// Revokes leases when they expire, as long as the server lives.
    pub(super) async fn expire_leases(&self) {
        let mut changes = self.changes();
        loop {
            let next = self.look(|inner| {
                let runs = !inner.condition.frozen && !inner.condition.leaderless;
                inner.member.leases.next_expiry().filter(|_| runs)
            });
            let expiry = async {
                match next {
                    Some(next) => sleep_until(next).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                _ = changes.changed() => {}
                () = expiry => self.apply(|_, _| ()),
            }
        }
    }
}

impl Inner {
    fn expire(&mut self, now: Instant) {
        if !self.condition.frozen && !self.condition.leaderless {
            self.member.expire(now);
        }
    }

    /// Somebody needs history from this revision on. A fault may wait for that.
    pub(super) fn needs_history(&mut self, reader: HistoryReader, revision: i64) {
        if let Some(to) = self.plan.compaction(reader, revision) {
            let to = to.min(self.member.store.revision());
            // Refused if it is compacted that far already.
            let _ = self.member.compact(&PbCompactionRequest { revision: to, physical: true });
        }
    }

    pub(super) fn is_leaderless(&self, member: usize) -> bool {
        self.condition.leaderless || self.replicas[member].isolated
    }

    /// The revision up to which a member has applied what happened.
    pub(super) fn applied_by(&self, member: usize) -> i64 {
        self.replicas[member].applied(self.member.store.revision())
    }

    /// Does something at a member, on behalf of who has this token.
    pub(super) fn on_behalf<T>(
        &mut self,
        member: usize,
        token: Option<&str>,
        now: Instant,
        act: impl FnOnce(&mut Self) -> Result<T, RpcError>,
    ) -> Result<T, RpcError> {
        self.member.caller = self.member.auth.caller(token, now)?;
        let result = self.at(member, act);
        self.member.caller = Caller::Trusted;
        result
    }

    /// Does something in the name of a member.
    pub(super) fn at<T>(&mut self, member: usize, act: impl FnOnce(&mut Self) -> T) -> T {
        self.member.speaker = member;
        let result = act(self);
        self.member.speaker = 0;
        result
    }

    /// What others may be waiting for.
    fn shown(&self) -> (i64, i64, Option<Instant>) {
        let Member { store, leases, .. } = &self.member;
        (store.revision(), store.compacted(), leases.next_expiry())
    }

    /// Tells a test what was committed.
    #[cfg(not(test))]
    fn record(&mut self) {}

    /// Tells a test what was asked.
    #[cfg(not(test))]
    fn arrived(&mut self, _: RequestKind, _: Option<Action>) {}

    /// Tells a test that what is stored is something else from now on.
    #[cfg(not(test))]
    pub(super) fn replaced(&mut self) {}

    pub(super) fn cut_streams(&mut self) {
        std::mem::take(&mut self.streams).cancel();
    }

    pub(super) fn cut_connections(&mut self) {
        std::mem::take(&mut self.connections).cancel();
    }
}

/// Lets a fault hit a request: `apply` makes its effect and its answer.
pub(super) async fn apply_fault<T: Send + 'static>(
    action: Option<Action>,
    apply: impl Fn() -> Result<T, RpcError> + Send + 'static,
) -> Result<T, RpcError> {
    match action {
        None => apply(),
        Some(Action::Fail(refusal)) => Err(refusal),
        Some(Action::FailAfter(refusal)) => {
            // The client must not see the answer.
            let _ = apply();
            Err(refusal)
        }
        Some(Action::Lose) => std::future::pending().await,
        Some(Action::LoseAnswer) => {
            let _ = apply();
            std::future::pending().await
        }
        Some(Action::Delay(delay)) => {
            sleep(delay).await;
            apply()
        }
        Some(Action::DelayAnswer(delay)) => {
            let answer = apply();
            sleep(delay).await;
            answer
        }
        Some(Action::DelayRegardless(delay)) => {
            let late = tokio::spawn(async move {
                sleep(delay).await;
                apply()
            });
            late.await.unwrap_or(Err(RpcError::STOPPED))
        }
        Some(Action::Duplicate) => {
            let _ = apply();
            apply()
        }
    }
}
