//! Writes what this engine can do, and how busy it is, under a lease of its own. When that is lost, the keys are put
//! again at once under the next one.

use super::member::{Abilities, MemberId, MemberLoad};
use super::view::MemberKey;
use crate::etcd::{EtcdClient, Failure, FailureKind};
use crate::health::status::Status;
use crate::lock::lease_manager::LockLease;
use crate::runtime::retry::Retry;
use crate::runtime::supervised::{ActorFaults, spawn_guarded};
use crate::watch_cell::WatchCell;
use actix::prelude::*;
use etcd_client::{PutOptions, TxnOp};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};

/// What the dispatcher wants to be said of this engine. It says so at least once a second.
#[derive(Clone, Debug, Default)]
pub(crate) struct Announcement {
    /// `None`: it has yet to read its snapshot, and is no member.
    pub(crate) abilities: Option<Arc<Abilities>>,
    pub(crate) load: MemberLoad,
    /// How often the keys were found missing.
    pub(crate) missing: u64,
}

/// What an announcer is made of.
pub(crate) struct AnnouncerSettings {
    pub(crate) etcd: Arc<EtcdClient>,
    /// All keys of members begin with it.
    pub(crate) prefix: String,
    pub(crate) me: MemberId,
    pub(crate) lease: WatchCell<Option<LockLease>>,
    pub(crate) wanted: WatchCell<Announcement>,
    pub(crate) refused: Recipient<WriteRefused>,
    pub(crate) status: Status,
    pub(crate) faults: ActorFaults,
}

/// Whether etcd refuses to let this engine be a member.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct WriteRefused(pub(crate) bool);

/// Its name among the parts of the engine.
const NAME: &str = "announcer";

/// The name in the engine's health.
const PART: &str = "membership";

/// The least time between two loads that are written.
const LOAD_INTERVAL: Duration = Duration::from_secs(1);

/// A dispatcher that has not spoken for so long is stuck, and others are to do its work.
const STUCK: Duration = Duration::from_secs(5);

/// How long etcd is left alone when it has refused the keys.
const REFUSED: Duration = Duration::from_secs(30);

/// Starts it on the present thread, with which it ends.
pub(crate) fn start_announcer(settings: AnnouncerSettings, retry: Retry) {
    let faults = settings.faults.clone();
    spawn_guarded(&faults, NAME, run(settings, retry));
}

/// What is written under the present lease.
#[derive(Default)]
struct Written {
    abilities: Option<Arc<Abilities>>,
    load: Option<MemberLoad>,
    load_at: Option<Instant>,
    missing: u64,
}

async fn run(mut settings: AnnouncerSettings, mut retry: Retry) {
    let alive = |lease: &Option<LockLease>| lease.as_ref().is_some_and(|l| !l.lost.is_cancelled());
    loop {
        // `None`: the lease manager is gone, and this engine with it.
        let Some(Some(lease)) = settings.lease.wait_for(alive).await else { return };
        let mut written = Written::default();
        loop {
            match announce(&mut settings, &lease, &mut written).await {
                Ok(true) => retry.reset(),
                Ok(false) => return,
                Err(failure) if failure.kind == FailureKind::LeaseGone => {
                    // Whoever keeps it does not know yet.
                    lease.lost.cancel();
                    break;
                }
                Err(failure) => {
                    settings.status.failure(PART, &failure);
                    if failure.kind == FailureKind::Permission {
                        let _ = settings.refused.send(WriteRefused(true)).await;
                        sleep(REFUSED).await;
                    } else {
                        retry.wait().await;
                    }
                }
            }
            if lease.lost.is_cancelled() {
                break;
            }
        }
    }
}

/// Writes what is to be written, then waits until there may be more. False: the dispatcher is gone.
async fn announce(
    settings: &mut AnnouncerSettings,
    lease: &LockLease,
    written: &mut Written,
) -> Result<bool, Failure> {
    let mut wanted = settings.wanted.get();
    let began = Instant::now();
    if wanted.missing != written.missing {
        *written = Written { missing: wanted.missing, ..Written::default() };
    }
    write(settings, lease, &wanted, written).await?;
    let load_due = || written.load_at.unwrap_or(began) + LOAD_INTERVAL;
    tokio::select! {
        biased;
        () = lease.lost.cancelled() => Ok(true),
        changed = settings.wanted.changed() => Ok(changed),
        () = sleep_until(load_due()), if written.load.as_ref() != Some(&wanted.load) && wanted.abilities.is_some() => Ok(true),
        () = sleep(STUCK) => {
            if let Some(abilities) = &wanted.abilities {
                wanted.abilities = Some(Arc::new(Abilities { lagging: true, ..Abilities::clone(abilities) }));
                write(settings, lease, &wanted, written).await?;
            }
            Ok(settings.wanted.changed().await)
        }
    }
}

/// Writes what differs from what is written.
async fn write(
    settings: &AnnouncerSettings,
    lease: &LockLease,
    wanted: &Announcement,
    written: &mut Written,
) -> Result<(), Failure> {
    let AnnouncerSettings { etcd, prefix, me, status, refused, .. } = settings;
    let Some(abilities) = &wanted.abilities else { return Ok(()) };
    let now = Instant::now();
    let able = written.abilities.as_ref() != Some(abilities);
    let load = written.load.as_ref() != Some(&wanted.load)
        && written.load_at.is_none_or(|at| now >= at + LOAD_INTERVAL);
    if !able && !load {
        return Ok(());
    }
    let json = |value: serde_json::Result<Vec<u8>>| {
        value.map_err(|error| Failure::new(FailureKind::Rejected, "txn", error.to_string()))
    };
    let put = |key: MemberKey, value: Vec<u8>| {
        TxnOp::put(
            etcd.key_prefix().key(key.of(prefix, *me)),
            value,
            Some(PutOptions::new().with_lease(lease.id.get())),
        )
    };
    let mut puts = Vec::new();
    if able {
        puts.push(put(MemberKey::Able, json(serde_json::to_vec(&**abilities))?));
    }
    if load {
        puts.push(put(MemberKey::Busyness, json(serde_json::to_vec(&wanted.load))?));
    }
    etcd.txn(vec![], puts, vec![]).await?;
    status.fine(PART);
    // The dispatcher may be gone, which is seen by what it wants.
    let _ = refused.send(WriteRefused(false)).await;
    if able {
        written.abilities = Some(abilities.clone());
    }
    if load {
        (written.load, written.load_at) = (Some(wanted.load.clone()), Some(now));
    }
    Ok(())
}
