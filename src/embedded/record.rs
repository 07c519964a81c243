//! For the simulation: a server that tells everything it does, and is written to without a client.

use super::EmbeddedEtcd;
use super::plan::{Action, RequestKind};
use super::shared::Inner;
use etcd_client::proto::{PbDeleteRequest, PbPutRequest, PbTxnOpRequest, PbTxnRequest, PbTxnRequestOp};

/// What a server did.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Done {
    /// A request or message came; in the second place what a fault made of it.
    Arrived(RequestKind, String),
    /// A transaction took effect. `by_test`: one of [`EmbeddedEtcd::write`].
    Committed { revision: i64, changes: Vec<Written>, by_test: bool },
    /// The store is another one from now on, at this revision and with these keys.
    Replaced { revision: i64, keys: Vec<Written> },
}

/// A key that was put, or (without a value) deleted.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Written {
    pub(crate) key: String,
    pub(crate) value: Option<String>,
    pub(crate) create_revision: i64,
    pub(crate) mod_revision: i64,
    pub(crate) lease: i64,
}

/// Told what a server did, in order.
type Listener = Box<dyn FnMut(Done) + Send>;

/// What a server tells, and whom.
#[derive(Default)]
pub(crate) struct Recorder {
    listener: Option<Listener>,
    /// Everything up to here was told.
    told: i64,
    by_test: bool,
}

/// A write of the test itself.
pub(crate) enum Write<'a> {
    Put(&'a str, &'a str),
    /// All of these keys get the value, in one transaction.
    PutAll(&'a [String], &'a str),
    Delete(&'a str),
}

fn written(kv: &etcd_client::proto::PbKeyValue, deleted: bool) -> Written {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Written {
        key: text(&kv.key),
        value: (!deleted).then(|| text(&kv.value)),
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        lease: kv.lease,
    }
}

impl Inner {
    fn tell(&mut self, done: Done) {
        if let Some(listener) = &mut self.recorder.listener {
            listener(done);
        }
    }

    pub(super) fn record(&mut self) {
        if self.recorder.listener.is_none() {
            return;
        }
        let store = &self.member.store;
        let news = (self.recorder.told + 1)..=store.revision();
        self.recorder.told = store.revision();
        let committed: Vec<Done> = news
            .map(|revision| {
                let changes = store.changes(revision).iter();
                Done::Committed {
                    revision,
                    changes: changes.map(|change| written(&change.kv, change.deleted)).collect(),
                    by_test: self.recorder.by_test,
                }
            })
            .collect();
        committed.into_iter().for_each(|done| self.tell(done));
    }

    pub(super) fn arrived(&mut self, on: RequestKind, action: Option<Action>) {
        if self.recorder.listener.is_some() {
            let fate = action.map_or_else(String::new, |action| format!("{action:?}"));
            self.tell(Done::Arrived(on, fate));
        }
    }

    pub(super) fn replaced(&mut self) {
        let store = &self.member.store;
        let revision = store.revision();
        self.recorder.told = revision;
        let keys = store.all().map(|kv| written(kv, false)).collect();
        self.tell(Done::Replaced { revision, keys });
    }
}

impl EmbeddedEtcd {
    /// Has a test told everything from now on.
    pub(crate) fn listen(&self, listener: impl FnMut(Done) + Send + 'static) {
        self.shared().look(|inner| {
            inner.recorder = Recorder {
                listener: Some(Box::new(listener)),
                told: inner.member.store.revision(),
                by_test: false,
            };
        });
    }

    /// Writes without a client, in one revision each. False if there is no space, no leader, or nothing to do.
    pub(crate) fn write(&self, write: &Write<'_>) -> bool {
        self.shared().apply(|inner, _| {
            if inner.condition.leaderless || inner.condition.frozen {
                return false;
            }
            inner.recorder.by_test = true;
            let before = inner.member.store.revision();
            let _ = match write {
                Write::Put(key, value) => {
                    let (key, value) = (key.as_bytes().to_vec(), value.as_bytes().to_vec());
                    inner.member.put(&PbPutRequest { key, value, ..PbPutRequest::default() }).is_ok()
                }
                Write::PutAll(keys, value) => {
                    let put = |key: &String| {
                        let (key, value) = (key.as_bytes().to_vec(), value.as_bytes().to_vec());
                        let put = PbPutRequest { key, value, ..PbPutRequest::default() };
                        PbTxnRequestOp { request: Some(PbTxnOpRequest::RequestPut(put)) }
                    };
                    let success = keys.iter().map(put).collect();
                    inner.member.txn(&PbTxnRequest { success, ..PbTxnRequest::default() }).is_ok()
                }
                Write::Delete(key) => {
                    let key = key.as_bytes().to_vec();
                    inner.member.delete(&PbDeleteRequest { key, ..PbDeleteRequest::default() }).is_ok()
                }
            };
            inner.record();
            inner.recorder.by_test = false;
            inner.member.store.revision() > before
        })
    }
}
