//! Which store is the engine's, by what endpoints tell.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn header(cluster: u64, revision: i64) -> Header {
    Header { cluster: ClusterId::new(cluster), revision: Revision::new(revision), term: RaftTerm::new(5) }
}

fn identity(value: &str) -> Identity {
    Identity::new("/etcd-rules/x/identity".into(), value.as_bytes())
}

/// What an endpoint of a store with this identity tells.
fn testimony(header: Header, value: &str) -> Testimony {
    Testimony { header, identity: IdentityAnswer::Is(identity(value), Revision::new(1)), history: None }
}

fn nameless(header: Header, history: Option<History>) -> Testimony {
    Testimony { header, identity: IdentityAnswer::Absent, history }
}

fn is_foreign(verdict: &StoreVerdict) -> bool {
    matches!(verdict, StoreVerdict::Foreign(_))
}

impl Known {
    fn before(&self) -> Before {
        let Known { revision, term, seen, .. } = self;
        let named = self.identity.is_some();
        Before { revision: *revision, term: *term, named, seen: seen.clone() }
    }

    /// Judges an endpoint of a store whose identity is `a`.
    fn hear(&mut self, endpoint: usize, header: Header, open: bool, now: Instant) -> StoreVerdict {
        self.hear_all(endpoint, &testimony(header, "a"), open, now)
    }

    fn hear_all(&mut self, endpoint: usize, testimony: &Testimony, open: bool, now: Instant) -> StoreVerdict {
        let before = self.before();
        self.judge(endpoint, testimony, &before, open, &identity("offered"), now)
    }
}

#[test]
fn the_cluster_is_the_one_that_most_endpoints_name() {
    let now = Instant::now();
    let mut known = Known::new(3, None);
    assert!(matches!(known.hear(2, header(9, 1), false, now), StoreVerdict::Undecided(_)));
    assert!(matches!(known.hear(0, header(1, 1), false, now), StoreVerdict::Undecided(_)));
    assert_eq!(known.hear(1, header(1, 1), false, now), StoreVerdict::Ours);
    assert!(is_foreign(&known.hear(2, header(9, 1), true, now)));
    assert_eq!(known.hear(0, header(0, 0), true, now), StoreVerdict::Ours, "it was not told");
}

#[test]
fn without_a_majority_every_id_is_named_with_its_endpoints() {
    let store =
        Store::new(vec!["a:1".into(), "b:2".into()], None, (Default::default(), "/etcd-rules/x/"), 1, |_| {});
    let now = Instant::now();
    let judge = |endpoint, cluster, now| {
        store.judge(endpoint, &testimony(header(cluster, 1), "a"), &Before::default(), now)
    };
    judge(0, 0xaa, now);
    let StoreVerdict::Undecided(text) = judge(1, 0xbb, now) else { panic!("it is undecided") };
    assert!(text.contains("a:1 names aa") && text.contains("b:2 names bb"), "{text}");
    assert!(matches!(judge(1, 0xbb, now + 60 * SECOND), StoreVerdict::Undecided(_)), "for ever");
}

#[test]
fn one_that_is_named_alone_will_do_after_a_while() {
    let now = Instant::now();
    let mut known = Known::new(2, None);
    assert!(matches!(known.hear(0, header(1, 1), false, now), StoreVerdict::Undecided(_)));
    assert!(matches!(known.hear(0, header(1, 1), false, now + 9 * SECOND), StoreVerdict::Undecided(_)));
    assert_eq!(known.hear(0, header(1, 1), false, now + 10 * SECOND), StoreVerdict::Ours);
}

#[test]
fn another_cluster_is_used_only_when_the_known_one_is_gone_for_10_s() {
    let now = Instant::now();
    let mut known = Known::new(1, None);
    assert_eq!(known.hear(0, header(1, 9), false, now), StoreVerdict::Ours);
    assert!(is_foreign(&known.hear(0, header(2, 1), true, now)));
    assert!(is_foreign(&known.hear(0, header(2, 1), true, now + 60 * SECOND)), "one is open");
    assert_eq!(known.hear(0, header(1, 9), true, now + 61 * SECOND), StoreVerdict::Ours);
    assert!(is_foreign(&known.hear(0, header(2, 1), false, now + 62 * SECOND)), "it counts anew");
    let verdict = known.hear(0, header(2, 1), false, now + 72 * SECOND);
    assert!(matches!(verdict, StoreVerdict::Rewound(_)), "{verdict:?}");
}

#[test]
fn an_engine_that_was_told_its_cluster_never_takes_another() {
    let now = Instant::now();
    let mut known = Known::new(3, Some(ClusterId::new(1)));
    assert!(is_foreign(&known.hear(0, header(2, 9), false, now)));
    assert!(is_foreign(&known.hear(0, header(2, 9), false, now + 60 * SECOND)));
    assert_eq!(known.hear(1, header(1, 9), false, now + 60 * SECOND), StoreVerdict::Ours);
}

#[test]
fn an_older_state_is_another_store() {
    let now = Instant::now();
    let mut known = Known::new(3, Some(ClusterId::new(1)));
    known.hear(0, header(1, 9), false, now);
    assert!(is_foreign(&known.hear(1, header(1, 8), true, now)));
    assert!(is_foreign(&known.hear(1, Header { term: RaftTerm::new(4), ..header(1, 20) }, true, now)));
    let mut known = Known::new(1, None);
    known.hear(0, header(1, 9), false, now);
    let verdict = known.hear(0, header(1, 8), false, now);
    assert!(matches!(verdict, StoreVerdict::Rewound(_)), "there is no other member: {verdict:?}");
}

#[test]
fn what_came_to_be_known_after_an_endpoint_was_asked_does_not_count() {
    let now = Instant::now();
    let mut known = Known::new(3, Some(ClusterId::new(1)));
    known.hear(0, header(1, 9), false, now);
    let before = known.before();
    known.hear(1, Header { term: RaftTerm::new(6), ..header(1, 20) }, true, now);
    let verdict = known.judge(2, &testimony(header(1, 10), "a"), &before, true, &identity("offered"), now);
    assert_eq!(verdict, StoreVerdict::Ours);
    assert_eq!((known.revision, known.term), (Revision::new(20), RaftTerm::new(6)), "and nothing goes back");
}

#[test]
fn another_identity_is_another_store() {
    let now = Instant::now();
    let mut known = Known::new(3, None);
    known.hear(0, header(1, 9), false, now);
    known.hear(1, header(1, 9), false, now);
    let verdict = known.hear_all(2, &testimony(header(1, 90), "b"), true, now);
    let StoreVerdict::Foreign(text) = verdict else { panic!("{verdict:?}") };
    assert!(text.contains("was a and there it is b"), "{text}");
    // Nor is one that does not tell its id.
    assert!(is_foreign(&known.hear_all(2, &testimony(header(0, 0), "b"), true, now)));
    assert!(is_foreign(&known.hear_all(2, &nameless(header(1, 90), None), true, now)));
    let later = now + 20 * SECOND;
    known.hear_all(2, &testimony(header(1, 90), "b"), false, now);
    let verdict = known.hear_all(2, &testimony(header(1, 90), "b"), false, later);
    assert!(matches!(verdict, StoreVerdict::Rewound(_)), "it is all that there is: {verdict:?}");
}

#[test]
fn a_store_that_has_no_identity_is_offered_one() {
    let now = Instant::now();
    let mut known = Known::new(1, None);
    let nobody = nameless(header(1, 9), None);
    let before = known.before();
    assert_eq!(known.hear_all(0, &nobody, false, now), StoreVerdict::Nameless(identity("offered")));
    // Two links ask at the same time, and one of them has written it.
    known.learn(&identity("offered"), Revision::new(10));
    let verdict = known.judge(0, &nobody, &before, true, &identity("other"), now);
    assert_eq!(verdict, StoreVerdict::Nameless(identity("offered")));
}

#[test]
fn an_identity_that_was_deleted_by_hand_is_written_again_where_history_is_ours() {
    let now = Instant::now();
    let mut known = Known::new(3, Some(ClusterId::new(1)));
    known.hear(0, header(1, 9), false, now);
    let gone = |history| nameless(header(1, 20), history);
    let verdict = known.hear_all(0, &gone(Some(History::Ours)), true, now);
    assert_eq!(verdict, StoreVerdict::Nameless(identity("a")));
    for history in [Some(History::Other), Some(History::Gone), None] {
        assert!(is_foreign(&known.hear_all(0, &gone(history), true, now)), "{history:?}");
    }
}

#[test]
fn a_clone_lacks_what_came_after_it_was_made() {
    let now = Instant::now();
    let mut known = Known::new(3, Some(ClusterId::new(1)));
    known.hear(0, header(1, 9), false, now);
    known.saw(LastEvent { key: b"/a".to_vec(), revision: Revision::new(30), value: None });
    let clone = |history| Testimony { history: Some(history), ..testimony(header(1, 90), "a") };
    let verdict = known.hear_all(1, &clone(History::Other), true, now);
    let StoreVerdict::Foreign(text) = verdict else { panic!("{verdict:?}") };
    assert!(text.contains("revision 30"), "{text}");
    assert_eq!(known.hear_all(1, &clone(History::Ours), true, now), StoreVerdict::Ours);
    assert_eq!(known.hear_all(1, &clone(History::Gone), true, now), StoreVerdict::Ours, "it may be so");
}

#[test]
fn the_newest_change_is_the_one_that_a_store_is_asked_for() {
    let mut known = Known::new(1, None);
    let event = |revision| LastEvent { key: b"/a".to_vec(), revision: Revision::new(revision), value: None };
    known.learn(&identity("a"), Revision::new(3));
    assert_eq!(
        known.seen.as_ref().map(|seen| seen.revision),
        Some(Revision::new(3)),
        "the writing of the identity"
    );
    known.saw(event(7));
    known.saw(event(5));
    known.learn(&identity("a"), Revision::new(3));
    assert_eq!(known.seen, Some(event(7)));
}
