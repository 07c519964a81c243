//! The work of a child process.

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Spec {
    pub side: Side,
    pub endpoint: String,
    pub work: Work,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Side {
    Engine,
    /// The bare client.
    Floor,
    /// Another engine, go-etcd-rules: the program in `benches/peers/go-etcd-rules`.
    Peer(Settings),
}

/// The settings of the peer. Its program says what they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Settings {
    Defaults,
    Best,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Work {
    /// Whatever is put below `/jobs/` is locked, timed and deleted.
    Latency(Options),
    /// All jobs `/jobs/<n>` that are `new` become `done` once `/go` exists. With `contended`, so do those of
    /// `/contended/<group>/<n>`, of which each group does one at a time.
    Burst { lock: Lock, jobs: usize, contended: bool },
    /// Jobs `/jobs/<n>` become `done` as they come.
    Stream { lock: Lock },
    /// Records when changes of `/load/<n>/hot` are known.
    Lag,
    /// Reads everything below `/items/`.
    Ready,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Lock {
    /// One lock for each instance.
    Own,
    None,
}

/// How the engine differs from its defaults.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Options {
    /// Milliseconds from the end of a crawl to the next.
    pub crawl: Option<u64>,
    /// Adds a second rule over many other keys: `/items/:id`, with the switch `/enabled`.
    pub items: bool,
    /// One callback in a hundred takes this many milliseconds, and is not timed.
    pub slow: Option<u64>,
    /// Jobs may change while they are being done, and then are done again.
    pub again: bool,
}

/// What a child reports when it is ready.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ready {
    pub seconds: f64,
    pub keys: usize,
}

/// What a child reports at its end.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    pub latency: crate::clock::Summary,
    /// The duration of each crawl in seconds.
    pub crawls: Vec<f64>,
    /// Callbacks that were slow.
    pub slowed: usize,
    /// The attempts to take a lock that failed.
    pub lost: usize,
}
