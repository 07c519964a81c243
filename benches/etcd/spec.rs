//! What a child process is to do.

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

/// Those of the peer; its program says what they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Settings {
    Defaults,
    Best,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Work {
    /// Whatever is put below `/jobs/` is taken with a lock, timed and deleted.
    Latency(Options),
    /// `/jobs/<n>`, as many as are there and `new`, become `done` once there is `/go`. Beside them, if `contended`,
    /// those of `/contended/<group>/<n>`, one a group at a time.
    Burst { lock: Lock, jobs: usize, contended: bool },
    /// `/jobs/<n>` become `done` as they come.
    Stream { lock: Lock },
    /// Times when changes of `/load/<n>/hot` are known.
    Lag,
    /// Reads everything below `/items/`.
    Ready,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Lock {
    /// One an instance.
    Own,
    None,
}

/// How the engine differs from its defaults.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Options {
    /// Milliseconds from the end of a crawl to the next.
    pub crawl: Option<u64>,
    /// A second rule, over so much else: `/items/:id`, with the switch `/enabled`.
    pub items: bool,
    /// One callback in a hundred takes so many milliseconds, and is not timed.
    pub slow: Option<u64>,
    /// Jobs may change while they are done: then they are done again.
    pub again: bool,
}

/// What a child says once it is ready.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ready {
    pub seconds: f64,
    pub keys: usize,
}

/// What a child says at its end.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    pub latency: crate::clock::Summary,
    /// Seconds that each crawl took.
    pub crawls: Vec<f64>,
    /// Callbacks that were slow.
    pub slowed: usize,
    /// Attempts to take a lock that took none.
    pub lost: usize,
}
