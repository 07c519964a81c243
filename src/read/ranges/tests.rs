//! What a plan asks for, and what that costs, with keys of many shapes.

use super::*;
use crate::pattern::prefix_end;
use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngExt, SeedableRng};
use std::collections::BTreeSet;

type Keys = Vec<Vec<u8>>;

/// What a read cost.
#[derive(Debug, Default)]
struct Cost {
    requests: usize,
    walked: usize,
    /// The most keys in one answer.
    largest: usize,
}

fn sorted(keys: impl IntoIterator<Item = Vec<u8>>) -> Keys {
    keys.into_iter().collect::<BTreeSet<_>>().into_iter().collect()
}

fn in_range<'k>(keys: &'k Keys, start: &[u8], end: &[u8]) -> &'k [Vec<u8>] {
    let from = keys.partition_point(|key| key.as_slice() < start);
    let to = if end == [0] { keys.len() } else { keys.partition_point(|key| key.as_slice() < end) };
    &keys[from..to.max(from)]
}

/// Of prefixes that need be no text.
fn plan_of(prefix: &[u8], page: usize, splits: &[Vec<u8>]) -> RangePlan {
    let start = if prefix.is_empty() { vec![0] } else { prefix.to_vec() };
    RangePlan::between(start, prefix_end(prefix), page, splits)
}

#[test]
fn a_single_key_is_one_request_without_an_end() {
    let mut plan =
        RangePlan::new(&KeyScope::Key("/k".to_owned()), None, 10, &[b"/k".to_vec(), b"/k0".to_vec()]);
    let request = plan.next().unwrap();
    assert_eq!(request, RangeRequest { start: b"/k".to_vec(), end: Vec::new(), limit: 10 });
    plan.answered(&request, [&b"/k"[..]].into_iter(), 1);
    assert!(plan.is_done());
}

/// Reads as a crawler would, up to four requests out at once, answered in any order, some of them failing.
/// Checks that each key of the prefix is returned exactly once.
fn read(keys: &Keys, prefix: &[u8], page: usize, splits: &[Vec<u8>], seed: u64) -> (Cost, Keys) {
    let mut random = SmallRng::seed_from_u64(seed);
    let failures = if seed == 0 { 0.0 } else { 0.2 };
    let mut plan = plan_of(prefix, page, splits);
    let (mut cost, mut out, mut found) = (Cost::default(), Vec::new(), Vec::new());
    while !plan.is_done() {
        while out.len() < 4 {
            let Some(request) = plan.next() else { break };
            assert!(request.end == [0] || request.start < request.end, "an empty range: {request:?}");
            out.push(request);
        }
        let request = out.swap_remove(random.random_range(0..out.len()));
        if random.random_bool(failures) {
            plan.failed(request);
            continue;
        }
        let all = in_range(keys, &request.start, &request.end);
        let returned = &all[..all.len().min(usize::try_from(request.limit).unwrap())];
        cost.requests += 1;
        cost.walked += all.len();
        cost.largest = cost.largest.max(returned.len());
        found.extend_from_slice(returned);
        plan.answered(&request, returned.iter().map(Vec::as_slice), i64::try_from(all.len()).unwrap());
    }
    assert!(plan.next().is_none() && out.is_empty());
    found.sort();
    let expected: Keys = keys.iter().filter(|key| key.starts_with(prefix)).cloned().collect();
    assert!(found == expected, "found {} of {} keys", found.len(), expected.len());
    (cost, plan.learned().points(page))
}

fn uuid(random: &mut impl Rng) -> String {
    let id: u128 = random.random();
    let id = format!("{id:032x}");
    format!("{}-{}-{}-{}-{}", &id[..8], &id[8..12], &id[12..16], &id[16..20], &id[20..])
}

fn word(random: &mut impl Rng, alphabet: &[u8], length: usize) -> String {
    (0..length).map(|_| char::from(*alphabet.choose(random).unwrap())).collect()
}

const ALNUM: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// About `n` keys under `/k/` of a shape that people use.
fn shape(shape: &str, n: usize, random: &mut impl Rng) -> Keys {
    let text = |key: String| key.into_bytes();
    let deep = |i: usize| {
        let names = ["ip", "mode", "name", "owner", "state"];
        format!("/k/region-{}/rack-{}/server-{}/{}", i % 3, i / 5 % 40, i / 5, names[i % 5])
    };
    match shape {
        "numbers" => sorted((0..n).map(|i| text(format!("/k/{i:06}")))),
        "bare numbers" => sorted((0..n).map(|i| text(format!("/k/{i}")))),
        "uuids" => sorted((0..n).map(|_| text(format!("/k/{}", uuid(random))))),
        "uuids in braces" => sorted((0..n).map(|_| text(format!("/k/{{{}}}/state", uuid(random))))),
        "long shared prefix" => {
            let shared = word(random, ALNUM, 60);
            sorted((0..n).map(|i| text(format!("/k/{shared}/{i:08}"))))
        }
        "deep paths" => sorted((0..n).map(|i| text(deep(i)))),
        "large directories" => {
            let tenants: Vec<String> = (0..n.div_ceil(3000)).map(|_| uuid(random)).collect();
            sorted((0..n).map(|i| text(format!("/k/tenant-{}/item-{:05}", tenants[i / 3000], i % 3000))))
        }
        "directories in directories" => {
            let outer: Vec<String> = (0..n.div_ceil(20_000)).map(|_| uuid(random)).collect();
            let inner: Vec<String> = (0..n.div_ceil(50)).map(|_| uuid(random)).collect();
            sorted(
                (0..n)
                    .map(|i| text(format!("/k/a/{}/hosts/{}/{}", outer[i / 20_000], inner[i / 50], i % 50))),
            )
        }
        "random letters" => sorted((0..n).map(|_| text(format!("/k/{}", word(random, ALNUM, 20))))),
        "words" => sorted((0..n).map(|_| {
            let length = random.random_range(3..12);
            text(format!("/k/{}", word(random, b"eeeeeetttaaaooiinnsrhlducmwfgypbvk", length)))
        })),
        "many levels" => sorted((0..n).map(|_| {
            let names: Vec<&str> = (0..8)
                .map(|_| *["alpha-centauri", "beta", "betelgeuse", "gamma"].choose(random).unwrap())
                .collect();
            text(format!("/k/{}", names.join("/")))
        })),
        "binary" => sorted((0..n).map(|_| {
            let mut key = b"/k/".to_vec();
            key.extend(random.random::<[u8; 8]>());
            key
        })),
        "one far away" => {
            let mut keys: Vec<Vec<u8>> = (0..n / 2).map(|i| text(format!("/k/aaa/{i:09}"))).collect();
            keys.extend((0..n / 2).map(|i| text(format!("/k/zzz/zzz/zzz/{i:09}"))));
            sorted(keys)
        }
        other => panic!("no shape {other}"),
    }
}

const SHAPES: [&str; 13] = [
    "numbers",
    "bare numbers",
    "uuids",
    "uuids in braces",
    "long shared prefix",
    "deep paths",
    "large directories",
    "directories in directories",
    "random letters",
    "words",
    "many levels",
    "binary",
    "one far away",
];

#[test]
fn numbers_are_walked_hardly_more_than_twice_at_first_and_once_with_learned_splits() {
    let keys = shape("numbers", 200_000, &mut SmallRng::seed_from_u64(1));
    let (first, splits) = read(&keys, b"/k/", 1000, &[], 0);
    assert!(first.walked * 10 <= 24 * keys.len() && first.requests <= 270, "{first:?}");
    assert!(first.largest <= 1000 * GUARD, "{first:?}");
    let (second, again) = read(&keys, b"/k/", 1000, &splits, 0);
    assert_eq!((second.walked, second.requests), (keys.len(), 200));
    assert_eq!(again, splits);
}

#[test]
fn no_shape_of_keys_is_walked_more_than_a_few_times() {
    for name in SHAPES {
        let keys = shape(name, 60_000, &mut SmallRng::seed_from_u64(2));
        let (page, n) = (300, keys.len());
        let (first, splits) = read(&keys, b"/k/", page, &[], 0);
        assert!(first.walked <= 8 * n && first.requests <= 8 * n / page, "{name}, {n}: {first:?}");
        let (second, _) = read(&keys, b"/k/", page, &splits, 0);
        assert!(second.walked == n && second.requests <= 4 * n / (3 * page) + 1, "{name}, {n}: {second:?}");
    }
}

/// Once for the first page, which nothing is known before, and once for what was learned from it.
#[test]
fn ids_are_walked_twice_at_first() {
    for name in ["numbers", "bare numbers", "uuids", "uuids in braces", "long shared prefix"] {
        let keys = shape(name, 60_000, &mut SmallRng::seed_from_u64(2));
        let (cost, _) = read(&keys, b"/k/", 300, &[], 0);
        assert!(cost.walked * 100 <= 201 * keys.len() && cost.requests <= 220, "{name}: {cost:?}");
    }
}

#[test]
fn values_that_hold_little_are_read_in_groups() {
    let keys = shape("random letters", 60_000, &mut SmallRng::seed_from_u64(2));
    let (cost, _) = read(&keys, b"/k/", 300, &[], 0);
    assert!(cost.requests <= 500, "{cost:?}");
}

#[test]
fn splits_still_help_after_many_keys_came_and_went() {
    let mut random = SmallRng::seed_from_u64(3);
    for name in SHAPES {
        let all = shape(name, 40_000, &mut random);
        let some = |random: &mut SmallRng| -> Keys {
            all.iter().filter(|_| random.random_bool(0.6)).cloned().collect()
        };
        let (_, splits) = read(&some(&mut random), b"/k/", 300, &[], 0);
        let keys = some(&mut random);
        let (second, _) = read(&keys, b"/k/", 300, &splits, 0);
        assert!(second.walked * 10 <= 13 * keys.len(), "{name}, {}: {second:?}", keys.len());
    }
}

#[test]
fn one_flat_directory_that_outgrew_its_splits_is_split_again() {
    let keys = shape("numbers", 100_000, &mut SmallRng::seed_from_u64(4));
    let (cost, splits) = read(&keys, b"/k/", 500, &[b"/k/000050".to_vec(), b"/k/000100".to_vec()], 0);
    assert!(cost.walked <= 5 * keys.len() && cost.requests <= 500, "{cost:?}");
    assert_eq!(cost.largest, 500 * GUARD);
    assert!((199..=280).contains(&splits.len()), "{}", splits.len());
}

#[test]
fn a_small_prefix_takes_one_request() {
    for n in [0, 1, 999, 1000] {
        let keys = shape("numbers", n, &mut SmallRng::seed_from_u64(5));
        let (cost, splits) = read(&keys, b"/k/", 1000, &[], 0);
        assert_eq!((cost.requests, splits.len()), (1, 0), "{n} keys");
    }
}

#[test]
fn a_short_rest_is_read_on_without_splitting() {
    let keys = shape("uuids", 3000, &mut SmallRng::seed_from_u64(6));
    assert_eq!(read(&keys, b"/k/", 1000, &[], 0).0.requests, 2);
}

#[test]
fn a_split_makes_no_more_ranges_than_promised() {
    let mut random = SmallRng::seed_from_u64(8);
    let mut most = 0;
    for _ in 0..20_000 {
        let mut key = |_| word(&mut random, b"!/09AZaz~", 12).into_bytes();
        let [start, first, last] = sorted((0..3).map(&mut key)).try_into().unwrap();
        let request = RangeRequest { start, end: vec![0], limit: 10 };
        let rest = random.random_range(20..100_000);
        let points = split_points(&request, [&first[..], &last].into_iter(), 10, rest);
        assert!(points.is_sorted_by(|a, b| a < b) && points.first().is_none_or(|point| *point > last));
        let ranges = points.len() + 1;
        let promised = 2 * (15 + 21).max(rest / 10 / PAGES_A_POINT + 20) + 1;
        assert!(ranges <= promised + FINER_POINTS, "{ranges}, {promised}");
        most = most.max(ranges);
    }
    assert!(most > 72, "{most}");
}

#[test]
fn the_range_of_a_prefix_ends_as_in_etcd() {
    type Case = (&'static str, &'static [u8], &'static [u8], &'static [u8]);
    let cases: [Case; 6] = [
        ("the last byte is incremented", b"/k/", b"/k/", b"/k0"),
        ("a last byte 0xff is dropped", b"k\xff", b"k\xff", b"l"),
        ("so are several", b"k\xff\xff", b"k\xff\xff", b"l"),
        ("0xff alone has no end", b"\xff", b"\xff", b"\0"),
        ("an empty prefix means all keys", b"", b"\0", b"\0"),
        ("a zero byte is a prefix like others", b"\0", b"\0", b"\x01"),
    ];
    for (name, prefix, start, end) in cases {
        let request = plan_of(prefix, 10, &[]).next();
        let expected = RangeRequest { start: start.to_vec(), end: end.to_vec(), limit: 10 };
        assert_eq!(request, Some(expected), "{name}");
    }
}

#[test]
fn splits_outside_the_prefix_or_out_of_order_are_passed_over() {
    let splits = [&b"/a"[..], b"/k/", b"/k/5", b"/k/3", b"/k/5", b"/k/7", b"/k0", b"/z"].map(<[u8]>::to_vec);
    let mut plan = plan_of(b"/k/", 10, &splits);
    let mut starts = Vec::new();
    while let Some(request) = plan.next() {
        assert_eq!(request.limit, 40);
        starts.push(request.start);
    }
    assert_eq!(starts, [&b"/k/"[..], b"/k/5", b"/k/7"]);
    assert!(!plan.is_done(), "three are out");
}

#[test]
fn an_answer_without_the_keys_it_counts_is_asked_for_again() {
    let mut plan = plan_of(b"/k/", 10, &[]);
    let request = plan.next().unwrap();
    plan.answered(&request, [].into_iter(), 5);
    assert_eq!(plan.next(), Some(request));
}

/// Keys over few bytes, so that they share prefixes, follow each other directly, and end in 0x00 and 0xff.
fn any_key(random: &mut impl Rng) -> Vec<u8> {
    match random.random_range(0..4) {
        0 => (0..random.random_range(1..4)).map(|_| random.random()).collect(),
        1 => format!("/{:04}", random.random_range(0..2000)).into_bytes(),
        2 => format!("/aaaaaaaaaaaaaaaaaaaa/{}", random.random_range(0..2000)).into_bytes(),
        _ => {
            let bytes = b"\x00\x01/019ab\xfe\xff";
            (0..random.random_range(1..7)).map(|_| *bytes.choose(random).unwrap()).collect()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn every_key_is_returned_exactly_once(n in 0..300usize, page in 1..20usize, seed: u64) {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut some = |n| -> Keys { (0..n).map(|_| any_key(&mut random)).collect() };
        let (keys, earlier, garbage) = (sorted(some(n)), sorted(some(n / 3)), some(5));
        let long = some(1);
        for prefix in [&b""[..], b"/", b"/aaaaaaaaaaaaaaaaaaaa/1", b"\xff", &long[0]] {
            let bound = |splits: usize| 16 * keys.len().div_ceil(page) + splits + 70;
            let (cost, splits) = read(&keys, prefix, page, &[], seed);
            prop_assert!(cost.requests <= bound(0), "{:?}", cost);
            let (again, _) = read(&keys, prefix, page, &splits, seed);
            prop_assert_eq!(again.requests, splits.len() + 1);
            let (_, stale) = read(&earlier, prefix, page, &[], seed);
            let (cost, _) = read(&keys, prefix, page, &stale, seed);
            prop_assert!(cost.requests <= bound(stale.len()), "{:?}", cost);
            read(&keys, prefix, page, &garbage, seed);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn usual_shapes_are_read_in_few_requests(
        name in proptest::sample::select(&SHAPES[..]), n in 0..4000usize, page in 10..200usize, seed: u64,
    ) {
        let keys = shape(name, n, &mut SmallRng::seed_from_u64(seed));
        let (cost, splits) = read(&keys, b"/k/", page, &[], seed);
        let pages = keys.len().div_ceil(page);
        prop_assert!(cost.walked <= 10 * keys.len(), "{:?}", cost);
        prop_assert!(cost.requests <= 10 * pages + 70, "{:?}", cost);
        let (again, _) = read(&keys, b"/k/", page, &splits, seed);
        prop_assert_eq!(again.walked, keys.len());
        prop_assert!(again.requests <= 3 * pages / 2 + 1, "{:?}", again);
    }
}
