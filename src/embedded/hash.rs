//! The hash of all keys and their history, which members compare to find that they differ. It is etcd 3.4's, so that
//! it is the same for the same history. Pure.

use super::member::Member;
use super::refusal::RpcError;
use super::store::StoredVersion;
use etcd_client::proto::PbKeyValue;
use prost::Message;

impl Member {
    /// The hash of what there was up to a revision, 0 being now, and that revision.
    pub(super) fn hash_kv(&self, revision: i64) -> Result<(u32, i64), RpcError> {
        let store = &self.store;
        if revision > 0 && revision <= store.compacted() {
            return Err(RpcError::COMPACTED);
        }
        if revision > store.revision() {
            return Err(RpcError::FUTURE_REVISION);
        }
        // As in etcd, nothing was there before the beginning.
        let revision = if revision == 0 { store.revision() } else { revision };
        let mut hash = Crc32c::new();
        // The name of the bucket that the keys are in.
        hash.update(b"key");
        for version in store.hashed_versions(revision) {
            let (key, value) = entry(version);
            hash.update(&key);
            hash.update(&value);
        }
        Ok((hash.finish(), revision))
    }
}

/// The key and the value of a version in etcd's file.
pub(super) fn entry((main, sub, key, kv): StoredVersion<'_>) -> (Vec<u8>, Vec<u8>) {
    let value = match kv {
        Some(kv) => kv.encode_to_vec(),
        None => PbKeyValue { key: key.to_vec(), ..PbKeyValue::default() }.encode_to_vec(),
    };
    (version_key(main, sub, kv.is_none()), value)
}

/// Under which key etcd keeps a version in its file.
pub(super) fn version_key(main: i64, sub: i64, deleted: bool) -> Vec<u8> {
    let mut key = Vec::with_capacity(18);
    key.extend(main.to_be_bytes());
    key.push(b'_');
    key.extend(sub.to_be_bytes());
    if deleted {
        key.push(b't');
    }
    key
}

/// A checksum with the polynomial of Castagnoli.
struct Crc32c(u32);

const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut at = 0;
    while at < 256 {
        let mut value = at as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { (value >> 1) ^ 0x82f6_3b78 } else { value >> 1 };
            bit += 1;
        }
        table[at] = value;
        at += 1;
    }
    table
};

impl Crc32c {
    fn new() -> Self {
        Self(u32::MAX)
    }

    fn update(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 >> 8) ^ TABLE[((self.0 ^ u32::from(byte)) & 0xff) as usize];
        }
    }

    fn finish(self) -> u32 {
        !self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_one_of_castagnoli() {
        let mut hash = Crc32c::new();
        hash.update(b"1234");
        hash.update(b"56789");
        assert_eq!(hash.finish(), 0xe306_9283);
    }
}
