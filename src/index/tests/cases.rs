//! Single cases. Most of them are about news that arrives late.

use super::*;
use crate::condition::key;

fn state() -> Condition {
    key("/s/:id/state").exists()
}

fn crawl(index: &mut Index, revision: i64) -> places::ViewId {
    index
        .open_view(WatcherIndex::FIRST, Revision::new(revision), ViewPurpose::Crawl)
        .expect("nothing else is under way")
}

/// Closes the view, compares to the end, and returns the drift.
fn close(index: &mut Index, view: places::ViewId) -> u64 {
    assert!(index.close_view(view));
    while index.has_backlog() {
        index.work(1);
    }
    let closed = index.take_closed();
    assert_eq!((closed.len(), closed[0].id), (1, view));
    closed[0].drift
}

#[test]
fn news_of_a_put_that_comes_after_its_deletion_does_not_bring_the_key_back() {
    let mut index = ready([state()], &[]);
    deliver(&mut index, [put("/s/1/state", "x", 101), delete("/s/1/state", 102, Deletion::Delivered)]);
    assert_eq!(index.tombstones(), 0);
    // The response to our own commit, or the read of a lock transaction, was slower than the watch.
    index.apply(put("/s/1/state", "x", 101));
    assert_eq!((value(&index, "/s/1/state"), index.keys()), (None, 0));
    // A change may be known before the watch delivers it.
    index.apply(put("/s/1/state", "y", 103));
    assert_eq!(value(&index, "/s/1/state").as_deref(), Some("y"));
}

#[test]
fn news_of_a_put_that_comes_while_a_snapshot_is_compared_does_not_bring_the_key_back() {
    let mut index = ready([state()], &[("/s/1/state", ""), ("/s/2/state", ""), ("/s/3/state", "")]);
    deliver(&mut index, [delete("/s/1/state", 101, Deletion::Delivered)]);
    // Put at 110, deleted before 120, compacted.
    let view = index.open_view(WatcherIndex::FIRST, Revision::new(120), ViewPurpose::Snapshot).unwrap();
    index.view_page(view, vec![found("/s/2/state", "", 100), found("/s/3/state", "", 100)]);
    index.close_view(view);
    index.work(2);
    index.apply(put("/s/1/state", "x", 110));
    while index.has_backlog() {
        index.work(1);
    }
    assert_eq!(
        (value(&index, "/s/1/state"), index.position(WatcherIndex::FIRST)),
        (None, Revision::new(120))
    );
}

#[test]
fn a_key_seen_absent_is_not_brought_back_by_older_events() {
    let mut index = ready([state()], &[("/s/1/state", "old")]);
    // A read at 110 finds the key absent. It was deleted at 101, put at 105, and deleted at 107.
    index.apply(delete("/s/1/state", 110, Deletion::SeenAbsent));
    assert_eq!(drain(&mut index).len(), 1);
    deliver(&mut index, [delete("/s/1/state", 101, Deletion::Delivered)]);
    deliver(&mut index, [put("/s/1/state", "new", 105)]);
    assert_eq!(value(&index, "/s/1/state"), None);
    let decided = drain(&mut index);
    assert_eq!(&decided[0].touches[..], [touch(0, 105)], "somebody did change it");
    deliver(&mut index, [delete("/s/1/state", 107, Deletion::Delivered)]);
    assert_eq!(index.tombstones(), 1, "the watch has not passed 110");
    index.advance(WatcherIndex::FIRST, Revision::new(110));
    assert_eq!(index.tombstones(), 0);
}

#[test]
fn events_older_than_an_own_commit_are_reported_but_change_nothing() {
    let mut index = ready([state()], &[("/s/1/state", "a")]);
    index.apply(put("/s/1/state", "own", 103));
    assert_eq!(&drain(&mut index)[0].touches[..], [touch(0, 103)]);
    deliver(&mut index, [put("/s/1/state", "foreign", 101)]);
    assert_eq!(&drain(&mut index)[0].touches[..], [touch(0, 101)]);
    deliver(&mut index, [delete("/s/1/state", 102, Deletion::Delivered)]);
    let decided = drain(&mut index);
    assert_eq!((&decided[0].touches[..], decided[0].orphaned), (&[touch(0, 102)][..], false));
    deliver(&mut index, [put("/s/1/state", "own", 103)]);
    assert!(drain(&mut index).is_empty(), "known already");
    assert_eq!(value(&index, "/s/1/state").as_deref(), Some("own"));
}

#[test]
fn a_crawl_that_is_ahead_of_the_watch_deletes_nothing() {
    let mut index = ready([state()], &[("/s/1/state", "a")]);
    let view = crawl(&mut index, 103);
    // When the crawl sees them, one key is unknown to the mirror and the other is older there. Server 1 was
    // deleted and put again.
    index.view_page(view, vec![found("/s/1/state", "b", 102), found("/s/2/state", "", 103)]);
    deliver(
        &mut index,
        [
            delete("/s/1/state", 101, Deletion::Delivered),
            put("/s/1/state", "b", 102),
            put("/s/2/state", "", 103),
        ],
    );
    drain(&mut index);
    assert_eq!(close(&mut index, view), 0);
    assert_eq!((index.keys(), index.counters().drift), (2, 0));
    assert!(drain(&mut index).is_empty());
}

#[test]
fn a_crawl_repairs_puts_and_deletions_that_the_watch_lost() {
    let mut index = ready([state()], &[("/s/1/state", "a"), ("/s/2/state", "a"), ("/s/3/state", "a")]);
    index.advance(WatcherIndex::FIRST, Revision::new(105));
    let view = crawl(&mut index, 105);
    let page = [("/s/1/state", "b", 101), ("/s/2/state", "a", 100), ("/s/4/state", "", 102), ("/t", "", 103)];
    index.view_page(view, page.map(|(key, value, revision)| found(key, value, revision)).into());
    assert!(drain(&mut index).is_empty(), "the events may be on their way");
    assert_eq!(close(&mut index, view), 3);
    let decided = drain(&mut index);
    assert_eq!(bindings(&index, &decided), ["1", "3", "4"]);
    assert_eq!((index.counters().drift, index.keys(), index.tombstones()), (3, 3, 0));
}

#[test]
fn a_crawl_does_not_bring_back_what_was_deleted_before_its_view_was_opened() {
    let mut index = ready([state()], &[("/s/1/state", "a")]);
    // The crawl's revision is 101. The watch delivers more before the view is opened.
    deliver(&mut index, [delete("/s/1/state", 102, Deletion::Delivered)]);
    let view = crawl(&mut index, 101);
    index.view_page(view, vec![found("/s/1/state", "a", 100)]);
    assert_eq!(close(&mut index, view), 0);
    assert_eq!((value(&index, "/s/1/state"), index.keys()), (None, 0));
    // The next crawl can tell what was lost.
    let view = crawl(&mut index, 102);
    index.view_page(view, vec![found("/s/2/state", "a", 101)]);
    assert_eq!((close(&mut index, view), index.keys()), (1, 1));
}

#[test]
fn a_crawl_does_not_bring_back_a_key_of_which_only_the_deletion_was_heard() {
    let mut index = ready([state()], &[]);
    deliver(&mut index, [delete("/s/1/state", 102, Deletion::Delivered)]);
    let view = crawl(&mut index, 101);
    index.view_page(view, vec![found("/s/1/state", "a", 101)]);
    assert_eq!((close(&mut index, view), index.keys()), (0, 0));
}

#[test]
fn a_tombstone_stays_while_the_watch_is_behind_whatever_view_is_open() {
    let mut index = ready([state()], &[("/s/1/state", "a")]);
    index.apply(delete("/s/1/state", 110, Deletion::SeenAbsent));
    crawl(&mut index, 120);
    deliver(&mut index, [delete("/s/1/state", 101, Deletion::Delivered), put("/s/1/state", "b", 102)]);
    assert_eq!(index.tombstones(), 1);
    deliver(&mut index, [put("/s/1/state", "c", 103)]);
    assert_eq!(value(&index, "/s/1/state"), None);
}

#[test]
fn a_transaction_may_arrive_in_parts() {
    let mut index = ready([state()], &[]);
    deliver(&mut index, [put("/s/1/state", "", 101)]);
    deliver(&mut index, [put("/s/2/state", "", 101)]);
    assert_eq!(index.keys(), 2);
}

#[test]
fn a_deletion_during_a_crawl_holds_although_the_crawl_shows_the_key() {
    let mut index = ready([state()], &[("/s/1/state", "a")]);
    let view = crawl(&mut index, 101);
    let unknown = [put("/s/2/state", "", 102), delete("/s/2/state", 103, Deletion::Delivered)];
    deliver(&mut index, [delete("/s/1/state", 102, Deletion::Delivered)]);
    deliver(&mut index, unknown);
    // The key was put at 101, which the watch lost. The watch did deliver its deletion.
    deliver(&mut index, [delete("/s/3/state", 104, Deletion::Delivered)]);
    assert_eq!(index.tombstones(), 3);
    index.view_page(view, vec![found("/s/1/state", "a", 100), found("/s/3/state", "", 101)]);
    assert_eq!(close(&mut index, view), 0);
    assert_eq!((index.keys(), index.tombstones()), (0, 0));
}

#[test]
fn keys_of_a_namespace_are_no_drift() {
    let conditions = rules([key("/*all").exists()]);
    let mut index = Index::new(
        conditions,
        vec![KeyScope::Prefix(String::new())],
        vec!["/etcd-rules/".into()],
        FixedState::with_seed(1),
    );
    let view = index.open_view(WatcherIndex::FIRST, Revision::new(100), ViewPurpose::Snapshot).unwrap();
    index.view_page(view, vec![found("/etcd-rules/app/lock/1", "", 50)]);
    close(&mut index, view);
    let view = crawl(&mut index, 101);
    index.view_page(
        view,
        vec![found("/etcd-rules/app/lock/1", "", 50), found("/etcd-rules/app/lock/2", "", 60)],
    );
    assert_eq!((close(&mut index, view), index.keys()), (0, 0));
}

#[test]
fn more_suspects_than_a_crawl_holds_back_are_repaired_at_once() {
    let mut index = ready([state()], &[]);
    index.advance(WatcherIndex::FIRST, Revision::new(101));
    let view = crawl(&mut index, 101);
    let keys = |range: std::ops::Range<usize>| -> Vec<KeyValue> {
        range.map(|id| found(&format!("/s/{id}/state"), "", 101)).collect()
    };
    index.view_page(view, keys(0..65_536));
    assert_eq!(index.keys(), 0);
    index.view_page(view, keys(65_536..65_540));
    assert_eq!(index.keys(), 4);
    assert!(index.close_view(view));
    work_off(&mut index);
    assert_eq!((index.keys(), index.take_closed()[0].drift), (65_540, 65_540));
}

#[test]
fn a_view_that_was_replaced_is_over() {
    let mut index = ready([state()], &[("/s/1/state", "")]);
    let old = crawl(&mut index, 101);
    let snapshot = index.open_view(WatcherIndex::FIRST, Revision::new(102), ViewPurpose::Snapshot).unwrap();
    assert!(!index.view_page(old, vec![found("/s/2/state", "", 101)]));
    assert!(!index.close_view(old));
    assert!(
        index.open_view(WatcherIndex::FIRST, Revision::new(103), ViewPurpose::Crawl).is_none(),
        "a snapshot is under way"
    );
    index.cancel_view(snapshot);
    assert!(index.open_view(WatcherIndex::FIRST, Revision::new(103), ViewPurpose::Crawl).is_some());
    assert_eq!(index.keys(), 1);
}

#[test]
fn nothing_is_decided_before_every_watcher_has_its_snapshot() {
    let grouped = key("/a/:id").exists() & key("/b/:id").exists() & key("/b/x/on").exists();
    let conditions = rules([grouped, key("/a/x").absent()]);
    let mut index = Index::new(
        conditions,
        vec![KeyScope::Prefix("/a/".into()), KeyScope::Prefix("/b/".into())],
        Vec::new(),
        FixedState::with_seed(1),
    );
    assert_eq!(index.instances(), 1, "the one of the rule without attributes");
    for watcher in WatcherIndex::all(2) {
        assert!(
            index.open_view(watcher, Revision::new(100), ViewPurpose::Crawl).is_none(),
            "there is nothing to compare with"
        );
        let view = index.open_view(watcher, Revision::new(100), ViewPurpose::Snapshot).unwrap();
        index.view_page(view, vec![found(["/a/1", "/b/1"][watcher.index()], "", 90)]);
        if watcher != WatcherIndex::FIRST {
            index.view_page(view, vec![found("/b/x/on", "", 91)]);
        }
        assert!(work_off(&mut index).is_empty() && !index.is_ready());
        index.close_view(view);
        if watcher == WatcherIndex::FIRST {
            assert!(work_off(&mut index).is_empty() && !index.is_ready());
            index.apply(put("/b/x/on", "", 91));
            assert!(!index.has_backlog(), "all are decided later");
        }
    }
    let decided = work_off(&mut index);
    assert!(index.is_ready());
    assert_eq!(bindings(&index, &decided), ["", "1"]);
    assert!(
        decided.iter().find(|decide| decide.rule.index() == 0).unwrap().snapshot.iter().all(Option::is_some)
    );
}

#[test]
fn an_instance_outlives_its_keys_until_it_is_released() {
    let mut index = ready([key("/s/:id/state").absent()], &[("/s/1/state", ""), ("/s/2/state", "")]);
    deliver(&mut index, [delete("/s/1/state", 101, Deletion::Delivered)]);
    let decided = drain(&mut index);
    assert!(decided[0].orphaned && decided[0].snapshot[0].is_none());
    let id = decided[0].instance;
    assert_eq!(index.instances(), 2);
    deliver(&mut index, [put("/s/1/state", "", 101), delete("/s/1/state", 102, Deletion::Delivered)]);
    assert!(!index.release(id), "it is about to be decided");
    drain(&mut index);
    deliver(&mut index, [put("/s/1/state", "", 103)]);
    assert_eq!(drain(&mut index)[0].instance, id);
    assert!(!index.release(id), "its key is back");
    deliver(&mut index, [delete("/s/1/state", 104, Deletion::Delivered)]);
    drain(&mut index);
    assert!(
        index.release(id) && index.request_decision(id, DecisionReason::Ask(QuestionId::new(1))).is_none()
    );
    deliver(&mut index, [put("/s/1/state", "", 105)]);
    assert_ne!(drain(&mut index)[0].instance, id, "another generation");
}

#[test]
fn an_answer_is_also_the_decision_that_a_change_makes_due() {
    let mut index = ready([key("/s/:id/state").exists()], &[("/s/1/state", ""), ("/s/2/state", "")]);
    deliver(&mut index, [put("/s/1/state", "a", 101), put("/s/2/state", "b", 102)]);
    let ids: Vec<InstanceId> = drain(&mut index).iter().map(|decide| decide.instance).collect();
    deliver(&mut index, [put("/s/1/state", "c", 103), put("/s/2/state", "d", 104)]);
    let answer = index.request_decision(ids[0], DecisionReason::Ask(QuestionId::new(7))).unwrap();
    assert_eq!(answer.reason, DecisionReason::Ask(QuestionId::new(7)));
    assert_eq!(&answer.touches[..], [touch(0, 103)]);
    assert_eq!(answer.snapshot[0].as_ref().unwrap().value, "c");
    let others = drain(&mut index);
    assert_eq!(bindings(&index, &others), ["2"], "the other is due as before");
    let again = index.request_decision(ids[0], DecisionReason::Ask(QuestionId::new(8))).unwrap();
    assert!(again.touches.is_empty());
    // A crawl needs a decision of its own on every instance.
    index.decide_all(DecisionReason::Crawl);
    deliver(&mut index, [put("/s/1/state", "e", 105)]);
    index.work(10);
    assert!(
        index.request_decision(ids[0], DecisionReason::Ask(QuestionId::new(9))).unwrap().touches.is_empty()
    );
    let crawled = drain(&mut index);
    assert!(crawled.iter().any(|decide| decide.instance == ids[0] && decide.reason == DecisionReason::Crawl));
    assert!(crawled.iter().all(|decide| decide.instance != ids[0] || decide.touches[..] == [touch(0, 105)]));
}

#[test]
fn members_that_leave_a_group_leave_no_gaps() {
    let condition = key("/s/:id").exists() & key("/on").exists();
    let mut index = ready([condition], &[("/s/1", ""), ("/s/2", ""), ("/s/3", ""), ("/s/4", "")]);
    // The last member takes the place of the first, then it goes too, and then its place is taken again.
    for (revision, id) in [(101, 1), (102, 4), (103, 3)] {
        deliver(&mut index, [delete(&format!("/s/{id}"), revision, Deletion::Delivered)]);
        let decided = drain(&mut index);
        assert!(index.release(decided[0].instance));
    }
    deliver(&mut index, [put("/s/5", "", 104)]);
    drain(&mut index);
    deliver(&mut index, [put("/on", "", 105)]);
    let decided = work_off(&mut index);
    assert_eq!(bindings(&index, &decided), ["2", "5"]);
}

#[test]
fn what_nobody_reads_any_more_leaves_nothing_behind() {
    let mut index = ready([state() & key("/config/:id").exists()], &[]);
    let rule = key("/g/:geo/:id").exists() & key("/config/:geo/limit").exists();
    let mut grouped = ready([rule], &[]);
    for n in 0..100 {
        let at = 101 + 10 * n;
        let (server, config) = (format!("/g/eu{n}/{n}"), format!("/config/eu{n}/limit"));
        deliver(&mut grouped, [put(&server, "", at), put(&config, "", at + 1)]);
        work_off(&mut grouped);
        deliver(&mut grouped, [delete(&server, at + 2, Deletion::Delivered)]);
        let decided = work_off(&mut grouped);
        assert!(grouped.release(decided[0].instance));
        deliver(&mut grouped, [delete(&config, at + 3, Deletion::Delivered)]);
        deliver(&mut index, [put("/s/1/state", "", at), delete("/s/1/state", at + 1, Deletion::Delivered)]);
        let decided = drain(&mut index);
        assert!(index.release(decided[0].instance));
    }
    for index in [&index, &grouped] {
        assert_eq!((index.keys(), index.bytes(), index.tombstones(), index.instances()), (0, 0, 0, 0));
        assert!(index.mirror.capacity() < 10 && index.instances.capacity() < 10);
        assert_eq!((index.groups.len(), index.has_backlog()), (0, false));
    }
}

#[test]
fn a_crawl_that_comes_while_the_last_one_is_worked_on_does_not_begin_again() {
    let names: Vec<String> = (0..10).map(|n| format!("/s/{n}/state")).collect();
    let keys: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
    let mut index = ready([state()], &keys);
    let mut decided = Vec::new();
    let work = |index: &mut Index, decided: &mut Vec<u32>| {
        index.work(4);
        decided.extend(drain(index).iter().map(|decide| decide.instance.index));
    };
    index.decide_all(DecisionReason::Crawl);
    for _ in 0..2 {
        work(&mut index, &mut decided);
        index.decide_all(DecisionReason::Crawl);
    }
    assert_eq!(decided, (0..8).collect::<Vec<_>>());
    decided.clear();
    while index.has_backlog() {
        assert!(index.has_time());
        work(&mut index, &mut decided);
    }
    assert_eq!(decided, (8..10).chain(0..8).collect::<Vec<_>>());
}

#[test]
fn room_is_made_for_as_many_as_patterns_match_of_what_came() {
    for (matched, rest, room) in [(100, 10_000, 10_000), (25, 10_000, 2_500), (0, 10_000, 0), (100, 0, 0)] {
        let mut index = index([state()]);
        let view = index.open_view(WatcherIndex::FIRST, Revision::new(100), ViewPurpose::Snapshot).unwrap();
        let key = |id: usize| if id < matched { format!("/s/{id}/state") } else { format!("/s/{id}/other") };
        let had = (index.keys(), index.instances());
        index.view_page(view, (0..100).map(|id| found(&key(id), "", 90)).collect());
        index.make_room(rest, 100, had);
        let capacity = index.mirror.capacity();
        // Without a reservation a table grows by doubling.
        assert!((matched + room..=matched + room + 128).contains(&capacity), "{matched} {rest}: {capacity}");
        assert_eq!(index.keys(), matched);
    }
}

#[test]
fn what_is_only_shown_makes_no_instance_and_decides_nothing() {
    let shows = || (state(), vec!["/s/:id/owner", "/config/mode"]);
    let mut index = Index::new(
        rules_showing([shows()]),
        vec![KeyScope::Prefix(String::new())],
        vec![],
        FixedState::with_seed(1),
    );
    let view = index.open_view(WatcherIndex::FIRST, Revision::new(100), ViewPurpose::Snapshot).unwrap();
    index.view_page(view, vec![found("/s/1/state", "", 100), found("/s/2/owner", "b", 100)]);
    index.close_view(view);
    let decided = work_off(&mut index);
    assert_eq!(bindings(&index, &decided), ["1"], "an owner alone implies nothing");
    let before = index.counters().decided;
    let changes = [put("/s/1/owner", "a", 101), put("/config/mode", "x", 102), put("/config/mode", "y", 103)];
    deliver(&mut index, changes);
    assert!(work_off(&mut index).is_empty());
    assert_eq!(index.counters().decided, before, "nothing was decided for what is only shown");
    deliver(&mut index, [put("/s/1/state", "", 104), delete("/config/mode", 105, Deletion::Delivered)]);
    let decided = work_off(&mut index);
    let seen: Vec<Option<String>> =
        decided[0].snapshot.iter().map(|seen| seen.as_ref().map(|seen| seen.value.to_string())).collect();
    assert_eq!(seen, [Some("".into()), Some("a".into()), None], "from the same view");
    // It keeps no instance alive either.
    deliver(&mut index, [delete("/s/1/state", 106, Deletion::Delivered)]);
    work_off(&mut index);
    assert!(index.release(decided[0].instance));
    assert_eq!((index.instances(), index.keys()), (0, 2));
}

#[test]
fn memory_is_given_back_when_many_keys_have_gone() {
    const MANY: i64 = 40_000;
    let mut index = ready([state()], &[("/s/stays/state", "")]);
    let keys = || (0..MANY).map(|id| format!("/s/{id}/state"));
    for wave in 1..=3 {
        let revision = 1000 * wave;
        deliver(&mut index, keys().map(|key| put(&key, "", revision)));
        drain(&mut index);
        assert!(index.mirror.room() >= MANY as usize && index.instances.capacity() >= MANY as usize);
        deliver(&mut index, keys().map(|key| delete(&key, revision + 1, Deletion::Delivered)));
        for gone in drain(&mut index) {
            assert!(gone.orphaned && index.release(gone.instance));
        }
        index.shrink();
        assert_eq!((index.keys(), index.instances()), (1, 1));
        let room = (index.mirror.room(), index.instances.capacity());
        assert!(room.0 < 100 && room.1 < 100, "{room:?}");
        assert_eq!(value(&index, "/s/stays/state").as_deref(), Some(""));
    }
}

#[test]
fn a_key_that_a_snapshot_has_yet_to_bring_is_not_known_to_be_absent() {
    let enabled = key("/s/:id/state").exists() & key("/s/:id/owner").absent() & key("/config").absent();
    let mut index = ready([enabled], &[]);
    // A transaction reads both keys of the server at 120, while a snapshot is under way.
    index.open_view(WatcherIndex::FIRST, Revision::new(110), ViewPurpose::Snapshot).unwrap();
    index.apply(delete("/s/1/owner", 120, Deletion::SeenAbsent));
    index.apply(put("/s/1/state", "x", 120));
    // Another takes its place. `/config` was put at 115, but the watch goes on from 120, and no page has come yet.
    let view = index.open_view(WatcherIndex::FIRST, Revision::new(120), ViewPurpose::Snapshot).unwrap();
    deliver(&mut index, [put("/unread", "", 121)]);
    assert_eq!(index.tombstones(), 0, "the mirror has forgotten which key was deleted");
    let coherent = |index: &mut Index| {
        let decided = drain(index);
        assert_eq!(bindings(index, &decided), ["1"]);
        decided[0].coherent
    };
    assert!(!coherent(&mut index), "`/config` was there at 120");
    index.view_page(view, vec![found("/s/1/state", "x", 120), found("/config", "", 115)]);
    index.close_view(view);
    let decided = work_off(&mut index);
    assert!(decided.last().unwrap().coherent);
}
