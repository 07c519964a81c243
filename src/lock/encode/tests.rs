//! The encoder must write what etcd-client would send. That client's own encoding is the oracle.

use super::*;
use etcd_client::proto::PbTxnRequest;
use etcd_client::{Compare, CompareOp, DeleteOptions, PutOptions, Txn, TxnOp};
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message;

/// One part of a transaction.
#[derive(Clone, Debug)]
enum Operation {
    Compare(String, Sign, With),
    CompareAll(String, String, Sign, With),
    DeleteAll(String, String),
    Put(String, Vec<u8>, Option<i64>),
    Delete(String),
    Get(String),
}

#[derive(Clone, Debug)]
enum With {
    Created(i64),
    Changed(i64),
    Value(Vec<u8>),
}

/// Lengths around those at which the encoded length takes one more byte.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![vec(any::<u8>(), 0..8), vec(any::<u8>(), 110..135), vec(any::<u8>(), 16_370..16_400)]
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["/[a-z]{0,5}", "/[a-zäß]{60,130}"]
}

fn number() -> impl Strategy<Value = i64> {
    prop_oneof![Just(0), 1..300_i64, any::<i64>()]
}

fn part() -> impl Strategy<Value = Operation> {
    let sign = || prop_oneof![Just(Sign::Equal), Just(Sign::Greater), Just(Sign::Less), Just(Sign::NotEqual)];
    let with = || {
        prop_oneof![
            number().prop_map(With::Created),
            number().prop_map(With::Changed),
            bytes().prop_map(With::Value),
        ]
    };
    // A lease of 0 means none, and etcd-client leaves it out.
    let lease = proptest::option::of(number().prop_filter("a lease", |lease| *lease != 0));
    prop_oneof![
        (text(), sign(), with()).prop_map(|(key, sign, with)| Operation::Compare(key, sign, with)),
        (text(), text(), sign(), with())
            .prop_map(|(key, end, sign, with)| Operation::CompareAll(key, end, sign, with)),
        (text(), text()).prop_map(|(key, end)| Operation::DeleteAll(key, end)),
        (text(), bytes(), lease).prop_map(|(key, value, lease)| Operation::Put(key, value, lease)),
        text().prop_map(Operation::Delete),
        text().prop_map(Operation::Get),
    ]
}

fn target(with: &With) -> CompareTarget<'_> {
    match with {
        With::Created(revision) => CompareTarget::Created(Revision::new(*revision)),
        With::Changed(revision) => CompareTarget::Changed(Revision::new(*revision)),
        With::Value(value) => CompareTarget::Value(value),
    }
}

fn ours(parts: &[Operation]) -> EncodedTxn {
    let mut txn = EncodedTxn::default();
    for part in parts {
        match part {
            Operation::Compare(key, sign, with) => txn.compare(key, *sign, target(with)),
            Operation::CompareAll(key, end, sign, with) => {
                txn.compare_all(key, end.as_bytes(), *sign, target(with));
            }
            Operation::DeleteAll(key, end) => txn.then_delete_all(key, end.as_bytes()),
            Operation::Put(key, value, lease) => txn.then_put(key, value, lease.map(LeaseId::new)),
            Operation::Delete(key) => txn.then_delete(key),
            Operation::Get(key) => txn.else_get(key),
        }
    }
    txn
}

fn their_compare(key: String, sign: Sign, with: With) -> Compare {
    let sign = match sign {
        Sign::Equal => CompareOp::Equal,
        Sign::Greater => CompareOp::Greater,
        Sign::Less => CompareOp::Less,
        Sign::NotEqual => CompareOp::NotEqual,
    };
    match with {
        With::Created(revision) => Compare::create_revision(key, sign, revision),
        With::Changed(revision) => Compare::mod_revision(key, sign, revision),
        With::Value(value) => Compare::value(key, sign, value),
    }
}

fn theirs(parts: &[Operation]) -> Txn {
    let (mut when, mut then, mut or_else) = (vec![], vec![], vec![]);
    for part in parts.iter().cloned() {
        match part {
            Operation::Compare(key, sign, with) => when.push(their_compare(key, sign, with)),
            Operation::CompareAll(key, end, sign, with) => {
                when.push(their_compare(key, sign, with).with_range(end))
            }
            Operation::DeleteAll(key, end) => {
                then.push(TxnOp::delete(key, Some(DeleteOptions::new().with_range(end))));
            }
            Operation::Put(key, value, lease) => {
                let options = lease.map(|lease| PutOptions::new().with_lease(lease));
                then.push(TxnOp::put(key, value, options));
            }
            Operation::Delete(key) => then.push(TxnOp::delete(key, None)),
            Operation::Get(key) => or_else.push(TxnOp::get(key, None)),
        }
    }
    Txn::new().when(when).and_then(then).or_else(or_else)
}

fn decode(bytes: &[u8]) -> PbTxnRequest {
    PbTxnRequest::decode(bytes).expect("a transaction")
}

fn identity() -> impl Strategy<Value = Identity> {
    (text(), bytes()).prop_map(|(key, value)| Identity::new(key.into(), value))
}

/// The parts by which an outer transaction compares the identity.
fn guarded(identity: &Identity) -> [Operation; 2] {
    let key = || identity.key().to_owned();
    [Operation::Compare(key(), Sign::Equal, With::Value(identity.value().to_vec())), Operation::Get(key())]
}

proptest! {
    #[test]
    fn a_transaction_is_what_etcd_client_would_send(parts in vec(part(), 0..12), identity in identity()) {
        let guard = guard(&identity);
        let body = alone(&ours(&parts), &guard);
        let all: Vec<Operation> = parts.iter().cloned().chain(guarded(&identity)).collect();
        prop_assert_eq!(decode(&body), PbTxnRequest::from(theirs(&all)));
        prop_assert_eq!(body.len(), ours(&parts).len() + guard.len());
    }

    #[test]
    fn several_are_nested_in_one_as_etcd_client_would_nest_them(
        all in vec(vec(part(), 0..6), 0..5), identity in identity(),
    ) {
        let txns: Vec<EncodedTxn> = all.iter().map(|parts| ours(parts)).collect();
        let [compare, get] = guarded(&identity);
        let mut outer = PbTxnRequest::from(theirs(&[compare, get]));
        let inner = Txn::new().and_then(all.iter().map(|parts| TxnOp::txn(theirs(parts))).collect::<Vec<_>>());
        outer.success = PbTxnRequest::from(inner).success;
        prop_assert_eq!(decode(&nested(txns.iter(), &guard(&identity))), outer);
    }
}

#[test]
fn the_guard_adds_this_many_bytes() {
    let identity = Identity::new("/etcd-rules/app/identity".into(), [b'0'; 32]);
    assert_eq!(guard(&identity).len(), 96);
}
