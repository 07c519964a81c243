//! The transaction that ends a firing.

use super::*;
use crate::trace::reveal::Reveal;

fn put(key: &str, ttl: bool) -> Effect {
    let ttl = ttl.then(|| std::time::Duration::from_secs(5));
    Effect::Put { key: key.into(), value: "v".into(), ttl }
}

fn keys() -> Keys {
    Keys::from_parts(LOCK, MARK, [])
}

fn expect(key: &str, revision: i64) -> Expectation {
    Expectation { key: key.into(), is: Expected::At(Revision::new(revision)) }
}

#[test]
fn a_firing_ends_with_its_effects_if_its_lock_or_what_it_was_shown_is_unchanged() {
    let fence = Fence { create_revision: Revision::new(30) };
    let mark = InstanceMark {
        engine: "e".into(),
        attempt: 2,
        until: 5,
        gave_up: false,
        error: "no".into(),
        reveal: Reveal::Nothing,
        name: None,
    };
    let marked = format!("then put {MARK} {} lease 66", serde_json::to_string(&mark).unwrap_or_default());
    let fenced = format!("if create {LOCK} = 30");
    let (unlock, unmark) = (format!("then delete {LOCK}"), format!("then delete {MARK}"));
    let (get_lock, get_mark) = (format!("else get {LOCK}"), format!("else get {MARK}"));
    let delete = |key: &str| Effect::Delete { key: key.into() };
    for (name, locked, changes, expectations, supersedes_backoff, marking, expected) in [
        ("nothing to do", true, vec![], vec![], None, false, vec![&*fenced, &unlock, &get_lock]),
        ("a failure", true, vec![], vec![], None, true, vec![&fenced, &marked, &unlock, &get_lock]),
        (
            "effects of every kind",
            true,
            vec![put("/p", false), put("/t", true), delete("/d")],
            vec![],
            None,
            false,
            vec![&fenced, "then put /p v", "then put /t v lease 55", "then delete /d", &unlock, &get_lock],
        ),
        (
            "an expectation, and a mark",
            true,
            vec![put("/p", false)],
            vec![expect("/p", 4), expect("/q", 0)],
            None,
            true,
            vec![
                &fenced,
                "if mod /p = 4",
                "if mod /q = 0",
                "then put /p v",
                &marked,
                &unlock,
                &get_lock,
                "else get /p",
                "else get /q",
            ],
        ),
        (
            "the lock was taken over a mark: it is gone since",
            true,
            vec![],
            vec![],
            Some(8),
            false,
            vec![&fenced, &unlock, &get_lock],
        ),
        (
            "optimistic",
            false,
            vec![put("/p", false)],
            vec![expect("/p", 4)],
            None,
            false,
            vec!["if mod /ns/backoff/r/1 = 0", "if mod /p = 4", "then put /p v", &get_mark, "else get /p"],
        ),
        (
            "of ranges of keys",
            true,
            vec![Effect::DeletePrefix { prefix: "/d/".into() }, put("/p", false)],
            vec![
                expect("/l/a", 4),
                Expectation {
                    key: "/l/".into(),
                    is: Expected::NoLaterBefore(b"/l0".to_vec(), Revision::new(9)),
                },
                Expectation { key: "/e/".into(), is: Expected::NoneBefore(b"/e0".to_vec()) },
            ],
            None,
            false,
            vec![
                &fenced,
                "if mod /l/a = 4",
                "if mod /l/ < 10 before /l0",
                "if create /e/ = 0 before /e0",
                "then delete /d/ before /d0",
                "then put /p v",
                &unlock,
                &get_lock,
                "else get /l/a",
            ],
        ),
        (
            "optimistic, over a mark",
            false,
            vec![delete("/p")],
            vec![expect("/p", 4)],
            Some(8),
            false,
            vec![
                "if mod /ns/backoff/r/1 = 8",
                "if mod /p = 4",
                "then delete /p",
                &unmark,
                &get_mark,
                "else get /p",
            ],
        ),
        (
            "optimistic, a mark in place of a mark",
            false,
            vec![],
            vec![],
            Some(8),
            true,
            vec!["if mod /ns/backoff/r/1 = 8", &marked, &get_mark],
        ),
    ] {
        let leases: Vec<Option<LeaseId>> = changes
            .iter()
            .map(|effect| matches!(effect, Effect::Put { ttl: Some(_), .. }).then_some(LeaseId::new(55)))
            .collect();
        let effects = Effects { changes, expectations };
        let ending = Ending {
            keys: &keys(),
            fence: locked.then_some(fence),
            effects: &effects,
            leases: &leases,
            supersedes_backoff: supersedes_backoff.map(Revision::new),
            marking: marking.then_some(Marking { mark: &mark, lease: LeaseId::new(66) }),
        };
        assert_eq!(lines(&ending.request()), expected, "{name}");
        assert_footprint(&ending.request(), name);
    }
}

#[test]
fn the_answer_to_an_end_tells_what_became_of_it() {
    let fence = Fence { create_revision: Revision::new(30) };
    // Nothing is read of a range.
    let range = Expectation { key: "/r/".into(), is: Expected::NoneBefore(b"/r0".to_vec()) };
    let effects = Effects { changes: vec![], expectations: vec![expect("/p", 4), range, expect("/q", 0)] };
    let lock = |create| Some(kv(LOCK, "", (create, create), LEASE));
    let mark = |revision| Some(kv(MARK, &mark_value(false), (7, revision), 5));
    let key = |key: &str, revision| Some(kv(key, "new", (3, revision), 0));
    let done = || Reply { revision: Revision::new(51), succeeded: true, responses: vec![] };
    for (name, locked, supersedes_backoff, reply, expected) in [
        ("committed", true, None, done(), "committed 51"),
        ("committed, optimistic", false, Some(8), done(), "committed 51"),
        ("no lock", true, None, refused(vec![None, key("/p", 4), None]), "fence lost"),
        ("a later lock", true, None, refused(vec![lock(31), key("/p", 4), None]), "fence lost"),
        ("no lock, and a change", true, None, refused(vec![None, key("/p", 9), None]), "fence lost"),
        ("an answer without contents", true, None, refused(vec![]), "fence lost"),
        (
            "a change under the lock",
            true,
            None,
            refused(vec![lock(30), key("/p", 9), None]),
            "unexpected /p new at 9, /q absent at 50",
        ),
        (
            "a mark is not read under a lock",
            true,
            Some(8),
            refused(vec![lock(30), None, key("/q", 9)]),
            "unexpected /p absent at 50, /q new at 9",
        ),
        (
            "optimistic, a change",
            false,
            None,
            refused(vec![None, key("/p", 9), None]),
            "unexpected /p new at 9, /q absent at 50",
        ),
        (
            "optimistic, a change under its mark",
            false,
            Some(8),
            refused(vec![mark(8), key("/p", 9), None]),
            "unexpected /p new at 9, /q absent at 50",
        ),
        (
            "optimistic, its mark vanished",
            false,
            Some(8),
            refused(vec![None, key("/p", 4), None]),
            "unexpected, mark gone /p new at 4, /q absent at 50",
        ),
        (
            "optimistic, marked",
            false,
            None,
            refused(vec![mark(8), key("/p", 4), None]),
            "marked 8 Some((3, false))",
        ),
        (
            "optimistic, another mark",
            false,
            Some(7),
            refused(vec![mark(8), key("/p", 4), None]),
            "marked 8 Some((3, false))",
        ),
    ] {
        let (keys, fence) = (keys(), locked.then_some(fence));
        let ending = Ending {
            keys: &keys,
            fence,
            effects: &effects,
            leases: &[],
            supersedes_backoff: supersedes_backoff.map(Revision::new),
            marking: None,
        };
        let text = match ending.read(reply) {
            EndReply::Committed { revision } => format!("committed {revision}"),
            EndReply::FenceLost => "fence lost".into(),
            EndReply::Marked(FoundMark { revision, mark, at, .. }) => {
                assert_eq!(at.get(), 50, "{name}");
                format!("marked {revision} {:?}", mark.map(|mark| (mark.attempt, mark.gave_up)))
            }
            EndReply::Unexpected { changes, mark_gone } => {
                format!("unexpected{} {}", if mark_gone { ", mark gone" } else { "" }, told(&changes))
            }
        };
        assert_eq!(text, expected, "{name}");
    }
}
