//! How the transaction that takes a lock makes sure that what is shown is a state that etcd had.

use super::*;

/// Calls `test` with the transaction of an instance over two keys. The witness is that the first is `go`; the second
/// was absent.
fn showing<T>(showing: Showing, supersedes_backoff: Option<i64>, test: impl FnOnce(Locking<'_>) -> T) -> T {
    let values = [seen("go", 5), None];
    locking(&values, &[Check::ValueIs(Slot(0))], supersedes_backoff, |locking| {
        test(Locking { showing, ..locking })
    })
}

#[test]
fn the_keys_shown_are_compared_or_read_if_they_may_not_have_been_there_together() {
    let put = format!("then put {LOCK} {HOLDER} lease {LEASE}");
    let delete = format!("then delete {MARK}");
    let gets = ["then get /k0", "then get /k1"];
    for (how, mark, compares, then) in [
        (Showing::AsDecided, None, vec!["if value /k0 = go"], vec![put.as_str()]),
        (Showing::IfUnchanged, None, vec!["if mod /k0 = 5", "if mod /k1 = 0"], vec![&put]),
        (Showing::Read, None, vec!["if value /k0 = go"], vec![&put, gets[0], gets[1]]),
        (Showing::Read, Some(8), vec!["if value /k0 = go"], vec![&put, &delete, gets[0], gets[1]]),
    ] {
        showing(how, mark, |locking| {
            let request = locking.request();
            let lines = lines(&request);
            let compared: Vec<&str> = lines
                .iter()
                .map(String::as_str)
                .filter(|line| line.starts_with("if") && line.contains("/k"))
                .collect();
            let done: Vec<&str> =
                lines.iter().map(String::as_str).filter(|line| line.starts_with("then")).collect();
            assert_eq!((compared, done), (compares, then), "{how:?}");
            assert_footprint(&request, &format!("{how:?}"));
        });
    }
}

fn key(number: usize, value: &str, revision: i64) -> Option<PbKeyValue> {
    Some(kv(&format!("/k{number}"), value, (3, revision), 0))
}

#[test]
fn a_refusal_that_only_a_shown_key_caused_is_told_from_one_of_the_condition() {
    let marked = || Some(kv(MARK, &mark_value(false), (7, 8), 5));
    for (name, mark, found, expected) in [
        ("a shown key appeared", None, vec![None, None, key(0, "go", 5), key(1, "b", 9)], "changed"),
        (
            "and the identity of the store was read",
            None,
            vec![None, None, key(0, "go", 5), key(1, "b", 9), key(2, "id", 1)],
            "changed",
        ),
        ("the witness was written again", None, vec![None, None, key(0, "go", 9), None], "changed"),
        ("the witness has another value", None, vec![None, None, key(0, "stop", 9), None], "untrue"),
        ("the witness is gone", None, vec![None, None, None, key(1, "b", 9)], "untrue"),
        ("the mark is gone too", Some(8), vec![None, None, key(0, "go", 5), key(1, "b", 9)], "untrue"),
        ("it is held back", None, vec![None, marked(), key(0, "go", 5), key(1, "b", 9)], "marked"),
        ("an answer without contents", None, vec![], "untrue"),
    ] {
        showing(Showing::IfUnchanged, mark, |locking| {
            let told = match locking.read(refused(found)) {
                LockReply::Changed => "changed",
                LockReply::Untrue { .. } => "untrue",
                LockReply::Marked(_) => "marked",
                other => panic!("{name}: {other:?}"),
            };
            assert_eq!(told, expected, "{name}");
        });
    }
}

/// The answer of a transaction that took effect at revision 50 and read these keys.
fn took(writes: usize, found: Vec<Option<PbKeyValue>>) -> Reply {
    let mut reply = refused(found);
    reply.responses.splice(0..0, (0..writes).map(|_| None));
    Reply { succeeded: true, ..reply }
}

#[test]
fn what_was_read_with_the_lock_is_shown() {
    for (mark, writes) in [(None, 1), (Some(8), 2)] {
        let reply = took(writes, vec![key(0, "go", 9), key(1, "b", 11)]);
        let locked = showing(Showing::Read, mark, |locking| locking.read(reply));
        let LockReply::Won(fence, Some(read)) = locked else { panic!("{locked:?}") };
        assert_eq!((fence.create_revision.get(), read.at.get()), (50, 50));
        assert_eq!(told(&read.changes), "/k0 go at 9, /k1 b at 11");
        assert_eq!(*read.snapshot(), [seen("go", 9), seen("b", 11)]);
    }
    let lock =
        |nonce| Some(kv(LOCK, &serde_json::to_string(&holder(nonce)).unwrap_or_default(), (20, 20), LEASE));
    let again = |value| {
        let found = vec![lock(1), None, key(0, value, 9), None];
        showing(Showing::Read, None, |locking| locking.read(refused(found)))
    };
    let LockReply::Won(fence, Some(read)) = again("go") else { panic!("{:?}", again("go")) };
    assert_eq!((fence.create_revision.get(), read.at.get()), (20, 50));
    assert_eq!(told(&read.changes), "/k0 go at 9, /k1 absent at 50");
    assert!(matches!(again("stop"), LockReply::Outdated), "what it took the lock on can't be shown any more");
}
