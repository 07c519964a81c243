//! Tests of the batcher: tables, sequences of steps, and random entries with a checker of all its rules.

use super::*;
use proptest::prelude::*;

/// An entry of a test. Its keys are the letters of `reads` and `writes`.
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
        let marks = |keys: &str| keys.bytes().map(|key| KeyHash::of(&[key])).collect();
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
        any(&self.writes, &other.writes) || any(&self.writes, &other.reads) || any(&self.reads, &other.writes)
    }
}

fn small_limits() -> BatchLimits {
    BatchLimits {
        in_flight: 100,
        entries: 4,
        operations: 10,
        request_bytes: 1000,
        response_bytes: 5000,
        ..BatchLimits::default()
    }
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
        ("two writers of a key go apart", vec![lock("a").writes("x"), lock("b").writes("x")], &["a", "b"]),
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
            vec![lock("a").writes("x"), lock("b").writes("xy"), lock("c").reads("y"), lock("d").reads("z")],
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
    let mut batcher = batcher(small_limits(), vec![lock("a"), lock("b"), lock("c"), lock("d"), ending("e")]);
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
    let entries = vec![lock("a").writes("x").puts(), ending("b").puts(), ending("c").writes("x"), lock("d")];
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
    /// A request in flight is answered or put back.
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
    /// The entries that were still waiting when the last batch had been formed.
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
            let all_held = !self.again.iter().flatten().chain(&self.waiting).any(|entry| self.may_go(entry));
            assert!(self.out.len() == self.limits.in_flight || all_held, "idle without a reason");
            return;
        };
        let entries: Vec<Entry> = batch.entries().cloned().collect();
        self.check_request(&entries);
        assert_eq!(batch.is_nested(), entries.len() > 1);
        if let Some(at) = self.again.iter().position(|group| group.iter().any(|entry| self.may_go(entry))) {
            let (go, stay): (Vec<_>, Vec<_>) =
                self.again.remove(at).into_iter().partition(|entry| self.may_go(entry));
            assert_eq!(entries, go, "what came back goes first and by itself");
            if !stay.is_empty() {
                self.again.insert(at, stay);
            }
        } else {
            self.check_order(&entries);
            // If an entry had to be sent alone, the others were not looked at.
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
            BatchLimits {
                in_flight,
                entries: most,
                operations: most,
                request_bytes: most,
                max_request_bytes: most,
                response_bytes: most,
            }
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
