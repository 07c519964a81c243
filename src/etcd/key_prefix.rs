//! The prefix under which an engine works and which its patterns do not spell out, as etcd's namespace client has it.
//! Pure.
//!
//! Everywhere else keys are as patterns spell them. Here it is added to what is asked of etcd, and taken off what etcd
//! tells. Without one nothing is copied for it.

use crate::pattern::{UNBOUNDED, prefix_end};
use bytes::{Buf, Bytes};
use prost::encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint};
use std::sync::Arc;

/// See the [module](self). Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct KeyPrefix(Arc<str>);

impl KeyPrefix {
    pub(crate) fn new(prefix: &str) -> Self {
        Self(prefix.into())
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The same text, shared.
    pub(crate) fn text(&self) -> Arc<str> {
        self.0.clone()
    }

    /// A key as etcd has it.
    pub(crate) fn key(&self, key: impl Into<Vec<u8>>) -> Vec<u8> {
        let key = key.into();
        if self.0.is_empty() { key } else { [self.0.as_bytes(), &key].concat() }
    }

    /// The end of a range as etcd has it.
    pub(super) fn end(&self, end: impl Into<Vec<u8>>) -> Vec<u8> {
        let end = end.into();
        match self.0.is_empty() {
            // A single key has no end.
            false if end.is_empty() => end,
            false if end == UNBOUNDED => prefix_end(self.0.as_bytes()),
            _ => self.key(end),
        }
    }

    /// A key of etcd as patterns spell it.
    pub(super) fn strip(&self, mut key: Vec<u8>) -> Vec<u8> {
        if key.starts_with(self.0.as_bytes()) {
            key.drain(..self.0.len());
        }
        key
    }

    /// An encoded transaction with the prefix before every key in it.
    pub(super) fn txn(&self, txn: Bytes) -> Option<Bytes> {
        if self.0.is_empty() {
            return Some(txn);
        }
        let mut prefixed = Vec::with_capacity(txn.len() + 64 * self.0.len());
        self.rewrite(Message::Txn, &txn, &mut prefixed)?;
        Some(prefixed.into())
    }

    /// Copies a message field by field. `None`: it is malformed.
    fn rewrite(&self, kind: Message, mut message: &[u8], out: &mut Vec<u8>) -> Option<()> {
        while message.has_remaining() {
            let (number, wire) = decode_key(&mut message).ok()?;
            match wire {
                WireType::Varint => {
                    encode_key(number, wire, out);
                    encode_varint(decode_varint(&mut message).ok()?, out);
                }
                WireType::LengthDelimited => {
                    let length = usize::try_from(decode_varint(&mut message).ok()?).ok()?;
                    let (content, rest) = message.split_at_checked(length)?;
                    message = rest;
                    let changed = match kind.field(number) {
                        Field::Other => None,
                        Field::Key => Some(self.key(content)),
                        Field::End => Some(self.end(content)),
                        Field::Message(kind) => {
                            let mut inner = Vec::with_capacity(content.len() + 8 * self.0.len());
                            self.rewrite(kind, content, &mut inner)?;
                            Some(inner)
                        }
                    };
                    let content = changed.as_deref().unwrap_or(content);
                    encode_key(number, wire, out);
                    encode_varint(content.len() as u64, out);
                    out.extend_from_slice(content);
                }
                // No field of a transaction has another.
                _ => return None,
            }
        }
        Some(())
    }
}

/// The messages of a transaction: `etcdserverpb.TxnRequest` of etcd's `rpc.proto` and what is in it.
#[derive(Clone, Copy)]
enum Message {
    Txn,
    Compare,
    Operation,
    Range,
    Put,
    DeleteRange,
}

/// What a field has.
enum Field {
    Key,
    End,
    Message(Message),
    Other,
}

impl Message {
    fn field(self, number: u32) -> Field {
        match (self, number) {
            (Message::Txn, 1) => Field::Message(Message::Compare),
            (Message::Txn, 2 | 3) => Field::Message(Message::Operation),
            (Message::Operation, 1) => Field::Message(Message::Range),
            (Message::Operation, 2) => Field::Message(Message::Put),
            (Message::Operation, 3) => Field::Message(Message::DeleteRange),
            (Message::Operation, 4) => Field::Message(Message::Txn),
            (Message::Compare, 3) | (Message::Range | Message::Put | Message::DeleteRange, 1) => Field::Key,
            (Message::Compare, 64) | (Message::Range | Message::DeleteRange, 2) => Field::End,
            _ => Field::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etcd_client::proto::{PbCompare, PbTxnOpRequest, PbTxnRequest, PbTxnRequestOp};
    use prost::Message as _;

    // The types of these messages have no names outside of etcd-client.
    macro_rules! content {
        ($variant:ident) => {
            match PbTxnOpRequest::$variant(Default::default()) {
                PbTxnOpRequest::$variant(content) => content,
                _ => unreachable!("it was just made"),
            }
        };
    }

    fn encoded(txn: &PbTxnRequest) -> Bytes {
        txn.encode_to_vec().into()
    }

    /// A transaction with everything that ours have, and one in it. `p` is before every key.
    fn txn(p: &str) -> PbTxnRequest {
        let key = |key: &str| [p.as_bytes(), key.as_bytes()].concat();
        let mut compare = PbCompare { result: 2, target: 2, key: key("/c"), ..Default::default() };
        compare.range_end = key("/d");
        compare.target_union = Some(etcd_client::proto::PbTargetUnion::ModRevision(1 << 40));
        let op = |request| PbTxnRequestOp { request: Some(request) };
        let mut range = content!(RequestRange);
        range.key = key("/r");
        range.range_end = if p.is_empty() { UNBOUNDED.to_vec() } else { prefix_end(p.as_bytes()) };
        let (mut put, mut delete) = (content!(RequestPut), content!(RequestDeleteRange));
        put.key = key("/p");
        put.value = b"/value".to_vec();
        put.lease = 77;
        delete.key = key("/x/");
        delete.range_end = key("/x0");
        let nested = PbTxnRequest {
            compare: vec![compare.clone()],
            success: vec![op(PbTxnOpRequest::RequestPut(put.clone()))],
            failure: vec![op(PbTxnOpRequest::RequestRange(range.clone()))],
        };
        PbTxnRequest {
            compare: vec![compare],
            success: vec![
                op(PbTxnOpRequest::RequestTxn(nested)),
                op(PbTxnOpRequest::RequestPut(put)),
                op(PbTxnOpRequest::RequestDeleteRange(delete)),
            ],
            failure: vec![op(PbTxnOpRequest::RequestRange(range))],
        }
    }

    #[test]
    fn every_key_of_a_transaction_gets_the_prefix_and_nothing_else_changes() {
        let plain = encoded(&txn(""));
        assert_eq!(KeyPrefix::default().txn(plain.clone()), Some(plain.clone()));
        let prefixed = KeyPrefix::new("/prod").txn(plain.clone()).unwrap();
        assert_eq!(PbTxnRequest::decode(&prefixed[..]).unwrap(), txn("/prod"));
        assert_eq!(prefixed, encoded(&txn("/prod")), "with the right lengths");
        assert_eq!(KeyPrefix::new("/prod").txn(plain.slice(..plain.len() - 1)), None, "cut off");
    }

    #[test]
    fn keys_and_ends_go_out_and_come_back() {
        let (none, prod) = (KeyPrefix::default(), KeyPrefix::new("/prod"));
        assert_eq!((none.key("/a"), none.strip(b"/a".to_vec())), (b"/a".to_vec(), b"/a".to_vec()));
        assert_eq!(none.end(UNBOUNDED), UNBOUNDED);
        assert_eq!(prod.key("/a"), b"/prod/a");
        assert_eq!((prod.end("/b"), prod.end(UNBOUNDED)), (b"/prod/b".to_vec(), b"/proe".to_vec()));
        assert_eq!((prod.end(""), none.end("")), (vec![], vec![]), "a single key has no end");
        assert_eq!(prod.strip(b"/prod/prod/a".to_vec()), b"/prod/a", "once");
    }
}
