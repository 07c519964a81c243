//! Asks over a new connection whose store it leads to.

use super::Header;
use super::failure::{Failure, FailureKind};
use super::identity::{Identity, create};
use super::requests::{History, LastEvent, kv_of_reads, read_at};
use super::store::{Before, IdentityAnswer, Store, Testimony};
use crate::change::Revision;
use etcd_client::Client;

/// The name of the request in metrics.
const REQUEST: &str = "connect";

fn failed(error: etcd_client::Error) -> Failure {
    Failure::of_error(REQUEST, error)
}

/// Reads the identity, linearizably, and the newest change that was seen.
pub(super) async fn read_testimony(
    client: &Client,
    store: &Store,
    before: &Before,
) -> Result<Testimony, Failure> {
    let key = store.identity_key();
    let mut kv = kv_of_reads(client);
    let reading = async { kv.get(store.prefix().key(&**key), None).await.map_err(failed) };
    let looking = async {
        match &before.seen {
            Some(seen) => history(client, store, seen).await,
            None => Ok(None),
        }
    };
    // A slow server has both at once.
    let (read, history) = tokio::join!(reading, looking);
    let read = match read {
        Ok(answer) => answer.0,
        // Who may not read that is answered all the same.
        Err(Failure { kind: FailureKind::Permission, .. }) => {
            return Ok(Testimony {
                header: Header::default(),
                identity: IdentityAnswer::Nothing,
                history: None,
            });
        }
        Err(failure) => return Err(failure),
    };
    let header = Header::of(read.header.as_ref());
    let identity = match read.kvs.into_iter().next() {
        Some(kv) => IdentityAnswer::Is(Identity::new(key.clone(), kv.value), Revision::new(kv.mod_revision)),
        None => IdentityAnswer::Absent,
    };
    Ok(Testimony { header, identity, history: history? })
}

/// `None`: the engine may not read the key any more.
async fn history(client: &Client, store: &Store, seen: &LastEvent) -> Result<Option<History>, Failure> {
    let read = async |revision| read_at(client, store.prefix(), seen, revision).await.map_err(failed);
    match seen.find(read).await {
        Ok(history) => Ok(Some(history)),
        Err(Failure { kind: FailureKind::Permission, .. }) => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// Writes the identity of a store that has none. What keeps it from being written (no space, no permission) keeps the
/// engine's transactions from being sent too, and nothing else: they ask for it again.
pub(super) async fn name(client: &Client, store: &Store, identity: &Identity) -> Result<(), Failure> {
    match create(client, store.prefix(), identity).await.map_err(failed) {
        Ok((found, revision)) => {
            store.learn(found, revision).map(drop).map_err(|text| Failure::wrong_store(REQUEST, text))
        }
        Err(failure) => match failure.kind {
            FailureKind::Permission | FailureKind::NoSpace | FailureKind::Rejected => Ok(()),
            _ => Err(failure),
        },
    }
}
