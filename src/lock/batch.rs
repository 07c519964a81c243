//! Decides which queued transactions travel together.
//!
//! A transaction costs etcd far more than the few keys it touches, so transactions that queued while the
//! requests before them were out go as nested ones of a single outer transaction, which has no compares of its
//! own. Each nested transaction decides by itself, but *all compares see the state before the request*, so
//! within one request no entry may read a key that another writes, and no key may be written twice.
//!
//! - An entry never overtakes an earlier one of its class that it is in conflict with. [`Class::Ending`] goes
//!   before [`Class::Lock`].
//! - An entry passed over because of a conflict goes before all others when the next batch is put together.
//! - Separate requests that are out at once may be in conflict: each is a transaction of its own.
//! - While puts are held, entries with puts wait where they are, and block nobody.

use foldhash::quality::FixedState;
use smallvec::SmallVec;
use std::collections::{HashSet, VecDeque};
use std::hash::BuildHasher;

/// What nesting adds to an entry's size in a request: tags and lengths around it.
const NESTING_BYTES: usize = 32;

/// Stands for a key. Keys that happen to share one only travel apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct KeyMark(u64);

impl KeyMark {
    /// The mark of a key.
    pub(crate) fn of(key: &[u8]) -> Self {
        Self(FixedState::default().hash_one(key))
    }
}

/// What an entry touches and how much room it takes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Footprint {
    /// Keys compared or read.
    pub(crate) reads: SmallVec<[KeyMark; 4]>,
    /// Keys put or deleted.
    pub(crate) writes: SmallVec<[KeyMark; 4]>,
    /// The largest of the numbers of compares, then-operations and else-operations.
    pub(crate) operations: usize,
    /// Size of the request.
    pub(crate) request_bytes: usize,
    /// Estimated size of the response.
    pub(crate) response_bytes: usize,
    /// Contains a put or needs a lease: refused by etcd while it has no space.
    pub(crate) puts: bool,
    /// Never shares a request: of a rule that was refused by permission.
    pub(crate) solo: bool,
}

/// Bounds on what is out at once.
#[derive(Clone, Debug)]
pub(crate) struct BatchLimits {
    /// Requests out at once. Default 4. With more, fewer entries share one.
    pub(crate) in_flight: usize,
    /// Entries in a request. Default 64.
    pub(crate) entries: usize,
    /// Operations that etcd accepts (`--max-txn-ops`), a nested level counted on top of the outer one.
    /// Default 128. If it is more than etcd's, requests are rejected.
    pub(crate) operations: usize,
    /// Size of a request. Default 1 MiB; etcd rejects more than 1.5 MiB.
    pub(crate) request_bytes: usize,
    /// Estimated size of a response. Default 16 MiB.
    pub(crate) response_bytes: usize,
}

impl Default for BatchLimits {
    fn default() -> Self {
        Self { in_flight: 4, entries: 64, operations: 128, request_bytes: 1 << 20, response_bytes: 16 << 20 }
    }
}

/// What an entry is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Class {
    /// Ends a firing: a commit or unlock. Goes first, as others wait for it.
    Ending,
    /// Begins a firing.
    Lock,
}

/// Names a request that is out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FlightId(u64);

/// Entries to be sent as one request. Keep it until the answer is there: it may have to be put back.
#[derive(Debug)]
#[must_use = "its entries are lost if it is not sent"]
pub(crate) struct Batch<E> {
    flight: FlightId,
    entries: Vec<Queued<E>>,
}

impl<E> Batch<E> {
    /// The flight it takes, until [`Batcher::landed`].
    pub(crate) fn flight(&self) -> FlightId {
        self.flight
    }

    /// The entries, in the order in which etcd is to take them.
    pub(crate) fn entries(&self) -> impl ExactSizeIterator<Item = &E> {
        self.entries.iter().map(|queued| &queued.entry)
    }

    /// The entries, to be answered.
    pub(crate) fn into_entries(self) -> impl ExactSizeIterator<Item = E> {
        self.entries.into_iter().map(|queued| queued.entry)
    }

    /// Takes out entries that are not to be sent any more.
    pub(crate) fn take_out(&mut self, unwanted: impl Fn(&E) -> bool) -> Vec<E> {
        let (out, kept) =
            std::mem::take(&mut self.entries).into_iter().partition(|queued| unwanted(&queued.entry));
        self.entries = kept;
        let out: Vec<Queued<E>> = out;
        out.into_iter().map(|queued| queued.entry).collect()
    }

    /// True if the entries go as nested transactions, false if the only one goes as it is.
    pub(crate) fn is_nested(&self) -> bool {
        self.entries.len() > 1
    }
}

/// Queues entries and forms batches of them, a new one whenever a flight is free.
///
/// The queue has no bound of its own: the caller has at most one entry a firing slot in here (see
/// [`Batcher::len`]), and what comes back by [`Batcher::put_back`] or [`Batcher::split`] was in here before.
#[derive(Debug)]
pub(crate) struct Batcher<E> {
    limits: BatchLimits,
    /// Batches that came back: sent again before all others, and never merged.
    again: VecDeque<Vec<Queued<E>>>,
    /// Entries passed over by an earlier batch.
    postponed: VecDeque<Queued<E>>,
    endings: VecDeque<Queued<E>>,
    locks: VecDeque<Queued<E>>,
    out: HashSet<FlightId, FixedState>,
    flights: u64,
    puts_held: bool,
}

#[derive(Debug)]
struct Queued<E> {
    footprint: Footprint,
    entry: E,
}

/// A batch that is being put together.
#[derive(Debug)]
struct Forming<E> {
    entries: Vec<Queued<E>>,
    /// Keys of the entries taken and of those passed over.
    reads: HashSet<KeyMark, FixedState>,
    writes: HashSet<KeyMark, FixedState>,
    operations: usize,
    request_bytes: usize,
    response_bytes: usize,
    full: bool,
}

impl<E> Batcher<E> {
    /// An empty queue.
    pub(crate) fn new(limits: BatchLimits) -> Self {
        Self {
            limits,
            again: VecDeque::new(),
            postponed: VecDeque::new(),
            endings: VecDeque::new(),
            locks: VecDeque::new(),
            out: HashSet::default(),
            flights: 0,
            puts_held: false,
        }
    }

    /// Queues an entry.
    pub(crate) fn push(&mut self, class: Class, footprint: Footprint, entry: E) {
        let queued = Queued { footprint, entry };
        match class {
            Class::Ending => self.endings.push_back(queued),
            Class::Lock => self.locks.push_back(queued),
        }
    }

    /// Entries queued, those out not counted.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        let again: usize = self.again.iter().map(Vec::len).sum();
        again + self.postponed.len() + self.endings.len() + self.locks.len()
    }

    /// Requests out.
    #[cfg(test)]
    pub(crate) fn in_flight(&self) -> usize {
        self.out.len()
    }

    /// The next batch to send, if a flight is free and an entry may go. An entry too large for the limits goes
    /// alone, and etcd decides.
    pub(crate) fn next(&mut self) -> Option<Batch<E>> {
        if self.out.len() >= self.limits.in_flight {
            return None;
        }
        let entries = self.next_again().or_else(|| self.next_merged())?;
        self.flights += 1;
        let flight = FlightId(self.flights);
        self.out.insert(flight);
        Some(Batch { flight, entries })
    }

    /// Frees the flight of a request that is over. Freeing it twice does nothing.
    pub(crate) fn landed(&mut self, flight: FlightId) {
        self.out.remove(&flight);
    }

    /// Takes back a batch that had no effect (etcd has no space, no leader, cannot be reached), to be sent
    /// again as it is, before all others; if puts are held, without them. Frees its flight.
    pub(crate) fn put_back(&mut self, batch: Batch<E>) {
        self.landed(batch.flight);
        self.again.push_front(batch.entries);
    }

    /// Takes back a batch that was rejected because of an entry unknown. Its halves are sent again, each by
    /// itself and before all others, until the entry at fault is alone: that one is returned. Frees its flight.
    #[must_use = "the entry at fault is lost if it is not answered"]
    pub(crate) fn split(&mut self, batch: Batch<E>) -> Option<E> {
        self.landed(batch.flight);
        let mut front = batch.entries;
        if front.len() <= 1 {
            return front.pop().map(|queued| queued.entry);
        }
        let back = front.split_off(front.len() / 2);
        self.again.push_front(back);
        self.again.push_front(front);
        None
    }

    /// Holds entries with puts back, while etcd has no space, or lets them go again.
    pub(crate) fn hold_puts(&mut self, hold: bool) {
        self.puts_held = hold;
    }

    /// The first batch that came back, less what is held; what is held stays.
    fn next_again(&mut self) -> Option<Vec<Queued<E>>> {
        let hold = self.puts_held;
        let free = |queued: &Queued<E>| !(hold && queued.footprint.puts);
        let position = self.again.iter().position(|batch| batch.iter().any(free))?;
        let (go, stay): (Vec<_>, Vec<_>) = self.again.remove(position)?.into_iter().partition(free);
        if !stay.is_empty() {
            self.again.insert(position, stay);
        }
        Some(go)
    }

    /// A batch from the queues. Entries that cannot share it are postponed, until one does not fit.
    fn next_merged(&mut self) -> Option<Vec<Queued<E>>> {
        let mut forming = Forming::new();
        let mut postponed = VecDeque::new();
        for queue in [&mut self.postponed, &mut self.endings, &mut self.locks] {
            let mut left = VecDeque::new();
            while !forming.full
                && let Some(queued) = queue.pop_front()
            {
                if self.puts_held && queued.footprint.puts {
                    left.push_back(queued);
                } else if !forming.tolerates(&queued.footprint) {
                    forming.touch(&queued.footprint);
                    postponed.push_back(queued);
                } else if !forming.fits(&queued.footprint, &self.limits) {
                    forming.full = true;
                    left.push_back(queued);
                } else {
                    forming.take(queued);
                }
            }
            left.append(queue);
            *queue = left;
        }
        postponed.append(&mut self.postponed);
        self.postponed = postponed;
        (!forming.entries.is_empty()).then_some(forming.entries)
    }
}

impl<E> Forming<E> {
    fn new() -> Self {
        Self {
            entries: Vec::new(),
            reads: HashSet::default(),
            writes: HashSet::default(),
            operations: 0,
            request_bytes: 0,
            response_bytes: 0,
            full: false,
        }
    }

    /// True if an entry is in no conflict with those taken and overtakes none of those passed over.
    fn tolerates(&self, entry: &Footprint) -> bool {
        let written = |key| self.writes.contains(key);
        let touched = |key| self.reads.contains(key) || written(key);
        let apart = entry.solo && !self.entries.is_empty();
        !apart && !entry.reads.iter().any(written) && !entry.writes.iter().any(touched)
    }

    /// True if there is room for an entry; for the first there always is.
    fn fits(&self, entry: &Footprint, limits: &BatchLimits) -> bool {
        let entries = self.entries.len() + 1;
        entries == 1
            || entries <= limits.entries
                && entries + self.operations.max(entry.operations) <= limits.operations
                && self.request_bytes + entry.request_bytes + entries * NESTING_BYTES <= limits.request_bytes
                && self.response_bytes + entry.response_bytes <= limits.response_bytes
    }

    fn take(&mut self, queued: Queued<E>) {
        let entry = &queued.footprint;
        self.touch(entry);
        self.operations = self.operations.max(entry.operations);
        self.request_bytes += entry.request_bytes;
        self.response_bytes += entry.response_bytes;
        self.full = entry.solo;
        self.entries.push(queued);
    }

    fn touch(&mut self, entry: &Footprint) {
        self.reads.extend(&entry.reads);
        self.writes.extend(&entry.writes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An entry of a test; its keys are the letters of `reads` and `writes`.
    #[derive(Clone, Debug, PartialEq)]
    struct Entry {
        name: String,
        class: Class,
        reads: String,
        writes: String,
        operations: usize,
        bytes: usize,
        puts: bool,
        solo: bool,
        /// Makes etcd reject the request it is in.
        bad: bool,
    }

    fn entry(name: &str, class: Class) -> Entry {
        Entry {
            name: name.into(),
            class,
            reads: String::new(),
            writes: String::new(),
            operations: 1,
            bytes: 10,
            puts: false,
            solo: false,
            bad: false,
        }
    }

    fn lock(name: &str) -> Entry {
        entry(name, Class::Lock)
    }

    fn ending(name: &str) -> Entry {
        entry(name, Class::Ending)
    }

    impl Entry {
        fn reads(self, keys: &str) -> Self {
            Self { reads: keys.into(), ..self }
        }

        fn writes(self, keys: &str) -> Self {
            Self { writes: keys.into(), ..self }
        }

        fn operations(self, operations: usize) -> Self {
            Self { operations, ..self }
        }

        fn bytes(self, bytes: usize) -> Self {
            Self { bytes, ..self }
        }

        fn puts(self) -> Self {
            Self { puts: true, ..self }
        }

        fn solo(self) -> Self {
            Self { solo: true, ..self }
        }

        fn footprint(&self) -> Footprint {
            let marks = |keys: &str| keys.bytes().map(|key| KeyMark::of(&[key])).collect();
            Footprint {
                reads: marks(&self.reads),
                writes: marks(&self.writes),
                operations: self.operations,
                request_bytes: self.bytes,
                response_bytes: self.bytes * 10,
                puts: self.puts,
                solo: self.solo,
            }
        }

        fn is_in_conflict_with(&self, other: &Self) -> bool {
            let any = |a: &str, b: &str| a.chars().any(|key| b.contains(key));
            any(&self.writes, &other.writes)
                || any(&self.writes, &other.reads)
                || any(&self.reads, &other.writes)
        }
    }

    fn small_limits() -> BatchLimits {
        BatchLimits { in_flight: 100, entries: 4, operations: 10, request_bytes: 1000, response_bytes: 5000 }
    }

    fn batcher(limits: BatchLimits, entries: Vec<Entry>) -> Batcher<Entry> {
        let mut batcher = Batcher::new(limits);
        for entry in entries {
            batcher.push(entry.class, entry.footprint(), entry);
        }
        batcher
    }

    fn names(batch: &Batch<Entry>) -> String {
        batch.entries().map(|entry| entry.name.as_str()).collect()
    }

    /// All the batches that can be sent now, as the names of their entries.
    fn sent(batcher: &mut Batcher<Entry>) -> Vec<String> {
        std::iter::from_fn(|| batcher.next()).map(|batch| names(&batch)).collect()
    }

    #[test]
    fn entries_travel_together_or_apart() {
        let cases: [(&str, Vec<Entry>, &[&str]); 20] = [
            ("nothing queued, nothing sent", vec![], &[]),
            (
                "entries that share no key go together",
                vec![lock("a").writes("x"), lock("b").writes("y")],
                &["ab"],
            ),
            ("two readers of a key go together", vec![lock("a").reads("x"), lock("b").reads("x")], &["ab"]),
            ("an entry may read what it writes", vec![lock("a").reads("x").writes("x"), lock("b")], &["ab"]),
            (
                "two writers of a key go apart",
                vec![lock("a").writes("x"), lock("b").writes("x")],
                &["a", "b"],
            ),
            ("a reader goes after a writer", vec![lock("a").writes("x"), lock("b").reads("x")], &["a", "b"]),
            ("a writer goes after a reader", vec![lock("a").reads("x"), lock("b").writes("x")], &["a", "b"]),
            ("endings go before locks", vec![lock("a"), ending("b"), lock("c"), ending("d")], &["bdac"]),
            (
                "an ending goes before an earlier lock of the same key",
                vec![lock("a").writes("x"), ending("b").writes("x")],
                &["b", "a"],
            ),
            (
                "others overtake an entry in conflict",
                vec![lock("a").writes("x"), lock("b").writes("x"), lock("c")],
                &["ac", "b"],
            ),
            (
                "but not those in conflict with it",
                vec![
                    lock("a").writes("x"),
                    lock("b").writes("xy"),
                    lock("c").reads("y"),
                    lock("d").reads("z"),
                ],
                &["ad", "b", "c"],
            ),
            (
                "a postponed entry goes before endings",
                vec![
                    lock("a").writes("x"),
                    ending("b").writes("x"),
                    ending("c"),
                    ending("d"),
                    ending("e"),
                    ending("f"),
                ],
                &["bcde", "fa"],
            ),
            (
                "a queue of one key goes one by one",
                vec![lock("a").writes("x"), lock("b").writes("x"), lock("c").writes("x")],
                &["a", "b", "c"],
            ),
            (
                "no more entries than allowed",
                vec![lock("a"), lock("b"), lock("c"), lock("d"), lock("e")],
                &["abcd", "e"],
            ),
            (
                "the entries count on top of the operations of the largest",
                vec![
                    lock("a").operations(7),
                    lock("b").operations(3),
                    lock("c").operations(7),
                    lock("d").operations(6),
                ],
                &["abc", "d"],
            ),
            (
                "an entry too large goes alone",
                vec![lock("a"), lock("b").operations(11), lock("c")],
                &["a", "b", "c"],
            ),
            (
                "requests stay below their size, nesting included",
                vec![lock("a").bytes(450), lock("b").bytes(486), lock("c").bytes(450), lock("d").bytes(487)],
                &["ab", "c", "d"],
            ),
            ("an entry marked solo goes alone", vec![lock("a"), lock("b").solo(), lock("c")], &["ac", "b"]),
            ("also if it comes first", vec![lock("a").solo(), lock("b"), lock("c")], &["a", "bc"]),
            (
                "several marked solo go one by one",
                vec![lock("a").solo(), ending("b").solo(), lock("c"), lock("d").solo()],
                &["b", "a", "c", "d"],
            ),
        ];
        for (name, entries, expected) in cases {
            let limits = BatchLimits { response_bytes: usize::MAX, ..small_limits() };
            assert_eq!(sent(&mut batcher(limits, entries)), expected, "{name}");
        }
    }

    #[test]
    fn responses_stay_below_their_size() {
        let entries = vec![lock("a").bytes(250), lock("b").bytes(250), lock("c").bytes(1)];
        assert_eq!(sent(&mut batcher(small_limits(), entries)), ["ab", "c"]);
    }

    #[test]
    fn a_postponed_lock_goes_before_endings_that_came_later() {
        let mut batcher = batcher(small_limits(), vec![lock("a").writes("x"), lock("b").writes("x")]);
        assert_eq!(names(&batcher.next().unwrap()), "a");
        for name in ["c", "d", "e", "f"] {
            batcher.push(Class::Ending, ending(name).footprint(), ending(name));
        }
        assert_eq!(sent(&mut batcher), ["bcde", "f"]);
    }

    #[test]
    fn a_request_goes_only_when_a_flight_is_free() {
        let limits = BatchLimits { in_flight: 2, entries: 1, ..small_limits() };
        let mut batcher = batcher(limits, vec![lock("a"), lock("b"), lock("c"), lock("d")]);
        let first = batcher.next().unwrap();
        assert_eq!(sent(&mut batcher), ["b"]);
        assert_eq!((batcher.in_flight(), batcher.len()), (2, 2));
        batcher.landed(first.flight());
        batcher.landed(first.flight());
        assert_eq!(sent(&mut batcher), ["c"], "landing twice frees one flight");
    }

    #[test]
    fn only_several_entries_are_nested() {
        let mut batcher = batcher(small_limits(), vec![lock("a").solo(), lock("b"), lock("c")]);
        assert!(!batcher.next().unwrap().is_nested());
        assert!(batcher.next().unwrap().is_nested());
    }

    #[test]
    fn a_rejected_batch_is_halved_until_the_bad_entry_is_alone() {
        let mut batcher =
            batcher(small_limits(), vec![lock("a"), lock("b"), lock("c"), lock("d"), ending("e")]);
        let (mut sent, mut at_fault) = (Vec::new(), Vec::new());
        while let Some(batch) = batcher.next() {
            sent.push(names(&batch));
            if names(&batch).contains('c') {
                at_fault.extend(batcher.split(batch).map(|entry| entry.name));
            } else {
                batcher.landed(batch.flight());
            }
            if sent.len() == 1 {
                batcher.push(Class::Ending, ending("f").footprint(), ending("f"));
            }
        }
        assert_eq!(sent, ["eabc", "ea", "bc", "b", "c", "fd"]);
        assert_eq!(at_fault, ["c"]);
        assert_eq!((batcher.len(), batcher.in_flight()), (0, 0));
    }

    #[test]
    fn while_puts_are_held_only_deletes_go() {
        let entries =
            vec![lock("a").writes("x").puts(), ending("b").puts(), ending("c").writes("x"), lock("d")];
        let mut batcher = batcher(small_limits(), entries);
        batcher.hold_puts(true);
        assert_eq!(sent(&mut batcher), ["cd"]);
        assert_eq!(batcher.len(), 2);
        batcher.hold_puts(false);
        assert_eq!(sent(&mut batcher), ["ba"]);
    }

    #[test]
    fn a_batch_put_back_for_want_of_space_goes_in_two_parts() {
        let entries = vec![lock("a").puts(), lock("b"), lock("c").puts(), lock("d"), lock("e")];
        let mut batcher = batcher(small_limits(), entries);
        let batch = batcher.next().unwrap();
        batcher.hold_puts(true);
        batcher.put_back(batch);
        assert_eq!(sent(&mut batcher), ["bd", "e"]);
        batcher.push(Class::Ending, ending("f").footprint(), ending("f"));
        batcher.hold_puts(false);
        assert_eq!(sent(&mut batcher), ["ac", "f"]);
    }

    #[derive(Clone, Debug)]
    enum Action {
        Push(Entry),
        Send,
        /// A request out is answered, or put back.
        Answer(prop::sample::Index, bool),
        Hold(bool),
    }

    fn any_action() -> impl Strategy<Value = Action> {
        let flags = (prop::bool::weighted(0.3), prop::bool::weighted(0.05), prop::bool::weighted(0.05));
        let entry = (any::<bool>(), "[a-f]{0,2}", "[a-f]{0,2}", 1..12usize, 0..500usize, flags).prop_map(
            |(ending, reads, writes, operations, bytes, (puts, solo, bad))| {
                let class = if ending { Class::Ending } else { Class::Lock };
                let name = String::new();
                Action::Push(Entry { name, class, reads, writes, operations, bytes, puts, solo, bad })
            },
        );
        prop_oneof![
            8 => entry,
            3 => Just(Action::Send),
            3 => (any::<prop::sample::Index>(), prop::bool::weighted(0.2)).prop_map(|(at, back)| Action::Answer(at, back)),
            1 => any::<bool>().prop_map(Action::Hold),
        ]
    }

    /// Follows a batcher with plain lists, and checks every batch against the rules.
    struct Checker {
        limits: BatchLimits,
        batcher: Batcher<Entry>,
        /// Pushed and never sent, in order.
        waiting: Vec<Entry>,
        /// Batches that came back, the first one first.
        again: Vec<Vec<Entry>>,
        out: Vec<Batch<Entry>>,
        /// Still waiting after the last batch was put together.
        passed_over: Vec<Entry>,
        holding: bool,
        held_ever: bool,
        done: Vec<String>,
    }

    impl Checker {
        fn act(&mut self, action: Action, number: usize) {
            match action {
                Action::Push(entry) => {
                    let entry = Entry { name: number.to_string(), ..entry };
                    self.batcher.push(entry.class, entry.footprint(), entry.clone());
                    self.waiting.push(entry);
                }
                Action::Send => self.send(),
                Action::Answer(index, back) => {
                    if !self.out.is_empty() {
                        let at = index.index(self.out.len());
                        self.answer(at, back);
                    }
                }
                Action::Hold(hold) => {
                    self.holding = hold;
                    self.held_ever |= hold;
                    self.batcher.hold_puts(hold);
                }
            }
            let queued = self.waiting.len() + self.again.iter().map(Vec::len).sum::<usize>();
            assert_eq!((self.batcher.len(), self.batcher.in_flight()), (queued, self.out.len()));
            assert!(self.out.len() <= self.limits.in_flight);
        }

        fn may_go(&self, entry: &Entry) -> bool {
            !(self.holding && entry.puts)
        }

        fn send(&mut self) {
            let Some(batch) = self.batcher.next() else {
                let all_held =
                    !self.again.iter().flatten().chain(&self.waiting).any(|entry| self.may_go(entry));
                assert!(self.out.len() == self.limits.in_flight || all_held, "idle without a reason");
                return;
            };
            let entries: Vec<Entry> = batch.entries().cloned().collect();
            self.check_request(&entries);
            assert_eq!(batch.is_nested(), entries.len() > 1);
            if let Some(at) = self.again.iter().position(|group| group.iter().any(|entry| self.may_go(entry)))
            {
                let (go, stay): (Vec<_>, Vec<_>) =
                    self.again.remove(at).into_iter().partition(|entry| self.may_go(entry));
                assert_eq!(entries, go, "what came back goes first and by itself");
                if !stay.is_empty() {
                    self.again.insert(at, stay);
                }
            } else {
                self.check_order(&entries);
                // With an entry that goes alone, others were not even looked at.
                let alone = self.waiting.iter().any(|entry| entry.solo);
                self.waiting.retain(|entry| !entries.contains(entry));
                self.passed_over = if alone { Vec::new() } else { self.waiting.clone() };
            }
            self.out.push(batch);
        }

        fn check_request(&self, entries: &[Entry]) {
            assert!(!entries.is_empty());
            assert!(entries.iter().all(|entry| self.may_go(entry)), "puts are held");
            if entries.len() == 1 {
                return;
            }
            for (at, entry) in entries.iter().enumerate() {
                assert!(!entry.solo, "{entry:?} is not alone");
                for other in &entries[at + 1..] {
                    assert!(!entry.is_in_conflict_with(other), "{entry:?} with {other:?}");
                }
            }
            let largest = entries.iter().map(|entry| entry.operations).max().unwrap();
            let bytes: usize = entries.iter().map(|entry| entry.bytes).sum();
            assert!(entries.len() <= self.limits.entries);
            assert!(entries.len() + largest <= self.limits.operations);
            assert!(bytes + entries.len() * NESTING_BYTES <= self.limits.request_bytes);
            assert!(bytes * 10 <= self.limits.response_bytes);
        }

        fn check_order(&self, entries: &[Entry]) {
            for entry in entries {
                assert!(self.waiting.contains(entry), "{entry:?} was sent before");
            }
            if self.held_ever {
                return;
            }
            let place = |entry: &Entry| self.waiting.iter().position(|waiting| waiting == entry).unwrap();
            let left = || self.waiting.iter().filter(|waiting| !entries.contains(waiting));
            for entry in entries {
                for earlier in left().filter(|left| place(left) < place(entry) && left.class == entry.class) {
                    assert!(!entry.is_in_conflict_with(earlier), "{entry:?} overtook {earlier:?}");
                }
            }
            let roomy = self.limits.entries == usize::MAX;
            if roomy && !self.waiting.iter().any(|entry| entry.solo) {
                for left in left() {
                    let was_passed_over = self.passed_over.contains(left);
                    let has_a_reason = self.waiting.iter().any(|other| {
                        let ahead = !was_passed_over || self.passed_over.contains(other);
                        ahead && other != left && other.is_in_conflict_with(left)
                    });
                    assert!(has_a_reason, "{left:?} was passed over for no reason or once too often");
                }
            }
        }

        fn answer(&mut self, at: usize, back: bool) {
            let batch = self.out.swap_remove(at);
            let entries: Vec<Entry> = batch.entries().cloned().collect();
            if back {
                self.batcher.put_back(batch);
                self.again.insert(0, entries);
            } else if !entries.iter().any(|entry| entry.bad) {
                self.batcher.landed(batch.flight());
                self.done.extend(batch.into_entries().map(|entry| entry.name));
            } else if let Some(alone) = self.batcher.split(batch) {
                assert!(alone.bad && entries == [alone.clone()]);
                self.done.push(alone.name);
            } else {
                let (front, back) = entries.split_at(entries.len() / 2);
                self.again.splice(0..0, [front.to_vec(), back.to_vec()]);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn every_rule_is_kept(
            actions in proptest::collection::vec(any_action(), 0..150),
            in_flight in 1..5usize, roomy: bool, holds: bool,
        ) {
            let limits = if roomy {
                let most = usize::MAX;
                BatchLimits { in_flight, entries: most, operations: most, request_bytes: most, response_bytes: most }
            } else {
                BatchLimits { in_flight, ..small_limits() }
            };
            let mut checker = Checker {
                batcher: Batcher::new(limits.clone()), limits, waiting: vec![], again: vec![], out: vec![],
                passed_over: vec![], holding: false, held_ever: false, done: vec![],
            };
            let mut pushed = Vec::new();
            for (number, action) in actions.into_iter().enumerate() {
                if matches!(action, Action::Push(_)) {
                    pushed.push(number.to_string());
                }
                if holds || !matches!(action, Action::Hold(_)) {
                    checker.act(action, number);
                }
            }
            checker.act(Action::Hold(false), 0);
            while checker.batcher.len() + checker.out.len() > 0 {
                checker.act(Action::Send, 0);
                checker.answer(0, false);
            }
            checker.done.sort();
            pushed.sort();
            prop_assert_eq!(checker.done, pushed);
        }
    }
}
