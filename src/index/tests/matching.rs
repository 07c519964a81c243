//! The index over all patterns is compared with trying each pattern.

use super::super::patterns::Patterns;
use crate::compiled::{RuleIndex, Use};
use crate::condition::Slot;
use crate::pattern::{Pattern, Segment};
use crate::properties::check;
use proptest::prelude::*;
use std::cell::Cell;

const TEXTS: [&str; 7] = ["a", "b", "ab", "ä", "äb", "a:", "*"];

/// Mostly well-formed patterns that have much in common.
fn pattern() -> impl Strategy<Value = String> {
    let literal = prop::sample::select(&TEXTS[..6]).prop_map(str::to_owned);
    let attribute = prop::sample::select(&[":x", ":y", ":z"][..]).prop_map(str::to_owned);
    let segments = prop::collection::vec(prop_oneof![3 => literal, 2 => attribute], 0..4);
    (any::<bool>(), segments, prop::option::weighted(0.2, Just("*rest".to_owned()))).prop_map(
        |(rooted, mut segments, rest)| {
            segments.extend(rest);
            format!("{}{}", if rooted { "/" } else { "" }, segments.join("/"))
        },
    )
}

/// Keys of the same texts, with slashes and empty segments anywhere.
fn key() -> impl Strategy<Value = String> {
    let segment = prop_oneof![5 => prop::sample::select(&TEXTS[..]), 1 => Just("")];
    let tail = prop_oneof![8 => Just(""), 1 => Just("/"), 1 => Just("//")];
    (any::<bool>(), prop::collection::vec(segment, 0..5), tail).prop_map(|(rooted, segments, tail)| {
        format!("{}{}{tail}", if rooted { "/" } else { "" }, segments.join("/"))
    })
}

/// The use of a pattern as slot `number`, which takes the attributes in order of appearance.
fn usage(number: usize, pattern: &Pattern) -> Use {
    let captured: Vec<usize> = pattern
        .segments()
        .iter()
        .filter_map(|segment| match segment {
            Segment::Literal(_) => None,
            Segment::Attribute(at) | Segment::Rest(at) => Some(*at),
        })
        .collect();
    let first = |at: usize| captured.iter().position(|&other| other == at).unwrap() as u8;
    Use {
        rule: RuleIndex::default(),
        slot: Slot::new(number),
        group: None,
        order: (0..pattern.attributes().len()).map(first).collect(),
        equal: (0..captured.len()).map(|at| (first(captured[at]), at as u8)).collect(),
        limits: Default::default(),
    }
}

fn by_trie<'k>(patterns: &Patterns, key: &'k str) -> Vec<(u8, Vec<&'k str>)> {
    let mut all = Vec::new();
    patterns.matching(key, |usage, captures| {
        all.push((usage.slot.0, usage.order.iter().map(|&at| captures[at as usize]).collect()));
    });
    all.sort_unstable();
    all
}

fn one_by_one<'k>(patterns: &[Pattern], key: &'k str) -> Vec<(u8, Vec<&'k str>)> {
    let captures = patterns.iter().map(|pattern| pattern.captures(key)).enumerate();
    captures.filter_map(|(number, captures)| Some((number as u8, captures?.to_vec()))).collect()
}

fn indexed(patterns: &[Pattern]) -> Patterns {
    Patterns::new(patterns.iter().enumerate().map(|(number, pattern)| (pattern, usage(number, pattern))))
}

#[test]
fn the_index_finds_what_each_pattern_finds_by_itself() {
    let found = Cell::new(0);
    let inputs = (prop::collection::vec(pattern(), 0..12), prop::collection::vec(key(), 12));
    check(3000, &inputs, |(texts, mut keys)| {
        // The same pattern may be used several times.
        let patterns: Vec<Pattern> = texts.iter().filter_map(|text| Pattern::parse(text).ok()).collect();
        keys.extend(texts.iter().map(|text| text.replace(":x", "a").replace(":y", "b")));
        keys.extend(patterns.iter().map(|pattern| pattern.literal_prefix().to_owned()));
        let index = indexed(&patterns);
        for key in &keys {
            let expected = one_by_one(&patterns, key);
            found.set(found.get() + expected.len());
            prop_assert_eq!(by_trie(&index, key), expected, "{:?} among {:?}", key, patterns);
        }
        Ok(())
    });
    assert!(found.get() > 20_000, "{found:?} matches");
}

#[test]
fn odd_keys_match_what_they_should() {
    let texts = ["/a", "/a/b", "/a/:x", "/a/*x", "/a/:x/b", ":x", "*x", "/*x", "/:x", "/a/:x/:x", "/ä/:x"];
    let patterns = texts.map(|text| Pattern::parse(text).unwrap());
    let index = indexed(&patterns);
    for (key, expected) in [
        ("", vec![]),
        ("/", vec!["*x"]),
        ("//", vec!["*x", "/*x"]),
        ("a", vec![":x", "*x"]),
        ("/a", vec!["/a", "*x", "/*x", "/:x"]),
        ("/a/", vec!["*x", "/*x"]),
        ("/ab", vec!["*x", "/*x", "/:x"]),
        ("/a/b", vec!["/a/b", "/a/:x", "/a/*x", "*x", "/*x"]),
        ("/a//b", vec!["/a/*x", "*x", "/*x"]),
        ("/a/b/b", vec!["/a/*x", "/a/:x/b", "*x", "/*x", "/a/:x/:x"]),
        ("/ä/ü", vec!["*x", "/*x", "/ä/:x"]),
        ("/Ã/ü", vec!["*x", "/*x"]),
    ] {
        let found: Vec<&str> =
            by_trie(&index, key).iter().map(|(number, _)| texts[*number as usize]).collect();
        assert_eq!(found, expected, "{key:?}");
    }
}
