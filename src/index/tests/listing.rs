//! Listing in pages: each instance is listed once, whatever comes and goes meanwhile.

use super::super::listing::{ListedInstance, Wanted};
use super::*;
use crate::condition::key;
use std::collections::HashMap;

/// All pages. `before` is called before each.
fn listed(
    index: &mut Index,
    wanted: &Wanted,
    limit: usize,
    mut before: impl FnMut(&mut Index, usize),
) -> (Vec<ListedInstance>, usize) {
    let (mut all, mut from, mut pieces) = (Vec::new(), InstanceIndex::new(0), 0);
    loop {
        before(index, pieces);
        let (found, next) = index.list(from, wanted, limit);
        assert!(found.len() <= limit);
        all.extend(found);
        pieces += 1;
        match next {
            Some(next) => from = next,
            None => return (all, pieces),
        }
    }
}

fn everything(rules: usize) -> Wanted {
    Wanted(vec![Some(Vec::new()); rules])
}

fn text(listed: &ListedInstance, count: usize) -> String {
    (0..count).map(|at| listed.binding.get(at, count)).collect::<Vec<_>>().join(" ")
}

#[test]
fn only_what_is_wanted_is_listed() {
    let conditions = [key("/a/:geo/:id").exists(), key("/b/:id").exists()];
    let keys = [("/a/eu/1", ""), ("/a/na/1", ""), ("/a/eu/2", ""), ("/b/1", "")];
    let mut index = ready(conditions, &keys);
    let some = |number, value: &str| Some(vec![(number, value.to_owned())]);
    for (name, wanted, expected) in [
        ("everything", vec![Some(vec![]), Some(vec![])], &["0 eu 1", "0 eu 2", "0 na 1", "1 1"][..]),
        ("nothing", vec![None, None], &[]),
        ("one rule", vec![None, Some(vec![])], &["1 1"]),
        ("a value of one attribute", vec![some(0, "eu"), None], &["0 eu 1", "0 eu 2"]),
        ("a value in both rules", vec![some(1, "1"), some(0, "1")], &["0 eu 1", "0 na 1", "1 1"]),
        (
            "values of two attributes",
            vec![Some(vec![(0, "na".to_owned()), (1, "1".to_owned())]), None],
            &["0 na 1"],
        ),
    ] {
        let (found, _) = listed(&mut index, &Wanted(wanted), 2, |_, _| {});
        let mut found: Vec<String> = found
            .iter()
            .map(|one| format!("{} {}", one.rule.index(), text(one, 2 - one.rule.index())))
            .collect();
        found.sort();
        assert_eq!(found, expected, "{name}");
    }
    assert_eq!(index.instances_by_rule(), [3, 1]);
}

#[test]
fn a_piece_looks_at_a_bounded_number_of_instances() {
    let names: Vec<String> = (0..20_000).map(|number| format!("/a/{number}")).collect();
    let keys: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
    let mut index = ready([key("/a/:id").exists()], &keys);
    let last = Wanted(vec![Some(vec![(0, "19999".to_owned())])]);
    let (found, pieces) = listed(&mut index, &last, 10, |_, _| {});
    assert_eq!(found.len(), 1);
    assert!(pieces >= 5, "{pieces} pieces");
    let (found, _) = listed(&mut index, &everything(1), 1000, |_, _| {});
    assert_eq!(found.len(), 20_000);
}

#[test]
fn what_exists_all_the_time_is_listed_once_although_others_come_and_go() {
    let names: Vec<String> = (0..300).map(|number| format!("/a/{number}")).collect();
    let keys: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
    let mut index = ready([key("/a/:id").exists()], &keys);
    let mut revision = 100;
    let (found, _) = listed(&mut index, &everything(1), 7, |index, piece| {
        revision += 2;
        let gone = format!("/a/{}", piece % 150 * 2);
        deliver(index, [delete(&gone, revision, Deletion::Delivered)]);
        for decide in work_off(index) {
            index.release(decide.instance);
        }
        deliver(index, [put(&format!("/a/new{piece}"), "", revision + 1)]);
        work_off(index);
    });
    let mut times: HashMap<String, usize> = HashMap::new();
    for one in &found {
        *times.entry(text(one, 1)).or_default() += 1;
    }
    for odd in (1..300).step_by(2) {
        assert_eq!(times.get(&odd.to_string()), Some(&1), "{odd}");
    }
}
