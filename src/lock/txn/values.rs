//! The values of locks and marks, as JSON.

use crate::change::Revision;
use crate::compiled::Beginning;
use crate::trace::hide::HIDDEN;
use crate::trace::reveal::Reveal;
use etcd_client::proto::PbKeyValue;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use std::sync::Arc;

/// An attempt to fire. Different for every one, so that a request sent twice recognises its own lock, and that an
/// answer finds the firing which waits for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Nonce(pub(crate) u64);

/// The value of a lock key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holder {
    /// The engine, for people who read the key.
    pub(crate) engine: Arc<str>,
    /// Different for every attempt, so that a request that is sent twice recognises its own lock.
    pub(crate) nonce: Nonce,
    /// Unix time in milliseconds, for people who read the key.
    pub(crate) since: u64,
    /// The beginning of its name, if the key has a digest in its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<Beginning>,
}

impl Holder {
    /// As it is written. Every firing with a lock writes one, so this does without what serde_json does for any struct.
    pub(super) fn json(&self) -> SmallVec<[u8; 128]> {
        let Self { engine, nonce, since, name } = self;
        let mut text = SmallVec::new();
        text.extend_from_slice(br#"{"engine":"#);
        if engine.bytes().all(|byte| byte >= b' ' && !matches!(byte, b'"' | b'\\')) {
            text.push(b'"');
            text.extend_from_slice(engine.as_bytes());
            text.push(b'"');
        } else {
            text.extend_from_slice(&json(engine));
        }
        text.extend_from_slice(br#","nonce":"#);
        decimal(nonce.0, &mut text);
        text.extend_from_slice(br#","since":"#);
        decimal(*since, &mut text);
        if let Some(name) = name {
            text.extend_from_slice(br#","name":"#);
            text.extend_from_slice(&json(name));
        }
        text.push(b'}');
        text
    }
}

/// The value of a mark (a backoff key): why, and until when, an instance is held back in all engines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InstanceMark {
    pub(crate) engine: String,
    /// How often the callback has failed in a row. 0 if it asked to be run again later.
    pub(crate) attempt: u32,
    /// Unix time in milliseconds, for people who read the key. The engine that wrote the mark removes it when
    /// it tries again. If it doesn't, the lease of the mark ends it.
    pub(crate) until: u64,
    /// Whether the callback gave up. Then the instance isn't tried again until one of its keys changes.
    pub(crate) gave_up: bool,
    /// What it says, as far as the engine that wrote it may tell.
    pub(crate) error: String,
    /// How far that is. What does not tell may say anything.
    #[serde(default = "everything")]
    pub(crate) reveal: Reveal,
    /// The beginning of its name, if the key has a digest in its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<Beginning>,
}

fn everything() -> Reveal {
    Reveal::Values
}

/// Why a mark holds an instance back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MarkKind {
    /// Its callback failed.
    Backoff,
    /// Its callback succeeded, and asked to be run again later.
    RetryAfter,
    /// It is not to be tried again until a key of it changes.
    GivenUp,
}

impl InstanceMark {
    pub(crate) fn kind(&self) -> MarkKind {
        match (self.gave_up, self.attempt) {
            (true, _) => MarkKind::GivenUp,
            (false, 0) => MarkKind::RetryAfter,
            (false, _) => MarkKind::Backoff,
        }
    }
}

/// A mark that holds an instance back, as of the store's revision `at`.
#[derive(Debug)]
pub(crate) struct FoundMark {
    pub(crate) key: String,
    pub(crate) revision: Revision,
    /// `None`: it can't be read.
    pub(crate) mark: Option<InstanceMark>,
    pub(crate) at: Revision,
}

impl FoundMark {
    pub(super) fn read(key: &str, kv: &PbKeyValue, at: Revision) -> Self {
        let mark = serde_json::from_slice(&kv.value).ok();
        Self { key: key.to_owned(), revision: Revision::new(kv.mod_revision), mark, at }
    }

    /// If the engine that wrote the mark may tell more than this one, what the mark says is hidden.
    pub(crate) fn told_by(mut self, reveal: Reveal) -> Self {
        if let Some(mark) = &mut self.mark
            && mark.reveal > reveal
            && !mark.error.is_empty()
        {
            mark.error = HIDDEN.to_owned();
        }
        self
    }

    /// What can't be read counts as one that says nothing of failures.
    pub(crate) fn kind(&self) -> MarkKind {
        self.mark.as_ref().map_or(MarkKind::RetryAfter, InstanceMark::kind)
    }
}

/// A number, as JSON has it.
fn decimal(mut number: u64, text: &mut SmallVec<[u8; 128]>) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    text.extend_from_slice(&digits[at..]);
}

/// A value, or a part of one.
pub(super) fn json(value: &impl Serialize) -> SmallVec<[u8; 128]> {
    let mut text = SmallVec::new();
    serde_json::to_writer(&mut text, value).expect("strings and numbers, and a writer that takes everything");
    text
}
