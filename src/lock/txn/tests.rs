//! Tests of what the transactions contain and how their answers are read.

mod ending;
mod showing;

use super::*;
use crate::change::Seen;
use crate::condition::LeafNumber;
use crate::trace::reveal::Reveal;
use etcd_client::proto::{PbCompare, PbRangeResponse, PbTargetUnion, PbTxnOpRequest, PbTxnRequest};
use prost::Message;

const LOCK: &str = "/ns/lock/r/1";
const MARK: &str = "/ns/backoff/r/1";
const LEASE: i64 = 77;

/// A transaction as text, one line for each compare and operation.
fn lines(request: &Request) -> Vec<String> {
    let PbTxnRequest { compare, success, failure } =
        PbTxnRequest::decode(request.txn.as_bytes()).expect("a transaction");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let before = |end: &[u8]| if end.is_empty() { String::new() } else { format!(" before {}", text(end)) };
    let compared = |compare: PbCompare| {
        let sign = ["=", ">", "<", "!="][compare.result as usize];
        let (what, with) = match compare.target_union.expect("compared with something") {
            PbTargetUnion::CreateRevision(revision) => ("create", revision.to_string()),
            PbTargetUnion::ModRevision(revision) => ("mod", revision.to_string()),
            PbTargetUnion::Value(value) => ("value", text(&value)),
            other => panic!("{other:?}"),
        };
        format!("if {what} {} {sign} {with}{}", text(&compare.key), before(&compare.range_end))
    };
    let operation = |when: &str, operation| match operation {
        Some(PbTxnOpRequest::RequestRange(get)) => format!("{when} get {}", text(&get.key)),
        Some(PbTxnOpRequest::RequestDeleteRange(delete)) => {
            format!("{when} delete {}{}", text(&delete.key), before(&delete.range_end))
        }
        Some(PbTxnOpRequest::RequestPut(put)) => {
            let lease = if put.lease == 0 { String::new() } else { format!(" lease {}", put.lease) };
            format!("{when} put {} {}{lease}", text(&put.key), text(&put.value))
        }
        other => panic!("{other:?}"),
    };
    let then = success.into_iter().map(|op| operation("then", op.request));
    let or_else: Vec<String> = failure.into_iter().map(|op| operation("else", op.request)).collect();
    compare.into_iter().map(compared).chain(then).chain(or_else).collect()
}

/// Checks that the footprint matches the transaction: its keys, its size, and whether it puts.
fn assert_footprint(request: &Request, name: &str) {
    let lines = lines(request);
    let Footprint { reads, writes, operations, request_bytes, response_bytes, puts, solo } =
        &request.footprint;
    let count = |when: &str| lines.iter().filter(|line| line.starts_with(when)).count();
    assert_eq!(*operations, count("if").max(count("then")).max(count("else")), "{name}: operations");
    let key = |line: &String| KeyHash::of(line.split(' ').nth(2).unwrap_or_default().as_bytes());
    let sorted = |mut marks: Vec<KeyHash>| {
        marks.sort();
        marks.dedup();
        marks
    };
    let of = |whens: &[&str]| {
        sorted(lines.iter().filter(|line| whens.iter().any(|when| line.starts_with(when))).map(key).collect())
    };
    assert_eq!(sorted(reads.to_vec()), of(&["if", "else", "then get"]), "{name}: reads");
    assert_eq!(sorted(writes.to_vec()), of(&["then put", "then delete"]), "{name}: writes");
    assert_eq!(*puts, lines.iter().any(|line| line.starts_with("then put")), "{name}: puts");
    assert_eq!(*request_bytes, request.txn.len(), "{name}");
    assert!(*response_bytes > 0, "{name}");
    assert_eq!(
        *solo,
        lines.iter().any(|line| line.contains(" before ")),
        "{name}: what is of a range is alone"
    );
}

fn seen(value: &str, revision: i64) -> Option<Seen> {
    Some(Seen { value: value.into(), mod_revision: Revision::new(revision) })
}

fn holder(nonce: u64) -> Holder {
    Holder { engine: "e".into(), nonce: Nonce(nonce), since: 9, name: None }
}

const HOLDER: &str = r#"{"engine":"e","nonce":1,"since":9}"#;

#[test]
fn a_holder_is_written_as_it_is_read() {
    let texts = ["", "plain", "\"quoted\" \\ \n \u{1}", "grün/\u{1f600}"];
    for engine in texts {
        for (nonce, since) in [(0, 0), (9, 10), (u64::MAX, 1_700_000_000_000)] {
            for name in texts.map(|text| Some(text.into())).into_iter().chain([None]) {
                let holder = Holder { engine: engine.into(), nonce: Nonce(nonce), since, name };
                let json = holder.json();
                assert_eq!(json.to_vec(), serde_json::to_vec(&holder).unwrap());
                assert_eq!(serde_json::from_slice::<Holder>(&json).unwrap(), holder);
            }
        }
    }
}

/// Calls `then` with the transaction that takes the lock of an instance with these values.
fn locking<T>(
    snapshot: &[Option<Seen>],
    witness: &[Check],
    supersedes_backoff: Option<i64>,
    test: impl FnOnce(Locking<'_>) -> T,
) -> T {
    let snapshot: Snapshot = snapshot.into();
    let slots: Vec<String> = (0..snapshot.len()).map(|slot| format!("/k{slot}")).collect();
    let keys = Keys::from_parts(LOCK, MARK, slots.iter().map(String::as_str));
    let holder = holder(1);
    // A check may say that a value is not the one in the first leaf.
    let condition = crate::key("/k0").not_equals("y").compile().expect("a condition");
    let (holder, condition, snapshot, keys) = (&holder, &condition, &snapshot, &keys);
    test(Locking {
        keys,
        holder,
        lease: LeaseId::new(LEASE),
        supersedes_backoff: supersedes_backoff.map(Revision::new),
        condition,
        witness,
        snapshot,
        showing: Showing::AsDecided,
    })
}

#[test]
fn the_lock_is_taken_if_it_is_free_nothing_holds_back_and_the_witness_holds() {
    let put = format!("then put {LOCK} {HOLDER} lease {LEASE}");
    let free = format!("if create {LOCK} = 0");
    let unmarked = format!("if mod {MARK} = 0");
    let gets = [format!("else get {LOCK}"), format!("else get {MARK}")];
    for (name, values, witness, supersedes_backoff, compares) in [
        ("no witness is needed", vec![], vec![], None, vec![]),
        ("absent", vec![None], vec![Check::Absent(Slot(0))], None, vec!["if create /k0 = 0"]),
        ("exists", vec![seen("x", 5)], vec![Check::Exists(Slot(0))], None, vec!["if create /k0 > 0"]),
        ("has its value", vec![seen("x", 5)], vec![Check::ValueIs(Slot(0))], None, vec!["if value /k0 = x"]),
        (
            "has another value",
            vec![seen("x", 5)],
            vec![Check::ValueIsNot(Slot(0), LeafNumber::new(0))],
            None,
            vec!["if value /k0 != y"],
        ),
        ("unchanged", vec![seen("x", 5)], vec![Check::Unchanged(Slot(0))], None, vec!["if mod /k0 = 5"]),
        ("unchanged, absent", vec![None], vec![Check::Unchanged(Slot(0))], None, vec!["if mod /k0 = 0"]),
        (
            "several, and a key that proves nothing",
            vec![seen("x", 5), None, seen("z", 6)],
            vec![Check::ValueIs(Slot(2)), Check::Absent(Slot(1))],
            None,
            vec!["if value /k2 = z", "if create /k1 = 0"],
        ),
        (
            "a mark is overruled",
            vec![seen("x", 5)],
            vec![Check::Exists(Slot(0))],
            Some(8),
            vec!["if create /k0 > 0"],
        ),
    ] {
        locking(&values, &witness, supersedes_backoff, |locking| {
            let request = locking.request();
            let mut expected = vec![free.clone()];
            expected.push(
                supersedes_backoff.map_or(unmarked.clone(), |revision| format!("if mod {MARK} = {revision}")),
            );
            expected.extend(compares.iter().map(|line| (*line).to_owned()));
            expected.push(put.clone());
            expected.extend(supersedes_backoff.map(|_| format!("then delete {MARK}")));
            expected.extend(gets.clone());
            expected.extend((0..values.len()).map(|slot| format!("else get /k{slot}")));
            assert_eq!(lines(&request), expected, "{name}");
            assert_footprint(&request, name);
        });
    }
}

fn kv(key: &str, value: &str, (create, modified): (i64, i64), lease: i64) -> PbKeyValue {
    PbKeyValue {
        key: key.into(),
        value: value.into(),
        create_revision: create,
        mod_revision: modified,
        lease,
        version: 1,
    }
}

/// The answer of a failed transaction at revision 50.
fn refused(found: Vec<Option<PbKeyValue>>) -> Reply {
    let responses = found.into_iter().map(|kv| {
        let kvs: Vec<PbKeyValue> = kv.into_iter().collect();
        let count = kvs.len() as i64;
        Some(PbTxnOpResponse::ResponseRange(PbRangeResponse { kvs, count, ..Default::default() }))
    });
    Reply { revision: Revision::new(50), succeeded: false, responses: responses.collect() }
}

fn mark_value(gave_up: bool) -> String {
    let mark = InstanceMark {
        engine: "other".into(),
        attempt: 3,
        until: 1,
        gave_up,
        error: "no".into(),
        reveal: Reveal::Nothing,
        name: None,
    };
    serde_json::to_string(&mark).unwrap_or_default()
}

#[test]
fn the_answer_to_a_lock_tells_who_has_it_or_what_has_changed() {
    let lock = |value: &str, lease| Some(kv(LOCK, value, (20, 21), lease));
    let nonce = |nonce| serde_json::to_string(&holder(nonce)).unwrap_or_default();
    let mark = |revision| Some(kv(MARK, &mark_value(true), (7, revision), 5));
    let key = |revision| Some(kv("/k0", "new", (3, revision), 0));
    let deleted = |key: &str| format!("{key} absent at 50");
    for (name, supersedes_backoff, found, expected) in [
        (
            "other engine",
            None,
            vec![lock(&nonce(1), 4), None, key(9), None],
            "held 20 by 4, nonce Some(1)".into(),
        ),
        (
            "our lease, other attempt",
            None,
            vec![lock(&nonce(2), LEASE), None, key(9), None],
            "held 20 by 77, nonce Some(2)".into(),
        ),
        ("our lease, our attempt", None, vec![lock(&nonce(1), LEASE), None, key(9), None], "won 20".into()),
        (
            "our attempt, though its mark is still there",
            Some(8),
            vec![lock(&nonce(1), LEASE), mark(8), key(9), None],
            "won 20".into(),
        ),
        (
            "our lease, a value that says nothing",
            None,
            vec![lock("?", LEASE), None, None, None],
            "held 20 by 77, nonce None".into(),
        ),
        (
            "a lock goes before a mark",
            None,
            vec![lock(&nonce(2), 4), mark(8), key(9), None],
            "held 20 by 4, nonce Some(2)".into(),
        ),
        ("marked", None, vec![None, mark(8), key(9), None], "marked 8 Some((3, true))".into()),
        (
            "another mark than ours",
            Some(7),
            vec![None, mark(8), key(9), None],
            "marked 8 Some((3, true))".into(),
        ),
        (
            "a mark that says nothing",
            None,
            vec![None, Some(kv(MARK, "?", (7, 8), 5)), None, None],
            "marked 8 None".into(),
        ),
        (
            "our mark: the witness failed",
            Some(8),
            vec![None, mark(8), key(9), None],
            format!("untrue /k0 new at 9, {}", deleted("/k1")),
        ),
        (
            "our mark vanished",
            Some(8),
            vec![None, None, key(9), None],
            format!("untrue, mark gone /k0 new at 9, {}", deleted("/k1")),
        ),
        (
            "the witness failed",
            None,
            vec![None, None, None, Some(kv("/k1", "b", (4, 12), 0))],
            format!("untrue {}, /k1 b at 12", deleted("/k0")),
        ),
        ("an answer without contents", None, vec![], "untrue ".into()),
    ] {
        let text = locking(&[seen("x", 5), None], &[Check::Exists(Slot(0))], supersedes_backoff, |locking| {
            match locking.read(refused(found)) {
                LockReply::Won(fence, None) => format!("won {}", fence.create_revision),
                other @ (LockReply::Won(..) | LockReply::Changed | LockReply::Outdated) => {
                    panic!("{name}: {other:?}")
                }
                LockReply::Held { create_revision, lease, holder, at } => {
                    assert_eq!(at.get(), 50, "{name}");
                    let nonce = holder.map(|holder| holder.nonce.0);
                    format!("held {create_revision} by {}, nonce {nonce:?}", lease.get())
                }
                LockReply::Marked(FoundMark { revision, mark, at, .. }) => {
                    assert_eq!(at.get(), 50, "{name}");
                    format!("marked {revision} {:?}", mark.map(|mark| (mark.attempt, mark.gave_up)))
                }
                LockReply::Untrue { changes, mark_gone } => {
                    let gone = if mark_gone { ", mark gone" } else { "" };
                    format!("untrue{gone} {}", told(&changes))
                }
            }
        });
        assert_eq!(text, expected, "{name}");
    }
}

fn told(changes: &[Change]) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let lines = changes.iter().map(|change| match change {
        Change::Put { key, value, revision } => {
            format!("{} {} at {revision}", text(key), text(value.as_bytes()))
        }
        Change::Delete { key, revision, how: Deletion::SeenAbsent } => {
            format!("{} absent at {revision}", text(key))
        }
        Change::Delete { .. } => panic!("a read can't know how it was deleted: {change:?}"),
    });
    lines.collect::<Vec<_>>().join(", ")
}

#[test]
fn a_lock_that_was_taken_has_the_revision_of_the_request_it_travelled_in() {
    let reply = Reply { revision: Revision::new(41), succeeded: true, responses: vec![] };
    let locked = locking(&[None], &[Check::Absent(Slot(0))], None, |locking| locking.read(reply));
    let LockReply::Won(fence, None) = locked else { panic!("{locked:?}") };
    assert_eq!(fence, Fence { create_revision: Revision::new(41) });
}

#[test]
fn what_is_removed_is_what_was_seen() {
    for (name, request, expected) in [
        ("an orphaned lock", free_orphan(LOCK, Revision::new(30)), format!("if create {LOCK} = 30")),
        ("the lock of an attempt", free_attempt(LOCK, &holder(1)), format!("if value {LOCK} = {HOLDER}")),
        ("a mark", clear_mark(MARK, Revision::new(8)), format!("if mod {MARK} = 8")),
    ] {
        let key = if name == "a mark" { MARK } else { LOCK };
        assert_eq!(lines(&request), [expected, format!("then delete {key}")], "{name}");
        assert_footprint(&request, name);
    }
}

#[test]
fn the_size_of_an_answer_is_estimated_with_the_values_that_are_known() {
    let large = "x".repeat(10_000);
    let bytes = |value: &str| {
        locking(&[seen(value, 5)], &[Check::Unchanged(Slot(0))], None, |locking| {
            let Footprint { request_bytes, response_bytes, .. } = locking.request().footprint;
            (request_bytes, response_bytes)
        })
    };
    let (small, with_value) = (bytes(""), bytes(&large));
    assert_eq!(small.0, with_value.0, "a revision is sent, not the value");
    assert_eq!(with_value.1 - small.1, 10_000);
}
