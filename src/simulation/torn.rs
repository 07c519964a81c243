//! Whether what a callback was shown is a state that the store had.

use std::collections::BTreeMap;
use std::time::Duration;

/// For every key: when it changed, at which revision, and its value then.
pub(super) type Changes = BTreeMap<String, Vec<(Duration, i64, Option<String>)>>;

/// Whether these keys had these values together at some revision.
pub(super) fn were_together(changes: &Changes, keys: &[String], shown: &[Option<String>]) -> bool {
    let of = |key: &String| changes.get(key).map_or(&[][..], Vec::as_slice);
    let value = |key: &String, revision: i64| {
        let before = of(key).iter().rev().find(|(_, at, _)| *at <= revision);
        before.and_then(|(_, _, value)| value.clone())
    };
    let revisions = keys.iter().flat_map(of).map(|(_, revision, _)| *revision);
    std::iter::once(0)
        .chain(revisions)
        .any(|revision| keys.iter().zip(shown).all(|(key, shown)| value(key, revision) == *shown))
}

#[test]
fn values_of_different_times_were_not_together() {
    let at = |revision, value: &str| (Duration::ZERO, revision, Some(value.to_owned()));
    let keys = ["/a", "/b"].map(str::to_owned);
    let changes: Changes = [
        (keys[0].clone(), vec![at(2, "1"), at(5, "2"), (Duration::ZERO, 7, None)]),
        (keys[1].clone(), vec![at(3, "1"), at(5, "2")]),
    ]
    .into();
    for (a, b, together) in [
        (None, None, true),
        (Some("1"), None, true),
        (Some("1"), Some("1"), true),
        (Some("2"), Some("2"), true),
        (None, Some("2"), true),
        (Some("2"), Some("1"), false),
        (Some("1"), Some("2"), false),
        (None, Some("1"), false),
    ] {
        let shown = [a, b].map(|value| value.map(str::to_owned));
        assert_eq!(were_together(&changes, &keys, &shown), together, "{shown:?}");
    }
}
