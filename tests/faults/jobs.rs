//! The work: what the load asks for, what the callbacks do about it, and which keys tell that.
//!
//! A job is one key, `/todo/KIND/ID`, put once. Whoever does it deletes that and puts `/done/KIND/ID` in the same
//! commit, with the name of the run and a sum of what it was shown.

use crate::history::sum;

/// Locked, and short.
pub const LOCKED: &str = "locked";
/// Without a lock.
pub const OPTIMISTIC: &str = "optimistic";
/// Two rules that share a lock.
pub const LEFT: &str = "left";
pub const RIGHT: &str = "right";

/// A key that nobody puts.
pub const NEVER: &str = "/switch";

pub const KINDS: [&str; 4] = [LOCKED, OPTIMISTIC, LEFT, RIGHT];

/// What a callback is to do, told at the beginning of the job's value; the rest of the value is ballast.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Job {
    /// How long it works.
    pub work_ms: u64,
    /// How many keys it reads meanwhile.
    pub reads: u32,
    /// How often it fails first.
    pub failures: u32,
    /// When told to end, it goes on until it is dropped.
    pub stubborn: bool,
}

impl Job {
    pub fn value(&self, ballast: &[u8]) -> Vec<u8> {
        let Self { work_ms, reads, failures, stubborn } = *self;
        let mut value = format!("{work_ms} {reads} {failures} {}\n", u8::from(stubborn)).into_bytes();
        value.extend_from_slice(ballast);
        value
    }

    pub fn of(value: &[u8]) -> Option<Self> {
        let head = std::str::from_utf8(value.split(|byte| *byte == b'\n').next()?).ok()?;
        let mut words = head.split(' ');
        let mut word = || words.next()?.parse::<u64>().ok();
        Some(Self {
            work_ms: word()?,
            reads: word()? as u32,
            failures: word()? as u32,
            stubborn: word()? != 0,
        })
    }
}

pub fn todo(kind: &str, id: &str) -> String {
    format!("/todo/{kind}/{id}")
}

pub fn done(kind: &str, id: &str) -> String {
    format!("/done/{kind}/{id}")
}

/// `("todo" or "done", kind, id)` of a key of this work.
pub fn parse(key: &[u8]) -> Option<(&str, &str, &str)> {
    let mut parts = std::str::from_utf8(key).ok()?.strip_prefix('/')?.splitn(3, '/');
    let (what, kind, id) = (parts.next()?, parts.next()?, parts.next()?);
    let is_one_segment = !id.is_empty() && !id.contains('/');
    (is_one_segment && matches!(what, "todo" | "done") && KINDS.contains(&kind)).then_some((what, kind, id))
}

/// What excludes the runs of an instance from each other.
pub fn lock(kind: &str, id: &str) -> Option<String> {
    match kind {
        OPTIMISTIC => None,
        LEFT | RIGHT => Some(format!("pair/{id}")),
        kind => Some(format!("{kind}/{id}")),
    }
}

/// The value of `/done/KIND/ID`.
pub fn receipt(run: &str, shown: &[u8]) -> String {
    format!("{run} {}", sum(shown))
}

/// The name of the run, and the sum of what it was shown.
pub fn read_receipt(value: &[u8]) -> Option<(&str, u64)> {
    let (run, sum) = std::str::from_utf8(value).ok()?.split_once(' ')?;
    Some((run, sum.parse().ok()?))
}

#[test]
fn a_job_survives_its_value_whatever_its_ballast() {
    for job in [
        Job::default(),
        Job { work_ms: 30_000, reads: 2, failures: 1, stubborn: true },
        Job { work_ms: 1, ..Job::default() },
    ] {
        assert_eq!(Job::of(&job.value(b"")), Some(job));
        assert_eq!(Job::of(&job.value(&[0, 255, b'\n', b' '])), Some(job));
    }
    assert_eq!(Job::of(b"something else"), None);
}

#[test]
fn keys_and_receipts_are_read_as_they_are_written() {
    assert_eq!(parse(todo(LEFT, "a%2F b").as_bytes()), Some(("todo", LEFT, "a%2F b")));
    assert_eq!(parse(done(LOCKED, "7").as_bytes()), Some(("done", LOCKED, "7")));
    assert_eq!(parse(b"/etcd-rules/faults/locks/7"), None);
    for other in [&b"/todo/unknown/7"[..], b"/todo/locked/", b"/todo/locked/a/b", b"/todo/locked/\xff"] {
        assert_eq!(parse(other), None);
    }
    let receipt = receipt("2-91", b"5 0 0 0\n");
    assert_eq!(read_receipt(receipt.as_bytes()), Some(("2-91", sum(b"5 0 0 0\n"))));
}
