//! Plans how to read a whole prefix in narrow ranges.
//!
//! etcd walks every key of a range, even when a limit lets it return only a few, so asking for page after
//! page of one long range takes quadratic time. The plan therefore asks for a page, and when much is left
//! behind it, splits the rest by key into ranges that are likely to hold about a page each. What it learns on
//! the way are the split points of the next read, which then walks every key once.
//!
//! **Where to split.** Nothing is known of the keys but those of the page. Between its first and its last key,
//! the leftmost byte that differs tells at which depth of the key a page's worth of keys lies; between the
//! start of the range and the last key, at which depth the range has its neighbours. From each of the two the
//! plan climbs towards the front of the last key, and at each byte fans out over the values above it, until
//! the ranges should hold all that is left. A bad guess costs requests and walks, never keys: a range that
//! overflows is split again, and every page makes progress.

use std::collections::BTreeMap;

/// The end of a range that has none: up to the last key there is.
const UNBOUNDED: &[u8] = &[0];
/// A range between split points may return this many pages at once: keys were added since they were learned, or
/// they were guessed, and walking a range twice costs more than a larger answer.
const GUARD: usize = 4;
/// A rest of up to this many pages is read on page by page, as splitting it costs more than walking it twice.
const SHORT_REST: usize = 2;
/// Pages are remembered in so many parts, or more, from which the next split points are put together, for pages of
/// any size.
const PARTS: usize = 4;
/// The most keys in such a part.
const PART: usize = 128;
/// A climb ends once it has this many points, and one byte adds no more than these and one for each run above:
/// so a split makes at most 71 ranges, which are split further at `FINER_POINTS`.
const ENOUGH_POINTS: usize = 16;
/// A guess is split further where it should hold more than may be returned at once, at so many points in all.
const FINER_POINTS: usize = 256;
/// Where runs of alike byte values begin: below the digits, digits, upper case, lower case, beyond ASCII.
const RUNS: [u8; 5] = [0, b'0', b'9' + 1, b'Z' + 1, b'z' + 1];

/// One range to read; all of a plan's are to be read at the same revision, in ascending order of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RangeRequest {
    /// The first key.
    pub(crate) start: Vec<u8>,
    /// The key after the last; a single zero byte means up to the end of the keyspace.
    pub(crate) end: Vec<u8>,
    /// The most keys to return.
    pub(crate) limit: i64,
}

/// The state of reading one prefix: which ranges are to be asked for, and what the answers taught.
///
/// Every key is returned by exactly one answer. There are at most as many ranges waiting as there are split
/// points, or as overflowing answers made: about 70 for each of those, and some of them split further.
#[derive(Debug)]
pub(crate) struct RangePlan {
    page: usize,
    /// To be sent, the next one last.
    waiting: Vec<RangeRequest>,
    /// How many were sent and not answered yet.
    out: usize,
    /// Stretches of keys: the first key and the number of keys.
    stretches: BTreeMap<Vec<u8>, usize>,
}

impl RangePlan {
    /// Plans to read all keys with a prefix (all keys there are, if it is empty), about `page` at a time.
    ///
    /// `splits` are the split points an earlier read learned, ascending. They may be stale or none at all;
    /// those outside the prefix or out of order are passed over.
    pub(crate) fn new(prefix: &[u8], page: usize, splits: &[Vec<u8>]) -> Self {
        let page = page.max(1);
        let start = if prefix.is_empty() { vec![0] } else { prefix.to_vec() };
        let end = prefix_end(prefix);
        let mut points: Vec<Vec<u8>> = Vec::new();
        for split in splits {
            if split > points.last().unwrap_or(&start) && is_before(split, &end) {
                points.push(split.clone());
            }
        }
        let limit = if points.is_empty() { page } else { page.saturating_mul(GUARD) };
        let mut plan = Self { page, waiting: Vec::new(), out: 0, stretches: BTreeMap::new() };
        plan.wait_for(start, points, end, limit);
        plan
    }

    /// A request to send now, if there is one. Any number may be out at once.
    pub(crate) fn next(&mut self) -> Option<RangeRequest> {
        let request = self.waiting.pop()?;
        self.out += 1;
        Some(request)
    }

    /// Takes the answer to a request: the keys that were returned, and how many there are in its range.
    pub(crate) fn answered<'k>(
        &mut self,
        request: &RangeRequest,
        keys: impl ExactSizeIterator<Item = &'k [u8]>,
        count: i64,
    ) {
        self.out = self.out.saturating_sub(1);
        let returned = keys.len();
        let rest = usize::try_from(count).unwrap_or(0).saturating_sub(returned);
        let (mut first, mut last): (&[u8], &[u8]) = (&[], &[]);
        let part = self.page.div_ceil(PARTS.max(self.page.div_ceil(PART)));
        for (position, key) in keys.enumerate() {
            if position == 0 {
                first = key;
            }
            if position % part == 0 {
                self.stretches.insert(key.to_vec(), part.min(returned - position));
            }
            last = key;
        }
        if rest == 0 {
            return;
        }
        if returned == 0 {
            // Not an answer etcd gives; asking again loses nothing.
            self.waiting.push(request.clone());
            return;
        }
        let points = if rest <= self.page.saturating_mul(SHORT_REST) {
            Vec::new()
        } else {
            split_points(request, first, last, self.page, rest)
        };
        let mut start = last.to_vec();
        start.push(0);
        self.wait_for(start, points, request.end.clone(), self.page.saturating_mul(GUARD));
    }

    /// Takes back a request that got no answer, to be sent again.
    pub(crate) fn failed(&mut self, request: RangeRequest) {
        self.out = self.out.saturating_sub(1);
        self.waiting.push(request);
    }

    /// True if there is nothing to send and nothing out.
    #[cfg(test)]
    pub(crate) fn is_done(&self) -> bool {
        self.waiting.is_empty() && self.out == 0
    }

    /// What was learned for the next read.
    pub(crate) fn learned(self) -> Learned {
        Learned(self.stretches.into_iter().collect())
    }

    /// Adds the ranges from `start` over the points to `end`, the first of them to be sent first.
    fn wait_for(&mut self, start: Vec<u8>, points: Vec<Vec<u8>>, end: Vec<u8>, limit: usize) {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut end = end;
        for point in points.into_iter().rev() {
            let end = std::mem::replace(&mut end, point.clone());
            self.waiting.push(RangeRequest { start: point, end, limit });
        }
        self.waiting.push(RangeRequest { start, end, limit });
    }
}

/// Where the keys of a prefix are: stretches of them, by the first key, with how many there are.
#[derive(Debug, Default)]
pub(crate) struct Learned(Vec<(Vec<u8>, usize)>);

impl Learned {
    pub(crate) fn keys(&self) -> usize {
        self.0.iter().map(|(_, keys)| keys).sum()
    }

    /// The split points for a read, ascending: about every `page`-th key.
    pub(crate) fn points(&self, page: usize) -> Vec<Vec<u8>> {
        let mut points = Vec::new();
        let mut keys = 0;
        for (first, stretch) in &self.0 {
            if keys > 0 && keys + stretch > page {
                points.push(first.clone());
                keys = 0;
            }
            keys += stretch;
        }
        points
    }
}

/// The end of the range of all keys with a prefix.
fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    match prefix.iter().rposition(|&byte| byte != 0xff) {
        Some(position) => {
            let mut end = prefix[..=position].to_vec();
            end[position] += 1;
            end
        }
        None => UNBOUNDED.to_vec(),
    }
}

/// True if a key lies before the end of a range.
fn is_before(key: &[u8], end: &[u8]) -> bool {
    end == UNBOUNDED || key < end
}

/// How many bytes two keys have in common at the front.
fn common(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// The run of alike byte values that one belongs to: its first and the one behind its last.
fn run_of(byte: u8) -> (usize, usize) {
    let begin = RUNS.into_iter().rfind(|&run| run <= byte).map_or(0, usize::from);
    (begin, RUNS.into_iter().find(|&run| run > byte).map_or(256, usize::from))
}

/// Where to split what is left behind the last key of a page, ascending.
fn split_points(request: &RangeRequest, first: &[u8], last: &[u8], page: usize, rest: usize) -> Vec<Vec<u8>> {
    let mut climb = Climb { last, end: &request.end, page, rest, points: Vec::new(), finer: 0, held: 1 };
    let next = climb.up(first, last.len());
    climb.up(&request.start, next);
    climb.points
}

/// Collects split points, from the back of the last key to its front.
struct Climb<'a> {
    last: &'a [u8],
    end: &'a [u8],
    page: usize,
    rest: usize,
    points: Vec<Vec<u8>>,
    /// How many of the points lie within the range of one value.
    finer: usize,
    /// How many keys a value of the next byte holds, at a guess.
    held: usize,
}

impl Climb<'_> {
    /// Climbs from where the last key differs from `low`, an earlier key about a page of keys before it, but
    /// below `limit`. Returns the position of the last byte that it took.
    fn up(&mut self, low: &[u8], limit: usize) -> usize {
        let Some(deepest) = limit.checked_sub(1) else { return 0 };
        let from = common(low, self.last).min(deepest);
        let values = low.get(from).map_or(1, |&low| usize::from(self.last[from].saturating_sub(low)).max(1));
        self.held = self.held.max(self.page / values);
        // All the ranges together.
        let mut covered = 0usize;
        let points = ENOUGH_POINTS.min(2 * self.rest / self.page);
        let enough = points + self.points.len() - self.finer;
        for position in (0..=from).rev() {
            let held = self.held;
            let (run, above) = self.fan_out(position, held, self.rest.saturating_sub(covered));
            covered = covered.saturating_add(above.saturating_mul(held));
            self.held = held.saturating_mul(run);
            if covered >= self.rest.saturating_mul(2) || self.points.len() - self.finer >= enough {
                return position;
            }
        }
        0
    }

    /// Splits at the values of one byte above the last key's: one by one in the run of alike values that it
    /// belongs to (in groups, where a value holds little; at the next byte too, where it holds much), run by run
    /// above. `left`: what the values may hold in all. Returns how long the run is and how many of its values lie
    /// above.
    fn fan_out(&mut self, position: usize, held: usize, left: usize) -> (usize, usize) {
        let byte = self.last[position];
        let (begin, end) = run_of(byte);
        let above = end - 1 - usize::from(byte);
        let group = (self.page * 3 / 4 / held)
            .max(above.div_ceil(ENOUGH_POINTS.min(2 * self.rest / self.page)))
            .max(1);
        let finer =
            if group == 1 { self.finer(position + 1, held.min(left / above.max(1))) } else { Vec::new() };
        let values = (usize::from(byte) + 1..end).step_by(group);
        let runs = RUNS.into_iter().map(usize::from).filter(|&run| run >= end);
        for value in values.chain(runs) {
            let mut point = self.last[..position].to_vec();
            point.push(u8::try_from(value).unwrap_or(u8::MAX));
            if !is_before(&point, self.end) {
                break;
            }
            self.points.push(point.clone());
            if value < end && self.finer + finer.len() <= FINER_POINTS {
                let within = finer.iter().map(|&next| [point.as_slice(), &[next]].concat());
                let before = self.points.len();
                self.points.extend(within.filter(|point| is_before(point, self.end)));
                self.finer += self.points.len() - before;
            }
        }
        (end - begin, above)
    }

    /// Where to split what lies behind one value of the byte before `position`, if that should hold more than
    /// may be returned at once: the values there are likely to be like the last key's.
    fn finer(&self, position: usize, held: usize) -> Vec<u8> {
        let wanted = (held + held / 4).div_ceil(self.page.saturating_mul(GUARD));
        let Some(&byte) = self.last.get(position).filter(|_| wanted > 1) else { return Vec::new() };
        let (begin, end) = run_of(byte);
        let step = ((end - begin) / wanted).max(1);
        (begin..end).step_by(step).skip(1).filter_map(|value| u8::try_from(value).ok()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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

    /// Reads as a crawler would, up to four requests out at once, answered in any order, some of them failing.
    /// Checks that each key of the prefix is returned exactly once.
    fn read(keys: &Keys, prefix: &[u8], page: usize, splits: &[Vec<u8>], seed: u64) -> (Cost, Keys) {
        let mut random = SmallRng::seed_from_u64(seed);
        let failures = if seed == 0 { 0.0 } else { 0.2 };
        let mut plan = RangePlan::new(prefix, page, splits);
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
                    (0..n).map(|i| {
                        text(format!("/k/a/{}/hosts/{}/{}", outer[i / 20_000], inner[i / 50], i % 50))
                    }),
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
        assert!(first.walked * 10 <= 24 * keys.len() && first.requests <= 240, "{first:?}");
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
            assert!(
                second.walked == n && second.requests <= 4 * n / (3 * page) + 1,
                "{name}, {n}: {second:?}"
            );
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
            let points = split_points(&request, &first, &last, 10, random.random_range(20..100_000));
            assert!(points.is_sorted_by(|a, b| a < b) && points.first().is_none_or(|point| *point > last));
            most = most.max(points.len() + 1);
        }
        assert!((72..=71 + FINER_POINTS).contains(&most), "{most}");
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
            let request = RangePlan::new(prefix, 10, &[]).next();
            let expected = RangeRequest { start: start.to_vec(), end: end.to_vec(), limit: 10 };
            assert_eq!(request, Some(expected), "{name}");
        }
    }

    #[test]
    fn splits_outside_the_prefix_or_out_of_order_are_passed_over() {
        let splits =
            [&b"/a"[..], b"/k/", b"/k/5", b"/k/3", b"/k/5", b"/k/7", b"/k0", b"/z"].map(<[u8]>::to_vec);
        let mut plan = RangePlan::new(b"/k/", 10, &splits);
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
        let mut plan = RangePlan::new(b"/k/", 10, &[]);
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
}
