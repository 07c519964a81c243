//! Plans how to read a whole prefix in narrow ranges.
//!
//! etcd walks every key of a range, even when a limit lets it return only a few, so asking for page after
//! page of one long range takes quadratic time. The plan therefore asks for a page, and when much is left
//! behind it, splits the rest by key into ranges that are likely to hold about a page each. What it learns on
//! the way are the split points of the next read, which then walks every key once.
//!
//! **Where to split.** Nothing is known of the keys but those of the page. Between its middle and its last key,
//! the leftmost byte that differs tells at which depth of the key a page's worth of keys lies, and the keys of the
//! page how many share one value of it and which values the next byte takes; between the start of the range and
//! the last key, at which depth the range has its neighbours. From each of the two depths the plan climbs towards
//! the front of the last key, and at each byte fans out over the values above it, until the ranges should hold all
//! that is left. A bad guess costs requests and walks, never keys: a range that overflows is split again, and every
//! page makes progress.

#[cfg(test)]
mod tests;

use crate::pattern::{KeyRange, KeyScope, UNBOUNDED};
use std::collections::BTreeMap;

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
/// One byte is fanned out to at most this many points, and one for each run above.
const FAN: usize = 16;
/// A climb ends once it has as many points as one byte may have, or one for so many pages of what is left: a point
/// too many is a short request, one too few may have half of what is left walked again.
const PAGES_A_POINT: usize = 8;
/// A guess is split further where it should hold more than may be returned at once, at so many points in all.
const FINER_POINTS: usize = 256;
/// Where runs of alike byte values begin: below the digits, digits, upper case, lower case, beyond ASCII.
const RUNS: [u8; 5] = [0, b'0', b'9' + 1, b'Z' + 1, b'z' + 1];

/// One range to read; all of a plan's are to be read at the same revision, in ascending order of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RangeRequest {
    /// The first key.
    pub(crate) start: Vec<u8>,
    /// The key after the last; a single zero byte means up to the end of the keyspace, and nothing only the first key.
    pub(crate) end: Vec<u8>,
    /// The most keys to return.
    pub(crate) limit: i64,
}

/// The state of reading one prefix: which ranges are to be asked for, and what the answers taught.
///
/// Every key is returned by exactly one answer. There are at most as many ranges waiting as there are split
/// points, or as overflowing answers made: about 70 for each of those, or one for four pages that are left, and some
/// of them split further.
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
    /// Plans to read all keys of a scope, or those within a range of it, about `page` at a time.
    ///
    /// `splits` are the split points an earlier read learned, ascending. They may be stale or none at all;
    /// those outside the range or out of order are passed over.
    pub(crate) fn new(scope: &KeyScope, within: Option<&KeyRange>, page: usize, splits: &[Vec<u8>]) -> Self {
        match within {
            None => Self::between(scope.first_key(), scope.end(), page, splits),
            Some(KeyRange { start, end }) => Self::between(start.clone(), end.clone(), page, splits),
        }
    }

    fn between(start: Vec<u8>, end: Vec<u8>, page: usize, splits: &[Vec<u8>]) -> Self {
        let page = page.max(1);
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
        keys: impl ExactSizeIterator<Item = &'k [u8]> + Clone,
        count: i64,
    ) {
        self.out = self.out.saturating_sub(1);
        let returned = keys.len();
        let rest = usize::try_from(count).unwrap_or(0).saturating_sub(returned);
        let mut last: &[u8] = &[];
        let part = self.page.div_ceil(PARTS.max(self.page.div_ceil(PART)));
        for (position, key) in keys.clone().enumerate() {
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
            split_points(request, keys, self.page, rest)
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
    pub(crate) fn learned(self) -> SplitPoints {
        SplitPoints(self.stretches.into_iter().collect())
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
pub(crate) struct SplitPoints(Vec<(Vec<u8>, usize)>);

impl SplitPoints {
    /// What was learned of a range takes the place of what was known of it.
    pub(crate) fn replace(&mut self, range: &KeyRange, SplitPoints(learned): SplitPoints) {
        let from = self.0.partition_point(|(first, _)| *first < range.start);
        let known = self.0[from..].iter().take_while(|(first, _)| range.has(first)).count();
        self.0.splice(from..from + known, learned);
    }

    /// The stretches themselves, ascending.
    pub(crate) fn stretches(&self) -> &[(Vec<u8>, usize)] {
        &self.0
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

/// Where to split what is left behind the last key of an answer, ascending. `returned`: its keys.
fn split_points<'k>(
    request: &RangeRequest,
    returned: impl ExactSizeIterator<Item = &'k [u8]> + Clone,
    page: usize,
    rest: usize,
) -> Vec<Vec<u8>> {
    let (Some(middle), Some(last)) = (returned.clone().nth(returned.len() / 2), returned.clone().last())
    else {
        return Vec::new();
    };
    let Some(deepest) = last.len().checked_sub(1) else { return Vec::new() };
    let from = common(middle, last).min(deepest);
    let (mut held, mut met) = ([0; 256], [false; 256]);
    for key in returned.filter(|key| common(key, last) >= from) {
        if let Some(&byte) = key.get(from) {
            held[usize::from(byte)] += 1;
        }
        if let Some(&byte) = key.get(from + 1) {
            met[usize::from(byte)] = true;
        }
    }
    let held = held.into_iter().max().unwrap_or_default().max(1);
    let mut climb = Climb { last, end: &request.end, page, rest, met, points: Vec::new(), finer: 0, held };
    let reached = climb.up(from);
    if let Some(next) = reached.checked_sub(1) {
        climb.up(common(&request.start, last).min(next));
    }
    climb.points
}

/// Collects split points, from the back of the last key to its front.
struct Climb<'a> {
    last: &'a [u8],
    end: &'a [u8],
    page: usize,
    rest: usize,
    /// The values that keys of the page have where all values are likely to occur: just behind the byte from which
    /// the climb begins. Other bytes are taken to have them too.
    met: [bool; 256],
    points: Vec<Vec<u8>>,
    /// How many of the points lie within the range of one value.
    finer: usize,
    /// How many keys a value of the next byte holds, at a guess.
    held: usize,
}

impl Climb<'_> {
    /// Climbs from a byte of the last key. Returns the position of the last byte that it took.
    fn up(&mut self, from: usize) -> usize {
        // All the ranges together.
        let mut covered = 0usize;
        let points = FAN.max(self.rest / self.page / PAGES_A_POINT).min(2 * self.rest / self.page);
        let enough = points + self.points.len() - self.finer;
        for position in (0..=from).rev() {
            let held = self.held;
            let (values, above) = self.fan_out(position, held, self.rest.saturating_sub(covered));
            covered = covered.saturating_add(above.saturating_mul(held));
            self.held = held.saturating_mul(values);
            if covered >= self.rest.saturating_mul(2) || self.points.len() - self.finer >= enough {
                return position;
            }
        }
        0
    }

    /// SharedSplitPoints at the values of one byte above the last key's: one by one at those that are likely (in
    /// groups, where a value holds little; at the next byte too, where it holds much), run by run above. `left`: what
    /// the values may hold in all. Returns how many values are likely and how many of them lie above.
    fn fan_out(&mut self, position: usize, held: usize, left: usize) -> (usize, usize) {
        let byte = self.last[position];
        let likely = self.likely(byte);
        let higher = likely.clone().filter(|&value| value > byte);
        let above = higher.clone().count();
        let group = (self.page * 3 / 4 / held).max(above.div_ceil(FAN.min(2 * self.rest / self.page))).max(1);
        let finer =
            if group == 1 { self.finer(position + 1, held.min(left / above.max(1))) } else { Vec::new() };
        let runs = RUNS.into_iter().filter(|&run| usize::from(run) >= run_of(byte).1);
        let mut values: BTreeMap<u8, &[u8]> = runs.map(|run| (run, &[][..])).collect();
        values.extend(higher.step_by(group).map(|value| (value, finer.as_slice())));
        for (value, finer) in values {
            let mut point = self.last[..position].to_vec();
            point.push(value);
            if !is_before(&point, self.end) {
                break;
            }
            self.points.push(point.clone());
            if self.finer + finer.len() <= FINER_POINTS {
                let within = finer.iter().map(|&next| [point.as_slice(), &[next]].concat());
                let before = self.points.len();
                self.points.extend(within.filter(|point| is_before(point, self.end)));
                self.finer += self.points.len() - before;
            }
        }
        (likely.count(), above)
    }

    /// Where to split what lies behind one value of the byte before `position`, if that should hold more than
    /// may be returned at once: the values there are likely to be like the last key's.
    fn finer(&self, position: usize, held: usize) -> Vec<u8> {
        let wanted = (held + held / 4).div_ceil(self.page.saturating_mul(GUARD));
        let Some(&byte) = self.last.get(position).filter(|_| wanted > 1) else { return Vec::new() };
        let likely = self.likely(byte);
        let step = (likely.clone().count() / wanted).max(1);
        likely.step_by(step).skip(1).collect()
    }

    /// The values, ascending, of a byte that has this one: those of the same run, and those that were met, from that
    /// run on.
    fn likely(&self, byte: u8) -> impl Iterator<Item = u8> + Clone + use<> {
        let ((begin, end), met) = (run_of(byte), self.met);
        let values = (begin..256).filter(move |&value| value < end || met[value]);
        values.filter_map(|value| u8::try_from(value).ok())
    }
}
