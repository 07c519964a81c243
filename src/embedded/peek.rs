//! For tests under virtual time: looks at the store without a request.

use super::EmbeddedEtcd;
use crate::watch_cell::WatchCell;

impl EmbeddedEtcd {
    /// The revision of a key's last change and its value, if it exists.
    pub(crate) fn peek(&self, key: &str) -> Option<(i64, Vec<u8>)> {
        self.connectors[0].shared.apply(|inner, _| {
            inner.member.store.get(key.as_bytes()).map(|kv| (kv.mod_revision, kv.value.clone()))
        })
    }

    /// Notices every change from now on.
    pub(crate) fn changes(&self) -> WatchCell<()> {
        self.connectors[0].shared.changes()
    }
}
