//! Messages must be read as etcd-client reads them, which is the oracle.

use super::*;
use crate::etcd::ClusterId;
use etcd_client::proto::{PbEvent, PbKeyValue, PbResponseHeader, PbWatchResponse};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

fn number() -> impl Strategy<Value = i64> {
    prop_oneof![Just(0), -1..300_i64, any::<i64>()]
}

fn key_value() -> impl Strategy<Value = PbKeyValue> {
    let bytes = || prop_oneof![vec(any::<u8>(), 0..5), vec(any::<u8>(), 15..30), vec(any::<u8>(), 120..140)];
    (bytes(), bytes(), number(), number(), number(), number()).prop_map(
        |(key, value, create_revision, mod_revision, version, lease)| PbKeyValue {
            key,
            value,
            create_revision,
            mod_revision,
            version,
            lease,
        },
    )
}

fn event() -> impl Strategy<Value = PbEvent> {
    (0..2_i32, key_value(), option::of(key_value())).prop_map(|(r#type, kv, prev_kv)| PbEvent {
        r#type,
        kv: Some(kv),
        prev_kv,
    })
}

fn message() -> impl Strategy<Value = PbWatchResponse> {
    let header = (any::<u64>(), any::<u64>(), number(), any::<u64>()).prop_map(
        |(cluster_id, member_id, revision, raft_term)| PbResponseHeader {
            cluster_id,
            member_id,
            revision,
            raft_term,
        },
    );
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    (option::of(header), number(), flags, number(), ".{0,10}", vec(event(), 0..6)).prop_map(
        |(header, watch_id, (created, canceled, fragment), compact_revision, cancel_reason, events)| {
            PbWatchResponse {
                header,
                watch_id,
                created,
                canceled,
                compact_revision,
                cancel_reason,
                fragment,
                events,
            }
        },
    )
}

fn wanted(event: PbEvent) -> Change {
    let PbKeyValue { key, value, mod_revision, .. } = event.kv.expect("read as an event that names no key");
    let revision = Revision::new(mod_revision);
    match event.r#type {
        0 => Change::Put { key, value: value.into(), revision },
        1 => Change::Delete { key, revision, how: Deletion::Delivered },
        kind => panic!("read as an event of kind {kind}"),
    }
}

proptest! {
    #[test]
    fn a_message_is_read_as_etcd_client_reads_it(message in message()) {
        assert_same(response(&message.encode_to_vec()).expect("it can be read"), message);
    }

    #[test]
    fn what_was_cut_off_is_no_message(event in event(), cut in 1..20_usize) {
        let message = PbWatchResponse { events: vec![event], ..PbWatchResponse::default() };
        let bytes = message.encode_to_vec();
        // All but the first byte is in one field, whose length is told.
        let kept = bytes.len().saturating_sub(cut).max(1);
        prop_assume!(kept < bytes.len());
        prop_assert!(response(&bytes[..kept]).is_err());
    }
}

fn assert_same(read: WatchResponse, theirs: PbWatchResponse) {
    assert_eq!(read.header, Header::of(theirs.header.as_ref()));
    assert_eq!(read.watch_id.get(), theirs.watch_id);
    assert_eq!((read.created, read.canceled), (theirs.created, theirs.canceled));
    assert_eq!(read.fragment, theirs.fragment);
    assert_eq!(read.compact_revision.get(), theirs.compact_revision);
    assert_eq!(read.cancel_reason, theirs.cancel_reason);
    let changes: Vec<Change> = theirs.events.into_iter().map(wanted).collect();
    assert_eq!(read.changes, changes);
}

/// Fields that nobody knows: a number, bytes, and those of fixed sizes.
const UNKNOWN: &[u8] = b"\x98\x06\x07\x9a\x06\x01x\x99\x0612345678\x9d\x061234";

/// Neither a put nor a deletion of its key.
fn is_of_no_kind(event: &PbEvent) -> bool {
    event.kv.is_none() || !matches!(event.r#type, 0 | 1)
}

/// A target of `crate::fuzz`. What both can read says the same to both. What prost can read and writes again is read
/// here too, whatever is added that nobody knows.
pub(crate) fn attack(bytes: &[u8]) {
    let read = response(bytes);
    let Ok(theirs) = PbWatchResponse::decode(bytes) else { return };
    if let Ok(read) = read {
        assert_same(read, theirs.clone());
    }
    let canonical = [&theirs.encode_to_vec(), UNKNOWN].concat();
    match response(&canonical) {
        Ok(read) => assert_same(read, theirs),
        Err(Unreadable) => assert!(theirs.events.iter().any(is_of_no_kind), "it can be read"),
    }
}

/// A put and a deletion, and a watch that ends; seeds of the attack.
pub(crate) const SEEDS: &[&[u8]] = &[
    b"\x0a\x04\x08\x09\x18\x07\x10\x03\x5a\x0b\x12\x09\x0a\x01k\x18\x05\x2a\x02ab\x5a\x09\x08\x01\x12\x05\x0a\x01k\x18\x06",
    b"\x10\x03\x18\x01\x20\x01\x28\x09\x32\x03why\x38\x01",
];

#[test]
fn a_seed_of_the_attack_is_a_message() {
    for (seed, changes) in SEEDS.iter().zip([2, 0]) {
        assert!(PbWatchResponse::decode(*seed).is_ok());
        assert_eq!(response(seed).expect("it can be read").changes.len(), changes);
    }
}

#[test]
fn what_is_not_a_message_is_refused() {
    for (name, bytes) in [
        ("a header that is a number", &b"\x08\x01"[..]),
        ("a cluster that is bytes", b"\x0a\x02\x0a\x00"),
        ("an id that is bytes", b"\x12\x00"),
        ("a flag that is bytes", b"\x1a\x00"),
        ("a reason that is no text", b"\x32\x01\xff"),
        ("an event that is a number", b"\x58\x01"),
        ("an event that names no key", b"\x5a\x02\x08\x01"),
        ("neither a put nor a deletion", b"\x5a\x04\x08\x02\x12\x00"),
        ("a kind that is bytes", b"\x5a\x02\x0a\x00"),
        ("a key with its value that are a number", b"\x5a\x02\x10\x01"),
        ("a key that is a number", b"\x5a\x04\x12\x02\x08\x01"),
        ("a key that is cut off", b"\x5a\x05\x12\x03\x0a\x02k"),
        ("a value beyond all memory", b"\x5a\x08\x12\x06\x2a\xff\xff\xff\xff\x07"),
        ("a revision that is bytes", b"\x5a\x04\x12\x02\x1a\x00"),
        ("a revision beyond 64 bits", b"\x5a\x0d\x12\x0b\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f"),
    ] {
        assert!(response(bytes).is_err(), "{name}");
    }
}

#[test]
fn parts_of_one_thing_are_put_together_as_by_prost() {
    // A header and an event in two parts, and a key that is told twice.
    let bytes = b"\x0a\x02\x08\x09\x0a\x02\x18\x07\x5a\x0c\x12\x03\x0a\x01k\x12\x05\x0a\x01l\x18\x05";
    let read = response(bytes).expect("it can be read");
    assert_eq!((read.header.cluster, read.header.revision.get()), (ClusterId::new(9), 7));
    assert_same(read, PbWatchResponse::decode(&bytes[..]).expect("by prost too"));
}

#[cfg(feature = "embedded")]
#[test]
fn requests_are_those_of_etcd() {
    use crate::pattern::KeyScope;
    use etcd_client::proto::{PbWatchRequest, PbWatchRequestUnion};
    let read = |request: WatchRequest| {
        PbWatchRequest::decode(&*request.encode_to_vec()).expect("a request").request_union
    };
    let create = |watched| read(WatchRequest { create: Some(watched), cancel: None });
    let range = |keys: KeyScope, deletions_only| {
        WatchCreateRequest::range(keys.first_key(), keys.end(), Revision::new(7), deletions_only)
    };
    let prefix = |prefix: &str| KeyScope::Prefix(prefix.to_owned());
    for deletions_only in [false, true] {
        let Some(PbWatchRequestUnion::CreateRequest(watched)) =
            create(range(prefix("/jobs/"), deletions_only))
        else {
            panic!("a new watch");
        };
        assert_eq!((&*watched.key, &*watched.range_end), (&b"/jobs/"[..], &b"/jobs0"[..]));
        assert_eq!((watched.start_revision, watched.progress_notify), (7, true));
        assert_eq!(watched.filters, vec![0; usize::from(deletions_only)]);
        assert!(!watched.prev_kv && !watched.fragment && watched.watch_id == 0);
    }
    let pieces = range(prefix("/jobs/"), false).in_pieces();
    let Some(PbWatchRequestUnion::CreateRequest(watched)) = create(pieces) else { panic!("a new watch") };
    assert!(watched.fragment);
    for (keys, first, end) in [(prefix(""), "\0", "\0"), (KeyScope::Key("/a".to_owned()), "/a", "")] {
        let Some(PbWatchRequestUnion::CreateRequest(watched)) = create(range(keys, false)) else {
            panic!("a new watch");
        };
        assert_eq!((&*watched.key, &*watched.range_end), (first.as_bytes(), end.as_bytes()));
    }
    let Some(PbWatchRequestUnion::CreateRequest(watched)) = create(WatchCreateRequest::key(b"/a".to_vec()))
    else {
        panic!("a new watch");
    };
    assert_eq!((&*watched.key, watched.range_end.len(), watched.start_revision), (&b"/a"[..], 0, 0));
    let cancel = WatchRequest { create: None, cancel: Some(Cancel { watch_id: 3 }) };
    let Some(PbWatchRequestUnion::CancelRequest(cancelled)) = read(cancel) else { panic!("its end") };
    assert_eq!(cancelled.watch_id, 3);
}
