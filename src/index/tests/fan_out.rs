//! The cost of a change: with many rules and keys, and with a key that all instances read.

use super::*;
use crate::condition::key;

#[test]
fn one_change_among_10_000_keys_and_1_000_rules_decides_what_reads_it_and_nothing_else() {
    let conditions =
        (0..1000).map(|n| key(format!("/app/{n}/:id/state")).exists() & key(format!("/cfg/{n}")).exists());
    let also = key("/app/7/:id/state").equals("on") & key("/app/7/:id/owner").absent();
    let keys: Vec<String> =
        (0..1000).flat_map(|rule| (0..10).map(move |id| format!("/app/{rule}/{id}/state"))).collect();
    let pairs: Vec<(&str, &str)> = keys.iter().map(|key| (key.as_str(), "on")).collect();
    let mut index = ready(conditions.chain([also]), &pairs);
    assert_eq!((index.keys(), index.instances()), (10_000, 10_010));
    let before = index.counters();
    assert_eq!(before.matched, 10_000, "each new key once");

    deliver(&mut index, [put("/app/7/3/state", "off", 101)]);
    let decided = drain(&mut index);
    assert_eq!(bindings(&index, &decided), ["3", "3"]);
    assert_eq!(decided.iter().map(|decide| decide.rule.index()).collect::<Vec<_>>(), [7, 1000]);
    assert!(!index.has_backlog());
    let after = index.counters();
    assert_eq!(after.decided - before.decided, 2);
    assert_eq!(after.matched, before.matched, "a known key is not matched");

    deliver(&mut index, [put("/app/7/3/owner", "me", 102)]);
    let decided = drain(&mut index);
    assert_eq!((bindings(&index, &decided), decided[0].rule.index()), (vec!["3".into()], 1000));
    deliver(&mut index, [delete("/app/8/3/state", 103, Deletion::Delivered)]);
    let decided = drain(&mut index);
    assert_eq!((bindings(&index, &decided), decided[0].rule.index()), (vec!["3".into()], 8));
    assert!(decided[0].orphaned);
    let end = index.counters();
    assert_eq!((end.matched - after.matched, end.decided - after.decided), (1, 2));
    assert!(!index.has_backlog());
}

#[test]
fn keys_that_nobody_reads_are_matched_and_forgotten() {
    let mut index = ready([key("/a/:id").exists()], &[]);
    deliver(&mut index, [put("/b/1", "", 101), put("/b/1", "", 102)]);
    assert_eq!((index.counters().matched, index.keys()), (2, 0));
    index.apply(Change::Put { key: b"/a/\xff".to_vec(), value: "".into(), revision: Revision::new(103) });
    assert_eq!((index.counters().not_text, index.keys(), drain(&mut index).len()), (1, 0, 0));
}

const SERVERS: usize = 100_000;

fn switch() -> Condition {
    key("/config/enabled").equals("yes") & key("/servers/:id/state").exists()
}

/// A hundred thousand instances that read one switch, which is off; and another rule.
fn servers() -> Index {
    let keys: Vec<String> = (0..SERVERS).map(|id| format!("/servers/{id}/state")).collect();
    let mut pairs: Vec<(&str, &str)> = keys.iter().map(|key| (key.as_str(), "")).collect();
    pairs.extend([("/config/enabled", "no"), ("/other/1", "")]);
    ready([switch(), key("/other/:id").exists()], &pairs)
}

fn truth(index: &Index, decide: &Decide) -> bool {
    index.rules[decide.rule.index()].condition().truth(&decide.snapshot)
}

#[test]
fn a_switch_of_100_000_instances_is_walked_behind_live_changes() {
    let mut index = servers();
    let entry = index.entry_of("/config/enabled").expect("it exists");
    assert_eq!(index.mirror.entry(entry).readers.count(), 1, "the group, whatever the number of members");

    deliver(&mut index, [put("/config/enabled", "no", 101)]);
    assert!(drain(&mut index).is_empty() && !index.has_backlog(), "an equal value concerns nobody");
    deliver(&mut index, [put("/config/enabled", "maybe", 102)]);
    assert!(drain(&mut index).is_empty() && !index.has_backlog(), "the leaf is as false as it was");
    deliver(&mut index, [put("/config/enabled", "yes", 103)]);
    assert!(drain(&mut index).is_empty() && index.has_backlog());

    let mut latest: Vec<Option<bool>> = vec![None; SERVERS + 1000];
    let mut left = 0;
    let (mut calls, mut walked) = (0, 0);
    while index.has_backlog() {
        index.work(1024);
        let decided = drain(&mut index);
        assert!(decided.len() <= 1024, "{} in one call", decided.len());
        walked += decided.len();
        for decide in &decided {
            assert_eq!((decide.rule.index(), &decide.touches[..]), (0, &[touch(0, 103)][..]));
            let id: usize = decide.binding.get(0, 1).parse().unwrap();
            latest[id] = Some(truth(&index, decide));
        }
        // In the middle of the walk other keys change, appear and disappear.
        calls += 1;
        let revision = 200 + 10 * calls as i64;
        deliver(&mut index, [put("/other/1", "", revision)]);
        let decided = drain(&mut index);
        assert_eq!(decided.len(), 1, "at once, and nothing else");
        assert_eq!((decided[0].rule.index(), &decided[0].touches[..]), (1, &[touch(0, revision)][..]));
        if calls < 90 {
            let (joins, leaves) = (SERVERS + calls, calls * 1001);
            deliver(
                &mut index,
                [
                    put(&format!("/servers/{joins}/state"), "", revision + 1),
                    delete(&format!("/servers/{leaves}/state"), revision + 2, Deletion::Delivered),
                ],
            );
            let decided = drain(&mut index);
            assert_eq!(decided.len(), 2);
            for decide in decided {
                let id: usize = decide.binding.get(0, 1).parse().unwrap();
                latest[id] = Some(truth(&index, &decide));
                assert_eq!(decide.orphaned, id == leaves);
                if decide.orphaned {
                    assert!(index.release(decide.instance));
                    left += 1;
                }
            }
        }
    }
    assert_eq!(left, 89);
    assert!(calls <= SERVERS / 1024 + 1, "{calls} calls for {walked} decisions");
    for id in (0..SERVERS).chain(SERVERS + 1..SERVERS + 90) {
        let exists = !(id > 0 && id % 1001 == 0 && id / 1001 < 90);
        assert_eq!(latest[id], Some(exists), "/servers/{id}");
    }
}

#[test]
fn a_switch_flipped_back_in_the_middle_is_walked_again_from_the_start() {
    let keys: Vec<String> = (0..10).map(|id| format!("/servers/{id}/state")).collect();
    let pairs: Vec<(&str, &str)> = keys.iter().map(|key| (key.as_str(), "")).collect();
    let mut index = ready([switch()], &pairs);
    deliver(&mut index, [put("/config/enabled", "yes", 101)]);
    index.work(4);
    assert_eq!(drain(&mut index).len(), 4);
    deliver(&mut index, [put("/config/enabled", "no", 102)]);
    index.work(7);
    let decided = drain(&mut index);
    assert_eq!(decided.len(), 7);
    assert!(decided.iter().all(|decide| !truth(&index, decide)));
    assert_eq!(&decided[0].touches[..], [touch(0, 101), touch(0, 102)]);
    assert_eq!(work_off(&mut index).len(), 3);
}

#[test]
fn of_many_flips_a_walk_remembers_the_two_latest() {
    let mut index = ready([switch()], &[("/servers/1/state", "")]);
    for revision in 101..200 {
        let value = if revision % 2 == 0 { "no" } else { "yes" };
        deliver(&mut index, [put("/config/enabled", value, revision)]);
    }
    let decided = work_off(&mut index);
    assert_eq!(decided.len(), 1);
    assert_eq!(&decided[0].touches[..], [touch(0, 198), touch(0, 199)]);
}

#[test]
fn only_another_value_of_an_operand_concerns_the_members() {
    let condition = key("/servers/:id/zone").same_as("/config/zone");
    let mut index = ready([condition], &[("/servers/1/zone", "a"), ("/config/zone", "a")]);
    deliver(&mut index, [put("/config/zone", "a", 101)]);
    assert!(work_off(&mut index).is_empty(), "an equal value");
    deliver(&mut index, [put("/config/zone", "b", 102)]);
    assert_eq!(work_off(&mut index).len(), 1);
    deliver(&mut index, [delete("/config/zone", 103, Deletion::Delivered)]);
    assert_eq!(work_off(&mut index).len(), 1);
}

#[test]
fn a_comparison_that_panics_counts_as_changed() {
    let condition = key("/config/x").compare("panics", |value| match value {
        Some(b"bad") => panic!("as the test wants"),
        value => value.is_none(),
    });
    let mut index = ready([condition & key("/servers/:id").exists()], &[("/servers/1", "")]);
    for revision in [101, 102] {
        deliver(&mut index, [put("/config/x", "bad", revision)]);
        assert_eq!(work_off(&mut index).len(), 1);
    }
    deliver(&mut index, [put("/config/x", "good", 103)]);
    assert_eq!(work_off(&mut index).len(), 1);
    deliver(&mut index, [put("/config/x", "fine", 104)]);
    assert_eq!(work_off(&mut index).len(), 0);
}
