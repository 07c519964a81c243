//! Answers must be read as etcd-client reads them, which is the oracle, but for what nobody asks for.

use super::*;
use etcd_client::proto::{PbKeyValue, PbResponseHeader};
use proptest::collection::vec;
use proptest::prelude::*;

fn number() -> impl Strategy<Value = i64> {
    prop_oneof![Just(0), 1..300_i64, any::<i64>()]
}

fn header() -> impl Strategy<Value = PbResponseHeader> {
    (any::<u64>(), any::<u64>(), number(), any::<u64>()).prop_map(
        |(cluster_id, member_id, revision, raft_term)| PbResponseHeader {
            cluster_id,
            member_id,
            revision,
            raft_term,
        },
    )
}

fn key_value() -> impl Strategy<Value = PbKeyValue> {
    (vec(any::<u8>(), 0..5), vec(any::<u8>(), 0..200), number(), number()).prop_map(
        |(key, value, mod_revision, lease)| PbKeyValue {
            key,
            value,
            mod_revision,
            lease,
            ..PbKeyValue::default()
        },
    )
}

fn operation_response() -> impl Strategy<Value = PbTxnOpResponse> {
    let kvs = vec(key_value(), 0..3);
    let header = || proptest::option::of(header());
    prop_oneof![
        (header(), kvs, any::<bool>(), number()).prop_map(|(header, kvs, more, count)| {
            PbTxnOpResponse::ResponseRange(PbRangeResponse { header, kvs, more, count })
        }),
        (header(), proptest::option::of(key_value()))
            .prop_map(|(header, prev_kv)| PbTxnOpResponse::ResponsePut(PbPutResponse { header, prev_kv })),
        (header(), number(), vec(key_value(), 0..2)).prop_map(|(header, deleted, prev_kvs)| {
            PbTxnOpResponse::ResponseDeleteRange(PbDeleteResponse { header, deleted, prev_kvs })
        }),
    ]
}

fn responses(operation: impl Strategy<Value = PbTxnOpResponse>) -> impl Strategy<Value = Vec<PbResponseOp>> {
    let operation = proptest::option::weighted(0.9, operation);
    vec(operation.prop_map(|response| PbResponseOp { response }), 0..5)
}

fn txn(operation: impl Strategy<Value = PbTxnOpResponse>) -> impl Strategy<Value = PbTxnResponse> {
    (proptest::option::of(header()), any::<bool>(), responses(operation))
        .prop_map(|(header, succeeded, responses)| PbTxnResponse { header, succeeded, responses })
}

/// Fields that nobody knows: a number, bytes, and those of fixed sizes.
const UNKNOWN: &[u8] = b"\x98\x06\x07\x9a\x06\x01x\x99\x0612345678\x9d\x061234";

/// What is to be read of an answer to an operation.
fn wanted(response: Option<PbTxnOpResponse>) -> Option<PbTxnOpResponse> {
    Some(match response? {
        PbTxnOpResponse::ResponsePut(_) => PbTxnOpResponse::ResponsePut(PbPutResponse::default()),
        PbTxnOpResponse::ResponseDeleteRange(_) => {
            PbTxnOpResponse::ResponseDeleteRange(PbDeleteResponse::default())
        }
        PbTxnOpResponse::ResponseTxn(PbTxnResponse { succeeded, responses, .. }) => {
            let reads = matches!(
                responses.last(),
                Some(PbResponseOp { response: Some(PbTxnOpResponse::ResponseRange(_)) })
            );
            let responses = if succeeded && !reads { Vec::new() } else { responses };
            let responses =
                responses.into_iter().map(|op| PbResponseOp { response: wanted(op.response) }).collect();
            PbTxnOpResponse::ResponseTxn(PbTxnResponse { header: None, succeeded, responses })
        }
        read @ PbTxnOpResponse::ResponseRange(_) => read,
    })
}

proptest! {
    #[test]
    fn an_answer_is_read_as_etcd_client_reads_it(
        response in txn(prop_oneof![
            operation_response(),
            txn(operation_response()).prop_map(PbTxnOpResponse::ResponseTxn),
        ])
    ) {
        assert_same(&answer(&response.encode_to_vec()).expect("it can be read"), response);
    }

    #[test]
    fn what_was_cut_off_is_no_answer(response in txn(operation_response()), cut in 1..20_usize) {
        let whole = PbTxnResponse {
            header: None,
            succeeded: true,
            responses: vec![PbResponseOp { response: Some(PbTxnOpResponse::ResponseTxn(response)) }],
        };
        let bytes = whole.encode_to_vec();
        // All but the first two bytes are in the last field.
        let kept = bytes.len().saturating_sub(cut).max(3).min(bytes.len() - 1);
        prop_assert!(answer(&bytes[..kept]).is_err());
    }
}

/// How deep transactions are nested in one answer.
fn levels(response: &PbTxnResponse) -> u32 {
    let nested = response.responses.iter().filter_map(|op| match &op.response {
        Some(PbTxnOpResponse::ResponseTxn(nested)) => Some(1 + levels(nested)),
        _ => None,
    });
    nested.max().unwrap_or(0)
}

fn assert_same(read: &TxnResponse, theirs: PbTxnResponse) {
    assert_eq!(read.revision, Header::of(theirs.header.as_ref()).revision);
    assert_eq!(read.succeeded, theirs.succeeded);
    let expected: Vec<_> = theirs.responses.into_iter().map(|op| wanted(op.response)).collect();
    assert_eq!(read.responses, expected);
}

/// A target of `crate::fuzz`. What both can read says the same to both. What prost can read and writes again is read
/// here too, whatever is added that nobody knows.
pub(crate) fn attack(bytes: &[u8]) {
    let read = answer(bytes);
    let Ok(theirs) = PbTxnResponse::decode(bytes) else { return };
    if let Ok(read) = read {
        assert_same(&read, theirs.clone());
    }
    let canonical = [&theirs.encode_to_vec(), UNKNOWN].concat();
    match answer(&canonical) {
        Ok(read) => assert_same(&read, theirs),
        Err(Unreadable) => assert!(levels(&theirs) > LEVELS, "it can be read"),
    }
}

/// A message with something to read at every level, and seeds of the attack.
pub(crate) const SEEDS: &[&[u8]] = &[
    // The revision is 7, it succeeded, and one of two nested ones failed and has read a key and put another.
    b"\x0a\x02\x18\x07\x10\x01\x1a\x04\x22\x02\x10\x01\x1a\x15\x22\x13\x1a\x0d\x0a\x0b\x12\x07\x0a\x01k\x2a\x02ab\x20\x01\x1a\x02\x12\x00",
    b"\x10\x01\x1a\x02\x1a\x00\x1a\x02\x12\x00",
];

#[test]
fn a_seed_of_the_attack_is_an_answer() {
    for seed in SEEDS {
        assert!(PbTxnResponse::decode(*seed).is_ok_and(|theirs| !theirs.responses.is_empty()));
        assert!(answer(seed).is_ok());
    }
}

#[test]
fn what_is_not_an_answer_is_refused() {
    let deep = |levels: u32| {
        let mut bytes = Vec::new();
        for _ in 0..levels {
            // A response operation with a transaction in it, in one that failed.
            let mut outer = Vec::new();
            prost::encoding::bytes::encode(TXN_RESPONSE, &bytes, &mut outer);
            bytes.clear();
            prost::encoding::bytes::encode(RESPONSES, &outer, &mut bytes);
        }
        bytes
    };
    assert!(answer(&deep(LEVELS)).is_ok(), "as deep as it may be");
    for (name, bytes) in [
        ("deeper than that", &*deep(LEVELS + 1)),
        ("so deep that reading it would overflow the stack", &*deep(50_000)),
        ("a header that is a number", b"\x08\x01"),
        ("a revision that is bytes", b"\x0a\x02\x1a\x00"),
        ("a flag that is bytes", b"\x12\x00"),
        ("a response that is a number", b"\x18\x01"),
        ("two answers to one operation", b"\x1a\x04\x12\x00\x12\x00"),
        ("an answer that is a number", b"\x1a\x02\x08\x01"),
        ("a nested one that is cut off", b"\x1a\x02\x22\x02"),
        ("a nested flag that is bytes", b"\x1a\x04\x22\x02\x12\x00"),
        ("a last answer that is cut off", b"\x1a\x08\x22\x06\x10\x01\x1a\x02\x0a\x05"),
        ("a read that is cut off", b"\x1a\x04\x0a\x02\x12\x05"),
    ] {
        assert!(answer(bytes).is_err(), "{name}");
    }
}

#[cfg(feature = "embedded")]
mod over_a_channel {
    use super::*;
    use crate::change::Revision;
    use crate::embedded::EmbeddedEtcd;
    use crate::etcd::connection::Activity;
    use crate::etcd::token_channel::TokenChannelBuilder;
    use crate::etcd::wire::Wire;
    use etcd_client::proto::PbTxnRequest;
    use etcd_client::{Client, Compare, CompareOp, Txn, TxnOp};
    use std::sync::Arc;

    /// Puts a key if it is absent, and reads it if not.
    fn txn() -> Bytes {
        let txn = Txn::new()
            .when([Compare::create_revision("/a", CompareOp::Equal, 0)])
            .and_then([TxnOp::put("/a", "1", None)])
            .or_else([TxnOp::get("/a", None)]);
        PbTxnRequest::from(txn).encode_to_vec().into()
    }

    #[tokio::test]
    async fn a_transaction_takes_effect_and_is_answered() {
        let etcd = EmbeddedEtcd::start().await.unwrap();
        let stream = Wire::Tcp(tokio::net::TcpStream::connect(etcd.endpoint()).await.unwrap());
        let activity = Arc::new(Activity::new(tokio::time::Instant::now()));
        let (builder, channel) = TokenChannelBuilder::over(stream, activity, Arc::default());
        let endpoint = format!("http://{}", etcd.endpoint());
        let mut client = Client::connect_with_balanced_channel([endpoint], None, builder).await.unwrap();
        let first = send(channel.clone(), txn()).await.unwrap();
        assert!(first.succeeded);
        let stored = client.get("/a", None).await.unwrap();
        assert_eq!(Revision::new(stored.kvs()[0].mod_revision()), first.revision);
        let second = send(channel.clone(), txn()).await.unwrap();
        assert!(!second.succeeded, "the key is there now");
        let [Some(PbTxnOpResponse::ResponseRange(read))] = &second.responses[..] else {
            panic!("one read: {:?}", second.responses)
        };
        assert_eq!((&*read.kvs[0].key, &*read.kvs[0].value), (&b"/a"[..], &b"1"[..]));
        let refused = send(channel, Bytes::from_static(b"\xff")).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::Internal, "the server can't read it: {refused}");
    }
}
