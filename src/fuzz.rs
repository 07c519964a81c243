//! Targets to be attacked with bytes, and the driver that does so for a bounded time.
//!
//! A target is a function of bytes that panics if something is wrong. Targets that need more than text take the bytes
//! as the seed of the strategies that the property tests use: whatever the bytes are, they mean a condition and its
//! values, or a history of an index. So a failure is repeated from its bytes, and another driver can take the
//! targets.
//!
//! `cargo test --all-features --lib fuzz::` runs each for a second, and `make fuzz SECONDS=60` for a minute. See
//! `docs/decisions/0016-attacked-on-stable.md`.

use crate::change::{Change, Deletion, Revision};
use crate::etcd::{ClusterId, Header, RaftTerm, WatchMessage, txn_answers, watch_messages};
use crate::pattern::{Attributes, Pattern};
use crate::read::resume::{Resume, ResumeStep, Start};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;
use tokio::time::Instant;

/// A target, and inputs to begin with.
type Target = (fn(&[u8]), &'static [&'static [u8]]);

/// A text, and the rest behind a zero.
fn split(bytes: &[u8]) -> (String, String) {
    let text = String::from_utf8_lossy(bytes).into_owned();
    match text.split_once('\0') {
        Some((first, rest)) => (first.to_owned(), rest.to_owned()),
        None => (text, String::new()),
    }
}

/// Whether a key matches a pattern, as its documentation says it. `None`: two values for one attribute.
fn naive_match(pattern: &str, key: &str) -> Option<Attributes> {
    let (wanted, found): (Vec<&str>, Vec<&str>) = (pattern.split('/').collect(), key.split('/').collect());
    let mut attributes = Attributes::new();
    let mut bind = |name: &str, value: &str| {
        let same = attributes.get(name).is_none_or(|known| known == value);
        attributes.insert(name, value);
        !value.is_empty() && same
    };
    for (at, segment) in wanted.iter().enumerate() {
        let fits = if let Some(name) = segment.strip_prefix('*') {
            return (found.len() > at && bind(name, &found[at..].join("/"))).then_some(attributes);
        } else if let Some(name) = segment.strip_prefix(':') {
            found.get(at).is_some_and(|value| bind(name, value))
        } else {
            found.get(at) == Some(segment)
        };
        if !fits {
            return None;
        }
    }
    (wanted.len() == found.len()).then_some(attributes)
}

/// A pattern and a key: what is parsed is shown as it was, matches as documented, and makes the key again.
fn pattern(bytes: &[u8]) {
    let (text, key) = split(bytes);
    let Ok(pattern) = Pattern::parse(&text) else { return };
    assert_eq!(pattern.as_str(), text);
    assert!(text.starts_with(pattern.literal_prefix()));
    let found = pattern.matches(&key);
    assert_eq!(found, naive_match(&text, &key), "{text:?} on {key:?}");
    if let Some(attributes) = found {
        assert!(key.starts_with(pattern.literal_prefix()));
        assert_eq!(pattern.format(&attributes).as_deref(), Ok(key.as_str()));
    }
}

/// What a stream of a watch says, in any order: the position only moves forward, nothing is handed on twice, and what
/// is handed on is complete up to where it says.
fn watch_step(bytes: &[u8]) {
    let mut resume = Resume::default();
    let mut position = None;
    for step in bytes.chunks(3) {
        let [what, a, b] = [0, 1, 2].map(|at| i64::from(step.get(at).copied().unwrap_or(0)));
        let header = Header {
            cluster: ClusterId::new(if what & 0x40 == 0 { 7 } else { (a as u64) % 3 * 7 }),
            term: RaftTerm::new(if what & 0x80 == 0 { 1 } else { (b as u64) % 3 }),
            revision: Revision::new(a + b),
        };
        let change = |revision: i64| Change::Delete {
            key: vec![b'k'],
            revision: Revision::new(revision),
            how: Deletion::Delivered,
        };
        let heard = match what % 6 {
            0 => {
                match resume.start(header) {
                    Start::Snapshot(at) | Start::Beside(at) => {
                        resume.snapshot(at, None);
                        position = position.max(Some(at));
                    }
                    Start::Watch(from) => assert_eq!(Some(from), position, "it begins with what it had last"),
                    Start::Rewound(_) => (resume, position) = (Resume::default(), None),
                }
                continue;
            }
            1 => WatchMessage::Created(header),
            2 => WatchMessage::Changes(header, (a.min(b)..=a.max(b)).take(4).map(change).collect()),
            3 => WatchMessage::Alive(header, b % 2 == 0),
            4 => WatchMessage::Cancelled { compacted: Revision::new(b), reason: String::new() },
            _ => WatchMessage::Changes(header, Vec::new()),
        };
        match resume.heard(heard) {
            ResumeStep::Deliver(changes, at) => {
                assert!(changes.iter().all(|change| Some(change.revision()) > position), "handed on twice");
                assert!(changes.iter().all(|change| change.revision() <= at), "beyond where it is complete");
                assert!(position <= Some(at), "the position moved back");
                position = Some(at);
            }
            ResumeStep::Resync => position = None,
            ResumeStep::Alive | ResumeStep::Reopen(_) | ResumeStep::Doubt => {}
        }
        assert_eq!(resume.position(), position);
    }
}

#[cfg(feature = "http")]
fn query(bytes: &[u8]) {
    crate::http::attack(&String::from_utf8_lossy(bytes));
}

const PATTERN: Target = (
    pattern,
    &[
        b"/servers/:id/state\0/servers/7/state",
        b"/a/*rest\0/a/b/c",
        b"/:x/:x\0/y/y",
        b":a\0b",
        "/ü/:i\0/ü/ß".as_bytes(),
    ],
);
const CONDITION: Target = (crate::condition::attack, &[b"0123456789abcdef0123456789abcdef0123456789abcdef"]);
const INDEX: Target = (crate::index::tests::attack, &[b"0123456789abcdef0123456789abcdef0123456789abcdef"]);
const WATCH_STEP: Target = (watch_step, &[&[0, 5, 0, 1, 5, 0, 2, 6, 9, 3, 9, 3, 4, 0, 7, 0, 9, 9]]);
const TXN_ANSWER: Target = (txn_answers::attack, txn_answers::SEEDS);
const WATCH_MESSAGE: Target = (watch_messages::attack, watch_messages::SEEDS);
#[cfg(feature = "http")]
const QUERY: Target = (
    query,
    &[b"rule=a&state=held&attr.id=%3Cscript%3E&after=7&limit=5", b"engine=&verbose&exclude=x/lagging"],
);

/// Pieces that mean something to a target.
const TOKENS: [&[u8]; 16] = [
    b"/",
    b":",
    b"*",
    b"\0",
    b"&",
    b"=",
    b"%",
    b"attr.",
    b"%00",
    b"..",
    b"<script>",
    b"'\"",
    b"\xff\xfe",
    b"id",
    b"18446744073709551616",
    b"\n",
];

/// One of the inputs known so far, changed here and there.
fn changed(known: &[Vec<u8>], rng: &mut StdRng) -> Vec<u8> {
    let mut bytes = known[rng.random_range(0..known.len())].clone();
    for _ in 0..rng.random_range(1..8) {
        let at = rng.random_range(0..=bytes.len());
        match rng.random_range(0..7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
            1 if at < bytes.len() => bytes[at] = rng.random(),
            2 => bytes.truncate(at),
            3 => drop(bytes.splice(at..at, TOKENS[rng.random_range(0..TOKENS.len())].iter().copied())),
            4 => {
                let other = &known[rng.random_range(0..known.len())];
                let from = rng.random_range(0..=other.len());
                bytes.splice(at.., other[from..].iter().copied());
            }
            5 => {
                let copy = bytes[at..].to_vec();
                bytes.extend(copy.into_iter().take(64));
            }
            _ => {
                let more: Vec<u8> = (0..rng.random_range(1..64)).map(|_| rng.random()).collect();
                bytes.splice(at..at, more);
            }
        }
    }
    bytes.truncate(4096);
    bytes
}

/// Attacks a target for so long as the environment says, a second by default. Panics with the bytes that did it.
fn run(name: &str, (target, seeds): Target) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let time = Duration::from_secs(number("FUZZ_SECONDS").unwrap_or(1));
    let seed = number("FUZZ_SEED").unwrap_or_else(rand::random);
    let mut rng = StdRng::seed_from_u64(seed);
    let mut known: Vec<Vec<u8>> = seeds.iter().map(|seed| seed.to_vec()).collect();
    let (start, mut count) = (Instant::now(), 0u64);
    while start.elapsed() < time {
        let bytes = changed(&known, &mut rng);
        let attacked = catch_unwind(AssertUnwindSafe(|| target(&bytes)));
        if attacked.is_err() {
            panic!("{name} failed on {:?}; repeat with FUZZ_SEED={seed}", bytes.escape_ascii().to_string());
        }
        count += 1;
        // Some are built upon.
        if known.len() < 256 {
            known.push(bytes);
        } else if rng.random_range(0..16) == 0 {
            let at = rng.random_range(seeds.len()..known.len());
            known[at] = bytes;
        }
    }
    println!("{name}: {count} inputs in {time:?}, seed {seed}");
    assert!(count > 0, "{name} was not attacked");
}

/// A function of its own for each, so that they run side by side, and can be chosen.
mod target {
    use super::*;

    #[test]
    fn a_pattern_matches_as_documented() {
        run("pattern", PATTERN);
    }

    #[test]
    fn a_condition_agrees_with_its_oracle() {
        run("condition", CONDITION);
    }

    #[test]
    fn an_index_agrees_with_its_oracle_whatever_happens() {
        run("index", INDEX);
    }

    #[test]
    fn a_watch_never_moves_back() {
        run("watch step", WATCH_STEP);
    }

    #[test]
    fn an_answer_to_a_transaction_is_read_as_prost_reads_it() {
        run("answer to a transaction", TXN_ANSWER);
    }

    #[test]
    fn a_message_of_a_watch_is_read_as_prost_reads_it() {
        run("message of a watch", WATCH_MESSAGE);
    }

    #[cfg(feature = "http")]
    #[test]
    fn a_query_is_understood_or_refused_and_what_is_shown_is_escaped() {
        run("query", QUERY);
    }
}

#[test]
fn a_target_that_fails_is_reported_with_its_bytes() {
    let fails: Target = (|bytes| assert!(!bytes.contains(&b'/'), "a slash"), &[b"abc"]);
    let failed = catch_unwind(|| run("a mutant", fails)).expect_err("a token has a slash");
    let text = failed.downcast_ref::<String>().expect("a text");
    assert!(text.starts_with("a mutant failed on ") && text.contains("FUZZ_SEED="), "{text}");
}
