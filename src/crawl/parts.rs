//! Which parts of the keys a crawl reads. Engines that share the work each read a share of them an interval: the parts
//! that *they* have not checked for longest, by their own memory, so that no view of the others leaves a part out. No
//! I/O.

use crate::index::WatcherIndex;
use crate::mutants::{Mutant, is_active};
use crate::pattern::KeyRange;
use std::num::NonZeroUsize;

/// About how many parts all keys have: an engine reads at most one of them more than its share.
const PARTS: usize = 64;

/// A part has no fewer keys, unless there are no more: what is few is read whole.
const LEAST: usize = 1024;

/// The most shares: with more engines than these, each reads more than its share, so that the time is bounded in which
/// it has read everything.
pub(crate) const MOST_SHARES: usize = 8;

/// A stretch of keys: the first of them, and about how many there are.
pub(crate) type Stretch = (Vec<u8>, usize);

/// The parts of the keys of all watchers.
#[derive(Debug)]
pub(crate) struct CrawlParts {
    /// In order of watchers and keys. Those of a watcher have all of its keys, each once.
    parts: Vec<Part>,
    /// The number of the crawl under way, or of the last one.
    crawl: u64,
}

#[derive(Clone, Debug)]
struct Part {
    watcher: WatcherIndex,
    range: KeyRange,
    keys: usize,
    /// The last crawl that has read it to the end; 0: none.
    checked: u64,
}

/// What one crawl reads of a watcher's keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Picked {
    pub(crate) watcher: WatcherIndex,
    /// Ascending, and apart from each other. Empty: all of its keys.
    pub(crate) ranges: Vec<KeyRange>,
    /// About how many keys they have.
    pub(crate) keys: usize,
}

impl CrawlParts {
    /// By watcher: all of its keys.
    pub(crate) fn new(watchers: impl IntoIterator<Item = KeyRange>) -> Self {
        let part = |(at, range)| Part { watcher: WatcherIndex::new(at), range, keys: 0, checked: 0 };
        Self { parts: watchers.into_iter().enumerate().map(part).collect(), crawl: 0 }
    }

    /// Begins a crawl: picks the parts that were not checked for longest, one of so many shares of all keys.
    /// `stretches`: by watcher, where its keys are, as far as is known; `None` if it is left out.
    pub(crate) fn pick(&mut self, shares: NonZeroUsize, stretches: &[Option<Vec<Stretch>>]) -> Vec<Picked> {
        self.crawl += 1;
        self.shape(stretches);
        let open = |part: &&Part| stretches[part.watcher.index()].is_some();
        let all: usize = self.parts.iter().filter(open).map(|part| part.keys).sum();
        let share = all.div_ceil(shares.get().min(MOST_SHARES));
        let mut order: Vec<usize> = (0..self.parts.len()).filter(|at| open(&&self.parts[*at])).collect();
        if !is_active(Mutant::CrawlParts) {
            order.sort_by_key(|at| self.parts[*at].checked);
        }
        let mut keys = 0;
        let mut due = vec![false; self.parts.len()];
        for at in order {
            // Parts without keys, as far as is known, cost nothing.
            if keys >= share && self.parts[at].keys > 0 {
                break;
            }
            keys += self.parts[at].keys;
            due[at] = true;
        }
        let mut picked: Vec<Picked> = Vec::new();
        for (at, part) in self.parts.iter().enumerate().filter(|(at, _)| due[*at]) {
            match picked.last_mut().filter(|last| last.watcher == part.watcher) {
                None => {
                    let (watcher, keys) = (part.watcher, part.keys);
                    picked.push(Picked { watcher, ranges: vec![part.range.clone()], keys });
                }
                Some(last) => {
                    last.keys += part.keys;
                    match last.ranges.last_mut().filter(|_| due[at - 1]) {
                        Some(before) => before.end = part.range.end.clone(),
                        None => last.ranges.push(part.range.clone()),
                    }
                }
            }
        }
        for picked in &mut picked {
            let mut of_it = self.parts.iter().zip(&due).filter(|(part, _)| part.watcher == picked.watcher);
            if of_it.all(|(_, due)| *due) {
                picked.ranges.clear();
            }
        }
        picked
    }

    /// What the present crawl picked of this watcher's keys was read to its end.
    pub(crate) fn checked(&mut self, picked: &Picked) {
        for part in self.parts.iter_mut().filter(|part| part.watcher == picked.watcher) {
            if picked.ranges.is_empty() || picked.ranges.iter().any(|range| range.has(&part.range.start)) {
                part.checked = self.crawl;
            }
        }
    }

    /// Divides parts that have grown, and joins those that have shrunk. What a part remembers goes with its keys: two
    /// that are joined count as checked when both were.
    fn shape(&mut self, stretches: &[Option<Vec<Stretch>>]) {
        for part in &mut self.parts {
            if let Some(known) = &stretches[part.watcher.index()] {
                part.keys = stretches_of(&part.range, known).map(|(_, keys)| keys).sum();
            }
        }
        let all: usize = self.parts.iter().map(|part| part.keys).sum();
        let size = (all / PARTS).max(LEAST);
        let mut shaped: Vec<Part> = Vec::new();
        for part in self.parts.drain(..) {
            match stretches[part.watcher.index()].as_deref() {
                Some(known) if part.keys > 2 * size => divide(part, size, known, &mut shaped),
                _ => match shaped.last_mut() {
                    Some(last) if last.watcher == part.watcher && last.keys + part.keys <= size => {
                        last.range.end = part.range.end;
                        last.keys += part.keys;
                        last.checked = last.checked.min(part.checked);
                    }
                    _ => shaped.push(part),
                },
            }
        }
        self.parts = shaped;
    }
}

/// Those that begin within a range.
fn stretches_of<'s>(range: &KeyRange, known: &'s [Stretch]) -> impl Iterator<Item = &'s Stretch> {
    let from = known.partition_point(|(first, _)| *first < range.start);
    known[from..].iter().take_while(|(first, _)| range.has(first))
}

/// Into parts of about this size, at the beginnings of stretches.
fn divide(part: Part, size: usize, known: &[Stretch], out: &mut Vec<Part>) {
    let Part { watcher, range, checked, .. } = part;
    let mut next = Part {
        watcher,
        range: KeyRange { start: range.start.clone(), end: range.end.clone() },
        keys: 0,
        checked,
    };
    for (first, keys) in stretches_of(&range, known) {
        if next.keys >= size && *first > next.range.start {
            let mut done = next.clone();
            done.range.end = first.clone();
            out.push(done);
            next = Part {
                watcher,
                range: KeyRange { start: first.clone(), end: range.end.clone() },
                keys: 0,
                checked,
            };
        }
        next.keys += keys;
    }
    out.push(next);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::properties::check;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn key(number: u32) -> Vec<u8> {
        format!("/k/{number:06}").into_bytes()
    }

    /// Keys of one watcher in stretches of a hundred, as a read learns them.
    fn stretches(keys: std::ops::Range<u32>) -> Vec<Stretch> {
        keys.step_by(100).map(|first| (key(first), 100)).collect()
    }

    fn shares(count: usize) -> NonZeroUsize {
        NonZeroUsize::new(count).expect("a share")
    }

    fn has(picked: &[Picked], watcher: usize, key: &[u8]) -> bool {
        let of_it = picked.iter().filter(|picked| picked.watcher == WatcherIndex::new(watcher));
        of_it.into_iter().any(|picked| {
            picked.ranges.is_empty() || picked.ranges.iter().filter(|range| range.has(key)).count() == 1
        })
    }

    #[test]
    fn an_engine_alone_reads_everything_and_each_watcher_in_one_piece() {
        let mut parts = CrawlParts::new([KeyRange::of_prefix("/k/"), KeyRange::of_key("/flag")]);
        for _ in 0..3 {
            let picked = parts.pick(shares(1), &[Some(stretches(0..100_000)), Some(Vec::new())]);
            let of = |watcher, keys| Picked { watcher: WatcherIndex::new(watcher), ranges: Vec::new(), keys };
            assert_eq!(picked, [of(0, 100_000), of(1, 0)]);
            picked.iter().for_each(|picked| parts.checked(picked));
        }
    }

    #[test]
    fn few_keys_are_read_whole_by_everyone() {
        let mut parts = CrawlParts::new([KeyRange::of_prefix("/k/")]);
        for _ in 0..3 {
            let picked = parts.pick(shares(8), &[Some(stretches(0..1_500))]);
            assert_eq!(picked.len(), 1);
            assert!(picked[0].ranges.is_empty());
            picked.iter().for_each(|picked| parts.checked(picked));
        }
    }

    #[test]
    fn what_was_not_read_to_its_end_is_due_again() {
        let mut parts = CrawlParts::new([KeyRange::of_prefix("/k/")]);
        let known = [Some(stretches(0..100_000))];
        let first = parts.pick(shares(4), &known);
        let again = parts.pick(shares(4), &known);
        assert_eq!(first, again);
        again.iter().for_each(|picked| parts.checked(picked));
        let next = parts.pick(shares(4), &known);
        assert!(!next.iter().any(|picked| picked.ranges.iter().any(|range| first[0].ranges.contains(range))));
    }

    /// Whatever the shares are from one crawl to the next, and however keys come and go.
    #[test]
    fn every_key_is_read_in_time_and_a_share_is_little_more_than_that() {
        let crawls = prop::collection::vec((1..=20_usize, 0..4_u32, any::<bool>()), 30..60);
        check(64, &(crawls, 1..10_u32), |(crawls, few)| {
            let mut parts = CrawlParts::new([KeyRange::of_prefix("/k/"), KeyRange::of_prefix("/l/")]);
            // When a key was last read, by crawls.
            let mut read: BTreeMap<(usize, Vec<u8>), usize> = BTreeMap::new();
            let mut most = 20_000 * few;
            for (crawl, (count, change, fails)) in crawls.into_iter().enumerate() {
                // By at most a twentieth at once.
                let step = most / 2_000 * 100;
                most = if change == 0 { most - step } else { most + step };
                let of_k = stretches(0..most);
                let of_l: Vec<Stretch> =
                    (0..few).map(|number| (format!("/l/{number:03}").into(), 1)).collect();
                let picked = parts.pick(shares(count), &[Some(of_k.clone()), Some(of_l.clone())]);
                let all: usize = of_k.iter().chain(&of_l).map(|(_, keys)| keys).sum();
                let keys: usize = picked.iter().map(|picked| picked.keys).sum();
                let most_of_a_part = 2 * (all / PARTS).max(LEAST) + 200;
                let share = all.div_ceil(count.min(MOST_SHARES));
                prop_assert!(keys <= share + most_of_a_part, "{keys} of {all} for {count}");
                prop_assert!(parts.parts.len() <= 2 * PARTS + 8, "{} parts", parts.parts.len());
                let fails = fails && crawl % 7 == 0;
                if fails {
                    // As if it had not been.
                    read.values_mut().for_each(|since| *since += 1);
                } else {
                    picked.iter().for_each(|picked| parts.checked(picked));
                }
                // What is deleted, and comes back, is new.
                read.retain(|(watcher, first), _| *watcher == 1 || *first < key(most));
                for (watcher, stretches) in [of_k, of_l].into_iter().enumerate() {
                    for (first, _) in stretches {
                        let is_read = !fails && has(&picked, watcher, &first);
                        let since = read.entry((watcher, first)).or_insert(crawl);
                        if is_read {
                            *since = crawl;
                        }
                        let crawls = crawl - *since;
                        prop_assert!(crawls <= MOST_SHARES + 1, "not read for {crawls} crawls");
                    }
                }
            }
            Ok(())
        });
    }
}
