//! Faults that wait for their request: which one is hit, and what happens to it.

use super::refusal::RpcError;
use std::collections::BTreeMap;
use std::time::Duration;

/// What a [`Fault`] waits for: a kind of request, or a message on a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum RequestKind {
    /// Any of the requests below, except the messages on watch streams.
    Any,
    /// A range, outside of transactions.
    Range,
    /// A put, outside of transactions.
    Put,
    /// A deletion, outside of transactions.
    DeleteRange,
    /// A transaction.
    Txn,
    /// A compaction.
    Compact,
    /// A grant of a lease.
    LeaseGrant,
    /// A revocation of a lease.
    LeaseRevoke,
    /// One renewal on a stream of renewals. When it fails, its stream ends.
    LeaseKeepAlive,
    /// A question about a lease.
    LeaseTimeToLive,
    /// The list of leases.
    LeaseLeases,
    /// The opening of a watch stream.
    Watch,
    /// A message from the client on a watch stream: create, cancel, progress. When it fails, its stream ends.
    WatchRequest,
    /// A message to the client on a watch stream. When it fails, its stream ends there.
    WatchResponse,
    /// A lock. Waiting for older ones comes after the fault, and belongs to the answer.
    Lock,
    /// The release of a lock.
    Unlock,
    /// A status request.
    Status,
    /// A request about alarms.
    Alarm,
    /// A defragmentation.
    Defragment,
    /// A question for the hash of all keys.
    HashKv,
    /// A snapshot.
    Snapshot,
    /// The list of members.
    MemberList,
    /// A question for a token.
    Authenticate,
    /// Any other request about users, roles, and authentication.
    Auth,
}

impl RequestKind {
    /// Whether etcd looks at the token of such a request. It refuses one that it doesn't know, whatever is asked.
    pub(super) fn looks_at_token(self) -> bool {
        !matches!(
            self,
            Self::Authenticate
                | Self::Status
                | Self::HashKv
                | Self::MemberList
                | Self::LeaseTimeToLive
                | Self::LeaseLeases
                | Self::LeaseKeepAlive
        )
    }
}

/// What happens to the request that is hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Refused without effect.
    Fail(RpcError),
    /// It takes effect, and the client is told that it failed.
    FailAfter(RpcError),
    /// No effect and no answer.
    Lose,
    /// It takes effect, and no answer comes.
    LoseAnswer,
    /// It arrives later. A client that gives up meanwhile takes it back.
    Delay(Duration),
    /// It takes effect later, even if the client has given up meanwhile.
    DelayRegardless(Duration),
    /// It takes effect at once, and its answer comes later.
    DelayAnswer(Duration),
    /// It takes effect twice; the second answer counts.
    Duplicate,
}

/// A fault to [inject](super::Faults::inject): what it hits, which of them, and what happens then.
///
/// ```
/// # use etcd_rules::embedded::{Fault, RequestKind, RpcError};
/// // The third transaction from now on takes effect, but its client is told that the leader changed.
/// let fault = Fault::on(RequestKind::Txn).after(2).fail_after(RpcError::LEADER_CHANGED);
/// // Every range takes 50 ms longer, until the faults are cleared.
/// let slow = Fault::on(RequestKind::Range).always().delay(std::time::Duration::from_millis(50));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "it does nothing until it is injected"]
pub struct Fault {
    on: RequestKind,
    skip: u64,
    times: u64,
    action: Action,
}

impl Fault {
    /// Hits the next request of this kind, once. Unless something else is said, the request is refused,
    /// without effect, as by a server that is going away ([`RpcError::STOPPED`]).
    pub fn on(on: RequestKind) -> Self {
        Self { on, skip: 0, times: 1, action: Action::Fail(RpcError::STOPPED) }
    }

    /// Lets this many of them pass before.
    pub fn after(self, skip: u64) -> Self {
        Self { skip, ..self }
    }

    /// Hits this many of them in a row.
    pub fn times(self, times: u64) -> Self {
        Self { times, ..self }
    }

    /// Hits all of them, until the faults are cleared.
    pub fn always(self) -> Self {
        self.times(u64::MAX)
    }

    /// The request is refused, and has no effect.
    pub fn fail(self, refusal: RpcError) -> Self {
        self.with(Action::Fail(refusal))
    }

    /// The request takes effect, and the client is told that it was refused.
    pub fn fail_after(self, refusal: RpcError) -> Self {
        self.with(Action::FailAfter(refusal))
    }

    /// The request never arrives: no effect, no answer. A lost [`RequestKind::WatchResponse`] breaks a promise of
    /// etcd's: use it to see that a test can fail.
    pub fn lose(self) -> Self {
        self.with(Action::Lose)
    }

    /// The request takes effect, and its answer never comes.
    pub fn lose_answer(self) -> Self {
        self.with(Action::LoseAnswer)
    }

    /// The request, or message, comes later. It has no effect if the client gives up before.
    pub fn delay(self, delay: Duration) -> Self {
        self.with(Action::Delay(delay))
    }

    /// The request takes effect later, even if the client gives up before: a late surprise. On messages of
    /// streams this is [`delay`](Self::delay).
    pub fn delay_regardless(self, delay: Duration) -> Self {
        self.with(Action::DelayRegardless(delay))
    }

    /// The request takes effect at once, and its answer comes later: what others do meanwhile comes before it.
    /// On messages of watch streams this is [`delay`](Self::delay).
    pub fn delay_answer(self, delay: Duration) -> Self {
        self.with(Action::DelayAnswer(delay))
    }

    /// The request takes effect twice, as one sent again does; the client gets the second answer. A
    /// duplicate [`RequestKind::WatchResponse`] is sent twice.
    pub fn duplicate(self) -> Self {
        self.with(Action::Duplicate)
    }

    fn with(self, action: Action) -> Self {
        Self { action, ..self }
    }

    /// Hits messages on watch streams.
    #[cfg(test)]
    pub(crate) fn is_in_stream(&self) -> bool {
        matches!(
            self.on,
            RequestKind::WatchResponse | RequestKind::WatchRequest | RequestKind::Watch | RequestKind::Any
        )
    }

    /// Events of watches come later, on a stream that seems well.
    #[cfg(test)]
    pub(crate) fn delays_events(&self) -> bool {
        let delays =
            matches!(self.action, Action::Delay(_) | Action::DelayRegardless(_) | Action::DelayAnswer(_));
        delays
            && matches!(self.on, RequestKind::WatchResponse | RequestKind::WatchRequest | RequestKind::Watch)
    }
}

/// Who needs history; see [`Faults::compact_before`](super::Faults::compact_before).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HistoryReader {
    /// A watch that begins at a revision.
    Watch,
    /// A range, outside of transactions, that is read as of a revision.
    Range,
}

/// The faults that wait, and how many requests have come.
#[derive(Debug, Default)]
pub(super) struct Plan {
    faults: Vec<Fault>,
    /// Compactions that wait for who needs history, each with its distance from what is needed.
    compactions: Vec<(HistoryReader, i64)>,
    seen: BTreeMap<RequestKind, u64>,
}

impl Plan {
    pub(super) fn inject(&mut self, fault: Fault) {
        self.faults.push(fault);
    }

    pub(super) fn clear(&mut self) {
        self.faults.clear();
        self.compactions.clear();
    }

    pub(super) fn compact_before(&mut self, reader: HistoryReader, offset: i64) {
        self.compactions.push((reader, offset));
    }

    /// Somebody needs history from this revision on: where it is to be compacted before.
    pub(super) fn compaction(&mut self, reader: HistoryReader, revision: i64) -> Option<i64> {
        let at = self.compactions.iter().position(|(of, _)| *of == reader).filter(|_| revision > 0)?;
        Some(revision.saturating_add(self.compactions.remove(at).1))
    }

    pub(super) fn waiting(&self) -> usize {
        self.faults.len() + self.compactions.len()
    }

    pub(super) fn seen(&self, on: RequestKind) -> u64 {
        self.seen.get(&on).copied().unwrap_or(0)
    }

    /// Counts a request. The first fault that is due for it decides; all others of its kind count down.
    pub(super) fn arrive(&mut self, on: RequestKind) -> Option<Action> {
        let in_stream = matches!(on, RequestKind::WatchRequest | RequestKind::WatchResponse);
        *self.seen.entry(on).or_default() += 1;
        if !in_stream {
            *self.seen.entry(RequestKind::Any).or_default() += 1;
        }
        let mut action = None;
        for fault in &mut self.faults {
            if fault.on != on && (fault.on != RequestKind::Any || in_stream) {
                continue;
            }
            if fault.skip > 0 {
                fault.skip -= 1;
            } else if action.is_none() && fault.times > 0 {
                fault.times -= 1;
                action = Some(fault.action);
            }
        }
        self.faults.retain(|fault| fault.times > 0);
        action
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_hits_the_requests_it_waits_for_and_no_others() {
        let mut plan = Plan::default();
        plan.inject(Fault::on(RequestKind::Put).after(1).times(2).lose());
        let hits: Vec<_> =
            [RequestKind::Put, RequestKind::Range, RequestKind::Put, RequestKind::Put, RequestKind::Put]
                .into_iter()
                .map(|on| plan.arrive(on).is_some())
                .collect();
        assert_eq!(hits, [false, false, true, true, false]);
        assert_eq!((plan.waiting(), plan.seen(RequestKind::Put), plan.seen(RequestKind::Any)), (0, 4, 5));
    }

    #[test]
    fn any_means_requests_but_not_messages_on_watch_streams() {
        let mut plan = Plan::default();
        plan.inject(Fault::on(RequestKind::Any).always().lose());
        assert_eq!(plan.arrive(RequestKind::WatchResponse), None);
        assert_eq!(plan.arrive(RequestKind::Watch), Some(Action::Lose));
        plan.clear();
        assert_eq!(plan.arrive(RequestKind::Watch), None);
    }
}
