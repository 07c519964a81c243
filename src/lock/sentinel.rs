//! The sentinel of a lock lease: a key under it, whose name has the number of the form that the engine's keys have.
//!
//! Engines of different forms don't see each other's locks. So an engine puts the sentinel of a lease before it takes
//! any lock under it, and etcd refuses it where there is one of another form. `docs/keys.md` describes the keys.
//!
//! A sentinel is watched. When the lease is revoked it is deleted, and that is told at once.

use crate::change::{Change, Revision};
use crate::etcd::{
    EtcdClient, Failure, FailureKind, LeaseId, LiveWatch, Pieces, StreamEvent, TxnResponse, WatchMessage,
};
use crate::mutants::{Mutant, is_active};
use crate::pattern::KeyScope;
use crate::runtime::retry::Retry;
use etcd_client::proto::PbTxnOpResponse;
use etcd_client::{Compare, CompareOp, GetOptions, PutOptions, TxnOp};
use std::sync::Arc;
use std::time::Duration;

/// The number of the form that keys of locks and marks have. Whoever changes the form raises it.
pub(crate) const FORMAT: u32 = 1;

/// Where the sentinels of an engine are.
#[derive(Clone, Debug)]
pub(crate) struct Sentinels {
    /// The beginning of the sentinels of all forms.
    prefix: String,
    /// The engine's name, for people who read the key.
    engine: Arc<str>,
}

/// What became of a sentinel.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum SentinelPut {
    /// At this revision.
    At(Revision),
    /// There is an engine with keys of another form: one of its sentinels.
    OtherFormat(String),
}

impl Sentinels {
    pub(crate) fn new(namespace: &str, engine: Arc<str>) -> Self {
        Self { prefix: format!("{namespace}format/"), engine }
    }

    /// The key of a lease's sentinel. No other engine has this lease.
    pub(crate) fn key(&self, lease: LeaseId) -> String {
        format!("{}{FORMAT}/{:016x}", self.prefix, lease.get())
    }

    /// Puts the sentinel of a lease, if there is none of another form.
    pub(crate) async fn put(&self, etcd: &EtcdClient, lease: LeaseId) -> Result<SentinelPut, Failure> {
        let prefix = etcd.key_prefix();
        // The sentinels of this form are in between.
        let below = (self.prefix.clone(), format!("{}{FORMAT}/", self.prefix));
        let above = (end_of(&below.1), end_of(&self.prefix));
        let none = |(start, end): &(String, String)| {
            Compare::create_revision(prefix.key(&**start), CompareOp::Equal, 0).with_range(prefix.key(&**end))
        };
        let first = |(start, end): &(String, String)| {
            let options = GetOptions::new().with_range(prefix.key(&**end)).with_limit(1).with_keys_only();
            TxnOp::get(prefix.key(&**start), Some(options))
        };
        let under = PutOptions::new().with_lease(lease.get());
        let put = TxnOp::put(prefix.key(self.key(lease)), &*self.engine, Some(under));
        let when = vec![none(&below), none(&above)];
        let TxnResponse { revision, succeeded, responses } =
            etcd.txn(when, vec![put], vec![first(&below), first(&above)]).await?;
        if succeeded {
            return Ok(SentinelPut::At(revision));
        }
        let found = responses.into_iter().flatten().find_map(|response| match response {
            PbTxnOpResponse::ResponseRange(range) => range.kvs.into_iter().next(),
            _ => None,
        });
        let key = found.map(|kv| String::from_utf8_lossy(&kv.key).into_owned());
        Ok(SentinelPut::OtherFormat(key.unwrap_or_else(|| self.prefix.clone())))
    }
}

/// Tells when a sentinel is deleted.
pub(crate) struct SentinelWatch<'a> {
    pub(crate) sentinels: &'a Sentinels,
    pub(crate) etcd: &'a Arc<EtcdClient>,
    pub(crate) lease: LeaseId,
    /// A revision at which it was there.
    pub(crate) there: Revision,
    /// How long the stream may be silent before it is asked for a sign of life.
    pub(crate) silence: Duration,
    pub(crate) retry: Retry,
}

/// Why a stream is not followed any more.
enum Followed {
    Deleted,
    /// Its connection was replaced.
    Moved,
}

impl SentinelWatch<'_> {
    /// Ends when the sentinel is gone.
    pub(crate) async fn gone(mut self) {
        if is_active(Mutant::LeaseWatch) {
            return std::future::pending().await;
        }
        let key = KeyScope::Key(self.sentinels.key(self.lease));
        loop {
            match self.follow(&key).await {
                Ok(Followed::Deleted) => return,
                // It goes on over the connection that has taken the place of the stream's.
                Ok(Followed::Moved) => {}
                Err(failure) => {
                    tracing::debug!(%failure, "a lease is not watched; trying again");
                    if failure.kind == FailureKind::Compacted {
                        match self.is_there(&key).await {
                            Ok(true) => {}
                            Ok(false) => return,
                            Err(failure) => tracing::debug!(%failure, "a lease could not be looked at"),
                        }
                    }
                    self.retry.wait().await;
                }
            }
        }
    }

    /// Waits until it is deleted, or the stream's connection was replaced.
    async fn follow(&mut self, key: &KeyScope) -> Result<Followed, Failure> {
        // From where it was there: some servers drop a deletion at the compacted revision without an error.
        let mut stream =
            LiveWatch::open(self.etcd, key, self.there, true, self.silence, Pieces::Whole).await?;
        loop {
            let StreamEvent::Message(message) = stream.next().await? else { return Ok(Followed::Moved) };
            match message {
                WatchMessage::Changes(_, changes) => {
                    let is_it = |change: &Change| match change {
                        Change::Delete { key: deleted, .. } => deleted == key.text().as_bytes(),
                        Change::Put { .. } => false,
                    };
                    if changes.iter().any(is_it) {
                        return Ok(Followed::Deleted);
                    }
                }
                WatchMessage::Cancelled { compacted, .. } if compacted > Revision::NONE => {
                    return Err(Failure::new(FailureKind::Compacted, "watch", "history was compacted"));
                }
                WatchMessage::Cancelled { reason, .. } => return Err(Failure::of_reason("watch", reason)),
                WatchMessage::Created(_) | WatchMessage::Alive(..) => self.retry.reset(),
            }
        }
    }

    /// Whether it is there now.
    async fn is_there(&mut self, key: &KeyScope) -> Result<bool, Failure> {
        let at = self.etcd.header(key).await?.revision;
        let is_there = self.etcd.get(key.text()).await?.is_some();
        self.there = at;
        Ok(is_there)
    }
}

/// The first key after all that begin with a prefix, which ends with a slash.
fn end_of(prefix: &str) -> String {
    let mut end = prefix.trim_end_matches('/').to_owned();
    end.push((b'/' + 1) as char);
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sentinels_of_other_forms_are_before_and_after_those_of_this_one() {
        let sentinels = Sentinels::new("/ns/", "e".into());
        let key = sentinels.key(LeaseId::new(255));
        assert_eq!(key, "/ns/format/1/00000000000000ff");
        let own = format!("/ns/format/{FORMAT}/");
        let (end, all) = (end_of(&own), end_of("/ns/format/"));
        assert!(own < key && key < end && end < all);
        for other in ["/ns/format/0/1", "/ns/format/10/1", "/ns/format/2/1", "/ns/format/1x", "/ns/format/"] {
            assert!(other < own.as_str() || (end.as_str() <= other && other < all.as_str()), "{other}");
        }
    }
}
