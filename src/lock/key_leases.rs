//! The lease manager's leases for keys with a TTL, which keys share. Which key takes which is decided by
//! [`SharedLeases`].

use super::lease_demand::STEP;
use super::lease_manager::{LeaseManager, lease_id};
use super::shared_leases::{KeyLife, LeaseNumber, LeasePlace, LeaseTicket, NewLease, SharedLeases, Sharing};
use crate::etcd::{Failure, FailureKind, Grant, LeaseId};
use crate::runtime::supervised::guarded;
use crate::watch_cell::{WatchCell, WatchCellSender, watch_cell};
use actix::prelude::*;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Where the answer to a request for a shared lease goes.
type TicketReply = oneshot::Sender<Result<LeaseTicket, Failure>>;

/// What a key with a TTL is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LeasePurpose {
    /// The application's: it outlives the engine.
    Data,
    /// The application's, and the rule that puts it reads it. When it ends, its instance may fire.
    Poll,
    /// A backoff key of the engine.
    Mark,
}

impl LeasePurpose {
    fn sharing(self) -> Sharing {
        match self {
            LeasePurpose::Data | LeasePurpose::Mark => Sharing::DATA,
            LeasePurpose::Poll => Sharing::POLLS,
        }
    }
}

/// Leases of one purpose.
struct Leases {
    shared: SharedLeases,
    /// Who waits for leases that are being granted, and the TTL of their keys.
    waiting: BTreeMap<LeaseNumber, Vec<(Duration, TicketReply)>>,
    /// Whether leases are granted ahead.
    ahead: bool,
}

/// All leases that keys share.
pub(super) struct KeyLeases {
    by_purpose: BTreeMap<LeasePurpose, Leases>,
    /// Leases of marks: they go with the engine.
    marks: Vec<LeaseId>,
    /// How many are being granted.
    granting: WatchCellSender<usize>,
}

impl Default for KeyLeases {
    fn default() -> Self {
        let (granting, _) = watch_cell(0);
        Self { by_purpose: BTreeMap::new(), marks: Vec::new(), granting }
    }
}

/// Leases of marks that are remembered for the end.
const MARKS: usize = 4096;

/// It is seen so often whether leases are to be granted ahead, in keys.
const KEYS: u64 = 16;

impl KeyLeases {
    fn of(&mut self, purpose: LeasePurpose, now: Instant) -> &mut Leases {
        self.by_purpose.entry(purpose).or_insert_with(|| Leases {
            shared: SharedLeases::new(purpose.sharing(), now),
            waiting: BTreeMap::new(),
            ahead: false,
        })
    }

    /// How many are being granted.
    pub(super) fn granting(&self) -> WatchCell<usize> {
        self.granting.subscribe()
    }

    fn add_granting(&self, change: isize) {
        self.granting.set(self.granting().get().saturating_add_signed(change));
    }

    /// The leases that nobody needs when the engine ends: those of marks, and those that no key has joined.
    pub(super) fn end(&mut self) -> impl Iterator<Item = LeaseId> {
        let unused = self.by_purpose.values().flat_map(|leases| leases.shared.unused());
        self.marks.drain(..).chain(unused)
    }
}

/// A lease for a key that is to live for so long.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct KeyLease {
    pub(crate) purpose: LeasePurpose,
    pub(crate) life: KeyLife,
    pub(crate) reply: TicketReply,
}

impl Handler<KeyLease> for LeaseManager {
    type Result = ();

    fn handle(&mut self, request: KeyLease, ctx: &mut Self::Context) {
        guarded(self, ctx, |this, ctx| this.key_lease(request, ctx));
    }
}

/// Leases that etcd does not know (any more).
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Forget(pub(crate) Vec<LeaseId>);

impl Handler<Forget> for LeaseManager {
    type Result = ();

    fn handle(&mut self, Forget(gone): Forget, ctx: &mut Self::Context) {
        guarded(self, ctx, |this, _| {
            for leases in this.keys.by_purpose.values_mut() {
                gone.iter().for_each(|lease| leases.shared.forget(*lease));
            }
        });
    }
}

impl LeaseManager {
    fn key_lease(&mut self, KeyLease { purpose, life, reply }: KeyLease, ctx: &mut Context<Self>) {
        let (now, ttl) = (Instant::now(), life.ttl);
        let leases = self.keys.of(purpose, now);
        let placed = leases.shared.place(life, now);
        let opens = match placed {
            Some(LeasePlace::Joined(ticket)) => {
                // The firing that asked may have ended.
                let _ = reply.send(Ok(ticket));
                None
            }
            Some(LeasePlace::Awaits(number)) => {
                leases.waiting.entry(number).or_default().push((ttl, reply));
                None
            }
            Some(LeasePlace::Opens(new)) => {
                leases.waiting.entry(new.number).or_default().push((ttl, reply));
                Some(new)
            }
            None => {
                let message = "the TTL is longer than time can be counted";
                let _ = reply.send(Err(Failure::new(FailureKind::Rejected, "lease_grant", message)));
                None
            }
        };
        let begin =
            !leases.ahead && leases.shared.placed().is_multiple_of(KEYS) && leases.shared.is_busy(now);
        leases.ahead |= begin;
        if let Some(new) = opens {
            self.grant(purpose, new, ctx);
        }
        if begin {
            self.grant_ahead(purpose, ctx);
        }
    }

    /// Grants leases ahead, again and again for as long as many keys come.
    fn grant_ahead(&mut self, purpose: LeasePurpose, ctx: &mut Context<Self>) {
        let (now, is_ending) = (Instant::now(), self.ending.is_cancelled());
        let leases = self.keys.of(purpose, now);
        leases.ahead = leases.shared.is_busy(now) && !is_ending;
        if !leases.ahead {
            return;
        }
        for new in leases.shared.ahead(now) {
            self.grant(purpose, new, ctx);
        }
        ctx.run_later(STEP, move |this, ctx| guarded(this, ctx, |this, ctx| this.grant_ahead(purpose, ctx)));
    }

    fn grant(
        &mut self,
        purpose: LeasePurpose,
        NewLease { number, seconds }: NewLease,
        ctx: &mut Context<Self>,
    ) {
        let etcd = self.settings.etcd.clone();
        let id = lease_id(&mut self.settings.rng);
        self.keys.add_granting(1);
        let granting = async move { etcd.grant(id, Duration::from_secs(seconds)).await };
        ctx.spawn(actix::fut::wrap_future::<_, Self>(granting).map(move |grant, this, ctx| {
            guarded(this, ctx, |this, _| {
                let granted = grant.is_ok();
                let taken = this.granted(purpose, number, grant);
                // Nobody will need it.
                if granted && !taken && this.ending.is_cancelled() {
                    this.retired.add(id);
                }
                this.keys.add_granting(-1);
            });
        }));
    }

    /// Gives the new lease to all who waited for it, as far as it reaches. Whether somebody has it.
    fn granted(&mut self, purpose: LeasePurpose, number: LeaseNumber, grant: Result<Grant, Failure>) -> bool {
        let now = Instant::now();
        if let Ok(grant) = &grant {
            self.settings.meters.key_lease();
            if purpose == LeasePurpose::Mark {
                self.keys.marks.push(grant.id);
                // Leases end by themselves; only the latest can still be alive.
                let excess = self.keys.marks.len().saturating_sub(MARKS);
                self.keys.marks.drain(..excess);
            }
        }
        let leases = self.keys.of(purpose, now);
        match &grant {
            Ok(grant) => leases.shared.granted(number, *grant),
            Err(_) => leases.shared.failed(number),
        }
        let mut taken = false;
        for (ttl, reply) in leases.waiting.remove(&number).unwrap_or_default() {
            let ticket = grant.clone().and_then(|_| {
                let message = "the lease came too late, or is shorter than it was asked for";
                let late = || Failure::new(FailureKind::Unreachable, "lease_grant", message);
                leases.shared.ticket(number, ttl, now).ok_or_else(late)
            });
            let is_ticket = ticket.is_ok();
            // The firing that asked may have ended.
            taken |= reply.send(ticket).is_ok() && is_ticket;
        }
        taken
    }
}
